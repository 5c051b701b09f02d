//! Connects that the socket thread drives, one pass at a time, over scripted sockets and a clock that
//! stands still.

use std::{num::NonZeroUsize, os::fd::RawFd, time::Duration};

use super::pass::{READABLE, Rig, without_sweep};
use crate::{
    address::{Destination, Service},
    dial::ConnectOptions,
    engine::connection::ConnectionId,
    engine::slab::Token,
    sys::Readiness,
    sys::interrupt::Interrupt,
};

const WRITABLE: Readiness = Readiness { readable: false, writable: true, ..READABLE };

const NOTHING: [String; 0] = [];

fn tcp() -> Destination {
    "10.0.0.2:2".parse().unwrap()
}

fn unix() -> Destination {
    Service::unix("/nowhere").unwrap().into()
}

/// Without a time-out of the library's own, which would be a timer.
fn for_ever() -> ConnectOptions {
    ConnectOptions::default().timeout(Duration::MAX)
}

impl Rig {
    /// Begins a connect whose socket says these things.
    fn start(
        &self,
        to: &Destination,
        options: &ConnectOptions,
        connects: impl IntoIterator<Item = Result<(), i32>>,
    ) -> (ConnectionId, RawFd) {
        let fd = self.machine.upcoming_fd();
        self.machine.script(fd, |script| script.connects.extend(connects));
        (self.sockman.start_connect(to, options).unwrap(), fd)
    }

    /// Begins one that is under way, and lets the poller have it.
    fn start_in_progress(&self, options: &ConnectOptions) -> (ConnectionId, RawFd) {
        let (id, fd) = self.start(&tcp(), options, [Err(libc::EINPROGRESS)]);
        self.machine.script(fd, |script| script.has_no_peer = true);
        self.pass();
        assert!(matches!(self.machine.token(fd), Some(Token::Attempt(_))));
        (id, fd)
    }

    /// The kernel has connected it, and says so.
    fn connects(&self, fd: RawFd) {
        self.machine.script(fd, |script| script.has_no_peer = false);
        self.machine.event(fd, WRITABLE);
    }

    /// The kernel's connect has failed, and it says so.
    fn fails(&self, fd: RawFd, code: i32) {
        self.machine.script(fd, |script| script.socket_error = Some(code));
        self.machine.event(fd, Readiness { broken: true, ..WRITABLE });
    }

    fn connect_calls(&self, fd: RawFd) -> usize {
        self.machine.script(fd, |script| script.connect_calls)
    }

    fn is_closed(&self, fd: RawFd) -> bool {
        self.machine.script(fd, |script| script.closed)
    }
}

/// G2: the outcome, then the rest; and each of them once.
#[test]
fn a_connect_in_progress_is_told_when_its_socket_is_connected() {
    let rig = Rig::new(without_sweep());
    let (id, fd) = rig.start_in_progress(&for_ever());
    rig.pass();
    assert_eq!(rig.log.take(), NOTHING);
    assert_eq!(rig.machine.last_timeout(), None, "nothing is to be done until the socket says so");
    assert!(rig.sockman.connection_info(id).is_none());
    rig.connects(fd);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    assert!(rig.sockman.connection_info(id).is_some());
    assert!(matches!(rig.machine.token(fd), Some(Token::Connection(_))), "registered anew");
    rig.receive(fd, [Ok(vec![1; 10])]);
    rig.machine.event(fd, READABLE);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 data 10"]);
    assert_eq!(rig.connect_calls(fd), 1);
}

/// G2: readiness without a peer is no outcome, and no reason to look again.
#[test]
fn a_spurious_event_is_no_outcome() {
    let rig = Rig::new(without_sweep());
    let (_, fd) = rig.start_in_progress(&for_ever());
    rig.machine.event(fd, WRITABLE);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), NOTHING);
    assert_eq!(rig.machine.last_timeout(), None);
    rig.connects(fd);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
}

/// G2: a connect that a signal interrupts goes on by itself.
#[test]
fn an_interrupted_system_call_is_a_connect_in_progress() {
    let rig = Rig::new(without_sweep());
    let (_, fd) = rig.start(&tcp(), &for_ever(), [Err(libc::EINTR)]);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    assert_eq!(rig.connect_calls(fd), 1);
}

