//! Tests of the turns in a row of connections that fill large buffers (G8). The clock stands still,
//! so that only repeated turns end a slice.

use std::{io, sync::Arc};

use parking_lot::Mutex;

use super::Ordinals;
use crate::{
    address::Service, engine::connection::ConnectionId, event_handler::EventHandler,
    options::Options, sockman::SockMan, testing::Peer,
};

/// The smallest buffer that counts as large.
const BUFFER: usize = 32 * 1024;

/// The largest number of turns in a row.
const IN_ROW: usize = 128;

/// The number of turns that the repeated ones may make of a short round.
const PER_ROUND: usize = 512;

/// The smallest limit of turns in a row.
const FEWEST_IN_ROW: usize = 32;

type Reaction = Box<dyn Fn(&SockMan, usize) + Send>;

/// Records the ordinals of the connections that had data, each pass in a list of its own.
#[derive(Default)]
struct Recorder {
    ordinals: Ordinals,
    passes: Mutex<Vec<Vec<usize>>>,
    paused: Mutex<Option<usize>>,
    reaction: Mutex<Option<Reaction>>,
}

impl EventHandler for Recorder {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.ordinals.of(id);
        true
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        *self.paused.lock() != Some(self.ordinals.of(id))
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, _: &[u8]) {
        let ordinal = self.ordinals.of(id);
        self.passes.lock().last_mut().unwrap().push(ordinal);
        if let Some(react) = &*self.reaction.lock() {
            react(sockman, ordinal);
        }
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

type Rig = super::Rig<Recorder>;

impl Rig {
    /// Accepts `count` connections with windows for `buffers` receives, and runs their first turns.
    fn with_peers(buffer: usize, buffers: usize, count: usize) -> (Rig, Vec<Peer>) {
        let options = Options::default().sweep(None).receive_buffer(buffer).accept_batch(count);
        let rig = Rig::with_handler(Recorder::default(), options);
        rig.network.set_window(buffer * buffers);
        let peers: Vec<Peer> = (0..count).map(|_| rig.connect_peer()).collect();
        rig.pass();
        rig.pass();
        (rig, peers)
    }

    /// Runs passes, and returns the ordinals of the connections that had data in each of them.
    fn turns(&self, passes: usize) -> Vec<Vec<usize>> {
        for _ in 0..passes {
            self.handler.passes.lock().push(Vec::new());
            self.pass();
        }
        std::mem::take(&mut self.handler.passes.lock())
    }
}

fn send(peer: &Peer, buffer: usize, buffers: usize) {
    assert_eq!(peer.send(&vec![1; buffer * buffers]).unwrap(), buffer * buffers);
}

/// Returns a list of lists, each of which names one connection.
fn rows(rows: &[(usize, usize)]) -> Vec<usize> {
    rows.iter().flat_map(|(ordinal, turns)| vec![*ordinal; *turns]).collect()
}

/// G8: a connection that fills large buffers goes on until it is empty, and then the next one. A poll
/// comes between its turns.
#[test]
fn a_connection_that_fills_large_buffers_has_several_turns_in_a_row() {
    let (rig, peers) = Rig::with_peers(BUFFER, 4, 3);
    send(&peers[0], BUFFER, 3);
    send(&peers[1], BUFFER, 1);
    send(&peers[2], BUFFER, 2);
    let empty: &[usize] = &[];
    assert_eq!(rig.turns(7), [&[0][..], &[0], &[0], &[1], &[2], &[2], empty]);
}

/// G8: with a smaller buffer, a turn is one receive of each connection.
#[test]
fn a_connection_that_fills_smaller_buffers_has_one_turn_in_a_round() {
    let (rig, peers) = Rig::with_peers(BUFFER - 1, 4, 2);
    peers.iter().for_each(|peer| send(peer, BUFFER - 1, 2));
    assert_eq!(rig.turns(2), [[0, 1], [0, 1]]);
}

/// G8: a connection that becomes ready gets its turn before the rest of the turns in a row.
#[test]
fn a_connection_that_becomes_ready_does_not_wait_for_turns_in_a_row() {
    let (rig, mut peers) = Rig::with_peers(BUFFER, 4, 3);
    let light = Mutex::new(peers.pop().unwrap());
    peers.iter().for_each(|peer| send(peer, BUFFER, 3));
    let count = Mutex::new(0);
    *rig.handler.reaction.lock() = Some(Box::new(move |_, _| {
        *count.lock() += 1;
        if *count.lock() == 2 {
            let _ = light.lock().send(&[1]);
        }
    }));
    assert_eq!(rig.turns(6), [&[0][..], &[0], &[2, 0], &[1], &[1], &[1]]);
}

/// G8: a flood of connections that become ready does not take the turns of a bulk one.
#[test]
fn connections_that_become_ready_do_not_starve_turns_in_a_row() {
    let (rig, mut peers) = Rig::with_peers(BUFFER, 4, 2);
    let light = Mutex::new(peers.pop().unwrap());
    send(&peers[0], BUFFER, 3);
    *rig.handler.reaction.lock() = Some(Box::new(move |_, _| {
        let _ = light.lock().send(&[1]);
    }));
    assert_eq!(rig.turns(3), [&[0][..], &[1, 0], &[1, 0]]);
}

/// G8: the turns in a row are bounded, whoever feeds the connection.
#[test]
fn a_peer_that_sends_without_end_gives_way_to_the_next_connection() {
    let (rig, peers) = Rig::with_peers(BUFFER, 4, 2);
    peers.iter().for_each(|peer| send(peer, BUFFER, 4));
    let peers = Mutex::new(peers);
    *rig.handler.reaction.lock() = Some(Box::new(move |_, ordinal| {
        let _ = peers.lock()[ordinal].send(&vec![1; BUFFER]);
    }));
    let turns = rig.turns(2 * IN_ROW).concat();
    assert_eq!(turns[..2 * IN_ROW], rows(&[(0, IN_ROW), (1, IN_ROW)]));
}

/// G8: in a round of many connections, none has turns in a row.
#[test]
fn in_a_long_round_each_connection_has_one_turn() {
    let most = PER_ROUND / FEWEST_IN_ROW;
    for (count, in_row) in [(most, 3), (most + 1, 1)] {
        let (rig, peers) = Rig::with_peers(BUFFER, 3, count);
        peers.iter().for_each(|peer| send(peer, BUFFER, 3));
        let turns = rig.turns(3 * count).concat();
        let expected: Vec<_> = (0..count).map(|ordinal| (ordinal, in_row)).collect();
        assert_eq!(turns[..count * in_row], rows(&expected), "{count} connections");
    }
}

/// G6: the hook is asked before each of the turns in a row.
#[test]
fn a_connection_that_pauses_has_no_further_turn_in_a_row() {
    let (rig, peers) = Rig::with_peers(BUFFER, 4, 2);
    // A strong reference would keep the handler, which has the closure, for ever.
    let handler = Arc::downgrade(&rig.handler);
    peers.iter().for_each(|peer| send(peer, BUFFER, 3));
    *rig.handler.reaction.lock() = Some(Box::new(move |_, ordinal| {
        if ordinal == 0 {
            *handler.upgrade().unwrap().paused.lock() = Some(0);
        }
    }));
    assert_eq!(rig.turns(4).concat(), [0, 1, 1, 1]);
    *rig.handler.paused.lock() = None;
    *rig.handler.reaction.lock() = None;
    rig.sockman.wake(rig.handler.ordinals.id(0));
    assert_eq!(rig.turns(2).concat(), [0, 0]);
}

/// G14: an interrupt between two turns in a row loses no turn.
#[test]
fn an_interrupt_between_turns_in_a_row_loses_no_turn() {
    let (rig, peers) = Rig::with_peers(BUFFER, 4, 2);
    peers.iter().for_each(|peer| send(peer, BUFFER, 3));
    *rig.handler.reaction.lock() = Some(Box::new(|sockman, _| {
        sockman.interrupt();
    }));
    assert_eq!(rig.turns(1), [[0]]);
    *rig.handler.reaction.lock() = None;
    rig.sockman.reset_interrupt();
    let mut turns = rig.turns(5).concat();
    turns.sort_unstable();
    assert_eq!(turns, [0, 0, 1, 1, 1]);
}

/// G4: a connection that is closed in one of its turns in a row is not named again.
#[test]
fn a_connection_that_is_closed_between_turns_in_a_row_is_not_named_again() {
    let (rig, peers) = Rig::with_peers(BUFFER, 4, 2);
    // A strong reference would keep the handler, which has the closure, for ever.
    let handler = Arc::downgrade(&rig.handler);
    peers.iter().for_each(|peer| send(peer, BUFFER, 3));
    *rig.handler.reaction.lock() = Some(Box::new(move |sockman, ordinal| {
        if ordinal == 0 {
            assert!(sockman.close_connection(handler.upgrade().unwrap().ordinals.id(0)));
        }
    }));
    assert_eq!(rig.turns(4).concat(), [0, 1, 1, 1]);
}
