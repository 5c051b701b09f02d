//! The clock of a service. The thread of the reactor owns it.
//!
//! Nakamoto subtracts times, and panics if a time is earlier than one before. The system's clock can
//! be set back, so this clock follows it forwards alone: it is never slower than real time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nakamoto_net::LocalTime;

pub(crate) struct Clock {
    latest: SystemTime,
    at: Instant,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { latest: UNIX_EPOCH, at: Instant::now() }
    }

    pub(crate) fn now(&mut self) -> LocalTime {
        self.advance(SystemTime::now(), Instant::now())
    }

    fn advance(&mut self, wall: SystemTime, at: Instant) -> LocalTime {
        let elapsed = at.saturating_duration_since(self.at);
        let steady = self.latest.checked_add(elapsed).unwrap_or(self.latest);
        self.latest = steady.max(wall);
        self.at = at;
        self.latest.into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Robustness: a system clock that is set back neither turns back the service's time nor stops
    /// it. A clock that is set forward is followed.
    #[test]
    fn time_goes_forward_whatever_the_system_clock_does() {
        let (second, mut clock) = (Duration::from_secs(1), Clock::new());
        let (start, day) = (clock.at, UNIX_EPOCH + 86_400 * second);
        let times = [
            clock.advance(day, start),
            clock.advance(UNIX_EPOCH, start + second), // Set back by a day.
            clock.advance(day - second, start + 2 * second),
            clock.advance(UNIX_EPOCH - second, start + 3 * second),
            clock.advance(day + 60 * second, start + 4 * second),
            clock.advance(day + 61 * second, start + 5 * second),
        ];
        let expected = [0, 1, 2, 3, 60, 61].map(|after| LocalTime::from_secs(86_400 + after));
        assert_eq!(times, expected);
    }
}
