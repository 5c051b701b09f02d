//! The pass: what the socket thread repeats.
//!
//! This module owns everything that only the socket thread may touch: the poll set, the listeners'
//! latches, the list of turns, the receive buffer. While no thread runs, the shared state keeps the
//! [`SocketThread`], so that a restart loses nothing. A pass takes the inbox's mutex for a moment.
//! No lock is held while a callback runs.
//!
//! Data flows one way: poll → latches → hooks → I/O → callbacks.

mod marks;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connecting::{Connecting, Stepped},
    context::Context,
    due::Due,
    ending::Ending,
    inbox::Mark,
    lacking::Lacking,
    listening::Listening,
    poll_set::PollSet,
    slab::{Key, Token},
    slot::{OpenSince, Turn, TurnEnd},
    timer_limit::TimerLimit,
    visits::Visits,
};
use crate::{
    options::{Options, SELECT_TIMEOUT},
    sockman::SockMan,
    sys::{EVENTS_PER_POLL, Poller, Readiness, Waker},
};

/// The state that only the socket thread may touch.
pub(crate) struct SocketThread {
    connected: PollSet,
    listening: Listening,
    connecting: Connecting,
    lacking: Lacking,
    ending: Ending,
    visits: Visits,
    /// This field and the next two are reused in every pass, so that a pass does not allocate.
    marks: Vec<Mark>,
    events: Vec<Readiness>,
    buffer: Box<[u8]>,
    /// Says whether a connection with a slot may be closed.
    open: OpenSince,
    /// The current time. The clock is read after each poll, and again before a poll that may sleep.
    now: Instant,
    /// When the last poll returned. `None` before the first poll.
    looked: Option<Instant>,
    /// The time from which on the last poll is no longer recent. A comparison with the clock costs
    /// less than a difference.
    stale: Instant,
    /// When the poll returned with which the current round of turns began.
    round_looked: Option<Instant>,
    /// When the latest poll returned whose events all had their turns.
    served: Option<Instant>,
    sweep: Option<Sweep>,
    /// The latest of the embedder's deadlines that has had its immediate pass.
    served_deadline: Option<Served>,
    /// Whether the last pass had nothing to do before its poll, and its poll reported no event.
    #[cfg(feature = "testing")]
    slept: bool,
}

/// The time between two immediate passes for deadlines in the past. `epoll` counts time in
/// milliseconds.
const DEADLINE_PAUSE: Duration = Duration::from_millis(1);

/// How old the last poll may be at the beginning of a turn that is not cheap, or while somebody
/// waits. After a longer time, the thread polls again first. Data may have arrived meanwhile for a
/// connection that the handler would call late, or for one that gets its turn before the rest. The
/// value is the resolution of the poller's clock.
const FRESH: Duration = Duration::from_millis(1);

/// How old the last poll may be while turns are cheap and nobody waits for the end of the slice. With a
/// thousand busy connections, a poll after each millisecond costs a tenth of the processor's time.
const LONG_SLICE: Duration = Duration::from_millis(4);

/// The mean time of cheap turns. A small message takes 3 to 5 µs, most of them in the kernel.
const CHEAP_TURN: Duration = Duration::from_micros(16);

/// How late a poll may return. The value is far above what a poller's clock rounds. If a poll
/// returns later, the process may have been stopped after the poll had looked, so the poll counts
/// as one that returned then.
const LATE: Duration = Duration::from_millis(10);

/// About how often a sweep reads the clock, at most. A sweep over fewer connections reads the clock
/// after each connection.
const CLOCK_READS_PER_SWEEP: usize = 64;

/// Returns whether a poll that returned at `looked` is recent.
fn is_fresh(looked: Instant, now: Instant) -> bool {
    now.saturating_duration_since(looked) < FRESH
}

/// Whether connections that a poll finds ready get their turns before the current round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    InRound,
    BesideRound,
}

