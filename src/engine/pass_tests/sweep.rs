//! The sweep, over scripted sockets and a clock that stands still: what it asks of connections that
//! rest, and what cuts it short.

use std::{io, os::fd::RawFd, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::Machine;
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    engine::threads::run_one_pass,
    event_handler::{EventHandler, NextRecv},
    options::{Options, PanicPolicy, SELECT_TIMEOUT},
    sockman::{SockMan, WeakSockMan},
    sys::Readiness,
};

type Reaction = dyn Fn(&SockMan, &str) + Send + Sync;

/// Writes down every hook and callback, and reacts to it.
struct Log {
    told: Mutex<Vec<String>>,
    wants_to_send: Mutex<bool>,
    wants_to_recv: Mutex<bool>,
    /// For the hooks, which are given none.
    sockman: Mutex<WeakSockMan>,
    reaction: Box<Reaction>,
}

impl Log {
    fn tell(&self, what: &str) {
        self.told.lock().push(what.to_owned());
        if let Some(sockman) = { self.sockman.lock().upgrade() } {
            (self.reaction)(&sockman, what);
        }
    }
}

impl EventHandler for Log {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, id: ConnectionId) -> NextRecv {
        self.tell(&format!("{id} ready"));
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, _: &[u8]) {
        self.tell(&format!("{id} data"));
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.tell(&format!("{id} send?"));
        *self.wants_to_send.lock()
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.tell(&format!("{id} recv?"));
        *self.wants_to_recv.lock()
    }
    fn event_io_loop_completed_for_one(&self, _: &SockMan, id: ConnectionId) {
        self.tell(&format!("{id} completed"));
    }
    fn event_closed_after_panic(&self, _: &SockMan, id: ConnectionId) {
        self.tell(&format!("{id} closed"));
    }
}

/// Two connections that rest, writable, and the sweep about to come.
struct Rig {
    machine: Arc<Machine>,
    log: Arc<Log>,
    sockman: SockMan,
    fds: [RawFd; 2],
    ids: [ConnectionId; 2],
}

impl Rig {
    fn new(policy: PanicPolicy, reaction: impl Fn(&SockMan, &str) + Send + Sync + 'static) -> Rig {
        let machine = Machine::new();
        let log = Arc::new(Log {
            told: Mutex::default(),
            wants_to_send: Mutex::new(false),
            wants_to_recv: Mutex::new(true),
            sockman: Mutex::default(),
            reaction: Box::new(reaction),
        });
        let options = Options::default().sock_factory(machine.factory()).panic_policy(policy);
        let handler: Arc<dyn EventHandler> = log.clone();
        let sockman = SockMan::new(handler, options).unwrap();
        sockman.bind_and_start_listening(&"10.0.0.1:1".parse().unwrap()).unwrap();
        run_one_pass(&sockman).unwrap();
        let listener = 3;
        let fds = [machine.fresh_fd(), machine.fresh_fd()];
        for fd in fds {
            machine.script(listener, |script| script.accepts.push_back(Ok(fd)));
        }
        machine.event(listener, Readiness { readable: true, ..Readiness::default() });
        run_one_pass(&sockman).unwrap();
        for fd in fds {
            machine.event(fd, Readiness { writable: true, ..Readiness::default() });
        }
        run_one_pass(&sockman).unwrap();
        run_one_pass(&sockman).unwrap();
        let map = crate::engine::map::ConnectionMap::new(2);
        let rig = Rig { machine, log, sockman, fds, ids: [map.next_id(), map.next_id()] };
        rig.log.told.lock().clear();
        // Only now: the reactions are for the sweep.
        *rig.log.sockman.lock() = rig.sockman.downgrade();
        rig.machine.advance(SELECT_TIMEOUT);
        rig
    }

    /// What one pass tells.
    fn pass(&self) -> Vec<String> {
        run_one_pass(&self.sockman).unwrap();
        std::mem::take(&mut *self.log.told.lock())
    }
}

/// G6, and the price of the sweep: one question about sending, and the end of the turn.
#[test]
fn a_connection_that_rests_is_asked_about_sending_once_a_period() {
    let rig = Rig::new(PanicPolicy::Stop, |_, _| {});
    assert_eq!(rig.pass(), ["0 send?", "0 completed", "1 send?", "1 completed"]);
    assert_eq!(rig.machine.last_timeout(), Some(Duration::ZERO), "the time had come");
    assert_eq!(rig.pass(), Vec::<String>::new());
    assert_eq!(rig.machine.last_timeout(), Some(SELECT_TIMEOUT));
    rig.machine.advance(SELECT_TIMEOUT);
    assert_eq!(rig.pass().len(), 4);
}

