//! Tests of the effects of one pass on connections, listeners and deadlines.

use std::{
    io,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Ordinals, only};
use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectErrorKind},
    engine::connection::ConnectionId,
    event_handler::{EventHandler, NextRecv},
    options::Options,
    sockman::SockMan,
    sys::{Readiness, errors},
    testing::{Call, Peer},
};

/// A reaction to an outcome. The last argument is the ordinal of the connection.
type Reaction = Box<dyn Fn(&SockMan, usize) + Send>;

/// Records the callbacks. Connections appear in the records as ordinals.
#[derive(Default)]
pub(super) struct Log {
    pub(super) ordinals: Ordinals,
    records: Mutex<Vec<String>>,
    /// Whether `should_try_to_recv` returns `false`.
    pauses_reads: Mutex<bool>,
    deadline: Mutex<Option<Instant>>,
    /// Runs in `event_io_loop_completed_for_all`.
    housekeeping: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Whether the handler panics when it gets data. A handler that panics also records the calls
    /// of `should_try_to_send`.
    panics: Mutex<bool>,
    /// Runs in `event_connect_completed`.
    pub(super) on_outcome: Mutex<Option<Reaction>>,
}

impl Log {
    fn record(&self, id: ConnectionId, what: &str) {
        let ordinal = self.ordinals.of(id);
        self.records.lock().push(format!("{ordinal} {what}"));
    }
}

impl EventHandler for Log {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.record(id, "accepted");
        true
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        if *self.panics.lock() {
            self.record(id, "asked to send");
        }
        false
    }
    fn should_try_to_recv(&self, _: ConnectionId) -> bool {
        !*self.pauses_reads.lock()
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        self.record(id, &format!("data {}", data.len()));
        assert!(!*self.panics.lock(), "on purpose");
    }
    fn event_got_eof(&self, _: &SockMan, id: ConnectionId) {
        self.record(id, "eof");
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, id: ConnectionId, error: &io::Error) {
        self.record(id, &format!("error {}", error.raw_os_error().unwrap()));
    }
    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let what = match outcome {
            Ok(_) => "connected".to_owned(),
            Err(error) => match error.kind() {
                ConnectErrorKind::TimedOut { after, .. } => format!("timed out: {after:?}"),
                ConnectErrorKind::Refused { .. } => "refused".to_owned(),
                ConnectErrorKind::Interrupted => "interrupted".to_owned(),
                ConnectErrorKind::Os { step, .. } => format!("failed: {step}"),
                kind => format!("{kind:?}"),
            },
        };
        self.record(id, &what);
        if let Some(react) = &*self.on_outcome.lock() {
            react(sockman, self.ordinals.of(id));
        }
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        if let Some(housekeeping) = &*self.housekeeping.lock() {
            housekeeping();
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        *self.deadline.lock()
    }
}

pub(super) type Rig = super::Rig<Log>;

impl Rig {
    pub(super) fn new(options: Options) -> Rig {
        Rig::with_handler(Log::default(), options)
    }

    /// Takes and returns the records since the last call of this method.
    pub(super) fn records(&self) -> Vec<String> {
        std::mem::take(&mut self.handler.records.lock())
    }

    pub(super) fn id(&self, ordinal: usize) -> ConnectionId {
        self.handler.ordinals.id(ordinal)
    }

    /// Accepts one connection and runs its first turn.
    fn accept(&self) -> Peer {
        let peer = self.connect_peer();
        self.pass();
        self.pass();
        self.records();
        peer
    }

    fn set_deadline(&self, deadline: Instant) {
        *self.handler.deadline.lock() = Some(deadline);
    }

    fn recv_calls(&self) -> u64 {
        self.network.calls(Call::Recv)
    }
}

pub(super) fn without_sweep() -> Options {
    Options::default().sweep(None)
}

/// G5, and the cost of a message: after a short read, the library makes no `recv` that would find
/// nothing.
#[test]
fn a_short_read_on_tcp_clears_the_latch() {
    let rig = Rig::new(without_sweep());
    let peer = rig.accept();
    peer.send(&[1; 10]).unwrap();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 data 10"]);
    assert_eq!(rig.recv_calls(), 1);
    assert_eq!(rig.network.last_timeout(), None, "nothing is left to do");
}

