//! Models of the races: the whole `SockMan`, its thread and its locks, under a scheduler that tries
//! out interleavings. The interleavings are sequentially consistent. The tests over loopback cover
//! the additional interleavings of weakly ordered memory.
//!
//! The sockets are those of `testing::Network`. The polls of this network wait under the scheduler
//! until an event or a wake. Time stands still, so that no time-out hides a lost wake-up. The
//! scheduler reports a lost wake-up as a deadlock.
//!
//! Command: `RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/models cargo test --release -p
//! simulator --test models`. `MODEL_ITERATIONS` sets the number of interleavings (default 3000)
//! that each of the two schedulers, random and PCT, tries for each model.
#![cfg(shuttle)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use shuttle::{
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, Interrupt, NewConnection, NextRecv, Options,
    SendQueue, Service, SockMan,
    address::Destination,
    error::{ConnectError, IntoStreamError, RunError, SendError, StartError},
    helpers::SendQueueLimits,
    stateful::{Handler as StateHandler, Link, Remote},
    testing::{Ended, Network, Peer},
};

/// The latency of a connect, which succeeds only when the model moves the clock.
const LATENCY: Duration = Duration::from_millis(1);

/// Runs a model under both schedulers.
fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    let iterations = std::env::var("MODEL_ITERATIONS").ok().and_then(|text| text.parse().ok());
    let iterations = iterations.unwrap_or(3000);
    shuttle::check_random(model.clone(), iterations);
    shuttle::check_pct(model, iterations, 3);
}

/// A count of events that a thread can wait for.
#[derive(Default)]
struct Signal {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Signal {
    fn raise(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    fn wait_for(&self, at_least: usize) {
        let mut count = self.count.lock().unwrap();
        while *count < at_least {
            count = self.changed.wait(count).unwrap();
        }
    }
}

/// The embedder of all models. Each model uses only some of the fields.
#[derive(Default)]
struct Handler {
    wants: AtomicBool,
    ready: Signal,
    queue: Mutex<Option<Arc<SendQueue>>>,
    own_queue: Mutex<VecDeque<u8>>,
    data: Signal,
    eofs: AtomicUsize,
    errors: Signal,
    /// Set when a close on another thread has returned.
    is_closed: AtomicBool,
    /// The number of callbacks that began after the close had returned.
    after_close: AtomicUsize,
    /// Set before the model calls `notify`.
    is_notified: AtomicBool,
    /// Each pass that begins after `is_notified` is set raises this signal.
    notified_pass: Signal,
    accepted: Signal,
    /// Each report of an end raises this signal.
    ends: Signal,
    has_ended: AtomicBool,
    outcomes: AtomicUsize,
    outcome_after_close: AtomicUsize,
    /// Every byte that was delivered.
    delivered: Mutex<Vec<u8>>,
    /// Set when the stream of the connection has left.
    has_left: AtomicBool,
}

impl Handler {
    /// Checks a callback or hook that names the connection.
    fn is_named(&self) {
        assert!(!self.has_left.load(SeqCst), "no callback names a connection that has left");
    }

