//! An optional helper: the queue of outgoing bytes that most embedders would write, for one
//! connection.
//!
//! Owned by the embedder, used from any thread. Its one mutex is held over a push's send and its
//! queueing, and over a drain; it is taken before any of the library's locks, never after.

use std::{collections::VecDeque, error::Error, fmt, io::IoSlice};

use crate::{
    engine::connection::ConnectionId,
    error::SendError,
    sockman::SockMan,
    sys::sync::Mutex,
    sys::sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Bitcoin Core pauses reading from a peer at its `-maxsendbuffer`, one million bytes.
const DEFAULT_HIGH_MARK: usize = 1_000_000;
/// Half of the high mark, so that a connection does not flutter between paused and not.
const DEFAULT_LOW_MARK: usize = DEFAULT_HIGH_MARK / 2;
/// Four large messages above the high mark: who pushes on regardless is stopped.
const DEFAULT_LIMIT: usize = 16_000_000;
/// What one drain offers to the kernel at most, so that one fast reader does not keep the socket
/// thread from the others. Larger sends gain nothing.
const BYTES_PER_DRAIN: usize = 256 * 1024;
/// An empty queue keeps a buffer up to this size for the next push, and frees a larger one.
const KEPT_CAPACITY: usize = 16 * 1024;

/// The marks of a [`SendQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct SendQueueOptions {
    high_mark: usize,
    low_mark: usize,
    limit: usize,
}