/// G5: the end of the stream, which causes no further edge, is read after the data.
#[test]
fn a_short_read_after_a_read_closed_event_reads_on() {
    let rig = Rig::new(without_sweep());
    let peer = rig.accept();
    peer.send(&[1; 10]).unwrap();
    peer.shutdown_write();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 data 10", "0 eof"]);
    rig.pass();
    assert_eq!(rig.recv_calls(), 2, "nothing is read after the end of the stream");
}

/// G5: data behind urgent data is read, although it causes no further edge.
#[test]
fn a_short_read_after_urgent_data_reads_on_until_it_would_block() {
    let rig = Rig::new(without_sweep());
    let peer = rig.accept();
    peer.send(&[1; 10]).unwrap();
    peer.send_urgent();
    peer.send(&[2; 5]).unwrap();
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.records(), ["0 data 10", "0 data 5"]);
    assert_eq!(rig.recv_calls(), 3);
}

/// G5: a short read on a unix-domain socket, which ancillary data can cause, does not end reading.
#[test]
fn a_unix_domain_socket_is_read_until_it_would_block() {
    let rig = Rig::new(without_sweep());
    let path = Service::unix("/nowhere").unwrap();
    rig.sockman.bind_and_start_listening(&path).unwrap();
    rig.pass();
    let peer = rig.network.connect(&path).unwrap();
    rig.pass();
    rig.pass();
    rig.records();
    // A receive ends where a piece ends. Both pieces arrive before the next poll.
    peer.set_chunk(Some(10));
    peer.send(&[1; 15]).unwrap();
    rig.network.advance(Duration::from_millis(1));
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.records(), ["0 data 10", "0 data 5"]);
    assert_eq!(rig.recv_calls(), 3);
}

/// G2: a connection whose socket the poller refuses is reported as failed, once.
#[test]
fn a_registration_that_fails_is_reported_as_a_read_error() {
    let rig = Rig::new(without_sweep());
    rig.fail_registrations();
    let _peer = rig.connect_peer();
    for _ in 0..4 {
        rig.pass();
    }
    assert_eq!(
        rig.records(),
        ["0 accepted".to_owned(), format!("0 error {}", errors::ENOSPC)],
        "the error is reported once"
    );
}

/// G2: a connection whose socket the poller refuses is reported even if its reads are paused. The
/// embedder may resume only when it can send, but the poller never reports room on this socket.
#[test]
fn a_failed_registration_is_reported_although_reads_are_paused() {
    let rig = Rig::new(without_sweep());
    rig.fail_registrations();
    *rig.handler.pauses_reads.lock() = true;
    let _peer = rig.connect_peer();
    for _ in 0..4 {
        rig.pass();
    }
    assert_eq!(rig.records(), ["0 accepted".to_owned(), format!("0 error {}", errors::ENOSPC)]);
}

/// G1: a new connection takes the slot of a closed one at once. An event for the closed connection
/// does not reach the new connection.
#[test]
fn a_late_event_does_not_reach_the_next_connection_in_its_slot() {
    let rig = Rig::new(without_sweep());
    let _old = rig.accept();
    let token = only(&rig.connections());
    assert!(rig.sockman.close_connection(rig.id(0)));
    let new = rig.connect_peer();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["1 accepted"]);
    new.send(&[1; 10]).unwrap();
    rig.network.inject_event(Readiness { token, readable: true, ..Readiness::default() });
    rig.pass();
    assert_eq!(rig.records(), Vec::<String>::new());
    assert_eq!(rig.recv_calls(), 0);
    rig.pass();
    assert_eq!(rig.records(), ["1 data 10"], "the own event of the new connection reaches it");
}

/// G11: a listener whose socket the poller refuses is registered after a back-off, in the same way
/// as an accept that lacks a resource.
#[test]
fn a_listener_that_cannot_be_registered_is_registered_later() {
    let rig = Rig::new(without_sweep());
    rig.fail_registrations();
    rig.sockman.bind_and_start_listening("10.0.0.1:2").unwrap();
    rig.pass();
    for pause in [100, 200, 400, 800, 1000, 1000] {
        rig.pass();
        assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(pause)));
        assert_eq!(rig.listeners().len(), 1, "only the first listener is registered");
        rig.network.advance(Duration::from_millis(pause));
        rig.pass();
    }
    rig.network.heal();
    rig.network.advance(Duration::from_secs(1));
    rig.pass();
    rig.pass();
    assert_eq!(rig.listeners().len(), 2);
    assert_eq!(rig.network.last_timeout(), None, "the back-off is over");
}

