//! The model: one record for each connection and each peer, and the checks against them.
//!
//! Plain data behind one mutex. The model calls neither a `SockMan` nor the doubles.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sockman::{ConnectionId, SendQueue, Service, sys::RawSocket, testing::Peer};

use crate::{
    choices::Choices,
    faults::{Lasting, passes},
};

/// The kinds of events that can happen in a run. A long run must reach each kind, because it does
/// not test a kind that never happens.
pub const KINDS: &[&str] = &[
    "a peer connected",
    "a peer sent",
    "a peer received",
    "a peer half-closed",
    "a peer closed",
    "a peer reset",
    "a peer sent an urgent byte",
    "a peer reduced its window",
    "a peer opened its window",
    "a peer's data was cut into pieces",
    "a spurious event came",
    "a listener was adopted",
    "another process made a listener block",
    "another process took a client",
    "another process kept a listener open",
    "a client came to a listener that only another process holds",
    "a call lacked buffers once",
    "a call lacked buffers several times",
    "every call lacked buffers",
    "every call of a kind would block",
    "every call of a kind failed",
    "every accept failed",
    "the poller failed",
    "calls work again",
    "a call failed",
    "a call was interrupted",
    "a call failed with would-block",
    "a connection was accepted",
    "a connection was refused by the embedder",
    "descriptors ran out",
    "descriptors were available again",
    "data was received",
    "an end of stream was reported",
    "an error was reported",
    "an error was reported after an end of stream",
    "a connection was ready to send",
    "a ready connection sent nothing",
    "receiving was skipped",
    "a send was short",
    "a send failed",
    "a queue took data",
    "a queue took data to send later",
    "a queue was full",
    "a push found a closed connection",
    "a push found a closed connection behind queued bytes",
    "a push found a broken connection behind queued bytes",
    "a relay was made",
    "a relay ended",
    "a drain resumed the other side of a relay",
    "both sides ended their streams at once",
    "a connection had ended in order while data waited",
    "a broken connection was asked how it had ended",
    "reading was paused",
    "reading was resumed",
    "sending was paused",
    "sending was resumed",
    "a pause ended without a wake",
    "the embedder half-closed",
    "the embedder closed a connection on the socket thread",
    "the embedder closed a connection on another thread",
    "the embedder aborted a connection",
    "the embedder finished a connection",
    "a connection was taken out in a callback",
    "a connection was taken out on another thread",
    "a connection was taken out in the middle of a pass",
    "data was delivered while a connection was taken out",
    "a connection that finishes was not taken out",
    "a stream that left was closed",
    "a stream that left was read",
    "a stream that left came back",
    "a connection that finishes was discarded from",
    "the library closed a connection that finishes",
    "a peer read everything from a connection that finishes",
    "the end of a connection was reported",
    "the server was drained",
    "a connect was begun",
    "a connect had two addresses",
    "a connect succeeded",
    "the embedder used the layer for values",
    "a connect failed",
    "a connect timed out",
    "a connect was cancelled",
    "a connect was closed before its outcome",
    "a connect blocked its caller",
    "a connect went through a proxy",
    "a proxy agreed",
    "a session was made",
    "a session ended",
    "a bridge connected",
    "a bridge closed a dialogue early",
    "a bridge refused a request or sent an invalid answer",
    "a proxy refused",
    "a proxy sent an invalid answer",
    "a proxy closed a negotiation early",
    "a connection was dropped before its activation",
    "a panic closed a connection",
    "a panic stopped the threads",
    "a pass was requested",
    "a deadline was set",
    "a timer ended",
    "the clock jumped",
    "the clock jumped over a deadline while data waited",
    "the simulator set the interrupt",
    "a callback set the interrupt",
    "the threads were started again",
    "a listener was added",
    "the listeners were stopped",
    "another thread acted in the middle of a pass",
    "the connection limit was reached",
];

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) choices: Choices,
    pub(crate) connections: BTreeMap<ConnectionId, Record>,
    pub(crate) peers: Vec<Player>,
    /// The number of the current pass. A round of turns before late timers counts as a pass too.
    pub(crate) pass: u64,
    /// How often `event_io_loop_completed_for_all` was called.
    pub(crate) completed: u64,
    /// Whether the next question for the deadline is the one that begins a pass.
    pub(crate) begins_pass: bool,
    /// When the current pass began.
    pub(crate) pass_began: Duration,
    pub(crate) violation: Option<String>,
    /// The events of the run, one per line, if the run is traced.
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Grows with every event that justifies another pass.
    pub(crate) activity: u64,
    /// Whether the embedder, the peers and the kernel misbehave. The misbehaviour stops at the end
    /// of a run.
    pub(crate) is_wild: bool,
    /// Whether a system call was made to fail, so that errors may come without a peer's doing.
    pub(crate) calls_failed: bool,
    /// The failure of every call of a kind, until it is healed.
    pub(crate) lasting: Option<Lasting>,
    /// How many lasting failures there were.
    pub(crate) lasting_failures: u64,
    /// Whether every receive failed for a while, so that data may have waited.
    pub(crate) receives_lacked: bool,
    /// Whether every send or receive was made to fail, so that any connection may have an error.
    pub(crate) streams_fail: bool,
    /// Whether every send was made to fail as if the peer had ended the stream.
    pub(crate) streams_seem_ended: bool,
    /// Whether a question for a socket's error was made to fail, so that a reset may be unknown.
    pub(crate) errors_are_hidden: bool,
    /// Whether a poll was made to fail, so that the threads may end.
    pub(crate) poll_failed: bool,
    /// Whether a call was made to fail that a connect does not repeat after a lack of buffers.
    pub(crate) lacks_may_end_connects: bool,
    /// When the clock jumped, and how far.
    pub(crate) jumps: Vec<(Duration, Duration)>,
    pub(crate) shutdown_failed: bool,
    /// Whether the embedder has interrupted the threads and has not started them again.
    pub(crate) is_interrupted: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) closed_after_panic: u64,
}

