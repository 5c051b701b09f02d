//! Tests of the order of turns (G8). The clock is that of the network, and a callback that takes
//! long moves it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::Ordinals;
use crate::{
    address::Service, engine::connection::ConnectionId, event_handler::EventHandler,
    options::Options, sockman::SockMan, testing::Peer,
};

/// Longer than a slice of turns.
const LONG: Duration = Duration::from_millis(2);

type Reaction = Box<dyn Fn(&SockMan, usize) + Send>;

/// Records the ordinals of the connections that had data, and each end of a loop as `LOOP`.
#[derive(Default)]
struct Recorder {
    ordinals: Ordinals,
    records: Mutex<Vec<usize>>,
    paused: Mutex<Option<usize>>,
    reaction: Mutex<Option<Reaction>>,
}

const LOOP: usize = usize::MAX;

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
        self.records.lock().push(ordinal);
        if let Some(react) = &*self.reaction.lock() {
            react(sockman, ordinal);
        }
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        self.records.lock().push(LOOP);
    }
}

type Rig = super::Rig<Recorder>;

impl Rig {
    /// Accepts `count` connections and runs their first turns. Each later callback of data takes
    /// longer than a slice, so that each slice has one turn.
    fn with_peers(count: usize) -> (Rig, Vec<Peer>) {
        Rig::with_sweep(None, count)
    }

    fn with_sweep(period: Option<Duration>, count: usize) -> (Rig, Vec<Peer>) {
        let options = Options::default().sweep(period).receive_buffer(10);
        let rig = Rig::with_handler(Recorder::default(), options);
        let peers = (0..count).map(|_| rig.connect_peer()).collect();
        while rig.handler.ordinals.count() < count {
            rig.pass();
        }
        rig.pass();
        rig.records();
        rig.react(|_, _| {});
        (rig, peers)
    }

    /// Sets what a callback of data does after it has taken long.
    fn react(&self, reaction: impl Fn(&SockMan, usize) + Send + 'static) {
        self.react_in(LONG, reaction);
    }

    /// Sets what a callback of data does after it has taken this time.
    fn react_in(&self, time: Duration, reaction: impl Fn(&SockMan, usize) + Send + 'static) {
        let network = self.network.clone();
        *self.handler.reaction.lock() = Some(Box::new(move |sockman, ordinal| {
            network.advance(time);
            reaction(sockman, ordinal);
        }));
    }

    fn records(&self) -> Vec<usize> {
        std::mem::take(&mut self.handler.records.lock())
    }

    /// Runs passes, and returns the ordinals of the connections that had data, without the ends of
    /// loops.
    fn turns(&self, passes: usize) -> Vec<usize> {
        (0..passes).for_each(|_| self.pass());
        self.records().into_iter().filter(|record| *record != LOOP).collect()
    }
}

/// G8: a connection that becomes ready while many others wait gets its turn before them, each time.
#[test]
fn a_connection_that_becomes_ready_gets_its_turn_before_the_rest() {
    let (rig, mut peers) = Rig::with_peers(6);
    let benign = peers.pop().unwrap();
    peers.iter().for_each(|peer| drop(peer.send(&[1; 100])));
    let benign = Mutex::new(benign);
    rig.react(move |_, ordinal| {
        if matches!(ordinal, 1 | 3) {
            let _ = benign.lock().send(&[1]);
        }
    });
    assert_eq!(rig.turns(7), [0, 1, 5, 2, 3, 5, 4]);
}

/// G8: a flood of connections that become ready does not starve those that wait: each second slice
/// begins with one of them.
#[test]
fn connections_that_become_ready_do_not_starve_the_rest() {
    let (rig, mut peers) = Rig::with_peers(5);
    let flood: Vec<Peer> = peers.drain(3..).collect();
    peers.iter().for_each(|peer| drop(peer.send(&[1; 100])));
    rig.react(move |_, _| flood.iter().for_each(|peer| drop(peer.send(&[1]))));
    assert_eq!(rig.turns(6), [0, 3, 1, 4, 2, 3]);
}