    /// Counts a callback that begins after the close.
    fn count_callback(&self) {
        self.is_named();
        assert!(!self.has_ended.load(SeqCst), "no callback follows the report of the end");
        if self.is_closed.load(SeqCst) {
            self.after_close.fetch_add(1, SeqCst);
        }
    }
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.accepted.raise();
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.count_callback();
        let queue = self.queue.lock().unwrap().clone();
        if let Some(queue) = queue {
            queue.drain(sockman).unwrap();
        }
        let mut own = self.own_queue.lock().unwrap();
        if !own.is_empty() {
            let sent = sockman.send_bytes(id, own.make_contiguous()).unwrap();
            own.drain(..sent);
        }
        self.wants.store(false, SeqCst);
        self.ready.raise();
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, data: &[u8]) {
        self.count_callback();
        self.delivered.lock().unwrap().extend_from_slice(data);
        self.is_named();
        self.data.raise();
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {
        self.count_callback();
        self.eofs.fetch_add(1, SeqCst);
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {
        self.count_callback();
        self.errors.raise();
    }
    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        _: Result<&Service, ConnectError>,
    ) {
        self.outcomes.fetch_add(1, SeqCst);
        if self.is_closed.load(SeqCst) {
            self.outcome_after_close.fetch_add(1, SeqCst);
        }
    }
    fn should_try_to_recv(&self, _: ConnectionId) -> bool {
        self.is_named();
        true
    }
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        self.is_named();
        let queued = self.queue.lock().unwrap().as_ref().is_some_and(|queue| queue.has_queued());
        queued || self.wants.load(SeqCst) || !self.own_queue.lock().unwrap().is_empty()
    }
    fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
        assert!(!sockman.close_connection(id), "the id is gone");
        assert!(!self.has_ended.swap(true, SeqCst), "the end is reported once");
        self.ends.raise();
    }
    fn event_io_loop_completed_for_one(&self, _: &SockMan, _: ConnectionId) {
        self.count_callback();
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        if self.is_notified.load(SeqCst) {
            self.notified_pass.raise();
        }
    }
}

/// Creates a `SockMan` without a sweep, on a network in memory.
fn rig() -> (Network, Arc<Handler>, SockMan) {
    let (network, handler) = (Network::new(), Arc::new(Handler::default()));
    network.set_blocking(true);
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    (network, handler, sockman)
}

/// Adds a connection that is not activated yet. The peer has room for `window` bytes.
fn new_connection(network: &Network, sockman: &SockMan, window: usize) -> (NewConnection, Peer) {
    let at = "10.0.0.1:1".parse().unwrap();
    network.set_window(window);
    let (sock, peer) = network.pair(&at, &at).unwrap();
    (sockman.add_existing_connection(sock, &at, &at).unwrap(), peer)
}

/// Adds and activates a connection. The peer has room for `window` bytes.
fn connection(network: &Network, sockman: &SockMan, window: usize) -> (ConnectionId, Peer) {
    let (new, peer) = new_connection(network, sockman, window);
    (new.activate(), peer)
}

