//! The slot of one connection in the poll set: its latches, and the answers of its hooks.
//!
//! A slot belongs to the socket thread, and takes no lock.

mod finish;
mod turn;

use std::sync::Arc;

pub(crate) use self::turn::{Turn, TurnEnd};

use super::{
    connection::{Connection, ConnectionId, RECV_LACKS, SEND_LACKS},
    context::Context,
    due::Listed,
    state::{Place, State},
};
use crate::sys::Readiness;

/// A connection in the poll set.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) connection: Arc<Connection>,
    /// A second reference, which the handle of the turn's callbacks holds during the turn. Moving it
    /// costs less than counting a reference. `None` during a turn, and after a panic that ended the
    /// thread: then the callbacks' sends look the connection up.
    pub(crate) spare: Option<Arc<Connection>>,
    /// A copy of the connection's id. A turn in which nothing happens therefore does not read the
    /// connection's memory. Such a read would make the sweep over thousands of idle connections
    /// expensive.
    pub(crate) id: ConnectionId,
    pub(crate) listed: Listed,
    /// Whether the connection gets a turn even if both hooks say no, because it is new, was woken,
    /// or is being swept.
    has_turn: bool,
    send: Latch,
    recv: Latch,
    /// Whether sending comes before receiving in the next turn. If `false`, sending comes after
    /// receiving. An event of arriving data also reports a socket as writable that has been
    /// writable all the time, so one question to the send hook, after the data, is enough.
    send_first: bool,
    /// Whether a receive that fills less than the buffer clears the latch. On unix-domain sockets,
    /// such a receive never clears the latch. On TCP, it clears the latch until an event carries
    /// "read closed", an error or urgent data, because data that comes later causes no further
    /// edge.
    short_read_means_empty: bool,
    end: End,
    /// Whether the peer ended the stream in order, as far as events report.
    saw_fin: bool,
    /// Whether an event reported an error or a hang-up that is not reported to the embedder yet.
    broken: bool,
    weight: Weight,
    finish: Finish,
}

/// How much the last receive took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Few bytes, as for most messages of protocols.
    Light,
    /// Many bytes. Such a connection does not get its next turn before the rest of the round,
    /// because a thousand of them would delay one that sends little.
    Heavy,
    /// A large buffer full. Such a connection may get its next turn at once.
    Bulk,
}

/// A receive is heavy if it takes at least this many bytes, or fills a smaller buffer. Requests and
/// most messages of protocols are shorter.
const HEAVY: usize = 4096;

/// A receive is bulk if it fills a buffer of at least this size. A turn with a smaller buffer costs
/// more than the copy of its bytes.
const BULK: usize = 32 * 1024;

impl Weight {
    #[inline(always)]
    fn of(bytes: usize, buffer: usize) -> Weight {
        if bytes < HEAVY.min(buffer) {
            Weight::Light
        } else if bytes == buffer && buffer >= BULK {
            Weight::Bulk
        } else {
            Weight::Heavy
        }
    }
}

/// How far the orderly end of the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// The connection is open.
    No,
    /// The embedder sends what is queued.
    Sending,
    /// The stream to the peer is ended.
    Sent,
}

/// The latch of one direction.
#[derive(Debug, Clone, Copy, Default)]
struct Latch {
    /// Whether the operation would not block, as far as the socket thread knows.
    ready: bool,
    /// Whether there may be something to do, so that the hook is asked in the next turn. The flag
    /// is cleared only when the work is known to be done, so a callback that panics leaves the flag
    /// set.
    work: bool,
    /// Whether the hook has already said yes in this pass.
    allowed: bool,
}

impl Latch {
    fn is_due(self) -> bool {
        self.ready && self.work
    }

    fn clear(&mut self) {
        self.ready = false;
        self.work = false;
    }
}

/// Whether the end of the stream, or a read error, has been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    EofTold,
    ErrorTold,
}

