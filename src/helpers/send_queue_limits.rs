//! The marks and the limit of a [`SendQueue`]: plain values.

#[cfg(doc)]
use super::SendQueue;
use crate::error::InvalidOption;

/// Bitcoin Core pauses reading from a peer at its `-maxsendbuffer`, one million bytes.
const DEFAULT_HIGH_MARK: usize = 1_000_000;
/// The default low mark: half of the high mark, to avoid rapid pausing and resuming.
const DEFAULT_LOW_MARK: usize = DEFAULT_HIGH_MARK / 2;
/// The default limit: room for four large messages above the high mark. The limit stops an embedder
/// that continues to push above the high mark.
const DEFAULT_LIMIT: usize = 16_000_000;

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
    pub(super) fn low_mark(&self) -> usize {
        self.low_mark
    }

    pub(super) fn high_mark(&self) -> usize {
        self.high_mark
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }
}
