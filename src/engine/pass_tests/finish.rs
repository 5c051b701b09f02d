//! Tests of orderly and abrupt ends: `finish_connection`, `abort_connection` and `drain_and_stop`.
//! The sweep is off.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{Ordinals, Rig};
use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectOptions},
    engine::{connection::ConnectionId, threads::as_another_thread},
    event_handler::{EventHandler, NextRecv},
    helpers::{SendQueue, SendQueueLimits},
    options::{Options, PanicPolicy},
    sockman::{SockMan, WeakSockMan},
    sys::errors,
    testing::{Call, Ended, Peer, SocketThreadByHand},
};

const LINGER: Duration = Duration::from_secs(3);

/// What a callback does: its name, and the id of its connection.
type Reaction = Box<dyn Fn(&SockMan, &str, ConnectionId) + Send>;

/// Sends what is in the queue of the connection, and records the callbacks that end something.
#[derive(Default)]
struct Sender {
    ordinals: Ordinals,
    records: Mutex<Vec<String>>,
    /// The queues, in the order of the ordinals.
    queues: Mutex<Vec<Option<Arc<SendQueue>>>>,
    /// Whether `should_try_to_send` always returns `true`.
    is_eager: Mutex<bool>,
    pauses_reads: Mutex<bool>,
    /// Whether `event_ready_to_send` returns `NextRecv::Skip`.
    skips: Mutex<bool>,
    react: Mutex<Option<Reaction>>,
    sockman: Mutex<WeakSockMan>,
}

impl Sender {
    fn record(&self, sockman: &SockMan, what: &str, id: ConnectionId) {
        self.records.lock().push(format!("{what} {}", self.ordinals.of(id)));
        self.act(sockman, what, id);
    }

    fn act(&self, sockman: &SockMan, what: &str, id: ConnectionId) {
        let react = self.react.lock().take();
        if let Some(react) = react {
            let reacted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                react(sockman, what, id);
            }));
            self.react.lock().get_or_insert(react);
            reacted.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        }
    }

    fn queue(&self, id: ConnectionId) -> Option<Arc<SendQueue>> {
        self.queues.lock().get(self.ordinals.of(id)).cloned().flatten()
    }

    fn take(&self) -> Vec<String> {
        mem::take(&mut self.records.lock())
    }

    fn react(&self, react: impl Fn(&SockMan, &str, ConnectionId) + Send + 'static) {
        *self.react.lock() = Some(Box::new(react));
    }
}

impl EventHandler for Sender {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.record(sockman, "accepted", id);
        true
    }
    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        self.record(sockman, if outcome.is_ok() { "connected" } else { "failed" }, id);
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        *self.is_eager.lock() || self.queue(id).is_some_and(|queue| queue.has_queued())
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        if let Some(sockman) = self.sockman.lock().upgrade() {
            self.act(&sockman, "should try to recv", id);
        }
        !*self.pauses_reads.lock()
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.act(sockman, "ready", id);
        if let Some(queue) = self.queue(id) {
            let _ = queue.drain(sockman);
        }
        if *self.skips.lock() { NextRecv::Skip } else { NextRecv::Proceed }
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, _: &[u8]) {
        self.record(sockman, "data", id);
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(sockman, "eof", id);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.record(sockman, "error", id);
    }
    fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(sockman, "closed", id);
    }
}

fn rig_with(options: Options) -> Rig<Sender> {
    let rig = Rig::with_handler(Sender::default(), options.sweep(None));
    *rig.handler.sockman.lock() = rig.sockman.downgrade();
    rig
}

fn rig() -> Rig<Sender> {
    rig_with(Options::default())
}

