//! Timers and data that waits, where the whole process is stopped or has thousands of descriptors.
//! Each test that needs it runs alone in its process.

#[cfg(unix)]
use std::os::{fd::OwnedFd, unix::net::UnixStream};
use std::{
    io::{self, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        mpsc::{self, Sender},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectionId, EventHandler, Options, Service, SockMan, helpers::Deadlines,
    options::SELECT_TIMEOUT, sys::SockFactory,
};
use sockman_test_support::{
    DEADLINE, Running,
    child::in_child,
    limits::make_room_for,
    tools::{Spy, TempDir},
    without_sweep,
};

/// The idle time-out while the process is stopped. The byte comes long before its end, and the stop
/// ends after it.
const IDLE: Duration = Duration::from_secs(2);

/// How long the process is stopped, at least.
const STOPPED: Duration = Duration::from_millis(2500);

/// What the handler reports.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Accepted(ConnectionId),
    Data(ConnectionId),
    Idle(ConnectionId),
    /// The connection is idle after a poll in which the process was not stopped. It was stopped inside of a pass, or too
    /// late. Then the library cannot know of the data.
    IdleWithoutStop,
}

/// A reaction to data of one byte, which runs before the byte is reported.
type Reaction = Box<dyn Fn(&SockMan, &Deadlines<ConnectionId>) + Send + Sync>;

/// Reports idle connections, found by timers or in `event_io_loop_completed_for_one`.
struct Idle {
    told: Mutex<Sender<Told>>,
    /// The idle time-out.
    idle: Duration,
    timers: Deadlines<ConnectionId>,
    /// When a connection last had data, if `event_io_loop_completed_for_one` looks for idle ones.
    /// These tests have one connection then.
    active: Option<Mutex<Instant>>,
    on_byte: OnceLock<Reaction>,
    spy: Spy,
}

impl Idle {
    fn new(told: Sender<Told>, is_coarse: bool, idle: Duration) -> Arc<Idle> {
        Arc::new(Idle {
            told: Mutex::new(told),
            idle,
            timers: Deadlines::new(),
            active: is_coarse.then(|| Mutex::new(Instant::now())),
            on_byte: OnceLock::new(),
            spy: Spy::default(),
        })
    }

    fn tell_idle(&self, id: ConnectionId) {
        let was_stopped = self.spy.last_poll() >= STOPPED;
        self.tell(if was_stopped { Told::Idle(id) } else { Told::IdleWithoutStop });
    }

    fn tell(&self, what: Told) {
        let _ = self.told.lock().send(what);
    }

