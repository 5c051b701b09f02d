//! The error of a loop that runs on the caller's thread: a plain value.

use std::{error::Error, fmt, io};

use crate::{
    error::{Panic, StartError},
    sys::sources::write_sources,
};

/// The error returned by [`SockMan::run_sockets_thread`](crate::SockMan::run_sockets_thread) and
/// [`SockMan::run_sockets_thread_with`](crate::SockMan::run_sockets_thread_with).
///
/// After each of these errors, the loop does not run, and may be run or started again. A `RunError`
/// converts into an [`io::Error`].
///
/// # Examples
///
/// ```
/// # fn f(sockman: &sockman::SockMan) -> Result<(), sockman::error::RunError> {
/// use sockman::error::RunError;
///
/// match sockman.run_sockets_thread() {
///     // Continues the panic of a callback on this thread.
///     Err(RunError::Panicked(panic)) => std::panic::resume_unwind(panic.into_payload()),
///     result => result,
/// }
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The loop runs already, on another thread.
    AlreadyStarted,
    /// An interrupt was set before the loop began.
    /// [`SockMan::reset_interrupt`](crate::SockMan::reset_interrupt) resets the `SockMan`'s own
    /// interrupt. An interrupt given with [`Options::interrupt`](crate::Options::interrupt) is
    /// reset by its owner.
    Interrupted,
    /// The call was made in a callback, of this `SockMan` or of another one, or in the closure of
    /// [`run_sockets_thread_with`](crate::SockMan::run_sockets_thread_with). A loop in a callback
    /// would stop the loop that makes the callback.
    OnLibraryThread,
    /// A callback, or the closure of
    /// [`run_sockets_thread_with`](crate::SockMan::run_sockets_thread_with), panicked, which ended
    /// the loop.
    Panicked(Panic),
    /// The poller of the loop or of the I2P-accept thread failed, or the I2P-accept thread could
    /// not be started.
    Poll(io::Error),
}

impl From<StartError> for RunError {
    fn from(error: StartError) -> RunError {
        match error {
            StartError::AlreadyStarted => RunError::AlreadyStarted,
            StartError::Interrupted => RunError::Interrupted,
            StartError::Spawn(error) => RunError::Poll(error),
        }
    }
}

impl From<RunError> for io::Error {
    fn from(error: RunError) -> io::Error {
        let kind = match &error {
            RunError::Poll(source) => source.kind(),
            RunError::OnLibraryThread => io::ErrorKind::Deadlock,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::AlreadyStarted => {
                f.write_str("cannot run the sockets thread here: it runs already on another thread")
            }
            RunError::Interrupted => {
                f.write_str("cannot run the sockets thread: an interrupt is set; reset it first")
            }
            RunError::OnLibraryThread => f.write_str(
                "cannot run the sockets thread in a callback; run it on a thread of the program",
            ),
            RunError::Panicked(panic) => {
                write!(f, "the sockets thread ended: a callback panicked: {}", panic.message())
            }
            RunError::Poll(_) if cfg!(feature = "i2p") => f.write_str(
                "the sockets thread ended: a poller failed, or the I2P-accept thread was not \
                 started",
            ),
            RunError::Poll(_) => f.write_str("the sockets thread ended: the poller failed"),
        }?;
        write_sources(f, self)
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RunError::Poll(source) => Some(source),
            _ => None,
        }
    }
}
