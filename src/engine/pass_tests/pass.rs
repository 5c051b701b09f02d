//! The pass, one at a time, over scripted sockets and a clock that stands still.

use std::{
    collections::HashSet,
    io,
    num::NonZeroUsize,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Machine;
use crate::{
    address::{Destination, Service},
    dial::ConnectError,
    engine::connection::ConnectionId,
    engine::threads::run_one_pass,
    event_handler::{EventHandler, NextRecv},
    options::Options,
    sockman::SockMan,
    sys::Readiness,
};

type Reaction = Box<dyn Fn(&SockMan, ConnectionId) + Send>;

#[derive(Default)]
pub(super) struct Log {
    told: Mutex<Vec<String>>,
    paused: Mutex<HashSet<ConnectionId>>,
    deadline: Mutex<Option<Instant>>,
    /// Runs in `event_io_loop_completed_for_all`.
    housekeeping: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Whether the next data makes the handler panic; from then on questions about sending are
    /// told, too.
    panics: Mutex<bool>,
    /// Runs in `event_connect_completed`.
    pub(super) on_outcome: Mutex<Option<Reaction>>,
}

impl Log {
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock())
    }

    fn tell(&self, what: String) {
        self.told.lock().push(what);
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
        self.tell(format!("{id} accepted"));
        true
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        if *self.panics.lock() {
            self.tell(format!("{id} asked to send"));
        }
        false
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        !self.paused.lock().contains(&id)
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        self.tell(format!("{id} data {}", data.len()));
        assert!(!*self.panics.lock(), "on purpose");
    }
    fn event_got_eof(&self, _: &SockMan, id: ConnectionId) {
        self.tell(format!("{id} eof"));
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, id: ConnectionId, error: &io::Error) {
        self.tell(format!("{id} error {}", error.raw_os_error().unwrap()));
    }
    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        self.tell(match outcome {
            Ok(_) => format!("{id} connected"),
            Err(ConnectError::TimedOut { after, .. }) => format!("{id} timed out: {after:?}"),
            Err(ConnectError::Refused { .. }) => format!("{id} refused"),
            Err(ConnectError::Interrupted) => format!("{id} interrupted"),
            Err(ConnectError::Os { step, .. }) => format!("{id} failed: {step}"),
            Err(error) => format!("{id} {error:?}"),
        });
        if let Some(react) = &*self.on_outcome.lock() {
            react(sockman, id);
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

/// A `SockMan` over a scripted machine, and its one listener.
pub(super) struct Rig {
    pub(super) machine: Arc<Machine>,
    pub(super) log: Arc<Log>,
    pub(super) sockman: SockMan,
    listener: RawFd,
}

pub(super) const READABLE: Readiness = Readiness {
    token: 0,
    readable: true,
    writable: false,
    read_closed: false,
    broken: false,
    priority: false,
};

impl Rig {
    pub(super) fn new(options: Options) -> Rig {
        let machine = Machine::new();
        let log = Arc::new(Log::default());
        let options = options.sock_factory(machine.factory());
        let handler: Arc<dyn EventHandler> = log.clone();
        let sockman = SockMan::new(handler, options).unwrap();
        sockman.bind_and_start_listening(&"10.0.0.1:1".parse().unwrap()).unwrap();
        let rig = Rig { machine, log, sockman, listener: 3 };
        rig.pass();
        rig
    }

    pub(super) fn pass(&self) {
        run_one_pass(&self.sockman).unwrap();
    }

    /// Accepts one connection, and lets it have its first turn.
    pub(super) fn accept(&self) -> RawFd {
        let fd = self.machine.fresh_fd();
        self.machine.script(self.listener, |script| script.accepts.push_back(Ok(fd)));
        self.machine.event(self.listener, READABLE);
        self.pass();
        self.pass();
        self.log.take();
        fd
    }

    pub(super) fn receive(&self, fd: RawFd, recvs: impl IntoIterator<Item = Result<Vec<u8>, i32>>) {
        self.machine.script(fd, |script| script.recvs.extend(recvs));
    }

    fn recv_calls(&self, fd: RawFd) -> usize {
        self.machine.script(fd, |script| script.recv_calls)
    }
}

pub(super) fn without_sweep() -> Options {
    Options::default().sweep(None)
}

/// G5, and the price of a message: no second `recv` that only says "would block".
#[test]
fn a_short_read_on_tcp_clears_the_latch() {
    let rig = Rig::new(without_sweep());
    let fd = rig.accept();
    rig.receive(fd, [Ok(vec![1; 10])]);
    rig.machine.event(fd, READABLE);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 data 10"]);
    assert_eq!(rig.recv_calls(fd), 1);
    assert_eq!(rig.machine.last_timeout(), None, "nothing is left to do");
}

/// G5: what hides behind the end of the stream gives no further edge.
#[test]
fn a_short_read_with_the_end_in_sight_reads_on() {
    let rig = Rig::new(without_sweep());
    let fd = rig.accept();
    rig.receive(fd, [Ok(vec![1; 10]), Ok(vec![])]);
    rig.machine.event(fd, Readiness { read_closed: true, ..READABLE });
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 data 10", "0 eof"]);
    rig.pass();
    assert_eq!(rig.recv_calls(fd), 2, "after the end nothing is read");
}

/// G5: nor does what hides behind urgent data.
#[test]
fn a_short_read_after_urgent_data_reads_on_until_it_would_block() {
    let rig = Rig::new(without_sweep());
    let fd = rig.accept();
    rig.receive(fd, [Ok(vec![1; 10]), Ok(vec![2; 5])]);
    rig.machine.event(fd, Readiness { priority: true, ..READABLE });
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.log.take(), ["0 data 10", "0 data 5"]);
    assert_eq!(rig.recv_calls(fd), 3);
}

