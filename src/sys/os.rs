//! The implementation for Unix: sockets that `socket2` and mio wrap, and mio's poller (epoll or
//! kqueue).
//!
//! Each method makes the system call that it is named after. A socket has no state except its
//! descriptor. The methods run on any thread and take no lock.

use std::{
    io::{self, IoSlice, Read},
    net::Shutdown,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use mio::{Interest, Token, unix::SourceFd};
use socket2::{Domain, SockRef, Socket, Type};

use super::{EVENTS_PER_POLL, More, Poller, Readiness, Sock, SockFactory, Waker};
use crate::address::Service;

/// The default factory: the operating system's sockets, poller and time.
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

/// One descriptor. The listeners are mio's, because mio's `accept` sets the flags of the new socket
/// in the same system call.
#[derive(Debug)]
enum OsSock {
    Tcp(Socket),
    Unix(Socket),
    TcpListener(mio::net::TcpListener),
    /// A listener that other code has bound. A client that connected before the adoption has
    /// inherited the options that the listener had at the time of the connect.
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
/// Sockets on Apple's systems get the option `SO_NOSIGPIPE` when they are created.
#[cfg(target_vendor = "apple")]
const NO_SIGPIPE: libc::c_int = 0;

#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: libc::c_int = libc::MSG_MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: libc::c_int = 0;

fn send_flags(more: More) -> libc::c_int {
    match more {
        More::Follows => NO_SIGPIPE | MORE,
        More::No => NO_SIGPIPE,
    }
}

fn unknown_family() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel returned an address of an unknown family",
    )
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
                // Linux copies the listener's TCP_NODELAY to the sockets that it accepts.
                if cfg!(not(target_os = "linux")) || matches!(self, OsSock::AdoptedTcpListener(_)) {
                    // Setting the option fails on some systems if the peer has already gone. The
                    // next receive reports the lost peer.
                    if let Err(error) = socket.set_tcp_nodelay(true) {
                        log::debug!(
                            target: "sockman::net",
                            "cannot set TCP_NODELAY for {them}: {error}"
                        );
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

    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.socket().send_with_flags(data, send_flags(more))
    }

    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.socket().send_vectored_with_flags(data, send_flags(more))
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

/// The token of the poller's own waker. No socket has this token.
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
        // Urgent data ends a receive early without a further edge, so the poller must report it.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        self.poll.registry().register(&mut SourceFd(&sock.as_raw_fd()), Token(token), interest)
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&sock.as_raw_fd()))
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let is_signal = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        let mut polled = self.poll.poll(&mut self.events, timeout);
        if polled.as_ref().is_err_and(is_signal) {
            // A signal ended the poll, perhaps long ago: Linux also ends a poll when the process is
            // stopped and continued. The second poll reports what has happened meanwhile.
            polled = self.poll.poll(&mut self.events, Some(Duration::ZERO));
        }
        match polled {
            Ok(()) => {}
            Err(error) if is_signal(&error) => return Ok(()),
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