#[derive(Debug, Clone, Copy)]
struct Served {
    deadline: Instant,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sweep {
    period: Duration,
    next: Instant,
}

impl Sweep {
    /// Returns the time of the next sweep. Returns `None` if the clock cannot represent that time,
    /// which means that no sweep comes.
    fn after(now: Instant, period: Duration) -> Option<Sweep> {
        now.checked_add(period).map(|next| Sweep { period, next })
    }
}

impl SocketThread {
    pub(crate) fn new(options: &Options, poller: Box<dyn Poller>) -> SocketThread {
        let now = options.sock_factory.now();
        SocketThread {
            connected: PollSet::new(poller),
            listening: Listening::new(),
            connecting: Connecting::new(),
            lacking: Lacking::default(),
            ending: Ending::default(),
            visits: Visits::default(),
            marks: Vec::new(),
            events: Vec::with_capacity(EVENTS_PER_POLL),
            buffer: vec![0; options.receive_buffer].into_boxed_slice(),
            open: OpenSince::default(),
            now,
            looked: None,
            stale: now,
            round_looked: None,
            served: None,
            sweep: options.sweep.and_then(|period| Sweep::after(now, period)),
            served_deadline: None,
            #[cfg(feature = "testing")]
            slept: false,
        }
    }

    pub(crate) fn waker(&self) -> Arc<dyn Waker> {
        self.connected.poller().waker()
    }

    /// Runs passes until an interrupt is set. Each pass calls `in_each_pass`.
    ///
    /// # Errors
    ///
    /// Returns the poller's error.
    ///
    /// # Panics
    ///
    /// Continues the panic of a callback under
    /// [`PanicPolicy::Stop`](crate::options::PanicPolicy::Stop). The latches keep their state for
    /// the next run, so no event is lost.
    pub(crate) fn thread_socket_handler(
        &mut self,
        context: &Context<'_>,
        in_each_pass: &mut dyn FnMut(&SockMan),
    ) -> io::Result<()> {
        self.now = context.shared().options.sock_factory.now();
        while !context.interrupts.is_interrupted() {
            self.pass_with(context, in_each_pass)?;
        }
        Ok(())
    }

    /// Runs one pass of a test that runs the passes by hand.
    #[cfg(feature = "testing")]
    pub(crate) fn pass(&mut self, context: &Context<'_>) -> io::Result<()> {
        self.pass_with(context, &mut |_| {})
    }

    /// Runs one pass.
    ///
    /// # Errors
    ///
    /// Returns the poller's error.
    ///
    /// # Panics
    ///
    /// Panics under the same condition as
    /// [`thread_socket_handler`](SocketThread::thread_socket_handler).
    fn pass_with(
        &mut self,
        context: &Context<'_>,
        in_each_pass: &mut dyn FnMut(&SockMan),
    ) -> io::Result<()> {
        // Marks are taken before the callback, so that a later `notify` gets another pass.
        self.heed_marks(context);
        if self.is_behind(context) {
            // The callback acts on timers, and must not call a connection late whose data waits in
            // the kernel. So the data is delivered first. One such round of turns is enough. With
            // more rounds, a flood of data would keep the timers from running.
            self.lacking.hurry(self.now);
            let mut fresh = Fresh::InRound;
            loop {
                self.ask_hooks(context);
                self.serve(context, Some(Duration::ZERO), fresh)?;
                if context.interrupts.is_interrupted() {
                    // The interrupt may have cut the round short. The next start repeats the round.
                    return Ok(());
                }
                self.heed_marks(context);
                if !self.connected.due.has_round() {
                    break;
                }
                fresh = Fresh::BesideRound;
            }
        }
        context.shared().counters.passes.add_owned(1);
        let limit = TimerLimit::set(self.served.unwrap_or(self.now));
        context.handler().event_io_loop_completed_for_all(context.sockman);
        in_each_pass(context.sockman);
        drop(limit);
        let timeout = self.generate_wait_sockets(context);
        self.serve(context, timeout, Fresh::BesideRound)
    }

    /// Polls, and serves what is due: a slice of the turns, and a batch of the rest.
    fn serve(
        &mut self,
        context: &Context<'_>,
        timeout: Option<Duration>,
        fresh: Fresh,
    ) -> io::Result<()> {
        self.wait(context, timeout)?;
        // Marks are taken again, so that this pass answers a wake that ended the poll.
        let called_back = self.heed_marks(context);
        while let Some(key) = self.lacking.next(self.now) {
            self.connected.retry_lacking(key);
        }
        // The poll returned late, or a callback has taken long. The clock is not read if neither can be.
        if self.now >= self.stale || (called_back && !self.has_looked(context)) {
            self.poll_again(context)?;
        }
        self.socket_handler_connected(context, fresh)?;
        self.socket_handler_connecting(context);
        self.socket_handler_listening(context);
        self.ending.close_late(context, self.now);
        Ok(())
    }