/// G8: a connection whose last receive was heavy does not come before the rest when it becomes ready
/// again, because a thousand of them would delay one that sends little.
#[test]
fn a_connection_that_sent_much_waits_for_the_next_round_when_it_becomes_ready() {
    let (rig, mut peers) = Rig::with_peers(6);
    let (light, heavy) = (peers.pop().unwrap(), peers.pop().unwrap());
    heavy.send(&[1; 10]).unwrap();
    assert_eq!(rig.turns(2), [4], "the buffer is full, and nothing is left");
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    let both = Mutex::new((light, heavy));
    rig.react(move |_, ordinal| {
        if ordinal == 0 {
            let (light, heavy) = &*both.lock();
            let _ = (heavy.send(&[1]), light.send(&[1]));
        }
    });
    assert_eq!(rig.turns(6), [0, 5, 1, 2, 3, 4]);
}

/// G8: the sweep asks the hooks of a connection that sends little before the rest of a round. The
/// connection otherwise waits for the next round, and so does a byte that comes meanwhile.
#[test]
fn after_a_sweep_a_connection_that_sends_little_does_not_wait_for_the_rest() {
    let period = Duration::from_millis(10);
    let (rig, mut peers) = Rig::with_sweep(Some(period), 5);
    let light = Mutex::new(peers.pop().unwrap());
    peers.iter().for_each(|peer| drop(peer.send(&[1; 100])));
    rig.react(move |_, ordinal| {
        if ordinal == 1 {
            let _ = light.lock().send(&[1]);
        }
    });
    assert_eq!(rig.turns(1), [0]);
    rig.network.advance(period);
    assert_eq!(rig.turns(4), [1, 4, 2, 3]);
}

/// G8: the peers with the fastest answers, which are ready again after each turn, do not delay the first
/// turns of the others.
#[test]
fn peers_with_fast_answers_do_not_delay_those_that_wait() {
    let (rig, peers) = Rig::with_peers(40);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(100), move |_, ordinal| drop(peers[ordinal].send(&[1])));
    let turns = rig.turns(6);
    let first = |ordinal| turns.iter().position(|turn| *turn == ordinal).unwrap();
    assert_eq!((0..40).map(first).max(), Some(39), "{turns:?}");
}

/// G8: beside such peers, one that becomes ready once has its turn in the next slice.
#[test]
fn one_that_becomes_ready_comes_before_peers_with_fast_answers() {
    let (rig, mut peers) = Rig::with_peers(41);
    let benign = peers.pop().unwrap();
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(100), move |_, ordinal| {
        let _ = peers.get(ordinal).map(|peer| peer.send(&[1]));
        if ordinal == 12 {
            drop(benign.send(&[1]));
        }
    });
    let turns = rig.turns(3);
    assert_eq!(turns[20], 40, "{turns:?}");
}

/// G8: peers with fast answers that send little do not wait for those that sent much.
#[test]
fn peers_with_fast_answers_do_not_wait_for_heavy_ones() {
    let (rig, peers) = Rig::with_peers(9);
    peers[3..].iter().for_each(|peer| drop(peer.send(&[1; 10])));
    rig.turns(6);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(250), move |_, ordinal| {
        if ordinal < 3 {
            drop(peers[ordinal].send(&[1]));
        }
    });
    assert_eq!(rig.turns(3), [0, 1, 2, 3, 0, 1, 2, 4, 0, 1, 2, 5]);
}

/// G8: one that is ready again waits for the light ones of the round, and comes before the heavy ones.
#[test]
fn one_that_waited_for_light_ones_comes_before_heavy_ones() {
    let (rig, peers) = Rig::with_peers(16);
    peers[8..].iter().for_each(|peer| drop(peer.send(&[1; 10])));
    while !rig.turns(1).is_empty() {}
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    let turns = AtomicUsize::new(0);
    rig.react_in(Duration::from_micros(250), move |_, ordinal| {
        if turns.fetch_add(1, Ordering::Relaxed) == 0 {
            drop(peers[ordinal].send(&[1]));
        }
    });
    assert_eq!(rig.turns(3), [0, 1, 2, 3, 4, 5, 6, 7, 0, 8, 9, 10]);
}

