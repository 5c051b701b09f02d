//! `RateLimiter` over the network in memory, whose clock the tests move: the rates, the fair shares,
//! and what happens when connections pause or close. The sweep is off, so that a lost wake-up causes
//! a wait without end.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan,
    helpers::{ConnectionTable, RateLimit, RateLimiter, SendQueueLimits},
    testing::{Network, Peer, SocketThreadByHand},
};
use sockman_test_support::tools::Random;

const MILLISECOND: Duration = Duration::from_millis(1);
const RATE: usize = 1_000_000;

fn limit(bytes_per_second: usize, burst: usize) -> RateLimit {
    RateLimit::new(bytes_per_second as u64, burst as u64).unwrap()
}

/// Counts what it receives, and sends what the test enqueues.
struct Handler {
    network: Network,
    receiving: RateLimiter,
    sending: RateLimiter,
    queues: ConnectionTable<SendQueue>,
    accepted: Mutex<Vec<ConnectionId>>,
    received: Mutex<HashMap<ConnectionId, usize>>,
    paused: Mutex<Vec<ConnectionId>>,
}

impl Handler {
    fn now(&self) -> Instant {
        self.network.now()
    }
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.accepted.lock().unwrap().push(id);
        let limits = SendQueueLimits::new(500_000, 1_000_000, usize::MAX).unwrap();
        self.queues.insert(id, SendQueue::new(id, limits));
        true
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        !self.paused.lock().unwrap().contains(&id) && self.receiving.allows(id, self.now())
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let has_queued = self.queues.find(id).is_some_and(|queue| queue.has_queued());
        has_queued && self.sending.allows(id, self.now())
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let available = self.sending.available(id, self.now());
        let queue = self.queues.find(id).unwrap();
        let drained = queue.drain_at_most(sockman, available).unwrap();
        self.sending.take(sockman, id, drained.sent, self.now());
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.receiving.take(sockman, id, data.len(), self.now());
        *self.received.lock().unwrap().entry(id).or_default() += data.len();
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        self.receiving.resume(sockman, self.now());
        self.sending.resume(sockman, self.now());
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.receiving.next().into_iter().chain(self.sending.next()).min()
    }
}

struct Rig {
    network: Network,
    handler: Arc<Handler>,
    sockman: SockMan,
    thread: SocketThreadByHand,
    at: Service,
    peers: Vec<Peer>,
}

impl Rig {
    fn new(receiving: RateLimiter, sending: RateLimiter, receive_buffer: usize) -> Rig {
        let network = Network::new();
        let handler = Arc::new(Handler {
            network: network.clone(),
            receiving,
            sending,
            queues: ConnectionTable::default(),
            accepted: Mutex::default(),
            received: Mutex::default(),
            paused: Mutex::default(),
        });
        let options = Options::default().sweep(None).receive_buffer(receive_buffer);
        let options = options.sock_factory(network.factory());
        let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
        let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        Rig { network, handler, sockman, thread, at, peers: Vec::new() }
    }

    fn receiving(limiter: RateLimiter) -> Rig {
        Rig::new(limiter, RateLimiter::new(), 8 * 1024)
    }

    fn sending(limiter: RateLimiter) -> Rig {
        Rig::new(RateLimiter::new(), limiter, 8 * 1024)
    }

    fn connect(&mut self, count: usize) -> Vec<ConnectionId> {
        for _ in 0..count {
            self.peers.push(self.network.connect(&self.at).unwrap());
            self.thread.run_until_idle().unwrap();
        }
        self.handler.accepted.lock().unwrap().clone()
    }

    /// Lets these peers send as much as they can for this time, and all peers receive.
    fn flood(&mut self, peers: std::ops::Range<usize>, time: Duration) -> usize {
        let until = self.network.elapsed() + time;
        let mut received = 0;
        while self.network.elapsed() < until {
            for peer in &self.peers[peers.clone()] {
                let _ = peer.send(&[7; 64 * 1024]);
            }
            self.thread.run_for(MILLISECOND).unwrap();
            received += self.peers.iter().map(|peer| peer.receive().0.len()).sum::<usize>();
        }
        received
    }

