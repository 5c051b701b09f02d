//! The implementation for Unix: sockets that `socket2` and mio wrap, and mio's poller (epoll or
//! kqueue).
//!
//! Each method makes the system call that it is named after. A socket has no state except its
//! descriptor. The methods run on any thread and take no lock.

use std::{
    io::{self, IoSlice, Read},
    net::{Shutdown, TcpStream},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use mio::{Interest, Token, unix::SourceFd};
use socket2::{Domain, SockRef, Socket, Type};

use super::{EVENTS_PER_POLL, More, Poller, Readiness, Sock, SockFactory, Waker, sync::Mutex};
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
        Ok(Box::new(OsSock::tcp(socket)))
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
            let listener = OsSock::UnixListener(OwnedFd::from(socket).into());
            return Ok(Box::new(AdoptedListener::new(listener)));
        }
        socket.set_tcp_nodelay(true)?;
        let listener = OsSock::AdoptedTcpListener(OwnedFd::from(socket).into());
        Ok(Box::new(AdoptedListener::new(listener)))
    }
}

/// One descriptor. The listeners are mio's, because mio's `accept` sets the flags of the new socket
/// in the same system call. TCP sockets are the standard library's, because its `peek` takes
/// initialised memory. It has no `peek` for unix-domain sockets.
#[derive(Debug)]
enum OsSock {
    Tcp(TcpStream),
    Unix(Socket),
    TcpListener(mio::net::TcpListener),
    /// A listener that other code has bound. A client that connected before the adoption has
    /// inherited the options that the listener had at the time of the connect.
    AdoptedTcpListener(mio::net::TcpListener),
    UnixListener(mio::net::UnixListener),
}

impl OsSock {
    fn tcp(socket: Socket) -> OsSock {
        OsSock::Tcp(OwnedFd::from(socket).into())
    }

    fn socket(&self) -> SockRef<'_> {
        match self {
            OsSock::Tcp(stream) => SockRef::from(stream),
            OsSock::Unix(socket) => SockRef::from(socket),
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

    fn set_reset_on_close(&self) -> io::Result<()> {
        self.socket().set_linger(Some(Duration::ZERO))
    }

    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        self.socket().listen(backlog)?;
        Ok(Box::new(match *self {
            OsSock::Tcp(stream) => OsSock::TcpListener(OwnedFd::from(stream).into()),
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
                // With SO_LINGER, which sockets inherit from their listener, a close waits for the
                // peer, on Linux also on a non-blocking socket. The socket thread must not wait.
                if matches!(self, OsSock::AdoptedTcpListener(_)) {
                    if let Err(error) = socket.set_linger(None) {
                        log::debug!(
                            target: "sockman::net",
                            "cannot clear SO_LINGER for {them}: {error}"
                        );
                    }
                }
                Ok((Box::new(OsSock::tcp(socket)), Service::from(them)))
            }
            OsSock::UnixListener(listener) => {
                let (stream, them) = listener.accept()?;
                let socket = Socket::from(OwnedFd::from(stream));
                // The address that mio's `accept` returns lacks an abstract name. Some systems have
                // forgotten the name of a client that has already gone.
                let named = socket.peer_addr().ok().as_ref().and_then(Service::from_sock_addr);
                let them = named
                    .or_else(|| them.as_pathname().and_then(|path| Service::unix(path).ok()))
                    .unwrap_or(Service::UNIX_UNNAMED);
                Ok((Box::new(OsSock::Unix(socket)), them))
            }
            OsSock::Tcp(_) | OsSock::Unix(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            OsSock::Tcp(stream) => (&mut &*stream).read(buffer),
            OsSock::Unix(socket) => (&mut &*socket).read(buffer),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            OsSock::Tcp(stream) => stream.peek(buffer),
            _ => Err(io::ErrorKind::Unsupported.into()),
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
            OsSock::Tcp(stream) => stream.as_raw_fd(),
            OsSock::Unix(socket) => socket.as_raw_fd(),
            OsSock::TcpListener(listener) | OsSock::AdoptedTcpListener(listener) => {
                listener.as_raw_fd()
            }
            OsSock::UnixListener(listener) => listener.as_raw_fd(),
        }
    }
}

/// A listener that other code has bound. Other processes may hold the same socket. They may clear
/// `O_NONBLOCK`, which belongs to the socket and not to a descriptor, and they may accept a client
/// that this process was about to accept. `accept4(2)` has no flag against waiting, so both
/// together would make `accept` wait.
#[derive(Debug)]
struct AdoptedListener {
    listener: OsSock,
    /// A poller that watches the listener alone. Without a descriptor for it, only the flag is set.
    readiness: Option<Mutex<(mio::Poll, mio::Events)>>,
}

impl AdoptedListener {
    fn new(listener: OsSock) -> AdoptedListener {
        let readiness = mio::Poll::new().and_then(|poll| {
            let fd = listener.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
            Ok(Mutex::new((poll, mio::Events::with_capacity(1))))
        });
        AdoptedListener { listener, readiness: readiness.ok() }
    }
}

impl Sock for AdoptedListener {
    fn connect(&self, to: &Service) -> io::Result<()> {
        self.listener.connect(to)
    }
    fn bind(&self, to: &Service) -> io::Result<()> {
        self.listener.bind(to)
    }
    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        Box::new(self.listener).listen(backlog)
    }
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        self.listener.accept()
    }
    fn ready_to_accept(&self) -> io::Result<bool> {
        if let Some(readiness) = &self.readiness {
            let (poll, events) = &mut *readiness.lock();
            let fd = self.listener.as_raw_fd();
            // Events are edge-triggered. Another registration reports the state as it is now.
            poll.registry().reregister(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
            poll.poll(events, Some(Duration::ZERO))?;
            if events.is_empty() {
                return Ok(false);
            }
        }
        // The flag is set last, right before the accept.
        self.listener.socket().set_nonblocking(true)?;
        Ok(true)
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.listener.recv(buffer)
    }
    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.listener.send(data, more)
    }
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.listener.send_vectored(data, more)
    }
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.listener.shutdown(how)
    }
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.listener.take_error()
    }
    fn local_address(&self) -> io::Result<Service> {
        self.listener.local_address()
    }
    fn peer_address(&self) -> io::Result<Service> {
        self.listener.peer_address()
    }
    fn short_read_means_empty(&self) -> bool {
        self.listener.short_read_means_empty()
    }
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
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