/// G2: what succeeds at once is told by the next pass, from the socket thread.
#[test]
fn a_connect_that_succeeds_at_once_is_told_in_the_next_pass() {
    let rig = Rig::new(without_sweep());
    let (_, fd) = rig.start(&tcp(), &for_ever(), [Ok(())]);
    assert_eq!(rig.log.take(), NOTHING);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    assert!(matches!(rig.machine.token(fd), Some(Token::Connection(_))));
    assert_eq!(rig.sockman.stats().connected, 1);
}

/// G11: nothing is left of one that failed: no place, no descriptor, no timer.
#[test]
fn a_connect_that_is_refused_leaves_nothing() {
    let rig = Rig::new(without_sweep().max_connections(1));
    let (id, fd) = rig.start_in_progress(&ConnectOptions::default());
    assert_eq!(rig.sockman.stats().connections, 1);
    rig.fails(fd, libc::ECONNREFUSED);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 refused"]);
    assert!(rig.is_closed(fd));
    assert!(!rig.sockman.close_connection(id));
    rig.pass();
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None, "its deadline has gone with it");
    let stats = rig.sockman.stats();
    assert_eq!((stats.connections, stats.connected, stats.closed), (0, 0, 0));
    assert_eq!(rig.log.take(), NOTHING);
}

/// G9: the poller waits for the deadline, which is kept to the nanosecond.
#[test]
fn a_connect_without_an_answer_ends_at_its_deadline_and_not_before() {
    let rig = Rig::new(without_sweep());
    let timeout = Duration::from_millis(700);
    let (_, fd) = rig.start_in_progress(&ConnectOptions::default().timeout(timeout));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(timeout));
    rig.machine.advance(timeout - Duration::from_nanos(1));
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), NOTHING);
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_nanos(1)));
    rig.machine.advance(Duration::from_nanos(1));
    rig.pass();
    assert_eq!(rig.log.take(), ["0 timed out: 700ms"]);
    assert!(rig.is_closed(fd));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
}

/// G9: nobody is told of a time-out who has a connection; as with no thread there to see it.
#[test]
fn a_connect_that_succeeded_by_its_deadline_is_told_as_such_however_late() {
    let rig = Rig::new(without_sweep());
    let timeout = Duration::from_millis(700);
    let (id, fd) = rig.start_in_progress(&ConnectOptions::default().timeout(timeout));
    rig.machine.script(fd, |script| script.has_no_peer = false);
    rig.machine.advance(timeout * 2);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    let now = rig.sockman.shared().options.sock_factory.now();
    assert_eq!(rig.sockman.connection_info(id).unwrap().since, now, "it counts from here on");
}

/// G7: a full backlog is asked again after 1 ms, doubling up to 50 ms, and not in between.
#[test]
fn a_full_unix_backlog_is_asked_again_ever_less_often() {
    let rig = Rig::new(without_sweep());
    let (_, fd) = rig.start(&unix(), &for_ever(), vec![Err(libc::EAGAIN); 9]);
    for (calls, pause) in (1..).zip([1, 2, 4, 8, 16, 32, 50, 50]) {
        rig.pass();
        rig.pass();
        assert_eq!(rig.connect_calls(fd), calls);
        assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(pause)));
        assert_eq!(rig.machine.token(fd), None, "not watched: its readiness means nothing");
        rig.machine.advance(Duration::from_millis(pause));
    }
    rig.pass();
    rig.machine.advance(Duration::from_millis(50));
    assert_eq!(rig.log.take(), NOTHING);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    assert_eq!(rig.connect_calls(fd), 10);
}

/// G9: nor does a pause reach beyond the deadline.
#[test]
fn a_full_unix_backlog_is_given_up_at_the_deadline() {
    let rig = Rig::new(without_sweep());
    let timeout = Duration::from_millis(2);
    let options = ConnectOptions::default().timeout(timeout);
    rig.start(&unix(), &options, vec![Err(libc::EAGAIN); 9]);
    rig.pass();
    rig.machine.advance(Duration::from_millis(1));
    rig.pass();
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(1)), "and not two");
    rig.machine.advance(Duration::from_millis(1));
    rig.pass();
    assert_eq!(rig.log.take(), ["0 timed out: 2ms"]);
}

