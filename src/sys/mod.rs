//! The seam to the operating system: sockets, the poller and the time.
//!
//! **This module may change in any release**, minor ones included: it exists for test doubles, and
//! follows what the library asks of the system. [`Options::sock_factory`] puts a double in place.
//!
//! [`Options::sock_factory`]: crate::Options::sock_factory

// The traits are here. `unix` implements them with the system calls of Unix, one method for each call
// and named after it. `interrupt` ends waits, `sync` holds the locks, `sources` prints errors.

pub(crate) mod interrupt;
mod more;
pub(crate) mod sources;
pub(crate) mod sync;
mod unix;

use std::{
    fmt,
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{OwnedFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

#[doc(no_inline)]
pub use self::more::More;
pub use self::unix::OsSockFactory;
use crate::address::Service;

/// One socket. Object-safe, all `&self`, and as thin as it can be: one method per system call.
///
/// The library's own implementation wraps a non-blocking descriptor; tests put doubles in its
/// place through [`SockFactory`]. Every method may be called from several threads at once.
pub trait Sock: fmt::Debug + Send + Sync {
    /// `connect(2)`, non-blocking: [`io::ErrorKind`] `WouldBlock` from `EAGAIN` on a unix-domain
    /// socket means *not started* (full backlog), `EINPROGRESS` means started.
    fn connect(&self, to: &Service) -> io::Result<()>;
    /// `bind(2)`, with `SO_REUSEADDR` and `IPV6_V6ONLY` set first where they apply.
    fn bind(&self, to: &Service) -> io::Result<()>;
    /// `listen(2)`. Takes the socket and gives back one that accepts.
    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>>;
    /// `accept4(2)`: the new socket, non-blocking, close-on-exec and without Nagle's delay, and the
    /// peer's address.
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)>;
    /// `recv(2)`. `Ok(0)` is the end of the stream.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// `send(2)`, without `SIGPIPE`.
    fn send(&self, data: &[u8], more: More) -> io::Result<usize>;
    /// `sendmsg(2)`, otherwise like [`send`](Sock::send).
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize>;
    /// `shutdown(2)`.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    /// `SO_ERROR`, which reading clears.
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// `getsockname(2)`.
    fn local_address(&self) -> io::Result<Service>;
    /// `getpeername(2)`.
    fn peer_address(&self) -> io::Result<Service>;
    /// Does a receive that fills less than the buffer mean that the kernel has no more for now?
    /// So it is on TCP; not on unix-domain sockets, where ancillary data ends a receive early.
    fn short_read_means_empty(&self) -> bool;
    /// Does a send that takes less than it was given mean that the kernel has no room for now, and
    /// that an event will tell when there is? So it is on TCP. Provided: `false`, which costs a
    /// `send` that only says "would block".
    fn short_send_means_full(&self) -> bool {
        false
    }
    /// `SO_REUSEPORT`, before [`bind`](Sock::bind): other sockets that have it, too, may listen on
    /// the same address. Provided: an error, [`io::ErrorKind::Unsupported`].
    fn set_reuse_port(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The descriptor, for [`Poller::register`]. A double may use any number that its own poller
    /// understands.
    fn as_raw_fd(&self) -> RawFd;
}

/// What the poller reports about one registered socket. Edge-triggered: reported when it changes.
///
/// Start from [`Readiness::new`]:
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
    /// There is something to receive, or to accept.
    pub readable: bool,
    /// There is room to send.
    pub writable: bool,
    /// The peer sends no more.
    pub read_closed: bool,
    /// An error waits, or both directions are over.
    pub broken: bool,
    /// Urgent data.
    pub priority: bool,
}

impl Readiness {
    /// Nothing yet about the socket that was registered with `token`.
    #[must_use]
    pub fn new(token: usize) -> Readiness {
        Readiness { token, ..Readiness::default() }
    }
}

/// What the socket thread waits in: `epoll` or `kqueue` behind mio, or a test's double.
#[doc(alias = "WaitMany")]
pub trait Poller: Send {
    /// Watches `sock` for everything, edge-triggered, until it is closed.
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()>;
    /// Stops watching `sock`. Closing a socket does so, too, unless its descriptor has a copy
    /// elsewhere.
    fn deregister(&self, sock: &dyn Sock) -> io::Result<()>;
    /// Waits until something happens, the waker is used, or `timeout` is over (`None`: for ever),
    /// and appends what was seen to `events`.
    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()>;
    /// What ends a [`poll`](Poller::poll) from another thread.
    fn waker(&self) -> Arc<dyn Waker>;
}

/// Ends the [`Poller::poll`] under way, or else the next one, at once.
pub trait Waker: Send + Sync {
    /// Does so. May be called from any thread.
    fn wake(&self) -> io::Result<()>;
}

/// Where sockets, pollers and the time come from. Bitcoin Core's `CreateSock`, and the seam for
/// test doubles.
#[doc(alias = "CreateSock")]
pub trait SockFactory: fmt::Debug + Send + Sync {
    /// `socket(2)`: a stream socket of the family that `address` needs, non-blocking,
    /// close-on-exec, without Nagle's delay.
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>>;
    /// A poller: the socket thread has one, and so has each blocking connect while it waits.
    fn create_poller(&self) -> io::Result<Box<dyn Poller>>;
    /// Takes over a listening socket that somebody else bound.
    fn adopt_listener(&self, listener: OwnedFd) -> io::Result<Box<dyn Sock>>;
    /// The time now. Provided: [`Instant::now`].
    fn now(&self) -> Instant {
        Instant::now()
    }
}
