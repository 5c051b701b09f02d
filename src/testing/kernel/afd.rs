//! The poller of Windows, as mio builds it on AFD, the driver behind Winsock.
//!
//! AFD has no edges. A poll asks about one socket and a set of events, and ends as soon as one of
//! them is true. mio makes edges of that: it polls each socket once, reports the events that the
//! poll returned, and polls again for the other events only. A call on the socket that returns "would
//! block" puts all events back into the set. A poll that begins reports at once what is true by then.
//!
//! The module is plain data, part of the [`Kernel`].

use std::collections::VecDeque;

use super::{End, Filter, Kernel, Kind, Socket};
use crate::sys::Readiness;

/// There is something to receive, or a client to accept: `AFD_POLL_RECEIVE`, `AFD_POLL_ACCEPT`.
const RECEIVE: u8 = 1;
/// There is room for a send, or a connect has succeeded: `AFD_POLL_SEND`.
const SEND: u8 = 2;
/// The peer has ended its stream: `AFD_POLL_DISCONNECT`.
const DISCONNECT: u8 = 4;
/// The connection was reset: `AFD_POLL_ABORT`.
const ABORT: u8 = 8;
/// A connect has failed: `AFD_POLL_CONNECT_FAIL`.
const CONNECT_FAIL: u8 = 16;
/// The events that mio asks for. It never asks for urgent data.
const ALL: u8 = RECEIVE | SEND | DISCONNECT | ABORT | CONNECT_FAIL;

/// What mio and AFD keep for a socket that is registered.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// The number of the registration. An entry of an earlier registration is dropped.
    number: u64,
    /// The events that were not reported since the last "would block".
    wanted: u8,
    poll: Poll,
    /// Whether the socket waits for the poller to poll it.
    is_queued: bool,
}

/// The poll that AFD has for a socket.
#[derive(Debug, Default, Clone, Copy)]
enum Poll {
    #[default]
    None,
    /// The poll waits for these events.
    UnderWay(u8),
    /// The poll has ended with these events, which the poller has not taken yet. AFD does not check
    /// them again.
    Over(u8),
}

/// What the poller keeps.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// The sockets to poll before the next wait, with the number of the registration.
    to_poll: VecDeque<(End, u64)>,
    /// The sockets whose polls are over.
    over: VecDeque<(End, u64)>,
}

impl Kernel {
    /// Begins to watch a socket for all events.
    pub(super) fn begin_interest(&mut self, end: End) {
        let number = self.next_registration;
        self.next_registration += 1;
        if let Some(socket) = self.socket(end) {
            socket.interest = Interest { number, ..Interest::default() };
        }
        self.rearm(end);
    }

    /// Puts all events back into the set, as mio does after a call that would block.
    pub(in crate::testing) fn rearm(&mut self, end: End) {
        if !self.system.has_afd() {
            return;
        }
        if let Some(socket) = self.socket(end).filter(|socket| socket.registration.is_some()) {
            socket.interest.wanted = ALL;
            self.queue_poll(end);
        }
    }

    fn queue_poll(&mut self, end: End) {
        let Some(socket) = self.socket(end) else { return };
        let Some((poller, _)) = socket.registration else { return };
        if std::mem::replace(&mut socket.interest.is_queued, true) {
            return;
        }
        let number = socket.interest.number;
        if let Some(poller) = self.pollers.get_mut(&poller) {
            poller.afd.to_poll.push_back((end, number));
            self.changed.notify_all();
        }
    }

    /// Ends the poll of a socket if it waits for something that is true now. `filter` says which
    /// direction has changed.
    pub(super) fn indicate(&mut self, end: End, filter: Filter) {
        let of_direction = match filter {
            Filter::Both => ALL,
            Filter::Read => RECEIVE | DISCONNECT | ABORT | CONNECT_FAIL,
            Filter::Write => SEND | ABORT | CONNECT_FAIL,
        };
        let Some(socket) = self.socket(end) else { return };
        if let Poll::UnderWay(asked) = socket.interest.poll {
            self.end_poll(end, asked & of_direction);
        }
    }

    /// Ends the poll of a socket if one of the events is true.
    fn end_poll(&mut self, end: End, events: u8) {
        let events = events & self.afd_events(end);
        let Some(socket) = self.socket(end).filter(|_| events != 0) else { return };
        socket.interest.poll = Poll::Over(events);
        let (number, poller) = (socket.interest.number, socket.registration);
        if let Some(poller) = poller.and_then(|(poller, _)| self.pollers.get_mut(&poller)) {
            poller.afd.over.push_back((end, number));
            self.changed.notify_all();
        }
    }

