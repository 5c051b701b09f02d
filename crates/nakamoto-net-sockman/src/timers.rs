//! The timers that a service asks for with `Io::SetTimer`. The thread of the reactor sets and takes
//! them. They lie in the [`Deadlines`] of the library, which have a mutex of their own.
//!
//! A service may set a timer for each message of a peer, so the number of timers must not grow with
//! the number of requests. Requests whose times are near each other share one timer: the time is
//! rounded up to a multiple of a step that is at most a 64th of the delay.

use std::time::{Duration, Instant};

use nakamoto_net::LocalDuration;
use sockman::{SockMan, helpers::Deadlines};

/// The longest delay of a timer: about a hundred years. A longer one never ends.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A delay is at least this many steps long, unless a step would be shorter than a millisecond.
const STEPS_PER_DELAY: u64 = 64;

pub(crate) struct Timers {
    /// The keys are the times in milliseconds since the start.
    deadlines: Deadlines<u64>,
    start: Instant,
}

impl Timers {
    pub(crate) fn new() -> Timers {
        Timers { deadlines: Deadlines::new(), start: Instant::now() }
    }

    /// Starts a timer that ends `delay` after `now`, or up to a 64th of the delay later.
    pub(crate) fn set(&self, sockman: &SockMan, now: Instant, delay: LocalDuration) {
        let Some(delay) = in_milliseconds(delay) else { return };
        let elapsed = now.saturating_duration_since(self.start);
        // A part of a millisecond counts as a whole one, so that the timer does not end too early.
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let key = elapsed.saturating_add(delay).next_multiple_of(step(delay));
        if let Some(at) = self.start.checked_add(Duration::from_millis(key)) {
            self.deadlines.set(sockman, key, at);
        }
    }

    /// Returns the time at which the first timer ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Takes all timers that have ended by `now`, and returns whether there was one.
    pub(crate) fn take_due(&self, now: Instant) -> bool {
        let mut has_ended = false;
        while self.deadlines.take_due(now).is_some() {
            has_ended = true;
        }
        has_ended
    }

    pub(crate) fn clear(&self) {
        if let Some(end) = Instant::now().checked_add(2 * LONGEST) {
            self.take_due(end);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.deadlines.len()
    }
}

/// Returns the delay in milliseconds, or `None` if the timer would never end.
fn in_milliseconds(delay: LocalDuration) -> Option<u64> {
    let delay = u64::try_from(delay.as_millis()).ok()?;
    (Duration::from_millis(delay) <= LONGEST).then_some(delay)
}

/// Returns the step to whose multiples the end of a timer is rounded up, in milliseconds.
fn step(delay: u64) -> u64 {
    match delay / STEPS_PER_DELAY {
        0 => 1,
        // A power of two, so that the ends of timers with similar delays fall together.
        longest => 1 << longest.ilog2(),
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use sockman::{ConnectionId, EventHandler, Options, Service};

    use super::*;

    struct Nothing;

    impl EventHandler for Nothing {
        fn event_new_connection_accepted(
            &self,
            _: &SockMan,
            _: ConnectionId,
            _: &Service,
            _: &Service,
        ) -> bool {
            false
        }
        fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
        fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
        fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    }

    fn sockman() -> SockMan {
        SockMan::new(Arc::new(Nothing), Options::default()).unwrap()
    }

    /// Timers: a timer never ends early, and at most a 64th of its delay and 2 ms late.
    #[test]
    fn a_timer_ends_in_time() {
        let (sockman, timers) = (sockman(), Timers::new());
        for delay in [0, 1, 2, 63, 64, 65, 127, 128, 1000, 6000, 12_345, 60_000, 3_600_000] {
            for after in [0, 1, 999, 1001, 123_456_789] {
                let now = timers.start + Duration::from_micros(after);
                timers.set(&sockman, now, LocalDuration::from_millis(delay));
                let end = timers.next().unwrap();
                let wait = end - now;
                let delay = Duration::from_millis(delay as u64);
                assert!(wait >= delay, "{wait:?} for {delay:?}");
                assert!(wait <= delay + delay / 64 + Duration::from_millis(2), "{wait:?}");
                assert!(!timers.take_due(end - Duration::from_nanos(1)));
                assert!(timers.take_due(end) && timers.next().is_none());
            }
        }
    }

    /// G10: a service that sets a timer for each message has a bounded number of timers.
    #[test]
    fn many_requests_share_few_timers() {
        const DELAYS: [u64; 5] = [1, 6, 12, 30, 60];
        let (sockman, timers) = (sockman(), Timers::new());
        for message in 0..20_000 {
            let now = timers.start + Duration::from_millis(4 * message);
            timers.take_due(now);
            for delay in DELAYS {
                timers.set(&sockman, now, LocalDuration::from_secs(delay));
            }
            assert!(timers.len() <= DELAYS.len() * 129, "{} timers", timers.len());
        }
        timers.clear();
        assert_eq!(timers.len(), 0);
    }

    /// Robustness: the longest delay that a service can name is no timer, and no overflow.
    #[test]
    fn an_endless_delay_is_no_timer() {
        let (sockman, timers) = (sockman(), Timers::new());
        timers.set(&sockman, Instant::now(), LocalDuration::MAX);
        timers.set(&sockman, Instant::now(), LocalDuration::from_millis(u128::from(u64::MAX)));
        assert_eq!(timers.next(), None);
        timers.set(&sockman, Instant::now(), LocalDuration::from_secs(50 * 365 * 24 * 60 * 60));
        assert_eq!(timers.len(), 1);
        timers.clear();
        assert_eq!(timers.len(), 0);
    }
}
