//! The seam to the operating system: sockets, the poller and the time.
//!
//! Owns the wrappers around the system calls, one per call and named after it. Stateless but for
//! the descriptor; runs on whatever thread calls; takes no lock.

use std::{
    fmt,
    io::{self, IoSlice, Read},
    net::Shutdown,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Interest, Token, unix::SourceFd};
use socket2::{Domain, SockRef, Socket, Type};

use crate::Service;

/// One socket. Object-safe, all `&self`, and as thin as it can be: one method per system call.
///
/// The library's own implementation wraps a non-blocking descriptor; tests put doubles in its
/// place through [`SockFactory`]. Every method may be called from several threads at once.
///
/// Methods may be added in a minor version, with a provided body.
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
    /// `send(2)`, without `SIGPIPE`. `will_send_more`: the kernel may hold the last packet back for
    /// what follows (`MSG_MORE`, where there is such a thing).
    fn send(&self, data: &[u8], will_send_more: bool) -> io::Result<usize>;
    /// `sendmsg(2)`, otherwise like [`send`](Sock::send).
    fn send_vectored(&self, data: &[IoSlice<'_>], will_send_more: bool) -> io::Result<usize>;
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

/// Something was seen on a registered socket. Edge-triggered: told when it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

/// What the socket thread waits in: `epoll` or `kqueue` behind mio, or a test's double.
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

/// The operating system's sockets, poller and time: the default.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OsSockFactory {}

impl SockFactory for OsSockFactory {
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>> {
        let address = address.to_sock_addr()?;
        let domain = address.domain();
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if domain == Domain::UNIX {
            return Ok(Box::new(OsSock::Unix(socket)));
        }
        socket.set_tcp_nodelay(true)?;
        Ok(Box::new(OsSock::Tcp(socket)))
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        Ok(Box::new(MioPoller::new()?))
    }

    fn adopt_listener(&self, listener: OwnedFd) -> io::Result<Box<dyn Sock>> {
        let socket = Socket::from(listener);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket is not a stream socket in the listening state",
            ));
        }
        let unix = socket.local_addr()?.is_unix();
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        if unix {
            return Ok(Box::new(OsSock::UnixListener(OwnedFd::from(socket).into())));
        }
        socket.set_tcp_nodelay(true)?;
        Ok(Box::new(OsSock::AdoptedTcpListener(OwnedFd::from(socket).into())))
    }
}

/// One descriptor. Listeners are mio's: their `accept` sets the flags of the new socket in the same
/// system call.
#[derive(Debug)]
enum OsSock {
    Tcp(Socket),
    Unix(Socket),
    TcpListener(mio::net::TcpListener),
    /// Whoever came before it was adopted has inherited its options from before that, too.
    AdoptedTcpListener(mio::net::TcpListener),
    UnixListener(mio::net::UnixListener),
}

impl OsSock {
    fn socket(&self) -> SockRef<'_> {
        match self {
            OsSock::Tcp(socket) | OsSock::Unix(socket) => SockRef::from(socket),
            OsSock::TcpListener(listener) | OsSock::AdoptedTcpListener(listener) => {
                SockRef::from(listener)
            }
            OsSock::UnixListener(listener) => SockRef::from(listener),
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
const NO_SIGPIPE: libc::c_int = libc::MSG_NOSIGNAL;
/// Apple's sockets have the option set when they are made (`SO_NOSIGPIPE`).
#[cfg(target_vendor = "apple")]
const NO_SIGPIPE: libc::c_int = 0;

#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: libc::c_int = libc::MSG_MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: libc::c_int = 0;

fn send_flags(will_send_more: bool) -> libc::c_int {
    if will_send_more { NO_SIGPIPE | MORE } else { NO_SIGPIPE }
}

fn unknown_family() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel named an address of unknown family")
}

impl Sock for OsSock {
    fn connect(&self, to: &Service) -> io::Result<()> {
        self.socket().connect(&to.to_sock_addr()?)
    }