/// G5: ancillary data ends a receive on a unix-domain socket early.
#[test]
fn a_unix_domain_socket_is_read_until_it_would_block() {
    let rig = Rig::new(without_sweep());
    let fd = rig.machine.fresh_fd();
    rig.machine.script(fd, |script| script.is_unix = true);
    rig.machine.script(rig.listener, |script| script.accepts.push_back(Ok(fd)));
    rig.machine.event(rig.listener, READABLE);
    rig.pass();
    rig.pass();
    rig.log.take();
    rig.receive(fd, [Ok(vec![1; 10]), Ok(vec![2; 5])]);
    rig.machine.event(fd, READABLE);
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.log.take(), ["0 data 10", "0 data 5"]);
    assert_eq!(rig.recv_calls(fd), 3);
}

/// G2: a connection that the poller does not take is not lost in silence.
#[test]
fn a_registration_that_fails_is_told_as_a_read_error() {
    let rig = Rig::new(without_sweep());
    rig.machine.fail_registrations(Some(libc::ENOSPC));
    rig.accept_unheard();
    assert_eq!(
        rig.log.take(),
        ["0 accepted".to_owned(), format!("0 error {}", libc::ENOSPC)],
        "told once"
    );
}

impl Rig {
    fn accept_unheard(&self) {
        let fd = self.machine.fresh_fd();
        self.machine.script(self.listener, |script| script.accepts.push_back(Ok(fd)));
        self.machine.event(self.listener, READABLE);
        for _ in 0..4 {
            self.pass();
        }
    }
}

/// G2: nor is one whose reads are paused, maybe until there is room to send, which is never told.
#[test]
fn a_failed_registration_is_told_although_reads_are_paused() {
    let rig = Rig::new(without_sweep());
    rig.machine.fail_registrations(Some(libc::ENOSPC));
    let id = crate::engine::map::ConnectionMap::new(1).next_id();
    rig.log.paused.lock().insert(id);
    rig.accept_unheard();
    assert_eq!(rig.log.take(), ["0 accepted".to_owned(), format!("0 error {}", libc::ENOSPC)]);
}

/// G1: the place of a closed connection is taken at once; an event for the old one reaches nobody.
#[test]
fn a_late_event_for_a_place_taken_again_reaches_nobody() {
    let rig = Rig::new(without_sweep());
    let old = rig.accept();
    let first = crate::engine::map::ConnectionMap::new(1).next_id();
    let stale = {
        rig.machine.event(old, READABLE);
        rig.machine.state.lock().events.pop().unwrap()
    };
    assert!(rig.sockman.close_connection(first));
    let new = rig.accept();
    rig.receive(new, [Ok(vec![1; 10])]);
    rig.machine.state.lock().events.push(stale);
    rig.pass();
    assert_eq!(rig.log.take(), Vec::<String>::new());
    assert_eq!(rig.recv_calls(new), 0);
    rig.machine.event(new, READABLE);
    rig.pass();
    assert_eq!(rig.log.take(), ["1 data 10"]);
}