impl Slot {
    pub(crate) fn new(connection: Arc<Connection>) -> Slot {
        let short_read_means_empty = connection.sock().short_read_means_empty();
        let finish = if connection.is_finishing() { Finish::Sending } else { Finish::No };
        Slot {
            id: connection.id,
            spare: Some(Arc::clone(&connection)),
            connection,
            listed: Listed::default(),
            has_turn: true,
            send: Latch::default(),
            recv: Latch::default(),
            send_first: false,
            short_read_means_empty,
            end: End::Open,
            saw_fin: false,
            broken: false,
            weight: Weight::Light,
            finish,
        }
    }

    /// Whether the last receive took many bytes.
    #[inline]
    pub(crate) fn is_heavy(&self) -> bool {
        self.weight != Weight::Light
    }

    /// Makes the next turn ask about both directions, after a wake or for the sweep.
    #[inline]
    pub(crate) fn want_turn(&mut self) {
        self.has_turn = true;
        self.send.work = true;
        self.send_first = true;
        self.recv.work = true;
    }

    /// Begins the orderly end of the connection, with a turn. Further calls have no effect but the
    /// turn.
    pub(crate) fn begin_finish(&mut self) {
        if self.finish == Finish::No {
            self.finish = Finish::Sending;
        }
        self.want_turn();
    }

    /// Puts an event of the poller into the latches. Returns whether the event gives the connection a
    /// turn.
    #[inline]
    pub(crate) fn latch(&mut self, event: &Readiness) -> bool {
        let was_readable = self.recv.ready;
        self.forget_blocked_send();
        // Without short circuits, because nearly all events have none of these.
        let is_rare = event.broken | event.read_closed | event.write_closed | event.priority;
        let broken = is_rare && self.latch_rare(event);
        let is_news = match self.end {
            End::Open => event.readable || event.read_closed || broken,
            End::EofTold => broken,
            End::ErrorTold => false,
        };
        if is_news {
            self.recv.ready = true;
            self.recv.work = true;
        }
        if event.writable || broken {
            // The hook is asked even if the latch was set. A send on another thread may have found
            // the socket full, and the rest of the data waits for this edge.
            self.send_first |= !self.send.ready || broken;
            self.send.ready = true;
            self.send.work = true;
        }
        let is_new = event.writable || broken || (is_news && !was_readable);
        is_new || !self.connection.sock().would_block_repeats_events()
    }

    /// Notes what an event says besides readiness. Returns whether the connection is broken.
    #[inline(never)]
    fn latch_rare(&mut self, event: &Readiness) -> bool {
        let broken = self.latch_end(event);
        if broken || event.read_closed || event.priority {
            self.short_read_means_empty = false;
        }
        broken
    }

    /// Notes what an event says about the end of the connection. Returns whether the connection is
    /// broken.
    fn latch_end(&mut self, event: &Readiness) -> bool {
        if !(event.broken || event.read_closed || event.write_closed) {
            return false;
        }
        let is_write_shut = self.connection.is_write_shut();
        let broken = event.broken || (event.write_closed && !is_write_shut);
        if broken {
            // epoll reports two ends in order as broken, too, but never the end of sending.
            if event.broken && event.write_closed {
                self.connection.set_broken();
            }
            self.connection.set_hung_up(event.read_closed);
            self.broken = true;
        } else if event.read_closed && !self.broken {
            // kqueue also reports the end of the stream without an error after another call has
            // received the error of a reset.
            self.saw_fin = true;
            self.connection.set_ended();
        }
        broken
    }

    /// Sets the latches of the directions that lacked memory or buffers. Nothing else sets them:
    /// the poller reports no edge, because the socket was ready all the time.
    pub(crate) fn retry_lacking(&mut self) {
        let lacks = self.connection.take_lacks();
        if lacks & SEND_LACKS != 0 {
            self.forget_blocked_send();
            self.send.ready = true;
            self.send.work = true;
        }
        if lacks & RECV_LACKS != 0 && self.end == End::Open {
            self.recv.ready = true;
            self.recv.work = true;
        }
    }

    /// Makes the next turn report that the poller refused the socket. The failure is reported
    /// instead of a receive, even if receiving is paused.
    pub(crate) fn latch_failed_registration(&mut self) {
        self.recv.ready = true;
        self.recv.work = true;
    }

