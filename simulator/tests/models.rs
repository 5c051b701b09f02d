//! Models of the races: the whole `SockMan`, its thread and its locks, under a scheduler that tries
//! out interleavings. Sequentially consistent ones: what weak memory adds, loopback on real
//! processors has to show.
//!
//! The sockets are those of `testing::Network`, whose polls wait under the scheduler, until an event
//! or a wake. Time stands still, so that no time-out makes up for a wake-up that is lost: that is a
//! deadlock, which the scheduler reports.
//!
//! `RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/models cargo test --release -p simulator --test
//! models`; `MODEL_ITERATIONS` for more.
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
    error::{ConnectError, SendError, StartError},
    helpers::SendQueueLimits,
    testing::{Ended, Network, Peer},
};

/// Of a connect: the clock has to be moved for it to succeed.
const LATENCY: Duration = Duration::from_millis(1);

fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    let iterations = std::env::var("MODEL_ITERATIONS").ok().and_then(|text| text.parse().ok());
    let iterations = iterations.unwrap_or(3000);
    shuttle::check_random(model.clone(), iterations);
    shuttle::check_pct(model, iterations, 3);
}

/// Something that is waited for.
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

/// The embedder of all models. What it does not need stays empty.
#[derive(Default)]
struct Handler {
    wants: AtomicBool,
    ready: Signal,
    queue: Mutex<Option<Arc<SendQueue>>>,
    own_queue: Mutex<VecDeque<u8>>,
    data: Signal,
    /// Set when a close on another thread has returned.
    is_closed: AtomicBool,
    after_close: AtomicUsize,
    is_asked: AtomicBool,
    heard: Signal,
    accepted: Signal,
    outcomes: AtomicUsize,
    outcome_after_close: AtomicUsize,
}

impl Handler {
    fn named(&self) {
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
        self.named();
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
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {
        self.named();
        self.data.raise();
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {
        self.named();
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {
        self.named();
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
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        let queued = self.queue.lock().unwrap().as_ref().is_some_and(|queue| queue.has_queued());
        queued || self.wants.load(SeqCst) || !self.own_queue.lock().unwrap().is_empty()
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        if self.is_asked.load(SeqCst) {
            self.heard.raise();
        }
    }
}

fn rig() -> (Network, Arc<Handler>, SockMan) {
    let (network, handler) = (Network::new(), Arc::new(Handler::default()));
    network.set_blocking(true);
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    (network, handler, sockman)
}

/// A connection that is not activated yet. Its peer has room for `window` bytes.
fn new_connection(network: &Network, sockman: &SockMan, window: usize) -> (NewConnection, Peer) {
    let at = "10.0.0.1:1".parse().unwrap();
    network.set_window(window);
    let (sock, peer) = network.pair(&at, &at).unwrap();
    (sockman.add_existing_connection(sock, &at, &at).unwrap(), peer)
}

fn connection(network: &Network, sockman: &SockMan, window: usize) -> (ConnectionId, Peer) {
    let (new, peer) = new_connection(network, sockman, window);
    (new.activate(), peer)
}

/// G9: a wake reaches the hooks, whatever the socket thread is about to do.
#[test]
fn a_wake_against_going_to_sleep() {
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

/// G9: a notify is answered by a pass.
#[test]
fn a_notify_against_going_to_sleep() {
    check(|| {
        let (_, handler, sockman) = rig();
        let threads = sockman.start_sockets_threads().unwrap();
        handler.is_asked.store(true, SeqCst);
        sockman.notify();
        handler.heard.wait_for(1);
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// The way in which Core's HTTP server wedged: a push that meets the drain.
#[test]
fn pushes_against_drains() {
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
        assert!(sent == b"abcxyz" || sent == b"xyzabc", "torn apart: {sent:?}");
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// An embedder with a queue of its own, which wakes after queueing.
#[test]
fn an_own_queue_against_its_drain() {
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

/// G4: one of the closers is told so; after that nothing is sent, and the descriptor goes once.
#[test]
fn a_close_against_sends_and_another_close() {
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
        assert_eq!(peer.receive().1, Some(Ended::Eof), "the peer sees it at once");
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!(network.descriptors(), 0);
    });
}

/// G4: after a close has returned, at most the one callback begins that had passed its check.
#[test]
fn a_close_against_delivery() {
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

/// G2: what was closed before its activation is never named, and keeps no descriptor.
#[test]
fn an_activation_against_a_close() {
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

/// G14: an interrupt at any moment ends the thread, or keeps it from starting; then it starts again.
#[test]
fn an_interrupt_against_start_and_join() {
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
        handler.is_asked.store(true, SeqCst);
        sockman.notify();
        handler.heard.wait_for(1);
        drop(threads);
    });
}

/// G9: an interrupt, even one that is reset at once, ends a sleep.
#[test]
fn an_interrupt_against_a_sleeper() {
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

/// G14: a listener is let go of when it is stopped, and one that comes later accepts.
#[test]
fn a_new_listener_against_stop_listening() {
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
        // Not only when the thread ends. What is left is the accepted connection.
        while network.descriptors() > 1 {
            thread::yield_now();
        }
        sockman.interrupt();
        threads.join().unwrap();
    });
}

/// G2, G4: an attempt that is closed, cancelled and successful at once has one outcome at most, and
/// keeps no descriptor.
#[test]
fn a_connect_against_its_close_and_its_cancel() {
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

/// That the models can fail: something is queued, and nobody is woken.
#[test]
fn a_wake_up_that_is_left_out_is_a_deadlock() {
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
    assert!(lost.is_err(), "a deadlock is told");
}