/// G8: outcomes come in batches too, and the rest is not forgotten.
#[test]
fn one_pass_tells_one_batch_of_outcomes() {
    let rig = Rig::new(without_sweep().accept_batch(NonZeroUsize::new(3).unwrap()));
    for _ in 0..7 {
        rig.start(&tcp(), &for_ever(), [Ok(())]);
    }
    for (told, left) in [(3, 4), (3, 1), (1, 0)] {
        rig.pass();
        assert_eq!(rig.log.take().len(), told);
        let waits = rig.sockman.stats().connections - rig.sockman.stats().connected as usize;
        assert_eq!(waits, left);
    }
    rig.pass();
    assert_eq!(rig.log.take().len(), 0);
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
}

/// G8: also of those that time out together.
#[test]
fn one_pass_tells_one_batch_of_time_outs() {
    let rig = Rig::new(without_sweep().accept_batch(NonZeroUsize::new(3).unwrap()));
    let options = ConnectOptions::default();
    let fds: Vec<_> =
        (0..7).map(|_| rig.start(&tcp(), &options, [Err(libc::EINPROGRESS)]).1).collect();
    for fd in fds {
        rig.machine.script(fd, |script| script.has_no_peer = true);
    }
    for _ in 0..4 {
        rig.pass();
    }
    rig.machine.advance(Duration::from_secs(5));
    for told in [3, 3, 1, 0] {
        rig.pass();
        assert_eq!(rig.log.take().len(), told);
        if told == 1 {
            assert_eq!(rig.machine.last_timeout(), Some(Duration::ZERO), "one was left to tell");
        }
    }
}

/// G9, G14: an interrupt ends the batch; what is left over is told at the next start.
#[test]
fn an_interrupt_in_an_outcome_leaves_the_others_for_the_next_start() {
    let rig = Rig::new(without_sweep());
    for _ in 0..3 {
        rig.start(&tcp(), &for_ever(), [Ok(())]);
    }
    *rig.log.on_outcome.lock() = Some(Box::new(|sockman, _| sockman.interrupt()));
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    assert!(rig.sockman.reset_interrupt());
    *rig.log.on_outcome.lock() = None;
    rig.pass();
    assert_eq!(rig.log.take(), ["1 connected", "2 connected"]);
}

