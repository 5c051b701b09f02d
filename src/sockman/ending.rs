//! The methods of [`SockMan`] that end a connection in order or with a reset, and that end a whole
//! server.
//!
//! The methods run on the caller's thread, and take the locks of the map and of the inbox for a
//! moment. The socket thread does the work.

use std::time::Duration;

use super::SockMan;
use crate::engine::{connection::ConnectionId, map::How};

impl SockMan {
    /// Ends a connection in order, without blocking: what is queued goes out, then the end of the
    /// stream (FIN). Returns `true` for the one call that began the end. Returns `false` if the
    /// connection finishes already, and if the id is unknown or belongs to a connect without an
    /// outcome.
    ///
    /// From the call on:
    ///
    /// * The library calls [`event_ready_to_send`] as long as [`should_try_to_send`] returns `true`
    ///   and that callback sends something or finds the socket full. Then the library ends the
    ///   stream. A [`SendQueue`](crate::SendQueue) is thus sent to its end. What is queued later
    ///   cannot be sent, and what a hook holds back by returning `false` is not sent either. On the
    ///   layer [`stateful`](crate::stateful), the library ends the stream only when the
    ///   connection's queue is empty.
    /// * What still arrives is received and discarded. [`should_try_to_recv`] is not asked, and
    ///   [`event_got_data`], [`event_got_eof`] and [`event_got_permanent_read_error`] are not
    ///   called. After a call on another thread, at most the one callback under way may still
    ///   begin or end.
    /// * The connection is closed when both sides have ended their streams, at a receive error, and
    ///   `linger` after this call at the latest, also if the peer still sends. Then
    ///   [`event_closed`] comes. The kernel goes on to send what it has.
    ///
    /// `linger` has no maximum. With `Duration::MAX`, no time-out closes the connection. With
    /// zero, the connection gets one turn. Further calls do not change the time.
    /// [`close_connection`](SockMan::close_connection) and
    /// [`abort_connection`](SockMan::abort_connection) end the connection at once.
    ///
    /// While no thread runs, the end waits for the next start. The time goes on. A connection that
    /// is not activated yet can be finished: it is closed when its time is over.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sockman::{SendQueue, SockMan, helpers::PushError};
    /// # fn f(sockman: &SockMan, queue: &SendQueue) -> Result<(), PushError> {
    /// queue.push(sockman, b"goodbye\n")?;
    /// sockman.finish_connection(queue.id(), Duration::from_secs(3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`event_ready_to_send`]: crate::EventHandler::event_ready_to_send
    /// [`should_try_to_send`]: crate::EventHandler::should_try_to_send
    /// [`should_try_to_recv`]: crate::EventHandler::should_try_to_recv
    /// [`event_got_data`]: crate::EventHandler::event_got_data
    /// [`event_got_eof`]: crate::EventHandler::event_got_eof
    /// [`event_got_permanent_read_error`]: crate::EventHandler::event_got_permanent_read_error
    /// [`event_closed`]: crate::EventHandler::event_closed
    pub fn finish_connection(&self, id: ConnectionId, linger: Duration) -> bool {
        self.shared.finish(id, linger)
    }

    /// Closes a connection with a reset. Returns `true` for the one call that closed the
    /// connection. A relay passes a reset on with this method.
    ///
    /// The method works as [`close_connection`](SockMan::close_connection), except for what the
    /// peer sees: the peer receives `ECONNRESET`, and what the kernel had not sent yet is lost. The
    /// reset goes out when the descriptor is closed: in the next pass of the socket thread, or at
    /// once while no thread runs, and for a connection that is not activated when its
    /// [`NewConnection`](crate::NewConnection) is dropped or activated.
    ///
    /// While other code keeps a copy of the descriptor, for example of a stream that was given to
    /// [`add_connection`](SockMan::add_connection), the peer sees nothing: the reset goes out when
    /// the last copy is closed.
    ///
    /// A unix-domain socket has no reset. There the peer receives the end of the stream, as after
    /// `close_connection`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io;
    /// # use sockman::{ConnectionId, SockMan};
    /// /// A relay's `event_got_permanent_read_error`.
    /// fn passes_on(sockman: &SockMan, broken: ConnectionId, other: ConnectionId) {
    ///     sockman.close_connection(broken);
    ///     sockman.abort_connection(other);
    /// }
    /// ```
    #[doc(alias("reset", "SO_LINGER"))]
    pub fn abort_connection(&self, id: ConnectionId) -> bool {
        self.shared.close_as(id, How::Reset)
    }

    /// Ends a whole server in order: stops listening, finishes all connections as
    /// [`finish_connection`](SockMan::finish_connection) does, and interrupts the threads when all
    /// connections are closed and reported. Then [`SocketsThreads::join`] returns. The call does
    /// not block.
    ///
    /// `deadline` after the call, the library closes what is left, connects under way included,
    /// and interrupts the threads. `deadline` has no maximum. A second call can only bring the end
    /// forward.
    ///
    /// Until then, connects go on, and a connection that they make is finished when it is
    /// announced. The library waits for them, also for a blocking
    /// [`connect`](SockMan::connect). A new listener would still accept. The I2P-accept thread
    /// accepts no more peers.
    ///
    /// An interrupt from elsewhere or a panic only suspends the end: it goes on at the next start.
    /// If no thread runs at the time of the call, the end begins at the next start. After the end,
    /// the `SockMan` can be started again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// let threads = sockman.start_sockets_threads()?;
    /// // Later, on a thread that waits for signals, or in a callback:
    /// sockman.drain_and_stop(Duration::from_secs(10));
    /// // In `main`:
    /// threads.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`SocketsThreads::join`]: crate::SocketsThreads::join
    pub fn drain_and_stop(&self, deadline: Duration) {
        self.stop_listening();
        self.shared.drain(deadline);
    }
}