/// G9: a wake makes the loop ask the hooks, even if the socket thread is about to sleep.
#[test]
fn a_wake_is_not_lost_while_the_thread_goes_to_sleep() {
    check(|| {
        let (network, handler, sockman) = rig();
        let threads = sockman.start_sockets_threads().unwrap();
        let (id, _peer) = connection(&network, &sockman, 1);
        for round in 1..=2 {
            handler.wants.store(true, SeqCst);
            sockman.wake(id);
            handler.ready.wait_for(round);
        }
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G9: a pass follows a notify, even if the socket thread is about to sleep.
#[test]
fn a_notify_is_not_lost_while_the_thread_goes_to_sleep() {
    check(|| {
        let (_, handler, sockman) = rig();
        let threads = sockman.start_sockets_threads().unwrap();
        handler.is_notified.store(true, SeqCst);
        sockman.notify();
        handler.notified_pass.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G5, G6: pushes on other threads race with the drain, and all bytes are sent. Core's HTTP server
/// once hung in such a race.
#[test]
fn pushes_that_race_with_drains_lose_no_bytes() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 2);
        let queue = Arc::new(SendQueue::new(id, SendQueueLimits::default()));
        *handler.queue.lock().unwrap() = Some(Arc::clone(&queue));
        let threads = sockman.start_sockets_threads().unwrap();
        let pushers: Vec<_> = [b"abc", b"xyz"]
            .into_iter()
            .map(|data| {
                let (queue, sockman) = (Arc::clone(&queue), sockman.clone());
                thread::spawn(move || queue.push(&sockman, data).unwrap())
            })
            .collect();
        peer.set_window(5);
        peer.set_window(8);
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
        while peer.peek().unwrap().len() < 6 {
            thread::yield_now();
            handler.ready.wait_for(1);
        }
        let (sent, _) = peer.receive();
        assert!(
            sent == b"abcxyz" || sent == b"xyzabc",
            "the two pushes are not sent whole and in turn: {sent:?}"
        );
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G5, G6: enqueues on other threads race with the drain and with a push, and all bytes are sent.
/// The enqueue that finds the queue empty is the only one that wakes.
#[test]
fn enqueues_that_race_with_drains_lose_no_bytes() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        let queue = Arc::new(SendQueue::new(id, SendQueueLimits::default()));
        *handler.queue.lock().unwrap() = Some(Arc::clone(&queue));
        let threads = sockman.start_sockets_threads().unwrap();
        let enqueuers: Vec<_> = [b"abc", b"xyz"]
            .into_iter()
            .map(|data| {
                let (queue, sockman) = (Arc::clone(&queue), sockman.clone());
                thread::spawn(move || queue.enqueue(&sockman, data).unwrap())
            })
            .collect();
        queue.push(&sockman, b"123").unwrap();
        enqueuers.into_iter().for_each(|enqueuer| enqueuer.join().unwrap());
        let mut drains = 0;
        while peer.peek().unwrap().len() < 9 {
            drains += 1;
            handler.ready.wait_for(drains);
        }
        let (sent, _) = peer.receive();
        let mut messages: Vec<_> = sent.chunks(3).collect();
        messages.sort_unstable();
        assert_eq!(messages, [b"123", b"abc", b"xyz"], "a message is not sent whole: {sent:?}");
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G6: an embedder that has its own queue, and wakes after it has queued, gets all bytes sent.
#[test]
fn an_embedders_queue_that_races_with_its_drain_is_sent_whole() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 1);
        let threads = sockman.start_sockets_threads().unwrap();
        let sender = {
            let (handler, sockman) = (Arc::clone(&handler), sockman.clone());
            thread::spawn(move || {
                let data = b"abc";
                let sent = sockman.send_bytes(id, data).unwrap();
                handler.own_queue.lock().unwrap().extend(&data[sent..]);
                sockman.wake(id);
            })
        };
        peer.set_window(3);
        sender.join().unwrap();
        while peer.peek().unwrap().len() < 3 {
            thread::yield_now();
            handler.ready.wait_for(1);
        }
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G5: a send on another thread takes a reset from the socket, so that the receive after it returns
/// a plain end of stream. The reset is reported, and no end.
#[test]
fn a_reset_that_a_racing_send_takes_is_reported_and_no_end() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        let threads = sockman.start_sockets_threads().unwrap();
        let sender = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.send_bytes(id, b"data"))
        };
        peer.reset();
        match sender.join().unwrap() {
            Ok(4) | Err(SendError::Socket { .. }) => {}
            other => panic!("{other:?}"),
        }
        handler.errors.wait_for(1);
        assert_eq!(handler.eofs.load(SeqCst), 0, "the peer has sent no end");
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G4: exactly one close returns true. No byte is sent after the close, and no descriptor is left.
#[test]
fn one_of_two_closes_that_race_with_a_send_succeeds() {
    check(|| {
        let (network, _, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        let threads = sockman.start_sockets_threads().unwrap();
        let closers: Vec<_> = (0..2)
            .map(|_| {
                let sockman = sockman.clone();
                thread::spawn(move || {
                    let closed = sockman.close_connection(id);
                    let sent = sockman.send_bytes(id, b"late");
                    assert!(matches!(sent, Err(SendError::UnknownConnection(_))), "{sent:?}");
                    closed
                })
            })
            .collect();
        match sockman.send_bytes(id, b"data") {
            Ok(4) | Err(SendError::UnknownConnection(_)) => {}
            other => panic!("{other:?}"),
        }
        let closed: Vec<bool> = closers.into_iter().map(|closer| closer.join().unwrap()).collect();
        assert_eq!(closed.iter().filter(|closed| **closed).count(), 1);
        assert_eq!(peer.receive().1, Some(Ended::Eof), "the peer sees the close at once");
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!(network.descriptors(), 0);
    });
}

/// G4: at most one callback begins after a close has returned: a callback whose check came before
/// the close.
#[test]
fn at_most_one_callback_begins_after_a_close_has_returned() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        handler.wants.store(true, SeqCst);
        peer.send(b"data").unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        assert!(sockman.close_connection(id));
        handler.is_closed.store(true, SeqCst);
        sockman.interrupt();
        threads.join().unwrap();
        assert!(handler.after_close.load(SeqCst) <= 1);
        assert_eq!(network.descriptors(), 0);
    });
}