/// A connection as the embedder knows it.
#[derive(Debug)]
pub(crate) struct Record {
    /// The number of the peer's end. The bytes of both streams are computed from this number.
    pub(crate) key: u64,
    pub(crate) phase: Phase,
    pub(crate) fd: RawSocket,
    pub(crate) recv_paused: bool,
    pub(crate) send_paused: bool,
    /// Whether `should_try_to_send` says yes even with nothing to send, as the default does.
    pub(crate) is_eager: bool,
    /// Whether reading was resumed without a wake, so that only the sweep finds it.
    pub(crate) recv_resumed_silently: bool,
    /// Whether sending was resumed without a wake, so that only the sweep finds it.
    pub(crate) send_resumed_silently: bool,
    /// Whether the library may leave the direction alone until an event, a wake or a sweep, because
    /// a ready-to-send call sent nothing.
    pub(crate) recv_rests: bool,
    pub(crate) send_rests: bool,
    /// The pass in which the hook last said yes.
    pub(crate) recv_allowed: u64,
    pub(crate) send_allowed: u64,
    /// The number of polls before the last `event_got_data`.
    pub(crate) received_after: u64,
    /// The number of polls before the last `event_ready_to_send`.
    pub(crate) ready_after: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// The number of bytes that the embedder has had to send in all.
    pub(crate) goal: u64,
    pub(crate) eof_reported: bool,
    pub(crate) error_reported: bool,
    pub(crate) write_shut: bool,
    pub(crate) send_failed: bool,
    /// Whether the last drain of the queue failed.
    pub(crate) drain_failed: bool,
    pub(crate) queue: Option<Arc<SendQueue>>,
    /// The queue that must have room before the connection is read: its own, or that of the other
    /// side of a relay.
    pub(crate) gate: Option<Arc<SendQueue>>,
    /// The connection that gets the data of this one, in a relay.
    pub(crate) relays_to: Option<ConnectionId>,
    /// The deadline of an attempt.
    pub(crate) until: Option<Duration>,
    /// When the connection's timer ends, if it runs.
    pub(crate) timer: Option<Duration>,
    /// Whether the embedder's last answer kept the library from receiving.
    pub(crate) is_denied: bool,
    /// Whether the embedder knows the connection and keeps it, so that its end must be reported.
    pub(crate) is_announced: bool,
    /// Whether its end was reported.
    pub(crate) end_reported: bool,
    pub(crate) is_aborted: bool,
    /// Whether the connection was taken out.
    pub(crate) has_left: bool,
    /// Whether the connection was made from a stream that had left. The poller may still watch the
    /// stream for the former connection, if a call has failed.
    pub(crate) is_back: bool,
    /// Whether its stream was not closed since.
    pub(crate) goes_on: bool,
    /// The orderly end of the connection, if it has begun.
    pub(crate) finish: Option<Finish>,
    /// When data was last delivered.
    pub(crate) received_at: Option<Duration>,
    /// When the embedder activated the connection, or when the clock last jumped in a callback for
    /// it. The library cannot have polled the connection since.
    pub(crate) excused_at: Option<Duration>,
}

