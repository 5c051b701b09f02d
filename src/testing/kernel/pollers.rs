//! The pollers of the double's operating system: which sockets are registered with each, and what
//! each reports. The pollers are edge-triggered, as epoll with `EPOLLET` and kqueue with `EV_CLEAR`
//! are. Both check an entry again when they report it, and drop it if it is no longer ready. The
//! poller of Windows works in another way (`afd`).
//!
//! The pollers are plain data, part of the [`Kernel`].

use std::collections::VecDeque;

use super::{End, Filter, Kernel, Kind, Sys, afd};
use crate::{
    sys::{EVENTS_PER_POLL, Readiness, errors},
    testing::calls::Call,
};

#[derive(Debug, Default)]
pub(super) struct PollerState {
    ready: VecDeque<(End, Filter)>,
    is_woken: bool,
    pub(super) afd: afd::Queues,
}

impl Kernel {
    pub(in crate::testing) fn create_poller(&mut self) -> u64 {
        let poller = self.next_poller;
        self.next_poller += 1;
        self.pollers.insert(poller, PollerState::default());
        poller
    }

    pub(in crate::testing) fn drop_poller(&mut self, poller: u64) {
        self.pollers.remove(&poller);
        // A socket of mio remembers its poller on Windows, also one that is gone.
        if self.system.has_afd() {
            return;
        }
        for socket in self.sockets.iter_mut().flatten() {
            if socket.registration.is_some_and(|(of, _)| of == poller) {
                socket.registration = None;
                socket.listed = [false; 3];
            }
        }
    }

    pub(in crate::testing) fn register(&mut self, poller: u64, fd: usize, token: usize) -> Sys<()> {
        let end = self.end_of(fd).ok_or(errors::EBADF)?;
        let outcome = self.fault(Some(end), Call::Register);
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        if outcome.is_err() && socket.was_copied {
            // The registration of an earlier descriptor may be left. It does not watch this one.
            socket.registration = None;
        }
        outcome?;
        // Linux knows a registration by its descriptor, and thus takes a copy although the original
        // is registered.
        if socket.registration.is_some() && !socket.was_copied {
            return Err(errors::EEXIST);
        }
        (socket.registration, socket.listed) = (Some((poller, token)), [false; 3]);
        // A poller also reports a socket that is already ready when it is registered.
        if self.system.has_afd() {
            self.begin_interest(end);
        } else {
            self.tell(end);
        }
        Ok(())
    }

    pub(in crate::testing) fn deregister(&mut self, poller: u64, fd: usize) -> Sys<()> {
        let end = self.end_of(fd).ok_or(errors::EBADF)?;
        self.fault(Some(end), Call::Deregister)?;
        let has_afd = self.system.has_afd();
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        let (of, _) = socket.registration.ok_or(errors::ENOENT)?;
        if of != poller && has_afd && !socket.was_copied {
            return Err(errors::ENOENT);
        }
        // Another poller watches a copy of the descriptor already.
        if of != poller {
            return Ok(());
        }
        socket.registration = None;
        socket.listed = [false; 3];
        Ok(())
    }

    /// Makes the socket's poller report both directions of the socket, if the socket has a poller.
    pub(in crate::testing) fn tell(&mut self, end: End) {
        self.tell_read(end);
        self.tell_write(end);
    }

    /// Makes the poller report that there may be something to receive or to accept.
    pub(in crate::testing) fn tell_read(&mut self, end: End) {
        self.list(end, Filter::Read);
    }

    /// Makes the poller report that there may be room.
    pub(in crate::testing) fn tell_write(&mut self, end: End) {
        self.list(end, Filter::Write);
    }

    /// Makes the poller report the socket although nothing happened.
    pub(in crate::testing) fn tell_again(&mut self, end: End) {
        if self.system.has_afd() {
            self.rearm(end);
        } else {
            self.tell(end);
        }
    }

    fn list(&mut self, end: End, filter: Filter) {
        if self.system.has_afd() {
            return self.indicate(end, filter);
        }
        let filter = if self.system.has_kqueue() { filter } else { Filter::Both };
        let Some(socket) = self.socket(end) else { return };
        let Some((poller, _)) = socket.registration else { return };
        if !std::mem::replace(&mut socket.listed[filter as usize], true) {
            if let Some(poller) = self.pollers.get_mut(&poller) {
                poller.ready.push_back((end, filter));
                self.changed.notify_all();
            }
        }
    }

