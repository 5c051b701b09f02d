//! The seam to the operating system: sockets, the poller and the time.
//!
//! **This module may change in any release**, minor releases included. The module exists for test
//! doubles and follows what the library needs from the system. [`Options::sock_factory`] installs a
//! double.
//!
//! [`Options::sock_factory`]: crate::Options::sock_factory

// This file holds the traits. `os` implements them with the system calls of Unix or Windows, one
// method for each call and named after it. `errors` names the errors of both. `interrupt` ends
// waits, `sync` holds the locks, `sources` prints errors, `passing` tells which errors pass by
// themselves, `socket_options` has the options that an embedder may set. Any thread may use the
// module. Only `interrupt` and the sockets of Windows take a lock.

// Elsewhere mio polls with poll(2) or event ports. There it reports a socket once, and then again
// only after one of mio's own operations has said "would block". The receives and sends of this
// library are not mio's, so connections would stall. On Windows they are mio's.
#[cfg(any(
    mio_unsupported_force_poll_poll,
    not(any(
        target_os = "android",
        target_os = "dragonfly",
        target_os = "freebsd",
        target_os = "illumos",
        target_os = "ios",
        target_os = "linux",
        target_os = "macos",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "tvos",
        target_os = "visionos",
        target_os = "watchos",
        target_os = "windows",
    ))
))]
compile_error!(
    "sockman needs epoll or kqueue: Linux, Android, illumos, macOS and its kin, or a BSD; or Windows"
);

pub mod errors;
pub(crate) mod held;
pub(crate) mod interrupt;
mod more;
mod os;
pub(crate) mod passing;
mod socket_options;
pub(crate) mod sources;
pub(crate) mod sync;
#[cfg(test)]
#[cfg(unix)]
pub(crate) mod temporary;

use std::{
    fmt,
    io::{self, IoSlice},
    net::Shutdown,
    sync::Arc,
    time::{Duration, Instant},
};

#[doc(no_inline)]
pub use self::more::More;
pub use self::os::OsSockFactory;
#[cfg(feature = "i2p")]
pub(crate) use self::os::files;
#[doc(inline)]
pub use self::os::{BorrowedSocket, OwnedSocket, RawSocket};
#[cfg(feature = "testing")]
pub(crate) use self::os::{LocalStream, raw_socket, stand_in, stream_pair};
pub(crate) use self::os::{NO_SOCKET, SocketFile};
pub(crate) use self::socket_options::OptionError;
pub use self::socket_options::SocketOption;
#[doc(no_inline)]
pub use self::socket_options::SocketOptions;
use self::{held::Unnamed, os::OsSock};
use crate::address::Service;

