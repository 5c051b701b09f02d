//! Failures that pass by themselves: a lack of memory or buffers, and signals. The functions are
//! pure.

use std::{io, time::Duration};

use super::errors;

/// The most times that a call is repeated at once after a signal. A seccomp filter can answer every
/// call with `EINTR`, so the repetition must have an end.
const MOST_SIGNALS: usize = 16;

/// The pause before a dialogue with a proxy or a bridge repeats a call that lacked memory or
/// buffers.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Returns whether the failure passes by itself, without an event that reports its end: the system
/// lacks memory or buffers, or signals interrupted the call again and again.
pub(crate) fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(errors::ENOBUFS | errors::ENOMEM))
        || error.kind() == io::ErrorKind::OutOfMemory
        || is_signal(error)
}

/// Returns whether a signal interrupted the call. No call of Windows reports that. There, the
/// standard library has no kind for the number, which test doubles use.
#[inline(always)]
pub(crate) fn is_signal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
        || (cfg!(windows) && error.raw_os_error() == Some(errors::EINTR))
}

/// Makes a call, and repeats it if a signal interrupts it, a bounded number of times.
#[inline(always)]
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match call() {
        Err(error) if is_signal(&error) => repeated(call),
        result => result,
    }
}

/// Repeats a call that a signal has interrupted once.
#[cold]
#[inline(never)]
pub(crate) fn repeated<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 2..MOST_SIGNALS {
        match call() {
            Err(error) if is_signal(&error) => {}
            result => return result,
        }
    }
    call()
}

/// Returns the error of a send as other systems have it. XNU returns `EPROTOTYPE` from a send that
/// meets the end of the connection, where other systems return `EPIPE`.
pub(crate) fn as_broken_pipe(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errors::EPROTOTYPE) => io::Error::from_raw_os_error(errors::EPIPE),
        _ => error,
    }
}