/// G2, G4: a close on another thread races with the activation. At most one callback begins after
/// the close, and no descriptor is left.
#[test]
fn a_close_that_races_with_an_activation_ends_the_callbacks() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (new, peer) = new_connection(&network, &sockman, 100);
        peer.send(b"data").unwrap();
        let id = new.id();
        let threads = sockman.start_sockets_threads().unwrap();
        let closer = {
            let (handler, sockman) = (Arc::clone(&handler), sockman.clone());
            thread::spawn(move || {
                assert!(sockman.close_connection(id));
                handler.is_closed.store(true, SeqCst);
            })
        };
        new.activate();
        closer.join().unwrap();
        sockman.interrupt();
        threads.join().unwrap();
        assert!(handler.after_close.load(SeqCst) <= 1);
        assert_eq!(network.descriptors(), 0);
    });
}

/// A handler of the layer `stateful`. Its values count themselves.
#[derive(Default)]
struct Values {
    /// The values that came back, and what the closures of remotes did to them.
    back: Mutex<Vec<usize>>,
    is_back: Signal,
    dropped: Arc<AtomicUsize>,
}

struct Counted {
    visits: usize,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, SeqCst);
    }
}

impl StateHandler for Values {
    type Connection = Counted;

    fn accepted(&self, _: Link<'_, Counted>, _: &Service, _: &Service) -> Option<Counted> {
        None
    }
    fn got_data(&self, link: Link<'_, Counted>, _: &mut Counted, _: &[u8]) {
        link.close();
    }
    fn closed(&self, _: &SockMan, _: ConnectionId, value: Counted) {
        self.back.lock().unwrap().push(value.visits);
        drop(value);
        self.is_back.raise();
    }
}

/// G2: the value of a connection comes back exactly once, whatever the order of its activation, its
/// close on another thread, its close in a callback, and the socket thread's passes. A closure of a
/// remote runs before the value comes back, or is dropped.
#[test]
fn a_value_comes_back_once_whoever_closes_the_connection_and_when() {
    check(|| {
        let (network, values) = (Network::new(), Arc::new(Values::default()));
        network.set_blocking(true);
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&values), options).unwrap();
        let (new, peer) = new_connection(&network, &sockman, 100);
        peer.send(b"close").unwrap();
        let id = new.id();
        let threads = sockman.start_sockets_threads().unwrap();
        let closer = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.close_connection(id))
        };
        let value = Counted { visits: 0, dropped: Arc::clone(&values.dropped) };
        let remote: Remote<Counted> = new.activate_with(value).unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let sent = remote.run(move |_, value| {
            value.visits += 1;
            count.fetch_add(1, SeqCst);
        });
        closer.join().unwrap();
        values.is_back.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!(values.dropped.load(SeqCst), 1);
        assert_eq!(*values.back.lock().unwrap(), [ran.load(SeqCst)]);
        assert!(sent.is_ok() || ran.load(SeqCst) == 0);
        assert!(remote.is_closed());
        drop(sockman);
        assert_eq!((network.descriptors(), Arc::strong_count(&ran)), (0, 1));
    });
}