impl Rig<Sender> {
    /// Adds a connection that is polled, with a queue and a window of `window` bytes.
    fn connection(&self, window: usize) -> (ConnectionId, Peer) {
        let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        self.network.set_window(window);
        let (sock, peer) = self.network.pair(&me, &them).unwrap();
        let id = self.sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
        let ordinal = self.handler.ordinals.of(id);
        let limits = SendQueueLimits::new(1, 2, usize::MAX).unwrap();
        let mut queues = self.handler.queues.lock();
        queues.resize_with(ordinal + 1, || None);
        queues[ordinal] = Some(Arc::new(SendQueue::new(id, limits)));
        drop(queues);
        self.passes(3);
        (id, peer)
    }

    fn passes(&self, count: usize) {
        (0..count).for_each(|_| self.pass());
    }

    fn is_open(&self, id: ConnectionId) -> bool {
        self.sockman.connection_info(id).is_some()
    }

    /// Runs passes until the peer has received an end. Returns the bytes, and the end.
    fn receive_all(&self, peer: &Peer) -> (Vec<u8>, Ended) {
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            let (some, ended) = peer.receive();
            bytes.extend(some);
            if let Some(ended) = ended {
                return (bytes, ended);
            }
            self.pass();
        }
        panic!("no end comes after {} bytes", bytes.len());
    }
}

/// G5: what is queued goes out, then the end of the stream. What comes meanwhile is discarded, and
/// the peer's end closes the connection.
#[test]
fn a_connection_that_finishes_sends_its_queue_then_fin_and_closes_at_eof() {
    for (is_eager, pauses_reads) in [(false, false), (true, true)] {
        let rig = rig();
        let (id, peer) = rig.connection(1000);
        *rig.handler.is_eager.lock() = is_eager;
        *rig.handler.pauses_reads.lock() = pauses_reads;
        *rig.handler.skips.lock() = pauses_reads;
        peer.send(b"before").unwrap();
        let data: Vec<u8> = (0..10_000_u32).map(|at| at as u8).collect();
        rig.handler.queue(id).unwrap().push(&rig.sockman, &data).unwrap();
        assert!(rig.sockman.finish_connection(id, LINGER));
        peer.send(b"meanwhile").unwrap();
        let (received, ended) = rig.receive_all(&peer);
        assert_eq!((received, ended), (data, Ended::Eof));
        rig.passes(5);
        assert!(rig.is_open(id), "the peer has not ended its stream");
        peer.send(b"after").unwrap();
        rig.pass();
        peer.shutdown_write();
        rig.passes(2);
        assert!(!rig.is_open(id));
        assert_eq!(rig.handler.take(), ["closed 0"]);
        assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)), "no reset follows");
    }
}

/// The peer's end, before or after the call, ends nothing that is queued.
#[test]
fn the_peers_end_does_not_cut_off_what_is_queued() {
    for is_first in [true, false] {
        let rig = rig();
        let (id, peer) = rig.connection(1000);
        rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 5000]).unwrap();
        if is_first {
            peer.shutdown_write();
            rig.passes(2);
            assert_eq!(rig.handler.take(), ["eof 0"]);
        }
        rig.sockman.finish_connection(id, LINGER);
        peer.shutdown_write();
        rig.passes(3);
        assert!(rig.is_open(id));
        assert_eq!(rig.receive_all(&peer), (vec![7; 5000], Ended::Eof));
        rig.pass();
        assert_eq!(rig.handler.take(), ["closed 0"]);
    }
}

/// G9: the time-out is a timer of the pass. A peer that sends without end, and one that does not
/// read, are closed in time, not earlier and not later.
#[test]
fn a_connection_that_finishes_is_closed_when_its_time_is_over() {
    for floods in [true, false] {
        let rig = rig();
        let (id, peer) = rig.connection(1000);
        rig.network.hold_clock(None);
        let began = rig.network.elapsed();
        if !floods {
            rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 5000]).unwrap();
        }
        rig.sockman.finish_connection(id, LINGER);
        let passes = rig.sockman.stats().passes;
        while rig.is_open(id) {
            if floods {
                peer.send(&[1; 1000]).unwrap();
                rig.network.advance(Duration::from_millis(10));
            }
            rig.pass();
        }
        assert_eq!(rig.network.elapsed() - began, LINGER);
        let passes = rig.sockman.stats().passes - passes;
        assert!(floods || passes <= 4, "{passes} passes while the connection rests");
        rig.network.hold_clock(Some(Duration::ZERO));
        rig.pass();
        assert_eq!(rig.handler.take(), ["closed 0"]);
    }
}

