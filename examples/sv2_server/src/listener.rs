//! Listening, with a small send buffer in the kernel for each connection.

use std::{error::Error, io, net::SocketAddr};

use socket2::{Domain, Socket, Type};
use sockman::{Service, SockMan};

/// For what a client has not acknowledged. Linux doubles it, and packs small pieces together: of
/// templates of some 200 bytes it took 120 to 170 when measured, with a small buffer at the client.
/// At one in 5 s that is 10 to 14 minutes until a client that is gone or reads nothing is noticed.
/// Left alone, the buffer grows: it was 13,947 templates then, most of a day. (A larger buffer in
/// the client's own kernel comes on top of either.)
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
pub(crate) fn listen(sockman: &SockMan, address: &Service) -> Result<Service, Box<dyn Error>> {
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
