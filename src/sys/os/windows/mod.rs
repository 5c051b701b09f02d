//! The implementation for Windows: TCP sockets that `socket2` and mio wrap, and mio's poller, which
//! asks the kernel's AFD driver.
//!
//! Each method makes the call of Winsock that it is named after. mio asks the driver for a kind of
//! event once, and again only after an operation on mio's own type has failed with "would block".
//! So every receive, send and accept goes through mio's type, and the library repeats each until it
//! would block. The methods run on any thread. A socket has a lock, which only the registration
//! with a poller holds exclusively, for a moment.

#[cfg(feature = "i2p")]
pub(crate) mod files;
mod handles;
mod options;
mod poller;
mod socket_file;
mod sockets;

use std::{
    io::{self, IoSlice, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    os::windows::io::AsSocket,
    sync::Arc,
    time::Duration,
};

use socket2::{SockRef, Socket, Type};

pub use self::handles::{BorrowedSocket, OwnedSocket, RawSocket};
#[cfg(feature = "testing")]
pub(crate) use self::handles::{LocalStream, raw_socket, stand_in, stream_pair};
pub(crate) use self::{handles::NO_SOCKET, socket_file::SocketFile};
use self::{
    poller::MioPoller,
    sockets::{Shared, counted},
};
use super::{connected_addresses, unknown_family};
use crate::{
    address::Service,
    sys::{Adopted, More, Poller, Sock, SockFactory, SocketOption, errors, held::Unnamed},
};

/// Winsock's error of a send after a half-close. It has no name in POSIX.
const WSAESHUTDOWN: i32 = 10058;

/// The default factory: the operating system's sockets, poller and time.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OsSockFactory {}

impl SockFactory for OsSockFactory {
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>> {
        if address.addr().is_unix() {
            // Neither the standard library nor mio has unix-domain sockets on Windows.
            return Err(io::Error::from_raw_os_error(errors::EAFNOSUPPORT));
        }
        let address = address.to_sock_addr()?;
        let unbound: IpAddr = match address.is_ipv6() {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        };
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let unbound = Some(SocketAddr::new(unbound, 0));
        Ok(Box::new(OsSock { unbound, ..OsSock::new(socket) }))
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        Ok(Box::new(MioPoller::new()?))
    }

    fn adopt_connection(&self, stream: OwnedSocket) -> Result<Adopted, (OwnedSocket, io::Error)> {
        let socket = Socket::from(stream);
        match prepare_connection(&socket) {
            Ok((me, them)) => Ok((Box::new(OsSock::new(socket)), me, them)),
            Err(error) => Err((socket.into(), error)),
        }
    }

    fn adopt_listener(&self, listener: OwnedSocket) -> io::Result<Box<dyn Sock>> {
        let socket = Socket::from(listener);
        if socket.r#type()? != Type::STREAM || !listens_after_all(&socket)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket is not a stream socket in the listening state",
            ));
        }
        socket.set_nonblocking(true)?;
        socket.set_no_inherit(true)?;
        socket.set_tcp_nodelay(true)?;
        Ok(Box::new(OsSock::new(socket)))
    }
}

/// One socket, connected or listening.
#[derive(Debug)]
pub struct OsSock {
    shared: Arc<Shared>,
    /// The address of a socket that the library created, before it is bound or connected.
    unbound: Option<SocketAddr>,
}

impl OsSock {
    /// Takes over a socket that does not block.
    fn new(socket: Socket) -> OsSock {
        OsSock { shared: Shared::new(socket), unbound: None }
    }

    /// Makes a call of Winsock. A call that would block makes mio ask the driver for the next
    /// event.
    fn call<T>(&self, call: impl FnOnce(&SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        let stream = self.shared.stream();
        counted(stream.try_io(|| call(&SockRef::from(&*stream))))
    }

    /// Returns the result of a send of `length` bytes. A thread that sends a part may leave the rest
    /// to the next event.
    fn after_send(&self, sent: io::Result<usize>, length: usize) -> io::Result<usize> {
        match &sent {
            Ok(sent) if *sent < length => self.ask_again(),
            // The socket thread learns of the reset, although this thread has received it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.shared.note_reset();
                self.ask_again();
            }
            _ => {}
        }
        sent.map_err(|error| renumbered(error, &[WSAESHUTDOWN], errors::EPIPE))
    }