    fn received(&self, id: ConnectionId) -> usize {
        self.handler.received.lock().unwrap().get(&id).copied().unwrap_or(0)
    }

    fn total(&self) -> usize {
        self.handler.received.lock().unwrap().values().sum()
    }

    fn enqueue(&self, id: ConnectionId, bytes: usize) {
        self.handler.queues.find(id).unwrap().enqueue(&self.sockman, &vec![1; bytes]).unwrap();
    }
}

/// Checks that `value` is `expected`, but for `percent`.
fn assert_near(value: usize, expected: usize, percent: usize, what: &str) {
    let off = value.abs_diff(expected);
    assert!(off * 100 <= expected * percent, "{what}: {value} in place of {expected}");
}

/// The rate of a connection: after the burst, it is exact to 2 % in each second. Another connection
/// has a rate of its own.
#[test]
fn each_connection_is_received_at_its_rate() {
    let mut rig = Rig::receiving(RateLimiter::new().each(limit(RATE, 200_000)));
    let ids = rig.connect(3);
    for second in 0..4 {
        let before = ids.iter().map(|id| rig.received(*id)).collect::<Vec<_>>();
        rig.flood(0..2, Duration::from_secs(1));
        let burst = if second == 0 { 200_000 } else { 0 };
        for n in 0..2 {
            let what = format!("connection {n} in second {second}");
            assert_near(rig.received(ids[n]) - before[n], RATE + burst, 2, &what);
        }
    }
    // After a pause, the bucket is full again and not fuller.
    rig.thread.run_for(Duration::from_secs(100)).unwrap();
    let before = rig.received(ids[0]);
    rig.flood(0..1, Duration::from_secs(1));
    assert_near(rig.received(ids[0]) - before, RATE + 200_000, 2, "after a pause");
}

/// The common rate: it is exact to 2 % in each second, and the connections get equal shares.
#[test]
fn all_connections_share_the_common_rate() {
    let mut rig = Rig::receiving(RateLimiter::new().all(limit(RATE, 100_000)));
    let ids = rig.connect(5);
    rig.flood(0..5, Duration::from_secs(1));
    assert_near(rig.total(), RATE + 100_000, 2, "the first second");
    for flooding in [5, 1, 3] {
        // The data of the peers that have ceased comes first.
        rig.flood(0..flooding, Duration::from_secs(1));
        let before = ids.iter().map(|id| rig.received(*id)).collect::<Vec<_>>();
        rig.flood(0..flooding, Duration::from_secs(1));
        let shares = ids.iter().zip(before).map(|(id, before)| rig.received(*id) - before);
        let shares: Vec<usize> = shares.collect();
        assert_near(shares.iter().sum(), RATE, 2, "all");
        for share in &shares[..flooding] {
            assert_near(*share, RATE / flooding, 5, &format!("{shares:?}"));
        }
    }
}

/// Fair: beside peers that flood, a peer with a small message waits one round of the line.
#[test]
fn a_small_message_waits_one_round_of_the_line() {
    let mut rig = Rig::receiving(RateLimiter::new().all(limit(RATE, 100_000)));
    let ids = rig.connect(11);
    rig.flood(0..10, Duration::from_secs(2));
    for round in 1..=20 {
        rig.peers[10].send(b"ping").unwrap();
        // Ten receives of 8 KiB at this rate take 82 ms, and the quanta of the bucket a bit more.
        rig.flood(0..10, Duration::from_millis(110));
        assert_eq!(rig.received(ids[10]), 4 * round);
    }
}

