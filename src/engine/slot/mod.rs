//! One connection in the poll set: its latches, and what its hooks answered.
//!
//! Belongs to the socket thread. Takes no lock.

mod turn;

use std::sync::Arc;

pub(crate) use self::turn::{Turn, TurnEnd};

use super::{
    connection::{Connection, ConnectionId},
    context::Context,
    due::Listed,
};
use crate::sys::Readiness;

/// A connection in the poll set.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) connection: Arc<Connection>,
    /// The connection's own, kept here too: a turn in which nothing happens does not touch the
    /// connection's memory, which is what the sweep over thousands of idle ones would cost.
    pub(crate) id: ConnectionId,
    pub(crate) listed: Listed,
    /// Has its turn even if the hooks hold both directions back: new, woken, or swept.
    has_turn: bool,
    send: Latch,
    recv: Latch,
    /// Sending comes before receiving in the next turn. Otherwise it comes after: each arrival of
    /// data also tells of a socket that could be sent to all the time, and one question about
    /// sending, after the data, is enough.
    send_first: bool,
    /// Whether a receive that fills less than the buffer clears the latch. Not on unix-domain
    /// sockets; and no more once an event carried "read closed", an error or urgent data: what
    /// hides behind those gives no further edge.
    short_read_means_empty: bool,
    end: End,
    /// The peer ended the stream in order, as far as events tell.
    saw_fin: bool,
    /// An event told of an error or a hang-up that no receive has accounted for yet.
    broken: bool,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default)]
struct Latch {
    /// The operation would not block, as far as is known.
    ready: bool,
    /// There may be something to do: the hook is asked in the next turn. Goes down only when what
    /// it stands for is known to be done; a callback that panics leaves it up.
    work: bool,
    /// The hook said yes in this pass already.
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

/// How far the receive direction has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    EofTold,
    ErrorTold,
}

impl Slot {
    pub(crate) fn new(connection: Arc<Connection>) -> Slot {
        let short_read_means_empty = connection.sock().short_read_means_empty();
        Slot {
            id: connection.id,
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
        }
    }

    /// A wake, or the sweep: the next turn looks at both directions.
    #[inline]
    pub(crate) fn want_turn(&mut self) {
        self.has_turn = true;
        self.send.work = true;
        self.send_first = true;
        self.recv.work = true;
    }

    /// Remembers what the poller told.
    #[inline]
    pub(crate) fn latch(&mut self, event: &Readiness) {
        self.forget_blocked_send();
        if event.broken {
            self.connection.set_hung_up(event.broken && event.read_closed);
            self.broken = true;
        } else if event.read_closed {
            self.saw_fin = true;
        }
        if event.broken || event.read_closed || event.priority {
            self.short_read_means_empty = false;
        }
        let more_to_hear = match self.end {
            End::Open => event.readable || event.read_closed || event.broken,
            End::EofTold => event.broken,
            End::ErrorTold => false,
        };
        if more_to_hear {
            self.recv.ready = true;
            self.recv.work = true;
        }
        if event.writable || event.broken {
            // The hook is asked even if the latch was set: a send on another thread may have
            // found the socket full and left the rest to this edge.
            self.send_first |= !self.send.ready || event.broken;
            self.send.ready = true;
            self.send.work = true;
        }
    }

    /// The poller will tell nothing: the failure is told in place of a receive, paused or not.
    pub(crate) fn latch_failed_registration(&mut self) {
        self.recv.ready = true;
        self.recv.work = true;
    }

    /// For a connection that was left with work: asks the hooks, and keeps the answers for the
    /// turn. `false` if neither direction goes on.
    #[inline]
    pub(crate) fn ask_hooks(&mut self, context: &Context<'_>, open: OpenSince) -> bool {
        self.send.allowed = false;
        self.recv.allowed = false;
        if self.has_turn {
            return true;
        }
        let (id, handler) = (self.id, context.handler());
        self.forget_blocked_send();
        // The turn of a closed connection frees its slot.
        if open.is_closed(context, &self.connection) {
            return true;
        }
        if self.send.is_due() {
            self.send.allowed = handler.should_try_to_send(id);
            self.send.work = self.send.allowed;
        }
        if open.is_closed(context, &self.connection) {
            return true;
        }
        if self.recv.is_due() {
            self.recv.allowed = handler.should_try_to_recv(id);
            self.recv.work = self.recv.allowed;
        }
        self.send.allowed || self.recv.allowed
    }

    /// The sweep comes by. For the many on which nothing waits this is all of their turn: a question
    /// about sending and the end of the turn, at a cost of nanoseconds each. `false` if there is
    /// more to do, which is for a turn in full.
    #[inline]
    pub(crate) fn sweep(&mut self, context: &Context<'_>, open: OpenSince) -> bool {
        if self.listed.is_listed() || self.recv.ready {
            self.want_turn();
            return false;
        }
        let (id, handler) = (self.id, context.handler());
        // Whoever closed it has left a mark, which frees the slot.
        if open.is_closed(context, &self.connection) {
            return true;
        }
        if self.send.ready {
            if handler.should_try_to_send(id) {
                self.want_turn();
                self.send.allowed = true;
                return false;
            }
            self.send.work = false;
            if open.is_closed(context, &self.connection) {
                return true;
            }
        }
        handler.event_io_loop_completed_for_one(context.sockman, id);
        true
    }

    /// Takes note of sends on this thread, in any callback, that found the socket full.
    #[inline]
    fn forget_blocked_send(&mut self) {
        if self.connection.take_blocked() {
            self.send.ready = false;
        }
    }
}

/// A count of closes at a time when every connection closed until then had lost its slot. As long
/// as the count stands, no connection with a slot is closed, and its flag need not be looked at.
/// `None`: it has to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OpenSince(Option<u64>);

impl OpenSince {
    /// To be followed by taking the marks, those of all closes that this counts among them.
    pub(crate) fn before_taking_marks(context: &Context<'_>) -> OpenSince {
        OpenSince(context.shared().connections.told_closes())
    }

    #[inline]
    fn is_closed(self, context: &Context<'_>, connection: &Connection) -> bool {
        self.0 != Some(context.shared().connections.closes()) && connection.is_closed()
    }
}
