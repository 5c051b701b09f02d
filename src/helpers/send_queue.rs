//! [`SendQueue`] is an optional queue of outgoing bytes for one connection. Most embedders need a
//! queue like this one.
//!
//! The embedder owns a queue and uses it from any thread. The queue has one mutex. A push holds the
//! mutex while it sends and queues. A drain holds the mutex while it sends. The mutex is taken
//! before the library's locks, never after one of them.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::{self, IoSlice},
};

use super::{SendBudget, send_budget::Share};
use crate::{
    engine::connection::ConnectionId,
    error::{InvalidOption, SendError},
    options::More,
    sockman::SockMan,
    sys::sync::Mutex,
    sys::sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Bitcoin Core pauses reading from a peer at its `-maxsendbuffer`, one million bytes.
const DEFAULT_HIGH_MARK: usize = 1_000_000;
/// The default low mark: half of the high mark, to avoid rapid pausing and resuming.
const DEFAULT_LOW_MARK: usize = DEFAULT_HIGH_MARK / 2;
/// The default limit: room for four large messages above the high mark. The limit stops an embedder
/// that continues to push above the high mark.
const DEFAULT_LIMIT: usize = 16_000_000;
/// The most bytes that one drain offers to the kernel, so that one fast reader does not delay the
/// other connections. Larger sends are not faster.
const BYTES_PER_DRAIN: usize = 256 * 1024;
/// An empty queue keeps a buffer up to this size for the next push. With a budget, it keeps none.
const KEPT_CAPACITY: usize = 16 * 1024;
/// A buffer shrinks if it could hold this many times the bytes that are left. A peer that leaves a
/// few bytes unread must not keep the memory of all that it has read.
const SHRINK_AT: usize = 4;

/// The marks and the limit of a [`SendQueue`], in bytes.
///
/// Default: a low mark of half a million bytes; a high mark of one million bytes, as Core's
/// `-maxsendbuffer`; a limit of 16 million bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendQueueLimits {
    low_mark: usize,
    high_mark: usize,
    limit: usize,
}

