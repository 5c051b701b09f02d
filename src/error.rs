//! One error enum per operation. Each message says what was tried, on what address, and what to do;
//! each `source()` is the operating system's error, if there was one.

use std::{any::Any, error::Error, fmt, io};

use crate::{
    address::Service,
    engine::{connection::ConnectionId, threads::SocketsThreads},
};

/// Why [`SockMan::bind_and_start_listening`](crate::SockMan::bind_and_start_listening) or
/// [`SockMan::start_listening_on`](crate::SockMan::start_listening_on) failed. Nothing is left
/// behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// One cannot listen on an address of this kind (onion, I2P, the unnamed unix address).
    Unsupported {
        /// The address that was asked for.
        to: Service,
    },
    /// Another socket listens there, or, for a unix-domain path, a file of that name exists.
    AddressInUse {
        /// The address that was asked for.
        to: Service,
        /// What the operating system said.
        source: io::Error,
    },
    /// The address is not one of this machine's.
    AddressNotAvailable {
        /// The address that was asked for.
        to: Service,
        /// What the operating system said.
        source: io::Error,
    },
    /// The process may not bind there.
    PermissionDenied {
        /// The address that was asked for.
        to: Service,
        /// What the operating system said.
        source: io::Error,
    },
    /// Any other failure of the system call named `step`.
    Os {
        /// The address that was asked for.
        to: Service,
        /// The call that failed: `socket`, `bind`, `listen`, …
        step: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was handed over is not a listening TCP or unix-domain stream socket.
    NotAListener {
        /// What the operating system said.
        source: io::Error,
    },
}

impl BindError {
    pub(crate) fn new(to: &Service, step: &'static str, source: io::Error) -> BindError {
        let to = to.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::AddressInUse { to, source },
            io::ErrorKind::AddrNotAvailable => BindError::AddressNotAvailable { to, source },
            io::ErrorKind::PermissionDenied => BindError::PermissionDenied { to, source },
            _ => BindError::Os { to, step, source },
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Unsupported { to } => {
                write!(f, "cannot listen on {to}: not an address that can be bound on this machine")
            }
            BindError::AddressInUse { to, source } if to.addr().is_unix() => write!(
                f,
                "cannot listen on {to}: {source}; if no process uses that path any more, remove it"
            ),
            BindError::AddressInUse { to, source } => write!(
                f,
                "cannot listen on {to}: {source}; another process, or another listener of this \
                 one, is probably using it"
            ),
            BindError::AddressNotAvailable { to, source } => write!(
                f,
                "cannot listen on {to}: {source}; it must be an address of this machine or a \
                 wildcard"
            ),
            BindError::PermissionDenied { to, source } => write!(
                f,
                "cannot listen on {to}: {source}; choose another port or path, or give the process \
                 the right to it"
            ),
            BindError::Os { to, step, source } => {
                write!(f, "cannot listen on {to}: {step} failed: {source}")
            }
            BindError::NotAListener { source } => {
                write!(f, "cannot adopt the descriptor: not a listening stream socket: {source}")
            }
        }
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            BindError::Unsupported { .. } => None,
            BindError::AddressInUse { source, .. }
            | BindError::AddressNotAvailable { source, .. }
            | BindError::PermissionDenied { source, .. }
            | BindError::Os { source, .. }
            | BindError::NotAListener { source } => Some(source),
        }
    }
}

/// Why [`SockMan::start_sockets_threads`](crate::SockMan::start_sockets_threads) failed. Nothing
/// was started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The threads run already, or have not ended yet.
    AlreadyStarted,
    /// The interrupt is set: the `SockMan`'s own (see
    /// [`SockMan::reset_interrupt`](crate::SockMan::reset_interrupt)), or the shared one given
    /// with [`Options::interrupt`](crate::Options::interrupt), which its owner has to reset.
    Interrupted,
    /// The operating system gave no thread.
    Spawn(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::AlreadyStarted => {
                f.write_str("the sockets threads run already: join them before starting again")
            }
            StartError::Interrupted => {
                f.write_str("the sockets threads were not started: the interrupt is set")
            }
            StartError::Spawn(source) => write!(f, "cannot start the socket thread: {source}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Spawn(source) => Some(source),
            _ => None,
        }
    }
}

/// What [`SocketsThreads::join`](crate::SocketsThreads::join) has to tell.
#[non_exhaustive]
pub enum JoinError {
    /// A callback panicked and stopped the threads; the panic's payload, for
    /// [`std::panic::resume_unwind`] for example. The threads have ended and can be started again.
    Panicked(Box<dyn Any + Send>),
    /// Called on a thread of the library, which would wait for itself. Here is the guard back.
    OnLibraryThread(SocketsThreads),
    /// The poller failed, which ended the socket thread.
    Poll(io::Error),
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(payload) => {
                f.debug_tuple("Panicked").field(&panic_message(&**payload)).finish()
            }
            JoinError::OnLibraryThread(_) => f.debug_tuple("OnLibraryThread").finish(),
            JoinError::Poll(source) => f.debug_tuple("Poll").field(source).finish(),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(payload) => {
                write!(f, "a callback panicked and stopped: {}", panic_message(&**payload))
            }
            JoinError::OnLibraryThread(_) => f.write_str(
                "join was called from a callback, on the thread that it would wait for: interrupt \
                 here, and join elsewhere",
            ),
            JoinError::Poll(source) => {
                write!(f, "the socket thread ended: waiting for readiness failed: {source}")
            }
        }
    }
}

impl Error for JoinError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            JoinError::Poll(source) => Some(source),
            _ => None,
        }
    }
}

/// What a panic said, as far as that is text.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(a panic whose payload is not text)"
    }
}

/// Why sending on, or half-closing, a connection failed.
///
/// A full send buffer is not an error: [`SockMan::send_bytes`](crate::SockMan::send_bytes) then
/// returns `Ok(0)`.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such connection: it was closed, or never was.
    UnknownConnection(ConnectionId),
    /// The socket is broken for sending. The connection stays yours to close.
    Socket {
        /// The connection.
        id: ConnectionId,
        /// What the operating system said.
        source: io::Error,
    },
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::UnknownConnection(id) => {
                write!(f, "cannot send on connection {id}: it is closed")
            }
            SendError::Socket { id, source } => {
                write!(f, "cannot send on connection {id}: {source}; close it")
            }
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SendError::UnknownConnection(_) => None,
            SendError::Socket { source, .. } => Some(source),
        }
    }
}
