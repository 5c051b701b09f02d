//! [`Deadlines`] are optional timers on the socket thread, by key.
//!
//! The embedder owns them and uses them from any thread. The timers have one mutex, which is held
//! for a look-up and never while other code is called.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    time::Instant,
};

use crate::{engine::timer_limit::limited, sockman::SockMan, sys::sync::Mutex};

/// Timers, each with a key of the embedder's choice: the [`ConnectionId`](crate::ConnectionId) for
/// idle time-outs, or an enum of everything that the program waits for. Each key has one deadline.
///
/// The embedder uses a `Deadlines` in three places:
///
/// * [`next_deadline`](crate::EventHandler::next_deadline) returns [`next`](Deadlines::next);
/// * [`event_io_loop_completed_for_all`](crate::EventHandler::event_io_loop_completed_for_all)
///   calls [`take_due`](Deadlines::take_due), which returns the timers that have ended, and acts on
///   the timers;
/// * code that starts, moves or ends a timer, on any thread, calls [`set`](Deadlines::set) or
///   [`clear`](Deadlines::clear).
///
/// The handler acts on a timer about a millisecond after its deadline, because the polls of the
/// operating systems count in milliseconds. The [`sweep`](crate::Options::sweep) does not change
/// this delay. A timer that another thread sets also ends in time.
///
/// Data comes before the timer that it moves. If the data of a connection arrived before its timer
/// ended, the library delivers the data first, even if a callback took long, the process was
/// stopped, or a signal ended the poll. If more data waits than one receive buffer holds, the first
/// buffer counts. A timer may end later for this reason, by one turn of each connection.
///
/// The embedder is responsible for the following:
///
/// * **Its own pauses.** Data stays where it is while
///   [`should_try_to_recv`](crate::EventHandler::should_try_to_recv) returns `false` or after
///   [`NextRecv::Skip`](crate::NextRecv::Skip). This data does not stop a timer. An embedder that
///   pauses reading moves or clears the timer of the connection.
/// * **The clock.** The loop uses [`Instant::now`], and so must the times passed to
///   [`set`](Deadlines::set) and [`take_due`](Deadlines::take_due). Over the doubles of the feature
///   `testing`, the loop uses the clock of the network, so the times passed to
///   [`set`](Deadlines::set) and [`take_due`](Deadlines::take_due) have to come from
///   `Network::now`. The guide shows [a handler with a clock](crate::guide::testing).
/// * **Timers of closed connections.** A timer for a connection may outlive the connection: another
///   thread may set it just after the close. For such a timer, [`take_due`](Deadlines::take_due)
///   returns the id of a closed connection. (Ids are never reused.) A [`clear`](Deadlines::clear)
///   in [`event_closed`](crate::EventHandler::event_closed) keeps the number of timers small.
/// * **The number of timers.** The number of timers has no limit. Each timer takes about a hundred
///   bytes.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use sockman::{ConnectionId, SockMan, helpers::Deadlines};
///
/// struct Handler {
///     idle: Deadlines<ConnectionId>,
/// }
///
/// // The `EventHandler` calls these methods:
/// impl Handler {
///     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId) {
///         self.idle.set(sockman, id, Instant::now() + Duration::from_secs(30));
///     }
///     fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
///         let now = Instant::now();
///         while let Some(id) = self.idle.take_due(now) {
///             sockman.close_connection(id);
///         }
///     }
///     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
///         sockman.close_connection(id);
///     }
///     fn event_closed(&self, _: &SockMan, id: ConnectionId) {
///         self.idle.clear(id);
///     }
///     fn next_deadline(&self) -> Option<Instant> {
///         self.idle.next()
///     }
/// }
/// ```
pub struct Deadlines<K> {
    timers: Mutex<Timers<K>>,
}

struct Timers<K> {
    of: HashMap<K, Instant>,
    /// The same timers, ordered by time.
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Hash + Ord> Deadlines<K> {
    /// Returns a `Deadlines` without timers.
    #[must_use]
    pub fn new() -> Deadlines<K> {
        Deadlines { timers: Mutex::new(Timers { of: HashMap::new(), order: BTreeSet::new() }) }
    }

    /// Starts the timer `key`, or moves it. If this timer is now the first to end, the call
    /// notifies the socket thread, so that the thread does not sleep too long.
    ///
    /// `sockman` is the `SockMan` whose handler calls [`next`](Deadlines::next).
    pub fn set(&self, sockman: &SockMan, key: K, at: Instant) {
        let is_first = {
            let mut timers = self.timers.lock();
            let first = timers.order.first().map(|(at, _)| *at);
            if let Some(before) = timers.of.insert(key, at) {
                timers.order.remove(&(before, key));
            }
            timers.order.insert((at, key));
            first.is_none_or(|first| at < first)
        };
        // The notify comes after the insertion, because the loop asks for the deadline as soon as
        // it is notified.
        if is_first {
            sockman.notify();
        }
    }

    /// Ends the timer `key`. Returns `false` if no timer has this key, or if the timer was already
    /// taken.
    pub fn clear(&self, key: K) -> bool {
        let mut timers = self.timers.lock();
        let Some(at) = timers.of.remove(&key) else { return false };
        timers.order.remove(&(at, key))
    }

    /// Returns the time at which the first timer ends, or `None` if no timer runs.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.timers.lock().order.first().map(|(at, _)| *at)
    }

    /// Takes one timer that has ended by `now`, and returns the timer's key. Returns `None` if no
    /// timer has ended. The timer that ended first is returned first. Each timer is returned once.
    ///
    /// In [`event_io_loop_completed_for_all`], a timer has ended only if the loop has polled since
    /// the timer's end and has served what it found. The next pass, which follows at once, returns
    /// a timer that ended later.
    ///
    /// [`event_io_loop_completed_for_all`]: crate::EventHandler::event_io_loop_completed_for_all
    ///
    /// Call this method until it returns `None`, with the same `now` each time. A timer that is set
    /// again meanwhile, to a time after `now`, waits for the next pass. A timer that is set again
    /// to `now` or an earlier time would be returned at once, and the loop would not end.
    pub fn take_due(&self, now: Instant) -> Option<K> {
        let now = limited(now);
        let mut timers = self.timers.lock();
        let (at, key) = *timers.order.first()?;
        if at > now {
            return None;
        }
        timers.order.remove(&(at, key));
        timers.of.remove(&key);
        Some(key)
    }

    /// Returns the number of running timers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timers.lock().of.len()
    }

    /// Returns whether no timer runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Copy + Hash + Ord> Default for Deadlines<K> {
    fn default() -> Deadlines<K> {
        Deadlines::new()
    }
}

impl<K> fmt::Debug for Deadlines<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines").finish_non_exhaustive()
    }
}
