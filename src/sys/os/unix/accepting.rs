//! What differs between the systems where listeners are adopted and clients are accepted.
//!
//! The functions run on any thread and take no lock.

use std::{io, net::SocketAddr};

use socket2::Socket;

use crate::address::Service;

/// Returns whether the socket listens.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) fn is_listener(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// Returns whether the socket listens after this call. macOS does not answer `SO_ACCEPTCONN`. What
/// is left is to call `listen(2)` on a socket that has an address and no peer. So a socket that was
/// bound and did not listen listens now. The backlog of a socket that did listen becomes as large
/// as the system allows.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(super) fn is_listener(socket: &Socket) -> io::Result<bool> {
    listens_after_all(socket)
}

#[cfg(any(test, not(any(target_os = "linux", target_os = "android", target_os = "freebsd"))))]
fn listens_after_all(socket: &Socket) -> io::Result<bool> {
    let address = socket.local_addr()?;
    let is_bound = match address.as_socket() {
        Some(address) => address.port() != 0,
        None => address.as_pathname().is_some() || address.as_abstract_namespace().is_some(),
    };
    if !is_bound || socket.peer_addr().is_ok() {
        return Ok(false);
    }
    Ok(socket.listen(i32::MAX).is_ok())
}

/// Takes a client from the queue of the listener. The new socket is non-blocking and close-on-exec,
/// and no send on it raises `SIGPIPE`.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn accept_tcp(listener: &mio::net::TcpListener) -> io::Result<(Socket, SocketAddr)> {
    let (stream, them) = listener.accept()?;
    Ok((Socket::from(std::os::fd::OwnedFd::from(stream)), them))
}

/// Does what [`accept_tcp`] does, on a unix-domain listener. The address is the client's path if it
/// has one. mio cuts an abstract name off.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn accept_unix(
    listener: &mio::net::UnixListener,
) -> io::Result<(Socket, Option<Service>)> {
    let (stream, them) = listener.accept()?;
    let them = them.as_pathname().and_then(|path| Service::unix(path).ok());
    Ok((Socket::from(std::os::fd::OwnedFd::from(stream)), them))
}

#[cfg(target_vendor = "apple")]
pub(super) fn accept_tcp(listener: &mio::net::TcpListener) -> io::Result<(Socket, SocketAddr)> {
    let (socket, them) = xnu::accept(&socket2::SockRef::from(listener))?;
    let them = xnu::client(&them)?;
    Ok((socket, them))
}

#[cfg(target_vendor = "apple")]
pub(super) fn accept_unix(
    listener: &mio::net::UnixListener,
) -> io::Result<(Socket, Option<Service>)> {
    let (socket, them) = xnu::accept(&socket2::SockRef::from(listener))?;
    Ok((socket, Service::from_sock_addr(&them)))
}

/// Sets `SO_NOSIGPIPE`, which stands for `MSG_NOSIGNAL` on Apple's systems. A socket whose peer is
/// gone refuses the option. Its sends fail with `EPIPE`, or with the peer's reset.
#[cfg(target_vendor = "apple")]
pub(super) fn refuse_sigpipe(socket: &socket2::SockRef<'_>) {
    if let Err(error) = socket.set_nosigpipe(true) {
        log::debug!(target: "sockman", "a socket refuses SO_NOSIGPIPE: {error}");
    }
}

/// Does nothing: each send has `MSG_NOSIGNAL`.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn refuse_sigpipe(_: &socket2::SockRef<'_>) {}

/// Accepts in the way that XNU needs.
#[cfg(any(test, target_vendor = "apple"))]
mod xnu {
    use std::{io, net::SocketAddr, os::fd::AsFd};

    use socket2::{SockAddr, SockRef, Socket};

    /// Takes a client from the queue.
    ///
    /// * XNU returns a descriptor and an address of length 0 for a client that reset before the
    ///   accept. mio reads the address all the same, from memory that nobody wrote. Socket2 returns
    ///   an empty address. Such a socket also refuses options, so none that may fail is set.
    /// * Without a free descriptor, XNU takes the client from the queue and drops it. So the function
    ///   looks first whether a descriptor is free. Another thread may take that descriptor in
    ///   between, and then one client is lost.
    /// * A socket that an adopted listener accepts lacks `SO_NOSIGPIPE` if the listener does.
    pub(super) fn accept(listener: &SockRef<'_>) -> io::Result<(Socket, SockAddr)> {
        drop(listener.as_fd().try_clone_to_owned()?);
        let (socket, them) = listener.accept_raw()?;
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        super::refuse_sigpipe(&SockRef::from(&socket));
        Ok((socket, them))
    }

    /// Returns the address of a TCP client. A client that has reset before the accept has none. It
    /// gets the error that other systems report for it.
    pub(super) fn client(them: &SockAddr) -> io::Result<SocketAddr> {
        them.as_socket().ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::{
            fd::OwnedFd,
            unix::net::{UnixListener, UnixStream},
        },
    };

    use socket2::{Domain, SockRef, Type};

    use super::*;

    /// G9: macOS and the BSDs cannot be asked whether a socket listens.
    #[test]
    fn a_listener_is_told_from_other_sockets_without_so_acceptconn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let (unix, _other) = UnixStream::pair().unwrap();
        let fresh = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let no_stream = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        no_stream.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let unix_fresh = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        for (socket, expected) in [
            (Socket::from(OwnedFd::from(listener)), true),
            (Socket::from(OwnedFd::from(stream)), false),
            (Socket::from(OwnedFd::from(accepted)), false),
            (Socket::from(OwnedFd::from(unix)), false),
            (fresh(), false),
            (no_stream, false),
            (unix_fresh, false),
        ] {
            assert_eq!(listens_after_all(&socket).unwrap(), expected, "{socket:?}");
        }
    }

    #[test]
    fn a_unix_domain_listener_is_told_from_a_client_with_a_path() {
        let directory = crate::sys::temporary::TempDir::new("accepting");
        let (here, there) = (directory.path().join("listens"), directory.path().join("client"));
        let listener = UnixListener::bind(&here).unwrap();
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.bind(&socket2::SockAddr::unix(&there).unwrap()).unwrap();
        client.connect(&socket2::SockAddr::unix(&here).unwrap()).unwrap();
        let results = [Socket::from(OwnedFd::from(listener)), client]
            .map(|socket| listens_after_all(&socket).unwrap());
        assert_eq!(results, [true, false]);
    }

    #[test]
    fn an_accept_in_the_way_of_xnu_gives_the_same_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, them) = xnu::accept(&SockRef::from(&listener)).unwrap();
        assert_eq!(xnu::client(&them).unwrap(), client.local_addr().unwrap());
        assert!(accepted.nonblocking().unwrap());
    }

    /// G9: on macOS, the address of a client that reset before the accept is empty.
    #[test]
    fn a_client_without_an_address_counts_as_aborted() {
        // An unnamed unix-domain address has no address of TCP either.
        let (socket, _other) = UnixStream::pair().unwrap();
        let empty = SockRef::from(&socket).local_addr().unwrap();
        let error = xnu::client(&empty).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