/// G8: as long as turns are cheap, a slice may take four milliseconds: 267 turns of 15 µs, but 50 of
/// 20 µs, which are no longer cheap.
#[test]
fn a_slice_of_cheap_turns_takes_up_to_four_milliseconds() {
    for (micros, turns) in [(15, 267), (20, 50)] {
        let (rig, peers) = Rig::with_peers(300);
        peers.iter().for_each(|peer| drop(peer.send(&[1])));
        rig.react_in(Duration::from_micros(micros), |_, _| {});
        assert_eq!(rig.turns(1).len(), turns);
    }
}

/// G8, G9: a wake from any thread does not wait for the end of such a slice, nor do connections that sent
/// much.
#[test]
fn a_slice_is_short_where_somebody_waits() {
    let (rig, peers) = Rig::with_peers(300);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(15), |sockman, ordinal| {
        if ordinal == 0 {
            sockman.notify();
        }
    });
    assert_eq!(rig.turns(1).len(), 67);

    let (rig, peers) = Rig::with_peers(300);
    peers.iter().for_each(|peer| drop(peer.send(&[1; 10])));
    while !rig.turns(1).is_empty() {}
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(15), |_, _| {});
    assert_eq!(rig.turns(1).len(), 67);
}

/// G8: those that became ready and the rest of the round have short slices in turn while both wait, so
/// that neither waits for four milliseconds.
#[test]
fn slices_are_short_while_those_that_became_ready_and_the_rest_wait_for_each_other() {
    let (rig, mut peers) = Rig::with_peers(1_000);
    let late = peers.split_off(900);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(15), move |_, ordinal| {
        if ordinal == 0 {
            late.iter().for_each(|peer| drop(peer.send(&[1])));
        }
    });
    let lengths: Vec<usize> = (0..4).map(|_| rig.turns(1).len()).collect();
    assert_eq!(lengths, [267, 67, 67, 267]);
}

/// G8: the cheap turns of those that became ready do not take more than their half beside connections that
/// sent much.
#[test]
fn a_slice_of_cheap_turns_is_short_while_heavy_ones_wait() {
    let (rig, peers) = Rig::with_peers(320);
    peers[..20].iter().for_each(|peer| drop(peer.send(&[1; 10])));
    while !rig.turns(1).is_empty() {}
    peers[..20].iter().for_each(|peer| drop(peer.send(&[1; 10])));
    let network = rig.network.clone();
    rig.react_in(Duration::from_micros(15), move |_, ordinal| {
        if ordinal < 20 {
            network.advance(LONG);
        }
        if ordinal == 0 {
            peers[20..].iter().for_each(|peer| drop(peer.send(&[1])));
        }
    });
    let lengths: Vec<usize> = (0..3).map(|_| rig.turns(1).len()).collect();
    assert_eq!(lengths, [1, 67, 1]);
}

/// G8: data that came after the ready-to-send call of a turn makes the library ask the send hook
/// again. That question, too, comes before the rest of a round.
#[test]
fn a_connection_that_may_answer_does_not_wait_for_the_rest() {
    let (rig, mut peers) = Rig::with_peers(5);
    let light = Arc::new(peers.pop().unwrap());
    peers.iter().for_each(|peer| drop(peer.send(&[1; 100])));
    let sender = Arc::clone(&light);
    rig.react(move |_, ordinal| {
        if ordinal == 1 {
            let _ = sender.send(&[1]);
        }
    });
    assert_eq!(rig.turns(1), [0]);
    // After a wake, the ready-to-send call comes before the receive.
    rig.sockman.wake(rig.handler.ordinals.id(4));
    light.send(&[1]).unwrap();
    assert_eq!(rig.turns(5), [4, 1, 4, 2, 3]);
}

/// G8: peers whose data comes after the ready-to-send call of each turn have one turn more, but do not
/// delay the first turns of the others further.
#[test]
fn peers_whose_answers_come_in_each_turn_do_not_delay_those_that_wait() {
    let (rig, peers) = Rig::with_peers(40);
    (0..40).for_each(|ordinal| rig.sockman.wake(rig.handler.ordinals.id(ordinal)));
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react_in(Duration::from_micros(100), move |_, ordinal| drop(peers[ordinal].send(&[1])));
    let turns = rig.turns(8);
    let last = (0..40).map(|ordinal| turns.iter().position(|turn| *turn == ordinal).unwrap()).max();
    let before = &turns[..last.unwrap()];
    let most = (0..40).map(|ordinal| before.iter().filter(|turn| **turn == ordinal).count()).max();
    assert_eq!(most, Some(2), "{turns:?}");
}

