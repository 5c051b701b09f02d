//! An optional helper: timers on the socket thread, by key.
//!
//! Owned by the embedder, used from any thread. Its one mutex is held for a look at a map; never
//! while anything is called.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    time::Instant,
};

use crate::{sockman::SockMan, sys::sync::Mutex};

/// Timers, each with a key of yours: the [`ConnectionId`](crate::ConnectionId) for idle time-outs,
/// or an enum of all that your program waits for. One key has one deadline.
///
/// Wire it into the handler like this:
///
/// * [`next_deadline`](crate::EventHandler::next_deadline) returns [`next`](Deadlines::next);
/// * [`event_io_loop_completed_for_all`](crate::EventHandler::event_io_loop_completed_for_all)
///   takes what is due with [`take_due`](Deadlines::take_due), and acts on it;
/// * whoever starts, moves or ends a timer, on whatever thread, calls [`set`](Deadlines::set) or
///   [`clear`](Deadlines::clear).
///
/// A timer then runs on the socket thread about a millisecond after its deadline (that is how
/// fine-grained the operating systems' polls are), whatever the
/// [`sweep`](crate::Options::sweep), and one that is set on another thread is not slept through.
///
/// What is left to you:
///
/// * **The clock.** The loop goes by [`Instant::now`], and so do the times given here. A test over
///   the doubles of the feature `testing` has a clock of its own, and takes both from it
///   (`Network::now`).
/// * **A timer for a connection may outlive it**: another thread may set it just after the close.
///   It ends once, for an id that no table holds any more; ids are never reused. To
///   [`clear`](Deadlines::clear) it where you close keeps the timers few.
/// * **No limit.** Each timer takes about a hundred bytes, so limit what you set timers for.
///
/// ```
/// use std::time::{Duration, Instant};
/// use sockman::{ConnectionId, SockMan, helpers::Deadlines};
///
/// struct Handler {
///     idle: Deadlines<ConnectionId>,
/// }
///
/// // What its `EventHandler` calls:
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
///         self.idle.clear(id);
///         sockman.close_connection(id);
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
    /// The same, by time.
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Hash + Ord> Deadlines<K> {
    /// No timers.
    #[must_use]
    pub fn new() -> Deadlines<K> {
        Deadlines { timers: Mutex::new(Timers { of: HashMap::new(), order: BTreeSet::new() }) }
    }

    /// Starts the timer `key`, or moves it. If it is the first to end now, the socket thread is
    /// told, so that it does not sleep too long.
    ///
    /// `sockman` is the one whose handler asks [`next`](Deadlines::next).
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
        // After the timer is in: the loop asks for it as soon as it is told.
        if is_first {
            sockman.notify();
        }
    }

    /// Ends the timer `key`. `false`: there was none, or it has been taken already.
    pub fn clear(&self, key: K) -> bool {
        let mut timers = self.timers.lock();
        let Some(at) = timers.of.remove(&key) else { return false };
        timers.order.remove(&(at, key))
    }

    /// When the first of them ends.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.timers.lock().order.first().map(|(at, _)| *at)
    }

    /// Takes one that has ended by `now`; the one that ended first comes first, and each comes
    /// once. Ask until `None`, with the same `now`: one that is set again meanwhile, to a time
    /// after `now`, waits for the next pass. (Set to `now` or before, it would come at once, and
    /// the asking would have no end.)
    pub fn take_due(&self, now: Instant) -> Option<K> {
        let mut timers = self.timers.lock();
        let (at, key) = *timers.order.first()?;
        if at > now {
            return None;
        }
        timers.order.remove(&(at, key));
        timers.of.remove(&key);
        Some(key)
    }

    /// How many run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timers.lock().of.len()
    }

    /// Whether none runs.
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
