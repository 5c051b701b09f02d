//! The names of descriptors, and descriptors for test doubles. The functions take no lock.

#[cfg(feature = "testing")]
use std::{fs::File, io, os::fd::AsRawFd, os::unix::net::UnixStream};

/// A socket that its owner closes: `OwnedFd` on Unix, `OwnedSocket` on Windows.
///
/// The standard library's sockets and those of `socket2` convert into it and from it.
pub type OwnedSocket = std::os::fd::OwnedFd;

/// A socket that another value closes: `BorrowedFd` on Unix, `BorrowedSocket` on Windows.
pub type BorrowedSocket<'a> = std::os::fd::BorrowedFd<'a>;

/// The number of a socket in this process: `RawFd` on Unix, `RawSocket` on Windows.
pub type RawSocket = std::os::fd::RawFd;

/// A number that no socket has.
pub(crate) const NO_SOCKET: RawSocket = -1;

/// One end of a [`stream_pair`].
#[cfg(feature = "testing")]
pub(crate) type LocalStream = UnixStream;

/// Returns two sockets that are connected to each other.
#[cfg(feature = "testing")]
pub(crate) fn stream_pair() -> io::Result<(LocalStream, LocalStream)> {
    UnixStream::pair()
}

/// Returns a descriptor that stands for a socket of a test double.
#[cfg(feature = "testing")]
pub(crate) fn stand_in() -> io::Result<OwnedSocket> {
    Ok(File::open("/dev/null")?.into())
}

/// Returns the number of a socket.
#[cfg(feature = "testing")]
pub(crate) fn raw_socket(socket: &impl AsRawFd) -> RawSocket {
    socket.as_raw_fd()
}
