//! The turn of one connection: at most one ready-to-send call and one receive.
//!
//! A turn changes the latches of the slot. This module belongs to the socket thread. It takes the
//! connection's send lock for a moment to read the error of a send. No lock is held while a
//! callback runs.

use std::{collections::BTreeMap, io, mem};

use super::{End, Finish, Slot, Weight};
use crate::{
    engine::{
        connection::RECV_LACKS,
        context::Context,
        slab::Key,
        state::{Place, State},
    },
    event_handler::NextRecv,
    sockman::SockMan,
    sys::passing::passes,
};

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnEnd {
    /// Work is left, and the connection gets a turn in the next pass if its hooks say yes.
    WorkLeft,
    /// The receive filled a large buffer, so there is more, and the connection may go on at once.
    BulkLeft,
    /// A little data came after the ready-to-send call, so the embedder may have queued an answer
    /// to it. The connection gets its next turn before the rest of the round.
    MayAnswer,
    /// Nothing is left to do until an event, a wake or the sweep.
    Rests,
    /// The connection was closed meanwhile.
    Closed,
}

/// The turn of one connection. Before each callback, the turn checks whether the connection was
/// closed, so that no callback names a closed connection.
pub(crate) struct Turn<'a> {
    pub(crate) context: &'a Context<'a>,
    /// The handle for the callbacks, which knows the connection.
    pub(crate) sockman: &'a SockMan,
    pub(crate) slot: &'a mut Slot,
    pub(crate) state: &'a mut Option<State>,
    pub(crate) key: Key,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) failed: &'a mut BTreeMap<Key, io::Error>,
}

/// The error of a turn that ends because the connection was closed.
pub(super) struct Closed;

/// Whether `event_ready_to_send` was called in this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    Yes,
    No,
}

