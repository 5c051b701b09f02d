//! [`SendQueue`] is an optional queue of outgoing bytes for one connection. Most embedders need a
//! queue like this one.
//!
//! The embedder owns a queue and uses it from any thread. The queue has one mutex. A push holds the
//! mutex while it sends and queues. A drain holds the mutex while it sends. The mutex is taken
//! before the library's locks, never after one of them.

#[cfg(doc)]
use std::io;
use std::{io::IoSlice, iter, sync::Arc};

use super::{
    Drained, Piece, PushError, SendBudget, SendQueueLimits, SendQueueWriter,
    outlet::Outlet,
    push_error::Failure,
    send_budget::Share,
    send_pieces::{PIECES_PER_SEND, Pieces, length_of},
};
use crate::{
    engine::connection::ConnectionId,
    error::SendError,
    options::More,
    sockman::SockMan,
    sys::sync::Mutex,
    sys::sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// The most bytes that one drain offers to the kernel, so that one fast reader does not delay the
/// other connections. Larger sends are not faster.
const BYTES_PER_DRAIN: usize = 256 * 1024;

/// A bounded queue of outgoing bytes for one connection.
///
/// The queue sends at once what the kernel takes and queues the rest, in order. The queue wakes the
/// socket thread only when a wake is needed. The queue tells the kernel when more data follows
/// ([`More::Follows`]). A high and a low mark of the queue serve back-pressure. The embedder uses
/// the queue in four places:
///
/// * [`should_try_to_send`](crate::EventHandler::should_try_to_send) returns
///   [`has_queued`](SendQueue::has_queued);
/// * [`event_ready_to_send`](crate::EventHandler::event_ready_to_send) calls
///   [`drain`](SendQueue::drain);
/// * [`should_try_to_recv`](crate::EventHandler::should_try_to_recv) returns
///   `!`[`is_above_high_mark`](SendQueue::is_above_high_mark), so that the library reads no further
///   requests from a peer that does not read its replies;
/// * code that has something to send, on any thread, calls [`push`](SendQueue::push), which sends
///   at once, or [`enqueue`](SendQueue::enqueue), which lets the socket thread send.
///
/// The bytes of one thread's pushes are sent in the order of the pushes. The bytes of one push are
/// never mixed with those of another push. An enqueue is a push in this sense.
///
/// | To send | Method |
/// |---|---|
/// | an answer, now | [`push`](SendQueue::push) |
/// | many small messages to one peer, such as the lines of a chat | [`enqueue`](SendQueue::enqueue): one system call for all |
/// | one message to many peers | [`push_shared`](SendQueue::push_shared), [`enqueue_shared`](SendQueue::enqueue_shared): one allocation for all |
/// | a header and a body as one message | [`push_pieces`](SendQueue::push_pieces), [`enqueue_pieces`](SendQueue::enqueue_pieces) |
/// | the output of code that takes an [`io::Write`] | [`writer`](SendQueue::writer) |
///
/// # Examples
///
/// ```
/// use sockman::{ConnectionId, NextRecv, SendQueue, SockMan, helpers::ConnectionTable};
///
/// struct Handler {
///     queues: ConnectionTable<SendQueue>,
/// }
///
/// // The `EventHandler` calls these methods:
/// impl Handler {
///     fn should_try_to_send(&self, id: ConnectionId) -> bool {
///         self.queues.find(id).is_some_and(|queue| queue.has_queued())
///     }
///     fn should_try_to_recv(&self, id: ConnectionId) -> bool {
///         self.queues.find(id).is_some_and(|queue| !queue.is_above_high_mark())
///     }
///     fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
///         if let Some(queue) = self.queues.find(id) {
///             if queue.drain(sockman).is_err() {
///                 sockman.close_connection(id);
///             }
///         }
///         NextRecv::Proceed
///     }
///     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
///         if let Some(queue) = self.queues.find(id) {
///             if queue.push(sockman, data).is_err() {
///                 sockman.close_connection(id);
///             }
///         }
///     }
///     fn event_closed(&self, _: &SockMan, id: ConnectionId) {
///         self.queues.remove(id);
///     }
/// }
/// ```
#[derive(Debug)]
pub struct SendQueue {
    id: ConnectionId,
    limits: SendQueueLimits,
    queue: Mutex<Queue>,
    /// The length of the queue. The hooks read it without the mutex: the library asks the hooks
    /// often, and a hook must not wait for a push.
    queued: AtomicUsize,
    above_high_mark: AtomicBool,
}

/// What the mutex protects.
#[derive(Debug)]
struct Queue {
    pieces: Pieces,
    /// The connections that a drain wakes at the low mark.
    resumes: Resumes,
    /// The error of the last send, if that send found the socket broken.
    failure: Option<Failure>,
    /// The part of a budget that the pieces take.
    share: Option<Share>,
    /// Whether a part of a push was sent and the rest was refused, so that nothing may follow.
    is_cut: bool,
}

/// What a call has done to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Grew,
    Shrank,
}