/// G2: an attempt that the poller does not take has failed.
#[test]
fn an_attempt_that_cannot_be_registered_fails() {
    let rig = Rig::new(without_sweep());
    rig.machine.fail_registrations(Some(libc::ENOSPC));
    let (_, fd) = rig.start(&tcp(), &for_ever(), [Err(libc::EINPROGRESS)]);
    rig.machine.script(fd, |script| script.has_no_peer = true);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 failed: poll"]);
    assert!(rig.is_closed(fd));
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G2: a connection that the poller does not take any more is told of, and then of its error.
#[test]
fn a_connection_that_cannot_be_registered_anew_is_told_as_a_read_error() {
    let rig = Rig::new(without_sweep());
    let (_, fd) = rig.start_in_progress(&for_ever());
    rig.machine.fail_registrations(Some(libc::ENOSPC));
    rig.connects(fd);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected".to_owned(), format!("0 error {}", libc::ENOSPC)]);
}

/// G1: an event for an attempt whose place is taken again reaches nobody.
#[test]
fn a_late_event_of_an_attempt_reaches_nobody() {
    let rig = Rig::new(without_sweep());
    let (old, fd) = rig.start_in_progress(&for_ever());
    rig.connects(fd);
    let stale = rig.machine.state.lock().events.pop().unwrap();
    assert!(rig.sockman.close_connection(old));
    let (_, new) = rig.start_in_progress(&for_ever());
    // Looked at, it would be found connected.
    rig.machine.script(new, |script| script.has_no_peer = false);
    rig.machine.state.lock().events.push(stale);
    rig.pass();
    assert_eq!(rig.log.take(), NOTHING);
    rig.connects(new);
    rig.pass();
    assert_eq!(rig.log.take(), ["1 connected"]);
}

/// G4: closed between its event and its turn, an attempt is told nothing, and nothing is left of it.
#[test]
fn a_connect_closed_in_the_outcome_of_another_is_not_told() {
    let rig = Rig::new(without_sweep());
    let (_, first) = rig.start_in_progress(&ConnectOptions::default());
    let (second, fd) = rig.start_in_progress(&ConnectOptions::default());
    *rig.log.on_outcome.lock() = Some(Box::new(move |sockman, _| {
        assert!(sockman.close_connection(second));
        assert!(!sockman.close_connection(second));
    }));
    rig.connects(first);
    rig.connects(fd);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 connected"]);
    assert!(rig.is_closed(fd));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
    let stats = rig.sockman.stats();
    assert_eq!((stats.connections, stats.connected, stats.closed), (1, 1, 1));
}

/// G9: the attempt's own interrupt ends it in the next pass, before its deadline, and no other.
#[test]
fn a_cancelled_attempt_ends_in_the_next_pass() {
    let rig = Rig::new(without_sweep());
    let cancel = Interrupt::new();
    let (_, fd) = rig.start_in_progress(&ConnectOptions::default().cancel(cancel.clone()));
    let (_, other) = rig.start_in_progress(&for_ever().cancel(Interrupt::new()));
    cancel.interrupt();
    // Seen all the same.
    cancel.reset();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 interrupted"]);
    assert!(rig.is_closed(fd) && !rig.is_closed(other));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
}

/// G14: with no thread running, a close frees the descriptor at once, at every stage of an attempt.
#[test]
fn a_close_with_no_thread_running_frees_the_descriptor_of_an_attempt() {
    let rig = Rig::new(without_sweep());
    let cancel = Interrupt::new();
    let options = for_ever().cancel(cancel.clone());
    let (waits_in_the_inbox, fd) = rig.start(&tcp(), &options, [Err(libc::EINPROGRESS)]);
    assert!(rig.sockman.close_connection(waits_in_the_inbox));
    assert!(rig.is_closed(fd));
    let (taken_over, fd) = rig.start_in_progress(&options);
    assert!(rig.sockman.close_connection(taken_over));
    assert!(rig.is_closed(fd));
    let (cancelled, fd) = rig.start_in_progress(&options);
    cancel.interrupt();
    assert!(rig.sockman.close_connection(cancelled));
    assert!(rig.is_closed(fd), "nor does the word of its cancel keep it");
    rig.pass();
    assert_eq!(rig.log.take(), NOTHING);
    assert_eq!(rig.sockman.stats().connections, 0);
}

/// G14: a cancel that comes when the attempt is over holds nothing.
#[test]
fn a_cancel_during_the_outcome_keeps_no_descriptor() {
    let rig = Rig::new(without_sweep());
    let cancel = Interrupt::new();
    let (_, fd) = rig.start_in_progress(&for_ever().cancel(cancel.clone()));
    *rig.log.on_outcome.lock() = Some(Box::new(move |_, _| cancel.interrupt()));
    rig.fails(fd, libc::ECONNREFUSED);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 refused"]);
    assert!(rig.is_closed(fd));
}

/// G8, G2: a connect begun in an outcome is told in its turn.
#[test]
fn a_connect_begun_in_an_outcome_is_told_in_a_later_pass() {
    let rig = Rig::new(without_sweep().max_connections(1));
    let (_, fd) = rig.start_in_progress(&for_ever());
    *rig.log.on_outcome.lock() = Some(Box::new(|sockman, id| {
        if id.as_u64() == 0 {
            // In the place of the one that failed.
            sockman.start_connect(&tcp(), &for_ever()).unwrap();
        }
    }));
    rig.fails(fd, libc::ECONNREFUSED);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 refused"]);
    rig.pass();
    assert_eq!(rig.log.take(), ["1 connected"]);
}
