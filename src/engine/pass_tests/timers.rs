//! Tests that data which has arrived is delivered before a timer or the sweep calls its connection
//! late. The clock is that of the network, and a callback that takes long moves it.

use std::{
    io,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Ordinals;
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    event_handler::{EventHandler, NextRecv},
    helpers::Deadlines,
    options::{Options, SELECT_TIMEOUT},
    sockman::SockMan,
    sys::errors,
    testing::{Call, Network, Peer},
};

const IDLE: Duration = Duration::from_millis(500);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(1);

/// What a callback does, with the ordinal of its connection.
type Reaction = Box<dyn Fn(&SockMan, usize) + Send>;

/// Closes idle connections: by timers, or in `event_io_loop_completed_for_one`.
#[derive(Default)]
struct Idle {
    ordinals: Ordinals,
    records: Mutex<Vec<String>>,
    network: Mutex<Option<Network>>,
    /// The timers, unless `is_coarse`.
    timers: Deadlines<ConnectionId>,
    /// When each connection last had data, in the order of the ordinals.
    active: Mutex<Vec<Duration>>,
    /// Whether idle connections are found in `event_io_loop_completed_for_one`.
    is_coarse: bool,
    /// Whether `should_try_to_recv` returns `false`.
    pauses_reads: Mutex<bool>,
    /// Whether the handler compares times of its own instead of using `timers`.
    has_own_times: bool,
    /// Whether the timers are never taken.
    forgets_timers: bool,
    /// Whether `should_try_to_send` returns `true`.
    wants_to_send: bool,
    /// Whether `next_deadline` returns `None` although `timers` has some.
    hides_deadlines: bool,
    on_data: Mutex<Option<Reaction>>,
    on_completed_for_one: Mutex<Option<Reaction>>,
    on_closed: Mutex<Option<Reaction>>,
    /// The ordinal of a connection that the next `event_io_loop_completed_for_all` closes.
    closes: Mutex<Option<usize>>,
}

impl Idle {
    fn network(&self) -> Network {
        self.network.lock().clone().unwrap()
    }

    fn is_active(&self, sockman: &SockMan, id: ConnectionId) {
        let ordinal = self.ordinals.of(id);
        let mut active = self.active.lock();
        let length = active.len().max(ordinal + 1);
        active.resize(length, Duration::ZERO);
        active[ordinal] = self.network().elapsed();
        if !self.is_coarse && !self.has_own_times {
            self.timers.set(sockman, id, self.network().now() + IDLE);
        }
    }

    fn record(&self, id: ConnectionId, what: &str) {
        self.records.lock().push(format!("{} {what}", self.ordinals.of(id)));
    }
}

impl EventHandler for Idle {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.is_active(sockman, id);
        true
    }
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        self.wants_to_send
    }
    fn should_try_to_recv(&self, _: ConnectionId) -> bool {
        !*self.pauses_reads.lock()
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.record(id, &format!("data {}", data.len()));
        if let Some(react) = &*self.on_data.lock() {
            react(sockman, self.ordinals.of(id));
        }
        self.is_active(sockman, id);
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(id, "eof");
        self.timers.clear(id);
        sockman.close_connection(id);
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        if let Some(react) = &*self.on_completed_for_one.lock() {
            react(sockman, self.ordinals.of(id));
        }
        let active = self.active.lock()[self.ordinals.of(id)];
        if self.is_coarse && self.network().elapsed() - active >= IDLE {
            self.record(id, "idle");
            sockman.close_connection(id);
        }
    }
    fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
        if let Some(react) = &*self.on_closed.lock() {
            react(sockman, self.ordinals.of(id));
        }
    }
    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        if let Some(ordinal) = self.closes.lock().take() {
            sockman.close_connection(self.ordinals.id(ordinal));
        }
        if self.has_own_times && !self.active.lock().is_empty() {
            let now = self.network().elapsed();
            for (ordinal, active) in self.active.lock().iter_mut().enumerate() {
                if *active + IDLE <= now {
                    *active = Duration::MAX / 2;
                    self.record(self.ordinals.id(ordinal), "idle");
                }
            }
        }
        if self.forgets_timers || self.timers.is_empty() {
            return;
        }
        let now = self.network().now();
        while let Some(id) = self.timers.take_due(now) {
            self.record(id, "idle");
            sockman.close_connection(id);
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        if self.hides_deadlines {
            return None;
        }
        if self.has_own_times {
            let at = *self.active.lock().iter().min()? + IDLE;
            return self.network().now().checked_add(at - self.network().elapsed().min(at));
        }
        self.timers.next()
    }
}

