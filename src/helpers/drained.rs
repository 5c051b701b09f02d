//! What a drain reports: a plain value.

#[cfg(doc)]
use super::SendQueue;

/// What a drain did, returned by [`SendQueue::drain`].
///
/// # Examples
///
/// ```
/// # use sockman::{ConnectionId, SendQueue, SockMan};
/// /// For `event_ready_to_send` of a server that closes after the last byte.
/// fn send(sockman: &SockMan, queue: &SendQueue, is_leaving: bool) {
///     match queue.drain(sockman) {
///         Ok(drained) if !drained.is_empty() || !is_leaving => {}
///         Ok(_) | Err(_) => drop(sockman.close_connection(queue.id())),
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// The number of bytes that the kernel took.
    pub sent: usize,
    /// The number of bytes that were left in the queue.
    pub left: usize,
    /// Whether the queue fell to its low mark, so that the drain woke the connection, or those that
    /// [`SendQueue::resumes`] named.
    pub resumed: bool,
}

impl Drained {
    /// Returns whether the queue was empty after the drain. Another thread may have queued more
    /// since.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}