/// The rates of sending: exact to 2 % in each second, never more than the bucket allows, for each
/// connection and for all.
#[test]
fn bytes_are_sent_at_the_rate() {
    for (limiter, rate_of_all) in [
        (RateLimiter::new().each(limit(RATE, 50_000)), 4 * RATE),
        (RateLimiter::new().all(limit(RATE, 50_000)), RATE),
        (RateLimiter::new().each(limit(RATE, 50_000)).all(limit(2 * RATE, 100_000)), 2 * RATE),
    ] {
        let what = format!("{limiter:?}");
        let mut rig = Rig::sending(limiter);
        let ids = rig.connect(4);
        ids.iter().for_each(|id| rig.enqueue(*id, 10 * RATE));
        let burst = rig.flood(0..0, MILLISECOND);
        assert!(burst <= 200_000 + rate_of_all / 500, "{what}: {burst}");
        for _ in 0..3 {
            let before: Vec<_> =
                ids.iter().map(|id| rig.handler.queues.find(*id).unwrap().queued()).collect();
            assert_near(rig.flood(0..0, Duration::from_secs(1)), rate_of_all, 2, &what);
            for (id, before) in ids.iter().zip(before) {
                let sent = before - rig.handler.queues.find(*id).unwrap().queued();
                assert_near(sent, rate_of_all / 4, 5, &what);
            }
        }
    }
}

/// Quiet: a limiter with which no connection waits wakes nothing, and has no deadline.
#[test]
fn an_idle_limiter_does_not_wake_the_loop() {
    let limiter = || RateLimiter::new().each(limit(RATE, 50_000)).all(limit(RATE, 50_000));
    let mut rig = Rig::new(limiter(), limiter(), 8 * 1024);
    let ids = rig.connect(3);
    ids.iter().for_each(|id| rig.enqueue(*id, 300_000));
    rig.flood(0..3, Duration::from_secs(1));
    // What waits is delivered, at the rate.
    let mut left: usize = 1;
    while left > 0 {
        left = rig.flood(0..0, Duration::from_secs(1));
    }
    rig.thread.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(rig.handler.next_deadline(), None);
    let passes = rig.thread.run_for(Duration::from_secs(3600)).unwrap();
    assert!(passes <= 3, "{passes} passes in an idle hour");
    // While connections wait, the loop runs for each quantum, not for each byte.
    ids.iter().for_each(|id| rig.enqueue(*id, 300_000));
    let passes = rig.thread.run_for(Duration::from_millis(500)).unwrap();
    assert!(passes < 400, "{passes} passes in half a second");
}

/// The common bucket: the library asks many hooks before the first receive. The bucket owes no more
/// than one receive all the same.
#[test]
fn many_hooks_that_are_asked_at_once_do_not_overdraw_the_bucket() {
    let mut rig = Rig::receiving(RateLimiter::new().all(limit(RATE, 450_000)));
    rig.connect(50);
    for peer in &rig.peers {
        assert_eq!(peer.send(&[7; 32 * 1024]).unwrap(), 32 * 1024);
    }
    rig.thread.run_until_idle().unwrap();
    let received = rig.total();
    // A rest below the bytes of a hundredth of a second waits for more.
    assert!((440_000..=450_000 + 8 * 1024).contains(&received), "{received}");
    rig.thread.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(rig.total(), 50 * 32 * 1024);
}

/// The line: a turn that takes few bytes lets the next one go on at once, and not only when the clock
/// moves.
#[test]
fn small_messages_within_the_burst_do_not_wait_for_the_clock() {
    let mut rig = Rig::new(RateLimiter::new().all(limit(RATE, 60_000)), RateLimiter::new(), 100);
    rig.connect(100);
    // Each message takes three receives, so the library asks many hooks before a receive.
    for peer in &rig.peers {
        assert_eq!(peer.send(&[7; 300]).unwrap(), 300);
    }
    rig.thread.run_until_idle().unwrap();
    assert_eq!(rig.total(), 30_000);
}

