//! The errors of the library, one type per operation. The errors are plain values, usable on any
//! thread, without a lock.
//!
//! A message says what was tried, on what address, what went wrong, and what to do. A message does
//! not repeat the source, which [`source`](std::error::Error::source) returns. The alternate form
//! `{:#}` appends the messages of all sources.
//!
//! ```
//! # use sockman::error::StartError;
//! let error = StartError::Spawn(std::io::Error::other("no more threads"));
//! let message = "cannot start the sockets threads: the operating system provided no thread; \
//!     check the limits of threads and memory";
//! assert_eq!(format!("{error}"), message);
//! assert_eq!(format!("{error:#}"), format!("{message}: no more threads"));
//! ```

mod handover;
mod not_started;

use std::{any::Any, convert::Infallible, error::Error, fmt, io};

pub use self::{
    handover::{AddConnectionError, AddConnectionErrorKind, IntoStreamError},
    not_started::NotStarted,
};
use crate::{
    address::Service,
    dial::{ZONE_HINT, lacks_zone},
    engine::{connection::ConnectionId, threads::SocketsThreads},
    sys::{errors, sources::write_sources, sync::Mutex},
};
pub use crate::{
    address::{InvalidAddrError, ParseAddrError, ParseAddrErrorKind},
    dial::{ConnectError, ConnectErrorKind, ConnectFault, ConnectPhase, InvalidOption},
    engine::run_error::RunError,
};

/// The error returned by [`SockMan::new`](crate::SockMan::new).
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// An option is out of its range.
    InvalidOption(InvalidOption),
    /// The operating system provided no poller. The process has probably reached its limit of
    /// descriptors.
    Poller(io::Error),
}

impl From<InvalidOption> for CreateError {
    fn from(error: InvalidOption) -> CreateError {
        CreateError::InvalidOption(error)
    }
}

impl From<CreateError> for io::Error {
    fn from(error: CreateError) -> io::Error {
        match error {
            CreateError::InvalidOption(error) => error.into(),
            CreateError::Poller(error) => error,
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::InvalidOption(error) => error.fmt(f),
            CreateError::Poller(_) => {
                f.write_str(
                    "cannot create the SockMan: the operating system provided no poller; the \
                     process has probably reached its limit of descriptors, so raise the limit",
                )?;
                write_sources(f, self)
            }
        }
    }
}

impl Error for CreateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            CreateError::InvalidOption(_) => None,
            CreateError::Poller(source) => Some(source),
        }
    }
}

/// The error returned by
/// [`SockMan::bind_and_start_listening`](crate::SockMan::bind_and_start_listening) and
/// [`SockMan::start_listening_on`](crate::SockMan::start_listening_on). A failed call leaves no
/// socket and no socket file behind.
///
/// [`kind`](BindError::kind) returns the reason. A `BindError` converts into an [`io::Error`]. The
/// kind of the `io::Error` is the kind of the operating system's error. Without an error of the
/// operating system, the kind is [`InvalidInput`](io::ErrorKind::InvalidInput).
pub struct BindError {
    inner: Box<BindInner>,
}

struct BindInner {
    to: Option<Service>,
    kind: BindErrorKind,
}