    fn bind(&self, to: &Service) -> io::Result<()> {
        let address = to.to_sock_addr()?;
        let socket = self.socket();
        if !address.is_unix() {
            socket.set_reuse_address(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address)
    }

    fn set_reuse_port(&self) -> io::Result<()> {
        self.socket().set_reuse_port(true)
    }

    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        self.socket().listen(backlog)?;
        Ok(Box::new(match *self {
            OsSock::Tcp(socket) => OsSock::TcpListener(OwnedFd::from(socket).into()),
            OsSock::Unix(socket) => OsSock::UnixListener(OwnedFd::from(socket).into()),
            listener => listener,
        }))
    }

    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        match self {
            OsSock::TcpListener(listener) | OsSock::AdoptedTcpListener(listener) => {
                let (stream, them) = listener.accept()?;
                let socket = Socket::from(OwnedFd::from(stream));
                // Linux hands the listener's TCP_NODELAY down to the sockets it accepts.
                if cfg!(not(target_os = "linux")) || matches!(self, OsSock::AdoptedTcpListener(_)) {
                    // Fails on some systems if the peer is gone already, which its receive tells.
                    if let Err(error) = socket.set_tcp_nodelay(true) {
                        log::debug!(target: "sockman::net", "TCP_NODELAY for {them}: {error}");
                    }
                }
                Ok((Box::new(OsSock::Tcp(socket)), Service::from(them)))
            }
            OsSock::UnixListener(listener) => {
                let (stream, them) = listener.accept()?;
                let socket = Socket::from(OwnedFd::from(stream));
                let them = if them.is_unnamed() {
                    Service::UNIX_UNNAMED
                } else {
                    Service::from_sock_addr(&socket.peer_addr()?).ok_or_else(unknown_family)?
                };
                Ok((Box::new(OsSock::Unix(socket)), them))
            }
            OsSock::Tcp(_) | OsSock::Unix(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            OsSock::Tcp(socket) | OsSock::Unix(socket) => (&mut &*socket).read(buffer),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send(&self, data: &[u8], will_send_more: bool) -> io::Result<usize> {
        self.socket().send_with_flags(data, send_flags(will_send_more))
    }

    fn send_vectored(&self, data: &[IoSlice<'_>], will_send_more: bool) -> io::Result<usize> {
        self.socket().send_vectored_with_flags(data, send_flags(will_send_more))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket().shutdown(how)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket().take_error()
    }

    fn local_address(&self) -> io::Result<Service> {
        Service::from_sock_addr(&self.socket().local_addr()?).ok_or_else(unknown_family)
    }

    fn peer_address(&self) -> io::Result<Service> {
        Service::from_sock_addr(&self.socket().peer_addr()?).ok_or_else(unknown_family)
    }

    fn short_read_means_empty(&self) -> bool {
        matches!(self, OsSock::Tcp(_))
    }

    fn short_send_means_full(&self) -> bool {
        matches!(self, OsSock::Tcp(_))
    }

    fn as_raw_fd(&self) -> RawFd {
        match self {
            OsSock::Tcp(socket) | OsSock::Unix(socket) => socket.as_raw_fd(),
            OsSock::TcpListener(listener) | OsSock::AdoptedTcpListener(listener) => {
                listener.as_raw_fd()
            }
            OsSock::UnixListener(listener) => listener.as_raw_fd(),
        }
    }
}

/// How many events one poll fetches at most; the rest comes with the next.
const EVENTS_PER_POLL: usize = 1024;

const WAKER: Token = Token(usize::MAX);

struct MioPoller {
    poll: mio::Poll,
    events: mio::Events,
    waker: Arc<MioWaker>,
}

struct MioWaker(mio::Waker);

impl MioPoller {
    fn new() -> io::Result<MioPoller> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(MioWaker(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(MioPoller { poll, events: mio::Events::with_capacity(EVENTS_PER_POLL), waker })
    }
}

impl Poller for MioPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Urgent data ends a receive early without a further edge: it has to be heard of.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        self.poll.registry().register(&mut SourceFd(&sock.as_raw_fd()), Token(token), interest)
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&sock.as_raw_fd()))
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        events.extend(self.events.iter().filter(|event| event.token() != WAKER).map(|event| {
            Readiness {
                token: event.token().0,
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                // mio calls a hang-up of both directions "write closed".
                broken: event.is_error() || event.is_write_closed(),
                priority: event.is_priority(),
            }
        }));
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.waker) as Arc<dyn Waker>
    }
}

impl Waker for MioWaker {
    fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}
