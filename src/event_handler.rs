//! The trait [`EventHandler`], through which the library reports events to the embedder.
//!
//! This module owns nothing. The trait's methods run on the socket thread, some of them on the
//! I2P-accept thread. The library holds no lock while it calls the methods.

use std::{
    any::{Any, TypeId},
    io,
    time::Instant,
};

#[cfg(feature = "i2p")]
use crate::dial::i2p::I2pStatus;
use crate::{
    address::{Destination, Service},
    dial::ConnectError,
    engine::{
        connection::ConnectionId,
        state::{Ended, Place},
    },
    sockman::SockMan,
};

/// What the socket thread does with the receive direction of a connection right after
/// [`EventHandler::event_ready_to_send`].
///
/// Bitcoin Core's name for [`Skip`](NextRecv::Skip) is `cancel_recv`. A Bitcoin Core node that
/// still has data queued for a peer does not read more requests from that peer.
#[doc(alias = "cancel_recv")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextRecv {
    /// The library receives in this turn too, if there is something to receive.
    Proceed,
    /// The library does not receive in this turn. If bytes were sent, the library tries to receive
    /// in the next pass. If no bytes were sent, the receive direction rests until an event, a wake
    /// or the sweep.
    Skip,
}

/// Implement this trait to receive connection events. Its `should_*` methods pause either direction
/// of a connection.
///
/// The trait names connections by their ids. [`stateful::Handler`](crate::stateful::Handler) is a
/// layer over this trait that also keeps a value of the embedder for each connection.
///
/// # Threads and locks
///
/// The library calls the methods on the socket thread, one at a time. If connections from I2P are
/// accepted, a second thread exists, the I2P-accept thread. This thread calls
/// `event_new_connection_accepted` for a connection from I2P, `event_closed_after_panic` if that
/// callback panicked, and `event_i2p_status`, which runs on no other thread. The I2P-accept thread
/// may call these methods while the socket thread calls a method for another id. Two methods never
/// run at the same time for one id.
///
/// The library holds no lock while it calls a method. Every method of [`SockMan`] may therefore be
/// called from every callback, on any id, including the id of the callback. In a callback, three
/// methods return an error:
///
/// * [`SockMan::connect`] and [`SockMan::connect_and_make_id`], on the socket thread, because they
///   would block it;
/// * [`SocketsThreads::join`], because the call would wait for its own thread.
///
/// A callback that takes long delays every other connection. Hand long work to another thread. That
/// thread calls [`SockMan::wake`] for the connection after it has queued the answer.
///
/// # Examples
///
/// This handler prints what it receives:
///
/// ```
/// use std::io;
/// use sockman::{ConnectionId, EventHandler, Service, SockMan};
///
/// struct Print;
///
/// impl EventHandler for Print {
///     fn event_new_connection_accepted(
///         &self, _: &SockMan, id: ConnectionId, _me: &Service, them: &Service,
///     ) -> bool {
///         println!("accepted connection {id} from {them}");
///         true
///     }
///     fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
///         println!("{id} sent {}", data.escape_ascii());
///     }
///     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
///         sockman.close_connection(id);
///     }
///     fn event_got_permanent_read_error(
///         &self, sockman: &SockMan, id: ConnectionId, error: &io::Error,
///     ) {
///         println!("cannot read from {id}: {error}");
///         sockman.close_connection(id);
///     }
/// }
/// ```
///
/// # Panics
///
/// A panic in a callback is never swallowed: see [`PanicPolicy`](crate::options::PanicPolicy).
///
/// # Keeping a `SockMan`
///
/// All methods but the hooks and [`next_deadline`](EventHandler::next_deadline) receive a
/// `SockMan`. A handler that keeps a handle stores a [`WeakSockMan`](crate::WeakSockMan). The
/// `SockMan` owns the handler, so a `SockMan` inside the handler would be a reference cycle that is
/// never freed.
///
/// [`SocketsThreads::join`]: crate::SocketsThreads::join
pub trait EventHandler: Send + Sync {
    /// Reports a connection that a listener or the I2P-accept thread accepted. Returns `true` to
    /// keep the connection, and `false` to have it closed.
    ///
    /// `me` is this side's address of that connection, also when the listener is bound to a
    /// wildcard or gets the connections of a transparent proxy. `them` is the peer's address. An
    /// unnamed unix-domain peer has an address value of its own.
    ///
    /// *When:* once for each accepted connection, before any other callback for its id.
    ///
    /// *Thread:* the socket thread. For connections from I2P, the thread is the I2P-accept thread,
    /// while callbacks for other ids run on the socket thread. No lock is held.
    ///
    /// *May call:* everything. The id can already be sent to and closed.
    ///
    /// *Comes after it:* with `true`, the other callbacks for this id, and [`event_closed`] as the
    /// last one. If the id was closed in this callback, only [`event_closed`] names it again. With
    /// `false`, no callback names the id again.
    ///
    /// *A panic:* closes the connection, and is then handled as
    /// [`PanicPolicy`](crate::options::PanicPolicy) says. With `PanicPolicy::CloseConnection`,
    /// [`event_closed_after_panic`] names the id, because the handler may already have begun to
    /// register it, and then [`event_closed`]. Neither names an id that the callback closed before
    /// it panicked. With `PanicPolicy::Stop`, no callback names the id again.
    ///
    /// [`event_closed`]: EventHandler::event_closed
    /// [`event_closed_after_panic`]: EventHandler::event_closed_after_panic
    #[doc(alias = "EventNewConnectionAccepted")]
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        me: &Service,
        them: &Service,
    ) -> bool;

    /// Reports that the connection can take bytes. The handler sends what it has queued for the
    /// connection, with [`SockMan::send_bytes`] or [`SockMan::send_vectored`]. The default sends
    /// nothing and returns [`NextRecv::Proceed`].
    ///
    /// *When:* if the socket is writable and [`should_try_to_send`] returned `true` in this pass;
    /// at most once per connection and pass. If this callback sends something and the socket would
    /// take more, the next pass, which follows without a wait, asks the hook again.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* in the same turn, a receive may follow, and with it [`event_got_data`],
    /// [`event_got_eof`] or [`event_got_permanent_read_error`]. After [`NextRecv::Skip`], no
    /// receive follows. The turn ends with [`event_io_loop_completed_for_one`].
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says.
    ///
    /// [`should_try_to_send`]: EventHandler::should_try_to_send
    /// [`event_got_data`]: EventHandler::event_got_data
    /// [`event_got_eof`]: EventHandler::event_got_eof
    /// [`event_got_permanent_read_error`]: EventHandler::event_got_permanent_read_error
    /// [`event_io_loop_completed_for_one`]: EventHandler::event_io_loop_completed_for_one
    #[doc(alias = "EventReadyToSend")]
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let _ = (sockman, id);
        NextRecv::Proceed
    }

    /// Delivers bytes that arrived. `data` is never empty. The length of `data` is at most
    /// [`Options::receive_buffer`].
    ///
    /// `data` lies in the socket thread's one receive buffer. The handler must copy bytes that it
    /// needs later.
    ///
    /// *When:* if the socket is readable and [`should_try_to_recv`] returned `true` in this pass;
    /// at most once per connection and pass.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything. A reply that is queued in this callback never waits for the sweep:
    /// if the socket is writable, [`should_try_to_send`] is asked later in this turn. If this turn
    /// already had its [`event_ready_to_send`], the next pass, which follows without a wait, asks
    /// the hook.
    ///
    /// *Comes after it:* more data, [`event_got_eof`] or [`event_got_permanent_read_error`].
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says. The bytes of
    /// this call count as delivered.
    ///
    /// [`Options::receive_buffer`]: crate::Options::receive_buffer
    /// [`should_try_to_recv`]: EventHandler::should_try_to_recv
    /// [`should_try_to_send`]: EventHandler::should_try_to_send
    /// [`event_ready_to_send`]: EventHandler::event_ready_to_send
    /// [`event_got_eof`]: EventHandler::event_got_eof
    /// [`event_got_permanent_read_error`]: EventHandler::event_got_permanent_read_error
    #[doc(alias = "EventGotData")]
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]);

    /// Reports the end of the stream: the peer closed or half-closed the connection, and sends no
    /// more data.
    ///
    /// *When:* at most once per connection, after all data. While reading is paused, the end waits.
    /// The connection stays open for sending until the embedder closes it. The loop does not spin
    /// while the connection stays open.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything; usually [`SockMan::close_connection`]. A handler that still has
    /// queued data closes the connection after it has sent the data.
    ///
    /// *Comes after it:* no data. A reset is still reported, once, by
    /// [`event_got_permanent_read_error`](EventHandler::event_got_permanent_read_error).
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "EventGotEOF")]
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId);

    /// Reports that receiving failed for good: a reset, a time-out in the kernel, or a failed
    /// registration with the poller.
    ///
    /// *When:* at most once per connection, after all data that came before the error. While
    /// reading is paused, the error waits. A failed registration is reported at once, even while
    /// reading is paused.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything; usually [`SockMan::close_connection`]. The library does not close
    /// the connection: the id stays valid until the embedder closes it.
    ///
    /// *Comes after it:* no data and no EOF.
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "EventGotPermanentReadError")]
    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    );

    /// Reports that a connect begun with [`SockMan::start_connect`] has succeeded or failed. The
    /// default does nothing.
    ///
    /// `outcome` is `Ok` with this side's address if the connect succeeded; the library polls the
    /// connection after this callback. `to` is the destination that was passed to `start_connect`, or
    /// the one of its [alternatives](crate::ConnectOptions::alternatives) that was reached.
    /// An embedder that connects to each destination once needs no table of attempts.
    ///
    /// *When:* once for each `start_connect` that returned an id, unless the id was closed before.
    /// At most [`Options::accept_batch`] in one pass.
    ///
    /// *Thread:* the socket thread, possibly before `start_connect` has returned on another thread.
    /// No lock is held.
    ///
    /// *May call:* everything. With `Ok`, the id can already be sent to and closed. With an error,
    /// the place of the attempt among the [`Options::max_connections`] is free for another connect.
    ///
    /// *Comes after it:* with `Ok`, the other callbacks for this id, and
    /// [`event_closed`](EventHandler::event_closed) as the last one. If the id was closed in this
    /// callback, only `event_closed` names it again. With an error, no callback names the id again.
    ///
    /// *A panic:* closes the connection, if there is one, and is then handled as
    /// [`PanicPolicy`](crate::options::PanicPolicy) says. `event_closed` reports the close under
    /// both policies.
    ///
    /// [`Options::accept_batch`]: crate::Options::accept_batch
    /// [`Options::max_connections`]: crate::Options::max_connections
    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let _ = (sockman, id, to, outcome);
    }

    /// Reports that a connect begun with [`SockMan::start_connect_with`] has succeeded or failed,
    /// and gives the value of the connect back. The default drops `value` and calls
    /// [`event_connect_completed`](EventHandler::event_connect_completed).
    ///
    /// `value` is the value that was passed to `start_connect_with`, in a box.
    /// `value.downcast::<T>()` unpacks it. In all else, this method is as
    /// [`event_connect_completed`](EventHandler::event_connect_completed).
    ///
    /// *When:* once for each `start_connect_with` that returned an id, unless the id was closed
    /// before.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* with `Ok`, the other callbacks for this id, and
    /// [`event_closed`](EventHandler::event_closed) as the last one. If the id was closed in this
    /// callback, only `event_closed` names it again. With an error, no callback names the id again.
    ///
    /// *A panic:* closes the connection, if there is one, and is then handled as
    /// [`PanicPolicy`](crate::options::PanicPolicy) says. `event_closed` reports the close under
    /// both policies.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::any::Any;
    /// # use sockman::{ConnectionId, Service, SockMan, address::Destination, error::ConnectError};
    /// # struct Peer { name: String }
    /// # struct Handler;
    /// # impl Handler {
    /// fn event_connect_completed_with(
    ///     &self, sockman: &SockMan, id: ConnectionId, to: &Destination,
    ///     outcome: Result<&Service, ConnectError>, value: Box<dyn Any + Send>,
    /// ) {
    ///     let Ok(peer) = value.downcast::<Peer>() else { return };
    ///     match outcome {
    ///         Ok(me) => println!("connection {id} to {} from {me}", peer.name),
    ///         Err(error) => println!("{}: {error:#}", peer.name),
    ///     }
    /// }
    /// # }
    /// ```
    fn event_connect_completed_with(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        outcome: Result<&Service, ConnectError>,
        value: Box<dyn Any + Send>,
    ) {
        drop(value);
        self.event_connect_completed(sockman, id, to, outcome);
    }

    /// Returns whether the embedder has something to send on this connection. The default returns
    /// `true`.
    ///
    /// *When:* before each [`event_ready_to_send`], if the socket is writable: after an event that
    /// made the socket writable, after a [`SockMan::wake`], after data, EOF or an error was
    /// reported, after a send that left room, and at the sweep.
    ///
    /// *Thread:* the socket thread. No lock is held. This hook is asked often and should be short.
    ///
    /// *May call:* everything, through a [`WeakSockMan`](crate::WeakSockMan).
    ///
    /// *Comes after it:* with `true`, [`event_ready_to_send`]. With `false`, the send direction
    /// rests until the next of the occasions listed above. A changed answer takes effect at the
    /// next [`SockMan::wake`] or sweep.
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says.
    ///
    /// [`event_ready_to_send`]: EventHandler::event_ready_to_send
    #[doc(alias = "ShouldTryToSend")]
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let _ = id;
        true
    }

    /// Returns whether the library may read from this connection. The default returns `true`.
    ///
    /// *When:* before each receive, if the socket is readable.
    ///
    /// *Thread:* the socket thread. No lock is held. This hook is asked often and should be short.
    ///
    /// *May call:* everything, through a [`WeakSockMan`](crate::WeakSockMan).
    ///
    /// *Comes after it:* with `true`, a receive. With `false`, nothing is read: data, EOF and read
    /// errors wait, the kernel's receive buffer fills, and TCP slows the peer down. A changed
    /// answer takes effect at the next [`SockMan::wake`] or sweep.
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "ShouldTryToRecv")]
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        let _ = id;
        true
    }

    /// Reports that the turn of one connection is over. The default does nothing. With the sweep
    /// on, this callback suits coarse inactivity time-outs. Without the sweep, an idle connection
    /// gets no turn, so use [`Deadlines`](crate::helpers::Deadlines) then.
    ///
    /// *When:* at the end of each turn of the connection. A connection gets a turn after an event
    /// on its socket, after a [`SockMan::wake`], when its last turn left work, and at each sweep
    /// ([`Options::sweep`](crate::Options::sweep), 50 ms by default).
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// Before this callback, the library delivers data that arrived before the turn, so the data
    /// counts as activity. The time that the handler's own callbacks of this turn take does not
    /// count as the peer's silence: a handler reads the clock at the end of a long callback.
    ///
    /// *Comes after it:* no other callback for this connection in this pass, but another turn may
    /// follow if a deadline passes (see
    /// [`next_deadline`](EventHandler::next_deadline)).
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "EventIOLoopCompletedForOne")]
    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        let _ = (sockman, id);
    }

    /// Reports that a pass of the loop begins. (Core's name says that the previous pass is
    /// complete.) The default does nothing. This callback suits the timers of the embedder.
    ///
    /// *When:* at the start of every pass, before the loop sleeps. If a deadline
    /// ([`next_deadline`](EventHandler::next_deadline)) has passed since the last poll, the loop
    /// polls first, without waiting, and runs the turns that are due. So it does after 50 ms without
    /// a complete round of turns. A pass follows I/O, a wake, a [`SockMan::notify`], a deadline, and
    /// each connection or listener that another thread adds or closes. There is at least one pass
    /// per sweep. If thousands of connections are due, their turns take several passes, of about
    /// one millisecond each.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* the hooks of the connections whose last turn left work, and then
    /// [`next_deadline`](EventHandler::next_deadline).
    ///
    /// *A panic:* stops the threads under both policies, because the panic belongs to no
    /// connection.
    #[doc(alias = "EventIOLoopCompletedForAll")]
    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let _ = sockman;
    }

    /// Reports that the I2P router has begun, or ceased, to accept connections for this `SockMan`.
    /// The default does nothing. Core's `EventI2PStatus`.
    ///
    /// `addr` is this side's I2P address. `addr` is `None` if no session has reported the address
    /// yet.
    ///
    /// *When:* only with [`I2pOptions::accept_incoming`](crate::i2p::I2pOptions::accept_incoming),
    /// and only on a change: the first success, the first failure, each recovery, each loss, and
    /// when the threads end.
    ///
    /// *Thread:* the I2P-accept thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* with [`StartListening`](crate::i2p::I2pStatus::StartListening),
    /// [`event_new_connection_accepted`](EventHandler::event_new_connection_accepted) for each
    /// peer, on the same thread.
    ///
    /// *A panic:* stops the threads under both policies.
    #[cfg(feature = "i2p")]
    #[doc(alias = "EventI2PStatus")]
    fn event_i2p_status(&self, sockman: &SockMan, addr: Option<&Service>, status: I2pStatus) {
        let _ = (sockman, addr, status);
    }

    /// Reports that a connection was closed because a callback for it panicked. The default does
    /// nothing.
    ///
    /// *When:* only with
    /// [`PanicPolicy::CloseConnection`](crate::options::PanicPolicy::CloseConnection), once, right
    /// after the close. If the callback had closed the connection itself before it panicked, this
    /// callback is not called, and `event_closed` reports the end of an announced connection alone.
    ///
    /// *Thread:* the thread on which the callback panicked: the socket thread or the I2P-accept
    /// thread. No lock is held.
    ///
    /// *May call:* everything. The id is already unknown to the `SockMan`.
    ///
    /// *Comes after it:* [`event_closed`](EventHandler::event_closed) for this id, on the socket
    /// thread.
    ///
    /// *A panic:* stops the threads, although the policy is `PanicPolicy::CloseConnection`.
    fn event_closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        let _ = (sockman, id);
    }

    /// Reports that a connection is closed, by the embedder or by the library. The default does
    /// nothing. Here the handler frees what it keeps for the id.
    ///
    /// *When:* exactly once for each id that was announced, after its close. An id is announced if
    /// [`event_new_connection_accepted`](EventHandler::event_new_connection_accepted) returned
    /// `true` for it, if [`NewConnection::activate`](crate::NewConnection::activate) was called, if
    /// [`event_connect_completed`](EventHandler::event_connect_completed) reported its success, or
    /// if [`event_closed_after_panic`](EventHandler::event_closed_after_panic) named it. It may be
    /// closed by a callback, by another thread, or by the library: after a panic, at the end of
    /// [`SockMan::finish_connection`], in [`SockMan::drain_and_stop`].
    /// [`SockMan::into_stream`] closes the id too, although its stream goes on. A connection that the
    /// handler refused, a connect that failed or was closed before its outcome, and a
    /// [`NewConnection`](crate::NewConnection) that was dropped get no report.
    ///
    /// The report comes at the beginning of a pass or right after its poll. A close makes the next
    /// pass follow without a wait. Reports take about a millisecond of a pass, so the reports of
    /// thousands of closes take several passes.
    ///
    /// While no thread runs, the descriptor of a closed connection is freed at once, and the report
    /// comes first after the next start. An interrupt and a panic in between lose no report. If the
    /// last [`SockMan`] is dropped, its connections are closed without a report.
    ///
    /// *Thread:* the socket thread, also for connections from I2P. No lock is held.
    ///
    /// *May call:* everything. The id is already unknown to the `SockMan`, and its place among the
    /// [`Options::max_connections`](crate::Options::max_connections) is free.
    ///
    /// *Comes after it:* nothing for this id.
    ///
    /// *A panic:* is handled as [`PanicPolicy`](crate::options::PanicPolicy) says. The report
    /// counts as made: neither this callback nor `event_closed_after_panic` names the id again.
    #[doc(alias = "FinalizeNode")]
    fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
        let _ = (sockman, id);
    }

    /// Returns the time at which the loop must run again at the latest, for timers of the embedder.
    /// The default returns `None`, so no timer runs the loop.
    ///
    /// A deadline in the past causes one immediate pass. The same deadline, or an older one, counts
    /// again only at the next sweep. Without a sweep it never counts again. A forgotten timer
    /// therefore does not make the loop spin. The timers of the operating system may be up to 1 ms
    /// late.
    ///
    /// *When:* in every pass, before and after
    /// [`event_io_loop_completed_for_all`](EventHandler::event_io_loop_completed_for_all), in which
    /// an embedder acts on its timers. If the deadline has passed at the first question, the loop
    /// polls and serves what it finds before that callback, once. Data that has arrived is therefore
    /// delivered before the embedder calls its connection late. An embedder that moves the deadline
    /// to an earlier time outside of that callback calls [`SockMan::notify`].
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything, through a [`WeakSockMan`](crate::WeakSockMan).
    ///
    /// *Comes after it:* the poll, which waits until the deadline at the latest, and then the
    /// turns.
    ///
    /// *A panic:* stops the threads under both policies.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    // The library calls the methods below. Each forwards to the method above whose name it bears.
    // The layer `stateful` overrides them, to reach the state of the connection without a look-up.
    // Their parameters have no public constructor, so no embedder can call them.

    /// Returns the type of the state that the handler keeps for each connection.
    #[doc(hidden)]
    fn state_type(&self) -> Option<TypeId> {
        None
    }
    #[doc(hidden)]
    fn place_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
        me: &Service,
        them: &Service,
    ) -> bool {
        let _ = place;
        self.event_new_connection_accepted(sockman, id, me, them)
    }
    /// Prepares the state of a connection that `connect` made.
    #[doc(hidden)]
    fn place_dialled(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>) {
        let _ = (sockman, id, place);
    }
    /// Returns whether the connection stays open.
    #[doc(hidden)]
    fn place_connected(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
        to: &Destination,
        me: &Service,
        value: Option<Box<dyn Any + Send>>,
    ) -> bool {
        let _ = place;
        match value {
            None => self.event_connect_completed(sockman, id, to, Ok(me)),
            Some(value) => self.event_connect_completed_with(sockman, id, to, Ok(me), value),
        }
        true
    }
    #[doc(hidden)]
    fn place_ready_to_send(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
    ) -> NextRecv {
        let _ = place;
        self.event_ready_to_send(sockman, id)
    }
    #[doc(hidden)]
    fn place_got_data(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>, data: &[u8]) {
        let _ = place;
        self.event_got_data(sockman, id, data);
    }
    #[doc(hidden)]
    fn place_got_eof(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>) {
        let _ = place;
        self.event_got_eof(sockman, id);
    }
    #[doc(hidden)]
    fn place_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
        error: &io::Error,
    ) {
        let _ = place;
        self.event_got_permanent_read_error(sockman, id, error);
    }
    #[doc(hidden)]
    fn place_should_try_to_send(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
    ) -> bool {
        let _ = (sockman, place);
        self.should_try_to_send(id)
    }
    /// Returns whether the layer has bytes to send, whatever `should_try_to_send` says at the moment.
    #[doc(hidden)]
    fn place_has_queued(&self, place: Place<'_>) -> bool {
        let _ = place;
        false
    }
    #[doc(hidden)]
    fn place_should_try_to_recv(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
    ) -> bool {
        let _ = (sockman, place);
        self.should_try_to_recv(id)
    }
    #[doc(hidden)]
    fn place_turn_completed(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>) {
        let _ = place;
        self.event_io_loop_completed_for_one(sockman, id);
    }
    #[doc(hidden)]
    fn place_closed(&self, sockman: &SockMan, id: ConnectionId, ended: Ended) {
        let _ = ended;
        self.event_closed(sockman, id);
    }
}
