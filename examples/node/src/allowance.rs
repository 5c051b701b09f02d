//! A number of things that are allowed within a time.

use std::time::{Duration, Instant};

/// Counts things, such as a peer's useless messages, and allows a number of them within a period.
/// The first one after the end of a period begins the next period.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    limit: u32,
    period: Duration,
    used: u32,
    /// The beginning of the period. `None` before the first use.
    since: Option<Instant>,
}

impl Allowance {
    /// Returns an allowance of `limit` uses within each `period`.
    pub const fn new(limit: u32, period: Duration) -> Allowance {
        Allowance { limit, period, used: 0, since: None }
    }

    /// Uses the allowance once at the time `now`. Returns `false` if no use is left in this period.
    pub fn take(&mut self, now: Instant) -> bool {
        let is_over =
            self.since.is_none_or(|since| now.saturating_duration_since(since) >= self.period);
        if is_over {
            self.since = Some(now);
            self.used = 0;
        }
        self.used = self.used.saturating_add(1);
        self.used <= self.limit
    }

    /// Makes the whole allowance available again.
    pub fn reset(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_until_its_period_ends_or_it_is_reset() {
        let period = Duration::from_secs(60);
        let start = Instant::now();
        let mut allowance = Allowance::new(2, period);
        let mut take = |seconds| allowance.take(start + Duration::from_secs(seconds));
        assert_eq!(
            [take(0), take(30), take(59), take(60), take(61), take(62)].as_slice(),
            [true, true, false, true, true, false]
        );
        allowance.reset();
        assert!(allowance.take(start + Duration::from_secs(63)));
    }
}