/// G14: a value comes back once, or is dropped with the last handle, although the connection is
/// closed while the socket thread ends.
#[test]
fn a_value_is_not_lost_if_the_connection_is_closed_while_the_thread_ends() {
    check(|| {
        let (network, values) = (Network::new(), Arc::new(Values::default()));
        network.set_blocking(true);
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&values), options).unwrap();
        let (new, _peer) = new_connection(&network, &sockman, 100);
        let id = new.id();
        let threads = sockman.start_sockets_threads().unwrap();
        let closer = {
            let sockman = sockman.clone();
            thread::spawn(move || assert!(sockman.close_connection(id)))
        };
        let stopper = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.interrupt())
        };
        let value = Counted { visits: 0, dropped: Arc::clone(&values.dropped) };
        new.activate_with(value).unwrap();
        stopper.join().unwrap();
        threads.join().unwrap();
        closer.join().unwrap();
        let before = values.back.lock().unwrap().len();
        assert_eq!(values.dropped.load(SeqCst), before, "the value waits for the next start");
        let threads = sockman.start_sockets_threads().unwrap();
        values.is_back.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!((values.back.lock().unwrap().len(), values.dropped.load(SeqCst)), (1, 1));
    });
}

/// G14: an interrupt at any moment ends the thread or prevents its start. The thread can then be
/// started again.
#[test]
fn an_interrupt_that_races_with_a_start_ends_or_prevents_it() {
    check(|| {
        let (_, handler, sockman) = rig();
        let interrupter = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.interrupt())
        };
        match sockman.start_sockets_threads() {
            Ok(threads) => threads.join().unwrap(),
            Err(StartError::Interrupted) => {}
            Err(error) => panic!("{error}"),
        }
        interrupter.join().unwrap();
        sockman.reset_interrupt();
        let threads = sockman.start_sockets_threads().unwrap();
        handler.is_notified.store(true, SeqCst);
        sockman.notify();
        handler.notified_pass.wait_for(1);
        drop(threads);
    });
}

/// G14: a loop on the caller's thread that races with its interrupt and with a start ends in time,
/// and clears no interrupt that is meant for the threads that start after it.
#[test]
fn a_loop_on_the_callers_thread_races_with_its_interrupt_and_with_a_start() {
    check(|| {
        let (network, shared) = (Network::new(), Interrupt::new());
        network.set_blocking(true);
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let handler = Arc::new(Handler::default());
        let sockman = SockMan::new(handler, options.interrupt(shared.clone())).unwrap();
        let runner = {
            let sockman = sockman.clone();
            thread::spawn(move || match sockman.run_sockets_thread() {
                Ok(()) | Err(RunError::Interrupted | RunError::AlreadyStarted) => {}
                Err(error) => panic!("{error}"),
            })
        };
        shared.interrupt();
        let threads = loop {
            match sockman.start_sockets_threads() {
                Ok(threads) => break threads,
                Err(StartError::Interrupted) => shared.reset(),
                Err(StartError::AlreadyStarted) => shared.interrupt(),
                Err(error) => panic!("{error}"),
            }
            thread::yield_now();
        };
        sockman.interrupt();
        threads.join().unwrap();
        // The runner may begin only now.
        shared.interrupt();
        runner.join().unwrap();
        shared.reset();
        sockman.start_sockets_threads().unwrap();
    });
}

/// G9: an interrupt ends a sleep, even if it is reset at once.
#[test]
fn an_interrupt_ends_a_sleep_even_if_it_is_reset_at_once() {
    check(|| {
        let interrupt = Interrupt::new();
        let sleeper = {
            let interrupt = interrupt.clone();
            thread::spawn(move || interrupt.sleep_for(Duration::MAX))
        };
        interrupt.interrupt();
        interrupt.reset();
        interrupt.interrupt();
        assert!(!sleeper.join().unwrap());
    });
}

