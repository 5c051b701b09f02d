//! The simulated embedder's handler. The handler checks every callback against the model, and then
//! does something that an embedder may do in a callback.
//!
//! Runs on the simulated socket thread, which is the test's thread. The model's mutex is not held
//! during calls into the library, except while a descriptor is looked up.

use std::{error::Error, io, panic::resume_unwind, sync::Arc, time::Instant};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Service, SockMan,
    address::{Destination, NetAddr},
    error::{ConnectError, ConnectErrorKind, SendError},
    options::PanicPolicy,
    testing::Call,
};

use crate::{
    faults::passes,
    model::{Model, Phase, Way, bytes},
    world::World,
};

/// The payload of the panics of simulated callbacks.
pub(crate) struct Panic;

/// A callback panics once in this many calls.
const ONCE_IN: u64 = 300;
/// The most bytes that a send without a `SendQueue` offers.
const LONGEST_SEND: u64 = 16 * 1024;

/// The handler of the simulated embedder.
#[derive(Debug)]
pub(crate) struct Embedder {
    pub(crate) world: Arc<World>,
}

impl Embedder {
    /// Ends a callback: sometimes performs an action of the embedder, and sometimes panics.
    fn afterwards(&self, sockman: &SockMan, id: Option<ConnectionId>) {
        if !self.world.model.lock().is_wild {
            return;
        }
        if self.world.model.lock().choices.once_in(12) {
            let before = self.world.network.elapsed();
            self.world.act_as_embedder(sockman, true);
            let now = self.world.network.elapsed();
            if let Some(id) = id.filter(|_| now > before) {
                self.world.with_record(id, |record| record.excused_at = Some(now));
            }
        }
        self.perhaps_panic(id);
    }

    fn perhaps_panic(&self, id: Option<ConnectionId>) {
        let mut model = self.world.model.lock();
        if !model.is_wild || !model.choices.once_in(ONCE_IN) {
            return;
        }
        let closes = self.world.policy == PanicPolicy::CloseConnection;
        match id.and_then(|id| model.connections.get_mut(&id)).filter(|_| closes) {
            Some(record) => {
                if record.phase == Phase::Open {
                    record.phase = Phase::PanicClosed;
                }
                model.count("a panic closed a connection");
            }
            None => {
                model.count(if closes && id.is_some() {
                    "a panic closed a connection"
                } else {
                    "a panic stopped the threads"
                });
            }
        }
        model.say(|| "  PANIC".to_owned());
        drop(model);
        resume_unwind(Box::new(Panic));
    }

    /// Sometimes panics, in a callback whose panic closes the connection under `PanicPolicy::Stop`,
    /// too.
    fn perhaps_panic_closing(&self, id: ConnectionId) {
        // The layer `stateful` has no value to give back after such a panic, so it reports no end.
        if self.world.keeps_values {
            return;
        }
        let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.perhaps_panic(Some(id));
        }));
        if let Err(payload) = closed {
            if self.world.policy == PanicPolicy::Stop {
                self.world.with_record(id, |record| record.phase = Phase::Closed);
            }
            resume_unwind(payload);
        }
    }

    /// Sends the data to send, or a part of it. Returns the number of bytes sent.
    fn send_some(&self, sockman: &SockMan, id: ConnectionId) -> u64 {
        let (key, from, to) = {
            let mut model = self.world.model.lock();
            let limit = model.choices.size(LONGEST_SEND);
            let Some(record) = model.connections.get(&id) else { return 0 };
            (record.key, record.sent, record.goal.min(record.sent + limit))
        };
        if from == to {
            return 0;
        }
        let data = bytes(key, Way::Out, from, to);
        let result = sockman.send_bytes(id, &data);
        self.world.model.lock().sent(id, data.len(), &result)
    }
}

/// Returns the errno of the system call that made a connect fail.
fn errno_of(error: &ConnectError) -> Option<i32> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        source = error.source();
    }
    None
}