/// The orderly end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    /// When the library closes the connection at the latest.
    pub(crate) until: Duration,
    /// What the embedder had to send when the end began.
    pub(crate) goal: u64,
    /// Whether the embedder may have held something back since.
    pub(crate) is_cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A connect is under way.
    Attempt,
    /// Callbacks may name the connection.
    Open,
    /// The connection is not activated, so no callback may name it.
    Quiet,
    /// A panic closed the connection, and one `event_closed_after_panic` must follow.
    PanicClosed,
    /// Another thread takes the connection out, and waits for the turn under way.
    Leaving,
    Closed,
}

/// A simulated peer.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) key: u64,
    /// `None` after the peer is gone.
    pub(crate) peer: Option<Peer>,
    pub(crate) address: Service,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) has_fin: bool,
    /// Whether the peer has done something that may cause a reset.
    pub(crate) may_reset: bool,
    pub(crate) saw_eof: bool,
    pub(crate) saw_error: bool,
    /// For each send, the position of its first byte and the time at which it arrives.
    pub(crate) arrivals: Vec<(u64, Duration)>,
    /// Whether data may arrive later than `arrivals` says, or its receive may fail.
    pub(crate) is_delayed: bool,
    /// Whether a send was made to fail as if the peer had ended the stream.
    pub(crate) seems_ended: bool,
    /// Whether a send or receive of the connection was made to fail.
    pub(crate) calls_failed: bool,
}

impl Player {
    pub(crate) fn new(peer: Peer) -> Player {
        Player {
            key: peer.key(),
            address: peer.address(),
            peer: Some(peer),
            sent: 0,
            received: 0,
            has_fin: false,
            may_reset: false,
            saw_eof: false,
            saw_error: false,
            arrivals: Vec::new(),
            is_delayed: false,
            seems_ended: false,
            calls_failed: false,
        }
    }
}

impl Record {
    pub(crate) fn new(key: u64, phase: Phase, fd: RawSocket) -> Record {
        Record {
            key,
            phase,
            fd,
            recv_paused: false,
            send_paused: false,
            is_eager: false,
            recv_resumed_silently: false,
            send_resumed_silently: false,
            recv_rests: false,
            send_rests: false,
            recv_allowed: 0,
            send_allowed: 0,
            received_after: 0,
            ready_after: 0,
            received: 0,
            sent: 0,
            goal: 0,
            eof_reported: false,
            error_reported: false,
            write_shut: false,
            send_failed: false,
            drain_failed: false,
            queue: None,
            gate: None,
            relays_to: None,
            until: None,
            timer: None,
            is_denied: false,
            is_announced: false,
            end_reported: false,
            is_aborted: false,
            has_left: false,
            is_back: false,
            goes_on: false,
            finish: None,
            received_at: None,
            excused_at: None,
        }
    }

