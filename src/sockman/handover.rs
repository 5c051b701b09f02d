//! The methods that take connected streams over from other code, and hand them out again.

use super::SockMan;
use crate::{
    engine::{connect::NewConnection, connection::ConnectionId, handover},
    error::{AddConnectionError, IntoStreamError},
    sys::OwnedSocket,
};

impl SockMan {
    /// Takes over a connected stream that other code made: a `TcpStream` or `UnixStream` of the
    /// standard library, one end of a socket pair, the socket that inetd or an SSH server passes to
    /// its program, or a stream through an HTTP proxy after the answer to CONNECT. Returns the
    /// connection, which is polled after [`NewConnection::activate`], as one from
    /// [`connect`](SockMan::connect).
    ///
    /// The call makes no callback and does not block. It may be made on any thread and in every
    /// callback. The socket is made non-blocking and close-on-exec; on TCP, Nagle's delay and
    /// `SO_LINGER` are turned off. Bytes that arrived before the call are delivered first. Bytes
    /// that the other code has received already, for example behind the head of an HTTP response,
    /// are the embedder's to handle.
    ///
    /// The stream counts against [`Options::max_connections`](crate::Options::max_connections).
    /// [`ConnectionInfo::direction`](crate::stats::ConnectionInfo::direction) is
    /// [`Outbound`](crate::stats::Direction::Outbound), because the `SockMan` did not accept it.
    ///
    /// No other process and no copy of the descriptor may use the stream meanwhile:
    /// `O_NONBLOCK` belongs to the socket and not to the descriptor, and a holder that clears it
    /// blocks the socket thread.
    ///
    /// # Errors
    ///
    /// [`AddConnectionError`], which gives the stream back.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let connection = sockman.add_connection(ours)?;
    /// // Put connection.id() into your own table here. Then:
    /// let id = connection.activate();
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_connection(
        &self,
        stream: impl Into<OwnedSocket>,
    ) -> Result<NewConnection, AddConnectionError> {
        handover::add(self, stream.into())
    }

    /// Takes a connection out of the `SockMan` and returns its stream, for example for a protocol
    /// that other code speaks after an upgrade. The stream stays connected and non-blocking.
    /// `TcpStream::from` and `UnixStream::from` convert it.
    ///
    /// The id ends as in [`close_connection`](SockMan::close_connection): it is unknown at once, it
    /// counts no longer against the limit of connections, and exactly one of several racing calls
    /// gets the stream. [`event_closed`](crate::EventHandler::event_closed) reports the end of an
    /// announced connection, once, after the other callbacks. The descriptor has another number
    /// than before.
    ///
    /// No byte is lost. What the `SockMan` has received was delivered to
    /// [`event_got_data`](crate::EventHandler::event_got_data) before the call returns. What it has
    /// not received yet stays in the kernel, and the first read of the stream returns it. What was
    /// sent is sent.
    ///
    /// On the socket thread, which calls most callbacks, the call returns at once, and of the
    /// callbacks only `event_closed` names the id again. The data of the callback under way is
    /// delivered already.
    ///
    /// On another thread, a turn of the connection may be under way. The call waits until the
    /// socket thread has ended the turns that it had begun. After the call, only `event_closed` may
    /// name the id. The wait takes as long as these callbacks take, so the caller must not hold a
    /// lock that a callback takes. Two socket threads whose callbacks take connections out of each
    /// other's `SockMan` at the same time wait for each other without end. While no thread runs,
    /// the call does not wait.
    ///
    /// A connection that finishes, also because of [`drain_and_stop`](SockMan::drain_and_stop),
    /// cannot be taken out: the library discards what its peer sends.
    ///
    /// On the layer [`stateful`](crate::stateful), what is queued for the connection is discarded.
    /// [`Link::into_stream`](crate::stateful::Link::into_stream) returns it with the stream.
    ///
    /// A stream that was accepted through I2P ends with the session of the `SockMan`.
    ///
    /// # Errors
    ///
    /// [`IntoStreamError`]. A connect that has no outcome yet is unknown.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{ConnectionId, SockMan};
    /// use std::{net::TcpStream, thread};
    ///
    /// /// Called in `event_got_data`, when a client asks for the protocol of another library.
    /// fn upgrade(sockman: &SockMan, id: ConnectionId) -> std::io::Result<()> {
    ///     let stream = TcpStream::from(sockman.into_stream(id)?);
    ///     stream.set_nonblocking(false)?;
    ///     thread::spawn(move || { /* The other library serves `stream`. */ });
    ///     Ok(())
    /// }
    /// ```
    pub fn into_stream(&self, id: ConnectionId) -> Result<OwnedSocket, IntoStreamError> {
        handover::take_out(self, id)
    }
}