    /// Asks the hooks of a connection that was left with work, and keeps the answers for the turn.
    /// Returns `false` if the connection gets no turn, because both directions are paused or have
    /// no work.
    #[inline]
    pub(crate) fn ask_hooks(
        &mut self,
        context: &Context<'_>,
        state: &mut Option<State>,
        open: OpenSince,
    ) -> bool {
        self.forget_answers();
        if self.has_turn {
            return true;
        }
        let (id, sockman, handler) = (self.id, context.sockman, context.handler());
        self.forget_blocked_send();
        // A closed connection gets a turn, which frees its slot.
        if open.is_closed(context, &self.connection) {
            return true;
        }
        if self.finish != Finish::No {
            return self.send.is_due() || self.recv.is_due();
        }
        if self.send.is_due() {
            self.send.allowed = handler.place_should_try_to_send(sockman, id, self.place(state));
            self.send.work = self.send.allowed;
        }
        if open.is_closed(context, &self.connection) {
            return true;
        }
        if self.recv.is_due() && !self.connection.is_finishing() {
            self.recv.allowed = handler.place_should_try_to_recv(sockman, id, self.place(state));
            self.recv.work = self.recv.allowed;
        }
        self.send.allowed || self.recv.allowed
    }

    /// Returns what a callback gets besides the id.
    #[inline]
    pub(super) fn place<'a>(&'a self, state: &'a mut Option<State>) -> Place<'a> {
        Place { connection: &self.connection, state }
    }

    /// Makes the next turn ask the hooks, although they have said yes.
    #[inline]
    pub(crate) fn forget_answers(&mut self) {
        self.send.allowed = false;
        self.recv.allowed = false;
    }

    /// Sweeps the connection. Returns `false` if the connection needs a full turn instead. Most
    /// connections need no full turn. For them, the sweep only calls the send hook and the callback
    /// at the turn's end, each of which costs nanoseconds.
    #[inline]
    pub(crate) fn sweep(
        &mut self,
        context: &Context<'_>,
        state: &mut Option<State>,
        open: OpenSince,
    ) -> bool {
        if self.listed.is_listed() || self.recv.ready || self.finish != Finish::No {
            self.want_turn();
            return false;
        }
        let (id, sockman, handler) = (self.id, context.sockman, context.handler());
        // The socket thread frees the slot when it takes the mark of the close.
        if open.is_closed(context, &self.connection) {
            return true;
        }
        if self.send.ready {
            if handler.place_should_try_to_send(sockman, id, self.place(state)) {
                self.want_turn();
                self.send.allowed = true;
                return false;
            }
            self.send.work = false;
            if open.is_closed(context, &self.connection) {
                return true;
            }
        }
        handler.place_turn_completed(sockman, id, self.place(state));
        true
    }

    /// Clears `send.ready` if a send on this thread, in any callback, found the socket full.
    #[inline]
    fn forget_blocked_send(&mut self) {
        if self.connection.take_blocked() {
            self.send.ready = false;
        }
    }
}

/// The number of closes when the marks were last taken. Every connection that was closed before has
/// lost its slot. While the number stays the same, no connection with a slot is closed, and no
/// `closed` flag is read. With [`UNKNOWN`], the `closed` flags are read, because a close was under
/// way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenSince(u64);

/// A number of closes that no `SockMan` reaches.
const UNKNOWN: u64 = u64::MAX;

impl Default for OpenSince {
    fn default() -> OpenSince {
        OpenSince(UNKNOWN)
    }
}

impl OpenSince {
    /// Returns whether the marks of all closes were taken when the marks were last taken.
    pub(crate) fn is_current(self, context: &Context<'_>) -> bool {
        self.0 == context.shared().connections.closes()
    }

    /// Reads the number. The caller must then take the marks, which include the marks of all
    /// counted closes.
    pub(crate) fn before_taking_marks(context: &Context<'_>) -> OpenSince {
        OpenSince(context.shared().connections.told_closes().unwrap_or(UNKNOWN))
    }

    #[inline]
    fn is_closed(self, context: &Context<'_>, connection: &Arc<Connection>) -> bool {
        self.0 != context.shared().connections.closes() && connection.is_closed()
    }
}
