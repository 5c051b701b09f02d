//! [`RateLimiter`] limits the rate of one direction: of each connection, and of all together.
//!
//! The embedder owns a limiter and uses it from any thread. The limiter has one mutex, which is held
//! for a look-up and never while other code is called.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt, mem,
    time::{Duration, Instant},
};

use super::rate_limit::{Bucket, RateLimit};
use crate::{engine::connection::ConnectionId, sockman::SockMan, sys::sync::Mutex};

/// What one turn may take from the common bucket, before the bytes are counted: the default receive
/// buffer.
const TURN: u64 = 64 * 1024;
/// How long a connection that was woken may keep its place at the front of the line. A connection
/// that the embedder paused meanwhile does not ask, and must not stop the others.
const PLACE_KEPT: Duration = Duration::from_millis(100);

/// Limits the rate of one direction, with buckets of tokens: one for each connection, one for all,
/// or both. Use one limiter for receiving and another one for sending.
///
/// The embedder uses a limiter in these places:
///
/// * the hook of the direction, [`should_try_to_recv`] or [`should_try_to_send`], asks
///   [`allows`](RateLimiter::allows), after its other conditions;
/// * [`event_got_data`] and [`event_ready_to_send`] call [`take`](RateLimiter::take) with the number
///   of bytes. For sending, [`available`](RateLimiter::available) says how many bytes may be sent,
///   and [`SendQueue::drain_at_most`](crate::SendQueue::drain_at_most) sends that many. What is to
///   be limited is [`enqueue`](crate::SendQueue::enqueue)d, because a push sends at once;
/// * [`event_io_loop_completed_for_all`] calls [`resume`](RateLimiter::resume), which wakes the
///   connections that may go on;
/// * [`next_deadline`] returns [`next`](RateLimiter::next), or the earlier of this and other
///   deadlines;
/// * [`event_closed`] calls [`remove`](RateLimiter::remove), because the library closes connections
///   too.
///
/// **Exact.** The bytes in any time are at most the rate times the time, plus the burst, plus one
/// receive: the library receives up to [`Options::receive_buffer`](crate::Options::receive_buffer)
/// at once, and the bucket then owes the bytes, so the next receive waits longer. Over a second,
/// the rate is exact to 2 % if the receive buffer is at most a fiftieth of the bytes of a second.
/// Sending owes nothing.
///
/// **Fair.** The connections that wait for the common bucket stand in a line. Each gets one turn,
/// and goes to the end of the line.
///
/// **Quiet.** A connection that waits has data to receive or to send. While no connection waits,
/// [`next`](RateLimiter::next) returns `None`, and nothing wakes the loop. While some wait, an empty
/// bucket wakes the loop when it holds the bytes of a hundredth of a second.
///
/// The times that the methods take come from [`Instant::now`], or over the doubles of the feature
/// `testing` from `Network::now`, as for [`Deadlines`](super::Deadlines). The number of connections
/// has no limit. Each takes about a hundred bytes.
///
/// [`should_try_to_recv`]: crate::EventHandler::should_try_to_recv
/// [`should_try_to_send`]: crate::EventHandler::should_try_to_send
/// [`event_got_data`]: crate::EventHandler::event_got_data
/// [`event_ready_to_send`]: crate::EventHandler::event_ready_to_send
/// [`event_io_loop_completed_for_all`]: crate::EventHandler::event_io_loop_completed_for_all
/// [`event_closed`]: crate::EventHandler::event_closed
/// [`next_deadline`]: crate::EventHandler::next_deadline
///
/// # Examples
///
/// ```
/// use std::time::Instant;
/// use sockman::{ConnectionId, NextRecv, SendQueue, SockMan};
/// use sockman::helpers::{ConnectionTable, RateLimit, RateLimiter};
///
/// struct Handler {
///     queues: ConnectionTable<SendQueue>,
///     /// At most 1 MB/s from each peer.
///     receiving: RateLimiter,
///     /// At most 10 MB/s to all peers together.
///     sending: RateLimiter,
/// }
///
/// fn handler() -> Result<Handler, sockman::error::InvalidOption> {
///     Ok(Handler {
///         queues: ConnectionTable::new(),
///         receiving: RateLimiter::new().each(RateLimit::new(1_000_000, 200_000)?),
///         sending: RateLimiter::new().all(RateLimit::new(10_000_000, 1_000_000)?),
///     })
/// }
///
/// // The `EventHandler` calls these methods:
/// impl Handler {
///     fn should_try_to_recv(&self, id: ConnectionId) -> bool {
///         self.receiving.allows(id, Instant::now())
///     }
///     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
///         self.receiving.take(sockman, id, data.len(), Instant::now());
///     }
///     fn should_try_to_send(&self, id: ConnectionId) -> bool {
///         let has_queued = self.queues.find(id).is_some_and(|queue| queue.has_queued());
///         has_queued && self.sending.allows(id, Instant::now())
///     }
///     fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
///         let Some(queue) = self.queues.find(id) else { return NextRecv::Skip };
///         let now = Instant::now();
///         match queue.drain_at_most(sockman, self.sending.available(id, now)) {
///             Ok(drained) => self.sending.take(sockman, id, drained.sent, now),
///             Err(_) => {
///                 sockman.close_connection(id);
///             }
///         }
///         NextRecv::Proceed
///     }
///     fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
///         let now = Instant::now();
///         self.receiving.resume(sockman, now);
///         self.sending.resume(sockman, now);
///     }
///     fn next_deadline(&self) -> Option<Instant> {
///         self.receiving.next().into_iter().chain(self.sending.next()).min()
///     }
///     fn event_closed(&self, _: &SockMan, id: ConnectionId) {
///         self.queues.remove(id);
///         self.receiving.remove(id);
///         self.sending.remove(id);
///     }
/// }
/// # handler()?;
/// # Ok::<(), sockman::error::InvalidOption>(())
/// ```
#[derive(Default)]
pub struct RateLimiter {
    each: Option<RateLimit>,
    all: Option<RateLimit>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The common bucket, which exists after the first use.
    all: Option<Bucket>,
    of: HashMap<ConnectionId, Entry>,
    /// The connections whose own bucket is empty, by the time at which they may go on.
    empty: BTreeSet<(Instant, ConnectionId)>,
    /// The connections that wait for the common bucket, in order.
    line: VecDeque<ConnectionId>,
    /// The connections that were at the front of the line and were woken, with the time.
    called: VecDeque<(Instant, ConnectionId)>,
    /// The number of passes so far.
    pass: u64,
    /// How many turns were allowed in this pass and have not taken bytes. The library asks the
    /// hooks of many connections before the first turn. An answer does not outlive its pass.
    allowed: u64,
}