    /// Returns whether data may wait that arrived before a timer of the embedder ended, although the
    /// thread has not polled and served everything since: one of the embedder's deadlines has
    /// passed, or the thread is far behind. A handler without
    /// [`next_deadline`](crate::EventHandler::next_deadline) may have timers, too.
    fn is_behind(&self, context: &Context<'_>) -> bool {
        let deadline = context.handler().next_deadline();
        let now = context.shared().options.sock_factory.now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return !self.served.is_some_and(|at| deadline <= Some(at) && is_fresh(at, now));
        }
        self.served.is_some_and(|at| now.saturating_duration_since(at) > SELECT_TIMEOUT)
    }

    /// Returns whether the last poll is recent.
    fn has_looked(&self, context: &Context<'_>) -> bool {
        context.now() < self.stale
    }

    /// Returns whether the slice goes on.
    #[inline]
    fn goes_on(&self, context: &Context<'_>) -> bool {
        let now = context.now();
        now < self.stale || self.goes_on_long(context, now)
    }

    #[inline(never)]
    fn goes_on_long(&self, context: &Context<'_>, now: Instant) -> bool {
        let Some(looked) = self.looked else { return false };
        let time = now.saturating_duration_since(looked);
        time < LONG_SLICE.min(CHEAP_TURN * self.connected.due.turns())
            && self.connected.due.may_be_long()
            && !context.shared().inbox.is_pending()
    }