    /// Makes mio ask the driver for the next event, although no call would block.
    fn ask_again(&self) {
        let _ = self.call(|_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

/// Prepares a connected socket that other code has made. Returns both addresses.
fn prepare_connection(socket: &Socket) -> io::Result<(Service, Service)> {
    let (me, them) = connected_addresses(socket)?;
    socket.set_nonblocking(true)?;
    socket.set_no_inherit(true)?;
    socket.set_tcp_nodelay(true)?;
    // With SO_LINGER, a close waits for the peer.
    socket.set_linger(None)?;
    Ok((me, them))
}

/// Returns whether the socket listens after this call. `socket2` does not ask for `SO_ACCEPTCONN`
/// on Windows. So a socket that was bound and did not listen listens now.
fn listens_after_all(socket: &Socket) -> io::Result<bool> {
    // A socket that is not bound has no address.
    let Ok(address) = socket.local_addr() else { return Ok(false) };
    let is_bound = address.as_socket().is_some_and(|address| address.port() != 0);
    if !is_bound || socket.peer_addr().is_ok() {
        return Ok(false);
    }
    Ok(socket.listen(i32::MAX).is_ok())
}

/// Returns an error with another number if it has this one.
fn renumbered(error: io::Error, from: &[i32], to: i32) -> io::Error {
    match error.raw_os_error() {
        Some(code) if from.contains(&code) => io::Error::from_raw_os_error(to),
        _ => error,
    }
}

impl Sock for OsSock {
    fn connect(&self, to: &Service) -> io::Result<()> {
        let address = to.to_sock_addr()?;
        let stream = self.shared.stream();
        // Winsock reports a connect that has started with the number of "would block".
        SockRef::from(&*stream)
            .connect(&address)
            .map_err(|error| renumbered(error, &[errors::EAGAIN], errors::EINPROGRESS))
    }

    fn bind(&self, to: &Service) -> io::Result<()> {
        let address = to.to_sock_addr()?;
        let stream = self.shared.stream();
        let socket = SockRef::from(&*stream);
        // SO_REUSEADDR would let every program take the port. Without it, a port in TIME_WAIT can
        // be bound all the same.
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address)
    }

    fn set_option(&self, option: &SocketOption<'_>) -> io::Result<()> {
        options::set_option(&SockRef::from(&*self.shared.stream()), option)
    }

    fn set_reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&*self.shared.stream()).set_linger(Some(Duration::ZERO))
    }

    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        SockRef::from(&*self.shared.stream()).listen(backlog)?;
        Ok(self)
    }

    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        // Winsock returns these two errors for a client that is gone.
        let gone = [errors::ENOTCONN, errors::ECONNRESET];
        let (socket, them) = self
            .call(|listener| listener.accept())
            .map_err(|error| renumbered(error, &gone, errors::ECONNABORTED))?;
        let them: SocketAddr = them.as_socket().ok_or_else(unknown_family)?;
        socket.set_nonblocking(true)?;
        // The next receive reports a lost peer.
        if let Err(error) = socket.set_tcp_nodelay(true) {
            log::debug!(target: "sockman::net", "cannot set TCP_NODELAY for {them}: {error}");
        }
        // With SO_LINGER, which sockets inherit from an adopted listener, a close waits for the peer.
        if let Err(error) = socket.set_linger(None) {
            log::debug!(target: "sockman::net", "cannot clear SO_LINGER for {them}: {error}");
        }
        Ok((Box::new(OsSock::new(socket)), Service::from(them)))
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = counted((&mut &*self.shared.stream()).read(buffer));
        // After a reset, Winsock returns an error and no end of stream. Wine returns the end, which
        // is one only if it came before the reset.
        match received {
            Ok(0) if !buffer.is_empty() && !self.shared.has_ended() && self.shared.take_reset() => {
                Err(io::Error::from_raw_os_error(errors::ECONNRESET))
            }
            received => received,
        }
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        counted(self.shared.stream().peek(buffer))
    }

    fn send(&self, data: &[u8], _: More) -> io::Result<usize> {
        let sent = counted((&mut &*self.shared.stream()).write(data));
        self.after_send(sent, data.len())
    }

    fn send_vectored(&self, data: &[IoSlice<'_>], _: More) -> io::Result<usize> {
        let sent = counted((&mut &*self.shared.stream()).write_vectored(data));
        self.after_send(sent, data.iter().map(|piece| piece.len()).sum())
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shared.stream().shutdown(how)?;
        // Another event with the end of the peer's stream says that both directions are over.
        self.ask_again();
        Ok(())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        let pending = self.shared.stream().take_error()?;
        // SO_ERROR does not have a reset that came after the end of the stream. The poller has it.
        let reset = self.shared.take_reset();
        let reset = reset.then(|| io::Error::from_raw_os_error(errors::ECONNRESET));
        Ok(pending.or(reset))
    }

    fn local_address(&self) -> io::Result<Service> {
        match SockRef::from(&*self.shared.stream()).local_addr() {
            Ok(address) => Service::from_sock_addr(&address).ok_or_else(unknown_family),
            // Winsock reports a socket that has no address yet as an error, Unix by zeroes.
            Err(error) => match self.unbound {
                Some(unbound) if error.raw_os_error() == Some(errors::EINVAL) => Ok(unbound.into()),
                _ => Err(error),
            },
        }
    }

    fn peer_address(&self) -> io::Result<Service> {
        let address = SockRef::from(&*self.shared.stream()).peer_addr();
        if address.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected) {
            // A connect is under way, and waits for the next event.
            self.ask_again();
        }
        Service::from_sock_addr(&address?).ok_or_else(unknown_family)
    }

    fn duplicate(&self) -> io::Result<OwnedSocket> {
        self.shared.stream().as_socket().try_clone_to_owned()
    }

    fn short_read_means_empty(&self) -> bool {
        false
    }

    fn would_block_repeats_events(&self) -> bool {
        true
    }

    fn is_os_sock(&self, _: Unnamed) -> bool {
        true
    }

    fn into_os_sock(self: Box<Self>) -> Option<OsSock> {
        Some(*self)
    }

    fn as_raw_fd(&self) -> RawSocket {
        self.shared.raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G9: no call on a new socket blocks, and a send does not wait for an acknowledgement.
    #[test]
    fn a_new_socket_does_not_block_and_has_no_delay() {
        let here: Service = "127.0.0.1:1".parse().unwrap();
        let sock = OsSockFactory::default().create_sock(&here).unwrap().into_os_sock().unwrap();
        let nodelay = SockRef::from(&*sock.shared.stream()).tcp_nodelay().unwrap();
        assert!(nodelay);
    }

    /// A socket that is not bound has an address of zeroes, as on Unix.
    #[test]
    fn a_new_socket_has_an_address_without_a_port() {
        for (to, expected) in [("127.0.0.1:1", "0.0.0.0:0"), ("[::1]:1", "[::]:0")] {
            let sock = OsSockFactory::default().create_sock(&to.parse().unwrap()).unwrap();
            assert_eq!(sock.local_address().unwrap().to_string(), expected);
        }
    }

    /// A unix-domain address is refused with the error of a family that the system lacks.
    #[test]
    fn a_unix_domain_socket_is_of_an_unsupported_family() {
        let error = OsSockFactory::default().create_sock(&Service::unix("/nowhere").unwrap());
        assert_eq!(error.unwrap_err().raw_os_error(), Some(errors::EAFNOSUPPORT));
    }
}