/// The first call decides, and a close ends the connection at once.
#[test]
fn a_second_finish_changes_nothing_and_a_close_ends_it_at_once() {
    let rig = rig();
    let (id, _peer) = rig.connection(1000);
    rig.network.hold_clock(None);
    rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 5000]).unwrap();
    let began = rig.network.elapsed();
    assert!(rig.sockman.finish_connection(id, LINGER));
    assert!(!rig.sockman.finish_connection(id, Duration::ZERO));
    while rig.is_open(id) {
        rig.pass();
    }
    assert_eq!(rig.network.elapsed() - began, LINGER);
    assert!(!rig.sockman.finish_connection(id, LINGER));

    rig.network.hold_clock(Some(Duration::ZERO));
    let (id, _peer) = rig.connection(1000);
    assert!(rig.sockman.finish_connection(id, LINGER));
    rig.passes(3);
    assert_eq!(rig.network.last_timeout(), Some(LINGER));
    assert!(rig.sockman.close_connection(id));
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["closed 0", "closed 1"]);
    assert_eq!(rig.network.last_timeout(), None, "no timer is left behind");
}

/// The end waits for the next start, and the time goes on meanwhile. The last turn comes before the
/// time-out.
#[test]
fn a_finish_while_no_thread_runs_goes_on_at_the_next_start() {
    let rig = rig();
    let ((in_time, peer), (late, late_peer)) = (rig.connection(1000), rig.connection(1000));
    for id in [in_time, late] {
        rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 1500]).unwrap();
    }
    rig.sockman.finish_connection(in_time, LINGER * 2);
    rig.sockman.finish_connection(late, LINGER);
    rig.network.advance(LINGER);
    assert_eq!(late_peer.receive().0.len(), 1000);
    rig.pass();
    assert_eq!(rig.receive_all(&peer), (vec![7; 1500], Ended::Eof));
    assert_eq!(late_peer.receive(), (vec![7; 500], Some(Ended::Eof)));
    assert!(rig.is_open(in_time) && !rig.is_open(late));

    // An interrupt and a panic change nothing.
    rig.sockman.interrupt();
    rig.pass();
    rig.sockman.reset_interrupt();
    peer.shutdown_write();
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["closed 1", "closed 0"]);
}

/// G6: nothing is delivered after the call, from whatever callback it comes.
#[test]
fn nothing_is_delivered_after_a_finish_in_a_callback() {
    for callback in ["ready", "should try to recv", "data"] {
        for has_ended in [false, true] {
            let rig = rig_with(Options::default().receive_buffer(2));
            let (id, peer) = rig.connection(1000);
            *rig.handler.is_eager.lock() = true;
            let finishes = AtomicBool::new(false);
            rig.handler.react(move |sockman, what, id| {
                let is_asked = what == "should try to recv" && finishes.load(SeqCst);
                assert!(!is_asked, "the hook is asked after the call");
                if what == callback {
                    sockman.finish_connection(id, LINGER);
                    finishes.store(true, SeqCst);
                }
            });
            if has_ended {
                peer.shutdown_write();
            } else {
                peer.send(b"abcdef").unwrap();
            }
            rig.sockman.wake(id);
            rig.passes(8);
            let records = rig.handler.take();
            let expected: &[&str] = match (callback, has_ended) {
                // In the turn in which the hook said yes, nothing had been read.
                ("ready" | "should try to recv", false) => &[],
                ("ready" | "should try to recv", true) => &["closed 0"],
                (_, false) => &["data 0"],
                (_, true) => &["eof 0"],
            };
            assert_eq!(records, expected, "{callback}, {has_ended}");
        }
    }
}