    /// Returns how many listeners the passes have looked at.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn listeners_looked_at(&self) -> usize {
        self.listening.looked_at()
    }

    /// Makes every slot for listeners taken.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn fill_listeners(&mut self) {
        self.listening.fill();
    }

    /// Returns whether the last pass had nothing to do and left nothing to do.
    #[cfg(feature = "testing")]
    pub(crate) fn is_idle(&self) -> bool {
        self.slept
            && self.connected.due.is_empty()
            && !self.connecting.has_due()
            && !self.ending.has_unreported()
            && !self.visits.has_due()
    }

    /// Asks the hooks of the connections that were left with work. Returns how long the poller may
    /// wait.
    fn generate_wait_sockets(&mut self, context: &Context<'_>) -> Option<Duration> {
        self.ask_hooks(context);
        self.timeout(context)
    }

    /// Asks the hooks of the connections that were left with work, and removes those without a turn
    /// from the list.
    fn ask_hooks(&mut self, context: &Context<'_>) {
        self.connected.due.prepare();
        if self.connected.due.has_round() {
            // The round goes on with the next slice, whose turns ask their hooks.
            self.connected.forget_answers();
            return;
        }
        // The loop changes the lists in place after each connection, so that they stay correct
        // if a hook panics.
        let mut position = 0;
        while let Some(key) = self.connected.due.at(position) {
            if self.may_go_on(context, key) {
                position += 1;
            } else {
                self.connected.strike(position);
            }
        }
    }

    fn may_go_on(&mut self, context: &Context<'_>, key: Key) -> bool {
        let open = self.open;
        let Some((slot, state)) = self.connected.slot(key) else { return false };
        context.guard(slot.id, || slot.ask_hooks(context, state, open)).unwrap_or(false)
    }

    /// Returns how long the poller may wait. `None` means until an event or a wake.
    fn timeout(&mut self, context: &Context<'_>) -> Option<Duration> {
        let deadline = context.handler().next_deadline();
        let full = context.shared().connections.is_full();
        let has_work = !self.connected.due.is_empty() || self.connecting.has_due();
        if has_work || self.visits.has_due() || self.ending.has_unreported() {
            return Some(Duration::ZERO);
        }
        // The clock is read again, because the callbacks since the poll took time.
        self.now = context.shared().options.sock_factory.now();
        let mut until = self.sweep.map(|sweep| sweep.next);
        let mut earlier = |at: Instant| until = Some(until.map_or(at, |until| until.min(at)));
        if let Some(at) = self.connecting.next_timer() {
            earlier(at);
        }
        if let Some(at) = self.lacking.until() {
            earlier(at);
        }
        if let Some(at) = self.ending.next_timer() {
            earlier(at);
        }
        if let Some(at) = self.listening.next_accept(self.now).filter(|_| !full) {
            earlier(at);
        }
        match deadline {
            Some(at) if at > self.now => earlier(at),
            // Each deadline that has passed gets one immediate pass, so a deadline that the
            // embedder forgets does not make the loop spin. A deadline that the embedder keeps
            // moving to just before the current time gets at most one pass per tick of the poller's
            // clock.
            Some(at) if self.served_deadline.is_none_or(|served| at > served.deadline) => {
                let again = self.served_deadline.map(|served| served.at + DEADLINE_PAUSE);
                if again.is_none_or(|again| again <= self.now) {
                    self.served_deadline = Some(Served { deadline: at, at: self.now });
                }
                earlier(again.map_or(self.now, |again| again.max(self.now)));
            }
            _ => {}
        }
        until.map(|until| until.saturating_duration_since(self.now))
    }

    /// Polls without waiting, and latches the events.
    fn poll_again(&mut self, context: &Context<'_>) -> io::Result<()> {
        let latest = context.now().checked_add(LATE);
        self.events.clear();
        self.connected.poll(&mut self.events, Some(Duration::ZERO))?;
        self.latch_events(context, latest)
    }

    /// Polls, and latches all events before any callback runs. If more sockets are ready than one
    /// poll reports, polls several times.
    fn wait(&mut self, context: &Context<'_>, timeout: Option<Duration>) -> io::Result<()> {
        let inbox = &context.shared().inbox;
        let sleeps = timeout != Some(Duration::ZERO) && inbox.prepare_to_sleep();
        let timeout = if sleeps { timeout } else { Some(Duration::ZERO) };
        let begin = if sleeps { self.now } else { context.shared().options.sock_factory.now() };
        let latest = timeout.and_then(|timeout| begin.checked_add(timeout)?.checked_add(LATE));
        self.events.clear();
        let polled = self.connected.poll(&mut self.events, timeout);
        #[cfg(feature = "testing")]
        (self.slept = sleeps && self.events.is_empty());
        if sleeps {
            inbox.woke();
        }
        polled?;
        self.latch_events(context, latest)?;
        #[cfg(feature = "testing")]
        (self.slept = self.slept && !self.has_unserved_deadline(context));
        Ok(())
    }

    /// Returns whether a deadline of the embedder has passed that gets an immediate pass.
    #[cfg(feature = "testing")]
    fn has_unserved_deadline(&self, context: &Context<'_>) -> bool {
        let Some(deadline) = context.handler().next_deadline() else { return false };
        deadline <= self.now
            && self.served_deadline.is_none_or(|served| {
                deadline > served.deadline && served.at + DEADLINE_PAUSE <= self.now
            })
    }

    /// Latches the events of a poll and those that the poll left over, and reads the clock. A poll
    /// that returned in time looked at `latest` at the latest.
    fn latch_events(&mut self, context: &Context<'_>, latest: Option<Instant>) -> io::Result<()> {
        // The waker takes a place among the events of a poll, but is not reported.
        let full = EVENTS_PER_POLL - 1;
        // This many polls report all sockets. A flood of events does not make the loop endless.
        let mut polls_left = context.shared().connections.count() / full + 1;
        loop {
            context.shared().counters.events.add_owned(self.events.len() as u64);
            for event in &self.events {
                match Token::decode(event.token) {
                    Token::Connection(key) => self.connected.latch(key, event),
                    Token::Listener(key) => self.listening.latch(key),
                    Token::Attempt(key) => self.connecting.heed(key, event),
                }
            }
            if self.events.len() < full || polls_left == 0 {
                break;
            }
            polls_left -= 1;
            self.events.clear();
            self.connected.poll(&mut self.events, Some(Duration::ZERO))?;
        }
        self.now = context.shared().options.sock_factory.now();
        let looked = latest.map_or(self.now, |latest| self.now.min(latest));
        self.looked = Some(looked);
        self.stale = looked.checked_add(FRESH).unwrap_or(looked);
        Ok(())
    }

    /// Runs a slice of the turns.
    ///
    /// # Errors
    ///
    /// Returns the poller's error.
    fn socket_handler_connected(&mut self, context: &Context<'_>, fresh: Fresh) -> io::Result<()> {
        if let Some(sweep) = self.sweep.filter(|sweep| self.now >= sweep.next) {
            self.sweep_all(context);
            if context.interrupts.is_interrupted() {
                // An interrupt may have cut the sweep short. The sweep is then repeated at the next
                // start.
                return Ok(());
            }
            self.sweep = Sweep::after(self.now, sweep.period);
            if !self.has_looked(context) {
                self.poll_again(context)?;
            }
        }
        let begins_round = self.connected.begin_slice(self.now);
        if fresh == Fresh::InRound {
            self.connected.due.end_rows();
        }
        if begins_round {
            self.round_looked = self.looked;
        } else if fresh == Fresh::InRound {
            self.connected.due.add_all_to_round();
            self.round_looked = self.looked;
        }
        let mut next = self.connected.due.next_turn();
        while let Some(key) = next {
            if context.interrupts.is_interrupted() {
                return Ok(());
            }
            context.shared().counters.turns.add_owned(1);
            self.turn(context, key);
            self.connected.due.turn_over();
            next = self.connected.due.next_turn();
            let repeats = self.connected.due.repeats();
            if next.is_some() && (repeats || !self.goes_on(context)) {
                break;
            }
        }
        self.connected.due.end_slice();
        if !self.connected.due.has_round() {
            self.served = self.round_looked;
        }
        Ok(())
    }

    /// Sweeps every connection. Connections that need a full turn are then due.
    fn sweep_all(&mut self, context: &Context<'_>) {
        context.shared().counters.sweeps.add_owned(1);
        let (open, looked, mut turns) = (self.open, self.looked, 0);
        let between_reads = context.shared().connections.count() / CLOCK_READS_PER_SWEEP + 1;
        let (mut may_go_on, mut until_read) = (true, between_reads);
        let (slots, states, due) = self.connected.slots_and_due();
        for (key, slot) in slots {
            if context.interrupts.is_interrupted() {
                break;
            }
            if may_go_on && until_read == 0 {
                until_read = between_reads;
                let now = context.now();
                may_go_on = looked.is_some_and(|looked| is_fresh(looked, now));
            }
            until_read = until_read.saturating_sub(1);
            // If a callback of the sweep took long, the other connections get full turns, which
            // another poll precedes.
            if !may_go_on {
                slot.want_turn();
                due.list_as(slot.is_heavy(), key, &mut slot.listed);
                continue;
            }
            // After a panic the connection is closed, and its mark frees the slot.
            let state = states.at(key);
            if context.guard(slot.id, || slot.sweep(context, state, open)).unwrap_or(true) {
                turns += 1;
            } else {
                due.list_as(slot.is_heavy(), key, &mut slot.listed);
            }
        }
        context.shared().counters.turns.add_owned(turns);
    }

    #[inline(never)]
    fn turn(&mut self, context: &Context<'_>, key: Key) {
        let Some((slot, state, failed)) = self.connected.begin_turn(key) else { return };
        let id = slot.id;
        let buffer = &mut *self.buffer;
        let mut desk = context.desk();
        desk.swap_current(&mut slot.spare);
        let sockman = &*desk;
        let mut turn = Turn { context, sockman, slot, state, key, buffer, failed };
        let end = match context.stops_at_panics() {
            true => Some(turn.run()),
            false => context.guard(id, || turn.run_apart()),
        };
        desk.swap_current(&mut slot.spare);
        let is_heavy = slot.is_heavy();
        match end {
            Some(TurnEnd::BulkLeft) => self.connected.due.bulk_left(key),
            Some(TurnEnd::WorkLeft) => self.connected.due.work_left(key),
            Some(TurnEnd::MayAnswer) => self.connected.due.may_answer(key),
            Some(TurnEnd::Rests) => Due::rests(&mut slot.listed),
            // The mark of the close frees the slot. The report of the end needs the state.
            Some(TurnEnd::Closed) if state.is_some() => Due::rests(&mut slot.listed),
            Some(TurnEnd::Closed) => {
                let connection = Arc::clone(&slot.connection);
                self.connected.remove(&connection);
            }
            // A callback panicked. The connection is closed, and its mark is in the inbox.
            None => {}
        }
        self.connected.due.turn_was(is_heavy);
    }

    /// Steps the attempts that are due and reports outcomes, at most one batch. The remaining
    /// attempts stay due for the next pass.
    fn socket_handler_connecting(&mut self, context: &Context<'_>) {
        self.connecting.list_expired(self.now);
        for _ in 0..context.shared().options.accept_batch {
            if context.interrupts.is_interrupted() {
                return;
            }
            let poller = self.connected.poller();
            match self.connecting.step_next(poller, self.now) {
                Stepped::NoneIsDue => return,
                Stepped::GoesOn => {}
                Stepped::IsOver(completed) => {
                    if let Some(connection) = completed.announce(context, self.now) {
                        self.connected.add(context.shared(), &connection);
                    }
                }
            }
        }
    }

    /// Accepts at most one batch for each listener that is due.
    fn socket_handler_listening(&mut self, context: &Context<'_>) {
        self.listening.accept(context, &mut self.connected, self.now);
    }
}