impl Turn<'_> {
    // The parts that most turns have are inlined here, the others are not.
    #[inline(always)]
    pub(crate) fn run(&mut self) -> TurnEnd {
        self.slot.has_turn = false;
        let Ok(may_answer) = self.both_directions() else { return TurnEnd::Closed };
        // The answers of the hooks are valid for one pass only.
        self.slot.forget_answers();
        // If there is more to send, the next turn also sends before it receives.
        self.slot.send_first = self.slot.send.is_due();
        if self.slot.recv.is_due() {
            if self.slot.weight != Weight::Bulk {
                return TurnEnd::WorkLeft;
            }
            self.slot.weight = Weight::Heavy;
            TurnEnd::BulkLeft
        } else if self.slot.send_first {
            if may_answer { TurnEnd::MayAnswer } else { self.end_with_work() }
        } else {
            TurnEnd::Rests
        }
    }

    /// Does what [`run`](Turn::run) does, without a second copy in the caller.
    #[inline(never)]
    pub(crate) fn run_apart(&mut self) -> TurnEnd {
        self.run()
    }

    /// Returns whether a little data came after the ready-to-send call.
    #[inline(always)]
    fn both_directions(&mut self) -> Result<bool, Closed> {
        if self.slot.finish != Finish::No {
            return self.finish().map(|()| false);
        }
        let mut asked_to_send = Called::No;
        let mut next_recv = NextRecv::Proceed;
        if mem::take(&mut self.slot.send_first) {
            (asked_to_send, next_recv) = self.try_to_send_first()?;
        }
        // A receive sets the work of sending, so the work says whether data came.
        let sends = self.slot.send.work;
        if next_recv == NextRecv::Proceed {
            self.try_to_recv()?;
        }
        let may_answer = !sends && self.slot.send.work && self.slot.weight == Weight::Light;
        if asked_to_send == Called::No {
            self.try_to_send()?;
        }
        self.check_open()?;
        let (id, sockman) = (self.slot.id, self.sockman);
        self.context.handler().place_turn_completed(sockman, id, self.place());
        self.check_open()?;
        Ok(may_answer && asked_to_send == Called::Yes)
    }

    /// Ends a turn that left work for the send hook, because the ready-to-send call has sent, or
    /// because a callback came after it. Asks the hook of a handler with states at once. Most calls
    /// send everything, and the connection then rests, instead of being listed for the next pass.
    ///
    /// The hook of such a handler changes its answer in the callbacks of the connection, which are
    /// over, or with a wake. Other handlers may change it before the next pass, which asks the hook.
    #[inline(never)]
    fn end_with_work(&mut self) -> TurnEnd {
        if !self.context.shared().keeps_states() || self.slot.finish != Finish::No {
            return TurnEnd::WorkLeft;
        }
        let (id, sockman, handler) = (self.slot.id, self.sockman, self.context.handler());
        let has_more = handler.place_should_try_to_send(sockman, id, self.place());
        if self.check_open().is_err() {
            return TurnEnd::Closed;
        }
        self.slot.send.work = has_more;
        self.slot.send_first = has_more;
        if has_more { TurnEnd::WorkLeft } else { TurnEnd::Rests }
    }

    #[inline(never)]
    fn try_to_send_first(&mut self) -> Result<(Called, NextRecv), Closed> {
        self.try_to_send()
    }

    #[inline(always)]
    fn try_to_send(&mut self) -> Result<(Called, NextRecv), Closed> {
        if !self.slot.send.is_due() {
            return Ok((Called::No, NextRecv::Proceed));
        }
        let (id, sockman, handler) = (self.slot.id, self.sockman, self.context.handler());
        self.check_open()?;
        if !mem::take(&mut self.slot.send.allowed) {
            if !handler.place_should_try_to_send(sockman, id, self.place()) {
                self.slot.send.work = false;
                return Ok((Called::No, NextRecv::Proceed));
            }
            self.check_open()?;
        }
        Ok(self.ready_to_send())
    }

    /// Calls the ready-to-send callback, after the hook has said yes, unless the socket is full.
    #[inline(never)]
    fn ready_to_send(&mut self) -> (Called, NextRecv) {
        self.slot.forget_blocked_send();
        if !self.slot.send.ready {
            return (Called::No, NextRecv::Proceed);
        }
        let (id, sockman, handler) = (self.slot.id, self.sockman, self.context.handler());
        self.slot.connection.take_sent();
        let next_recv = handler.place_ready_to_send(sockman, id, self.place());
        let sent = self.slot.connection.take_sent();
        self.slot.forget_blocked_send();
        self.slot.send.work = sent;
        if next_recv == NextRecv::Skip {
            self.slot.recv.allowed = false;
            self.slot.recv.work &= sent;
        }
        (Called::Yes, next_recv)
    }

    /// Makes one receive and reports its result. Each callback in this function may queue something
    /// to send, so `send.work` is set before the callback. As a result, the send hook is asked
    /// later in this turn, or in the next pass if the turn already had its ready-to-send call.
    #[inline(always)]
    fn try_to_recv(&mut self) -> Result<(), Closed> {
        if !self.slot.recv.is_due() {
            return Ok(());
        }
        // After `finish_connection`, the hook is not asked. The mark of that call brings a turn that
        // receives.
        if self.slot.connection.is_finishing() {
            return Ok(());
        }
        self.check_open()?;
        // The failure is reported even if receiving is paused. An embedder that pauses until it can
        // send would wait without end: the poller never reports room on a socket it does not watch.
        if let Some(error) = self.take_failed_registration() {
            return self.got_permanent_read_error(&error);
        }
        if !mem::take(&mut self.slot.recv.allowed) {
            let (id, sockman) = (self.slot.id, self.sockman);
            let handler = self.context.handler();
            if !handler.place_should_try_to_recv(sockman, id, self.place()) {
                self.slot.recv.work = false;
                return Ok(());
            }
            self.check_open()?;
        }
        if self.slot.end != End::Open {
            return self.report_reset_after_eof();
        }
        let (connection, buffer) = (&self.slot.connection, &mut *self.buffer);
        match connection.recv(buffer) {
            Ok(0) => self.got_eof(),
            Ok(bytes) => self.got_data(bytes),
            Err(error) => self.got_error(error),
        }
    }

    #[inline(never)]
    fn got_error(&mut self, error: io::Error) -> Result<(), Closed> {
        match error {
            error if error.kind() == io::ErrorKind::WouldBlock => {
                self.slot.recv.clear();
                Ok(())
            }
            error if passes(&error) => {
                let connection = &self.slot.connection;
                self.context.shared().lacks(connection, RECV_LACKS, &error);
                self.slot.recv.clear();
                Ok(())
            }
            error => self.got_permanent_read_error(&error),
        }
    }

    #[inline(always)]
    fn got_data(&mut self, bytes: usize) -> Result<(), Closed> {
        if bytes < self.buffer.len() && self.slot.short_read_means_empty {
            self.slot.recv.clear();
        }
        self.slot.weight = Weight::of(bytes, self.buffer.len());
        if self.slot.connection.is_finishing() {
            return Ok(()); // Another thread, or the hook, has just called `finish_connection`.
        }
        self.slot.connection.count_received(bytes);
        self.check_open_or_taken_out()?;
        self.slot.send.work = true;
        let data = self.buffer.get(..bytes).unwrap_or_default();
        let (id, sockman, place) = (self.slot.id, self.sockman, self.slot.place(self.state));
        self.context.handler().place_got_data(sockman, id, place, data);
        Ok(())
    }

    #[inline(never)]
    fn got_eof(&mut self) -> Result<(), Closed> {
        if !self.slot.saw_fin {
            // If a send received the reset, perhaps before the poller reported it, the receive
            // returns a plain end of stream. So it does if `connection_info` asked for the reset. A
            // broken pipe is different, because it is a reset after the end. In that case both the
            // end and the reset are reported.
            let error = self.slot.connection.received_error();
            if let Some(error) = error.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
                return self.got_permanent_read_error(&error);
            }
        }
        self.slot.connection.set_ended();
        self.slot.end = End::EofTold;
        // A reset that came together with the end is reported later.
        self.slot.recv.ready = self.slot.broken;
        self.slot.recv.work = self.slot.broken;
        if self.slot.connection.is_finishing() {
            return Ok(());
        }
        self.check_open()?;
        self.slot.send.work = true;
        let (id, sockman) = (self.slot.id, self.sockman);
        self.context.handler().place_got_eof(sockman, id, self.place());
        Ok(())
    }

    /// Reports a reset that came after the end of the stream. Linux's `recv` returns "end of
    /// stream" again on each call, so only `SO_ERROR` holds the reset, unless another call received
    /// the reset first.
    #[inline(never)]
    fn report_reset_after_eof(&mut self) -> Result<(), Closed> {
        self.slot.recv.clear();
        self.slot.broken = false;
        match self.slot.connection.take_error().unwrap_or_else(Some) {
            Some(error) => self.got_permanent_read_error(&error),
            None if self.slot.connection.is_broken() => self.report_reset_of_receive(),
            None => Ok(()),
        }
    }

    /// Reports a reset that `SO_ERROR` does not hold. On Windows, only a receive returns it.
    #[cold]
    #[inline(never)]
    fn report_reset_of_receive(&mut self) -> Result<(), Closed> {
        let error = match self.slot.connection.recv(self.buffer) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && !passes(&error) => error,
            _ => io::ErrorKind::ConnectionReset.into(),
        };
        self.got_permanent_read_error(&error)
    }

    #[cold]
    #[inline(never)]
    fn got_permanent_read_error(&mut self, error: &io::Error) -> Result<(), Closed> {
        self.slot.recv.clear();
        if self.slot.end == End::ErrorTold {
            return Ok(());
        }
        self.slot.end = End::ErrorTold;
        self.check_open_or_taken_out()?;
        if self.slot.connection.is_finishing() {
            return Ok(());
        }
        self.slot.send.work = true;
        let id = self.slot.id;
        let them = self.slot.connection.them();
        log::debug!(target: "sockman::net", "cannot read from connection {id} ({them}): {error}");
        let (sockman, handler) = (self.sockman, self.context.handler());
        handler.place_got_permanent_read_error(sockman, id, self.place(), error);
        Ok(())
    }

    #[inline]
    pub(super) fn place(&mut self) -> Place<'_> {
        self.slot.place(self.state)
    }

    #[inline]
    pub(super) fn take_failed_registration(&mut self) -> Option<io::Error> {
        if self.failed.is_empty() { None } else { self.failed.remove(&self.key) }
    }

    /// Checks after a receive. If another thread took the stream of the connection out during the
    /// receive, the bytes are no longer in the stream, nor is the error, so the callback must come.
    /// The other thread waits for the end of the turn.
    #[inline]
    fn check_open_or_taken_out(&self) -> Result<(), Closed> {
        match self.check_open() {
            Err(Closed) if !self.slot.connection.is_taken_out() => Err(Closed),
            _ => Ok(()),
        }
    }

    #[inline]
    pub(super) fn check_open(&self) -> Result<(), Closed> {
        let is_closed = self.slot.connection.is_closed();
        if is_closed { Err(Closed) } else { Ok(()) }
    }
}