type Rig = super::Rig<Idle>;

impl Rig {
    /// Accepts `count` connections and runs their first turns.
    fn with_peers(handler: Idle, options: Options, count: usize) -> (Rig, Vec<Peer>) {
        let rig = Rig::with_handler(handler, options);
        *rig.handler.network.lock() = Some(rig.network.clone());
        let peers = (0..count).map(|_| rig.connect_peer()).collect();
        rig.pass();
        rig.pass();
        (rig, peers)
    }

    fn on_data(&self, reaction: impl Fn(&SockMan, usize) + Send + 'static) {
        *self.handler.on_data.lock() = Some(Box::new(reaction));
    }

    /// Makes the callback of data for `slow` take a second. After 0.2 s of it, each peer in `early`
    /// sends a byte.
    fn make_slow(&self, slow: usize, early: Vec<Peer>) {
        let (network, early) = (self.network.clone(), Mutex::new(early));
        self.on_data(move |_, ordinal| {
            if ordinal == slow {
                network.advance(SHORT);
                early.lock().iter().for_each(|peer| drop(peer.send(&[1])));
                network.advance(LONG - SHORT);
            }
        });
    }

    fn records(&self) -> Vec<String> {
        std::mem::take(&mut self.handler.records.lock())
    }

    fn polls(&self) -> u64 {
        self.network.calls(Call::Poll)
    }
}

fn coarse() -> Idle {
    Idle { is_coarse: true, ..Idle::default() }
}

fn without_sweep() -> Options {
    Options::default().sweep(None)
}

/// G15: a byte that arrived while the callback of another connection took long is delivered before
/// the idle timer ends.
#[test]
fn a_byte_that_came_during_a_long_callback_is_delivered_before_the_idle_timer_ends() {
    for (has_own_times, hides_deadlines) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let handler = Idle { has_own_times, hides_deadlines, ..Idle::default() };
        let (rig, mut peers) = Rig::with_peers(handler, Options::default(), 2);
        let early = peers.pop().unwrap();
        rig.make_slow(0, vec![early]);
        peers[0].send(&[1]).unwrap();
        for _ in 0..3 {
            rig.pass();
        }
        let what = format!("own times: {has_own_times}, no deadline: {hides_deadlines}");
        assert_eq!(rig.records(), ["0 data 1", "1 data 1"], "{what}");
    }
}

/// G15: a timer that a callback of this pass set counts too, although the loop was not given its
/// deadline yet.
#[test]
fn a_timer_that_was_set_in_the_pass_of_the_long_callback_waits_for_the_data_too() {
    let (rig, mut peers) = Rig::with_peers(Idle::default(), without_sweep(), 2);
    let second = peers.pop().unwrap();
    // Both connections have data in one pass, the second one first.
    second.send(&[1]).unwrap();
    peers[0].send(&[1]).unwrap();
    rig.make_slow(0, vec![second]);
    for _ in 0..3 {
        rig.pass();
    }
    let records = rig.records();
    assert!(records.contains(&"1 data 1".to_owned()) && !records.contains(&"1 idle".to_owned()));
    assert_eq!(records.iter().filter(|record| *record == "1 data 1").count(), 2, "{records:?}");
}

/// G15: data that came while the process was stopped is delivered before the timers run, although
/// the clock has passed all deadlines.
#[test]
fn data_that_came_while_the_process_was_stopped_is_delivered_before_the_timers_run() {
    let (rig, peers) = Rig::with_peers(Idle::default(), without_sweep(), 3);
    rig.network.advance(SHORT);
    peers[0].send(&[1; 3]).unwrap();
    peers[1].shutdown_write();
    rig.network.advance(LONG);
    rig.pass();
    let records = rig.records();
    assert_eq!(records, ["0 data 3", "1 eof", "2 idle"], "only the silent connection is idle");
}

