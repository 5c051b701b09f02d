//! [`TlsLink`] and [`TlsRemote`], through which a program reaches a connection.

use std::{fmt, io::Write, mem, time::Duration};

use rustls::Connection;
use sockman::{
    ConnectionId, Service, SockMan,
    address::Destination,
    stateful::{ConnectionClosed, Link, Remote},
    stats::ConnectionInfo,
};

use crate::{
    WriteError,
    session::{Session, Stage},
    wire::Wire,
};

/// The way from a callback to its own connection. The methods of
/// [`TlsHandler`](crate::TlsHandler) for one connection get one.
///
/// What a callback writes is sent when the callback returns, as far as the kernel takes it.
pub struct TlsLink<'a, C> {
    pub(crate) link: Link<'a, Session<C>>,
    pub(crate) wire: &'a mut Wire,
}

impl<'a, C> TlsLink<'a, C> {
    pub(crate) fn new(link: Link<'a, Session<C>>, wire: &'a mut Wire) -> TlsLink<'a, C> {
        TlsLink { link, wire }
    }

    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.link.id()
    }

    /// Returns the `SockMan` that owns the connection.
    #[must_use]
    pub fn sockman(&self) -> &'a SockMan {
        self.link.sockman()
    }

    /// Returns the local address.
    #[must_use]
    pub fn me(&self) -> &'a Service {
        self.link.me()
    }

    /// Returns the peer: the address that an inbound connection came from, or the destination that
    /// was dialled.
    #[must_use]
    pub fn them(&self) -> &'a Destination {
        self.link.them()
    }

    /// Returns the rustls connection: the version, the cipher suite, the application protocol
    /// (ALPN), the peer's certificates, the name that a client asked for, exported keys.
    #[must_use]
    pub fn tls(&self) -> &Connection {
        &self.wire.tls
    }

    /// Returns the decrypted bytes that [`got_data`](crate::TlsHandler::got_data) is called for: at
    /// most one record, 16 KiB. They are not copied, so the slice is in the buffer of rustls, and
    /// the link can be used again when the slice is no longer needed. In other callbacks, the slice
    /// is empty.
    #[must_use]
    pub fn data(&mut self) -> &[u8] {
        self.wire.received()
    }

    /// Encrypts as many bytes of `data` as there is room for, and returns their number, which may be
    /// 0. If it is less than all, [`got_room`](crate::TlsHandler::got_room) comes when everything
    /// is sent, and the connection is not read until then. The caller keeps the rest.
    ///
    /// # Errors
    ///
    /// [`WriteError::Ended`] if the connection has failed, or has sent its `close_notify`.
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman_rustls::{TlsLink, WriteError};
    ///
    /// struct Client {
    ///     answer: Vec<u8>,
    ///     sent: usize,
    /// }
    ///
    /// /// Called when an answer begins, and in `got_room`.
    /// fn go_on(link: &mut TlsLink<'_, Client>, client: &mut Client) -> Result<(), WriteError> {
    ///     client.sent += link.write(&client.answer[client.sent..])?;
    ///     Ok(())
    /// }
    /// ```
    pub fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        if self.wire.has_ended {
            return Err(WriteError::Ended);
        }
        // The writer of rustls does not fail.
        let taken = self.wire.tls.writer().write(data).unwrap_or(0);
        if !data.is_empty() {
            let wanted_room = mem::replace(&mut self.wire.wants_room, taken < data.len());
            if wanted_room && !self.wire.wants_room {
                self.link.wake(); // The connection may be read again.
            }
        }
        Ok(taken)
    }

    /// Ends the connection in order, as [`SockMan::finish_connection`] does. What was written goes
    /// out, then a `close_notify`, then the end of the stream. Nothing more is delivered. If the
    /// last [`write`](TlsLink::write) did not take everything,
    /// [`got_room`](crate::TlsHandler::got_room) still comes, and the `close_notify` follows when a
    /// write has taken everything.
    ///
    /// The connection is closed when the peer has ended its stream too, and `linger` after the call
    /// at the latest. Returns `true` for the one call that began the end.
    pub fn finish(&mut self, linger: Duration) -> bool {
        self.link.finish(linger)
    }

    /// Closes the connection at once, without a `close_notify`, so the peer sees a truncation.
    /// Returns `true` for the one call that closed the connection.
    pub fn close(&mut self) -> bool {
        self.link.close()
    }

    /// Closes the connection with a reset: [`SockMan::abort_connection`].
    pub fn abort(&mut self) -> bool {
        self.link.abort()
    }

    /// Returns whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Makes the socket thread ask the hooks of the connection again at once: [`SockMan::wake`].
    /// Call it when the answer of
    /// [`should_try_to_recv`](crate::TlsHandler::should_try_to_recv) becomes `true`.
    pub fn wake(&self) {
        self.link.wake();
    }

    /// Returns the current state of the connection. Returns `None` if the connection is closed. The
    /// numbers count encrypted bytes.
    #[must_use]
    pub fn info(&self) -> Option<ConnectionInfo> {
        self.link.info()
    }

    /// Returns a handle for later, and for other threads.
    #[must_use]
    pub fn remote(&self) -> TlsRemote<C> {
        TlsRemote { remote: self.link.remote() }
    }
}

