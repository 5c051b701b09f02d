//! Real threads over the network in memory and over the system's poller and sockets, for Miri, which
//! explores weak memory. Miri has an epoll, an eventfd and a TCP of its own. Shuttle's models, in
//! `simulator/tests/models.rs`, assume sequential consistency and explore more interleavings.
//!
//! A lost wake-up is a deadlock, which Miri reports. No test waits for a time.
//!
//! `MIRIFLAGS='-Zmiri-many-seeds=0..40 -Zmiri-disable-isolation' cargo +nightly miri test --test weak_memory`

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod bare;

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan, SocketsThreads,
    helpers::SendQueueLimits,
    testing::{Network, Peer},
};

use self::bare::{BareFactory, connected_pair};

/// How often each test repeats its race. Miri multiplies this by its seeds.
const ROUNDS: usize = 5;

#[derive(Debug, PartialEq)]
enum Happened {
    Pass,
    Sent,
    Received(usize),
    Closed,
}

/// Reports what happens. The hook reads `wants_to_send` without any ordering of its own: whoever wakes
/// relies on the library's.
struct Handler {
    happened: Mutex<Sender<Happened>>,
    reports_passes: bool,
    wants_to_send: AtomicBool,
    queue: Mutex<Option<Arc<SendQueue>>>,
}

impl Handler {
    fn report(&self, happened: Happened) {
        // The test may be over.
        let _ = self.happened.lock().unwrap().send(happened);
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
        true
    }
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        let queue = self.queue.lock().unwrap().clone();
        self.wants_to_send.load(Relaxed) || queue.is_some_and(|queue| queue.has_queued())
    }
    fn event_ready_to_send(&self, sockman: &SockMan, _: ConnectionId) -> NextRecv {
        let queue = self.queue.lock().unwrap().clone();
        if let Some(queue) = queue {
            queue.drain(sockman).unwrap();
        }
        if self.wants_to_send.swap(false, Relaxed) {
            self.report(Happened::Sent);
        }
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, data: &[u8]) {
        self.report(Happened::Received(data.len()));
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_closed(&self, _: &SockMan, _: ConnectionId) {
        self.report(Happened::Closed);
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        if self.reports_passes {
            self.report(Happened::Pass);
        }
    }
}

/// Where the connections of a test are.
#[derive(Clone, Copy)]
enum Over {
    Memory,
    System,
}

/// The other end of a connection.
enum Other {
    Memory(Peer),
    System(TcpStream),
}

impl Other {
    fn send(&mut self, data: &[u8]) {
        match self {
            Other::Memory(peer) => assert_eq!(peer.send(data).unwrap(), data.len()),
            Other::System(stream) => stream.write_all(data).unwrap(),
        }
    }

    /// Waits for `length` bytes.
    fn receive(&mut self, length: usize) {
        let mut received = vec![0; length];
        match self {
            Other::Memory(peer) => {
                let mut count = 0;
                while count < length {
                    count += peer.receive().0.len();
                    thread::yield_now();
                }
                assert_eq!(count, length);
            }
            Other::System(stream) => stream.read_exact(&mut received).unwrap(),
        }
    }
}

/// Runs a test over the network in memory, and over the system's.
fn over_both(test: impl Fn(Over)) {
    test(Over::Memory);
    test(Over::System);
}

struct Rig {
    /// `None` over the system's sockets.
    network: Option<Network>,
    handler: Arc<Handler>,
    sockman: SockMan,
    threads: Option<SocketsThreads>,
    happened: Receiver<Happened>,
}

impl Rig {
    fn new(over: Over, reports_passes: bool) -> Rig {
        let options = Options::default().sweep(None);
        let (network, options) = match over {
            Over::System => (None, options.sock_factory(Arc::new(BareFactory))),
            Over::Memory => {
                let network = Network::new();
                network.set_blocking(true);
                let options = options.sock_factory(network.factory());
                (Some(network), options)
            }
        };
        let (sender, happened) = channel();
        let handler = Arc::new(Handler {
            happened: Mutex::new(sender),
            reports_passes,
            wants_to_send: AtomicBool::new(false),
            queue: Mutex::default(),
        });
        let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
        let threads = Some(sockman.start_sockets_threads().unwrap());
        Rig { network, handler, sockman, threads, happened }
    }