/// G11: the back-offs grow from 100 ms to 1 s and end when descriptors are available again.
#[test]
fn a_listener_backs_off_while_descriptors_are_exhausted() {
    let rig = Rig::new(without_sweep());
    let accept_calls = || rig.network.calls(Call::Accept);
    let mut calls = accept_calls();
    rig.network.set_descriptor_limit(Some(rig.network.descriptors()));
    let _peer = rig.connect_peer();
    for pause in [100, 200, 400, 800, 1000, 1000] {
        rig.pass();
        calls += 1;
        assert_eq!(accept_calls(), calls);
        rig.pass();
        assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(pause)));
        assert_eq!(accept_calls(), calls, "the listener makes no accept during the back-off");
        rig.network.advance(Duration::from_millis(pause));
    }
    assert_eq!(rig.sockman.stats().accept_pauses, 6);
    rig.network.set_descriptor_limit(None);
    for _ in 0..4 {
        rig.pass();
    }
    assert_eq!(rig.records(), ["0 accepted"]);
    assert_eq!(rig.network.last_timeout(), None, "the episode is over");
}

/// G11: a client that has gone does not pause the listener, and a signal does not pause it either.
#[test]
fn an_aborted_connection_does_not_pause_the_listener() {
    let rig = Rig::new(without_sweep());
    rig.network.fail_next(Call::Accept, errors::ECONNABORTED);
    rig.network.fail_next(Call::Accept, errors::EINTR);
    let _peer = rig.connect_peer();
    rig.pass();
    assert_eq!(rig.records(), ["0 accepted"]);
    assert_eq!(rig.sockman.stats().accept_pauses, 0);
}

/// G7, G11: whatever error an accept has, a listener whose accepts all fail backs off, with one
/// pause counted for each try. Accepting resumes by itself. `EAGAIN` is no failure.
#[test]
fn an_accept_that_always_fails_pauses_the_listener_whatever_the_errno() {
    let unknown = 4095;
    let errnos = Call::Accept.errors().iter().copied().filter(|errno| *errno != errors::EAGAIN);
    // Miri is slow: some errors make 30,000 calls.
    let tried = if cfg!(miri) { 1 } else { usize::MAX };
    for errno in errnos.chain([errors::EACCES, errors::ENOSYS, unknown]).take(tried) {
        let rig = Rig::new(without_sweep());
        let peer = rig.connect_peer();
        rig.network.fail_always(Call::Accept, errno);
        let mut passes = 0;
        let began = rig.network.elapsed();
        rig.network.hold_clock(Some(Duration::from_secs(10)));
        while rig.network.elapsed() - began < Duration::from_secs(10) {
            rig.pass();
            passes += 1;
            assert!(passes <= 250, "errno {errno}: the loop spins");
        }
        assert!(rig.sockman.stats().accept_pauses >= 9, "errno {errno}");
        assert!(rig.network.calls(Call::Accept) <= 30_000, "errno {errno}");
        rig.network.heal();
        rig.network.hold_clock(Some(Duration::from_millis(1001)));
        rig.pass();
        rig.pass();
        assert_eq!(rig.records(), ["0 accepted"], "errno {errno}");
        drop(peer);
    }
}

/// G11: an error that does not concern one client pauses the listener the first time it occurs.
#[test]
fn an_accept_that_is_forbidden_pauses_the_listener_at_once() {
    for errno in [errors::EPERM, errors::EACCES, errors::ENOBUFS, errors::EINVAL, 4095] {
        let rig = Rig::new(without_sweep());
        let _peer = rig.connect_peer();
        rig.network.fail_next(Call::Accept, errno);
        let before = rig.network.calls(Call::Accept);
        rig.pass();
        assert_eq!(rig.network.calls(Call::Accept), before + 1, "errno {errno}");
        assert_eq!(rig.sockman.stats().accept_pauses, 1, "errno {errno}");
        assert_eq!(rig.network.last_timeout(), None);
    }
}