impl Default for SendQueueLimits {
    fn default() -> SendQueueLimits {
        SendQueueLimits {
            low_mark: DEFAULT_LOW_MARK,
            high_mark: DEFAULT_HIGH_MARK,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl SendQueueLimits {
    /// Returns limits with these two marks and this limit, in bytes. The compiler can evaluate the
    /// call at compile time.
    ///
    /// * From `high_mark` queued bytes on, [`SendQueue::is_above_high_mark`] returns `true`.
    /// * At `low_mark` queued bytes, it returns `false` again.
    /// * `limit` is the most bytes that may be queued. A push that would exceed the limit is
    ///   refused as a whole, before any byte is sent. A push that is longer than the limit never
    ///   succeeds.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] unless `low_mark < high_mark <= limit`.
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman::helpers::SendQueueLimits;
    ///
    /// let limits = SendQueueLimits::new(64 * 1024, 256 * 1024, 4 * 1024 * 1024)?;
    /// assert!(SendQueueLimits::new(2, 1, 3).is_err());
    /// # Ok::<(), sockman::error::InvalidOption>(())
    /// ```
    pub const fn new(
        low_mark: usize,
        high_mark: usize,
        limit: usize,
    ) -> Result<SendQueueLimits, InvalidOption> {
        if low_mark >= high_mark || high_mark > limit {
            let requirement = "requires low_mark < high_mark <= limit";
            return Err(InvalidOption::new("SendQueueLimits::new", requirement));
        }
        Ok(SendQueueLimits { low_mark, high_mark, limit })
    }
}

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
/// * code that has something to send, on any thread, calls [`push`](SendQueue::push).
///
/// The bytes of one thread's pushes are sent in the order of the pushes. The bytes of one push are
/// never mixed with those of another push.
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
    bytes: VecDeque<u8>,
    /// The connections that a drain wakes at the low mark.
    resumes: Resumes,
    /// The error of the last send, if that send found the socket broken.
    failure: Option<Failure>,
    /// The part of a budget that the buffer takes.
    share: Option<Share>,
    /// Whether a part of a push was sent and the rest was refused, so that nothing may follow.
    is_cut: bool,
}

impl Queue {
    /// Makes room for `more` bytes. Returns `false` if the budget does not allow that.
    fn reserve(&mut self, more: usize) -> bool {
        let Some(share) = &mut self.share else { return true };
        let (capacity, needed) = (self.bytes.capacity(), self.bytes.len() + more);
        if needed <= capacity {
            return true;
        }
        // Twice the capacity, so that many small pushes do not copy the bytes each time.
        let targets = [needed.max(capacity.saturating_mul(2)), needed];
        let Some(target) = targets.into_iter().find(|target| share.grow_to(*target)) else {
            return false;
        };
        self.bytes.reserve_exact(target - self.bytes.len());
        true
    }

    /// Frees memory that the bytes no longer need.
    fn shrink(&mut self) {
        let (length, capacity) = (self.bytes.len(), self.bytes.capacity());
        if length == 0 && self.share.is_some() {
            self.bytes = VecDeque::new();
        } else if capacity > KEPT_CAPACITY && capacity / SHRINK_AT >= length {
            self.bytes.shrink_to((length * 2).max(KEPT_CAPACITY));
        }
        if let Some(share) = &mut self.share {
            share.shrink_to(self.bytes.capacity());
        }
    }
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

/// The error of a send that found the socket broken. An [`io::Error`] cannot be cloned.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Os(i32),
    Other(io::ErrorKind),
}

impl Failure {
    fn of(error: &SendError) -> Option<Failure> {
        match error {
            SendError::Socket { source, .. } => Some(match source.raw_os_error() {
                Some(code) => Failure::Os(code),
                None => Failure::Other(source.kind()),
            }),
            // Each push asks anew whether the connection is closed.
            _ => None,
        }
    }

    fn error(self) -> io::Error {
        match self {
            Failure::Os(code) => io::Error::from_raw_os_error(code),
            Failure::Other(kind) => kind.into(),
        }
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
                bytes: VecDeque::new(),
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
    /// A drain that fails wakes no connection: an embedder that closes one side of a relay also
    /// closes or wakes the other side.
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
    ///
    ///     fn close(&self, sockman: &SockMan, id: ConnectionId) {
    ///         if let Some(side) = self.sides.remove(id) {
    ///             self.sides.remove(side.other);
    ///             sockman.close_connection(id);
    ///             sockman.close_connection(side.other);
    ///         }
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
    ///             self.close(sockman, id);
    ///         }
    ///         NextRecv::Proceed
    ///     }
    ///     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
    ///         if self.other(id).is_some_and(|to| to.queue.push(sockman, data).is_err()) {
    ///             self.close(sockman, id);
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
        let must_wake = {
            let queue = &mut *self.queue.lock();
            let was_empty = queue.bytes.is_empty();
            let room = self.limits.limit.saturating_sub(queue.bytes.len());
            let is_full = data.len() > room;
            if !was_empty || is_full || queue.is_cut {
                self.check_open(sockman, queue).map_err(PushError::Send)?;
            }
            if is_full {
                return Err(PushError::Full { limit: self.limits.limit });
            }
            let sent = if was_empty && !queue.is_cut {
                self.send(sockman, &mut queue.failure, &[IoSlice::new(data)], more)
                    .map_err(PushError::Send)?
            } else {
                0
            };
            let rest = data.get(sent..).unwrap_or_default();
            if queue.is_cut || !queue.reserve(rest.len()) {
                queue.is_cut |= sent > 0;
                let limit = queue.share.as_ref().map_or(0, Share::limit);
                return Err(PushError::OverBudget { limit, sent });
            }
            queue.bytes.extend(rest);
            self.publish(queue, Change::Grew);
            was_empty && !queue.bytes.is_empty()
        };
        // The wake comes after the queueing, because the kernel may have reported new room before
        // the bytes were queued. If the queue was not empty, another drain follows in any case, and
        // sends the bytes of this push too.
        if must_wake {
            sockman.wake(self.id);
        }
        Ok(())
    }

    /// Sends as many queued bytes as the kernel takes, and returns whether the queue is empty now.
    /// Call this method in [`event_ready_to_send`](crate::EventHandler::event_ready_to_send).
    ///
    /// One call offers at most 256 KiB to the kernel, so that the other connections get their
    /// turns. The socket thread calls `event_ready_to_send` again if the queue holds more.
    ///
    /// When the queue falls to the low mark, the drain wakes the connection, or the connections
    /// that [`resumes`](SendQueue::resumes) named, so that reading resumes.
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`]. The queue stays unchanged. A drain of an empty queue sends
    /// nothing and returns `Ok(true)`, also if the connection is closed.
    pub fn drain(&self, sockman: &SockMan) -> Result<bool, SendError> {
        let queue = &mut *self.queue.lock();
        if queue.bytes.is_empty() {
            return Ok(true);
        }
        let (first, second) = queue.bytes.as_slices();
        let first = first.get(..BYTES_PER_DRAIN).unwrap_or(first);
        let second = second.get(..BYTES_PER_DRAIN - first.len()).unwrap_or(second);
        let more = More::from(first.len() + second.len() < queue.bytes.len());
        let pieces = [IoSlice::new(first), IoSlice::new(second)];
        // The second piece is usually empty. Without it, the kernel has one piece less to process.
        let pieces = pieces.get(..if second.is_empty() { 1 } else { 2 }).unwrap_or(&pieces);
        let sent = self.send(sockman, &mut queue.failure, pieces, more)?;
        queue.bytes.drain(..sent);
        queue.shrink();
        if self.publish(queue, Change::Shrank) {
            match &queue.resumes {
                Resumes::Itself => sockman.wake(self.id),
                Resumes::Others(ids) => ids.iter().for_each(|id| sockman.wake(*id)),
            }
        }
        Ok(queue.bytes.is_empty())
    }

    /// Sends the pieces, and remembers in `failure` whether the socket is broken.
    fn send(
        &self,
        sockman: &SockMan,
        failure: &mut Option<Failure>,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        let sent = sockman.send_with(self.id, pieces, more);
        *failure = sent.as_ref().err().and_then(Failure::of);
        sent
    }

    /// Returns an error if the connection is closed, or if the last send failed. Makes no system
    /// call.
    fn check_open(&self, sockman: &SockMan, queue: &Queue) -> Result<(), SendError> {
        // A send of no bytes only looks the connection up.
        sockman.send_with(self.id, &[], More::No)?;
        match queue.failure {
            None => Ok(()),
            Some(failure) => Err(SendError::Socket { id: self.id, source: failure.error() }),
        }
    }

    /// Returns whether the queue holds any bytes.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.queued() != 0
    }

    /// Returns the number of queued bytes.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Returns whether the queue has grown to its high mark and has not shrunk to its low mark
    /// since then. With a [`SendBudget`], both marks are at most what the budget has left.
    #[must_use]
    pub fn is_above_high_mark(&self) -> bool {
        self.above_high_mark.load(Ordering::Acquire)
    }

    /// Publishes the length for the hooks. Returns `true` if the length fell to the low mark. The
    /// caller holds the mutex.
    ///
    /// Only a drain ends the state above the high mark, because only a drain wakes the connections
    /// that wait for it. A push could otherwise end it when the budget has grown.
    fn publish(&self, queue: &Queue, change: Change) -> bool {
        let length = queue.bytes.len();
        self.queued.store(length, Ordering::Release);
        let left = queue.share.as_ref().map_or(usize::MAX, Share::left);
        if length > 0 && length >= self.limits.high_mark.min(left) {
            self.above_high_mark.store(true, Ordering::Release);
            false
        } else {
            change == Change::Shrank
                && length <= self.limits.low_mark
                && self.above_high_mark.swap(false, Ordering::AcqRel)
        }
    }
}

/// The error returned by [`SendQueue::push`] and [`SendQueue::push_with`]. No byte was queued.
#[derive(Debug)]
#[non_exhaustive]
pub enum PushError {
    /// The push would have made the queue longer than its limit. The peer reads too slowly.
    Full {
        /// The limit of the queue in bytes.
        limit: usize,
    },
    /// The queue needs more memory than the [`SendBudget`] has left, which it shares with other
    /// queues. Close the connection: its peer reads too slowly.
    OverBudget {
        /// The limit of the budget in bytes.
        limit: usize,
        /// How many bytes of the data were sent. If not 0, the rest cannot follow any more, and the
        /// queue refuses all further pushes.
        sent: usize,
    },
    /// The connection is closed or broken.
    Send(SendError),
}

impl From<PushError> for io::Error {
    fn from(error: PushError) -> io::Error {
        match error {
            PushError::Full { .. } | PushError::OverBudget { .. } => io::Error::other(error),
            PushError::Send(error) => error.into(),
        }
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Full { limit } => {
                write!(
                    f,
                    "cannot queue the data: the send queue would exceed its limit of {limit} \
                     bytes; close the connection, or push again after the peer has read"
                )
            }
            PushError::OverBudget { limit, sent } => {
                write!(
                    f,
                    "cannot queue the data, of which {sent} bytes were sent: the send queues would \
                     exceed their common budget of {limit} bytes; close the connection"
                )
            }
            PushError::Send(source) => source.fmt(f),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PushError::Full { .. } | PushError::OverBudget { .. } => None,
            PushError::Send(source) => source.source(),
        }
    }
}