/// One socket. The trait is object-safe and has one method for each system call. Almost every
/// method takes `&self`.
///
/// The library's own implementation wraps a non-blocking descriptor. Tests replace the descriptor
/// with a double through [`SockFactory`]. Every method may be called from several threads at once.
///
/// # Errors
///
/// Every method returns the error of its system call. The library handles
/// [`io::ErrorKind::WouldBlock`], [`io::ErrorKind::Interrupted`], `ENOBUFS` and `ENOMEM` of sends
/// and receives itself. The library reports any other error of a receive as a permanent read error.
pub trait Sock: fmt::Debug + Send + Sync {
    /// Calls `connect(2)` without blocking. [`EINPROGRESS`](errors::EINPROGRESS) means that the
    /// connect has started. The library's own sockets return it on Windows, too.
    /// `EAGAIN` ([`io::ErrorKind::WouldBlock`]) on a unix-domain socket means that the connect has
    /// *not started*, because the backlog is full.
    fn connect(&self, to: &Service) -> io::Result<()>;
    /// Sets `SO_REUSEADDR` and `IPV6_V6ONLY` where they apply, and then calls `bind(2)`. On Windows,
    /// `SO_REUSEADDR` would let other programs take the port, and is not set.
    fn bind(&self, to: &Service) -> io::Result<()>;
    /// Calls `listen(2)`. Consumes the socket and returns a socket that accepts.
    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>>;
    /// Calls `accept4(2)`. Returns the new socket and the peer's address. The socket is
    /// non-blocking, close-on-exec and without Nagle's delay.
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)>;
    /// Prepares the next [`accept`](Sock::accept) on an adopted listener, which other processes may
    /// hold too. Sets `O_NONBLOCK`, which is common to all holders and which another holder may
    /// have cleared. Then returns whether a client waits, or whether `accept` fails. The library
    /// calls `accept` only after `true`. The default returns `true`, which is right for a socket
    /// that no other process holds.
    fn ready_to_accept(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// Calls `recv(2)`. Returns the number of bytes. `Ok(0)` is the end of the stream.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Calls `recv(2)` with `MSG_PEEK`: the bytes stay in the socket. The default returns the error
    /// [`io::ErrorKind::Unsupported`], and so do the library's own unix-domain sockets. The cost is
    /// that a line from a SAM bridge is received byte by byte.
    fn peek(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Calls `send(2)` without `SIGPIPE`. Returns the number of bytes that the kernel took.
    fn send(&self, data: &[u8], more: More) -> io::Result<usize>;
    /// Calls `sendmsg(2)`. Otherwise like [`send`](Sock::send).
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize>;
    /// Calls `shutdown(2)`. On macOS, a shutdown of a direction that has ended fails with
    /// [`io::ErrorKind::NotConnected`], and so does a shutdown of both if one of them has ended.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    /// Returns the pending error of the socket (`SO_ERROR`) and clears it.
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// Calls `getsockname(2)`.
    fn local_address(&self) -> io::Result<Service>;
    /// Calls `getpeername(2)`.
    fn peer_address(&self) -> io::Result<Service>;
    /// Returns whether a receive that fills less than the buffer means that the kernel has no more
    /// data for now. `true` on TCP. The library's own sockets return `false` on unix-domain
    /// sockets, because ancillary data ends a receive early.
    fn short_read_means_empty(&self) -> bool;
    /// Returns whether a send that takes fewer bytes than it was given means that the kernel has no
    /// room for now, and that an event will report room. `true` on TCP. The default returns
    /// `false`. The cost of `false` is one more `send`, which returns "would block".
    fn short_send_means_full(&self) -> bool {
        false
    }
    /// Returns whether a call that would block makes the poller report again what it has reported and
    /// what is still true, as mio's poller does on Windows. An event that says nothing new then gives
    /// the connection no turn. The default returns `false`.
    fn would_block_repeats_events(&self) -> bool {
        false
    }
    /// Sets `SO_REUSEPORT`, so that other sockets with `SO_REUSEPORT` may listen on the same
    /// address. Called before [`bind`](Sock::bind). The default returns the error
    /// [`io::ErrorKind::Unsupported`].
    fn set_reuse_port(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Calls `setsockopt(2)` for an option that the embedder has set. Called before
    /// [`bind`](Sock::bind), [`connect`](Sock::connect) and [`listen`](Sock::listen). The default
    /// returns the error [`io::ErrorKind::Unsupported`], as does a system without the option.
    fn set_option(&self, _option: &SocketOption<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Sets `SO_LINGER` to zero, so that the close resets the connection and its port is free at
    /// once. Called by [`SockMan::abort_connection`](crate::SockMan::abort_connection), and for a TCP
    /// socket that is connected to itself. The default does nothing, so that an abort closes in
    /// order.
    fn set_reset_on_close(&self) -> io::Result<()> {
        Ok(())
    }
    /// Calls `fcntl(2)` with `F_DUPFD_CLOEXEC`: returns another descriptor of the same socket. The
    /// default returns the error [`io::ErrorKind::Unsupported`], for sockets that cannot leave the
    /// library.
    fn duplicate(&self) -> io::Result<OwnedSocket> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Returns the descriptor, for [`Poller::register`]. A double may return any number that the
    /// double's poller understands.
    fn as_raw_fd(&self) -> RawSocket;

    // A connection keeps one of the system's sockets in place of the box. No other implementation
    // overrides these two methods, because the types cannot be named.

    #[doc(hidden)]
    fn is_os_sock(&self, _: Unnamed) -> bool {
        false
    }
    #[doc(hidden)]
    fn into_os_sock(self: Box<Self>) -> Option<OsSock> {
        None
    }
}

/// An event that the poller reports about one registered socket. Events are edge-triggered: the
/// poller reports a state once, when the socket enters it.
///
/// Create an event with [`Readiness::new`]:
///
/// ```
/// use sockman::sys::Readiness;
///
/// let mut readiness = Readiness::new(7);
/// readiness.readable = true;
/// ```
#[doc(alias("IOReadiness", "EventsPerSock"))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// The token that the socket was registered with.
    pub token: usize,
    /// Whether the socket has data to receive or a connection to accept.
    pub readable: bool,
    /// Whether the socket has room for a send.
    pub writable: bool,
    /// Whether the peer has ended its stream.
    pub read_closed: bool,
    /// Whether an error is pending, or both directions are over.
    pub broken: bool,
    /// Whether this side can send no more. kqueue reports this after a reset or the peer's close,
    /// and also after the program's own half-close. epoll does not report it.
    pub write_closed: bool,
    /// Whether urgent data is pending.
    pub priority: bool,
}

impl Readiness {
    /// Creates an event for the socket that was registered with `token`. All flags of the event are
    /// `false`.
    #[must_use]
    pub fn new(token: usize) -> Readiness {
        Readiness { token, ..Readiness::default() }
    }
}

/// Shuts both directions down. Where the system refuses because one of them has ended, each direction
/// is shut down by a call of its own.
pub(crate) fn shutdown_both(sock: &dyn Sock) -> io::Result<()> {
    match sock.shutdown(Shutdown::Both) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            let send = sock.shutdown(Shutdown::Write);
            sock.shutdown(Shutdown::Read).or(send)
        }
        outcome => outcome,
    }
}

