//! One connection in the poll set, and its turn: at most one ready-to-send call and one receive.
//!
//! Owns the latches. Belongs to the socket thread; takes no lock but, through the embedder's sends,
//! the connection's own.

use std::{io, mem, sync::Arc};

use crate::{
    ConnectionId, connection::Connection, event_handler::NextRecv, slab::Key, sock::Readiness,
    socket_thread::Context,
};

/// A connection in the poll set.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) connection: Arc<Connection>,
    /// The connection's own, kept here too: a turn in which nothing happens does not touch the
    /// connection's memory, which is what the sweep over thousands of idle ones would cost.
    pub(crate) id: ConnectionId,
    /// In the list of what is due, or of this pass's turns.
    pub(crate) is_listed: bool,
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
            is_listed: false,
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

    /// Puts the connection into `due`, unless it is in there already.
    pub(crate) fn list(&mut self, key: Key, due: &mut Vec<Key>) {
        if !self.is_listed {
            self.is_listed = true;
            due.push(key);
        }
    }

    /// A wake, or the sweep: the next turn looks at both directions.
    pub(crate) fn want_turn(&mut self) {
        self.has_turn = true;
        self.send.work = true;
        self.send_first = true;
        self.recv.work = true;
    }

    /// Remembers what the poller told.
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
    pub(crate) fn sweep(&mut self, context: &Context<'_>, open: OpenSince) -> bool {
        if self.is_listed || self.recv.ready {
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

    fn is_closed(self, context: &Context<'_>, connection: &Connection) -> bool {
        self.0 != Some(context.shared().connections.closes()) && connection.is_closed()
    }
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnEnd {
    /// It goes on in the next pass, if the hooks let it.
    WorkLeft,
    /// Nothing until an event, a wake or the sweep.
    Rests,
    /// The connection was closed meanwhile.
    Closed,
}

/// The turn of one connection. Before each callback it is checked whether the connection was
/// closed: then nobody hears of it any more.
pub(crate) struct Turn<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) open: OpenSince,
    pub(crate) slot: &'a mut Slot,
    pub(crate) key: Key,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) failed: &'a mut Vec<(Key, io::Error)>,
}

/// The connection was closed.
struct Closed;

/// What came of looking at one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    /// A callback other than a hook.
    Yes,
    No,
}