/// Why a listener could not be created. Returned by [`BindError::kind`].
#[derive(Debug)]
#[non_exhaustive]
pub enum BindErrorKind {
    /// The text given as the address is not an address.
    InvalidText(ParseAddrError),
    /// The address cannot be bound. The address is an onion or I2P address, the unnamed unix-domain
    /// address, an abstract name on a platform without abstract names, a unix-domain path that
    /// leaves no room for its terminator, or a unix-domain address on a system where the library has
    /// no unix-domain sockets (Windows).
    Unsupported,
    /// Another socket listens on the address, or a file with the name of the unix-domain path
    /// exists.
    AddressInUse {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The address is not an address of this machine.
    AddressNotAvailable {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The address is a link-local IPv6 address without a zone. The zone is the index of the
    /// interface to listen on, as in `[fe80::1%2]:8333`.
    NeedsZone {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The process has no right to bind to the address.
    PermissionDenied {
        /// The error of the operating system.
        source: io::Error,
    },
    /// An option of the socket could not be set. The source is [`io::ErrorKind::InvalidInput`] if
    /// the value is out of its range, and [`io::ErrorKind::Unsupported`] if the system does not have
    /// the option.
    SocketOption {
        /// The name of the option, such as `TCP_USER_TIMEOUT`, or `SocketOptions::custom`.
        option: &'static str,
        /// The error of the operating system, of the range, or of the function.
        source: io::Error,
    },
    /// The system call named `step` failed for a reason that no other kind names.
    Os {
        /// The system call that failed: `socket`, `bind`, `listen`, … For a descriptor that was
        /// handed over, `adopt`, which stands for the calls that check and prepare it.
        step: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The descriptor that was handed over is not a listening TCP or unix-domain stream socket.
    NotAListener {
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The step of [`BindErrorKind::Os`] for a descriptor that was handed over.
const ADOPT: &str = "adopt";

impl BindError {
    /// Returns why the listener could not be created.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) {
    /// use sockman::error::BindErrorKind;
    ///
    /// if let Err(error) = sockman.bind_and_start_listening("127.0.0.1:80") {
    ///     if let BindErrorKind::AddressInUse { .. } = error.kind() {
    ///         println!("another server runs: {error:#}");
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn kind(&self) -> &BindErrorKind {
        &self.inner.kind
    }

    /// Returns why the listener could not be created, by value.
    #[must_use]
    pub fn into_kind(self) -> BindErrorKind {
        self.inner.kind
    }

    /// Returns the address to listen on. Returns `None` if the text of the address could not be
    /// parsed, and for a socket that was handed over.
    #[must_use]
    pub fn to(&self) -> Option<&Service> {
        self.inner.to.as_ref()
    }

    pub(crate) fn new(to: &Service, kind: BindErrorKind) -> BindError {
        BindError { inner: Box::new(BindInner { to: Some(to.clone()), kind }) }
    }

    /// Returns the error of the failed system call named `step`.
    pub(crate) fn os(to: &Service, step: &'static str, source: io::Error) -> BindError {
        let kind = match source.kind() {
            _ if lacks_zone(to, &source) => BindErrorKind::NeedsZone { source },
            io::ErrorKind::AddrInUse => BindErrorKind::AddressInUse { source },
            io::ErrorKind::AddrNotAvailable => BindErrorKind::AddressNotAvailable { source },
            io::ErrorKind::PermissionDenied => BindErrorKind::PermissionDenied { source },
            _ => BindErrorKind::Os { step, source },
        };
        BindError::new(to, kind)
    }

    /// Returns the error of a call on a socket that was handed over.
    pub(crate) fn adopted(source: io::Error) -> BindError {
        let kind = match source.raw_os_error() {
            // The library's own check has failed, or the descriptor is no such socket. The other
            // numbers say nothing about the descriptor.
            None
            | Some(errors::ENOTSOCK | errors::EOPNOTSUPP | errors::ENOPROTOOPT | errors::EINVAL) => {
                BindErrorKind::NotAListener { source }
            }
            Some(_) => BindErrorKind::Os { step: ADOPT, source },
        };
        BindError { inner: Box::new(BindInner { to: None, kind }) }
    }

    fn os_error(&self) -> Option<&io::Error> {
        match self.kind() {
            BindErrorKind::InvalidText(_) | BindErrorKind::Unsupported => None,
            BindErrorKind::AddressInUse { source }
            | BindErrorKind::AddressNotAvailable { source }
            | BindErrorKind::NeedsZone { source }
            | BindErrorKind::PermissionDenied { source }
            | BindErrorKind::SocketOption { source, .. }
            | BindErrorKind::Os { source, .. }
            | BindErrorKind::NotAListener { source } => Some(source),
        }
    }

    fn write_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let BindErrorKind::InvalidText(error) = self.kind() {
            return write!(f, "cannot listen: {error}");
        }
        let Some(to) = self.to() else {
            if let BindErrorKind::Os { step, .. } = self.kind() {
                return write!(f, "cannot listen on the given descriptor: {step} failed");
            }
            return f.write_str(
                "cannot listen on the given descriptor: it is not a listening stream socket; hand \
                 over a TCP or unix-domain stream socket that listens already",
            );
        };
        write!(f, "cannot listen on {to}: ")?;
        match self.kind() {
            BindErrorKind::AddressInUse { .. } if to.addr().is_unix() => {
                f.write_str("the path exists; if no process uses it any more, remove it")
            }
            BindErrorKind::AddressInUse { .. } => f.write_str(
                "another listener of this or another process is probably using it; stop that \
                 listener, or choose another port",
            ),
            BindErrorKind::AddressNotAvailable { .. } => f.write_str(
                "it must be an address of this machine, or the wildcard 0.0.0.0 or [::]",
            ),
            BindErrorKind::NeedsZone { .. } => f.write_str(ZONE_HINT),
            BindErrorKind::PermissionDenied { .. } => f.write_str(
                "the process may not bind there; choose another port or path, or grant the right",
            ),
            BindErrorKind::SocketOption { option, .. } => write!(
                f,
                "the socket option {option} cannot be set; change it in the SocketOptions"
            ),
            BindErrorKind::Os { step, .. } => write!(f, "{step} failed"),
            _ => f.write_str(
                "addresses of this kind cannot be bound on this machine; choose an IP address or \
                 a shorter unix-domain path",
            ),
        }
    }
}

impl From<ParseAddrError> for BindError {
    fn from(error: ParseAddrError) -> BindError {
        let kind = BindErrorKind::InvalidText(error);
        BindError { inner: Box::new(BindInner { to: None, kind }) }
    }
}

/// An address that needs no conversion has this error type.
impl From<Infallible> for BindError {
    fn from(never: Infallible) -> BindError {
        match never {}
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> io::Error {
        let kind = error.os_error().map_or(io::ErrorKind::InvalidInput, io::Error::kind);
        io::Error::new(kind, error)
    }
}

impl fmt::Debug for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindError")
            .field("to", &self.inner.to)
            .field("kind", &self.inner.kind)
            .finish()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_message(f)?;
        write_sources(f, self)
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.os_error().map(|source| source as &(dyn Error + 'static))
    }
}

/// The error returned by [`SockMan::start_sockets_threads`](crate::SockMan::start_sockets_threads).
/// If this error is returned, no thread was started. A `StartError` converts into an [`io::Error`].
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Earlier threads are still running.
    AlreadyStarted,
    /// An interrupt is set. [`SockMan::reset_interrupt`](crate::SockMan::reset_interrupt) resets
    /// the `SockMan`'s own interrupt. An interrupt given with
    /// [`Options::interrupt`](crate::Options::interrupt) is reset by its owner.
    Interrupted,
    /// The operating system provided no thread.
    Spawn(io::Error),
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> io::Error {
        let kind = match &error {
            StartError::Spawn(source) => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StartError::AlreadyStarted => {
                "cannot start the sockets threads: they have not ended yet; join them first"
            }
            StartError::Interrupted => {
                "cannot start the sockets threads: an interrupt is set; reset it first"
            }
            StartError::Spawn(_) => {
                "cannot start the sockets threads: the operating system provided no thread; check \
                 the limits of threads and memory"
            }
        })?;
        write_sources(f, self)
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

/// The error returned by [`SocketsThreads::join`](crate::SocketsThreads::join). A `JoinError` is
/// `Send` and `Sync`, so `?` turns it into a `Box<dyn Error + Send + Sync>`.
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// A callback panicked, which ended the threads. The threads can be started again.
    Panicked(Panic),
    /// `join` was called on one of the library's own threads and would have deadlocked. The error
    /// hands the guard back.
    OnLibraryThread(SocketsThreads),
    /// The poller of the socket thread or of the I2P-accept thread failed, or the I2P-accept thread
    /// could not be started. Both threads have ended.
    Poll(io::Error),
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> io::Error {
        let kind = match &error {
            JoinError::Poll(source) => source.kind(),
            JoinError::OnLibraryThread(_) => io::ErrorKind::Deadlock,
            JoinError::Panicked(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(panic) => {
                write!(f, "the sockets threads ended: a callback panicked: {}", panic.message())
            }
            JoinError::OnLibraryThread(_) => f.write_str(
                "cannot join the sockets threads in a callback: join would wait for its own \
                 thread; call interrupt there, and join on another thread",
            ),
            JoinError::Poll(_) if cfg!(feature = "i2p") => f.write_str(
                "the sockets threads ended: a poller failed, or the I2P-accept thread was not \
                 started",
            ),
            JoinError::Poll(_) => f.write_str("the sockets threads ended: the poller failed"),
        }?;
        write_sources(f, self)
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

/// The panic of a callback. Part of [`JoinError::Panicked`].
///
/// # Examples
///
/// ```
/// # fn f(threads: sockman::SocketsThreads) {
/// use sockman::error::JoinError;
///
/// if let Err(JoinError::Panicked(panic)) = threads.join() {
///     std::panic::resume_unwind(panic.into_payload());
/// }
/// # }
/// ```
pub struct Panic {
    /// The payload of the panic. The mutex makes `Panic` `Sync`, because a payload need not be
    /// `Sync`.
    payload: Mutex<Box<dyn Any + Send>>,
    message: String,
}

impl Panic {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Panic {
        let message = panic_message(&*payload).to_owned();
        Panic { payload: Mutex::new(payload), message }
    }

    /// Returns the panic's message, or a placeholder if the payload is not text.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the panic's payload, for [`std::panic::resume_unwind`] for example.
    #[must_use]
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.payload.into_inner()
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.message).finish()
    }
}

/// Returns the message of a panic, or a placeholder if the payload is not text.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(the payload of the panic is not text)"
    }
}

/// The error returned by the methods of [`SockMan`](crate::SockMan) that send or half-close.
///
/// A full send buffer is not an error. With a full send buffer,
/// [`SockMan::send_bytes`](crate::SockMan::send_bytes) returns `Ok(0)`. A lack of memory or buffers
/// (`ENOBUFS`, `ENOMEM`) has the same result.
///
/// # Examples
///
/// ```
/// # use sockman::{ConnectionId, SockMan};
/// use sockman::error::SendError;
///
/// # fn f(sockman: &SockMan, id: ConnectionId) {
/// match sockman.send_bytes(id, b"ping") {
///     Ok(sent) => println!("sent {sent} bytes"),
///     Err(SendError::UnknownConnection(_)) => println!("another thread closed the connection"),
///     Err(error) => {
///         println!("{error:#}");
///         sockman.close_connection(id);
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed, never existed, or belongs to another `SockMan`.
    UnknownConnection(ConnectionId),
    /// The socket is broken for sending. The connection stays open until the embedder closes it.
    Socket {
        /// The connection.
        id: ConnectionId,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> io::Error {
        let kind = match &error {
            SendError::UnknownConnection(_) => io::ErrorKind::NotConnected,
            SendError::Socket { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::UnknownConnection(id) => {
                write!(
                    f,
                    "cannot send on connection {id}: it is closed, or does not belong to this \
                     SockMan"
                )
            }
            SendError::Socket { id, .. } => write!(
                f,
                "cannot send on connection {id}: the socket is broken; close the connection"
            ),
        }?;
        write_sources(f, self)
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