#[derive(Debug)]
enum Resumes {
    Itself,
    Others(Box<[ConnectionId]>),
}

impl Queue {
    /// Returns the limit of the budget, for an error.
    fn budget(&self) -> usize {
        self.share.as_ref().map_or(0, Share::limit)
    }
}

impl SendQueue {
    /// Returns an empty queue for the connection `id`.
    #[must_use]
    pub fn new(id: ConnectionId, limits: SendQueueLimits) -> SendQueue {
        SendQueue::with_share(id, limits, None)
    }

    fn with_share(id: ConnectionId, limits: SendQueueLimits, share: Option<Share>) -> SendQueue {
        SendQueue {
            id,
            limits,
            queue: Mutex::new(Queue {
                pieces: Pieces::default(),
                resumes: Resumes::Itself,
                failure: None,
                share,
                is_cut: false,
            }),
            queued: AtomicUsize::new(0),
            above_high_mark: AtomicBool::new(false),
        }
    }

    /// Returns an empty queue for the connection `id` that shares the memory of `budget` with other
    /// queues. A server for strangers needs a budget: [`SendBudget`] says why.
    #[must_use]
    pub fn with_budget(
        id: ConnectionId,
        limits: SendQueueLimits,
        budget: &SendBudget,
    ) -> SendQueue {
        SendQueue::with_share(id, limits, Some(Share::new(budget)))
    }

    /// Returns the id of the connection that the queue sends on.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Names the connections that a [`drain`](SendQueue::drain) wakes when the queue falls to its
    /// low mark. By default, it wakes the connection that the queue sends on.
    ///
    /// A relay needs this method. There, the bytes in the queue of one connection come from another
    /// connection, and that other connection is not read while the queue is above its high mark.
    /// With the [`sweep`](crate::Options::sweep) off, only a wake makes the library read it again.
    ///
    /// Call this method before the first push, because a drain wakes the connections that are named
    /// at that time. Any thread may call it. A second call replaces the connections of the first
    /// one. An id of a closed connection does no harm. The number of ids has no limit.
    ///
    /// Neither a drain that fails nor the close of the queue's own connection wakes the named
    /// connections. A relay therefore closes, finishes or wakes the other side in
    /// [`event_closed`](crate::EventHandler::event_closed).
    ///
    /// # Examples
    ///
    /// A relay of two connections. Each side has a queue for the bytes that go to that side.
    ///
    /// ```
    /// use sockman::{
    ///     ConnectionId, NextRecv, SendQueue, SockMan,
    ///     helpers::{ConnectionTable, SendQueueLimits},
    /// };
    ///
    /// struct Side {
    ///     other: ConnectionId,
    ///     /// The bytes that go to this side. They come from the other side.
    ///     queue: SendQueue,
    /// }
    ///
    /// #[derive(Default)]
    /// struct Relay {
    ///     sides: ConnectionTable<Side>,
    /// }
    ///
    /// impl Relay {
    ///     fn pair(&self, a: ConnectionId, b: ConnectionId) {
    ///         for (id, other) in [(a, b), (b, a)] {
    ///             let queue = SendQueue::new(id, SendQueueLimits::default());
    ///             queue.resumes([other]);
    ///             self.sides.insert(id, Side { other, queue });
    ///         }
    ///     }
    ///
    ///     /// The side to which the bytes from `id` go.
    ///     fn other(&self, id: ConnectionId) -> Option<std::sync::Arc<Side>> {
    ///         self.sides.find(self.sides.find(id)?.other)
    ///     }
    /// }
    ///
    /// // The `EventHandler` calls these methods:
    /// impl Relay {
    ///     fn should_try_to_recv(&self, id: ConnectionId) -> bool {
    ///         self.other(id).is_some_and(|to| !to.queue.is_above_high_mark())
    ///     }
    ///     fn should_try_to_send(&self, id: ConnectionId) -> bool {
    ///         self.sides.find(id).is_some_and(|side| side.queue.has_queued())
    ///     }
    ///     fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
    ///         if self.sides.find(id).is_some_and(|side| side.queue.drain(sockman).is_err()) {
    ///             sockman.close_connection(id);
    ///         }
    ///         NextRecv::Proceed
    ///     }
    ///     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
    ///         if self.other(id).is_some_and(|to| to.queue.push(sockman, data).is_err()) {
    ///             sockman.close_connection(id);
    ///         }
    ///     }
    ///     fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
    ///         if let Some(side) = self.sides.remove(id) {
    ///             sockman.close_connection(side.other);
    ///         }
    ///     }
    /// }
    /// ```
    pub fn resumes(&self, ids: impl IntoIterator<Item = ConnectionId>) {
        let resumes = Resumes::Others(ids.into_iter().collect());
        self.queue.lock().resumes = resumes;
    }

