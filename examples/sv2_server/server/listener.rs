//! Listening, with a small send buffer in the kernel for each connection.

use std::{error::Error, io, net::SocketAddr};

use socket2::{Domain, Socket, Type};
use sockman::{Service, SockMan};

/// What the kernel keeps, about, of what a client has not acknowledged: some thirty templates. That
/// is enough for acknowledgements that are late. Linux would let it grow to megabytes, templates
/// for most of a day, and for so long nobody would notice a client that is gone or reads nothing.
/// (What the client's own kernel takes is out of sight: a few hundred more.)
///
/// Accepted sockets have it from the listener.
const SEND_BUFFER: usize = 16 * 1024;
/// As long a queue as the kernel allows.
const BACKLOG: i32 = i32::MAX;

/// Starts listening there, and says where it really is (port 0).
///
/// # Errors
///
/// The address is in use, or there is no such address here.
pub(super) fn listen(sockman: &SockMan, address: &Service) -> Result<Service, Box<dyn Error>> {
    let Some(to) = address.to_socket_addr() else {
        // Unix-domain sockets have a buffer of a fixed size, and nothing from their listener.
        return Ok(sockman.bind_and_start_listening(address)?);
    };
    let socket = bind(to).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(sockman.start_listening_on(socket)?)
}

fn bind(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if to.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&to.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