/// G11: an error that consumes one client does not pause the listener, also if a batch of them
/// comes at once.
#[test]
fn many_aborted_connections_do_not_pause_the_listener() {
    let rig = Rig::new(without_sweep());
    for _ in 0..100 {
        rig.network.fail_next(Call::Accept, errors::ECONNABORTED);
    }
    let _peer = rig.connect_peer();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 accepted"]);
    assert_eq!(rig.sockman.stats().accept_pauses, 0);
}

/// G11: a receive that lacks memory or buffers once is repeated after a pause, and the data that
/// waits is delivered. A lack that lasts makes few passes and is never reported as an error.
#[test]
fn a_receive_that_lacks_buffers_is_repeated_after_a_pause() {
    for errno in [errors::ENOBUFS, errors::ENOMEM, errors::EINTR] {
        let rig = Rig::new(without_sweep());
        let peer = rig.accept();
        let before = rig.records();
        rig.network.fail_always(Call::Recv, errno);
        peer.send(&[1; 10]).unwrap();
        peer.shutdown_write();
        let until = rig.network.now() + Duration::from_secs(10);
        let passes = rig.sockman.stats().passes;
        rig.network.hold_clock(Some(Duration::from_secs(10)));
        while rig.network.now() < until {
            rig.pass();
        }
        let passes = rig.sockman.stats().passes - passes;
        assert!((40..=200).contains(&passes), "errno {errno}: {passes} passes in ten seconds");
        assert_eq!(rig.records(), before, "errno {errno}");
        rig.network.heal();
        rig.network.hold_clock(Some(Duration::from_millis(201)));
        for _ in 0..6 {
            rig.pass();
        }
        assert_eq!(rig.records()[before.len()..], ["0 data 10", "0 eof"], "errno {errno}");
    }
}

/// G8, recv(2): a receive that signals interrupt is made 16 times in a turn.
#[test]
fn a_receive_that_signals_interrupt_is_made_a_bounded_number_of_times() {
    let rig = Rig::new(without_sweep());
    let peer = rig.accept();
    rig.network.fail_always(Call::Recv, errors::EINTR);
    let before = rig.network.calls(Call::Recv);
    peer.send(&[1; 10]).unwrap();
    rig.pass();
    assert_eq!(rig.network.calls(Call::Recv) - before, 16);
}

/// G11: an accepted socket whose local address cannot be read for lack of buffers is kept.
#[test]
fn a_client_whose_local_address_lacks_buffers_is_reported_later() {
    let rig = Rig::new(without_sweep());
    rig.sockman.bind_and_start_listening("0.0.0.0:9").unwrap();
    rig.pass();
    rig.network.fail_next(Call::LocalAddress, errors::ENOBUFS);
    let _peer = rig.network.connect(&"0.0.0.0:9".parse().unwrap()).unwrap();
    rig.pass();
    assert_eq!((rig.records().len(), rig.sockman.stats().accept_pauses), (0, 1));
    rig.network.hold_clock(Some(Duration::from_millis(100)));
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 accepted"]);
}

/// G8: a listener accepts one batch per pass, and the remaining clients in the next passes.
#[test]
fn one_pass_accepts_one_batch() {
    let batch = 3;
    let rig = Rig::new(without_sweep().accept_batch(batch));
    let _peers: Vec<Peer> = (0..7).map(|_| rig.connect_peer()).collect();
    for accepted in [3, 3, 1, 0] {
        rig.pass();
        assert_eq!(rig.records().len(), accepted);
    }
}

/// G7: at the connection limit the listener makes no accept and does not keep the loop awake.
#[test]
fn a_listener_rests_at_the_connection_cap() {
    let rig = Rig::new(without_sweep().max_connections(1));
    let _first = rig.accept();
    let accept_calls = rig.network.calls(Call::Accept);
    let _second = rig.connect_peer();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), Vec::<String>::new());
    assert_eq!(rig.network.calls(Call::Accept), accept_calls);
    assert_eq!(rig.network.last_timeout(), None);
    rig.sockman.close_connection(rig.id(0));
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["1 accepted"]);
}