    fn connection(&self) -> (ConnectionId, Other) {
        let (me, them): (Service, Service) =
            ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let (sock, other) = match &self.network {
            Some(network) => {
                let (sock, peer) = network.pair(&me, &them).unwrap();
                (sock, Other::Memory(peer))
            }
            None => {
                let (sock, stream) = connected_pair().unwrap();
                (sock, Other::System(stream))
            }
        };
        let new = self.sockman.add_existing_connection(sock, &me, &them).unwrap();
        (new.activate(), other)
    }

    fn next(&self) -> Happened {
        self.happened.recv().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.sockman.interrupt();
        if let Some(threads) = self.threads.take() {
            threads.join().unwrap();
        }
    }
}

/// G6: a request for a pass is not lost while the socket thread goes to sleep.
#[test]
fn each_notify_is_followed_by_a_pass() {
    over_both(|over| {
        let rig = Rig::new(over, true);
        for _ in 0..ROUNDS {
            rig.sockman.notify();
            assert_eq!(rig.next(), Happened::Pass);
        }
    });
}

/// G6: after a wake, the hook sees what the waking thread has stored before.
#[test]
fn a_hook_sees_what_was_stored_before_the_wake() {
    over_both(|over| {
        let rig = Rig::new(over, false);
        let (id, _other) = rig.connection();
        for _ in 0..ROUNDS {
            rig.handler.wants_to_send.store(true, Relaxed);
            rig.sockman.wake(id);
            assert_eq!(rig.next(), Happened::Sent);
        }
    });
}

/// G6: two threads that wake at the same time lose neither store.
#[test]
fn the_last_of_two_wakes_is_not_lost() {
    over_both(|over| {
        let rig = Rig::new(over, false);
        let (id, _other) = rig.connection();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 * ROUNDS {
                    rig.sockman.wake(id);
                    thread::yield_now();
                }
            });
            for _ in 0..4 * ROUNDS {
                rig.handler.wants_to_send.store(true, Relaxed);
                rig.sockman.wake(id);
                assert_eq!(rig.next(), Happened::Sent);
            }
        });
    });
}

/// G5: a push on another thread is drained, although the queue's length is read without its mutex.
#[test]
fn what_another_thread_enqueues_is_sent() {
    over_both(|over| {
        let rig = Rig::new(over, false);
        let (id, mut other) = rig.connection();
        let queue = Arc::new(SendQueue::new(id, SendQueueLimits::default()));
        *rig.handler.queue.lock().unwrap() = Some(Arc::clone(&queue));
        for _ in 0..ROUNDS {
            queue.enqueue(&rig.sockman, &[7; 3]).unwrap();
            other.receive(3);
        }
    });
}

/// G2, G4: a connection that is activated delivers, and one that is closed is reported once.
#[test]
fn an_activation_and_a_close_on_another_thread_take_effect() {
    over_both(|over| {
        let rig = Rig::new(over, false);
        for _ in 0..ROUNDS {
            let (id, mut other) = rig.connection();
            other.send(b"bytes");
            assert_eq!(rig.next(), Happened::Received(5));
            assert!(rig.sockman.close_connection(id));
            assert_eq!(rig.next(), Happened::Closed);
        }
    });
}

/// G14: an interrupt ends the thread, whatever it does, and a restart goes on.
#[test]
fn an_interrupt_ends_the_thread_and_a_restart_goes_on() {
    over_both(|over| {
        let mut rig = Rig::new(over, true);
        for _ in 0..ROUNDS {
            thread::scope(|scope| {
                scope.spawn(|| rig.sockman.notify());
                rig.sockman.interrupt();
            });
            rig.threads.take().unwrap().join().unwrap();
            rig.threads = Some(rig.sockman.start_sockets_threads().unwrap());
            while rig.happened.try_recv().is_ok() {}
            rig.sockman.notify();
            assert_eq!(rig.next(), Happened::Pass);
        }
    });
}

/// G4: what a callback does before it closes its connection is seen by the thread whose close failed.
#[test]
fn the_loser_of_two_closes_sees_what_the_winner_did() {
    over_both(|over| {
        let rig = Rig::new(over, false);
        for _ in 0..ROUNDS {
            let (id, _other) = rig.connection();
            let (done, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        done.fetch_add(1, Relaxed);
                        if !rig.sockman.close_connection(id) {
                            seen.store(done.load(Relaxed), Relaxed);
                        }
                    });
                }
            });
            assert_eq!((done.load(Relaxed), seen.load(Relaxed)), (2, 2));
            assert_eq!(rig.next(), Happened::Closed);
        }
    });
}