impl<C> fmt::Debug for TlsLink<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLink").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A handle to a secured connection and its value, for any thread. Clones are handles to the same
/// connection. A remote keeps no connection open.
///
/// # Examples
///
/// ```
/// use sockman_rustls::TlsRemote;
///
/// struct Client {
///     answer: Vec<u8>,
/// }
///
/// /// On a worker's thread: hands an answer over.
/// fn answer(remote: &TlsRemote<Client>, answer: Vec<u8>) {
///     // An error means that the client has gone.
///     let _ = remote.run(|link, client| {
///         // On the socket thread.
///         client.answer = answer;
///         if let Ok(taken) = link.write(&client.answer) {
///             client.answer.drain(..taken);
///         }
///     });
/// }
/// ```
pub struct TlsRemote<C> {
    remote: Remote<Session<C>>,
}

impl<C> TlsRemote<C> {
    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.remote.id()
    }

    /// Returns whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.remote.is_closed()
    }

    /// Runs a closure on the connection's value, on the socket thread, in the next pass:
    /// [`Remote::run`]. What the closure writes is sent after it. If the connection fails or is
    /// closed before, the closure is dropped without being run.
    ///
    /// # Errors
    ///
    /// [`ConnectionClosed`] if the connection is closed already.
    pub fn run(
        &self,
        closure: impl FnOnce(&mut TlsLink<'_, C>, &mut C) + Send + 'static,
    ) -> Result<(), ConnectionClosed>
    where
        C: Send + 'static,
    {
        self.remote.run(move |link, session| {
            let Session { wire, stage } = session;
            if let Stage::Open(value) = stage {
                closure(&mut TlsLink::new(link, wire), value);
                // A write that took nothing has queued nothing, and room may have come before.
                link.wake();
            }
        })
    }

    /// Makes the socket thread ask the hooks of the connection again at once: [`SockMan::wake`].
    pub fn wake(&self) {
        self.remote.wake();
    }

    /// Ends the connection in order: [`TlsLink::finish`].
    pub fn finish(&self, linger: Duration) -> bool {
        self.remote.finish(linger)
    }

    /// Closes the connection at once: [`TlsLink::close`].
    pub fn close(&self) -> bool {
        self.remote.close()
    }

    /// Closes the connection with a reset: [`TlsLink::abort`].
    pub fn abort(&self) -> bool {
        self.remote.abort()
    }
}

impl<C> Clone for TlsRemote<C> {
    fn clone(&self) -> TlsRemote<C> {
        TlsRemote { remote: self.remote.clone() }
    }
}

impl<C> fmt::Debug for TlsRemote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsRemote").field("id", &self.id()).finish_non_exhaustive()
    }
}