/// G5: a reset, before, while and after the queue is sent, closes the connection.
#[test]
fn a_read_error_closes_a_connection_that_finishes() {
    for queued in [0, 5000] {
        let rig = rig();
        let (id, peer) = rig.connection(1000);
        rig.handler.queue(id).unwrap().push(&rig.sockman, &vec![7; queued]).unwrap();
        rig.sockman.finish_connection(id, LINGER);
        rig.passes(2);
        assert!(rig.is_open(id));
        peer.reset();
        rig.passes(2);
        assert_eq!(rig.handler.take(), ["closed 0"]);
    }
    let rig = rig();
    let (id, peer) = rig.connection(1000);
    peer.reset();
    rig.passes(2);
    rig.sockman.finish_connection(id, LINGER);
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["error 0", "closed 0"]);
}

/// A connection that cannot be half-closed, or that the poller does not watch, is closed.
#[test]
fn a_failed_shutdown_or_registration_closes_a_connection_that_finishes() {
    let rig = rig();
    let (id, _peer) = rig.connection(1000);
    rig.network.fail_next(Call::Shutdown, errors::ENOTCONN);
    rig.sockman.finish_connection(id, LINGER);
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["closed 0"]);

    rig.fail_registrations();
    let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let (sock, _peer) = rig.network.pair(&me, &them).unwrap();
    let id = rig.sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
    rig.sockman.finish_connection(id, LINGER);
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["closed 1"]);
}

/// G11: a lack of buffers is no end: what is queued is sent after it.
#[test]
fn a_lack_of_buffers_does_not_cut_off_what_is_queued() {
    let rig = rig();
    let (id, peer) = rig.connection(1000);
    rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 1500]).unwrap();
    assert_eq!(peer.receive().0.len(), 1000);
    rig.network.hold_clock(None);
    rig.network.fail_next(Call::Send, errors::ENOBUFS);
    rig.network.fail_next(Call::Recv, errors::ENOBUFS);
    peer.send(b"x").unwrap();
    rig.sockman.finish_connection(id, LINGER);
    assert_eq!(rig.receive_all(&peer), (vec![7; 500], Ended::Eof));
    rig.network.hold_clock(Some(Duration::ZERO));
    peer.shutdown_write();
    rig.passes(2);
    assert!(!rig.is_open(id));
}

/// A connection that is not activated is finished after its activation, or closed in time.
#[test]
fn a_connection_that_is_not_activated_can_be_finished() {
    let rig = rig();
    let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let new = || {
        let (sock, peer) = rig.network.pair(&me, &them).unwrap();
        let new = rig.sockman.add_existing_connection(sock, &me, &them).unwrap();
        assert!(rig.sockman.finish_connection(new.id(), LINGER));
        rig.pass();
        (new, peer)
    };
    let (activated, peer) = new();
    let id = activated.activate();
    assert_eq!(rig.receive_all(&peer), (Vec::new(), Ended::Eof));
    peer.shutdown_write();
    rig.passes(2);
    assert!(!rig.is_open(id));
    let (late, peer) = new();
    rig.network.advance(LINGER);
    rig.pass();
    assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)));
    late.activate();
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 0", "closed 1"]);
}

/// G12: a panic while the rest is sent closes the connection.
#[test]
fn a_panic_closes_a_connection_that_finishes() {
    let rig = rig_with(Options::default().panic_policy(PanicPolicy::CloseConnection));
    let (id, _peer) = rig.connection(1000);
    rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 1500]).unwrap();
    _peer.receive();
    rig.sockman.finish_connection(id, LINGER);
    rig.handler.react(|_, what, _| assert_ne!(what, "ready", "a panic"));
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["closed 0"]);
}

