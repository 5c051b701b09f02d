//! A poll that returns late, because the process was stopped or had no processor.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, EventHandler, Options, Service, SockMan, address::Destination,
    error::ConnectError, helpers::Deadlines, options::ConnectOptions, sys::SockFactory,
};
use sockman_test_support::{
    DEADLINE,
    blackhole::Blackhole,
    tools::{Spy, TempDir, run_passes},
};

const IDLE: Duration = Duration::from_secs(60 * 60);

/// Reports data and idle connections.
struct Idle {
    told: Mutex<Sender<&'static str>>,
    timers: Deadlines<ConnectionId>,
    /// When the connection is idle, if the sweep finds that out. Without it, a timer does.
    coarse: Option<Mutex<Instant>>,
    spy: Spy,
}

/// Reports whether a connect succeeds.
struct Connects(Mutex<Sender<bool>>);

impl EventHandler for Connects {
    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        // The test may be over.
        let _ = self.0.lock().unwrap().send(outcome.is_ok());
    }
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        false
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

impl Idle {
    fn tell(&self, what: &'static str) {
        // The test may be over.
        let _ = self.told.lock().unwrap().send(what);
    }

    fn is_active(&self, sockman: &SockMan, id: ConnectionId) {
        let idle_at = self.spy.now() + IDLE;
        match &self.coarse {
            Some(at) => *at.lock().unwrap() = idle_at,
            None => self.timers.set(sockman, id, idle_at),
        }
    }
}

impl EventHandler for Idle {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.is_active(sockman, id);
        self.tell("accepted");
        true
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, _: &[u8]) {
        self.is_active(sockman, id);
        self.tell("data");
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_one(&self, _: &SockMan, _: ConnectionId) {
        let now = self.spy.now();
        if self.coarse.as_ref().is_some_and(|at| now >= *at.lock().unwrap()) {
            self.tell("idle");
        }
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        while self.timers.take_due(self.spy.now()).is_some() {
            self.tell("idle");
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }
}

/// G15: what arrived before a late poll returned is delivered before a timer or the sweep calls its
/// connection idle, although the poll did not report it.
#[test]
fn data_that_came_before_a_late_poll_returned_comes_before_the_timers() {
    for is_coarse in [false, true] {
        let (told, tells) = channel();
        let spy = Spy::default();
        let handler = Arc::new(Idle {
            told: Mutex::new(told),
            timers: Deadlines::new(),
            coarse: is_coarse.then(|| Mutex::new(spy.now() + IDLE)),
            spy: spy.clone(),
        });
        let options =
            Options::default().sweep(is_coarse.then_some(IDLE)).sock_factory(Arc::new(spy.clone()));
        let sockman = SockMan::new(handler, options).unwrap();
        let _threads = sockman.start_sockets_threads().unwrap();
        let directory = TempDir::new();
        let path = directory.path("late");
        sockman.bind_and_start_listening(format!("unix:{}", path.display())).unwrap();
        // What is sent over a path has arrived when the send returns.
        let mut client = UnixStream::connect(&path).unwrap();
        assert_eq!(tells.recv_timeout(DEADLINE).unwrap(), "accepted");
        spy.next_poll_is_late(2 * IDLE, move || client.write_all(b"x").unwrap());
        sockman.notify();
        assert_eq!(tells.recv_timeout(DEADLINE).unwrap(), "data", "coarse: {is_coarse}");
    }
}

/// G15: a connect that succeeded before a late poll returned does not time out.
#[test]
fn a_connect_that_succeeded_before_a_late_poll_returned_does_not_time_out() {
    let (told, tells) = channel();
    let spy = Spy::default();
    let options = Options::default().sweep(None).sock_factory(Arc::new(spy.clone()));
    let sockman = SockMan::new(Arc::new(Connects(Mutex::new(told))), options).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let Blackhole { address, listener, fillers } = Blackhole::new();
    sockman.start_connect(address, &ConnectOptions::default().timeout(IDLE)).unwrap();
    run_passes(&sockman, 2); // The kernel has sent a SYN.
    spy.next_poll_is_late(2 * IDLE, move || {
        // The kernel repeats the SYN. The last accept returns after the handshake.
        (0..=fillers.len()).for_each(|_| drop(listener.accept().unwrap()));
    });
    sockman.notify();
    assert!(tells.recv_timeout(DEADLINE).unwrap(), "the connect timed out");
}
