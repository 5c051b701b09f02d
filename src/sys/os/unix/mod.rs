//! The implementation for Unix: sockets that `socket2` and mio wrap, and mio's poller (epoll or
//! kqueue).
//!
//! Each method makes the system call that it is named after. A socket has no state except its
//! descriptor. The methods run on any thread and take no lock.

mod accepting;
mod adopted_listener;
#[cfg(feature = "i2p")]
pub(crate) mod files;
mod handles;
mod holders;
mod options;
mod poller;
mod socket_file;

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

pub use self::handles::{BorrowedSocket, OwnedSocket, RawSocket};
#[cfg(feature = "testing")]
pub(crate) use self::handles::{LocalStream, raw_socket, stand_in, stream_pair};
use self::{
    accepting::{accept_tcp, accept_unix, is_listener},
    adopted_listener::AdoptedListener,
    poller::MioPoller,
};
pub(crate) use self::{handles::NO_SOCKET, socket_file::SocketFile};
use super::{connected_addresses, unknown_family};
use crate::{
    address::Service,
    sys::{Adopted, More, Poller, Sock, SockFactory, SocketOption, held::Unnamed},
};

/// The default factory: the operating system's sockets, poller and time.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OsSockFactory {}

impl SockFactory for OsSockFactory {
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>> {
        let address = address.to_sock_addr()?;
        let domain = address.domain();
        let socket = new_stream(domain)?;
        if domain == Domain::UNIX {
            return Ok(Box::new(OsSock::Unix(socket)));
        }
        socket.set_tcp_nodelay(true)?;
        Ok(Box::new(OsSock::tcp(socket)))
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        Ok(Box::new(MioPoller::new()?))
    }

    fn adopt_connection(&self, stream: OwnedSocket) -> Result<Adopted, (OwnedSocket, io::Error)> {
        let socket = Socket::from(stream);
        match prepare_connection(&socket) {
            Ok((me, them)) if me.addr().is_unix() => Ok((Box::new(OsSock::Unix(socket)), me, them)),
            Ok((me, them)) => Ok((Box::new(OsSock::tcp(socket)), me, them)),
            Err(error) => Err((socket.into(), error)),
        }
    }

    fn adopt_listener(&self, listener: OwnedSocket) -> io::Result<Box<dyn Sock>> {
        let socket = Socket::from(listener);
        if socket.r#type()? != Type::STREAM || !is_listener(&socket)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket is not a stream socket in the listening state",
            ));
        }
        let unix = socket.local_addr()?.is_unix();
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        if unix {
            let listener = OsSock::UnixListener(OwnedSocket::from(socket).into());
            return Ok(Box::new(AdoptedListener::new(listener)));
        }
        socket.set_tcp_nodelay(true)?;
        let listener = OsSock::AdoptedTcpListener(OwnedSocket::from(socket).into());
        Ok(Box::new(AdoptedListener::new(listener)))
    }
}

/// One descriptor. The listeners are mio's, because mio's `accept` sets the flags of the new socket
/// in the same system call. TCP sockets are the standard library's, because its `peek` takes
/// initialised memory. It has no `peek` for unix-domain sockets.
#[derive(Debug)]
pub enum OsSock {
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
        OsSock::Tcp(OwnedSocket::from(socket).into())
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

    fn fd(&self) -> BorrowedSocket<'_> {
        match self {
            OsSock::Tcp(stream) => stream.as_fd(),
            OsSock::Unix(socket) => socket.as_fd(),
            OsSock::TcpListener(listener) | OsSock::AdoptedTcpListener(listener) => {
                listener.as_fd()
            }
            OsSock::UnixListener(listener) => listener.as_fd(),
        }
    }
}