    pub(crate) fn wants_to_send(&self) -> bool {
        let has_queued = match &self.queue {
            Some(queue) => queue.has_queued(),
            None => self.sent < self.goal,
        };
        has_queued && !self.send_failed && !self.write_shut
    }

    /// Returns whether the embedder knows that the connection is broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.send_failed || self.error_reported
    }

    pub(crate) fn may_send(&self) -> bool {
        !self.send_paused && (self.is_eager || self.wants_to_send())
    }

    pub(crate) fn may_recv(&self) -> bool {
        !self.recv_paused && self.gate.as_ref().is_none_or(|queue| !queue.is_above_high_mark())
    }

    /// Notes that the library asks both hooks again.
    pub(crate) fn ask_hooks_again(&mut self) {
        self.recv_resumed_silently = false;
        self.send_resumed_silently = false;
        self.recv_rests = false;
        self.send_rests = false;
    }
}

impl Model {
    pub(crate) fn new(choices: Choices, is_traced: bool) -> Model {
        Model {
            choices,
            connections: BTreeMap::new(),
            peers: Vec::new(),
            pass: 0,
            completed: 0,
            begins_pass: true,
            pass_began: Duration::ZERO,
            violation: None,
            trace: is_traced.then(Vec::new),
            counts: BTreeMap::new(),
            activity: 0,
            is_wild: true,
            calls_failed: false,
            lasting: None,
            lasting_failures: 0,
            receives_lacked: false,
            streams_fail: false,
            streams_seem_ended: false,
            errors_are_hidden: false,
            poll_failed: false,
            lacks_may_end_connects: false,
            jumps: Vec::new(),
            shutdown_failed: false,
            is_interrupted: false,
            deadline: None,
            closed_after_panic: 0,
        }
    }

    /// Counts an event, which must be one of [`KINDS`].
    pub(crate) fn count(&mut self, kind: &'static str) {
        debug_assert!(KINDS.contains(&kind), "{kind:?} is missing in KINDS");
        self.say(|| format!("  [{kind}]"));
        *self.counts.entry(kind).or_default() += 1;
        self.activity += 1;
    }