/// G8: a connection whose turn left work waits until all that are due have had their turn.
#[test]
fn a_connection_whose_turn_left_work_waits_for_the_next_round() {
    let (rig, peers) = Rig::with_peers(3);
    peers[0].send(&[1; 30]).unwrap();
    peers[1].send(&[1; 10]).unwrap();
    peers[2].send(&[1; 20]).unwrap();
    assert_eq!(rig.turns(6), [0, 1, 2, 0, 2, 0]);
}

/// G8: while thousands of turns are due, the rest of the loop goes on between the slices: clients
/// are accepted, and the embedder's own work is done.
#[test]
fn clients_are_accepted_and_the_loop_completes_between_the_slices() {
    let (rig, peers) = Rig::with_peers(4);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    let late = rig.connect_peer();
    rig.pass();
    assert_eq!(rig.records(), [LOOP, 0]);
    assert!(rig.handler.ordinals.count() > 4, "the client was accepted");
    late.send(&[1]).unwrap();
    rig.pass();
    assert_eq!(rig.records(), [LOOP, 4], "the new connection has its turn before the rest");
}

/// G6: an answer of a hook is valid for one pass. A connection that is paused while its turn waits
/// is not read.
#[test]
fn a_connection_that_is_paused_while_its_turn_waits_is_not_read() {
    let (rig, peers) = Rig::with_peers(3);
    // A strong reference would keep the handler, which has the closure, for ever.
    let handler = Arc::downgrade(&rig.handler);
    // The first buffer leaves work, so the next pass asks all hooks before the first turn.
    peers.iter().for_each(|peer| drop(peer.send(&[1; 20])));
    assert_eq!(rig.turns(3), [0, 1, 2]);
    rig.react(move |_, ordinal| {
        if ordinal == 0 {
            *handler.upgrade().unwrap().paused.lock() = Some(1);
        }
    });
    assert_eq!(rig.turns(3), [0, 2]);
}

/// G14: an interrupt in the middle of a round loses no turn, and the hooks are asked anew.
#[test]
fn an_interrupt_in_the_middle_of_a_round_loses_no_turn() {
    let (rig, peers) = Rig::with_peers(3);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react(|sockman, ordinal| {
        if ordinal == 1 {
            sockman.interrupt();
        }
    });
    assert_eq!(rig.turns(2), [0, 1]);
    rig.sockman.reset_interrupt();
    assert_eq!(rig.turns(1), [2]);
}

/// G12, G14: a panic that stops the thread in the middle of a round loses no other turn.
#[test]
fn a_panic_in_the_middle_of_a_round_loses_no_other_turn() {
    let (rig, peers) = Rig::with_peers(4);
    peers[..3].iter().for_each(|peer| drop(peer.send(&[1])));
    assert_eq!(rig.turns(1), [0]);
    // One that became ready meanwhile waits, too.
    peers[3].send(&[1]).unwrap();
    rig.react(|_, ordinal| assert_ne!(ordinal, 3, "a panic in the callback"));
    assert!(catch_unwind(AssertUnwindSafe(|| rig.pass())).is_err());
    rig.sockman.reset_interrupt();
    assert_eq!(rig.turns(4), [3, 1, 2]);
}

/// G4: a connection that is closed while its turn waits is not named again, and the turns of the
/// others come.
#[test]
fn a_connection_that_is_closed_while_its_turn_waits_is_not_named_again() {
    let (rig, peers) = Rig::with_peers(4);
    // A strong reference would keep the handler, which has the closure, for ever.
    let handler = Arc::downgrade(&rig.handler);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.react(move |sockman, ordinal| {
        if ordinal == 0 {
            let handler = handler.upgrade().unwrap();
            assert!(sockman.close_connection(handler.ordinals.id(1)));
            assert!(sockman.close_connection(handler.ordinals.id(3)));
        }
    });
    assert_eq!(rig.turns(4), [0, 2]);
}
