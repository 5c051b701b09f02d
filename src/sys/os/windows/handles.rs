//! The names of socket handles, and handles for test doubles. The functions take no lock.

#[cfg(feature = "testing")]
use std::{
    io,
    net::{TcpListener, TcpStream},
    os::windows::io::AsRawSocket,
};

/// A socket that its owner closes: `OwnedFd` on Unix, `OwnedSocket` on Windows.
///
/// The standard library's sockets and those of `socket2` convert into it and from it.
pub type OwnedSocket = std::os::windows::io::OwnedSocket;

/// A socket that another value closes: `BorrowedFd` on Unix, `BorrowedSocket` on Windows.
pub type BorrowedSocket<'a> = std::os::windows::io::BorrowedSocket<'a>;

/// The number of a socket in this process: `RawFd` on Unix, `RawSocket` on Windows.
pub type RawSocket = std::os::windows::io::RawSocket;

/// A number that no socket has (`INVALID_SOCKET`).
pub(crate) const NO_SOCKET: RawSocket = RawSocket::MAX;

/// One end of a [`stream_pair`].
#[cfg(feature = "testing")]
pub(crate) type LocalStream = TcpStream;

/// Returns two sockets that are connected to each other.
#[cfg(feature = "testing")]
pub(crate) fn stream_pair() -> io::Result<(LocalStream, LocalStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    // Another process may have connected first.
    loop {
        let (other, them) = listener.accept()?;
        if them == one.local_addr()? {
            return Ok((one, other));
        }
    }
}

/// Returns a handle that stands for a socket of a test double.
#[cfg(feature = "testing")]
pub(crate) fn stand_in() -> io::Result<OwnedSocket> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.into())
}

/// Returns the number of a socket.
#[cfg(feature = "testing")]
pub(crate) fn raw_socket(socket: &impl AsRawSocket) -> RawSocket {
    socket.as_raw_socket()
}