/// G15: a signal that ends the poll does not hide what has arrived meanwhile, from the timers or
/// from the sweep.
#[test]
fn a_poll_that_a_signal_ended_does_not_hide_what_has_arrived() {
    for is_coarse in [false, true] {
        let handler = Idle { is_coarse, ..Idle::default() };
        let (rig, peers) = Rig::with_peers(handler, Options::default(), 2);
        rig.network.advance(SHORT);
        peers[0].send(&[1]).unwrap();
        rig.network.advance(LONG);
        rig.network.fail_next(Call::Poll, errors::EINTR);
        rig.pass();
        rig.pass();
        let mut records = rig.records();
        records.sort();
        assert_eq!(records, ["0 data 1", "1 idle"], "coarse: {is_coarse}");
    }
}

/// G15: turns that an interrupt or a panic cut short come before the timers of the next start.
#[test]
fn turns_that_were_cut_short_come_before_the_timers_of_the_next_start() {
    for has_own_times in [false, true] {
        let handler = Idle { has_own_times, ..Idle::default() };
        let (rig, peers) = Rig::with_peers(handler, without_sweep(), 2);
        rig.network.advance(IDLE);
        rig.on_data(|sockman, _| sockman.interrupt());
        peers.iter().for_each(|peer| drop(peer.send(&[1])));
        rig.pass();
        assert_eq!(rig.records(), ["0 data 1"], "the interrupt cut the round short");
        rig.sockman.reset_interrupt();
        rig.on_data(|_, _| {});
        rig.pass();
        assert_eq!(rig.records(), ["1 data 1"], "own times: {has_own_times}");
    }
}

/// G8, G15: one round comes before the timers, with one buffer for each connection. Data that never
/// ends does not keep the timers from running: a timer waits for one turn of each connection.
#[test]
fn a_flood_delays_a_timer_by_one_turn_of_each_connection() {
    let options = without_sweep().receive_buffer(10);
    let (rig, peers) = Rig::with_peers(Idle::default(), options, 3);
    rig.network.advance(IDLE);
    // The first two peers flood, and the third peer is silent. Each callback takes as long as the
    // idle time-out.
    peers[..2].iter().for_each(|peer| drop(peer.send(&[1; 1000])));
    let network = rig.network.clone();
    rig.on_data(move |_, _| network.advance(IDLE));
    rig.pass();
    let round = ["0 data 10", "1 data 10"];
    // After the timer, the pass gives a slice of turns, here one turn.
    assert_eq!(rig.records(), [&round[..], &["2 idle", "0 data 10"]].concat());
}

/// G15: the first of several buffers is a sign of life. The connection keeps the rest.
#[test]
fn with_several_buffers_of_waiting_data_the_first_one_counts() {
    let options = without_sweep().receive_buffer(10);
    let (rig, peers) = Rig::with_peers(Idle::default(), options, 1);
    rig.network.advance(SHORT);
    peers[0].send(&[1; 25]).unwrap();
    rig.network.advance(LONG);
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.records(), ["0 data 10", "0 data 10", "0 data 5"]);
}

/// G6, G15: data behind a pause of the embedder's own stays where it is, and does not stop a timer.
#[test]
fn data_behind_the_embedders_own_pause_does_not_stop_a_timer() {
    let (rig, peers) = Rig::with_peers(Idle::default(), without_sweep(), 1);
    *rig.handler.pauses_reads.lock() = true;
    peers[0].send(&[1]).unwrap();
    rig.network.advance(LONG);
    rig.pass();
    assert_eq!(rig.records(), ["0 idle"]);
    assert_eq!(rig.network.calls(Call::Recv), 0);
}

/// G15: a client that waits to be accepted is reported before the timers run, as for a program that
/// ends when no client comes.
#[test]
fn a_client_that_waits_is_accepted_before_the_timers_run() {
    let (rig, _peers) = Rig::with_peers(Idle::default(), without_sweep(), 1);
    let _client = rig.connect_peer();
    rig.network.advance(LONG);
    rig.pass();
    assert_eq!(rig.handler.active.lock().len(), 2);
    assert_eq!(rig.records(), ["0 idle"]);
}