    /// Adds a line to the trace.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Notes a violation. Only the first violation is kept, because later violations may be its
    /// consequences.
    pub(crate) fn violated(&mut self, what: String) {
        self.say(|| format!("VIOLATED: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(crate) fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(what());
        }
    }

    /// Returns the number that messages use for a connection: how many connections of this run came
    /// before it. Ids count all connections of the process, so they would differ in a replay.
    pub(crate) fn number(&self, id: ConnectionId) -> usize {
        self.connections.range(..id).count()
    }

    /// Checks that a callback may name this id.
    pub(crate) fn check_named(&mut self, id: ConnectionId, callback: &str) {
        let number = self.number(id);
        self.say(|| format!("  {callback}({number})"));
        match self.connections.get(&id).map(|record| record.phase) {
            Some(Phase::Open) => {}
            // What was received before the connection left.
            Some(Phase::Leaving) if callback == "event_got_data" => {
                self.count("data was delivered while a connection was taken out");
            }
            Some(Phase::Leaving) if callback == "event_got_permanent_read_error" => {}
            Some(phase) => {
                self.violated(format!(
                    "{callback} names connection {number}, which is {phase:?} (G2, G4)"
                ));
            }
            None => {
                self.violated(format!(
                    "{callback} names connection {number}, which is not registered (G1, G2)"
                ));
            }
        }
    }

    /// Checks that a callback may report something that the peer did.
    pub(crate) fn check_heard(&mut self, id: ConnectionId, callback: &str) {
        let number = self.number(id);
        let finishes = self.connections.get(&id).is_some_and(|record| record.finish.is_some());
        self.require(!finishes, || format!("{callback} names connection {number}, which finishes"));
    }

    /// Checks the report of an end.
    pub(crate) fn check_closed(&mut self, id: ConnectionId) {
        let number = self.number(id);
        self.say(|| format!("  event_closed({number})"));
        let Some(record) = self.connections.get_mut(&id) else {
            return self.violated(format!("the end of unknown connection {number} was reported"));
        };
        let was_reported = std::mem::replace(&mut record.end_reported, true);
        let (is_announced, phase, finish) = (record.is_announced, record.phase, record.finish);
        let by_library = phase == Phase::Open && finish.is_some();
        record.phase = Phase::Closed;
        self.count("the end of a connection was reported");
        if by_library {
            self.count("the library closed a connection that finishes");
        }
        self.require(!was_reported, || {
            format!("the end of connection {number} was reported twice (G4)")
        });
        self.require(is_announced, || {
            format!("the end of connection {number} was reported without its announcement (G2)")
        });
        self.require(matches!(phase, Phase::Closed | Phase::Leaving) || by_library, || {
            format!("the end of connection {number} was reported, but it is {phase:?} (G4)")
        });
    }

    /// Checks that the end of each announced connection that is closed was reported.
    pub(crate) fn check_ends(&mut self) {
        let missing = self.connections.values().enumerate().filter(|(_, record)| {
            record.is_announced && record.phase == Phase::Closed && !record.end_reported
        });
        let missing: Vec<_> = missing.map(|(number, _)| number).collect();
        self.require(missing.is_empty(), || {
            format!("the ends of connections {missing:?} were not reported (G4)")
        });
    }

    pub(crate) fn player(&mut self, key: u64) -> Option<&mut Player> {
        self.peers.iter_mut().find(|player| player.key == key)
    }

    pub(crate) fn open(&self) -> Vec<ConnectionId> {
        self.in_phase(|phase| phase == Phase::Open)
    }

    pub(crate) fn in_phase(&self, wanted: impl Fn(Phase) -> bool) -> Vec<ConnectionId> {
        let wanted = self.connections.iter().filter(|(_, record)| wanted(record.phase));
        wanted.map(|(id, _)| *id).collect()
    }

    /// Checks data that was delivered for `id` when the poller had been called `polls` times.
    pub(crate) fn check_data(&mut self, id: ConnectionId, data: &[u8], polls: u64) {
        let (pass, number) = (self.pass, self.number(id));
        let Some(record) = self.connections.get_mut(&id) else { return };
        let (key, from) = (record.key, record.received);
        let is_second = std::mem::replace(&mut record.received_after, polls) == polls;
        record.received += data.len() as u64;
        let (is_allowed, is_over) =
            (record.recv_allowed == pass, record.eof_reported || record.error_reported);
        self.require(!data.is_empty(), || {
            format!("empty data was delivered for connection {number} (G5)")
        });
        self.require(!is_second, || {
            format!("data was delivered twice after one poll for connection {number} (G8)")
        });
        self.require(is_allowed, || {
            format!("data was delivered for connection {number} while its reading is paused (G6)")
        });
        self.require(!is_over, || {
            format!("data was delivered for connection {number} after its end or error (G5)")
        });
        let is_right = (from..).zip(data).all(|(at, byte)| *byte == byte_at(key, Way::In, at));
        self.require(is_right, || {
            format!(
                "connection {number} got lost, repeated or wrong bytes from byte {from} on (G5)"
            )
        });
    }

    /// Returns how far the clock has jumped since that time.
    pub(crate) fn jumped_since(&self, since: Duration) -> Duration {
        self.jumps.iter().filter(|(at, _)| *at >= since).map(|(_, by)| *by).sum()
    }

    /// Returns when the data that waits for `id` arrived. Returns `None` if the library does not
    /// have to deliver it, or may not deliver it.
    pub(crate) fn waiting_since(&self, id: ConnectionId) -> Option<Duration> {
        let record = self.connections.get(&id)?;
        let is_over = record.eof_reported || record.error_reported;
        let is_excused = record.is_denied || record.recv_rests || record.recv_resumed_silently;
        let is_over = is_over || record.finish.is_some();
        if record.phase != Phase::Open || is_over || is_excused || !record.may_recv() {
            return None;
        }
        if self.receives_lacked {
            return None;
        }
        let player = self.peers.iter().find(|player| player.key == record.key)?;
        let sends = player.arrivals.iter().filter(|_| !player.is_delayed);
        sends.take_while(|(from, _)| *from <= record.received).last().map(|(_, at)| *at)
    }

    /// Checks an end that was reported for `id`.
    pub(crate) fn check_eof(&mut self, id: ConnectionId) {
        let (pass, number) = (self.pass, self.number(id));
        let streams_seem_ended = self.streams_seem_ended;
        let Some(record) = self.connections.get_mut(&id) else { return };
        let is_second = std::mem::replace(&mut record.eof_reported, true) || record.error_reported;
        let (key, received, is_allowed) =
            (record.key, record.received, record.recv_allowed == pass);
        self.require(!is_second, || {
            format!("an end of connection {number} was reported after its end or error (G5)")
        });
        self.require(is_allowed, || {
            format!("the end of connection {number} was reported while its reading is paused (G6)")
        });
        if let Some(player) = self.player(key) {
            let (sent, has_fin) = (player.sent, player.has_fin);
            if player.seems_ended || streams_seem_ended {
                return;
            }
            self.require(has_fin, || {
                format!(
                    "the end of connection {number} was reported, but its peer has not ended the \
                     stream (G5)"
                )
            });
            self.require(sent == received, || {
                format!(
                    "connection {number} was reported as ended after {received} of {sent} bytes (G5)"
                )
            });
        }
    }

    /// Checks an error that was reported for `id`. A failure of the registration is reported even
    /// while reading is paused; `is_watched` is `false` then.
    pub(crate) fn check_error(&mut self, id: ConnectionId, errno: Option<i32>, is_watched: bool) {
        let (pass, calls_failed, number) = (self.pass, self.calls_failed, self.number(id));
        let Some(record) = self.connections.get_mut(&id) else { return };
        let is_second = std::mem::replace(&mut record.error_reported, true);
        let (key, is_allowed) = (record.key, record.recv_allowed == pass);
        let after_end = record.eof_reported;
        self.require(!passes(errno) || !is_watched, || {
            format!("connection {number} reported errno {errno:?}, which passes (G11)")
        });
        self.require(!is_second, || {
            format!("a second error of connection {number} was reported (G5)")
        });
        self.require(is_allowed || !is_watched, || {
            format!("an error of connection {number} was reported while its reading is paused (G6)")
        });
        if let Some(player) = self.player(key) {
            let may_reset = player.may_reset;
            self.require(may_reset || calls_failed, || {
                format!("an error of connection {number} was reported without a cause")
            });
        }
        self.count(if after_end {
            "an error was reported after an end of stream"
        } else {
            "an error was reported"
        });
    }

    /// Checks data that a peer received.
    pub(crate) fn check_received(&mut self, index: usize, data: &[u8]) {
        let Some(player) = self.peers.get_mut(index) else { return };
        let (key, from) = (player.key, player.received);
        player.received += data.len() as u64;
        let is_right = (from..).zip(data).all(|(at, byte)| *byte == byte_at(key, Way::Out, at));
        self.require(is_right, || {
            format!("peer {key} received lost, repeated or wrong bytes from byte {from} on (G5)")
        });
    }
}

/// The direction of a stream, as the embedder sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// Returns the byte at this position of a stream. The bytes of two positions or streams differ
/// often enough that a lost, repeated or foreign byte is noticed.
pub(crate) fn byte_at(key: u64, way: Way, at: u64) -> u8 {
    let stream = key * 2 + u64::from(way == Way::Out);
    let mixed =
        (at ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 56) as u8
}

/// Returns the bytes of a stream from position `from` to before `to`.
pub(crate) fn bytes(key: u64, way: Way, from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| byte_at(key, way, at)).collect()
}
