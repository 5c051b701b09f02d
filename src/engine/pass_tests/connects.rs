//! Tests of the connects that the socket thread drives.

use std::time::Duration;

use super::only;
use super::pass::{Rig, without_sweep};
use crate::{
    address::{Destination, Service},
    dial::ConnectOptions,
    engine::connection::ConnectionId,
    sys::interrupt::Interrupt,
    sys::{Readiness, errors},
    testing::{Call, PeerListener},
};

const NOTHING: [String; 0] = [];

/// How long a connect over TCP is in progress, unless the network ignores it.
const LATENCY: Duration = Duration::from_millis(20);

/// The number of open descriptors when only the listener of the rig is open.
const LISTENER_ALONE: usize = 1;

fn tcp() -> Service {
    "10.0.0.2:2".parse().unwrap()
}

/// An address to which a connect completes at once if there is a listener.
fn unix() -> Service {
    Service::unix("/nowhere").unwrap()
}

/// Options without a timeout, so that the connect has no timer.
fn without_timeout() -> ConnectOptions {
    ConnectOptions::default().timeout(Duration::MAX)
}

impl Rig {
    /// Makes a peer listen at this address, for the connects of the test.
    fn listen(&self, at: &Service) -> PeerListener {
        self.network.listen(at).unwrap()
    }

    /// Begins a connect. The id of the connect gets the next ordinal.
    fn start(&self, to: &Service, options: &ConnectOptions) -> ConnectionId {
        let id = self.sockman.start_connect(Destination::from(to), options).unwrap();
        self.handler.ordinals.of(id);
        id
    }

    /// Begins a connect over TCP that takes [`LATENCY`], and runs the pass that registers it.
    fn start_in_progress(&self, options: &ConnectOptions) -> ConnectionId {
        let before = self.attempts().len();
        self.network.set_latency(LATENCY);
        let id = self.start(&tcp(), options);
        self.pass();
        assert_eq!(self.attempts().len(), before + 1);
        id
    }

    /// Moves the clock so that the connects in progress complete. The connects succeed, or are
    /// refused if no peer listens.
    fn complete(&self) {
        self.network.advance(LATENCY);
    }

    fn connect_calls(&self) -> u64 {
        self.network.calls(Call::Connect)
    }
}

/// G2: the outcome is reported before the data, and each is reported once.
#[test]
fn a_connect_in_progress_is_reported_when_its_socket_is_connected() {
    let rig = Rig::new(without_sweep());
    let listener = rig.listen(&tcp());
    let id = rig.start_in_progress(&without_timeout());
    rig.pass();
    assert_eq!(rig.records(), NOTHING);
    assert_eq!(
        rig.network.last_timeout(),
        None,
        "the loop has nothing to do until the socket is connected"
    );
    assert!(rig.sockman.connection_info(id).is_none());
    rig.complete();
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    assert!(rig.sockman.connection_info(id).is_some());
    assert_eq!((rig.connections().len(), rig.attempts().len()), (1, 0), "registered anew");
    let peer = listener.accept().unwrap();
    peer.send(&[1; 10]).unwrap();
    rig.network.advance(LATENCY);
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 data 10"]);
    assert_eq!(rig.connect_calls(), 1);
}

/// The cost of a connect: the kernel is asked for each address once, and for no error of a socket
/// that has a peer. The socket is registered once if it is connected when the socket thread takes
/// the attempt over.
#[test]
fn a_connect_that_succeeds_makes_no_needless_system_call() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    let needed = [
        (Call::Socket, 1),
        (Call::Connect, 1),
        (Call::LocalAddress, 1),
        (Call::PeerAddress, 1),
        (Call::TakeError, 0),
        (Call::Register, 1),
        (Call::Deregister, 0),
    ];
    let before = needed.map(|(call, _)| rig.network.calls(call));
    rig.start(&tcp(), &without_timeout());
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    for ((call, count), before) in needed.into_iter().zip(before) {
        assert_eq!(rig.network.calls(call) - before, count, "{call:?}");
    }
}

/// G2: an event on a socket without a peer is no outcome and leaves nothing to do.
#[test]
fn a_spurious_event_does_not_end_an_attempt() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    rig.start_in_progress(&without_timeout());
    let token = only(&rig.attempts());
    rig.network.inject_event(Readiness { token, writable: true, ..Readiness::default() });
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), NOTHING);
    assert_eq!(rig.network.last_timeout(), None);
    rig.complete();
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
}

/// G2: a connect that a signal interrupts (EINTR) continues in the kernel and is not repeated.
#[test]
fn an_interrupted_system_call_is_a_connect_in_progress() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    rig.network.fail_next(Call::Connect, errors::EINTR);
    rig.start(&tcp(), &without_timeout());
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    assert_eq!(rig.connect_calls(), 1);
}

