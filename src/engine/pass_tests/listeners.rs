//! Tests of the listeners that are due: what a pass costs, and which one accepts first.

use std::io;

use parking_lot::Mutex;

use super::Rig;
use crate::{
    address::Service,
    engine::{connection::ConnectionId, threads::Run},
    event_handler::EventHandler,
    options::Options,
    sockman::SockMan,
};

/// Records the local address of each accepted connection.
#[derive(Default)]
struct Accepted(Mutex<Vec<(ConnectionId, Service)>>);

impl EventHandler for Accepted {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        me: &Service,
        _: &Service,
    ) -> bool {
        self.0.lock().push((id, me.clone()));
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

fn looked_at(rig: &Rig<Accepted>) -> usize {
    match &*rig.sockman.shared().run.lock() {
        Run::Stopped(socket_thread) => socket_thread.listeners_looked_at(),
        Run::Running { .. } => panic!("no pass runs"),
    }
}

/// G8, the cost of a pass: it looks at the listeners that are due, and not at the others.
#[test]
fn listeners_that_are_not_due_cost_a_pass_nothing() {
    const LISTENERS: u16 = if cfg!(miri) { 20 } else { 1000 };
    let rig = Rig::with_handler(Accepted::default(), Options::default().sweep(None));
    for port in 1000..1000 + LISTENERS {
        rig.sockman.bind_and_start_listening(format!("10.0.1.1:{port}")).unwrap();
    }
    rig.pass();
    rig.pass();
    let before = looked_at(&rig);
    for _ in 0..100 {
        rig.sockman.notify();
        rig.pass();
    }
    assert_eq!(looked_at(&rig), before, "no listener was due");
    let _peer = rig.connect_peer();
    rig.pass();
    rig.pass();
    assert_eq!(looked_at(&rig), before + 1, "one listener was due, and was drained");
    assert_eq!(rig.sockman.stats().accepted, 1);
    rig.sockman.stop_listening();
    rig.pass();
    assert_eq!((looked_at(&rig), rig.listeners().len()), (before + 1, 0));
}

/// G8: at the connection limit, two flooded listeners take the places that become free in turn.
#[test]
fn flooded_listeners_accept_first_in_turn() {
    const ROUNDS: usize = 6;
    let options = Options::default().sweep(None).max_connections(1);
    let rig = Rig::with_handler(Accepted::default(), options);
    let other = rig.sockman.bind_and_start_listening("10.0.1.1:1").unwrap();
    rig.pass();
    let to = [&rig.here, &other].repeat(ROUNDS);
    let _peers: Vec<_> = to.iter().map(|to| rig.network.connect(to).unwrap()).collect();
    for _ in 0..ROUNDS {
        rig.pass();
        let last = rig.handler.0.lock().last().map(|(id, _)| *id).unwrap();
        assert!(rig.sockman.close_connection(last));
    }
    let accepted = rig.handler.0.lock();
    let at_other = accepted.iter().filter(|(_, me)| *me == other).count();
    assert_eq!((accepted.len(), at_other), (ROUNDS, ROUNDS / 2));
}

/// G8: they do so however many passes come between two places.
#[test]
fn flooded_listeners_accept_in_turn_however_many_passes_come_between() {
    const ROUNDS: usize = 12;
    for passes in 1..=4 {
        let options = Options::default().sweep(None).max_connections(1);
        let rig = Rig::with_handler(Accepted::default(), options);
        let flooded: Vec<_> = (1..=2)
            .map(|port| rig.sockman.bind_and_start_listening(format!("10.0.1.1:{port}")).unwrap())
            .collect();
        rig.pass();
        let to = flooded.iter().cycle().take(2 * ROUNDS);
        let _peers: Vec<_> = to.map(|to| rig.network.connect(to).unwrap()).collect();
        for _ in 0..ROUNDS {
            for _ in 0..passes {
                rig.sockman.notify();
                rig.pass();
            }
            let last = rig.handler.0.lock().last().map(|(id, _)| *id).unwrap();
            assert!(rig.sockman.close_connection(last));
        }
        let accepted = rig.handler.0.lock();
        let at_first = accepted.iter().filter(|(_, me)| *me == flooded[0]).count();
        assert_eq!((accepted.len(), at_first), (ROUNDS, ROUNDS / 2), "{passes} passes");
    }
}

/// A listener that finds no slot is stopped, so its clients are refused, and the others go on. The
/// limit is 2^32 - 1 listeners, and 2^20 - 1 on 32-bit machines.
#[test]
fn a_listener_that_finds_no_slot_is_stopped() {
    let rig = Rig::with_handler(Accepted::default(), Options::default().sweep(None));
    match &mut *rig.sockman.shared().run.lock() {
        Run::Stopped(socket_thread) => socket_thread.fill_listeners(),
        Run::Running { .. } => panic!("no pass runs"),
    }
    let other = rig.sockman.bind_and_start_listening("10.0.1.1:1").unwrap();
    let early = rig.network.connect(&other).unwrap();
    assert_eq!(rig.sockman.stats().listeners, 2);
    rig.pass();
    assert_eq!(rig.sockman.stats().listeners, 1);
    assert!(early.receive().1.is_some(), "a client that waited is refused");
    assert!(rig.network.connect(&other).is_err(), "clients are refused");
    assert_eq!(rig.listeners().len(), 1);
    let _peer = rig.connect_peer();
    rig.pass();
    assert_eq!(rig.sockman.stats().accepted, 1);
    // The address is free again.
    assert!(rig.network.listen(&other).is_ok());
}
