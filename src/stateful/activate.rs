//! Gives a connection that [`SockMan::connect`] made its value. Runs on the caller's thread.

use std::{
    any::{Any, TypeId},
    error::Error,
    fmt, io,
    sync::Arc,
};

use super::{Remote, adapter::Entry, remote::Out};
use crate::{
    engine::{connect::NewConnection, connection::ConnectionId, state::Place},
    sockman::SockMan,
};

impl NewConnection {
    /// Hands the connection and its value to the socket thread, and returns a [`Remote`]. Works as
    /// [`activate`](NewConnection::activate), for a `SockMan` that [`SockMan::with_state`] created.
    ///
    /// [`Handler::closed`](crate::stateful::Handler::closed) gives the value back, also if the
    /// connection was closed before this call. The queue has the limits and the budget that the
    /// handler names.
    ///
    /// # Errors
    ///
    /// [`ActivateError`] if the handler's `Connection` is not `C`, or if the `SockMan` keeps no
    /// values. The error contains the connection and the value.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// // The handler of `sockman` has `type Connection = String`.
    /// let new = sockman.connect("127.0.0.1:8333", &ConnectOptions::default())?;
    /// let remote = new.activate_with(String::from("outbound"))?;
    /// remote.push(b"hello\n")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn activate_with<C: Send + 'static>(self, value: C) -> Result<Remote<C>, ActivateError<C>> {
        let handler = &self.shared().handler;
        let is_kept = handler.state_type() == Some(TypeId::of::<C>());
        let out = Some(self.connection()).filter(|_| is_kept).and_then(|connection| {
            let (sockman, mut state) = (SockMan::of(Arc::clone(self.shared())), None);
            let place = Place { connection, state: &mut state };
            handler.place_dialled(&sockman, connection.id, place);
            let state: Box<dyn Any> = state?;
            state.downcast::<Arc<Out>>().ok()
        });
        let Some(out) = out else { return Err(ActivateError { connection: self, value }) };
        let (remote, out) = (Remote::new(Arc::clone(&out)), *out);
        self.activate_with_state(Some(Box::new(Entry { value, out })));
        Ok(remote)
    }
}

/// The error returned by [`NewConnection::activate_with`]: the handler keeps no values of this
/// type.
///
/// If the error is dropped, the connection is closed.
pub struct ActivateError<C> {
    connection: NewConnection,
    value: C,
}

impl<C> ActivateError<C> {
    /// Returns the connection and the value.
    pub fn into_parts(self) -> (NewConnection, C) {
        (self.connection, self.value)
    }

    fn id(&self) -> ConnectionId {
        self.connection.id()
    }
}

impl<C> From<ActivateError<C>> for io::Error {
    fn from(error: ActivateError<C>) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
    }
}

impl<C> fmt::Debug for ActivateError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivateError").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl<C> fmt::Display for ActivateError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot activate connection {}: its SockMan keeps no values of type {}",
            self.id(),
            std::any::type_name::<C>()
        )
    }
}

impl<C> Error for ActivateError<C> {}