    /// Sends `data`, or queues what the kernel does not take now.
    ///
    /// Any thread may call this method, which waits for the queue's mutex. Another thread holds the
    /// mutex for at most the time of one system call.
    ///
    /// # Errors
    ///
    /// * [`PushError::Send`] if the connection is closed or broken;
    /// * [`PushError::Full`] if the queue would grow beyond its limit;
    /// * [`PushError::OverBudget`] if the queue would grow beyond the budget that it shares.
    ///
    /// In the first two cases, no byte of `data` was sent or queued. In the third case, a part may
    /// have been sent. The queue then refuses all further pushes in the same way. A push behind
    /// queued bytes makes no system call, so it finds a broken connection only after a push or a
    /// drain has failed.
    pub fn push(&self, sockman: &SockMan, data: &[u8]) -> Result<(), PushError> {
        self.push_with(sockman, data, More::No)
    }

    /// Works as [`push`](SendQueue::push), for a caller that knows whether another push follows at
    /// once. If another push follows, a packet that is not full may wait for that push.
    ///
    /// # Errors
    ///
    /// As [`push`](SendQueue::push).
    #[doc(alias = "will_send_more")]
    pub fn push_with(&self, sockman: &SockMan, data: &[u8], more: More) -> Result<(), PushError> {
        self.push_to(sockman, data, more)
    }

    /// Does what [`push_with`](SendQueue::push_with) does, over an outlet.
    pub(crate) fn push_to(
        &self,
        sockman: &impl Outlet,
        data: &[u8],
        more: More,
    ) -> Result<(), PushError> {
        self.push_slices(sockman, iter::once(Piece::Bytes(data)), &[IoSlice::new(data)], more)
    }

    /// Works as [`push`](SendQueue::push), for bytes that other queues send too. The queue keeps a
    /// reference to what the kernel does not take now, instead of a copy. One message to thousands
    /// of peers is therefore one allocation.
    ///
    /// The bytes count in [`queued`](SendQueue::queued), for the marks and for the limit as if the
    /// queue held a copy. [`SendBudget`] says how the bytes count in a budget.
    ///
    /// # Errors
    ///
    /// As [`push`](SendQueue::push).
    pub fn push_shared(&self, sockman: &SockMan, data: &Arc<[u8]>) -> Result<(), PushError> {
        self.push_slices(sockman, iter::once(Piece::Shared(data)), &[IoSlice::new(data)], More::No)
    }

    /// Works as [`push`](SendQueue::push), for one message that consists of several pieces. One
    /// system call sends up to 64 pieces. [`Piece`] has an example.
    ///
    /// # Errors
    ///
    /// As [`push`](SendQueue::push).
    pub fn push_pieces(&self, sockman: &SockMan, pieces: &[Piece<'_>]) -> Result<(), PushError> {
        self.push_pieces_to(sockman, pieces)
    }

    /// Does what [`push_pieces`](SendQueue::push_pieces) does, over an outlet.
    pub(crate) fn push_pieces_to(
        &self,
        sockman: &impl Outlet,
        pieces: &[Piece<'_>],
    ) -> Result<(), PushError> {
        let mut slices = [IoSlice::new(&[]); PIECES_PER_SEND];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece.as_bytes());
        }
        let slices = slices.get(..pieces.len()).unwrap_or(&slices);
        let more = More::from(slices.len() < pieces.len());
        self.push_slices(sockman, pieces.iter().copied(), slices, more)
    }