struct Entry {
    /// The connection's own bucket, if each connection has one.
    own: Option<Bucket>,
    waits: Waits,
    /// The pass in which a turn was allowed that has not taken bytes, or [`NONE`].
    allowed_in: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    No,
    /// The own bucket is empty until this time.
    Empty(Instant),
    InLine,
    Called,
}

impl RateLimiter {
    /// Returns a limiter that limits nothing yet.
    #[must_use]
    pub fn new() -> RateLimiter {
        RateLimiter::default()
    }

    /// Limits each connection.
    #[must_use]
    pub fn each(self, limit: RateLimit) -> RateLimiter {
        RateLimiter { each: Some(limit), ..self }
    }

    /// Limits all connections together.
    #[must_use]
    pub fn all(self, limit: RateLimit) -> RateLimiter {
        RateLimiter { all: Some(limit), ..self }
    }

    /// Returns whether the connection may receive or send now. After a no, the connection is woken
    /// when it may.
    ///
    /// Ask this after all other conditions of the hook, because a connection that gets a yes takes
    /// a place in the line.
    #[must_use]
    pub fn allows(&self, id: ConnectionId, now: Instant) -> bool {
        self.available(id, now) > 0
    }

    /// Returns how many bytes the connection may send now. After 0, the connection is woken when it
    /// may go on. Without a limit, the number is [`usize::MAX`].
    #[must_use]
    pub fn available(&self, id: ConnectionId, now: Instant) -> usize {
        if self.each.is_none() && self.all.is_none() {
            return usize::MAX;
        }
        let state = &mut *self.state.lock();
        let own = state.own_bytes(self.each, id, now);
        if own == 0 {
            return 0;
        }
        match self.all {
            None => own,
            Some(limit) => own.min(state.common_bytes(limit, id, now)),
        }
    }