/// G6: an answer that changed without a wake counts now, and the question is not put twice.
#[test]
fn who_wants_to_send_is_ready_to_send_in_the_same_pass() {
    let rig = Rig::new(PanicPolicy::Stop, |_, _| {});
    *rig.log.wants_to_send.lock() = true;
    assert_eq!(
        rig.pass(),
        ["0 send?", "1 send?", "0 ready", "0 completed", "1 ready", "1 completed"]
    );
}

/// G6: so does one about receiving, where there is something to receive.
#[test]
fn data_that_a_pause_held_back_is_received_at_the_sweep() {
    let rig = Rig::new(PanicPolicy::Stop, |_, _| {});
    *rig.log.wants_to_recv.lock() = false;
    rig.machine.script(rig.fds[1], |script| script.recvs.push_back(Ok(vec![1; 10])));
    rig.machine.event(rig.fds[1], Readiness { readable: true, ..Readiness::default() });
    assert!(!rig.pass().contains(&"1 data".to_owned()), "paused");
    *rig.log.wants_to_recv.lock() = true;
    assert_eq!(rig.pass(), Vec::<String>::new(), "nobody asks before the sweep");
    rig.machine.advance(SELECT_TIMEOUT);
    assert!(rig.pass().contains(&"1 data".to_owned()));
}

/// G4: the sweep passes by what a callback of it has closed, and tells no more of what closes itself.
#[test]
fn what_is_closed_during_the_sweep_is_not_named_again() {
    let close = |sockman: &SockMan, what: &str| {
        if what == "0 send?" {
            let map = crate::engine::map::ConnectionMap::new(2);
            for id in [map.next_id(), map.next_id()] {
                assert!(sockman.close_connection(id));
            }
        }
    };
    let rig = Rig::new(PanicPolicy::Stop, close);
    assert_eq!(rig.pass(), ["0 send?"]);
    assert_eq!(rig.pass(), Vec::<String>::new());
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G4: also when it was closed before the hook that says yes could be acted upon.
#[test]
fn one_that_closes_itself_and_wants_to_send_is_not_ready_to_send() {
    let close = |sockman: &SockMan, what: &str| {
        if what == "0 send?" {
            let id = crate::engine::map::ConnectionMap::new(1).next_id();
            assert!(sockman.close_connection(id));
        }
    };
    let rig = Rig::new(PanicPolicy::Stop, close);
    *rig.log.wants_to_send.lock() = true;
    assert_eq!(rig.pass(), ["0 send?", "1 send?", "1 ready", "1 completed"]);
}

/// G12: the others are asked all the same.
#[test]
fn a_panic_in_the_sweep_closes_its_own_connection_alone() {
    let panic = |_: &SockMan, what: &str| assert_ne!(what, "0 completed", "on purpose");
    let rig = Rig::new(PanicPolicy::CloseConnection, panic);
    assert_eq!(rig.pass(), ["0 send?", "0 completed", "0 closed", "1 send?", "1 completed"]);
    assert!(rig.sockman.connection_info(rig.ids[0]).is_none());
    assert!(rig.sockman.connection_info(rig.ids[1]).is_some());
}

/// G14: what an interrupt cuts short is made up for at the next start, not a period later.
#[test]
fn a_sweep_that_was_cut_short_comes_again_with_the_next_start() {
    let interrupt = |sockman: &SockMan, what: &str| {
        if what == "0 completed" {
            sockman.interrupt();
        }
    };
    let rig = Rig::new(PanicPolicy::Stop, interrupt);
    assert_eq!(rig.pass(), ["0 send?", "0 completed"]);
    assert!(rig.sockman.reset_interrupt());
    *rig.log.sockman.lock() = WeakSockMan::default(); // No more reactions.
    assert_eq!(rig.pass(), ["0 send?", "0 completed", "1 send?", "1 completed"]);
}

/// Each counts as a turn.
#[test]
fn the_turns_of_the_sweep_are_counted() {
    let rig = Rig::new(PanicPolicy::Stop, |_, _| {});
    let before = rig.sockman.stats();
    rig.pass();
    let after = rig.sockman.stats();
    assert_eq!((after.turns - before.turns, after.sweeps - before.sweeps), (2, 1));
}