    /// Appends at most `most` events of the poller. A poll that is over hides what has become true
    /// since. The library's poller thus polls again, without waiting, after a poll with an event.
    pub(super) fn collect_afd(&mut self, poller: u64, most: usize, events: &mut Vec<Readiness>) {
        let mut took_one = true;
        while took_one && events.is_empty() {
            took_one = self.take_polls(poller, most, events);
        }
        self.take_polls(poller, most, events);
    }

    /// Does what one poll of mio does, without waiting. Returns whether a poll of AFD was over.
    fn take_polls(&mut self, poller: u64, most: usize, events: &mut Vec<Readiness>) -> bool {
        self.poll_queued(poller);
        let mut took_one = false;
        while events.len() < most {
            let over = self.pollers.get_mut(&poller).and_then(|of| of.afd.over.pop_front());
            let Some((end, number)) = over else { break };
            took_one = true;
            events.extend(self.take_poll(poller, end, number));
        }
        took_one
    }

    /// Polls the sockets that wait for it.
    fn poll_queued(&mut self, poller: u64) {
        let queued = self.pollers.get_mut(&poller).map(|of| std::mem::take(&mut of.afd.to_poll));
        for (end, number) in queued.unwrap_or_default() {
            let Some(socket) = self.registered(poller, end, number) else { continue };
            socket.interest.is_queued = false;
            let wanted = socket.interest.wanted;
            match socket.interest.poll {
                Poll::Over(_) => {}
                Poll::UnderWay(asked) if wanted & !asked == 0 => {}
                // mio cancels a poll that asks for less, and begins the next one after its end. The
                // library's poller takes the cancelled one first, so the next one begins at once.
                Poll::UnderWay(_) | Poll::None => {
                    socket.interest.poll = Poll::UnderWay(wanted);
                    self.end_poll(end, wanted);
                }
            }
        }
    }

    /// Takes the events of a poll that is over.
    fn take_poll(&mut self, poller: u64, end: End, number: u64) -> Option<Readiness> {
        let socket = self.registered(poller, end, number)?;
        let Poll::Over(events) = socket.interest.poll else { return None };
        let events = events & socket.interest.wanted;
        socket.interest.poll = Poll::None;
        socket.interest.wanted &= !events;
        let token = socket.registration.map_or(0, |(_, token)| token);
        self.queue_poll(end);
        (events != 0).then(|| readiness(token, events))
    }

    fn registered(&mut self, poller: u64, end: End, number: u64) -> Option<&mut Socket> {
        let socket = self.socket(end).filter(|socket| socket.interest.number == number)?;
        let is_registered = socket.registration.is_some_and(|(of, _)| of == poller);
        is_registered.then_some(socket)
    }

    /// Returns the events that are true.
    fn afd_events(&mut self, end: End) -> u8 {
        let room = self.room(end);
        let Some(socket) = self.socket(end) else { return 0 };
        match &socket.kind {
            Kind::Fresh => 0,
            Kind::Listener(backlog) => flag(RECEIVE, !backlog.waiting.is_empty()),
            Kind::Stream(stream) if stream.is_connecting => 0,
            Kind::Stream(stream) if stream.is_broken => match stream.was_aborted {
                true => ABORT,
                false => CONNECT_FAIL,
            },
            // An end behind data is reported when the data is gone.
            Kind::Stream(stream) => {
                flag(RECEIVE, !stream.incoming.is_empty())
                    | flag(SEND, room > 0 && !stream.send_shut)
                    | flag(DISCONNECT, stream.got_fin && stream.incoming.is_empty())
            }
            Kind::Scripted(script) => {
                let Readiness { readable, writable, read_closed, broken, .. } = script.readiness();
                flag(RECEIVE, readable)
                    | flag(SEND, writable)
                    | flag(DISCONNECT, read_closed)
                    | flag(ABORT, broken)
            }
        }
    }
}

fn flag(event: u8, is_true: bool) -> u8 {
    if is_true { event } else { 0 }
}

/// Returns the events with mio's names. On Windows, the end of sending is always an error.
fn readiness(token: usize, events: u8) -> Readiness {
    let has = |any: u8| events & any != 0;
    let is_over = has(ABORT | CONNECT_FAIL);
    Readiness {
        token,
        readable: is_over || has(RECEIVE | DISCONNECT),
        writable: is_over || has(SEND),
        read_closed: is_over || has(DISCONNECT),
        broken: is_over,
        write_closed: is_over,
        priority: false,
    }
}