/// A connection that was woken and does not ask, because it is paused or closed, loses its place,
/// and the others go on.
#[test]
fn a_connection_that_does_not_ask_does_not_stop_the_others() {
    for closes in [false, true] {
        let mut rig = Rig::receiving(RateLimiter::new().all(limit(RATE, 20_000)));
        let ids = rig.connect(4);
        rig.flood(0..4, Duration::from_secs(1));
        // Three of the four stand in line, with data.
        for id in &ids[..3] {
            if closes {
                // Without a `remove`, which an embedder may forget.
                rig.sockman.close_connection(*id);
            } else {
                rig.handler.paused.lock().unwrap().push(*id);
            }
        }
        rig.flood(3..4, Duration::from_secs(1));
        let before = rig.received(ids[3]);
        rig.flood(3..4, Duration::from_secs(1));
        assert_near(rig.received(ids[3]) - before, RATE, 2, "the connection that is left");
        // A connection that resumes is served again.
        if !closes {
            rig.handler.paused.lock().unwrap().clear();
            let before = rig.received(ids[0]);
            rig.sockman.wake(ids[0]);
            rig.flood(3..4, Duration::from_secs(1));
            assert!(rig.received(ids[0]) > before);
        }
    }
}

/// Closing: `remove` forgets a connection wherever it waits, and its place goes to the next one.
#[test]
fn a_removed_connection_leaves_nothing_behind() {
    let both = RateLimiter::new().each(limit(RATE, 20_000)).all(limit(2 * RATE, 20_000));
    let mut rig = Rig::receiving(both);
    let ids = rig.connect(6);
    rig.flood(0..6, Duration::from_millis(500));
    for id in &ids {
        assert!(rig.handler.receiving.remove(*id));
        assert!(!rig.handler.receiving.remove(*id));
        rig.sockman.close_connection(*id);
    }
    rig.thread.run_until_idle().unwrap();
    assert_eq!(rig.handler.next_deadline(), None);
    // The next connection finds the common bucket as the others left it, and no one before it.
    rig.connect(1);
    let before = rig.total();
    rig.flood(6..7, Duration::from_secs(1));
    assert_near(rig.total() - before, RATE + 20_000, 2, "the next connection");
}

/// Misuse: bytes that were taken without permission delay the connection, and no wake-up is lost.
#[test]
fn bytes_taken_without_permission_are_owed() {
    let both = RateLimiter::new().each(limit(RATE, 20_000)).all(limit(RATE, 20_000));
    let mut rig = Rig::sending(both);
    let ids = rig.connect(3);
    ids.iter().for_each(|id| rig.enqueue(*id, 500_000));
    rig.flood(0..0, Duration::from_millis(100));
    // One of the three, whether it is in line or not, sends half a second's bytes by other means.
    for id in &ids {
        rig.handler.sending.take(&rig.sockman, *id, RATE / 6, rig.handler.now());
    }
    let sent = rig.flood(0..0, Duration::from_secs(1));
    assert!(sent <= RATE / 2 + 30_000, "{sent}");
    rig.flood(0..0, Duration::from_secs(2));
    assert!(ids.iter().all(|id| !rig.handler.queues.find(*id).unwrap().has_queued()));
    assert_eq!(rig.handler.next_deadline(), None);
}

/// The line, without a network: a connection that was called and finds the bucket empty again stays
/// at the front.
#[test]
fn a_connection_that_was_called_in_vain_stays_at_the_front() {
    let sockman = Rig::receiving(RateLimiter::new()).sockman;
    let limiter = RateLimiter::new().all(limit(1_000, 1_000));
    let [a, b, c] = [1, 2, 3].map(ConnectionId::from_u64);
    let start = Instant::now();
    assert_eq!(limiter.available(a, start), 1_000);
    limiter.take(&sockman, a, 1_000, start);
    assert!(!limiter.allows(b, start) && !limiter.allows(c, start));
    let later = start + 100 * MILLISECOND;
    limiter.resume(&sockman, later);
    // Bytes without permission empty the bucket again.
    limiter.take(&sockman, a, 200, later);
    assert!(!limiter.allows(b, later));
    let later = start + 1_000 * MILLISECOND;
    limiter.resume(&sockman, later);
    assert!(!limiter.allows(c, later));
    assert_eq!(limiter.available(b, later), 800);
    limiter.take(&sockman, b, 0, later);
    assert!(limiter.allows(c, later));
}

