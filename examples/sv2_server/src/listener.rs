//! Listening with a small kernel send buffer for each connection.

use std::{error::Error, io, net::SocketAddr};

use socket2::{Domain, Socket, Type};
use sockman::{Service, SockMan};

use sockman_programs::listening;

/// The size of the kernel's send buffer, which holds the bytes that a client has not acknowledged.
/// Linux doubles the size, and packs small pieces together. Measured with a small buffer at the
/// client, it held 120 to 170 templates of about 200 bytes. With one template in 5 s, the server
/// notices after 10 to 14 minutes that a client is gone or reads nothing. Without this setting the
/// buffer grows: it then held 13,947 templates, most of a day. A larger receive buffer of the
/// client adds templates to both numbers.
///
/// Accepted sockets inherit the size from the listener.
const SEND_BUFFER: usize = 16 * 1024;
/// The longest queue of clients that wait for the accept. The kernel reduces it to its own limit.
const BACKLOG: i32 = i32::MAX;

/// Starts to listen on an address, and returns the actual address (port 0 is replaced).
///
/// # Errors
///
/// The address is in use, or it does not exist on this machine.
pub(crate) fn listen(sockman: &SockMan, address: &Service) -> Result<Service, Box<dyn Error>> {
    let Some(to) = address.to_socket_addr() else {
        // A unix-domain socket has a buffer of a fixed size, and inherits nothing from its
        // listener.
        return Ok(listening::listen(sockman, address)?);
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