/// G11: a listener that the poller would not watch is tried again, as after any lack of resources.
#[test]
fn a_listener_that_cannot_be_registered_is_registered_later() {
    let rig = Rig::new(without_sweep());
    rig.machine.fail_registrations(Some(libc::ENOSPC));
    let listener = rig.machine.upcoming_fd();
    rig.sockman.bind_and_start_listening(&"10.0.0.1:2".parse().unwrap()).unwrap();
    rig.pass();
    for pause in [100, 200, 400, 800, 1000, 1000] {
        rig.pass();
        assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(pause)));
        assert_eq!(rig.machine.token(listener), None);
        rig.machine.advance(Duration::from_millis(pause));
        rig.pass();
    }
    rig.machine.fail_registrations(None);
    rig.machine.advance(Duration::from_secs(1));
    rig.pass();
    rig.pass();
    assert!(rig.machine.token(listener).is_some());
    assert_eq!(rig.machine.last_timeout(), None, "and that is the end of it");
}

/// G11: the pauses grow from 100 ms to 1 s, and end with the exhaustion.
#[test]
fn a_listener_backs_off_while_descriptors_are_exhausted() {
    let rig = Rig::new(without_sweep());
    let accept_calls = || rig.machine.script(rig.listener, |script| script.accept_calls);
    let mut calls = accept_calls();
    rig.machine.event(rig.listener, READABLE);
    for pause in [100, 200, 400, 800, 1000, 1000] {
        rig.machine.script(rig.listener, |script| script.accepts.push_back(Err(libc::EMFILE)));
        rig.pass();
        calls += 1;
        assert_eq!(accept_calls(), calls);
        rig.pass();
        assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(pause)));
        assert_eq!(accept_calls(), calls, "not asked while it pauses");
        rig.machine.advance(Duration::from_millis(pause));
    }
    assert_eq!(rig.sockman.stats().accept_pauses, 6);
    rig.accept_unheard();
    assert_eq!(rig.log.take(), ["0 accepted"]);
    assert_eq!(rig.machine.last_timeout(), None, "the episode is over");
}

/// G11: a client that is gone again, and a signal, are nothing.
#[test]
fn an_aborted_connection_does_not_pause_the_listener() {
    let rig = Rig::new(without_sweep());
    let fd = rig.machine.fresh_fd();
    rig.machine.script(rig.listener, |script| {
        script.accepts.extend([Err(libc::ECONNABORTED), Err(libc::EINTR), Ok(fd)]);
    });
    rig.machine.event(rig.listener, READABLE);
    rig.pass();
    assert_eq!(rig.log.take(), ["0 accepted"]);
    assert_eq!(rig.sockman.stats().accept_pauses, 0);
}

/// G8: a listener's turn is a batch, and the rest is not forgotten.
#[test]
fn one_pass_accepts_one_batch() {
    let batch = NonZeroUsize::new(3).unwrap();
    let rig = Rig::new(without_sweep().accept_batch(batch));
    for _ in 0..7 {
        let fd = rig.machine.fresh_fd();
        rig.machine.script(rig.listener, |script| script.accepts.push_back(Ok(fd)));
    }
    rig.machine.event(rig.listener, READABLE);
    for accepted in [3, 3, 1, 0] {
        rig.pass();
        assert_eq!(rig.log.take().len(), accepted);
    }
}

/// G7: at the connection cap the listener is not asked, and does not keep the loop awake.
#[test]
fn a_listener_rests_at_the_connection_cap() {
    let rig = Rig::new(without_sweep().max_connections(1));
    rig.accept();
    let fd = rig.machine.fresh_fd();
    rig.machine.script(rig.listener, |script| script.accepts.push_back(Ok(fd)));
    rig.machine.event(rig.listener, READABLE);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), Vec::<String>::new());
    assert_eq!(rig.machine.last_timeout(), None);
    let first = crate::engine::map::ConnectionMap::new(1).next_id();
    rig.sockman.close_connection(first);
    rig.pass();
    rig.pass();
    assert_eq!(rig.log.take(), ["1 accepted"]);
}

/// G7: a deadline gone by gives one immediate pass; a later one gives another.
#[test]
fn a_deadline_in_the_past_gives_one_immediate_pass() {
    let rig = Rig::new(without_sweep());
    let now = rig.machine_now();
    *rig.log.deadline.lock() = Some(now);
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::ZERO));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None, "the same one");
    *rig.log.deadline.lock() = Some(now - Duration::from_nanos(1));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None, "an older one");
    *rig.log.deadline.lock() = Some(now + Duration::from_millis(7));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(7)));
    rig.machine.advance(Duration::from_millis(8));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::ZERO), "a new one went by");
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
}

