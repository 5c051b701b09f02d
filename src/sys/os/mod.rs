//! The implementation of the seam, one folder for each family of systems. Both folders have the
//! same names. The rest of the library does not know which family it runs on.

#[cfg(not(windows))]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;

use socket2::{Socket, Type};

#[cfg(not(windows))]
use self::unix as family;
#[cfg(windows)]
use self::windows as family;
use crate::address::Service;

pub(crate) use self::family::OsSock;
#[cfg(feature = "i2p")]
pub(crate) use self::family::files;
pub use self::family::{BorrowedSocket, OsSockFactory, OwnedSocket, RawSocket};
#[cfg(feature = "testing")]
pub(crate) use self::family::{LocalStream, raw_socket, stand_in, stream_pair};
pub(crate) use self::family::{NO_SOCKET, SocketFile};

/// Returns both addresses of a connected stream socket that other code has made.
fn connected_addresses(socket: &Socket) -> io::Result<(Service, Service)> {
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket is not a stream socket",
        ));
    }
    // A listener has no peer, so this call fails.
    let them = Service::from_sock_addr(&socket.peer_addr()?).ok_or_else(unknown_family)?;
    let me = Service::from_sock_addr(&socket.local_addr()?).ok_or_else(unknown_family)?;
    Ok((me, them))
}

fn unknown_family() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the system returned an address of an unknown family",
    )
}
