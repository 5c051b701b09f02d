//! The trait [`Handler`]. This module owns nothing.

use std::{any::Any, io, time::Duration, time::Instant};

use super::Link;
#[cfg(feature = "i2p")]
use crate::dial::i2p::I2pStatus;
use crate::{
    address::{Destination, Service},
    dial::ConnectError,
    engine::connection::ConnectionId,
    event_handler::NextRecv,
    helpers::{SendBudget, SendQueueLimits},
    sockman::SockMan,
};

/// How long a connection may take to send what is queued after the peer has ended its stream.
const LINGER: Duration = Duration::from_secs(60);

/// Implement this trait to receive connection events together with a value for each connection.
///
/// The methods correspond to those of [`EventHandler`](crate::EventHandler), which says for each of
/// them when it is called and what comes after it. The differences:
///
/// * [`accepted`](Handler::accepted) and [`connected`](Handler::connected) return the value of the
///   connection, or `None` to have the connection closed.
///   [`start_connect_with`](SockMan::start_connect_with) can bring the value along.
/// * The methods for one connection get a [`Link`] to the connection and `&mut` to its value.
/// * [`closed`](Handler::closed) gives the value back, exactly once for each value: after a close
///   by the embedder, by the library, and after a panic.
/// * The defaults serve the [`SendQueue`](crate::SendQueue) that the library keeps for each
///   connection.
/// * After a turn that has sent, [`should_try_to_send`](Handler::should_try_to_send) is asked at the
///   end of the turn. If the answer is no, it is not asked again in the next pass.
///
/// All methods run on the socket thread, except `accepted` for connections from I2P, and
/// `i2p_status`. The library holds no lock while it calls a method. Every method of
/// [`SockMan`] and [`Link`] may be called in every method.
///
/// # Panics
///
/// A panic is handled as [`PanicPolicy`](crate::options::PanicPolicy) says. The value survives the
/// panic, as the method left it. With `CloseConnection`, `closed` gives it back. With `Stop`, it is
/// there after the next start.
///
/// # Examples
///
/// A server that counts the bytes of each connection:
///
/// ```
/// use std::sync::Arc;
/// use sockman::{ConnectionId, Options, Service, SockMan, stateful::{Handler, Link}};
///
/// struct Counter;
///
/// impl Handler for Counter {
///     type Connection = u64;
///
///     fn accepted(&self, _: Link<'_, u64>, _me: &Service, _them: &Service) -> Option<u64> {
///         Some(0)
///     }
///     fn got_data(&self, link: Link<'_, u64>, bytes: &mut u64, data: &[u8]) {
///         *bytes += data.len() as u64;
///         if link.push(format!("{bytes}\n").as_bytes()).is_err() {
///             link.close();
///         }
///     }
///     fn closed(&self, _: &SockMan, id: ConnectionId, bytes: u64) {
///         println!("connection {id} has sent {bytes} bytes");
///     }
/// }
///
/// let sockman = SockMan::with_state(Arc::new(Counter), Options::default())?;
/// # drop(sockman);
/// # Ok::<(), sockman::error::CreateError>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// The value that the library keeps for each connection.
    type Connection: Send + 'static;

    /// Reports a connection that a listener or the I2P-accept thread accepted. Returns the value of
    /// the connection, or `None` to have the connection closed.
    ///
    /// `me` is this side's address, and `them` the peer's. For connections from I2P, this method
    /// runs on the I2P-accept thread.
    fn accepted(
        &self,
        link: Link<'_, Self::Connection>,
        me: &Service,
        them: &Service,
    ) -> Option<Self::Connection>;

    /// Reports that a connect begun with [`SockMan::start_connect`] has succeeded. Returns the
    /// value of the connection, or `None` to have the connection closed. The default returns
    /// `None`.
    ///
    /// `to` is the destination that was passed to `start_connect`, and `me` this side's address.
    fn connected(
        &self,
        link: Link<'_, Self::Connection>,
        to: &Destination,
        me: &Service,
    ) -> Option<Self::Connection> {
        let _ = (link, to, me);
        None
    }

    /// Reports that a connect begun with [`SockMan::start_connect`] has failed. The default does
    /// nothing.
    fn connect_failed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        error: ConnectError,
    ) {
        let _ = (sockman, id, to, error);
    }

    /// Reports that a connect begun with [`SockMan::start_connect_with`] has succeeded, and gives
    /// the value of the connect back, in a box. Returns the value of the connection, or `None` to
    /// have the connection closed.
    ///
    /// By default, a value of the type `Connection` becomes the value of the connection. A value of
    /// another type is dropped, and [`connected`](Handler::connected) is called.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// // The handler of `sockman` has `type Connection = String`.
    /// let peer = String::from("a seed node");
    /// sockman.start_connect_with("10.0.0.2:8333", &ConnectOptions::default(), peer)?;
    /// # Ok(())
    /// # }
    /// ```
    fn connected_with(
        &self,
        link: Link<'_, Self::Connection>,
        to: &Destination,
        me: &Service,
        value: Box<dyn Any + Send>,
    ) -> Option<Self::Connection> {
        match value.downcast::<Self::Connection>() {
            Ok(value) => Some(*value),
            Err(_) => self.connected(link, to, me),
        }
    }

    /// Reports that a connect begun with [`SockMan::start_connect_with`] has failed, and gives the
    /// value of the connect back, in a box. The default drops the value and calls
    /// [`connect_failed`](Handler::connect_failed).
    fn connect_failed_with(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        error: ConnectError,
        value: Box<dyn Any + Send>,
    ) {
        drop(value);
        self.connect_failed(sockman, id, to, error);
    }

    /// Delivers bytes that arrived. `data` is never empty.
    fn got_data(
        &self,
        link: Link<'_, Self::Connection>,
        connection: &mut Self::Connection,
        data: &[u8],
    );

    /// Reports that the peer has ended its stream. By default, the connection finishes: what is
    /// queued goes out, then the end of the stream, and the connection is closed, after 60 seconds
    /// at the latest.
    ///
    /// With the default, answers that come later are lost, for example from a worker or a timer:
    /// the end of the stream goes out as soon as the queue is empty. A handler with such answers
    /// overrides this method, and calls [`Link::finish`] after the last answer.
    fn got_eof(&self, link: Link<'_, Self::Connection>, connection: &mut Self::Connection) {
        let _ = connection;
        link.finish(LINGER);
    }

    /// Reports that receiving failed for good. By default, the connection is closed.
    fn read_error(
        &self,
        link: Link<'_, Self::Connection>,
        connection: &mut Self::Connection,
        error: &io::Error,
    ) {
        let _ = (connection, error);
        link.close();
    }

    /// Returns whether there is something to send. By default, whether the queue holds any bytes.
    ///
    /// The library asks before a send, and again at the end of a turn that has sent. If something
    /// else than the callbacks, the closures and the queue of the connection changes the answer,
    /// the change takes effect on a [`wake`](crate::stateful::Remote::wake) or at the next sweep.
    fn should_try_to_send(
        &self,
        link: Link<'_, Self::Connection>,
        connection: &mut Self::Connection,
    ) -> bool {
        let _ = connection;
        link.queue().has_queued()
    }

    /// Returns whether the library may read from the connection. The default returns `false` while
    /// the queue is above its high mark.
    fn should_try_to_recv(
        &self,
        link: Link<'_, Self::Connection>,
        connection: &mut Self::Connection,
    ) -> bool {
        let _ = connection;
        !link.queue().is_above_high_mark()
    }

    /// Reports that the connection can take bytes. The default drains the queue, and closes the
    /// connection if that fails.
    fn ready_to_send(
        &self,
        link: Link<'_, Self::Connection>,
        connection: &mut Self::Connection,
    ) -> NextRecv {
        let _ = connection;
        if link.drain().is_err() {
            link.close();
        }
        NextRecv::Proceed
    }

    /// Reports that the turn of the connection is over. The default does nothing.
    fn turn_completed(&self, link: Link<'_, Self::Connection>, connection: &mut Self::Connection) {
        let _ = (link, connection);
    }

    /// Gives the value of a closed connection back, exactly once: after a close by the embedder, by
    /// the library, and after a panic. The default drops the value.
    ///
    /// The call is the last one for the id. A connection without a value is not reported: one that
    /// was refused, a connect that failed, and a connection whose `accepted` or `connected`
    /// panicked. While no thread runs, values wait for the next start. If the last [`SockMan`] is
    /// dropped, they are dropped with it.
    ///
    /// The bytes that were still queued are discarded, also if the stream goes on elsewhere, after
    /// [`SockMan::into_stream`]. [`Link::into_stream`] returns them.
    fn closed(&self, sockman: &SockMan, id: ConnectionId, connection: Self::Connection) {
        let _ = (sockman, id, connection);
    }

    /// Reports that a connection was closed because a callback for it panicked. The default does
    /// nothing. [`closed`](Handler::closed) follows, if the connection has a value.
    fn closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        let _ = (sockman, id);
    }

    /// Reports that a pass of the loop begins. The default does nothing.
    fn loop_completed(&self, sockman: &SockMan) {
        let _ = sockman;
    }

    /// Returns the time at which the loop must run again at the latest. The default returns `None`.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Reports that the I2P router has begun, or ceased, to accept connections for this `SockMan`.
    /// The default does nothing. This method runs on the I2P-accept thread.
    #[cfg(feature = "i2p")]
    fn i2p_status(&self, sockman: &SockMan, addr: Option<&Service>, status: I2pStatus) {
        let _ = (sockman, addr, status);
    }

    /// Returns the marks and the limit of each connection's queue. The library asks once for each
    /// connection, before its first callback. The default is [`SendQueueLimits::default`].
    fn queue_limits(&self) -> SendQueueLimits {
        SendQueueLimits::default()
    }

    /// Returns the budget that the queues of all connections share. The library asks once for each
    /// connection, before its first callback. The default is `None`. A server for strangers needs a
    /// budget: [`SendBudget`] says why.
    fn send_budget(&self) -> Option<&SendBudget> {
        None
    }
}
