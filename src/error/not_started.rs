//! The error of a connect that did not begin, with the value that it was for.

use std::{error::Error, fmt};

use crate::dial::ConnectError;

/// The error returned by [`SockMan::start_connect_with`](crate::SockMan::start_connect_with). It
/// gives the value of the connect back, and converts into the [`ConnectError`].
#[non_exhaustive]
pub struct NotStarted<V> {
    /// Why the connect failed at once.
    pub error: ConnectError,
    /// The value that was passed to the call.
    pub value: V,
}

impl<V> NotStarted<V> {
    pub(crate) fn new(error: ConnectError, value: V) -> NotStarted<V> {
        NotStarted { error, value }
    }
}

impl<V> From<NotStarted<V>> for ConnectError {
    fn from(failed: NotStarted<V>) -> ConnectError {
        failed.error
    }
}

impl<V> fmt::Debug for NotStarted<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotStarted").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<V> fmt::Display for NotStarted<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<V> Error for NotStarted<V> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