impl Model {
    /// Notes the result of a send without a `SendQueue`. Returns the number of bytes sent.
    pub(crate) fn sent(
        &mut self,
        id: ConnectionId,
        offered: usize,
        result: &Result<usize, SendError>,
    ) -> u64 {
        let number = self.number(id);
        // The trace omits the id, which differs each time that the seed runs.
        let outcome = match result {
            Ok(bytes) => format!("{bytes} bytes"),
            Err(SendError::UnknownConnection(_)) => "unknown".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        self.say(|| format!("    sent on connection {number}: {outcome} of {offered}"));
        let calls_failed = self.calls_failed;
        let Some(record) = self.connections.get_mut(&id) else { return 0 };
        let (phase, write_shut, key) = (record.phase, record.write_shut, record.key);
        let finishes = record.finish.is_some();
        match result {
            Ok(sent) => {
                record.sent += *sent as u64;
                self.require(*sent <= offered, || {
                    format!("a send on connection {number} took more bytes than it was given (G5)")
                });
                if *sent < offered {
                    self.count("a send was short");
                } else {
                    self.activity += 1;
                }
                *sent as u64
            }
            Err(SendError::UnknownConnection(_)) => {
                let is_gone = matches!(
                    phase,
                    Phase::Closed | Phase::PanicClosed | Phase::Leaving | Phase::Attempt
                );
                self.require(is_gone || finishes, || {
                    format!("connection {number} is open, but a send does not know it (G2)")
                });
                0
            }
            Err(SendError::Socket { source, .. }) => {
                record.send_failed = true;
                let errno = source.raw_os_error();
                let may_reset = self.player(key).is_none_or(|player| player.may_reset);
                self.require(may_reset || write_shut || finishes || calls_failed, || {
                    format!("a send on connection {number} failed without a cause")
                });
                self.require(!passes(errno), || {
                    format!(
                        "a send on connection {number} returned errno {errno:?}, which passes (G11)"
                    )
                });
                self.count("a send failed");
                0
            }
            Err(other) => {
                self.violated(format!("a send returned an unexpected error: {other}"));
                0
            }
        }
    }
}

impl EventHandler for Embedder {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        me: &Service,
        them: &Service,
    ) -> bool {
        let accepts = {
            let mut model = self.world.model.lock();
            let number = model.number(id);
            model.say(|| format!("  accepted {number} from {them}"));
            let is_new = model.connections.keys().next_back().is_none_or(|last| *last < id);
            model.require(is_new, || format!("id {id} was handed out before (G1)"));
            self.world.register(sockman, &mut model, id, Phase::Open);
            let key = model.connections.get(&id).map(|record| record.key);
            let address =
                key.and_then(|key| model.player(key)).map(|player| player.address.clone());
            model.require(address.is_none_or(|address| address == *them), || {
                format!("connection {number} was accepted with the wrong peer address {them}")
            });
            let here = self.world.is_listening_at(me);
            model.require(here, || {
                format!("connection {number} was accepted with the wrong local address {me} (G13)")
            });
            model.count("a connection was accepted");
            !(model.is_wild && model.choices.once_in(16))
        };
        self.world.set_timer(sockman, id);
        if !accepts {
            let mut model = self.world.model.lock();
            model.count("a connection was refused by the embedder");
            if let Some(record) = model.connections.get_mut(&id) {
                record.phase = Phase::Closed;
            }
            return false;
        }
        if self.world.model.lock().choices.once_in(12) && self.world.is_wild() {
            self.world.act_as_embedder(sockman, true);
        }
        self.perhaps_panic_closing(id);
        self.world.with_record(id, |record| record.is_announced = true);
        true
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let polls = self.world.network.calls(Call::Poll);
        let (queue, refrains) = {
            let mut model = self.world.model.lock();
            model.check_named(id, "event_ready_to_send");
            model.count("a connection was ready to send");
            let (pass, number) = (model.pass, model.number(id));
            let refrains = model.is_wild && model.choices.once_in(16);
            let Some(record) = model.connections.get_mut(&id) else { return NextRecv::Proceed };
            let is_second = std::mem::replace(&mut record.ready_after, polls) == polls;
            let is_allowed = record.send_allowed == pass;
            record.send_resumed_silently = false;
            // A `SendQueue` relies on a drain in each `event_ready_to_send`.
            let queue = record.queue.clone();
            let refrains = refrains && queue.is_none();
            model.require(is_allowed, || {
                format!(
                    "connection {number} was reported ready to send while sending is paused (G6)"
                )
            });
            model.require(!is_second, || {
                format!("connection {number} was reported ready to send twice after one poll (G8)")
            });
            (queue, refrains)
        };
        let sent = match queue {
            _ if refrains => 0,
            None => self.send_some(sockman, id),
            Some(queue) => self.world.drain(sockman, id, &queue),
        };
        let mut model = self.world.model.lock();
        let skips = model.is_wild && model.choices.once_in(10);
        if sent == 0 {
            model.count("a ready connection sent nothing");
        } else {
            model.activity += 1;
        }
        if skips {
            model.count("receiving was skipped");
        }
        if let Some(record) = model.connections.get_mut(&id) {
            record.is_denied |= skips;
            if let Some(finish) = &mut record.finish {
                finish.is_cut |= sent == 0;
            }
            record.send_rests |= sent == 0;
            record.recv_rests |= sent == 0 && skips;
        }
        drop(model);
        self.afterwards(sockman, Some(id));
        if skips { NextRecv::Skip } else { NextRecv::Proceed }
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let now = self.world.network.elapsed();
        self.world.with_record(id, |record| record.received_at = Some(now));
        self.world.set_timer(sockman, id);
        let polls = self.world.network.calls(Call::Poll);
        {
            let mut model = self.world.model.lock();
            model.check_named(id, "event_got_data");
            model.check_heard(id, "event_got_data");
            model.say(|| format!("    {} bytes", data.len()));
            model.count("data was received");
            model.check_data(id, data, polls);
        }
        self.world.relay(sockman, id, data.len());
        let answers = {
            let mut model = self.world.model.lock();
            let length = model.choices.size(LONGEST_SEND);
            let answers = model.is_wild && model.choices.once_in(3);
            let Some(record) = model.connections.get_mut(&id).filter(|_| answers) else {
                drop(model);
                return self.afterwards(sockman, Some(id));
            };
            // The library asks the send hook in this turn or the next pass, without a wake.
            record.goal += if record.queue.is_none() { length } else { 0 };
            record.send_rests = false;
            record.queue.is_none()
        };
        let is_open = self.world.record_is(id, Phase::Open);
        if answers && is_open && self.world.model.lock().choices.once_in(2) {
            self.send_some(sockman, id);
        }
        self.afterwards(sockman, Some(id));
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        {
            let mut model = self.world.model.lock();
            model.check_named(id, "event_got_eof");
            model.check_heard(id, "event_got_eof");
            model.count("an end of stream was reported");
            model.check_eof(id);
        }
        self.close_perhaps(sockman, id);
        self.afterwards(sockman, Some(id));
    }

    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    ) {
        {
            let mut model = self.world.model.lock();
            model.check_named(id, "event_got_permanent_read_error");
            model.check_heard(id, "event_got_permanent_read_error");
            model.say(|| format!("    {error}"));
            let record = model.connections.get(&id);
            let is_back = record.is_some_and(|record| record.is_back) && model.calls_failed;
            let probe = record.and_then(|record| self.world.network.probe(record.fd));
            let is_watched = probe.is_none_or(|probe| probe.is_watched) && !is_back;
            model.check_error(id, error.raw_os_error(), is_watched);
        }
        self.close_perhaps(sockman, id);
        self.afterwards(sockman, Some(id));
    }

    fn event_connect_completed_with(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        result: Result<&Service, ConnectError>,
        value: Box<dyn std::any::Any + Send>,
    ) {
        let is_own = value.downcast::<Vec<Destination>>().is_ok_and(|of| of.contains(to));
        self.world.model.lock().require(is_own, || {
            format!("the connect to {to} came back with the value of another one")
        });
        self.event_connect_completed(sockman, id, to, result);
    }

    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        result: Result<&Service, ConnectError>,
    ) {
        let mut is_open = false;
        {
            let mut model = self.world.model.lock();
            let number = model.number(id);
            model.say(|| format!("  event_connect_completed({number}, {to}, {result:?})"));
            let phase = model.connections.get(&id).map(|record| record.phase);
            model.require(phase == Some(Phase::Attempt), || {
                format!("connect {number} got an outcome, but the connect is {phase:?} (G2, G4)")
            });
            match result {
                Ok(me) => {
                    let is_tcp = to.service().is_some_and(|to| {
                        !matches!(to.addr(), NetAddr::I2p(_)) && !to.addr().is_unix()
                    });
                    model.require(!is_tcp || me.port() != 0, || {
                        format!("connect {number} succeeded with the local address {me} (G13)")
                    });
                    model.count("a connect succeeded");
                    self.world.register(sockman, &mut model, id, Phase::Open);
                    if let Some(record) = model.connections.get_mut(&id) {
                        record.is_announced = true;
                    }
                    is_open = true;
                    let is_direct =
                        to.service().is_some_and(|to| !matches!(to.addr(), NetAddr::I2p(_)));
                    if !is_direct {
                        let key = model.connections.get(&id).map(|record| record.key);
                        let has_agreed = key.is_some_and(|key| model.player(key).is_some());
                        model.require(has_agreed, || {
                            format!(
                                "connect {number} succeeded before its proxy or bridge agreed (G2)"
                            )
                        });
                    }
                }
                Err(error) => {
                    model.count(match error.kind() {
                        ConnectErrorKind::TimedOut { .. } => "a connect timed out",
                        ConnectErrorKind::Interrupted => "a connect was cancelled",
                        _ => "a connect failed",
                    });
                    let lacked = passes(errno_of(&error)) && !model.lacks_may_end_connects;
                    let is_time_out = matches!(error.kind(), ConnectErrorKind::TimedOut { .. });
                    let until = model.connections.get(&id).and_then(|record| record.until);
                    let is_late = until.is_some_and(|until| self.world.network.elapsed() >= until);
                    model.require(!lacked || is_time_out || is_late, || {
                        format!("connect {number} failed with an errno that passes: {error} (G11)")
                    });
                    let deadline = model.connections.get(&id).and_then(|record| record.until);
                    let now = self.world.network.elapsed();
                    let is_due = deadline.is_none_or(|deadline| now >= deadline);
                    model.require(is_due || !is_time_out, || {
                        format!("connect {number} timed out before its deadline (G9)")
                    });
                    if let Some(record) = model.connections.get_mut(&id) {
                        record.phase = Phase::Closed;
                    }
                }
            }
        }
        if is_open {
            self.world.set_timer(sockman, id);
        }
        if self.world.is_wild() && self.world.model.lock().choices.once_in(12) {
            self.world.act_as_embedder(sockman, true);
        }
        self.perhaps_panic_closing(id);
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let answer = {
            let mut model = self.world.model.lock();
            model.check_named(id, "should_try_to_send");
            let pass = model.pass;
            let Some(record) = model.connections.get_mut(&id) else { return false };
            record.send_resumed_silently = false;
            let answer = record.may_send();
            if answer {
                record.send_allowed = pass;
            } else if let Some(finish) = &mut record.finish {
                finish.is_cut |= record.send_paused;
            }
            answer
        };
        self.perhaps_panic(Some(id));
        answer
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        let answer = {
            let mut model = self.world.model.lock();
            model.check_named(id, "should_try_to_recv");
            let pass = model.pass;
            let Some(record) = model.connections.get_mut(&id) else { return false };
            record.recv_resumed_silently = false;
            let answer = record.may_recv();
            record.is_denied = !answer;
            if answer {
                record.recv_allowed = pass;
            }
            answer
        };
        self.perhaps_panic(Some(id));
        answer
    }

    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        self.world.model.lock().check_named(id, "event_io_loop_completed_for_one");
        self.world.check_heard(id);
        let acts = self.world.is_wild() && self.world.model.lock().choices.once_in(64);
        if acts {
            self.world.act_as_embedder(sockman, true);
        }
        self.perhaps_panic(Some(id));
    }

    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        {
            let mut model = self.world.model.lock();
            model.pass += 1;
            model.completed += 1;
            model.begins_pass = false;
            let pass = model.pass;
            model.say(|| format!(" pass {pass}"));
        }
        self.world.take_timers();
        self.world.end_relays(sockman);
        let acts = self.world.is_wild() && self.world.model.lock().choices.once_in(32);
        if acts {
            self.world.act_as_embedder(sockman, true);
        }
        self.perhaps_panic(None);
    }

    fn event_closed_after_panic(&self, _sockman: &SockMan, id: ConnectionId) {
        let mut model = self.world.model.lock();
        let number = model.number(id);
        model.say(|| format!("  event_closed_after_panic({number})"));
        model.closed_after_panic += 1;
        let phase = model.connections.get(&id).map(|record| record.phase);
        model.require(phase == Some(Phase::PanicClosed), || {
            format!(
                "connection {number} was reported as closed by a panic, but it is {phase:?} (G12)"
            )
        });
        if let Some(record) = model.connections.get_mut(&id) {
            record.phase = Phase::Closed;
            record.is_announced = true;
        }
    }

    fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
        self.world.model.lock().check_closed(id);
        self.afterwards(sockman, Some(id));
    }

    fn next_deadline(&self) -> Option<Instant> {
        let mut model = self.world.model.lock();
        let deadline = model.deadline.map(|deadline| self.world.started + deadline);
        let own_timers = model.connections.values().filter(|_| self.world.has_own_timers);
        let own = own_timers.filter_map(|record| record.timer).min();
        let own = own.map(|at| self.world.started + at);
        let deadline = deadline.into_iter().chain(own).chain(self.world.timers.next()).min();
        // At the beginning of a pass, a deadline that has passed may cause one round of turns.
        let begins_pass = std::mem::replace(&mut model.begins_pass, true);
        if begins_pass {
            model.pass_began = self.world.network.elapsed();
            model.pass += u64::from(deadline.is_some_and(|at| at <= self.world.network.now()));
        }
        deadline
    }
}

impl Embedder {
    fn close_perhaps(&self, sockman: &SockMan, id: ConnectionId) {
        if self.world.model.lock().choices.once_in(2) {
            self.world.close(sockman, id, true);
        }
    }
}