impl Rig {
    fn machine_now(&self) -> Instant {
        self.sockman.shared().options.sock_factory.now()
    }
}

/// G7: the sweep comes once per period, and the poller waits for it.
#[test]
fn the_sweep_comes_once_per_period() {
    let rig = Rig::new(Options::default());
    rig.accept();
    let sweeps = rig.sockman.stats().sweeps;
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(50)));
    rig.machine.advance(Duration::from_millis(49));
    rig.pass();
    rig.pass();
    assert_eq!(rig.sockman.stats().sweeps, sweeps);
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(1)));
    rig.machine.advance(Duration::from_millis(1));
    rig.pass();
    assert_eq!(rig.sockman.stats().sweeps, sweeps + 1);
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(50)));
}

/// G7: a period longer than the clock can tell is no sweep, and no panic.
#[test]
fn a_sweep_period_without_end_never_comes() {
    let rig = Rig::new(Options::default().sweep(Some(Duration::MAX)));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
    assert_eq!(rig.sockman.stats().sweeps, 0);
}

/// G7: a deadline that is always just past does not make the loop spin, and none is forgotten.
#[test]
fn deadlines_in_the_past_that_move_on_give_a_pass_each_millisecond() {
    let rig = Rig::new(without_sweep());
    let now = rig.machine_now();
    *rig.log.deadline.lock() = Some(now - Duration::from_secs(2));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::ZERO));
    *rig.log.deadline.lock() = Some(now - Duration::from_secs(1));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(1)));
    rig.machine.advance(Duration::from_millis(1));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::ZERO));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), None);
}

/// G9: what callbacks take is not added to a deadline.
#[test]
fn a_deadline_is_not_late_by_the_time_of_the_callbacks() {
    let rig = Rig::new(without_sweep());
    let machine = Arc::clone(&rig.machine);
    *rig.log.housekeeping.lock() =
        Some(Box::new(move || machine.advance(Duration::from_millis(200))));
    *rig.log.deadline.lock() = Some(rig.machine_now() + Duration::from_millis(210));
    rig.pass();
    assert_eq!(rig.machine.last_timeout(), Some(Duration::from_millis(10)));
}

/// G5: a reply that a callback queues before it panics is asked for after the restart.
#[test]
fn a_panic_in_a_callback_leaves_the_send_hook_to_be_asked() {
    let rig = Rig::new(without_sweep());
    let fd = rig.accept();
    rig.machine.event(fd, Readiness { writable: true, ..READABLE });
    rig.pass();
    rig.receive(fd, [Ok(vec![1; 10])]);
    rig.machine.event(fd, READABLE);
    *rig.log.panics.lock() = true;
    let pass = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.pass()));
    assert!(pass.is_err());
    rig.log.take();
    rig.pass();
    assert_eq!(rig.log.take(), ["0 asked to send"]);
}

/// What a connection hears whose send took the socket's error, when the poller tells of the end.
fn told_after_a_send_failed_with(code: i32) -> Vec<String> {
    let rig = Rig::new(without_sweep());
    let fd = rig.accept();
    rig.machine.script(fd, |script| script.send_error = Some(code));
    let first = crate::engine::map::ConnectionMap::new(1).next_id();
    rig.sockman.send_bytes(first, b"x", false).unwrap_err();
    rig.receive(fd, [Ok(vec![])]);
    rig.machine.event(fd, Readiness { broken: true, read_closed: true, ..READABLE });
    for _ in 0..3 {
        rig.pass();
    }
    rig.log.take()
}

/// G5: on TCP a broken pipe is a reset that came after the end of the stream; both are told.
#[test]
fn the_end_is_told_before_a_reset_that_a_send_heard_of_as_a_broken_pipe() {
    let broken_pipe = format!("0 error {}", libc::EPIPE);
    assert_eq!(told_after_a_send_failed_with(libc::EPIPE), ["0 eof".to_owned(), broken_pipe]);
}

/// G5: without an end before it, a reset is a read error and no end of the stream.
#[test]
fn a_reset_that_a_send_heard_of_is_told_as_a_read_error() {
    let reset = format!("0 error {}", libc::ECONNRESET);
    assert_eq!(told_after_a_send_failed_with(libc::ECONNRESET), [reset]);
}
