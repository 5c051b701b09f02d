//! Tests of the sweep: the hooks that it asks of idle connections, and the events that interrupt
//! it.

use std::{io, time::Duration};

use parking_lot::Mutex;

use super::{Ordinals, Rig};
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    event_handler::{EventHandler, NextRecv},
    options::{Options, PanicPolicy, SELECT_TIMEOUT},
    sockman::{SockMan, WeakSockMan},
    testing::Peer,
};

/// A reaction to a hook or callback. The last argument is the record of the hook or callback.
type Reaction = dyn Fn(&SockMan, &Ordinals, &str) + Send + Sync;

/// Records every hook and callback, and reacts to it. Connections appear in the records as
/// ordinals.
struct Log {
    ordinals: Ordinals,
    records: Mutex<Vec<String>>,
    wants_to_send: Mutex<bool>,
    wants_to_recv: Mutex<bool>,
    /// The `SockMan` for the reactions in hooks, which do not receive it. Without the `SockMan`
    /// there are no reactions.
    sockman: Mutex<WeakSockMan>,
    reaction: Box<Reaction>,
}

impl Log {
    fn record(&self, id: ConnectionId, what: &str) {
        let record = format!("{} {what}", self.ordinals.of(id));
        self.records.lock().push(record.clone());
        if let Some(sockman) = { self.sockman.lock().upgrade() } {
            (self.reaction)(&sockman, &self.ordinals, &record);
        }
    }
}

impl EventHandler for Log {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.record(id, "accepted");
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, id: ConnectionId) -> NextRecv {
        self.record(id, "ready");
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, _: &[u8]) {
        self.record(id, "data");
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.record(id, "send?");
        *self.wants_to_send.lock()
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.record(id, "recv?");
        *self.wants_to_recv.lock()
    }
    fn event_io_loop_completed_for_one(&self, _: &SockMan, id: ConnectionId) {
        self.record(id, "completed");
    }
    fn event_closed_after_panic(&self, _: &SockMan, id: ConnectionId) {
        self.record(id, "closed");
    }
}

/// Two idle, writable connections, which the next pass sweeps.
struct Resting {
    rig: Rig<Log>,
    peers: [Peer; 2],
}

impl Resting {
    fn new(
        policy: PanicPolicy,
        reaction: impl Fn(&SockMan, &Ordinals, &str) + Send + Sync + 'static,
    ) -> Resting {
        let log = Log {
            ordinals: Ordinals::default(),
            records: Mutex::default(),
            wants_to_send: Mutex::new(false),
            wants_to_recv: Mutex::new(true),
            sockman: Mutex::default(),
            reaction: Box::new(reaction),
        };
        let rig = Rig::with_handler(log, Options::default().panic_policy(policy));
        let peers = [rig.connect_peer(), rig.connect_peer()];
        for _ in 0..3 {
            rig.pass();
        }
        let records = std::mem::take(&mut *rig.handler.records.lock());
        assert_eq!(records[..2], ["0 accepted", "1 accepted"]);
        assert!(records.contains(&"1 send?".to_owned()), "the connection is writable");
        // The reaction is set only now, because only the sweep is to have reactions.
        *rig.handler.sockman.lock() = rig.sockman.downgrade();
        rig.network.advance(SELECT_TIMEOUT);
        Resting { rig, peers }
    }

    /// Runs a pass and returns what the handler recorded in it.
    fn pass(&self) -> Vec<String> {
        self.rig.pass();
        std::mem::take(&mut *self.rig.handler.records.lock())
    }

    fn last_timeout(&self) -> Option<Duration> {
        self.rig.network.last_timeout()
    }
}

fn no_reaction(_: &SockMan, _: &Ordinals, _: &str) {}

/// G6, and the cost of the sweep: an idle connection gets one call of the send hook and one of the
/// callback at the end of the turn.
#[test]
fn the_send_hook_of_an_idle_connection_is_asked_once_per_period() {
    let resting = Resting::new(PanicPolicy::Stop, no_reaction);
    assert_eq!(resting.pass(), ["0 send?", "0 completed", "1 send?", "1 completed"]);
    assert_eq!(resting.last_timeout(), Some(Duration::ZERO), "the sweep was due");
    assert_eq!(resting.pass(), Vec::<String>::new());
    assert_eq!(resting.last_timeout(), Some(SELECT_TIMEOUT));
    resting.rig.network.advance(SELECT_TIMEOUT);
    assert_eq!(resting.pass().len(), 4);
}