/// G2: the next pass, on the socket thread, reports a connect that succeeded at once.
#[test]
fn a_connect_that_succeeds_at_once_is_reported_in_the_next_pass() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&unix());
    rig.start(&unix(), &without_timeout());
    assert_eq!(rig.records(), NOTHING);
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    assert_eq!(rig.connections().len(), 1);
    assert_eq!(rig.sockman.stats().connected, 1);
}

/// G13: a connect for which the kernel chooses the destination's own port is refused, although its
/// socket has a peer.
#[test]
fn a_connect_that_reaches_its_own_socket_is_refused() {
    let rig = Rig::new(without_sweep());
    // The ports of the network ascend from 49152, so one of these connects gets the port 49200.
    let to: Service = "10.0.0.2:49200".parse().unwrap();
    for ordinal in 0..100 {
        rig.start(&to, &without_timeout());
        rig.pass();
        assert_eq!(rig.records(), [format!("{ordinal} refused")]);
        assert_eq!(rig.network.descriptors(), LISTENER_ALONE);
    }
}

/// G11: a connect that failed leaves nothing behind: no place, no descriptor, no timer.
#[test]
fn a_connect_that_is_refused_leaves_nothing() {
    let rig = Rig::new(without_sweep().max_connections(1));
    let id = rig.start_in_progress(&ConnectOptions::default());
    assert_eq!(rig.sockman.stats().connections, 1);
    rig.complete();
    rig.pass();
    assert_eq!(rig.records(), ["0 refused"]);
    assert_eq!(rig.network.descriptors(), LISTENER_ALONE);
    assert!(!rig.sockman.close_connection(id));
    rig.pass();
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None, "no deadline is left");
    let stats = rig.sockman.stats();
    assert_eq!((stats.connections, stats.connected, stats.closed), (0, 0, 0));
    assert_eq!(rig.records(), NOTHING);
}

/// G11: the peer accepts a connect, and resets it before the socket thread has looked. A broken socket
/// has no peer (getpeername(2)), and the error is the attempt's.
#[test]
fn a_connect_that_succeeds_and_is_reset_fails_with_the_reset() {
    let rig = Rig::new(without_sweep());
    let listener = rig.listen(&tcp());
    rig.start_in_progress(&without_timeout());
    rig.complete();
    listener.accept().unwrap().reset();
    rig.network.advance(LATENCY);
    rig.pass();
    assert_eq!(rig.records(), ["0 failed: connect"]);
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G9: the poller waits until the deadline. The attempt ends exactly at its deadline.
#[test]
fn a_connect_without_an_answer_ends_at_its_deadline_and_not_before() {
    let rig = Rig::new(without_sweep());
    rig.network.ignore(&tcp());
    let timeout = Duration::from_millis(700);
    rig.start_in_progress(&ConnectOptions::default().timeout(timeout));
    rig.pass();
    assert_eq!(rig.network.last_timeout(), Some(timeout));
    rig.network.advance(timeout - Duration::from_nanos(1));
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), NOTHING);
    assert_eq!(rig.network.last_timeout(), Some(Duration::from_nanos(1)));
    rig.network.advance(Duration::from_nanos(1));
    rig.pass();
    assert_eq!(rig.records(), ["0 timed out: 700ms"]);
    assert_eq!(rig.network.descriptors(), LISTENER_ALONE);
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
}

/// G9: a connect that succeeded before its deadline does not time out, even if the socket thread
/// was stopped and sees the success later.
#[test]
fn a_connect_that_succeeded_by_its_deadline_does_not_time_out_however_late_it_is_seen() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    let timeout = Duration::from_millis(700);
    let id = rig.start_in_progress(&ConnectOptions::default().timeout(timeout));
    rig.network.advance(timeout * 2);
    // The poller does not report the socket yet. Only the attempt's timer causes a step.
    let token = only(&rig.listeners());
    rig.network.inject_event(Readiness { token, readable: true, ..Readiness::default() });
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    let since = rig.sockman.connection_info(id).unwrap().since;
    assert_eq!(since, rig.network.now(), "the connection counts from the time of the pass");
}