/// G7: only a deadline that has passed since the last poll causes a further poll. A deadline at
/// which the poll itself ended causes none, and a deadline that the embedder forgets causes none.
#[test]
fn a_pass_makes_one_poll_unless_a_deadline_has_passed_since_the_last_one() {
    for forgets_timers in [false, true] {
        let handler = Idle { forgets_timers, ..Idle::default() };
        let (rig, _peers) = Rig::with_peers(handler, without_sweep(), 1);
        let polls_of_a_pass = || {
            let before = rig.polls();
            rig.pass();
            rig.polls() - before
        };
        assert_eq!(polls_of_a_pass(), 1, "the deadline is in the future");
        rig.network.hold_clock(Some(IDLE));
        assert_eq!(polls_of_a_pass(), 1, "the poll waits until the deadline");
        assert_eq!(rig.handler.network().elapsed(), IDLE);
        assert_eq!(polls_of_a_pass(), 1, "the poll has met the deadline");
        assert_eq!(rig.records().is_empty(), forgets_timers);
        assert_eq!(polls_of_a_pass(), 1, "no timer is left, or the deadline is forgotten");
    }
    let (rig, _peers) = Rig::with_peers(Idle::default(), without_sweep(), 1);
    rig.network.advance(IDLE);
    let before = rig.polls();
    rig.pass();
    assert_eq!((rig.polls() - before, rig.records().len()), (2, 1), "the clock has jumped");
}

/// G15: in `event_io_loop_completed_for_one`, a connection is late only if nothing waits for it,
/// also if a callback before it in the same pass took long.
#[test]
fn the_end_of_a_turn_does_not_call_a_connection_late_whose_data_waits() {
    // Both directions have work, so the sweep gives connection 1 a turn behind that of connection 0.
    let handler = Idle { wants_to_send: true, ..coarse() };
    let (rig, mut peers) = Rig::with_peers(handler, Options::default(), 2);
    let early = peers.pop().unwrap();
    rig.make_slow(0, vec![early]);
    peers[0].send(&[1]).unwrap();
    rig.network.advance(Duration::from_millis(50));
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 data 1", "1 data 1"]);
}

/// G15: the sweep does not call a connection late whose data came while the sweep's own callbacks
/// took long.
#[test]
fn the_sweep_does_not_call_a_connection_late_whose_data_waits() {
    let (rig, mut peers) = Rig::with_peers(coarse(), Options::default(), 3);
    let (network, late) = (rig.network.clone(), peers.remove(1));
    let late = Mutex::new(Some(late));
    *rig.handler.on_completed_for_one.lock() = Some(Box::new(move |_, ordinal| {
        if let Some(peer) = late.lock().as_ref().filter(|_| ordinal == 0) {
            network.advance(SHORT);
            let _ = peer.send(&[1]);
            network.advance(LONG);
        }
    }));
    rig.network.advance(Duration::from_millis(50));
    rig.pass();
    let records = rig.records();
    assert!(records.contains(&"1 data 1".to_owned()), "{records:?}");
    assert!(!records.contains(&"1 idle".to_owned()), "{records:?}");
    assert!(records.contains(&"2 idle".to_owned()), "{records:?}");
}

/// G15: a timer ends no later than the poll whose events all had their turns. The rest of a round
/// waits, so its timers do, even if the handler has no `next_deadline`.
#[test]
fn a_connection_whose_turn_waits_for_the_next_pass_is_not_called_late() {
    let handler = Idle { hides_deadlines: true, ..Idle::default() };
    let (rig, peers) = Rig::with_peers(handler, without_sweep(), 3);
    rig.network.advance(LONG);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    let network = rig.network.clone();
    rig.on_data(move |_, _| network.advance(Duration::from_millis(2)));
    (0..3).for_each(|_| rig.pass());
    assert_eq!(rig.records(), ["0 data 1", "1 data 1", "2 data 1"]);
}

