//! What has to be true: one record for each connection and each peer, and the checks against them.
//!
//! Plain data behind the simulation's mutex; calls nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sockman::{ConnectionId, SendQueue, Service, testing::Peer};

use crate::choices::Choices;

/// Everything that can happen in a run. A long run that never reached one of them proves less than
/// it seems to.
pub const KINDS: &[&str] = &[
    "a peer connected",
    "a peer sent",
    "a peer received",
    "a peer half-closed",
    "a peer closed",
    "a peer reset",
    "a peer sent an urgent byte",
    "a peer shut its window",
    "a peer opened its window",
    "a peer's pieces were cut",
    "an event without a cause",
    "a call failed",
    "a call was interrupted",
    "a call said would-block",
    "a connection was accepted",
    "a connection was refused by the embedder",
    "descriptors ran out",
    "descriptors came back",
    "data was received",
    "an end was told",
    "an error was told",
    "an error was told after an end",
    "sending was possible",
    "nothing was sent",
    "receiving was skipped",
    "a send was short",
    "a send failed",
    "a queue took data",
    "a queue was full",
    "reading was paused",
    "reading went on",
    "sending was paused",
    "sending went on",
    "a pause ended without a wake",
    "the embedder half-closed",
    "the embedder closed on the socket thread",
    "the embedder closed on another thread",
    "a connect was begun",
    "a connect succeeded",
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
    "a bridge broke off",
    "a bridge refused, or made no sense",
    "a proxy refused",
    "a proxy answered nonsense",
    "a proxy broke off",
    "a connection was dropped before its activation",
    "a callback panicked, which closed",
    "a callback panicked, which stopped",
    "a pass was asked for",
    "a deadline was set",
    "an interrupt",
    "an interrupt in a callback",
    "a restart",
    "a listener was added",
    "the listeners were stopped",
    "another thread came in between",
    "the connection cap was reached",
];

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) choices: Choices,
    pub(crate) connections: BTreeMap<ConnectionId, Record>,
    pub(crate) peers: Vec<Player>,
    /// Passes so far.
    pub(crate) pass: u64,
    pub(crate) violation: Option<String>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Grows with everything that excuses another pass.
    pub(crate) activity: u64,
    /// The embedder, the peers and the kernel do their worst.
    pub(crate) is_wild: bool,
    /// Failures of system calls were ordered: errors may come without a peer's doing.
    pub(crate) calls_failed: bool,
    pub(crate) shutdown_failed: bool,
    /// The embedder has interrupted the threads, which have not been started again.
    pub(crate) is_interrupted: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) told_after_panic: u64,
}

/// A connection, as the embedder knows it.
#[derive(Debug)]
pub(crate) struct Record {
    /// The number of the peer's end: what the bytes are made from.
    pub(crate) key: u64,
    pub(crate) phase: Phase,
    pub(crate) fd: i32,
    pub(crate) recv_paused: bool,
    pub(crate) send_paused: bool,
    /// The default hook: always ready to be asked.
    pub(crate) is_eager: bool,
    /// The pause ended, and nobody was told: for the sweep to find.
    pub(crate) recv_unheard: bool,
    pub(crate) send_unheard: bool,
    pub(crate) recv_rests: bool,
    pub(crate) send_rests: bool,
    /// The pass in which the hook last said yes.
    pub(crate) recv_allowed: u64,
    pub(crate) send_allowed: u64,
    pub(crate) received_in: u64,
    pub(crate) ready_in: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// What it means to send in all.
    pub(crate) goal: u64,
    pub(crate) eof_told: bool,
    pub(crate) error_told: bool,
    pub(crate) write_shut: bool,
    pub(crate) send_failed: bool,
    pub(crate) queue: Option<Arc<SendQueue>>,
    /// An outbound attempt's last moment.
    pub(crate) until: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A connect under way.
    Attempt,
    /// Callbacks may name it.
    Open,
    /// Not activated: nothing may name it.
    Quiet,
    /// Closed by a panic: told of once.
    PanicClosed,
    Closed,
}

/// A peer that is played.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) key: u64,
    /// `None` once it is gone.
    pub(crate) peer: Option<Peer>,
    pub(crate) address: Service,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) has_fin: bool,
    /// It has done what a reset can come from.
    pub(crate) was_rude: bool,
    pub(crate) saw_eof: bool,
    pub(crate) saw_error: bool,
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
            was_rude: false,
            saw_eof: false,
            saw_error: false,
        }
    }
}

impl Record {
    pub(crate) fn new(key: u64, phase: Phase, fd: i32) -> Record {
        Record {
            key,
            phase,
            fd,
            recv_paused: false,
            send_paused: false,
            is_eager: false,
            recv_unheard: false,
            send_unheard: false,
            recv_rests: false,
            send_rests: false,
            recv_allowed: 0,
            send_allowed: 0,
            received_in: 0,
            ready_in: 0,
            received: 0,
            sent: 0,
            goal: 0,
            eof_told: false,
            error_told: false,
            write_shut: false,
            send_failed: false,
            queue: None,
            until: None,
        }
    }

    pub(crate) fn wants_to_send(&self) -> bool {
        let has_queued = match &self.queue {
            Some(queue) => queue.has_queued(),
            None => self.sent < self.goal,
        };
        has_queued && !self.send_failed && !self.write_shut
    }

    pub(crate) fn may_send(&self) -> bool {
        !self.send_paused && (self.is_eager || self.wants_to_send())
    }