    pub(in crate::testing) fn wake_poller(&mut self, poller: u64) {
        if let Some(poller) = self.pollers.get_mut(&poller) {
            poller.is_woken = true;
            self.changed.notify_all();
        }
    }

    /// Appends the events that the poller reports now to `events`. Returns `true` if the poller was
    /// woken.
    pub(in crate::testing) fn collect(&mut self, poller: u64, events: &mut Vec<Readiness>) -> bool {
        let Some(state) = self.pollers.get_mut(&poller) else { return false };
        let is_woken = std::mem::take(&mut state.is_woken);
        if !self.injected.is_empty() {
            events.append(&mut self.injected);
            return is_woken;
        }
        // The waker takes a place among the events of a poll, as with `epoll`. Further sockets stay
        // listed for the next poll.
        let most = EVENTS_PER_POLL - usize::from(is_woken);
        if self.system.has_afd() {
            self.collect_afd(poller, most, events);
            return is_woken;
        }
        let mut ready = std::mem::take(&mut state.ready).into_iter();
        while events.len() < most {
            let Some((end, filter)) = ready.next() else { break };
            let Some(socket) = self.socket(end) else { continue };
            // Meanwhile the socket was deregistered, or registered with another poller, in whose list
            // it stays.
            if socket.registration.is_none_or(|(of, _)| of != poller) {
                continue;
            }
            if !std::mem::replace(&mut socket.listed[filter as usize], false) {
                continue;
            }
            let token = socket.registration.map_or(0, |(_, token)| token);
            if let Some(readiness) = self.readiness(end, filter) {
                events.push(Readiness { token, ..readiness });
            }
        }
        if let Some(state) = self.pollers.get_mut(&poller) {
            // `ready` was left empty, and nothing was listed meanwhile.
            state.ready = ready.collect();
        }
        is_woken
    }

    /// Returns what an entry reports, or `None` if it reports nothing.
    fn readiness(&mut self, end: End, filter: Filter) -> Option<Readiness> {
        let room = self.room(end);
        let window = self.window_of_other(end);
        let socket = self.socket(end)?;
        let is_unix = socket.is_unix;
        let readiness = match &mut socket.kind {
            // Linux also reports a socket in this way if it is neither connecting nor connected.
            Kind::Fresh if filter != Filter::Both => Readiness::default(),
            Kind::Fresh => Readiness {
                writable: true,
                broken: true,
                read_closed: true,
                readable: true,
                ..Readiness::default()
            },
            Kind::Listener(_) if filter == Filter::Write => Readiness::default(),
            Kind::Listener(backlog) => Readiness {
                readable: !backlog.waiting.is_empty() || backlog.is_shut,
                ..Readiness::default()
            },
            Kind::Stream(stream) => match filter {
                Filter::Both => stream.readiness(is_unix, room, window),
                Filter::Read => stream.read_filter(),
                Filter::Write => stream.write_filter(room, window),
            },
            Kind::Scripted(script) => part_of(script.readiness(), filter),
        };
        (readiness != Readiness::default()).then_some(readiness)
    }

    /// Returns whether a poller watches the socket.
    pub(in crate::testing) fn is_watched(&mut self, end: End) -> bool {
        let registration = self.socket(end).and_then(|socket| socket.registration);
        registration.is_some_and(|(poller, _)| self.pollers.contains_key(&poller))
    }

    /// Returns the tokens of the sockets that a poller watches, in the order of the descriptors.
    pub(in crate::testing) fn tokens(&self) -> Vec<usize> {
        let registrations = self.sockets.iter().flatten().filter_map(|socket| socket.registration);
        let watched = registrations.filter(|(poller, _)| self.pollers.contains_key(poller));
        watched.map(|(_, token)| token).collect()
    }
}

/// Returns what a filter of kqueue reports of what epoll would report.
fn part_of(whole: Readiness, filter: Filter) -> Readiness {
    match filter {
        Filter::Both => whole,
        Filter::Read => Readiness { writable: false, ..whole },
        Filter::Write => {
            Readiness { writable: whole.writable, broken: whole.broken, ..Readiness::default() }
        }
    }
}