    /// Sends the slices, which are the pieces or the first ones of them, and queues the rest.
    fn push_slices<'a>(
        &self,
        sockman: &impl Outlet,
        pieces: impl Iterator<Item = Piece<'a>> + Clone,
        slices: &[IoSlice<'_>],
        more: More,
    ) -> Result<(), PushError> {
        let length = length_of(pieces.clone());
        let must_wake = {
            let queue = &mut *self.queue.lock();
            let was_empty = queue.pieces.is_empty();
            let is_full = self.is_full_with(queue, length);
            if !was_empty || is_full || queue.is_cut {
                self.check_open(sockman, queue).map_err(PushError::Send)?;
            }
            if is_full {
                return Err(PushError::Full { limit: self.limits.limit() });
            }
            let sent = if was_empty && !queue.is_cut {
                self.send(sockman, &mut queue.failure, slices, more).map_err(PushError::Send)?
            } else {
                0
            };
            if was_empty && sent == length && !queue.is_cut {
                return Ok(());
            }
            if queue.is_cut || !queue.pieces.append(pieces, sent, queue.share.as_mut()) {
                queue.is_cut |= sent > 0;
                return Err(PushError::OverBudget { limit: queue.budget(), sent });
            }
            self.publish(queue, Change::Grew);
            was_empty && !queue.pieces.is_empty()
        };
        // The wake comes after the queueing, because the kernel may have reported new room before
        // the bytes were queued. If the queue was not empty, another drain follows in any case, and
        // sends the bytes of this push too.
        if must_wake {
            sockman.wake(self.id);
        }
        Ok(())
    }

    /// Queues `data` without sending it. The socket thread sends all that is queued with one system
    /// call, when it asks the hooks next: in a callback, right after the callbacks of this pass; on
    /// another thread, at once.
    ///
    /// Use this method for many small messages to one peer. Each [`push`](SendQueue::push) makes a
    /// system call while the peer reads; this method makes none. On a thread other than the socket
    /// thread, the first enqueue after a drain may wake the socket thread, as a push does that is
    /// not sent whole. For one answer to one request, a push is faster.
    ///
    /// The queue needs room for everything that is queued until the drain, also if the peer reads
    /// at once. A limit or a budget that suits pushes may be too small.
    ///
    /// Any thread may call this method. Pushes and enqueues may be mixed.
    ///
    /// # Errors
    ///
    /// * [`PushError::Send`] if the connection is closed, or if an earlier push or drain found the
    ///   connection broken;
    /// * [`PushError::Full`] if the queue would grow beyond its limit;
    /// * [`PushError::OverBudget`] if the queue would grow beyond the budget that it shares.
    ///
    /// In all cases, no byte of `data` was sent or queued. After `Full` and `OverBudget`, the
    /// caller may [`drain`](SendQueue::drain) the queue and try again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{ConnectionId, SendQueue, SockMan, helpers::ConnectionTable};
    /// /// Sends a line to all members of a chat.
    /// fn send_to_all(sockman: &SockMan, members: &ConnectionTable<SendQueue>, line: &[u8]) {
    ///     for (id, queue) in members.all() {
    ///         if queue.enqueue(sockman, line).is_err() {
    ///             sockman.close_connection(id); // `event_closed` removes the member.
    ///         }
    ///     }
    /// }
    /// ```
    pub fn enqueue(&self, sockman: &SockMan, data: &[u8]) -> Result<(), PushError> {
        self.enqueue_all(sockman, iter::once(Piece::Bytes(data)))
    }

    /// Works as [`enqueue`](SendQueue::enqueue), for bytes that other queues send too. The queue
    /// keeps a reference instead of a copy, as [`push_shared`](SendQueue::push_shared) does.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](SendQueue::enqueue).
    pub fn enqueue_shared(&self, sockman: &SockMan, data: &Arc<[u8]>) -> Result<(), PushError> {
        self.enqueue_all(sockman, iter::once(Piece::Shared(data)))
    }

