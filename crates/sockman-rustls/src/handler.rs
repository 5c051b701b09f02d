//! The trait [`TlsHandler`]. This module owns nothing.

use std::time::{Duration, Instant};

use sockman::{ConnectionId, Service, SockMan, address::Destination, error::ConnectError};

use crate::{TlsError, TlsLink};

/// How long a connection may take to send what was written after the peer has ended its stream. The
/// same time as in [`stateful::Handler`](sockman::stateful::Handler).
const LINGER: Duration = Duration::from_secs(60);

/// Implement this trait to receive the events of TLS connections, with a value for each of them.
/// [`Tls`](crate::Tls) calls its methods.
///
/// The methods run on the socket thread, except `admit` for connections from I2P. No lock is held.
/// Every method of [`TlsLink`] and [`SockMan`] may be called in every method. For one connection,
/// the order is:
///
/// 1. [`admit`](TlsHandler::admit), for an accepted connection;
/// 2. [`secured`](TlsHandler::secured), which returns the value, or
///    [`handshake_failed`](TlsHandler::handshake_failed), which is the last call;
/// 3. [`got_data`](TlsHandler::got_data), [`got_room`](TlsHandler::got_room) and
///    [`turn_completed`](TlsHandler::turn_completed), any number of times;
/// 4. at most once, [`got_end`](TlsHandler::got_end) or [`failed`](TlsHandler::failed), after all
///    data; after `got_end`, a `failed` may still follow;
/// 5. [`closed`](TlsHandler::closed), which gives the value back.
///
/// # Panics
///
/// A panic is handled as [`PanicPolicy`](sockman::options::PanicPolicy) says. With `Stop`, the
/// bytes that were received in the turn of the panic are lost, so the connection fails after a
/// restart.
///
/// # Examples
///
/// See [`Tls`](crate::Tls).
pub trait TlsHandler: Send + Sync + 'static {
    /// The value that is kept for each secured connection.
    type Connection: Send + 'static;

    /// Returns whether a client may begin its handshake. `me` is this side's address, and `them`
    /// the client's. With `false`, the connection is closed. The default returns `true`.
    ///
    /// The limit of handshakes is checked after this method.
    fn admit(&self, sockman: &SockMan, me: &Service, them: &Service) -> bool {
        let _ = (sockman, me, them);
        true
    }

    /// Reports that the handshake of a connection is complete. Returns the value of the connection,
    /// or `None` to end it in order.
    ///
    /// [`TlsLink::tls`] has the outcome: the application protocol, the version, the peer's
    /// certificates. The method may write.
    fn secured(&self, link: &mut TlsLink<'_, Self::Connection>) -> Option<Self::Connection>;

    /// Reports that a connection ended before its handshake was complete. It is the last call for
    /// this id. The default logs a line at the level debug.
    ///
    /// [`SockMan::connection_info`] still has the peer's address, except after
    /// [`TlsError::Closed`].
    fn handshake_failed(&self, sockman: &SockMan, id: ConnectionId, error: &TlsError) {
        let _ = sockman;
        log::debug!("the TLS handshake of connection {id} failed: {error}");
    }

    /// Delivers decrypted bytes: [`TlsLink::data`], which is not empty. The slice is gone when the
    /// method returns, whether the method has used all of it or not.
    ///
    /// One receive can hold several records, so this method may be called several times before
    /// [`should_try_to_recv`](TlsHandler::should_try_to_recv) is asked again. It is not called for
    /// records that follow a finish or a close.
    fn got_data(&self, link: &mut TlsLink<'_, Self::Connection>, connection: &mut Self::Connection);

    /// Reports that everything is sent, after a [`TlsLink::write`] that took less than it was given.
    /// The default does nothing.
    ///
    /// The method writes the rest, or finishes. It is called again only if its last write took less
    /// than it was given.
    ///
    /// While the kernel takes everything, one turn calls this method up to eight times: fewer
    /// times if [`TlsSettings::send_buffer`](crate::TlsSettings::send_buffer) is above 64 KiB, and
    /// once above 256 KiB. Then the other connections have their turns.
    fn got_room(
        &self,
        link: &mut TlsLink<'_, Self::Connection>,
        connection: &mut Self::Connection,
    ) {
        let _ = (link, connection);
    }

    /// Reports that the peer has ended its stream with a `close_notify`. Nothing more is received.
    /// This side may go on to write. The default finishes the connection: what was written goes
    /// out, then a `close_notify`, and the connection is closed, after 60 seconds at the latest.
    ///
    /// A handler whose answers come later, from a worker or a timer, overrides this method, and
    /// calls [`TlsLink::finish`] after the last answer.
    fn got_end(&self, link: &mut TlsLink<'_, Self::Connection>, connection: &mut Self::Connection) {
        let _ = connection;
        link.finish(LINGER);
    }

    /// Reports that the connection has failed. The default logs a line at the level debug.
    ///
    /// After [`TlsError::Truncated`], what is written is sent, and then the connection finishes.
    /// After other errors, nothing can be written. rustls has chosen the alert that the peer gets.
    /// The connection is closed by itself.
    fn failed(
        &self,
        link: &mut TlsLink<'_, Self::Connection>,
        connection: &mut Self::Connection,
        error: &TlsError,
    ) {
        let _ = connection;
        log::debug!("the TLS connection {} failed: {error}", link.id());
    }

    /// Returns whether the connection may be read. The default returns `true`. Call
    /// [`TlsLink::wake`] when the answer becomes `true`. Whatever this method returns, the
    /// connection is not read while a write waits for room.
    ///
    /// While a connection is not read, its `close_notify` and its errors wait.
    fn should_try_to_recv(&self, connection: &mut Self::Connection) -> bool {
        let _ = connection;
        true
    }

    /// Reports that the turn of the connection is over. The default does nothing.
    fn turn_completed(
        &self,
        link: &mut TlsLink<'_, Self::Connection>,
        connection: &mut Self::Connection,
    ) {
        let _ = (link, connection);
    }

    /// Gives the value of a closed connection back, exactly once for each value. The default drops
    /// it.
    fn closed(&self, sockman: &SockMan, id: ConnectionId, connection: Self::Connection) {
        let _ = (sockman, id, connection);
    }

    /// Reports that a connect begun with a [`Dial`](crate::Dial) has failed before the handshake.
    /// The default logs a line at the level debug.
    fn connect_failed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        error: ConnectError,
    ) {
        let _ = (sockman, to);
        log::debug!("the connect {id} failed: {error:#}");
    }

    /// Reports that a pass of the loop begins:
    /// [`loop_completed`](sockman::stateful::Handler::loop_completed). The place for timers. The
    /// default does nothing.
    fn loop_completed(&self, sockman: &SockMan) {
        let _ = sockman;
    }

    /// Returns the time at which the loop must run again at the latest. The default returns `None`.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
