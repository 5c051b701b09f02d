//! The trait through which the embedder hears what happened.
//!
//! Owns nothing. Its methods run on the socket thread, and three of them on the I2P-accept thread,
//! too: see [`EventHandler`]. The library holds no lock while it calls them.

use std::{io, time::Instant};

#[cfg(feature = "i2p")]
use crate::dial::i2p::I2pStatus;
use crate::{
    address::{Destination, Service},
    dial::ConnectError,
    engine::connection::ConnectionId,
    sockman::SockMan,
};

/// What the socket thread does with the receive direction of a connection right after
/// [`EventHandler::event_ready_to_send`].
///
/// Bitcoin Core calls this `cancel_recv`: there, a node that still has data queued for a peer does
/// not read more requests from it.
#[doc(alias = "cancel_recv")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextRecv {
    /// Receive in this turn too, if there is something to receive.
    Proceed,
    /// Do not receive in this turn. If bytes were sent, the receive direction is looked at again
    /// in the next pass; if none were, it waits for an event, a wake or the sweep.
    Skip,
}

/// What you write: it hears what happened on which connection, and its hooks pause either
/// direction of any connection.
///
/// # Threads and locks
///
/// The socket thread calls the methods one at a time. The only exceptions are I2P's. With
/// `I2pOptions::accept_incoming` there is a second thread, the I2P-accept thread, which calls three
/// methods:
///
/// * [`event_new_connection_accepted`], for a connection from I2P;
/// * [`event_closed_after_panic`], if that callback panicked;
/// * `event_i2p_status`, which the socket thread never calls.
///
/// It may call them while the socket thread calls a method for another id, never while the socket
/// thread calls one for the same id.
///
/// The library holds no lock while it calls, so every method of [`SockMan`] may be called from
/// every callback, on any id, the one being called included. Two calls make no sense in a callback,
/// and return an error: [`SockMan::connect`] (and [`SockMan::connect_and_make_id`]) would block the
/// socket thread, and [`SocketsThreads::join`] would wait for itself.
///
/// A callback that takes long delays every other connection: hand work to a thread of yours, and
/// [`SockMan::wake`] the connection when the answer is queued.
///
/// [`event_new_connection_accepted`]: EventHandler::event_new_connection_accepted
/// [`event_closed_after_panic`]: EventHandler::event_closed_after_panic
///
/// # Panics
///
/// A panic in a callback is never swallowed: see [`PanicPolicy`](crate::options::PanicPolicy).
///
/// # Keeping a `SockMan`
///
/// Every callback is handed one. A handler that wants to keep one keeps a
/// [`WeakSockMan`](crate::WeakSockMan): the `SockMan` owns the handler, and a strong one inside it
/// would be a cycle that nothing frees.
///
/// [`SocketsThreads::join`]: crate::SocketsThreads::join
pub trait EventHandler: Send + Sync {
    /// A listener, or the I2P-accept thread, accepted a connection. Return `true` to keep it,
    /// `false` to have it closed.
    ///
    /// *When:* once for each accepted connection, before anything else about its id. `me` is the
    /// accepted socket's own local address, also when the listener is bound to a wildcard; `them`
    /// is the peer's (an unnamed unix-domain peer has an address value of its own).
    ///
    /// *Thread:* the socket thread; for connections from I2P the I2P-accept thread, possibly while
    /// the socket thread calls a method for another id. No lock is held.
    ///
    /// *May call:* everything; the id can already be sent to and closed.
    ///
    /// *Comes after it:* with `true`, the other callbacks for this id; with `false`, or after the
    /// id was closed in here, nothing: the id is never named again.
    ///
    /// *A panic:* closes the connection; then as [`PanicPolicy`](crate::options::PanicPolicy) says.
    /// With `PanicPolicy::CloseConnection`, [`event_closed_after_panic`] names the id, since you
    /// may have begun to register it; not if the callback had closed the id before it panicked.
    ///
    /// [`event_closed_after_panic`]: EventHandler::event_closed_after_panic
    #[doc(alias = "EventNewConnectionAccepted")]
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        me: &Service,
        them: &Service,
    ) -> bool;

    /// The connection can take bytes: send what is queued for it, with
    /// [`SockMan::send_bytes`] or [`SockMan::send_vectored`].
    ///
    /// *When:* the socket is writable and [`should_try_to_send`] said `true` in this pass; at most
    /// once per connection and pass. If it sends something and the socket would take more, the
    /// hook is asked again in the next pass, without waiting.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* in the same turn possibly [`event_got_data`] (unless it returned
    /// [`NextRecv::Skip`]), and [`event_io_loop_completed_for_one`].
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says.
    ///
    /// [`should_try_to_send`]: EventHandler::should_try_to_send
    /// [`event_got_data`]: EventHandler::event_got_data
    /// [`event_io_loop_completed_for_one`]: EventHandler::event_io_loop_completed_for_one
    ///
    /// The default sends nothing and returns [`NextRecv::Proceed`].
    #[doc(alias = "EventReadyToSend")]
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let _ = (sockman, id);
        NextRecv::Proceed
    }

    /// Bytes arrived. `data` is never empty, and at most [`Options::receive_buffer`] long.
    ///
    /// *When:* the socket is readable and [`should_try_to_recv`] said `true` in this pass; at most
    /// once per connection and pass.
    ///
    /// *Thread:* the socket thread. No lock is held. `data` is the thread's one receive buffer:
    /// copy what is to be kept.
    ///
    /// *May call:* everything. A reply queued in here never waits for the sweep: if the socket is
    /// writable, [`should_try_to_send`] is asked right after.
    ///
    /// *Comes after it:* more data, [`event_got_eof`] or [`event_got_permanent_read_error`].
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says. The bytes count as
    /// delivered.
    ///
    /// [`Options::receive_buffer`]: crate::Options::receive_buffer
    /// [`should_try_to_recv`]: EventHandler::should_try_to_recv
    /// [`should_try_to_send`]: EventHandler::should_try_to_send
    /// [`event_got_eof`]: EventHandler::event_got_eof
    /// [`event_got_permanent_read_error`]: EventHandler::event_got_permanent_read_error
    #[doc(alias = "EventGotData")]
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]);

    /// The peer sends no more: it closed its side, or half-closed it.
    ///
    /// *When:* at most once per connection, after all data. The connection stays open for sending
    /// until you close it; the loop does not spin meanwhile.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything; usually [`SockMan::close_connection`], or it remembers to close
    /// once what is queued has been sent.
    ///
    /// *Comes after it:* no data. A reset is still told, once, by
    /// [`event_got_permanent_read_error`](EventHandler::event_got_permanent_read_error).
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "EventGotEOF")]
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId);

    /// Receiving failed for good (a reset, a time-out of the kernel's, a registration with the
    /// poller that failed).
    ///
    /// *When:* at most once per connection, after all data that came before it. While reads are
    /// paused it waits; but for a failed registration, which is told at once.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything; usually [`SockMan::close_connection`]. The library does not close
    /// it for you: the id stays yours until you do.
    ///
    /// *Comes after it:* no data and no EOF.
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "EventGotPermanentReadError")]
    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    );

    /// A connect that [`SockMan::start_connect`] began is over. Provided: does nothing.
    ///
    /// `Ok` holds this side's address: the connection is there, and is polled from now on. `to` is
    /// what was asked for, so that no table of attempts is needed.
    ///
    /// *When:* once for each `start_connect` that returned an id, unless the id was closed before.
    /// At most [`Options::accept_batch`] in one pass.
    ///
    /// *Thread:* the socket thread, maybe before `start_connect` has returned elsewhere. No lock is
    /// held.
    ///
    /// *May call:* everything. With `Ok` the id can already be sent to and closed; with an error,
    /// its place among the [`Options::max_connections`] is free for another connect.
    ///
    /// *Comes after it:* with `Ok`, the other callbacks for this id; with an error, or after the id
    /// was closed in here, nothing: the id is never named again.
    ///
    /// *A panic:* closes the connection, if there is one; then as
    /// [`PanicPolicy`](crate::options::PanicPolicy) says.
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

    /// Is there something to send on this connection? Provided: `true`.
    ///
    /// *When:* before each [`event_ready_to_send`], if the socket is writable: after an event that
    /// made it so, a [`SockMan::wake`], data that arrived, a send that left room, and at the
    /// sweep.
    ///
    /// *Thread:* the socket thread. No lock is held; keep it short, it is asked often.
    ///
    /// *Comes after it:* with `true`, [`event_ready_to_send`]. With `false` the direction rests
    /// until one of the occasions above. A changed answer takes effect at once on
    /// [`SockMan::wake`], otherwise at the next sweep.
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says.
    ///
    /// [`event_ready_to_send`]: EventHandler::event_ready_to_send
    #[doc(alias = "ShouldTryToSend")]
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let _ = id;
        true
    }

    /// Shall this connection be read from? Provided: `true`.
    ///
    /// *When:* before each receive, if the socket is readable.
    ///
    /// *Thread:* the socket thread. No lock is held; keep it short, it is asked often.
    ///
    /// *Comes after it:* with `true`, a receive. With `false` nothing is read: data, EOF and read
    /// errors wait, the kernel's receive buffer fills, and TCP slows the peer down. A changed
    /// answer takes effect at once on [`SockMan::wake`], otherwise at the next sweep.
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "ShouldTryToRecv")]
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        let _ = id;
        true
    }

    /// The turn of one connection is over. Provided: does nothing.
    ///
    /// *When:* at the end of each turn of the connection: after an event on it, a
    /// [`SockMan::wake`], work left by the turn before, and for every connection at each sweep
    /// ([`Options::sweep`](crate::Options::sweep), 50 ms by default). Good for inactivity
    /// time-outs.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *A panic:* as [`PanicPolicy`](crate::options::PanicPolicy) says.
    #[doc(alias = "EventIOLoopCompletedForOne")]
    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        let _ = (sockman, id);
    }

    /// A pass of the loop begins. Provided: does nothing.
    ///
    /// *When:* at the start of every pass, before the loop goes to sleep: after I/O, a wake, a
    /// [`SockMan::notify`], a deadline, and at least once per sweep.
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* [`next_deadline`](EventHandler::next_deadline).
    ///
    /// *A panic:* stops the threads under both policies, since there is no connection to blame.
    #[doc(alias = "EventIOLoopCompletedForAll")]
    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let _ = sockman;
    }

    /// Whether the I2P router accepts connections to us has changed. Provided: does nothing. Core's
    /// `EventI2PStatus`.
    ///
    /// *When:* only with
    /// [`I2pOptions::accept_incoming`](crate::i2p::I2pOptions::accept_incoming), and only on a
    /// change: the first success, the first failure, each recovery, each loss, and when the threads
    /// end. `addr` is our own address; `None` if no session has told it yet.
    ///
    /// *Thread:* the I2P-accept thread. No lock is held.
    ///
    /// *May call:* everything.
    ///
    /// *Comes after it:* after [`StartListening`](crate::i2p::I2pStatus::StartListening),
    /// [`event_new_connection_accepted`](EventHandler::event_new_connection_accepted) on the same
    /// thread for each peer.
    ///
    /// *A panic:* stops the threads.
    #[cfg(feature = "i2p")]
    #[doc(alias = "EventI2PStatus")]
    fn event_i2p_status(&self, sockman: &SockMan, addr: Option<&Service>, status: I2pStatus) {
        let _ = (sockman, addr, status);
    }

    /// A connection was closed because a callback for it panicked. Provided: does nothing.
    ///
    /// *When:* only with
    /// [`PanicPolicy::CloseConnection`](crate::options::PanicPolicy::CloseConnection), once, right
    /// after the close. Not if the callback had closed the id before it panicked.
    ///
    /// *Thread:* the one that the panic was on: the socket thread, or the I2P-accept thread. No
    /// lock is held.
    ///
    /// *May call:* everything; the id is already unknown.
    ///
    /// *Comes after it:* nothing for this id.
    ///
    /// *A panic:* stops the threads.
    fn event_closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        let _ = (sockman, id);
    }

    /// When does the loop have to run again at the latest, for timers of yours? Provided: `None`.
    ///
    /// *When:* in every pass, right after
    /// [`event_io_loop_completed_for_all`](EventHandler::event_io_loop_completed_for_all), which
    /// is where timers are acted upon. If it changes to an earlier time elsewhere, call
    /// [`SockMan::notify`].
    ///
    /// *Thread:* the socket thread. No lock is held.
    ///
    /// *Limit:* a deadline in the past gives one immediate pass; the same or an older one counts
    /// again only at the next sweep, so that a forgotten timer does not make the loop spin. The
    /// operating system's timers may be up to 1 ms late.
    ///
    /// *A panic:* stops the threads under both policies.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