    pub(crate) fn may_recv(&self) -> bool {
        !self.recv_paused && self.queue.as_ref().is_none_or(|queue| !queue.is_above_high_mark())
    }

    /// The hooks will be asked again.
    pub(crate) fn heard(&mut self) {
        self.recv_unheard = false;
        self.send_unheard = false;
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
            violation: None,
            trace: is_traced.then(Vec::new),
            counts: BTreeMap::new(),
            activity: 0,
            is_wild: true,
            calls_failed: false,
            shutdown_failed: false,
            is_interrupted: false,
            deadline: None,
            told_after_panic: 0,
        }
    }

    pub(crate) fn count(&mut self, kind: &'static str) {
        debug_assert!(KINDS.contains(&kind), "{kind}");
        self.say(|| format!("  [{kind}]"));
        *self.counts.entry(kind).or_default() += 1;
        self.activity += 1;
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// The first is kept: what comes after it may be its consequence.
    pub(crate) fn violated(&mut self, what: String) {
        self.say(|| format!("VIOLATED: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(crate) fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(what());
        }
    }

    /// What messages call a connection: how many there were in this run before it. Ids count through
    /// the process, and a seed has to replay the same.
    pub(crate) fn number(&self, id: ConnectionId) -> usize {
        self.connections.range(..id).count()
    }

    /// A callback names this id: that has to be right.
    pub(crate) fn named(&mut self, id: ConnectionId, callback: &str) {
        let number = self.number(id);
        self.say(|| format!("  {callback}({number})"));
        match self.connections.get(&id).map(|record| record.phase) {
            Some(Phase::Open) => {}
            Some(phase) => {
                self.violated(format!("{callback} names {number}, which is {phase:?} (G2, G4)"));
            }
            None => {
                self.violated(format!(
                    "{callback} names {number}, which nobody registered (G1, G2)"
                ));
            }
        }
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

    /// Data for `id` arrived.
    pub(crate) fn check_data(&mut self, id: ConnectionId, data: &[u8]) {
        let (pass, number) = (self.pass, self.number(id));
        let Some(record) = self.connections.get_mut(&id) else { return };
        let (key, from) = (record.key, record.received);
        let is_second = std::mem::replace(&mut record.received_in, pass) == pass;
        record.received += data.len() as u64;
        let (is_allowed, is_over) =
            (record.recv_allowed == pass, record.eof_told || record.error_told);
        self.require(!data.is_empty(), || format!("no data for {number}"));
        self.require(!is_second, || format!("two receives for {number} in one pass (G8)"));
        self.require(is_allowed, || format!("data for {number}, whose reading is paused (G6)"));
        self.require(!is_over, || format!("data for {number} after its end (G5)"));
        let is_right = (from..).zip(data).all(|(at, byte)| *byte == byte_at(key, Way::In, at));
        self.require(is_right, || {
            format!("wrong bytes for {number} from byte {from} on (G5): lost, repeated or mixed up")
        });
    }

    pub(crate) fn check_eof(&mut self, id: ConnectionId) {
        let (pass, number) = (self.pass, self.number(id));
        let Some(record) = self.connections.get_mut(&id) else { return };
        let is_second = std::mem::replace(&mut record.eof_told, true) || record.error_told;
        let (key, received, is_allowed) =
            (record.key, record.received, record.recv_allowed == pass);
        self.require(!is_second, || format!("a second end of {number} (G5)"));
        self.require(is_allowed, || format!("the end of {number}, whose reading is paused (G6)"));
        if let Some(player) = self.player(key) {
            let (sent, has_fin) = (player.sent, player.has_fin);
            self.require(has_fin, || format!("an end of {number} that the peer did not make (G5)"));
            self.require(sent == received, || {
                format!("the end of {number} after {received} of {sent} bytes (G5)")
            });
        }
    }

    /// `is_watched`: unless it is, the failure to watch it is told, pause or not.
    pub(crate) fn check_error(&mut self, id: ConnectionId, is_watched: bool) {
        let (pass, calls_failed, number) = (self.pass, self.calls_failed, self.number(id));
        let Some(record) = self.connections.get_mut(&id) else { return };
        let is_second = std::mem::replace(&mut record.error_told, true);
        let (key, is_allowed) = (record.key, record.recv_allowed == pass);
        let after_end = record.eof_told;
        self.require(!is_second, || format!("a second error of {number} (G5)"));
        self.require(is_allowed || !is_watched, || {
            format!("an error of {number}, whose reading is paused (G6)")
        });
        if let Some(player) = self.player(key) {
            let was_rude = player.was_rude;
            self.require(was_rude || calls_failed, || {
                format!("an error of {number} out of the blue")
            });
        }
        self.count(if after_end { "an error was told after an end" } else { "an error was told" });
    }

    /// What a peer has received.
    pub(crate) fn check_received(&mut self, index: usize, data: &[u8]) {
        let Some(player) = self.peers.get_mut(index) else { return };
        let (key, from) = (player.key, player.received);
        player.received += data.len() as u64;
        let is_right = (from..).zip(data).all(|(at, byte)| *byte == byte_at(key, Way::Out, at));
        self.require(is_right, || {
            format!("peer {key} received wrong bytes from byte {from} on (G5)")
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// The byte at a place of a stream: any that is lost, repeated or of another stream shows.
pub(crate) fn byte_at(key: u64, way: Way, at: u64) -> u8 {
    let stream = key * 2 + u64::from(way == Way::Out);
    let mixed =
        (at ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 56) as u8
}

pub(crate) fn bytes(key: u64, way: Way, from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| byte_at(key, way, at)).collect()
}
