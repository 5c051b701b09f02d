//! The implementation of the seam, one folder for each family of systems. Both folders have the
//! same names. The rest of the library does not know which family it runs on.

#[cfg(not(windows))]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
use self::unix as family;
#[cfg(windows)]
use self::windows as family;

pub(crate) use self::family::OsSock;
#[cfg(feature = "i2p")]
pub(crate) use self::family::files;
pub use self::family::{BorrowedSocket, OsSockFactory, OwnedSocket, RawSocket};
#[cfg(feature = "testing")]
pub(crate) use self::family::{LocalStream, raw_socket, stand_in, stream_pair};
pub(crate) use self::family::{NO_SOCKET, SocketFile};
