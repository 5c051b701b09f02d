//! Failures that pass by themselves: a lack of memory or buffers, and signals. The functions are
//! pure.

use std::{io, time::Duration};

/// The most times that a call is repeated at once after a signal. A seccomp filter can answer every
/// call with `EINTR`, so the repetition must have an end.
const MOST_SIGNALS: usize = 16;

/// The pause before a dialogue with a proxy or a bridge repeats a call that lacked memory or
/// buffers.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Returns whether the failure passes by itself, without an event that reports its end: the system
/// lacks memory or buffers, or signals interrupted the call again and again.
pub(crate) fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
        || matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted)
}

/// Makes a call, and repeats it if a signal interrupts it, a bounded number of times.
#[inline(always)]
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match call() {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => repeated(call),
        result => result,
    }
}

/// Repeats a call that a signal has interrupted once.
#[cold]
#[inline(never)]
pub(crate) fn repeated<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 2..MOST_SIGNALS {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    call()
}

/// Returns the error of a send as other systems have it. XNU returns `EPROTOTYPE` from a send that
/// meets the end of the connection, where other systems return `EPIPE`.
pub(crate) fn as_broken_pipe(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPROTOTYPE) => io::Error::from_raw_os_error(libc::EPIPE),
        _ => error,
    }
}