/// Creates a stream socket that does not block. Apple's systems cannot do so in one system call.
fn new_stream(domain: Domain) -> io::Result<Socket> {
    #[cfg(any(
        target_os = "android",
        target_os = "dragonfly",
        target_os = "freebsd",
        target_os = "illumos",
        target_os = "linux",
        target_os = "netbsd",
        target_os = "openbsd",
    ))]
    return Socket::new(domain, Type::STREAM.nonblocking(), None);
    #[cfg(not(any(
        target_os = "android",
        target_os = "dragonfly",
        target_os = "freebsd",
        target_os = "illumos",
        target_os = "linux",
        target_os = "netbsd",
        target_os = "openbsd",
    )))]
    {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Prepares a connected socket that other code has made. Returns both addresses.
fn prepare_connection(socket: &Socket) -> io::Result<(Service, Service)> {
    let (me, them) = connected_addresses(socket)?;
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    accepting::refuse_sigpipe(&SockRef::from(socket));
    if !me.addr().is_unix() {
        socket.set_tcp_nodelay(true)?;
        // With SO_LINGER, a close waits for the peer, on Linux also on a non-blocking socket.
        socket.set_linger(None)?;
    }
    Ok((me, them))
}

#[cfg(not(target_vendor = "apple"))]
const NO_SIGPIPE: libc::c_int = libc::MSG_NOSIGNAL;
/// Apple's systems have no such flag. Sockets get the option `SO_NOSIGPIPE`: those of the library when
/// they are created, accepted and adopted ones by `refuse_sigpipe`.
#[cfg(target_vendor = "apple")]
const NO_SIGPIPE: libc::c_int = 0;

#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: libc::c_int = libc::MSG_MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: libc::c_int = 0;

/// Whether a short receive or send on TCP means that the next one would block. Elsewhere than on Linux,
/// an urgent byte ends a receive early, and no event reports the data behind it.
const SHORT_MEANS_OVER: bool = cfg!(any(target_os = "linux", target_os = "android"));

fn send_flags(more: More) -> libc::c_int {
    match more {
        More::Follows => NO_SIGPIPE | MORE,
        More::No => NO_SIGPIPE,
    }
}

impl OsSock {
    #[inline(never)]
    fn send_with(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.socket().send_with_flags(data, send_flags(more))
    }
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
        options::set_reuse_port(&self.socket())
    }

    fn set_option(&self, option: &SocketOption<'_>) -> io::Result<()> {
        options::set_option(&self.socket(), option)
    }

    fn set_reset_on_close(&self) -> io::Result<()> {
        self.socket().set_linger(Some(Duration::ZERO))
    }

    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        self.socket().listen(backlog)?;
        Ok(Box::new(match *self {
            OsSock::Tcp(stream) => OsSock::TcpListener(OwnedSocket::from(stream).into()),
            OsSock::Unix(socket) => OsSock::UnixListener(OwnedSocket::from(socket).into()),
            listener => listener,
        }))
    }

    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        match self {
            OsSock::TcpListener(listener) | OsSock::AdoptedTcpListener(listener) => {
                let (socket, them) = accept_tcp(listener)?;
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
                let (socket, accepted) = accept_unix(listener)?;
                // The BSDs and macOS forget the name of a client that has already gone.
                let named = socket.peer_addr().ok().as_ref().and_then(Service::from_sock_addr);
                let them = named.or(accepted).unwrap_or(Service::UNIX_UNNAMED);
                Ok((Box::new(OsSock::Unix(socket)), them))
            }
            OsSock::Tcp(_) | OsSock::Unix(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    #[inline]
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let OsSock::Tcp(stream) = self {
            return (&mut &*stream).read(buffer);
        }
        match self {
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

    #[inline]
    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        if let (OsSock::Tcp(stream), More::No) = (self, more) {
            // The standard library makes the same call, in fewer instructions. But Apple's systems
            // refuse a longer piece, of which `socket2` passes only a part.
            if !cfg!(target_vendor = "apple") || data.len() < libc::c_int::MAX as usize {
                return (&mut &*stream).write(data);
            }
        }
        self.send_with(data, more)
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

    fn duplicate(&self) -> io::Result<OwnedSocket> {
        self.fd().try_clone_to_owned()
    }

    fn short_read_means_empty(&self) -> bool {
        SHORT_MEANS_OVER && matches!(self, OsSock::Tcp(_))
    }

    fn short_send_means_full(&self) -> bool {
        SHORT_MEANS_OVER && matches!(self, OsSock::Tcp(_))
    }

    fn is_os_sock(&self, _: Unnamed) -> bool {
        true
    }

    fn into_os_sock(self: Box<Self>) -> Option<OsSock> {
        Some(*self)
    }

    fn as_raw_fd(&self) -> RawSocket {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// G9: no call on a new socket blocks, and a send does not wait for an acknowledgement.
    #[test]
    #[cfg_attr(miri, ignore)] // Miri has no sockets.
    fn a_new_socket_does_not_block_and_has_no_delay() {
        let here: Service = "127.0.0.1:1".parse().unwrap();
        let path: Service = Service::unix("/nowhere").unwrap();
        for (to, is_tcp) in [(here, true), (path, false)] {
            let sock = OsSockFactory::default().create_sock(&to).unwrap();
            let sock = sock.into_os_sock().unwrap();
            assert!(sock.socket().nonblocking().unwrap());
            assert!(!is_tcp || sock.socket().tcp_nodelay().unwrap());
        }
    }
}
