//! The socket of a connection: one of the system's without an allocation and a virtual call, or any
//! other. A connection owns it, and any thread may use it.

use std::io::{self, IoSlice};

use super::{More, OsSock, Sock};

/// A parameter of the hidden methods of [`Sock`]. Other crates cannot name the type, so they cannot
/// override the methods.
#[derive(Debug)]
pub struct Unnamed;

/// The socket of a connection.
#[derive(Debug)]
pub(crate) enum Held {
    Os(OsSock),
    Other(Box<dyn Sock>),
}

impl Held {
    #[allow(clippy::expect_used)] // The two methods of `OsSock` agree. All others have the defaults.
    pub(crate) fn new(sock: Box<dyn Sock>) -> Held {
        if sock.is_os_sock(Unnamed) {
            Held::Os(sock.into_os_sock().expect("the socket is one of the system's"))
        } else {
            Held::Other(sock)
        }
    }

    #[inline]
    pub(crate) fn as_sock(&self) -> &dyn Sock {
        match self {
            Held::Os(sock) => sock,
            Held::Other(sock) => &**sock,
        }
    }

    /// Does what [`Sock::recv`] does.
    #[inline]
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Held::Os(sock) => sock.recv(buffer),
            Held::Other(sock) => sock.recv(buffer),
        }
    }

    /// Does what [`Sock::send`] does.
    #[inline]
    pub(crate) fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        match self {
            Held::Os(sock) => sock.send(data, more),
            Held::Other(sock) => sock.send(data, more),
        }
    }

    /// Does what [`Sock::send_vectored`] does.
    #[inline]
    pub(crate) fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.as_sock().send_vectored(data, more)
    }
}
