//! `SocketThreadByHand`: when a run ends.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, EventHandler, Options, Service, SockMan,
    testing::{Network, SocketThreadByHand},
};
use sockman_test_support::without_sweep;

const PERIOD: Duration = Duration::from_secs(30);

/// A handler with a timer. At its end, the handler sets the next one.
struct Timer {
    network: Network,
    period: Duration,
    next: Mutex<Instant>,
    ends: AtomicUsize,
}

impl EventHandler for Timer {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        let mut next = self.next.lock().unwrap();
        if *next <= self.network.now() {
            self.ends.fetch_add(1, SeqCst);
            *next += self.period;
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        Some(*self.next.lock().unwrap())
    }
}

fn start(options: Options, period: Duration) -> (Network, Arc<Timer>, SocketThreadByHand) {
    let network = Network::new();
    let next = Mutex::new(network.now() + PERIOD);
    let timer = Timer { network: network.clone(), period, next, ends: AtomicUsize::new(0) };
    let handler = Arc::new(timer);
    let options = options.sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    (network, handler, thread)
}

/// A deadline of the handler at exactly the end of a run is a part of the run, with the sweep and
/// without. One that comes a moment later is not.
#[test]
fn a_run_serves_a_deadline_at_its_very_end() {
    const MOMENT: Duration = Duration::from_nanos(1);
    for options in [without_sweep(), Options::default()] {
        let (network, timer, mut thread) = start(options, PERIOD);
        thread.run_for(PERIOD - MOMENT).unwrap();
        assert_eq!(timer.ends.load(SeqCst), 0);
        thread.run_for(MOMENT).unwrap();
        assert_eq!(timer.ends.load(SeqCst), 1);
        thread.run_for(3 * PERIOD).unwrap();
        assert_eq!(timer.ends.load(SeqCst), 4);
        assert_eq!(network.elapsed(), 4 * PERIOD, "the run ends at the end of its time");
    }
}

/// A deadline that passed while no pass ran is served by a run that lets no time pass.
#[test]
fn a_run_without_time_serves_a_deadline_that_has_passed() {
    let (network, timer, mut thread) = start(without_sweep(), PERIOD);
    network.advance(PERIOD);
    thread.run_until_idle().unwrap();
    assert_eq!(timer.ends.load(SeqCst), 1);
    assert_eq!(network.elapsed(), PERIOD);
}

/// G7: a handler whose deadline stays in the past, or moves on within the past, does not keep a run
/// from its end.
#[test]
fn a_deadline_that_stays_in_the_past_does_not_keep_a_run_from_its_end() {
    for period in [Duration::ZERO, Duration::from_nanos(1)] {
        let (network, timer, mut thread) = start(without_sweep(), period);
        network.advance(2 * PERIOD);
        for _ in 0..3 {
            let passes = thread.run_until_idle().unwrap();
            assert!(passes < 5, "{passes} passes");
        }
        assert!(timer.ends.load(SeqCst) > 0);
        thread.run_for(PERIOD).unwrap();
    }
}