/// G14: a listener that is stopped while it is added is released, and a later listener accepts.
#[test]
fn a_listener_that_races_with_stop_listening_keeps_no_descriptor() {
    check(|| {
        let (network, handler, sockman) = rig();
        let threads = sockman.start_sockets_threads().unwrap();
        let at: Service = "10.0.0.1:1".parse().unwrap();
        let binder = {
            let (sockman, at) = (sockman.clone(), at.clone());
            thread::spawn(move || sockman.bind_and_start_listening(&at).unwrap())
        };
        sockman.stop_listening();
        binder.join().unwrap();
        sockman.stop_listening();
        let later = sockman.bind_and_start_listening("10.0.0.1:2").unwrap();
        let _client = network.connect(&later).unwrap();
        handler.accepted.wait_for(1);
        assert_eq!(sockman.stats().listeners, 1);
        sockman.stop_listening();
        // The descriptor is closed before the thread ends. Only the accepted connection keeps a
        // descriptor.
        while network.descriptors() > 1 {
            thread::yield_now();
        }
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G2, G4: an attempt that is closed and cancelled while it succeeds has at most one outcome and
/// keeps no descriptor.
#[test]
fn a_connect_that_races_with_its_close_and_cancel_has_at_most_one_outcome() {
    check(|| {
        let (network, handler, sockman) = rig();
        let threads = sockman.start_sockets_threads().unwrap();
        let cancel = Interrupt::new();
        let options = ConnectOptions::default().cancel(cancel.clone());
        network.set_latency(LATENCY);
        let listener = network.listen(&"10.0.0.2:2".parse().unwrap()).unwrap();
        let id = sockman.start_connect(listener.address(), &options).unwrap();
        let succeeds = {
            let network = network.clone();
            thread::spawn(move || network.advance(LATENCY))
        };
        let canceller = thread::spawn(move || cancel.interrupt());
        if sockman.close_connection(id) {
            handler.is_closed.store(true, SeqCst);
        }
        succeeds.join().unwrap();
        canceller.join().unwrap();
        sockman.interrupt();
        threads.join().unwrap();
        assert!(handler.outcomes.load(SeqCst) <= 1);
        assert!(handler.outcome_after_close.load(SeqCst) <= 1);
        assert!(!sockman.close_connection(id));
        assert_eq!(network.descriptors(), 0);
    });
}

/// Proves that the models can fail. The test queues bytes without a wake, and the scheduler must
/// report a deadlock.
#[test]
fn a_missing_wake_up_is_reported_as_a_deadlock() {
    let lost = std::panic::catch_unwind(|| {
        check(|| {
            let (network, handler, sockman) = rig();
            let threads = sockman.start_sockets_threads().unwrap();
            let (_id, _peer) = connection(&network, &sockman, 1);
            handler.wants.store(true, SeqCst);
            handler.ready.wait_for(1);
            sockman.interrupt();
            threads.join().unwrap();
        });
    });
    assert!(lost.is_err(), "the scheduler reports the deadlock");
}

/// G2, G4: the close and the activation race, and so does an interrupt. The end is reported once, at
/// the next start at the latest.
#[test]
fn the_end_is_reported_once_if_a_close_races_with_the_activation_and_an_interrupt() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (new, peer) = new_connection(&network, &sockman, 100);
        peer.send(b"data").unwrap();
        let id = new.id();
        let threads = sockman.start_sockets_threads().unwrap();
        let closer = {
            let sockman = sockman.clone();
            thread::spawn(move || assert!(sockman.close_connection(id)))
        };
        let interrupter = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.interrupt())
        };
        new.activate();
        threads.join().unwrap();
        closer.join().unwrap();
        interrupter.join().unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        handler.ends.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!(network.descriptors(), 0);
    });
}

/// G4: the orderly end, a close on another thread and the peer's end race. The end is reported once.
#[test]
fn the_end_is_reported_once_if_a_finish_races_with_a_close_and_the_peers_end() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        let threads = sockman.start_sockets_threads().unwrap();
        let closer = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.close_connection(id))
        };
        let finisher = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.finish_connection(id, Duration::MAX))
        };
        peer.send(b"data").unwrap_or_default();
        peer.shutdown_write();
        closer.join().unwrap();
        finisher.join().unwrap();
        handler.ends.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!(network.descriptors(), 0);
    });
}