    /// Counts bytes that the connection has received or sent. Call this after each receive and each
    /// send, also with 0 bytes. Wakes the connections that go on next.
    pub fn take(&self, sockman: &SockMan, id: ConnectionId, bytes: usize, now: Instant) {
        if self.each.is_none() && self.all.is_none() {
            return;
        }
        let called = {
            let state = &mut *self.state.lock();
            let pass = state.pass;
            let entry = state.entry(self.each, id, now);
            if let Some(own) = &mut entry.own {
                own.refill(now);
                own.take(bytes);
            }
            let was_allowed = entry.allowed_in == pass;
            entry.allowed_in = NONE;
            state.allowed -= u64::from(was_allowed);
            if let Some(limit) = self.all {
                state.common(limit, now).take(bytes);
            }
            state.call(now)
        };
        called.into_iter().for_each(|id| sockman.wake(id));
    }

    /// Wakes the connections that may go on. Call this in
    /// [`event_io_loop_completed_for_all`](crate::EventHandler::event_io_loop_completed_for_all), in
    /// each pass.
    pub fn resume(&self, sockman: &SockMan, now: Instant) {
        let woken = {
            let state = &mut *self.state.lock();
            state.pass += 1;
            state.allowed = 0;
            let mut woken = state.no_longer_empty(now);
            state.forget_called(now);
            woken.extend(state.call(now));
            woken
        };
        woken.into_iter().for_each(|id| sockman.wake(id));
    }

    /// Returns the time at which the first connection that waits may go on. Returns `None` if no
    /// connection waits.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let state = self.state.lock();
        let own = state.empty.first().map(|(at, _)| *at);
        own.into_iter().chain(state.next_call()).min()
    }

    /// Forgets a connection that is closed. Its place in the line goes to the next one. Returns
    /// `false` if the limiter does not know the connection.
    pub fn remove(&self, id: ConnectionId) -> bool {
        let state = &mut *self.state.lock();
        let Some(entry) = state.of.remove(&id) else { return false };
        state.allowed -= u64::from(entry.allowed_in == state.pass);
        state.end_wait(id, entry.waits);
        true
    }
}

/// The value of `allowed_in` that stands for no pass.
const NONE: u64 = u64::MAX;

impl State {
    fn entry(&mut self, each: Option<RateLimit>, id: ConnectionId, now: Instant) -> &mut Entry {
        self.of.entry(id).or_insert_with(|| Entry {
            own: each.map(|limit| Bucket::full(limit, now)),
            waits: Waits::No,
            allowed_in: NONE,
        })
    }

    /// Returns the common bucket as it is now.
    fn common(&mut self, limit: RateLimit, now: Instant) -> &mut Bucket {
        let bucket = self.all.get_or_insert_with(|| Bucket::full(limit, now));
        bucket.refill(now);
        bucket
    }

    /// Returns how many bytes the connection's own bucket holds. If it holds none, the connection
    /// waits.
    fn own_bytes(&mut self, each: Option<RateLimit>, id: ConnectionId, now: Instant) -> usize {
        let entry = self.entry(each, id, now);
        let Some(own) = &mut entry.own else { return usize::MAX };
        own.refill(now);
        let bytes = own.bytes(0);
        match entry.waits {
            Waits::Empty(at) if now < at => return 0,
            Waits::No | Waits::InLine | Waits::Called if bytes > 0 => return bytes,
            _ => {}
        }
        let goes_on = own.holds_at(own.limit().resumes_at()).filter(|_| bytes == 0);
        let waits = goes_on.map_or(Waits::No, Waits::Empty);
        let before = mem::replace(&mut entry.waits, waits);
        self.end_wait(id, before);
        if let Some(at) = goes_on {
            self.empty.insert((at, id));
        }
        bytes
    }