/// G7: a connect to a full backlog is retried after 1 ms. Each wait is twice the previous one, up
/// to 50 ms, and no retry comes earlier.
#[test]
fn retries_of_a_connect_to_a_full_unix_backlog_become_rarer() {
    let rig = Rig::new(without_sweep());
    let listener = rig.listen(&unix());
    listener.set_backlog(0);
    rig.start(&unix(), &without_timeout());
    for (calls, pause) in (1..).zip([1, 2, 4, 8, 16, 32, 50, 50]) {
        rig.pass();
        rig.pass();
        assert_eq!(rig.connect_calls(), calls);
        assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(pause)));
        assert!(
            rig.attempts().is_empty(),
            "the poller does not watch a socket that has not begun to connect"
        );
        rig.network.advance(Duration::from_millis(pause));
    }
    rig.pass();
    rig.network.advance(Duration::from_millis(50));
    listener.set_backlog(1);
    assert_eq!(rig.records(), NOTHING);
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    assert_eq!(rig.connect_calls(), 10);
}

/// G9: the pause between two tries does not extend beyond the deadline.
#[test]
fn a_connect_to_a_full_unix_backlog_is_given_up_at_the_deadline() {
    let rig = Rig::new(without_sweep());
    let listener = rig.listen(&unix());
    listener.set_backlog(0);
    let timeout = Duration::from_millis(2);
    rig.start(&unix(), &ConnectOptions::default().timeout(timeout));
    rig.pass();
    rig.network.advance(Duration::from_millis(1));
    rig.pass();
    rig.pass();
    assert_eq!(
        rig.network.last_timeout(),
        Some(Duration::from_millis(1)),
        "the wait lasts until the deadline, not 2 ms"
    );
    rig.network.advance(Duration::from_millis(1));
    rig.pass();
    assert_eq!(rig.records(), ["0 timed out: 2ms"]);
}

/// G8: a pass reports one batch of outcomes, and the next passes report the rest.
#[test]
fn one_pass_reports_one_batch_of_outcomes() {
    let rig = Rig::new(without_sweep().accept_batch(3));
    let _listener = rig.listen(&unix());
    for _ in 0..7 {
        rig.start(&unix(), &without_timeout());
    }
    for (reported, left) in [(3, 4), (3, 1), (1, 0)] {
        rig.pass();
        assert_eq!(rig.records().len(), reported);
        let waits = rig.sockman.stats().connections - rig.sockman.stats().connected as usize;
        assert_eq!(waits, left);
    }
    rig.pass();
    assert_eq!(rig.records().len(), 0);
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
}

/// G8: a pass also reports at most one batch of connects that time out together.
#[test]
fn one_pass_reports_one_batch_of_time_outs() {
    let rig = Rig::new(without_sweep().accept_batch(3));
    rig.network.ignore(&tcp());
    for _ in 0..7 {
        rig.start(&tcp(), &ConnectOptions::default());
    }
    for _ in 0..4 {
        rig.pass();
    }
    rig.network.hold_clock(Some(Duration::from_secs(5)));
    for reported in [3, 3, 1, 0] {
        rig.pass();
        assert_eq!(rig.records().len(), reported);
        if reported == 1 {
            assert_eq!(
                rig.network.last_timeout(),
                Some(Duration::ZERO),
                "one outcome was left to report"
            );
        }
    }
}

/// G9, G14: an interrupt ends the batch, and the next start reports the remaining outcomes.
#[test]
fn an_interrupt_in_an_outcome_leaves_the_others_for_the_next_start() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&unix());
    for _ in 0..3 {
        rig.start(&unix(), &without_timeout());
    }
    *rig.handler.on_outcome.lock() = Some(Box::new(|sockman, _| sockman.interrupt()));
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    assert!(rig.sockman.reset_interrupt());
    *rig.handler.on_outcome.lock() = None;
    rig.pass();
    assert_eq!(rig.records(), ["1 connected", "2 connected"]);
}

/// G2: an attempt whose socket the poller refuses fails.
#[test]
fn an_attempt_that_cannot_be_registered_fails() {
    let rig = Rig::new(without_sweep());
    rig.network.ignore(&tcp());
    rig.fail_registrations();
    rig.start(&tcp(), &without_timeout());
    rig.pass();
    assert_eq!(rig.records(), ["0 failed: poll"]);
    assert_eq!(rig.network.descriptors(), LISTENER_ALONE);
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G2: a connection whose socket the poller refuses is reported as connected, and then as failed.
#[test]
fn a_connection_that_cannot_be_registered_anew_is_reported_as_a_read_error() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    rig.start_in_progress(&without_timeout());
    rig.fail_registrations();
    rig.complete();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 connected".to_owned(), format!("0 error {}", errors::ENOSPC)]);
}

/// G1: an event for an attempt that is over does not reach the attempt that took its slot.
#[test]
fn a_late_event_of_an_attempt_does_not_reach_the_next_attempt() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    let old = rig.start_in_progress(&without_timeout());
    let token = only(&rig.attempts());
    assert!(rig.sockman.close_connection(old));
    rig.start_in_progress(&without_timeout());
    // After this, a step would find the new attempt connected.
    rig.complete();
    rig.network.inject_event(Readiness { token, writable: true, ..Readiness::default() });
    rig.pass();
    assert_eq!(rig.records(), NOTHING);
    rig.pass();
    assert_eq!(rig.records(), ["1 connected"], "the own event of the new attempt reaches it");
}