/// G9, G14: the threads end by themselves after a drain, whether the last connection is closed on
/// another thread, is activated meanwhile, or is dropped. The end is reported before.
fn drain_races_with(end: fn(&SockMan, NewConnection), is_announced: bool) {
    check(move || {
        let (network, handler, sockman) = rig();
        let (new, peer) = new_connection(&network, &sockman, 100);
        peer.shutdown_write();
        let threads = sockman.start_sockets_threads().unwrap();
        let other = {
            let sockman = sockman.clone();
            thread::spawn(move || end(&sockman, new))
        };
        sockman.drain_and_stop(Duration::MAX);
        threads.join().unwrap();
        other.join().unwrap();
        assert_eq!(network.descriptors(), 0);
        assert_eq!(handler.has_ended.load(SeqCst), is_announced);
    });
}

#[test]
fn a_drain_that_races_with_the_last_close_ends_the_threads() {
    drain_races_with(
        |sockman, new| {
            let id = new.activate();
            // The library may be faster.
            sockman.close_connection(id);
        },
        true,
    );
}

#[test]
fn a_drain_that_races_with_the_last_activation_ends_the_threads() {
    drain_races_with(|_, new| _ = new.activate(), true);
}

#[test]
fn a_drain_that_races_with_the_drop_of_a_new_connection_ends_the_threads() {
    drain_races_with(|_, new| drop(new), false);
}

/// Takes the stream of a connection out on the calling thread. Returns what is left in the stream,
/// and the stream, or `None` if the connection was closed before.
fn take_out(
    network: &Network,
    handler: &Handler,
    sockman: &SockMan,
    id: ConnectionId,
) -> Option<(Vec<u8>, Peer)> {
    match sockman.into_stream(id) {
        Ok(stream) => {
            handler.has_left.store(true, SeqCst);
            let stream = network.taken_out(stream).unwrap();
            Some((stream.receive().0, stream))
        }
        Err(IntoStreamError::UnknownConnection(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// G5: a stream that leaves on another thread, during a delivery, holds exactly the bytes that were
/// not delivered. The id is named no more after the call, except by the report of the end.
#[test]
fn a_stream_that_leaves_during_a_delivery_holds_what_was_not_delivered() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        let threads = sockman.start_sockets_threads().unwrap();
        let taker = {
            let (network, handler, sockman) =
                (network.clone(), Arc::clone(&handler), sockman.clone());
            thread::spawn(move || take_out(&network, &handler, &sockman, id).unwrap())
        };
        peer.send(b"abc").unwrap();
        peer.send(b"xyz").unwrap();
        let (mut left, stream) = taker.join().unwrap();
        left.extend(stream.receive().0);
        let delivered = handler.delivered.lock().unwrap().clone();
        assert_eq!([delivered, left].concat(), b"abcxyz");
        handler.ends.wait_for(1);
        assert!(peer.receive().1.is_none(), "the stream stays connected");
        sockman.interrupt();
        threads.join().unwrap();
        drop(stream);
        assert_eq!((peer.receive().1, network.descriptors()), (Some(Ended::Eof), 0));
    });
}

/// G4, G5: exactly one of a close and a call that takes the stream out succeeds, during a delivery.
/// The end is reported once.
#[test]
fn a_stream_leaves_or_is_closed_if_both_race_with_a_delivery() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        peer.send(b"abc").unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let closer = {
            let sockman = sockman.clone();
            thread::spawn(move || sockman.close_connection(id))
        };
        let taken = take_out(&network, &handler, &sockman, id);
        assert_ne!(closer.join().unwrap(), taken.is_some());
        handler.ends.wait_for(1);
        let delivered = handler.delivered.lock().unwrap().clone();
        if let Some((left, _stream)) = taken {
            assert_eq!([delivered, left].concat(), b"abc");
            assert!(peer.receive().1.is_none(), "the stream stays connected");
        }
        sockman.interrupt();
        threads.join().unwrap();
        assert!(peer.receive().1.is_some());
        assert_eq!(network.descriptors(), 0);
    });
}