/// The longest time-out of a poll. kqueue refuses time-outs of several years. After a poll that ends
/// early, the library polls again.
const LONGEST_POLL: Duration = Duration::from_secs(24 * 60 * 60);

/// Polls for at most [`LONGEST_POLL`].
pub(crate) fn poll(
    poller: &mut dyn Poller,
    events: &mut Vec<Readiness>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    poller.poll(events, timeout.map(|timeout| timeout.min(LONGEST_POLL)))
}

/// The largest number of events that one poll of the system's poller reports.
pub(crate) const EVENTS_PER_POLL: usize = 1024;

/// The poller that the socket thread waits in: `epoll`, `kqueue` or Windows' AFD behind mio, or a
/// test double. The poller of the operating system registers only sockets of [`OsSockFactory`] on
/// Windows, and knows them by [`Sock::as_raw_fd`].
#[doc(alias = "WaitMany")]
pub trait Poller: Send {
    /// Watches `sock` for every kind of event, edge-triggered, until the socket is closed. On
    /// Windows, another poller must not watch the socket at the same time.
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()>;
    /// Stops watching `sock`. Closing a socket has the same effect, unless another process or a
    /// duplicate holds the descriptor.
    fn deregister(&self, sock: &dyn Sock) -> io::Result<()>;
    /// Waits until an event occurs, the waker is used, or `timeout` has passed. Appends the events
    /// to `events`. With a `timeout` of `None`, the wait has no limit. If a signal interrupts the
    /// wait, the poll appends the events that have occurred by then, which may be none, and returns
    /// `Ok`. One poll may report a part of the events; the library then polls again. A poll that
    /// fails ends the library's threads, or the blocking connect that waits in it.
    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()>;
    /// Returns the waker that ends a [`poll`](Poller::poll) from another thread.
    fn waker(&self) -> Arc<dyn Waker>;
}

/// Ends the [`Poller::poll`] under way at once. If no poll is under way, the next poll ends at
/// once.
pub trait Waker: Send + Sync {
    /// Wakes the poller. May be called from any thread.
    fn wake(&self) -> io::Result<()>;
}

/// A connected socket, its local address, and the address of its peer.
pub type Adopted = (Box<dyn Sock>, Service, Service);

/// The source of sockets, pollers and the time. The trait is the counterpart of Bitcoin Core's
/// `CreateSock`. Test doubles implement it.
#[doc(alias = "CreateSock")]
pub trait SockFactory: fmt::Debug + Send + Sync {
    /// Calls `socket(2)`. Returns a stream socket of the family that `address` needs: non-blocking,
    /// close-on-exec and without Nagle's delay.
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>>;
    /// Creates a poller. The socket thread and the I2P-accept thread have one poller each. Each
    /// blocking connect has a poller of its own while it waits.
    fn create_poller(&self) -> io::Result<Box<dyn Poller>>;
    /// Takes over a listening socket that other code has bound. The call fails if `listener` is not
    /// a stream socket in the listening state.
    fn adopt_listener(&self, listener: OwnedSocket) -> io::Result<Box<dyn Sock>>;
    /// Takes over a connected stream socket that other code has made, as
    /// [`create_sock`](SockFactory::create_sock) would make it. Returns the socket, its local
    /// address and the peer's address. The call fails if `stream` is not a connected TCP or
    /// unix-domain stream socket, and gives `stream` back. The default returns the error
    /// [`io::ErrorKind::Unsupported`].
    fn adopt_connection(&self, stream: OwnedSocket) -> Result<Adopted, (OwnedSocket, io::Error)> {
        Err((stream, io::ErrorKind::Unsupported.into()))
    }
    /// Returns the current time. The default returns [`Instant::now`].
    fn now(&self) -> Instant {
        Instant::now()
    }
}