    fn is_active(&self, sockman: &SockMan, id: ConnectionId) {
        match &self.active {
            Some(active) => *active.lock() = self.spy.now(),
            None => self.timers.set(sockman, id, self.spy.now() + self.idle),
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
        self.tell(Told::Accepted(id));
        true
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.is_active(sockman, id);
        if let Some(react) = self.on_byte.get().filter(|_| data.len() == 1) {
            react(sockman, &self.timers);
        }
        self.tell(Told::Data(id));
    }
    // A sweep in which the handler has nothing to send makes no turn before the callback.
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_one(&self, _: &SockMan, id: ConnectionId) {
        let is_late = |active: Instant| self.spy.now() - active > self.idle;
        if self.active.as_ref().is_some_and(|active| is_late(*active.lock())) {
            self.tell_idle(id);
        }
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        let now = self.spy.now();
        while let Some(id) = self.timers.take_due(now) {
            self.tell_idle(id);
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }
}

/// G15: a byte that comes while the process is stopped is delivered before a timer or the sweep
/// calls its connection idle. Linux ends a poll with EINTR when a stopped process goes on.
#[cfg(unix)]
fn stop_and_go_on(is_coarse: bool, options: &Options) {
    // A busy machine may stop the process inside of a pass. Then the next connection tries.
    let tries = 20;
    let is_shown = (0..tries).any(|_| is_data_the_first_news(is_coarse, options.clone()));
    assert!(is_shown, "in {tries} tries the process was never stopped in a poll");
}

/// Returns `false` if the process was not stopped in a poll.
#[cfg(unix)]
fn is_data_the_first_news(is_coarse: bool, options: Options) -> bool {
    let (told, tells) = mpsc::channel();
    let handler = Idle::new(told, is_coarse, IDLE);
    let options = options.sock_factory(Arc::new(handler.spy.clone()));
    let running = Running::start(handler, options);
    let client = running.client();
    let Told::Accepted(id) = tells.recv_timeout(DEADLINE).unwrap() else { panic!("not accepted") };
    // The shell stops this process, waits until each thread has stopped, and then sends the byte,
    // because its output is the connection.
    let script = "kill -STOP $PPID
        for thread in /proc/$PPID/task/*; do
            until grep -q '^State:.*stopped' $thread/status; do :; done
        done
        printf x; sleep 2.6; kill -CONT $PPID";
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .stdout(Stdio::from(OwnedFd::from(client.try_clone().unwrap())))
        .spawn()
        .unwrap();
    assert!(shell.wait().unwrap().success());
    match tells.recv_timeout(DEADLINE).unwrap() {
        Told::IdleWithoutStop => false,
        told => {
            assert_eq!(told, Told::Data(id), "data is the first news");
            true
        }
    }
}

/// G15
#[cfg(unix)]
#[test]
fn a_timer_waits_for_data_that_came_while_the_process_was_stopped() {
    in_child(a_timer_waits_for_data_that_came_while_the_process_was_stopped, || {
        stop_and_go_on(false, &without_sweep());
    });
}

/// G15
#[cfg(unix)]
#[test]
fn the_sweep_waits_for_data_that_came_while_the_process_was_stopped() {
    in_child(the_sweep_waits_for_data_that_came_while_the_process_was_stopped, || {
        stop_and_go_on(true, &Options::default().sweep(Some(SELECT_TIMEOUT)));
    });
}

/// G15: what arrived before a late poll returned is delivered before a timer or the sweep calls its
/// connection idle, although the poll did not report it.
#[cfg(unix)]
#[test]
fn data_that_came_before_a_late_poll_returned_comes_before_the_timers() {
    for is_coarse in [false, true] {
        let (told, tells) = mpsc::channel();
        let idle = 10 * DEADLINE;
        let handler = Idle::new(told, is_coarse, idle);
        let spy = handler.spy.clone();
        let options = Options::default().sweep(is_coarse.then_some(idle));
        let sockman = SockMan::new(handler, options.sock_factory(Arc::new(spy.clone()))).unwrap();
        let _threads = sockman.start_sockets_threads().unwrap();
        let directory = TempDir::new();
        let path = directory.path("late");
        sockman.bind_and_start_listening(format!("unix:{}", path.display())).unwrap();
        // What is sent over a path has arrived when the send returns.
        let mut client = UnixStream::connect(&path).unwrap();
        let Told::Accepted(id) = tells.recv_timeout(DEADLINE).unwrap() else {
            panic!("not accepted")
        };
        spy.next_poll_is_late(2 * idle, move || client.write_all(b"xy").unwrap());
        sockman.notify();
        assert_eq!(tells.recv_timeout(DEADLINE).unwrap(), Told::Data(id), "coarse: {is_coarse}");
    }
}

/// G15: the data of more connections than one poll reports is delivered before their timers end.
#[test]
fn the_data_of_more_connections_than_one_poll_reports_is_delivered_before_their_timers_end() {
    in_child(
        the_data_of_more_connections_than_one_poll_reports_is_delivered_before_their_timers_end,
        || {
            const CLIENTS: usize = 1500;

            make_room_for(4096);
            let (told, tells) = mpsc::channel();
            // No connection is idle before the callback says so.
            let handler = Idle::new(told, false, 10 * DEADLINE);
            let running = Running::start(handler.clone(), without_sweep());
            let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| running.client()).collect();
            let ids: Vec<ConnectionId> = (0..CLIENTS)
                .map(|_| match tells.recv_timeout(DEADLINE).unwrap() {
                    Told::Accepted(id) => id,
                    told => panic!("{told:?} before all are accepted"),
                })
                .collect();
            let mut slow = running.client();
            assert!(matches!(tells.recv_timeout(DEADLINE).unwrap(), Told::Accepted(_)));

            // The callback ends after all clients have sent and all their timers have ended.
            let (all, waiting) = (ids.clone(), Mutex::new(clients));
            let react = move |sockman: &SockMan, timers: &Deadlines<ConnectionId>| {
                waiting.lock().iter_mut().for_each(|client| client.write_all(b"ab").unwrap());
                let now = Instant::now();
                all.iter().for_each(|id| timers.set(sockman, *id, now));
            };
            assert!(handler.on_byte.set(Box::new(react)).is_ok());
            slow.write_all(b"a").unwrap();
            for _ in 0..=CLIENTS {
                let told = tells.recv_timeout(DEADLINE).unwrap();
                assert!(matches!(told, Told::Data(_)), "{told:?} before all data");
            }
        },
    );
}