/// G7: a deadline in the past causes one immediate pass. A later deadline causes another pass.
#[test]
fn a_deadline_in_the_past_causes_one_immediate_pass() {
    let rig = Rig::new(without_sweep());
    let now = rig.network.now();
    rig.set_deadline(now);
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None, "the same deadline");
    rig.set_deadline(now - Duration::from_nanos(1));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None, "an older deadline");
    rig.set_deadline(now + Duration::from_millis(7));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(7)));
    rig.network.advance(Duration::from_millis(8));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO), "a new deadline has passed");
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
}

/// G7: the sweep comes once per period, and the poller sleeps until then.
#[test]
fn the_sweep_runs_once_per_period() {
    let rig = Rig::new(Options::default());
    let _peer = rig.accept();
    let sweeps = rig.sockman.stats().sweeps;
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(50)));
    rig.network.advance(Duration::from_millis(49));
    rig.pass();
    rig.pass();
    assert_eq!(rig.sockman.stats().sweeps, sweeps);
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(1)));
    rig.network.advance(Duration::from_millis(1));
    rig.pass();
    assert_eq!(rig.sockman.stats().sweeps, sweeps + 1);
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(50)));
}

/// G7: with a period that the clock cannot represent, no sweep comes and nothing panics.
#[test]
fn a_sweep_with_an_endless_period_never_runs() {
    let rig = Rig::new(Options::default().sweep(Some(Duration::MAX)));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
    assert_eq!(rig.sockman.stats().sweeps, 0);
}

/// G7: a deadline that keeps moving to just before the current time does not make the loop spin,
/// and each new deadline gets its pass.
#[test]
fn deadlines_in_the_past_that_move_on_cause_a_pass_each_millisecond() {
    let rig = Rig::new(without_sweep());
    let now = rig.network.now();
    rig.set_deadline(now - Duration::from_secs(2));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO));
    rig.set_deadline(now - Duration::from_secs(1));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(1)));
    rig.network.advance(Duration::from_millis(1));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
}

/// G9: the time that callbacks take does not delay a deadline.
#[test]
fn a_deadline_is_not_late_by_the_time_of_the_callbacks() {
    let rig = Rig::new(without_sweep());
    let network = rig.network.clone();
    *rig.handler.housekeeping.lock() =
        Some(Box::new(move || network.advance(Duration::from_millis(200))));
    rig.set_deadline(rig.network.now() + Duration::from_millis(210));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(10)));
}

/// G5: after a restart the send hook is asked about a reply that a callback queued before it
/// panicked.
#[test]
fn the_send_hook_is_asked_after_a_panic_in_a_callback() {
    let rig = Rig::new(without_sweep());
    let peer = rig.accept();
    // The window is closed, so that the event of the data does not report room. An event that
    // reports room would cause the question to the hook in any case.
    peer.set_window(0);
    peer.send(&[1; 10]).unwrap();
    *rig.handler.panics.lock() = true;
    let pass = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.pass()));
    assert!(pass.is_err());
    rig.records();
    rig.pass();
    assert_eq!(rig.records(), ["0 asked to send"]);
}

/// Returns the records of a connection that the peer reset. A send receives the socket's error with
/// this code before the poller reports anything.
fn records_after_a_send_failed_with(code: i32) -> Vec<String> {
    let rig = Rig::new(without_sweep());
    let peer = rig.accept();
    if code == errors::EPIPE {
        peer.shutdown_write();
    }
    peer.reset();
    let error = rig.sockman.send_bytes(rig.id(0), b"x").unwrap_err();
    let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>());
    assert_eq!(source.and_then(io::Error::raw_os_error), Some(code));
    for _ in 0..3 {
        rig.pass();
    }
    rig.records()
}

/// G5: on TCP, a broken pipe is reported as a reset that came after the end of the stream. Both are
/// reported.
#[test]
fn the_end_is_reported_before_a_reset_that_a_send_reported_as_a_broken_pipe() {
    let broken_pipe = format!("0 error {}", errors::EPIPE);
    assert_eq!(records_after_a_send_failed_with(errors::EPIPE), ["0 eof".to_owned(), broken_pipe]);
}

/// G5: a reset without a previous end of the stream is reported as a read error, and not as the end
/// of the stream.
#[test]
fn a_reset_that_a_send_received_is_reported_as_a_read_error() {
    let reset = format!("0 error {}", errors::ECONNRESET);
    assert_eq!(records_after_a_send_failed_with(errors::ECONNRESET), [reset]);
}