/// The peer sees a reset at once, and no end of the stream before it, also with data in flight.
#[test]
fn an_abort_is_seen_as_a_reset() {
    let rig = rig();
    for on_other_thread in [false, true] {
        let (id, peer) = rig.connection(1000);
        rig.sockman.send_bytes(id, b"last").unwrap();
        let abort = move |sockman: &SockMan| {
            assert!(sockman.abort_connection(id));
            assert!(!sockman.abort_connection(id) && !sockman.close_connection(id));
        };
        rig.handler.react(move |sockman, what, _| match what {
            "data" if on_other_thread => as_another_thread(|| abort(sockman)),
            "data" => abort(sockman),
            _ => {}
        });
        peer.send(b"x").unwrap();
        rig.passes(2);
        let (bytes, ended) = peer.receive();
        assert_eq!((&*bytes, ended), (&b"last"[..], Some(Ended::Error(errors::ECONNRESET))));
    }
    assert_eq!(rig.handler.take(), ["data 0", "closed 0", "data 1", "closed 1"]);
    // With no thread running, a close of the descriptor comes at once.
    let (id, peer) = rig.connection(1000);
    assert!(rig.sockman.abort_connection(id));
    assert_eq!(peer.receive().1, Some(Ended::Error(errors::ECONNRESET)));
}

/// A unix-domain socket has no reset. An attempt ends without a report.
#[test]
fn an_abort_of_a_unix_socket_is_an_end_and_of_an_attempt_is_silent() {
    let rig = rig();
    let at: Service = "unix:/simulated/abort".parse().unwrap();
    rig.sockman.bind_and_start_listening(&at).unwrap();
    let peer = rig.network.connect(&at).unwrap();
    rig.passes(2);
    assert!(rig.sockman.abort_connection(rig.handler.ordinals.id(0)));
    assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)));
    let silent: Service = "10.0.0.9:10".parse().unwrap();
    rig.network.ignore(&silent);
    let id = rig.sockman.start_connect(&silent, &ConnectOptions::default()).unwrap();
    assert!(!rig.sockman.finish_connection(id, LINGER));
    assert!(rig.sockman.abort_connection(id));
    rig.passes(2);
    assert_eq!(rig.handler.take(), ["accepted 0", "closed 0"]);
}

/// G14: the threads end when all connections have ended and are reported, and not before.
#[test]
fn a_drain_ends_the_threads_when_all_connections_are_closed_and_reported() {
    let rig = rig();
    let ((first, peer), (second, second_peer)) = (rig.connection(1000), rig.connection(1000));
    rig.handler.queue(first).unwrap().push(&rig.sockman, &[7; 1500]).unwrap();
    // Called in a callback, of a connection whose data is not delivered any more.
    rig.handler.react(|sockman, what, _| {
        if what == "should try to recv" {
            sockman.drain_and_stop(LINGER);
        }
    });
    second_peer.send(b"x").unwrap();
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let mut passes = || (0..6).all(|_| thread.pass_within(Duration::ZERO).unwrap());
    assert!(passes());
    rig.network.connect(&rig.here).unwrap_err();
    assert_eq!(second_peer.receive(), (Vec::new(), Some(Ended::Eof)));
    assert_eq!(peer.receive(), (vec![7; 1000], None));
    assert!(passes());
    assert_eq!(peer.receive(), (vec![7; 500], Some(Ended::Eof)));
    second_peer.shutdown_write();
    assert!(passes());
    assert!(rig.is_open(first) && !rig.is_open(second));
    assert_eq!(rig.handler.take(), ["closed 1"]);
    peer.shutdown_write();
    assert!(!passes());
    assert_eq!(rig.handler.take(), ["closed 0"]);
    drop(thread);
    rig.network.hold_clock(Some(Duration::ZERO));
    // The next start is an ordinary one.
    rig.handler.react(|_, _, _| {});
    let (_, peer) = rig.connection(1000);
    peer.send(b"x").unwrap();
    rig.passes(3);
    assert_eq!(rig.handler.take(), ["data 2"]);
}

