//! Tests of how long others wait for turns in a row (G8, G15), and of a half-close of a connection that
//! finishes (G7). Peers fill the buffers again in each callback, and a callback takes as long as the
//! test says.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Ordinals;
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    event_handler::EventHandler,
    options::Options,
    sockman::SockMan,
    testing::{Network, Peer},
};

const BUFFER: usize = 32 * 1024;

#[derive(Default)]
struct Flood {
    ordinals: Ordinals,
    network: Mutex<Option<Network>>,
    peers: Mutex<Vec<Peer>>,
    /// The peers of the connections below this ordinal send again what was received.
    floods: AtomicUsize,
    /// The number of callbacks of data.
    data: AtomicUsize,
    /// How long a callback of data takes.
    cost: Mutex<Duration>,
    deadline: Mutex<Option<Instant>>,
    /// The value of `data` when the handler was called for its deadline.
    late: Mutex<Option<usize>>,
    /// The ordinals of the connections that had data.
    log: Mutex<Vec<usize>>,
    /// Whether each turn half-closes its connection.
    shuts: AtomicBool,
    completed: AtomicUsize,
}

impl EventHandler for Flood {
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
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        let ordinal = self.ordinals.of(id);
        self.log.lock().push(ordinal);
        self.data.fetch_add(1, Ordering::Relaxed);
        if ordinal < self.floods.load(Ordering::Relaxed) {
            let _ = self.peers.lock()[ordinal].send(&vec![1; data.len()]);
        }
        let cost = *self.cost.lock();
        if !cost.is_zero() {
            self.network.lock().as_ref().unwrap().advance(cost);
        }
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        self.completed.fetch_add(1, Ordering::Relaxed);
        if self.shuts.load(Ordering::Relaxed) {
            let _ = sockman.shutdown_write(id);
        }
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        let now = self.network.lock().as_ref().map(Network::now);
        let mut deadline = self.deadline.lock();
        if let (Some(now), Some(at)) = (now, *deadline) {
            if at <= now {
                *self.late.lock() = Some(self.data.load(Ordering::Relaxed));
                *deadline = None;
            }
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        *self.deadline.lock()
    }
}

type Rig = super::Rig<Flood>;

fn rig(count: usize) -> Rig {
    let options = Options::default().sweep(None).receive_buffer(BUFFER).accept_batch(count);
    let rig = Rig::with_handler(Flood::default(), options);
    *rig.handler.network.lock() = Some(rig.network.clone());
    rig.network.set_window(BUFFER * 4);
    let peers = (0..count).map(|_| rig.connect_peer()).collect();
    *rig.handler.peers.lock() = peers;
    rig.pass();
    rig.pass();
    rig
}

fn fill(rig: &Rig, ordinal: usize, bytes: usize) {
    assert_eq!(rig.handler.peers.lock()[ordinal].send(&vec![1; bytes]).unwrap(), bytes);
}

/// Returns how many turns of `count` bulk connections come before a timer that has ended.
fn turns_before_timer(count: usize, cost: Duration) -> usize {
    let rig = rig(count);
    rig.handler.floods.store(count, Ordering::Relaxed);
    for ordinal in 0..count {
        fill(&rig, ordinal, BUFFER * 3);
    }
    *rig.handler.cost.lock() = cost;
    *rig.handler.deadline.lock() = Some(rig.network.now());
    rig.network.advance(Duration::from_millis(20));
    rig.pass();
    rig.handler.late.lock().unwrap()
}

/// G15: the round before a timer has no turns in a row.
#[test]
fn a_timer_waits_for_one_turn_of_each_bulk_connection() {
    let turns = turns_before_timer(4, Duration::from_micros(100));
    assert!(turns <= 8, "{turns} turns");
}

/// G15: a row that began while its connection was alone ends, too.
#[test]
fn a_timer_waits_for_one_turn_of_each_although_a_row_is_under_way() {
    const COUNT: usize = 200;
    let rig = rig(COUNT);
    // All are heavy now.
    for ordinal in 0..COUNT {
        fill(&rig, ordinal, BUFFER);
    }
    for _ in 0..4 * COUNT {
        rig.pass();
    }
    rig.handler.floods.store(COUNT, Ordering::Relaxed);
    fill(&rig, 0, BUFFER * 4);
    rig.pass();
    for ordinal in 1..COUNT {
        fill(&rig, ordinal, BUFFER * 4);
    }
    rig.handler.data.store(0, Ordering::Relaxed);
    *rig.handler.deadline.lock() = Some(rig.network.now());
    rig.network.advance(Duration::from_millis(20));
    rig.pass();
    let turns = rig.handler.late.lock().unwrap();
    assert!(turns <= 2 * COUNT, "{turns}");
}

/// G8: turns in a row end after milliseconds, however long a callback takes.
#[test]
fn a_connection_that_sent_much_waits_for_milliseconds_only() {
    let rig = rig(5);
    // The last one has had a message of 4 KiB.
    fill(&rig, 4, 4096);
    for _ in 0..8 {
        rig.pass();
    }
    rig.handler.floods.store(4, Ordering::Relaxed);
    for ordinal in 0..4 {
        fill(&rig, ordinal, BUFFER * 4);
    }
    *rig.handler.cost.lock() = Duration::from_micros(100);
    rig.pass();
    rig.handler.log.lock().clear();
    fill(&rig, 4, 100);
    while !rig.handler.log.lock().contains(&4) {
        rig.pass();
    }
    let turns = rig.handler.log.lock().len();
    assert!(turns < 80, "{turns}");
}

/// G7: a half-close that is made again and again is no news.
#[test]
fn a_half_close_in_each_turn_of_a_connection_that_finishes_does_not_spin() {
    let rig = rig(1);
    rig.handler.shuts.store(true, Ordering::Relaxed);
    let id = rig.handler.ordinals.id(0);
    assert!(rig.sockman.finish_connection(id, Duration::from_secs(60)));
    for _ in 0..10 {
        rig.pass();
    }
    rig.handler.completed.store(0, Ordering::Relaxed);
    for _ in 0..1000 {
        rig.pass();
    }
    let completed = rig.handler.completed.load(Ordering::Relaxed);
    assert!(completed < 10, "{completed} turns without news");
}

/// G8: rows that end by the time have about the same length.
#[test]
fn rows_that_end_by_the_time_are_fair() {
    let rig = rig(4);
    rig.handler.floods.store(4, Ordering::Relaxed);
    *rig.handler.cost.lock() = Duration::from_micros(100);
    for ordinal in 0..4 {
        fill(&rig, ordinal, BUFFER * 3);
    }
    for _ in 0..400 {
        rig.pass();
    }
    let log = rig.handler.log.lock();
    let counts: Vec<usize> = (0..4).map(|n| log.iter().filter(|o| **o == n).count()).collect();
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() < 24, "{counts:?}");
}