impl Turn<'_> {
    pub(crate) fn run(&mut self) -> TurnEnd {
        self.slot.has_turn = false;
        if self.both_directions().is_err() {
            return TurnEnd::Closed;
        }
        // The answers of this pass are not those of the next.
        self.slot.send.allowed = false;
        self.slot.recv.allowed = false;
        // What is left over is more to send, or more to receive; sending keeps its precedence.
        self.slot.send_first = self.slot.send.is_due();
        if self.slot.send_first || self.slot.recv.is_due() {
            TurnEnd::WorkLeft
        } else {
            TurnEnd::Rests
        }
    }

    fn both_directions(&mut self) -> Result<(), Closed> {
        let mut asked_to_send = Called::No;
        let mut next_recv = NextRecv::Proceed;
        if mem::take(&mut self.slot.send_first) {
            (asked_to_send, next_recv) = self.try_to_send()?;
        }
        if next_recv == NextRecv::Proceed {
            self.try_to_recv()?;
        }
        if asked_to_send == Called::No {
            self.try_to_send()?;
        }
        self.check_open()?;
        let id = self.slot.id;
        self.context.handler().event_io_loop_completed_for_one(self.context.sockman, id);
        self.check_open()
    }

    fn try_to_send(&mut self) -> Result<(Called, NextRecv), Closed> {
        if !self.slot.send.is_due() {
            return Ok((Called::No, NextRecv::Proceed));
        }
        let (id, handler) = (self.slot.id, self.context.handler());
        self.check_open()?;
        if !mem::take(&mut self.slot.send.allowed) {
            if !handler.should_try_to_send(id) {
                self.slot.send.work = false;
                return Ok((Called::No, NextRecv::Proceed));
            }
            self.check_open()?;
        }
        self.slot.forget_blocked_send();
        if !self.slot.send.ready {
            return Ok((Called::No, NextRecv::Proceed));
        }
        self.slot.connection.take_sent();
        let next_recv = handler.event_ready_to_send(self.context.sockman, id);
        let sent = self.slot.connection.take_sent();
        self.slot.forget_blocked_send();
        self.slot.send.work = sent;
        if next_recv == NextRecv::Skip {
            self.slot.recv.allowed = false;
            self.slot.recv.work &= sent;
        }
        Ok((Called::Yes, next_recv))
    }

    /// Before each callback in here `send.work` goes up: it may queue something to send, which is
    /// asked for later in this turn or, if the turn had its ready-to-send call, in the next pass.
    fn try_to_recv(&mut self) -> Result<(), Closed> {
        if !self.slot.recv.is_due() {
            return Ok(());
        }
        self.check_open()?;
        // Whoever pauses until there is room to send would wait for ever: of what is not watched,
        // room is not told either.
        if let Some(error) = self.take_failed_registration() {
            return self.got_permanent_read_error(&error);
        }
        if !mem::take(&mut self.slot.recv.allowed) {
            if !self.context.handler().should_try_to_recv(self.slot.id) {
                self.slot.recv.work = false;
                return Ok(());
            }
            self.check_open()?;
        }
        if self.slot.end != End::Open {
            return self.hear_of_reset_after_eof();
        }
        match self.slot.connection.sock().recv(self.buffer) {
            Ok(0) => self.got_eof(),
            Ok(bytes) => self.got_data(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.slot.recv.clear();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => self.got_permanent_read_error(&error),
        }
    }

    fn got_data(&mut self, bytes: usize) -> Result<(), Closed> {
        if bytes < self.buffer.len() && self.slot.short_read_means_empty {
            self.slot.recv.clear();
        }
        self.slot.connection.count_received(bytes);
        self.check_open()?;
        self.slot.send.work = true;
        let data = self.buffer.get(..bytes).unwrap_or_default();
        self.context.handler().event_got_data(self.context.sockman, self.slot.id, data);
        Ok(())
    }

    fn got_eof(&mut self) -> Result<(), Closed> {
        if !self.slot.saw_fin {
            // A send was told of the reset, maybe before the poller told of it, which left the
            // receive with a plain end of stream. Not so with a broken pipe: that is a reset after
            // the end, and both are to be told.
            let error = self.slot.connection.send_error();
            if let Some(error) = error.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
                return self.got_permanent_read_error(&error);
            }
        }
        self.slot.end = End::EofTold;
        // A reset that came together with it is still to be told.
        self.slot.recv.ready = self.slot.broken;
        self.slot.recv.work = self.slot.broken;
        self.check_open()?;
        self.slot.send.work = true;
        let id = self.slot.id;
        self.context.handler().event_got_eof(self.context.sockman, id);
        Ok(())
    }

    /// After the end of the stream, Linux's `recv` says "end of stream" for ever, and only
    /// `SO_ERROR` knows of a reset; unless a send was told of it first.
    fn hear_of_reset_after_eof(&mut self) -> Result<(), Closed> {
        self.slot.recv.clear();
        self.slot.broken = false;
        let connection = &self.slot.connection;
        let error = connection.sock().take_error().unwrap_or_else(Some);
        match error.or_else(|| connection.send_error()) {
            Some(error) => self.got_permanent_read_error(&error),
            None => Ok(()),
        }
    }

    fn got_permanent_read_error(&mut self, error: &io::Error) -> Result<(), Closed> {
        self.slot.recv.clear();
        if self.slot.end == End::ErrorTold {
            return Ok(());
        }
        self.slot.end = End::ErrorTold;
        self.check_open()?;
        self.slot.send.work = true;
        let id = self.slot.id;
        log::debug!(target: "sockman::net", "connection {id} to {}: {error}", self.slot.connection.them());
        self.context.handler().event_got_permanent_read_error(self.context.sockman, id, error);
        Ok(())
    }

    fn take_failed_registration(&mut self) -> Option<io::Error> {
        let position = self.failed.iter().position(|(key, _)| *key == self.key)?;
        Some(self.failed.swap_remove(position).1)
    }

    fn check_open(&self) -> Result<(), Closed> {
        let is_closed = self.open.is_closed(self.context, &self.slot.connection);
        if is_closed { Err(Closed) } else { Ok(()) }
    }
}