/// G6: an answer that changed without a wake takes effect at the sweep. The sweep asks the hook
/// once.
#[test]
fn a_connection_that_wants_to_send_is_ready_to_send_in_the_same_pass() {
    let resting = Resting::new(PanicPolicy::Stop, no_reaction);
    *resting.rig.handler.wants_to_send.lock() = true;
    assert_eq!(
        resting.pass(),
        ["0 send?", "1 send?", "0 ready", "0 completed", "1 ready", "1 completed"]
    );
}

/// G6: an answer about receiving that changed without a wake takes effect at the sweep.
#[test]
fn data_that_a_pause_held_back_is_received_at_the_sweep() {
    let resting = Resting::new(PanicPolicy::Stop, no_reaction);
    *resting.rig.handler.wants_to_recv.lock() = false;
    resting.peers[1].send(&[1; 10]).unwrap();
    let records = resting.pass();
    assert!(records.contains(&"1 recv?".to_owned()));
    assert!(!records.contains(&"1 data".to_owned()), "paused");
    *resting.rig.handler.wants_to_recv.lock() = true;
    assert_eq!(resting.pass(), Vec::<String>::new(), "no hook is asked before the sweep");
    resting.rig.network.advance(SELECT_TIMEOUT);
    assert!(resting.pass().contains(&"1 data".to_owned()));
}

/// G4: the sweep skips a connection that one of its callbacks has closed, and makes no further call
/// for a connection that closes itself.
#[test]
fn a_connection_closed_during_the_sweep_is_not_named_again() {
    let close = |sockman: &SockMan, ordinals: &Ordinals, record: &str| {
        if record == "0 send?" {
            for ordinal in [0, 1] {
                assert!(sockman.close_connection(ordinals.id(ordinal)));
            }
        }
    };
    let resting = Resting::new(PanicPolicy::Stop, close);
    assert_eq!(resting.pass(), ["0 send?"]);
    assert_eq!(resting.pass(), Vec::<String>::new());
    assert_eq!(resting.rig.sockman.stats().connections, 0);
}

/// G4: a connection that its own send hook closes gets no further call, although the hook says yes.
#[test]
fn a_connection_closed_in_its_send_hook_gets_no_ready_to_send_call() {
    let close = |sockman: &SockMan, ordinals: &Ordinals, record: &str| {
        if record == "0 send?" {
            assert!(sockman.close_connection(ordinals.id(0)));
        }
    };
    let resting = Resting::new(PanicPolicy::Stop, close);
    *resting.rig.handler.wants_to_send.lock() = true;
    assert_eq!(resting.pass(), ["0 send?", "1 send?", "1 ready", "1 completed"]);
}

/// G12: the sweep goes on with the other connections after a panic.
#[test]
fn a_panic_in_the_sweep_closes_its_own_connection_alone() {
    let panic =
        |_: &SockMan, _: &Ordinals, record: &str| assert_ne!(record, "0 completed", "on purpose");
    let resting = Resting::new(PanicPolicy::CloseConnection, panic);
    assert_eq!(resting.pass(), ["0 send?", "0 completed", "0 closed", "1 send?", "1 completed"]);
    let is_open = |ordinal| {
        let id = resting.rig.handler.ordinals.id(ordinal);
        resting.rig.sockman.connection_info(id).is_some()
    };
    assert!(!is_open(0));
    assert!(is_open(1));
}

/// G14: a sweep that an interrupt cut short is repeated at the next start, and not a period later.
#[test]
fn a_sweep_that_was_cut_short_is_repeated_at_the_next_start() {
    let interrupt = |sockman: &SockMan, _: &Ordinals, record: &str| {
        if record == "0 completed" {
            sockman.interrupt();
        }
    };
    let resting = Resting::new(PanicPolicy::Stop, interrupt);
    assert_eq!(resting.pass(), ["0 send?", "0 completed"]);
    assert!(resting.rig.sockman.reset_interrupt());
    *resting.rig.handler.sockman.lock() = WeakSockMan::default(); // No more reactions.
    assert_eq!(resting.pass(), ["0 send?", "0 completed", "1 send?", "1 completed"]);
}

/// Each swept connection counts as a turn.
#[test]
fn the_turns_of_the_sweep_are_counted() {
    let resting = Resting::new(PanicPolicy::Stop, no_reaction);
    let before = resting.rig.sockman.stats();
    resting.pass();
    let after = resting.rig.sockman.stats();
    assert_eq!((after.turns - before.turns, after.sweeps - before.sweeps), (2, 1));
}
