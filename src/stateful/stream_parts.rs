//! What [`Link::into_stream`](super::Link::into_stream) returns: a plain value.

use crate::sys::OwnedSocket;

/// A connection that left the `SockMan`, returned by
/// [`Link::into_stream`](super::Link::into_stream).
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamParts {
    /// The connected stream, which is non-blocking. `TcpStream::from` and `UnixStream::from`
    /// convert it.
    pub stream: OwnedSocket,
    /// The bytes that were queued and not sent, in order. Send them first. The vector is empty if
    /// the kernel had taken everything.
    pub unsent: Vec<u8>,
}