    /// Works as [`enqueue`](SendQueue::enqueue), for one message that consists of several pieces.
    /// The number of pieces has no limit.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](SendQueue::enqueue).
    pub fn enqueue_pieces(&self, sockman: &SockMan, pieces: &[Piece<'_>]) -> Result<(), PushError> {
        self.enqueue_all(sockman, pieces.iter().copied())
    }

    /// Works as [`enqueue`](SendQueue::enqueue), for bytes of which the queue may take a part. Returns
    /// how many bytes it took. This is what code expects that repeats the rest when there is room:
    /// [`io::Write`], LDK's `send_data`.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](SendQueue::enqueue). [`PushError::Full`] means that the queue is at its limit
    /// and took nothing. It holds bytes then, so a ready-to-send callback follows when the peer
    /// reads. After [`PushError::OverBudget`], no callback may follow: close the connection.
    pub fn enqueue_part(&self, sockman: &SockMan, data: &[u8]) -> Result<usize, PushError> {
        self.enqueue_part_to(sockman, data)
    }

    /// Does what [`enqueue_part`](SendQueue::enqueue_part) does, over an outlet.
    pub(crate) fn enqueue_part_to(
        &self,
        sockman: &impl Outlet,
        data: &[u8],
    ) -> Result<usize, PushError> {
        let mut taken = 0;
        self.enqueue_within(sockman, |room| {
            taken = room.min(data.len());
            iter::once(Piece::Bytes(data.get(..taken).unwrap_or_default()))
        })?;
        if taken == 0 && !data.is_empty() {
            return Err(PushError::Full { limit: self.limits.limit() });
        }
        Ok(taken)
    }

    /// Does what [`enqueue_pieces`](SendQueue::enqueue_pieces) does, over an outlet.
    pub(crate) fn enqueue_all<'a>(
        &self,
        sockman: &impl Outlet,
        pieces: impl Iterator<Item = Piece<'a>> + Clone,
    ) -> Result<(), PushError> {
        self.enqueue_within(sockman, |_room| pieces)
    }

    /// Enqueues the pieces for the number of bytes that the queue has room for.
    fn enqueue_within<'a, I: Iterator<Item = Piece<'a>> + Clone>(
        &self,
        sockman: &impl Outlet,
        pieces: impl FnOnce(usize) -> I,
    ) -> Result<(), PushError> {
        let must_wake = {
            let queue = &mut *self.queue.lock();
            let was_empty = queue.pieces.is_empty();
            self.check_open(sockman, queue).map_err(PushError::Send)?;
            let pieces = pieces(self.limits.limit().saturating_sub(queue.pieces.len()));
            if self.is_full_with(queue, length_of(pieces.clone())) {
                return Err(PushError::Full { limit: self.limits.limit() });
            }
            if queue.is_cut || !queue.pieces.append(pieces, 0, queue.share.as_mut()) {
                return Err(PushError::OverBudget { limit: queue.budget(), sent: 0 });
            }
            self.publish(queue, Change::Grew);
            was_empty && !queue.pieces.is_empty()
        };
        // As in a push, the wake comes after the queueing. Whoever queued the first bytes has woken
        // the connection or is about to do so.
        if must_wake {
            sockman.wake(self.id);
        }
        Ok(())
    }

    /// Returns a writer that enqueues what is written into it, for code that takes an
    /// [`io::Write`]. A writer costs nothing: make one for each use.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{SendQueue, SockMan};
    /// use std::io::{self, Write};
    ///
    /// fn greet(sockman: &SockMan, queue: &SendQueue, name: &str) -> io::Result<()> {
    ///     writeln!(queue.writer(sockman), "welcome, {name}")
    /// }
    /// ```
    #[must_use]
    pub fn writer<'a>(&'a self, sockman: &'a SockMan) -> SendQueueWriter<'a> {
        SendQueueWriter::new(self, sockman)
    }