/// G4: an attempt that is closed between its event and its step has no outcome and leaves nothing
/// behind.
#[test]
fn a_connect_closed_in_the_outcome_of_another_is_not_reported() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    rig.start_in_progress(&ConnectOptions::default());
    let second = rig.start_in_progress(&ConnectOptions::default());
    // After one more poll the events come in the order of the connects.
    rig.pass();
    *rig.handler.on_outcome.lock() = Some(Box::new(move |sockman, _| {
        assert!(sockman.close_connection(second));
        assert!(!sockman.close_connection(second));
    }));
    rig.complete();
    rig.pass();
    rig.pass();
    assert_eq!(rig.records(), ["0 connected"]);
    assert_eq!(rig.network.descriptors(), LISTENER_ALONE + 1, "the first connection's");
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
    let stats = rig.sockman.stats();
    assert_eq!((stats.connections, stats.connected, stats.closed), (1, 1, 1));
}

/// G9: the attempt's own interrupt ends that attempt alone, in the next pass, before its deadline.
#[test]
fn a_cancelled_attempt_ends_in_the_next_pass() {
    let rig = Rig::new(without_sweep());
    let _listener = rig.listen(&tcp());
    let cancel = Interrupt::new();
    rig.start_in_progress(&ConnectOptions::default().cancel(cancel.clone()));
    rig.start_in_progress(&without_timeout().cancel(Interrupt::new()));
    cancel.interrupt();
    // The attempt sees the interrupt even after the reset.
    cancel.reset();
    rig.pass();
    assert_eq!(rig.records(), ["0 interrupted"]);
    assert_eq!(rig.network.descriptors(), LISTENER_ALONE + 1, "the other attempt's");
    rig.pass();
    assert_eq!(rig.network.last_timeout(), None);
    rig.complete();
    rig.pass();
    assert_eq!(rig.records(), ["1 connected"]);
}

/// G14: with no thread running, a close frees the descriptor at once, at every stage of an attempt.
#[test]
fn a_close_with_no_thread_running_frees_the_descriptor_of_an_attempt() {
    let rig = Rig::new(without_sweep());
    let cancel = Interrupt::new();
    let options = without_timeout().cancel(cancel.clone());
    let close = |id| {
        assert_eq!(rig.network.descriptors(), LISTENER_ALONE + 1);
        assert!(rig.sockman.close_connection(id));
        rig.network.descriptors()
    };
    let waits_in_the_inbox = rig.start(&tcp(), &options);
    assert_eq!(close(waits_in_the_inbox), LISTENER_ALONE);
    let taken_over = rig.start_in_progress(&options);
    assert_eq!(close(taken_over), LISTENER_ALONE);
    let cancelled = rig.start_in_progress(&options);
    cancel.interrupt();
    assert_eq!(close(cancelled), LISTENER_ALONE, "the mark of the cancel keeps no descriptor open");
    rig.pass();
    assert_eq!(rig.records(), NOTHING);
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G14: a cancel that comes when the attempt is over keeps no descriptor open.
#[test]
fn a_cancel_during_the_outcome_keeps_no_descriptor() {
    let rig = Rig::new(without_sweep());
    let cancel = Interrupt::new();
    rig.start_in_progress(&without_timeout().cancel(cancel.clone()));
    *rig.handler.on_outcome.lock() = Some(Box::new(move |_, _| cancel.interrupt()));
    rig.complete();
    rig.pass();
    assert_eq!(rig.records(), ["0 refused"]);
    assert_eq!(rig.network.descriptors(), LISTENER_ALONE);
}

/// G8, G2: a connect that was begun in an outcome is reported in a later pass.
#[test]
fn a_connect_begun_in_an_outcome_is_reported_in_a_later_pass() {
    let rig = Rig::new(without_sweep().max_connections(1));
    let _listener = rig.listen(&unix());
    rig.start_in_progress(&without_timeout());
    *rig.handler.on_outcome.lock() = Some(Box::new(|sockman, ordinal| {
        if ordinal == 0 {
            // The new connect takes the place of the failed one.
            sockman.start_connect(Destination::from(unix()), &without_timeout()).unwrap();
        }
    }));
    rig.complete();
    rig.pass();
    assert_eq!(rig.records(), ["0 refused"]);
    rig.pass();
    assert_eq!(rig.records(), ["1 connected"]);
}