/// G9: at the deadline, the library closes everything, connects under way and connections that are
/// not activated included, and reports the ends before it interrupts.
#[test]
fn a_drain_closes_everything_at_its_deadline() {
    let rig = rig();
    let (id, _peer) = rig.connection(1000);
    rig.handler.queue(id).unwrap().push(&rig.sockman, &[7; 1500]).unwrap();
    let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let (sock, _other) = rig.network.pair(&me, &them).unwrap();
    let _new = rig.sockman.add_existing_connection(sock, &me, &them).unwrap();
    let silent: Service = "10.0.0.9:10".parse().unwrap();
    rig.network.ignore(&silent);
    rig.sockman.start_connect(&silent, &ConnectOptions::default().timeout(LINGER * 9)).unwrap();
    let _place = rig.sockman.shared().reserve().unwrap(); // A connect that blocks its thread.
    rig.network.hold_clock(None);
    let began = rig.network.elapsed();
    rig.sockman.drain_and_stop(LINGER * 2);
    rig.sockman.drain_and_stop(LINGER);
    rig.sockman.drain_and_stop(Duration::MAX);
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let mut passes = 0;
    while thread.pass().unwrap() {
        passes += 1;
    }
    assert_eq!(rig.network.elapsed() - began, LINGER);
    assert!(passes <= 8, "{passes} passes");
    assert_eq!(rig.handler.take(), ["closed 0"]);
    assert_eq!(rig.sockman.stats().connections, 1);
}

/// G9: a connection that is added after the deadline is closed and reported before the interrupt,
/// although the library has closed everything else already.
#[test]
fn a_drain_closes_what_is_added_after_its_deadline() {
    let rig = rig();
    let (id, _peer) = rig.connection(1000);
    rig.sockman.drain_and_stop(Duration::ZERO);
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let mut peers = Vec::new();
    while thread.pass_within(Duration::ZERO).unwrap() {
        if !rig.is_open(id) && peers.is_empty() {
            let (sock, peer) = rig.network.pair(&me, &them).unwrap();
            rig.sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
            peers.push(peer);
        }
    }
    assert_eq!(rig.handler.take(), ["closed 0", "closed 1"]);
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G8, G14: reports that take several passes all come before the threads end.
#[test]
fn a_drain_waits_for_reports_that_take_several_passes() {
    let rig = rig();
    let _peers: Vec<_> = (0..5).map(|_| rig.connection(1000)).collect();
    let network = rig.network.clone();
    rig.handler.react(move |_, _, _| network.advance(Duration::from_millis(1)));
    rig.sockman.drain_and_stop(Duration::ZERO);
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    while thread.pass_within(Duration::ZERO).unwrap() {}
    assert_eq!(rig.handler.take().len(), 5);
}

/// Without a connection, the threads end at once. A connect under way goes on, and its connection
/// is finished.
#[test]
fn a_drain_waits_for_connects_and_finishes_their_connections() {
    let rig = rig();
    rig.sockman.drain_and_stop(LINGER);
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    assert!(thread.pass().unwrap());
    assert!(!thread.pass().unwrap());
    drop(thread);

    let [good, bad]: [Service; 2] = ["10.0.0.9:9", "10.0.0.9:10"].map(|text| text.parse().unwrap());
    rig.network.set_latency(Duration::from_millis(5));
    let listener = rig.network.listen(&good).unwrap();
    for to in [&good, &bad] {
        rig.sockman.start_connect(to, &ConnectOptions::default()).unwrap();
    }
    rig.sockman.drain_and_stop(LINGER);
    rig.network.hold_clock(None);
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let mut peer = None;
    while thread.pass_within(Duration::from_millis(1)).unwrap() {
        peer = peer.or_else(|| listener.accept());
        if let Some(peer) = &peer {
            if peer.receive().1 == Some(Ended::Eof) {
                peer.shutdown_write();
            }
        }
    }
    let mut records = rig.handler.take();
    records.sort();
    assert_eq!(records, ["closed 0", "connected 0", "failed 1"]);
    assert!(rig.network.elapsed() < LINGER);
}