    /// Sends as many queued bytes as the kernel takes, and returns what the call did.
    /// Call this method in [`event_ready_to_send`](crate::EventHandler::event_ready_to_send).
    ///
    /// One call offers at most 256 KiB and 64 pieces to the kernel, so that the other connections
    /// get their turns. The socket thread calls `event_ready_to_send` again if the queue holds
    /// more.
    ///
    /// When the queue falls to the low mark, the drain wakes the connection, or the connections
    /// that [`resumes`](SendQueue::resumes) named, so that reading resumes.
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`]. The queue stays unchanged. A drain of an empty queue sends
    /// nothing and succeeds, also if the connection is closed.
    pub fn drain(&self, sockman: &SockMan) -> Result<Drained, SendError> {
        self.drain_to(sockman, usize::MAX)
    }

    /// Works as [`drain`](SendQueue::drain), and sends at most `limit` bytes. For a connection
    /// whose rate is limited: see [`RateLimiter`](super::RateLimiter).
    ///
    /// With a `limit` of 0, the call sends nothing.
    ///
    /// # Errors
    ///
    /// As [`drain`](SendQueue::drain).
    pub fn drain_at_most(&self, sockman: &SockMan, limit: usize) -> Result<Drained, SendError> {
        self.drain_to(sockman, limit)
    }

    /// Does what [`drain_at_most`](SendQueue::drain_at_most) does, over an outlet.
    pub(crate) fn drain_to(
        &self,
        sockman: &impl Outlet,
        limit: usize,
    ) -> Result<Drained, SendError> {
        let queue = &mut *self.queue.lock();
        let length = queue.pieces.len();
        let limit = limit.min(BYTES_PER_DRAIN);
        if length == 0 || limit == 0 {
            return Ok(Drained { sent: 0, left: length, resumed: false });
        }
        let sent = match queue.pieces.only(limit) {
            Some(bytes) => {
                let more = More::from(bytes.len() < length);
                self.send(sockman, &mut queue.failure, &[IoSlice::new(bytes)], more)?
            }
            None => self.send_first(sockman, queue, limit)?,
        };
        queue.pieces.remove_first(sent, queue.share.as_mut());
        let resumed = self.publish(queue, Change::Shrank);
        if resumed {
            match &queue.resumes {
                Resumes::Itself => sockman.wake(self.id),
                Resumes::Others(ids) => ids.iter().for_each(|id| sockman.wake(*id)),
            }
        }
        Ok(Drained { sent, left: length - sent, resumed })
    }

    /// Sends the first pieces, at most `limit` bytes.
    #[inline(never)]
    fn send_first(
        &self,
        sockman: &impl Outlet,
        queue: &mut Queue,
        limit: usize,
    ) -> Result<usize, SendError> {
        let mut slices = [IoSlice::new(&[]); PIECES_PER_SEND];
        let (count, bytes) = queue.pieces.first(limit, &mut slices);
        let slices = slices.get(..count).unwrap_or_default();
        let more = More::from(bytes < queue.pieces.len());
        self.send(sockman, &mut queue.failure, slices, more)
    }

    /// Takes what is queued out of the queue, because the connection is closed. Each later push
    /// fails.
    pub(crate) fn take(&self) -> Pieces {
        let queue = &mut *self.queue.lock();
        let pieces = queue.pieces.take(queue.share.as_mut());
        self.publish(queue, Change::Shrank);
        pieces
    }

    /// Sends the pieces, and remembers in `failure` whether the socket is broken.
    #[inline]
    fn send(
        &self,
        sockman: &impl Outlet,
        failure: &mut Option<Failure>,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        let sent = match pieces {
            [piece] => sockman.send(self.id, piece, more),
            pieces => sockman.send_with(self.id, pieces, more),
        };
        // Nearly all sends find no failure and leave none.
        if sent.is_err() || failure.is_some() {
            *failure = sent.as_ref().err().and_then(Failure::of);
        }
        sent
    }

    /// Returns an error if the connection is closed, or if the last send failed. Makes no system
    /// call.
    fn check_open(&self, sockman: &impl Outlet, queue: &Queue) -> Result<(), SendError> {
        sockman.check_open(self.id)?;
        match queue.failure {
            None => Ok(()),
            Some(failure) => Err(SendError::Socket { id: self.id, source: failure.error() }),
        }
    }

    /// Returns whether the queue would exceed its limit with `more` bytes.
    #[inline]
    fn is_full_with(&self, queue: &Queue, more: usize) -> bool {
        more > self.limits.limit().saturating_sub(queue.pieces.len())
    }

    /// Returns whether the queue holds any bytes.
    #[must_use]
    #[inline]
    pub fn has_queued(&self) -> bool {
        self.queued() != 0
    }

    /// Returns the number of queued bytes.
    #[must_use]
    #[inline]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Returns whether the queue has grown to its high mark and has not shrunk to its low mark
    /// since then. With a [`SendBudget`], both marks are at most what the budget had left.
    #[must_use]
    #[inline]
    pub fn is_above_high_mark(&self) -> bool {
        self.above_high_mark.load(Ordering::Acquire)
    }

    /// Publishes the length for the hooks. Returns `true` if the length fell to the low mark. The
    /// caller holds the mutex.
    ///
    /// Only a drain ends the state above the high mark, because only a drain wakes the connections
    /// that wait for it. A push could otherwise end it when the budget has grown.
    fn publish(&self, queue: &Queue, change: Change) -> bool {
        let length = queue.pieces.len();
        self.queued.store(length, Ordering::Release);
        let left = queue.share.as_ref().map_or(usize::MAX, Share::left);
        if length > 0 && length >= self.limits.high_mark().min(left) {
            self.above_high_mark.store(true, Ordering::Release);
            false
        } else {
            change == Change::Shrank
                && length <= self.limits.low_mark()
                && self.above_high_mark.swap(false, Ordering::AcqRel)
        }
    }
}