/// G15: a round is under way when a timer is late. The connections that became ready meanwhile have
/// their turns before the timer ends, as the rest of the round has.
#[test]
fn connections_that_become_ready_beside_a_round_are_not_called_late() {
    let (rig, peers) = Rig::with_peers(Idle::default(), without_sweep(), 4);
    let network = rig.network.clone();
    rig.on_data(move |_, _| network.advance(Duration::from_millis(2)));
    peers[..2].iter().for_each(|peer| drop(peer.send(&[1])));
    rig.pass();
    assert_eq!(rig.records(), ["0 data 1"], "the rest of the round waits");
    peers[2..].iter().for_each(|peer| drop(peer.send(&[1])));
    rig.network.advance(IDLE);
    rig.pass();
    let mut records = rig.records();
    records.truncate(3);
    records.sort();
    assert_eq!(records, ["1 data 1", "2 data 1", "3 data 1"]);
}

/// G15: the same is true for connections that become ready again after their turn in the round.
#[test]
fn connections_that_become_ready_again_beside_a_round_are_not_called_late() {
    let (rig, peers) = Rig::with_peers(Idle::default(), without_sweep(), 3);
    let network = rig.network.clone();
    rig.on_data(move |_, _| network.advance(Duration::from_millis(2)));
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    (0..2).for_each(|_| rig.pass());
    assert_eq!(rig.records(), ["0 data 1", "1 data 1"], "the rest of the round waits");
    peers[..2].iter().for_each(|peer| drop(peer.send(&[1])));
    rig.network.advance(IDLE);
    rig.pass();
    let mut records = rig.records();
    records.truncate(3);
    records.sort();
    assert_eq!(records, ["0 data 1", "1 data 1", "2 data 1"]);
}

/// G15: a poll reports 1,024 sockets at most. The data of all others, too, comes before the timers.
#[test]
fn the_data_of_more_connections_than_a_poll_reports_comes_before_the_timers() {
    const PEERS: usize = 1500;

    let (rig, peers) = Rig::with_peers(Idle::default(), without_sweep().accept_batch(PEERS), PEERS);
    rig.network.advance(SHORT);
    peers.iter().for_each(|peer| drop(peer.send(&[1])));
    rig.network.advance(LONG);
    rig.pass();
    let records = rig.records();
    assert!(records.iter().all(|record| record.ends_with("data 1")), "{records:?}");
    assert_eq!(records.len(), PEERS);
}

/// G11, G15: a receive that lacked buffers is repeated before a timer ends, although its pause is
/// not over.
#[test]
fn a_receive_that_lacked_buffers_is_repeated_before_a_timer_ends() {
    let (rig, peers) = Rig::with_peers(Idle::default(), without_sweep(), 1);
    let little = Duration::from_millis(5);
    rig.network.advance(IDLE - little);
    rig.network.fail_next(Call::Recv, errors::ENOBUFS);
    peers[0].send(&[1]).unwrap();
    rig.pass();
    assert!(rig.records().is_empty(), "the receive lacked buffers");
    rig.network.advance(little);
    rig.pass();
    assert_eq!(rig.records(), ["0 data 1"]);
}

/// G15: the report of an end comes between the poll and the turns, and takes long. A byte that arrives
/// meanwhile is delivered before the sweep, or the turn of a wake, calls its connection idle.
#[test]
fn a_byte_that_came_during_a_long_report_of_an_end_is_delivered_before_a_connection_is_called_late()
{
    for sweeps in [true, false] {
        let options = if sweeps { Options::default() } else { without_sweep() };
        let (rig, peers) = Rig::with_peers(coarse(), options, 3);
        let network = rig.network.clone();
        *rig.handler.on_closed.lock() = Some(Box::new(move |_, ordinal| {
            if ordinal == 2 {
                network.advance(SHORT);
                peers[0].send(&[1]).unwrap();
                network.advance(LONG);
            }
        }));
        *rig.handler.closes.lock() = Some(2);
        if sweeps {
            rig.network.advance(SELECT_TIMEOUT);
        } else {
            rig.sockman.wake(rig.handler.ordinals.id(0));
        }
        rig.pass();
        let mut records = rig.records();
        records.retain(|record| record.starts_with('0'));
        assert_eq!(records, ["0 data 1"], "sweep: {sweeps}");
    }
}