/// The line, without a network: a connection in line whose own bucket is empty leaves the line, and
/// is woken when its bucket can be used.
#[test]
fn a_connection_in_line_with_an_empty_bucket_waits_for_its_bucket() {
    let sockman = Rig::receiving(RateLimiter::new()).sockman;
    let limiter = RateLimiter::new().each(limit(100, 100)).all(limit(1_000, 1_000));
    let [a, b] = [1, 2].map(ConnectionId::from_u64);
    let start = Instant::now();
    assert_eq!(limiter.available(a, start), 100);
    limiter.take(&sockman, a, 1_000, start);
    assert!(!limiter.allows(b, start));
    limiter.take(&sockman, b, 150, start);
    let later = start + 200 * MILLISECOND;
    limiter.resume(&sockman, later);
    // Its bucket holds 30 bytes less than nothing, and is used again with one byte.
    assert!(!limiter.allows(b, later));
    assert_eq!(limiter.next(), Some(later + 310 * MILLISECOND));
    assert!(!limiter.allows(b, later + 309 * MILLISECOND));
    assert_eq!(limiter.available(b, later + 310 * MILLISECOND), 1);
}

/// The bound and the delivery: with random limits, peers and pauses, for many seeds, no bucket gives
/// more than it has, and all bytes arrive without a sweep.
#[test]
fn random_traffic_keeps_the_bound_and_arrives() {
    const BUFFER: usize = 4096;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let rates = [random.up_to(400_000) + 20_000, random.up_to(400_000) + 20_000];
        let bursts = [random.up_to(50_000), random.up_to(50_000)];
        let mut limiter = RateLimiter::new();
        let kind = random.up_to(3);
        if kind != 1 {
            limiter = limiter.each(limit(rates[0], bursts[0]));
        }
        if kind != 2 {
            limiter = limiter.all(limit(rates[1], bursts[1]));
        }
        let mut rig = Rig::new(limiter, RateLimiter::new(), BUFFER);
        let began = rig.network.elapsed();
        let ids = rig.connect(random.up_to(8));
        let mut sent = vec![0; ids.len()];
        for _ in 0..60 {
            let n = random.up_to(ids.len()) - 1;
            sent[n] += rig.peers[n].send(&vec![7; random.up_to(20_000)]).unwrap_or(0);
            rig.thread.run_for(Duration::from_micros(random.up_to(20_000) as u64)).unwrap();
            let nanoseconds = (rig.network.elapsed() - began).as_nanos();
            let bound = |n: usize| {
                bursts[n] + (nanoseconds * rates[n] as u128 / 1_000_000_000) as usize + BUFFER
            };
            if kind != 2 {
                assert!(rig.total() <= bound(1), "seed {seed}");
            }
            if kind != 1 {
                assert!(ids.iter().all(|id| rig.received(*id) <= bound(0)), "seed {seed}");
            }
        }
        rig.thread.run_for(Duration::from_secs(60)).unwrap();
        for (id, sent) in ids.iter().zip(sent) {
            assert_eq!(rig.received(*id), sent, "seed {seed}");
        }
        assert_eq!(rig.handler.next_deadline(), None, "seed {seed}");
    }
}

/// Without limits, nothing is limited and nothing is remembered. A limit of nothing is refused.
#[test]
fn a_limiter_without_limits_allows_everything() {
    let limiter = RateLimiter::new();
    let now = Instant::now();
    assert_eq!(limiter.available(ConnectionId::from_u64(1), now), usize::MAX);
    assert_eq!(limiter.next(), None);
    assert!(!limiter.remove(ConnectionId::from_u64(1)));
    for (rate, burst) in [(0, 1), (1, 0)] {
        let error = RateLimit::new(rate, burst).unwrap_err();
        assert_eq!(error.option(), "RateLimit::new");
    }
}
