//! [`RateLimit`] is a rate and a burst, and a bucket of tokens that keeps it: plain values.

use std::time::{Duration, Instant};

use crate::error::InvalidOption;

/// A bucket counts in billionths of a byte, so that a nanosecond at any rate is a whole number and
/// no time is lost to rounding.
const PARTS: i128 = 1_000_000_000;
/// An empty bucket is used again when it holds the bytes of this part of a second, so that a slow
/// connection does not wake the loop for each byte.
const RESUMES_PER_SECOND: u64 = 100;

/// A rate in bytes per second, and a burst in bytes. A [`RateLimiter`](super::RateLimiter) keeps
/// it.
///
/// A limit is a bucket of tokens, of which each byte takes one. The bucket holds at most `burst`
/// tokens, is full at first, and gets `bytes_per_second` tokens in a second.
///
/// # Examples
///
/// ```
/// use sockman::helpers::RateLimit;
///
/// // One megabyte per second. After a pause, 100,000 bytes come at once.
/// const LIMIT: RateLimit = match RateLimit::new(1_000_000, 100_000) {
///     Ok(limit) => limit,
///     Err(_) => panic!("not zero"),
/// };
/// assert_eq!((LIMIT.bytes_per_second(), LIMIT.burst()), (1_000_000, 100_000));
///
/// // Bitcoin Core's -maxuploadtarget: 5 GB in a day, at any time of the day.
/// assert!(RateLimit::new(5_000_000_000 / 86_400, 5_000_000_000).is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    bytes_per_second: u64,
    burst: u64,
}

impl RateLimit {
    /// Returns a limit of `bytes_per_second`, with a bucket of `burst` bytes. The compiler can
    /// evaluate the call at compile time.
    ///
    /// The loop may be late by a few milliseconds. A bucket that is full meanwhile loses the tokens
    /// of that time, so a burst of at least a twentieth of a second keeps the rate.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] if one of the numbers is 0.
    pub const fn new(bytes_per_second: u64, burst: u64) -> Result<RateLimit, InvalidOption> {
        if bytes_per_second == 0 || burst == 0 {
            return Err(InvalidOption::new("RateLimit::new", "requires numbers above 0"));
        }
        Ok(RateLimit { bytes_per_second, burst })
    }

    /// Returns the rate in bytes per second.
    #[must_use]
    pub const fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Returns the size of the bucket in bytes.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Returns how many bytes an empty bucket has to hold before it is used again.
    pub(super) fn resumes_at(&self) -> u64 {
        (self.bytes_per_second / RESUMES_PER_SECOND).min(self.burst / 2).max(1)
    }
}

/// A bucket of tokens. It may hold less than nothing, because a receive takes its bytes before they
/// are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    limit: RateLimit,
    parts: i128,
    /// The time at which the bucket held these parts.
    at: Instant,
}

impl Bucket {
    pub(super) fn full(limit: RateLimit, now: Instant) -> Bucket {
        Bucket { limit, parts: i128::from(limit.burst) * PARTS, at: now }
    }

    pub(super) fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Adds the tokens of the time since the last call.
    pub(super) fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX);
        let new = elapsed.saturating_mul(i128::from(self.limit.bytes_per_second));
        self.parts = self.parts.saturating_add(new).min(i128::from(self.limit.burst) * PARTS);
        self.at = self.at.max(now);
    }

    pub(super) fn take(&mut self, bytes: usize) {
        let parts = i128::try_from(bytes).unwrap_or(i128::MAX).saturating_mul(PARTS);
        self.parts = self.parts.saturating_sub(parts);
    }

    /// Returns how many whole bytes the bucket holds beyond `reserved`.
    pub(super) fn bytes(&self, reserved: u64) -> usize {
        let bytes = self.parts / PARTS - i128::from(reserved);
        usize::try_from(bytes.max(0)).unwrap_or(usize::MAX)
    }

    /// Returns the time at which the bucket holds this many bytes. Returns `None` if the clock
    /// cannot represent that time. The caller asks for at most `burst` bytes.
    pub(super) fn holds_at(&self, bytes: u64) -> Option<Instant> {
        let missing = (i128::from(bytes) * PARTS).saturating_sub(self.parts).max(0);
        let rate = i128::from(self.limit.bytes_per_second);
        let nanoseconds = u64::try_from((missing + rate - 1) / rate).ok()?;
        self.at.checked_add(Duration::from_nanos(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate: a bucket that is asked at odd moments gives the exact number of bytes.
    #[test]
    fn a_bucket_loses_no_part_of_a_byte() {
        let start = Instant::now();
        for rate in [1, 3, 999, 1_000_003, 7_777_777_777] {
            let mut bucket = Bucket::full(RateLimit::new(rate, u64::MAX).unwrap(), start);
            // Empty, because the bytes beyond a full bucket are lost.
            bucket.parts = 0;
            let mut now = start;
            // Miri, which is slow, asks less often.
            for step in 0..if cfg!(miri) { 3_000 } else { 1_000_000_u64 } {
                now += Duration::from_nanos(step % 2_001);
                bucket.refill(now);
            }
            let elapsed = i128::try_from((now - start).as_nanos()).unwrap();
            assert_eq!(bucket.parts, elapsed * i128::from(rate));
        }
    }

    /// The time of the next byte is exact: a nanosecond before, the byte is missing.
    #[test]
    fn the_time_at_which_a_bucket_holds_bytes_is_exact() {
        let start = Instant::now();
        let mut bucket = Bucket::full(RateLimit::new(3, 10).unwrap(), start);
        bucket.take(12);
        let at = bucket.holds_at(1).unwrap();
        assert_eq!(at - start, Duration::from_secs(1));
        bucket.refill(at - Duration::from_nanos(1));
        assert_eq!(bucket.bytes(0), 0);
        bucket.refill(at);
        assert_eq!(bucket.bytes(0), 1);
        // A clock that stands still or goes back changes nothing.
        bucket.refill(start);
        assert_eq!(bucket.bytes(0), 1);
        bucket.refill(at + Duration::from_secs(1_000_000_000));
        assert_eq!((bucket.bytes(0), bucket.bytes(4), bucket.bytes(11)), (10, 6, 0));
    }
}