/// G5, G14: a stream that leaves while the threads end, and are started again, holds exactly the
/// bytes that were not delivered. The end is reported once, after the next start at the latest.
#[test]
fn a_stream_that_leaves_while_the_threads_end_holds_what_was_not_delivered() {
    check(|| {
        let (network, handler, sockman) = rig();
        let (id, peer) = connection(&network, &sockman, 100);
        peer.send(b"abc").unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let taker = {
            let (network, handler, sockman) =
                (network.clone(), Arc::clone(&handler), sockman.clone());
            thread::spawn(move || take_out(&network, &handler, &sockman, id).unwrap())
        };
        sockman.interrupt();
        threads.join().unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let (left, stream) = taker.join().unwrap();
        let delivered = handler.delivered.lock().unwrap().clone();
        assert_eq!([delivered, left].concat(), b"abc");
        handler.ends.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
        drop(stream);
        assert_eq!((peer.receive().1, network.descriptors()), (Some(Ended::Eof), 0));
    });
}

/// G5: a connection that moves to another `SockMan` during a delivery delivers each byte once, in
/// order.
#[test]
fn a_connection_that_moves_to_another_sockman_loses_no_byte() {
    check(|| {
        let (network, handler, sockman) = rig();
        let other_handler = Arc::new(Handler::default());
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let other = SockMan::new(Arc::clone(&other_handler) as Arc<dyn EventHandler>, options);
        let other = other.unwrap();
        let (id, peer) = connection(&network, &sockman, 100);
        let threads = sockman.start_sockets_threads().unwrap();
        let other_threads = other.start_sockets_threads().unwrap();
        let mover = {
            let (handler, sockman, other) = (Arc::clone(&handler), sockman.clone(), other.clone());
            thread::spawn(move || {
                let stream = sockman.into_stream(id).unwrap();
                handler.has_left.store(true, SeqCst);
                other.add_connection(stream).unwrap().activate()
            })
        };
        peer.send(b"abc").unwrap();
        peer.send(b"xyz").unwrap();
        mover.join().unwrap();
        peer.send(b"!").unwrap();
        let mut deliveries = 0;
        let all = loop {
            let [first, second] =
                [&handler, &other_handler].map(|handler| handler.delivered.lock().unwrap().clone());
            let all = [first, second].concat();
            if all.len() >= 7 {
                break all;
            }
            deliveries += 1;
            other_handler.data.wait_for(deliveries);
        };
        assert_eq!(all, b"abcxyz!");
        for (sockman, threads) in [(sockman, threads), (other, other_threads)] {
            sockman.interrupt();
            threads.join().unwrap();
        }
    });
}

/// G9: a connection that is added while a drain reaches its deadline is closed before the threads
/// end, or stays as a connection that does not finish.
#[test]
fn a_drain_at_its_deadline_leaves_no_connection_that_finishes() {
    check(|| {
        let (network, _, sockman) = rig();
        let threads = sockman.start_sockets_threads().unwrap();
        let at: Service = "10.0.0.1:1".parse().unwrap();
        let (sock, peer) = network.pair(&at, &at).unwrap();
        let adder = {
            let (sockman, at) = (sockman.clone(), at.clone());
            thread::spawn(move || {
                sockman.add_existing_connection(sock, &at, &at).unwrap().activate()
            })
        };
        sockman.drain_and_stop(Duration::ZERO);
        threads.join().unwrap();
        let id = adder.join().unwrap();
        // A connection that does not finish begins to now.
        let is_open = sockman.connection_info(id).is_some();
        assert_eq!(sockman.finish_connection(id, Duration::MAX), is_open);
        drop(peer);
    });
}