impl Default for SendQueueOptions {
    fn default() -> SendQueueOptions {
        SendQueueOptions {
            high_mark: DEFAULT_HIGH_MARK,
            low_mark: DEFAULT_LOW_MARK,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl SendQueueOptions {
    /// From how many queued bytes on [`SendQueue::is_above_high_mark`] says `true`. Default: one
    /// million. Zero counts as one.
    pub fn high_mark(mut self, bytes: usize) -> SendQueueOptions {
        self.high_mark = bytes;
        self
    }

    /// At how many queued bytes it says `false` again. Default: half a million. The high mark or
    /// more counts as one below the high mark.
    pub fn low_mark(mut self, bytes: usize) -> SendQueueOptions {
        self.low_mark = bytes;
        self
    }

    /// How many bytes may be queued at most. Default: 16 million. A push beyond it is refused
    /// whole, before anything is sent: one that is longer than the limit never succeeds.
    pub fn limit(mut self, bytes: usize) -> SendQueueOptions {
        self.limit = bytes;
        self
    }
}

/// A bounded queue of outgoing bytes for one connection.
///
/// It sends at once what the kernel takes and queues the rest, in order; wakes the socket thread
/// when that is needed, and only then; sets `will_send_more`; and has a high and a low mark for
/// back-pressure. Wire it into the handler like this:
///
/// * [`should_try_to_send`](crate::EventHandler::should_try_to_send) returns
///   [`has_queued`](SendQueue::has_queued);
/// * [`event_ready_to_send`](crate::EventHandler::event_ready_to_send) calls
///   [`drain`](SendQueue::drain);
/// * [`should_try_to_recv`](crate::EventHandler::should_try_to_recv) returns
///   `!`[`is_above_high_mark`](SendQueue::is_above_high_mark), so that a peer that does not take
///   its replies makes no further requests;
/// * whoever has something to send, on whatever thread, calls [`push`](SendQueue::push).
///
/// Bytes of one thread's pushes go out in the order of the pushes; a push is never torn apart by
/// another one.
#[derive(Debug)]
pub struct SendQueue {
    id: ConnectionId,
    options: SendQueueOptions,
    queue: Mutex<VecDeque<u8>>,
    /// The length of the queue, for the hooks: they are asked often, and do not wait for a push.
    queued: AtomicUsize,
    above_high_mark: AtomicBool,
}

/// What a drain came to.
struct Drained {
    is_empty: bool,
    fell_to_low_mark: bool,
}

impl SendQueue {
    /// An empty queue for the connection `id`.
    #[must_use]
    pub fn new(id: ConnectionId, options: SendQueueOptions) -> SendQueue {
        // An empty queue is below any mark, or reading would never go on.
        let high_mark = options.high_mark.max(1);
        let low_mark = options.low_mark.min(high_mark - 1);
        SendQueue {
            id,
            options: SendQueueOptions { high_mark, low_mark, ..options },
            queue: Mutex::new(VecDeque::new()),
            queued: AtomicUsize::new(0),
            above_high_mark: AtomicBool::new(false),
        }
    }

    /// The connection it sends on.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Sends `data`, or queues what the kernel does not take now. `will_send_more`: another push
    /// follows at once, so a packet that is not full may wait for it.
    ///
    /// From any thread; blocks for the time of a system call at most.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] if the queue could grow beyond its limit; [`PushError::Send`] if the
    /// connection is closed or broken. In both cases nothing of `data` was sent or queued.
    pub fn push(
        &self,
        sockman: &SockMan,
        data: &[u8],
        will_send_more: bool,
    ) -> Result<(), PushError> {
        let must_wake = {
            let mut queue = self.queue.lock();
            let was_empty = queue.is_empty();
            let room = self.options.limit.saturating_sub(queue.len());
            if data.len() > room {
                return Err(PushError::Full { limit: self.options.limit });
            }
            let sent = if was_empty {
                sockman.send_bytes(self.id, data, will_send_more).map_err(PushError::Send)?
            } else {
                0
            };
            queue.extend(data.get(sent..).unwrap_or_default());
            self.publish(queue.len());
            was_empty && !queue.is_empty()
        };
        // After queueing: the moment at which there was room again may have gone by before. While
        // the queue is not empty, the drain that is on its way takes this push along.
        if must_wake {
            sockman.wake(self.id);
        }
        Ok(())
    }

    /// Sends what is queued, as far as the kernel takes it, and says whether the queue is empty
    /// now. Falling to the low mark wakes the connection, so that reading goes on. For [`event_ready_to_send`](crate::EventHandler::event_ready_to_send).
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`]; the queue stays as it is.
    pub fn drain(&self, sockman: &SockMan) -> Result<bool, SendError> {
        let drained = self.drain_queue(sockman)?;
        if drained.fell_to_low_mark {
            sockman.wake(self.id);
        }
        Ok(drained.is_empty)
    }

    fn drain_queue(&self, sockman: &SockMan) -> Result<Drained, SendError> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            return Ok(Drained { is_empty: true, fell_to_low_mark: false });
        }
        let (first, second) = queue.as_slices();
        let first = first.get(..BYTES_PER_DRAIN).unwrap_or(first);
        let second = second.get(..BYTES_PER_DRAIN - first.len()).unwrap_or(second);
        let will_send_more = first.len() + second.len() < queue.len();
        let sent = if second.is_empty() {
            sockman.send_bytes(self.id, first, will_send_more)?
        } else {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            sockman.send_vectored(self.id, &pieces, will_send_more)?
        };
        queue.drain(..sent);
        if queue.is_empty() && queue.capacity() > KEPT_CAPACITY {
            *queue = VecDeque::new();
        }
        let fell_to_low_mark = self.publish(queue.len());
        Ok(Drained { is_empty: queue.is_empty(), fell_to_low_mark })
    }

    /// Is anything queued?
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.queued() != 0
    }

    /// How many bytes are queued.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Has the queue grown to its high mark, and not shrunk to its low mark since?
    #[must_use]
    pub fn is_above_high_mark(&self) -> bool {
        self.above_high_mark.load(Ordering::Acquire)
    }

    /// Under the lock. `true` if the length fell to the low mark.
    fn publish(&self, length: usize) -> bool {
        self.queued.store(length, Ordering::Release);
        if length >= self.options.high_mark {
            self.above_high_mark.store(true, Ordering::Release);
            false
        } else {
            length <= self.options.low_mark && self.above_high_mark.swap(false, Ordering::AcqRel)
        }
    }
}

/// Why a [`SendQueue::push`] was refused. Nothing was queued.
#[derive(Debug)]
#[non_exhaustive]
pub enum PushError {
    /// The queue would have grown beyond its limit: the peer does not take what it is sent.
    Full {
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection is closed or broken.
    Send(SendError),
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Full { limit } => {
                write!(f, "the send queue is full: its limit is {limit} bytes")
            }
            PushError::Send(source) => source.fmt(f),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PushError::Full { .. } => None,
            PushError::Send(source) => source.source(),
        }
    }
}