    /// Removes the connection from the list in which it waits.
    fn end_wait(&mut self, id: ConnectionId, waits: Waits) {
        match waits {
            Waits::No => {}
            Waits::Empty(at) => drop(self.empty.remove(&(at, id))),
            Waits::InLine => self.line.retain(|other| *other != id),
            Waits::Called => self.called.retain(|(_, other)| *other != id),
        }
    }

    /// Returns how many bytes the connection may take from the common bucket. If it may take none,
    /// the connection waits in line. `own_bytes` has made its entry.
    fn common_bytes(&mut self, limit: RateLimit, id: ConnectionId, now: Instant) -> usize {
        let (allowed, called) = (self.allowed, self.called.len() as u64);
        let common = *self.common(limit, now);
        let pass = self.pass;
        let Some(entry) = self.of.get_mut(&id) else { return 0 };
        if entry.allowed_in == pass {
            return common.bytes(0);
        }
        let has_room = match entry.waits {
            Waits::InLine => return 0,
            Waits::Called => common.bytes(allowed.saturating_mul(TURN)) > 0,
            Waits::No | Waits::Empty(_) => {
                self.line.is_empty() && common.bytes((allowed + called).saturating_mul(TURN)) > 0
            }
        };
        if entry.waits == Waits::Called {
            self.called.retain(|(_, other)| *other != id);
        }
        if has_room {
            entry.waits = Waits::No;
            entry.allowed_in = pass;
            self.allowed += 1;
            return common.bytes(0);
        }
        match entry.waits {
            Waits::Called => self.line.push_front(id),
            _ => self.line.push_back(id),
        }
        entry.waits = Waits::InLine;
        0
    }

    /// Takes the connections from the line that the common bucket has room for. The caller wakes
    /// them.
    fn call(&mut self, now: Instant) -> Vec<ConnectionId> {
        let mut called = Vec::new();
        let Some(common) = &mut self.all else { return called };
        common.refill(now);
        let resumes_at = common.limit().resumes_at();
        while let Some(id) = self.line.front().copied() {
            let turns = self.allowed + self.called.len() as u64;
            let needed = turns.saturating_mul(TURN).saturating_add(resumes_at);
            if common.bytes(needed - 1) == 0 {
                break;
            }
            self.line.pop_front();
            if let Some(entry) = self.of.get_mut(&id) {
                entry.waits = Waits::Called;
                self.called.push_back((now, id));
                called.push(id);
            }
        }
        called
    }

    /// Returns the time at which [`call`](State::call) has something to do.
    fn next_call(&self) -> Option<Instant> {
        let common = self.all.as_ref().filter(|_| !self.line.is_empty())?;
        match self.called.front() {
            None => common.holds_at(common.limit().resumes_at()),
            Some((at, _)) => at.checked_add(PLACE_KEPT),
        }
    }

    /// Takes away the places of connections that were called and have not asked.
    fn forget_called(&mut self, now: Instant) {
        while let Some((at, id)) = self.called.front().copied() {
            if now.saturating_duration_since(at) < PLACE_KEPT {
                break;
            }
            self.called.pop_front();
            if let Some(entry) = self.of.get_mut(&id) {
                entry.waits = Waits::No;
            }
        }
    }

    /// Takes the connections whose own buckets can be used again. The caller wakes them.
    fn no_longer_empty(&mut self, now: Instant) -> Vec<ConnectionId> {
        let mut woken = Vec::new();
        while let Some((at, id)) = self.empty.first().copied() {
            if at > now {
                break;
            }
            self.empty.pop_first();
            if let Some(entry) = self.of.get_mut(&id) {
                entry.waits = Waits::No;
            }
            woken.push(id);
        }
        woken
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("each", &self.each)
            .field("all", &self.all)
            .finish_non_exhaustive()
    }
}
