//! The connections whose send or receive lacked memory or buffers, and the one timer after which
//! they try again. No event reports that such a lack has ended.
//!
//! This module belongs to the socket thread and takes no lock. All connections share the timer,
//! because the whole system lacks the memory.

use std::time::{Duration, Instant};

use super::{connection::ConnectionId, slab::Key};

/// The first pause before the connections try again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause. Each pause is twice the previous one, up to this length. A lack that comes
/// later than this time after the last try begins a new episode.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The connections that try again later.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    keys: Vec<Key>,
    /// When the connections try again, or `None` if no connection waits.
    until: Option<Instant>,
    /// The length of the last pause, and when the pause ended.
    last: Option<(Duration, Instant)>,
}

impl Lacking {
    /// Adds a connection, which tries again when the pause ends. The first one begins the pause.
    /// The first one of an episode is logged.
    pub(crate) fn add(&mut self, key: Key, id: ConnectionId, code: i32, now: Instant) {
        self.keys.push(key);
        if self.until.is_some() {
            return;
        }
        let last = self.last.filter(|(_, ended)| now.duration_since(*ended) <= LONGEST_PAUSE);
        let length = match last {
            Some((length, _)) => (length * 2).min(LONGEST_PAUSE),
            None => {
                log::warn!(
                    target: "sockman::net",
                    "cannot send or receive on connection {id} for now: {}; retrying at least \
                     every {LONGEST_PAUSE:?} until it succeeds",
                    std::io::Error::from_raw_os_error(code)
                );
                FIRST_PAUSE
            }
        };
        self.last = Some((length, now + length));
        self.until = Some(now + length);
    }

    /// Ends the pause now, because a timer of the embedder has ended: data may wait that a receive
    /// could not take for lack of buffers.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.until = self.until.map(|until| until.min(now));
    }

    /// Returns when the pause ends, or `None` if no connection waits.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Returns a connection that tries again now. The caller repeats the call until it returns
    /// `None`.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Key> {
        if self.until.is_some_and(|until| until > now) {
            return None;
        }
        let key = self.keys.pop();
        if key.is_none() && self.until.take().is_some() {
            self.last = self.last.map(|(length, _)| (length, now));
        }
        key
    }
}
