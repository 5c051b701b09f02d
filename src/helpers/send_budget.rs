//! [`SendBudget`] bounds the memory of many [`SendQueue`](super::SendQueue)s together.
//!
//! A budget is one counter, which any thread changes without a lock.

use std::sync::Arc;

use crate::sys::sync::atomic::{AtomicUsize, Ordering};

/// The bytes of memory that many [`SendQueue`](super::SendQueue)s may use together.
///
/// Each queue has marks and a limit of its own. A thousand peers that read nothing still cost a
/// thousand high marks. Queues that share a budget cost no more than the budget:
///
/// * A queue counts as above its high mark as soon as it holds as many bytes as the budget has
///   left. So the first slow peers do not take everything, and each further one gets a smaller
///   share. A queue that was paused in this way is resumed when it holds less than the budget has
///   left, and no more than its low mark.
/// * A push whose bytes do not fit is refused with
///   [`PushError::OverBudget`](super::PushError::OverBudget). Close that connection: its peer reads
///   too slowly, and the memory is needed for others. A push that the kernel takes whole needs no
///   memory. While others have used the budget up, a peer that reads is only affected by an answer
///   that the kernel does not take whole.
///
/// The budget counts the memory of the buffers, which can be larger than the queued bytes. A shared
/// piece ([`SendQueue::push_shared`](super::SendQueue::push_shared)) counts whole in each queue that
/// refers to it, until its last byte is sent, although it lies in memory once: the queues cannot
/// know who else holds it. The memory in use is therefore at most what the budget counts. The
/// kernel's own buffers do not count. Clones share one budget. A queue that is dropped gives its
/// memory back.
///
/// What is enqueued ([`SendQueue::enqueue`](super::SendQueue::enqueue)) counts until the drain, also
/// if the peer reads at once.
///
/// # Examples
///
/// ```
/// use sockman::{ConnectionId, SendQueue, helpers::{SendBudget, SendQueueLimits}};
///
/// struct Handler {
///     budget: SendBudget,
/// }
///
/// impl Handler {
///     // For `event_new_connection_accepted`.
///     fn new_queue(&self, id: ConnectionId) -> SendQueue {
///         SendQueue::with_budget(id, SendQueueLimits::default(), &self.budget)
///     }
/// }
///
/// let handler = Handler { budget: SendBudget::new(32_000_000) };
/// # let _ = handler.new_queue(ConnectionId::from_u64(0));
/// assert_eq!((handler.budget.used(), handler.budget.limit()), (0, 32_000_000));
/// ```
#[derive(Debug, Clone)]
pub struct SendBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
}

impl SendBudget {
    /// Returns a budget of `limit` bytes, of which none are used. With a limit of 0, nothing can be
    /// queued.
    #[must_use]
    pub fn new(limit: usize) -> SendBudget {
        SendBudget { shared: Arc::new(Shared { limit, used: AtomicUsize::new(0) }) }
    }

    /// Returns the limit in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Returns how many bytes the queues use at present.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }
}

/// The part of a budget that one queue has taken. It is given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: SendBudget,
    /// The capacity of the queue's buffer in bytes.
    taken: usize,
}

impl Share {
    pub(super) fn new(budget: &SendBudget) -> Share {
        Share { budget: budget.clone(), taken: 0 }
    }

    pub(super) fn limit(&self) -> usize {
        self.budget.limit()
    }

    /// Returns how many bytes all queues together may still take.
    pub(super) fn left(&self) -> usize {
        self.limit().saturating_sub(self.budget.used())
    }

    /// Makes the share at least `bytes` large. Returns `false` and takes nothing if the budget has
    /// not enough left.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let (more, limit) = (bytes.saturating_sub(self.taken), self.limit());
        let taken = |used: usize| used.checked_add(more).filter(|used| *used <= limit);
        let used = &self.budget.shared.used;
        let fits = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok();
        self.taken += if fits { more } else { 0 };
        fits
    }

    /// Gives back all but `bytes` of the share.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let unused = self.taken.saturating_sub(bytes);
        self.taken -= unused;
        self.budget.shared.used.fetch_sub(unused, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
