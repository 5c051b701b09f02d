//! `start_connect_with`: the value comes back with the outcome, or is dropped once, with no lock
//! held.

use std::{
    any::Any,
    collections::HashMap,
    io,
    sync::{Arc, Mutex, mpsc},
    thread::{self, ThreadId},
};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, Interrupt, Service, SockMan, WeakSockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, NotStarted},
};
use sockman_test_support::{
    DEADLINE, Recorder, Running, blackhole::Blackhole, tools::run_passes, without_sweep,
};

/// What a connect is for. It tells on which thread it was dropped, and uses the `SockMan` there.
struct Purpose {
    name: &'static str,
    sockman: WeakSockMan,
    dropped: mpsc::Sender<(&'static str, ThreadId)>,
}

impl Drop for Purpose {
    fn drop(&mut self) {
        if let Some(sockman) = self.sockman.upgrade() {
            // Each of these calls would wait for its own lock if one were held.
            let _ = sockman.stats();
            sockman.notify();
            assert!(!sockman.close_connection(ConnectionId::from_u64(u64::MAX)));
            let options = ConnectOptions::default();
            assert!(sockman.start_connect_with("text", &options, ()).is_err());
            sockman.reset_interrupt();
        }
        // The test may be over.
        let _ = self.dropped.send((self.name, thread::current().id()));
    }
}

type Outcome = (ConnectionId, &'static str, bool);

/// Reports the outcomes with the names of their values.
struct Outcomes(Mutex<mpsc::Sender<Outcome>>);

impl EventHandler for Outcomes {
    fn event_connect_completed_with(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
        value: Box<dyn Any + Send>,
    ) {
        let purpose = value.downcast::<Purpose>().expect("the value has its type");
        self.0.lock().unwrap().send((id, purpose.name, outcome.is_ok())).unwrap();
    }
    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        _: Result<&Service, ConnectError>,
    ) {
        unreachable!("every connect here has a value");
    }
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

struct Rig {
    sockman: SockMan,
    outcomes: mpsc::Receiver<Outcome>,
    dropped: mpsc::Receiver<(&'static str, ThreadId)>,
    drops: mpsc::Sender<(&'static str, ThreadId)>,
}

impl Rig {
    fn new(options: sockman::Options) -> Rig {
        let (sender, outcomes) = mpsc::channel();
        let (drops, dropped) = mpsc::channel();
        let sockman = SockMan::new(Arc::new(Outcomes(Mutex::new(sender))), options).unwrap();
        Rig { sockman, outcomes, dropped, drops }
    }

    fn purpose(&self, name: &'static str) -> Purpose {
        Purpose { name, sockman: self.sockman.downgrade(), dropped: self.drops.clone() }
    }

    fn start(&self, to: impl Into<Destination>, name: &'static str) -> ConnectionId {
        let options = ConnectOptions::default().timeout(DEADLINE);
        self.sockman.start_connect_with(to.into(), &options, self.purpose(name)).unwrap()
    }
}

/// The value comes back with a success, with a failure, and with a cancelled connect.
#[test]
fn the_value_comes_back_with_the_outcome() {
    let rig = Rig::new(without_sweep());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let blackhole = Blackhole::new();
    let cancel = Interrupt::new();
    // Before the start, so that no outcome comes before all have begun.
    let first = rig.start(listener.local_addr().unwrap(), "first");
    let options = ConnectOptions::default().timeout(DEADLINE).cancel(cancel.clone());
    let to = blackhole.address;
    let second = rig.sockman.start_connect_with(to, &options, rig.purpose("second")).unwrap();
    let options = ConnectOptions::default().timeout(std::time::Duration::ZERO);
    let third = rig.sockman.start_connect_with(to, &options, rig.purpose("third")).unwrap();
    let _threads = rig.sockman.start_sockets_threads().unwrap();
    cancel.interrupt();
    let outcomes: HashMap<_, _> =
        (0..3).map(|_| rig.outcomes.recv_timeout(DEADLINE).unwrap()).map(|o| (o.0, o)).collect();
    assert_eq!(outcomes[&first], (first, "first", true));
    assert_eq!(outcomes[&second], (second, "second", false));
    assert_eq!(outcomes[&third], (third, "third", false));
}

/// A handler that does not ask for values gets the outcome as without a value.
#[test]
fn without_a_method_for_values_the_outcome_is_reported_as_usual() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let options = ConnectOptions::default();
    let value = Arc::new(());
    let id =
        running.sockman.start_connect_with(running.address, &options, Arc::clone(&value)).unwrap();
    recorder.wait_for_outcome(id).unwrap();
    run_passes(&running.sockman, 1);
    assert_eq!(Arc::strong_count(&value), 1, "the value is kept");
}

/// A connect that fails at once gives its value back.
#[test]
fn a_connect_that_does_not_begin_gives_its_value_back() {
    let rig = Rig::new(without_sweep().max_connections(0));
    let options = ConnectOptions::default();
    let check = |to: &str, is_expected: fn(&ConnectErrorKind) -> bool| {
        let failed = rig.sockman.start_connect_with(to, &options, vec![7]);
        let NotStarted { error, value, .. } = failed.unwrap_err();
        assert_eq!(value, [7]);
        assert!(is_expected(error.kind()), "{error:?}");
    };
    check("127.0.0.1:1", |kind| matches!(kind, ConnectErrorKind::TooManyConnections { .. }));
    check("no port", |kind| matches!(kind, ConnectErrorKind::InvalidText(_)));
    check("name.test:80", |kind| matches!(kind, ConnectErrorKind::NeedsProxy));
    let failed = rig.sockman.start_connect_with("no port", &options, ());
    let error: ConnectError = failed.unwrap_err().into();
    assert!(error.to().is_none());
}

/// A close drops the value on the thread that closes, and with no lock held, with and without a
/// running thread.
#[test]
fn a_close_drops_the_value_on_its_own_thread_and_with_no_lock_held() {
    let rig = Rig::new(without_sweep());
    let blackhole = Blackhole::new();
    let me = thread::current().id();
    let id = rig.start(blackhole.address, "stopped");
    assert!(rig.sockman.close_connection(id));
    assert_eq!(rig.dropped.try_recv(), Ok(("stopped", me)));
    let threads = rig.sockman.start_sockets_threads().unwrap();
    let id = rig.start(blackhole.address, "running");
    run_passes(&rig.sockman, 1);
    assert!(rig.sockman.close_connection(id));
    assert_eq!(rig.dropped.try_recv(), Ok(("running", me)));
    run_passes(&rig.sockman, 2);
    assert!(rig.outcomes.try_recv().is_err());
    rig.sockman.interrupt();
    threads.join().unwrap();
}

/// The last handle drops the values of connects under way.
#[test]
fn the_end_of_the_sockman_drops_the_values() {
    let rig = Rig::new(without_sweep());
    let blackhole = Blackhole::new();
    rig.start(blackhole.address, "waiting");
    let Rig { sockman, dropped, .. } = rig;
    assert!(dropped.try_recv().is_err());
    drop(sockman);
    assert_eq!(dropped.try_recv().unwrap().0, "waiting");
}

/// The value waits for the next start of the threads.
#[test]
fn a_value_survives_a_restart() {
    let rig = Rig::new(without_sweep());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rig.sockman.interrupt();
    rig.sockman.reset_interrupt();
    let threads = rig.sockman.start_sockets_threads().unwrap();
    rig.sockman.interrupt();
    threads.join().unwrap();
    let id = rig.start(listener.local_addr().unwrap(), "kept");
    let _threads = rig.sockman.start_sockets_threads().unwrap();
    assert_eq!(rig.outcomes.recv_timeout(DEADLINE).unwrap(), (id, "kept", true));
}

/// A close that races with the outcome: the callback gets the value at most once, and the value is
/// dropped once.
#[test]
fn a_close_that_races_with_the_outcome_drops_the_value_once() {
    const ROUNDS: usize = 300;
    let rig = Rig::new(without_sweep());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let _threads = rig.sockman.start_sockets_threads().unwrap();
    for round in 0..ROUNDS {
        let id = rig.start(at, "raced");
        if round % 3 == 0 {
            thread::yield_now();
        }
        assert!(rig.sockman.close_connection(id));
        rig.dropped.recv_timeout(DEADLINE).unwrap();
        drop(listener.accept().unwrap());
    }
    run_passes(&rig.sockman, 2);
    assert!(rig.dropped.try_recv().is_err());
    let mut reported: Vec<_> = rig.outcomes.try_iter().map(|(id, _, _)| id).collect();
    let count = reported.len();
    reported.dedup();
    assert_eq!(reported.len(), count);
}

/// Closes each connection in the callback that reports it, and records what follows.
struct Closing(Mutex<mpsc::Sender<(&'static str, ConnectionId)>>);

impl EventHandler for Closing {
    fn event_connect_completed_with(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
        _: Box<dyn Any + Send>,
    ) {
        let what = if outcome.is_ok() { "connected" } else { "failed" };
        self.0.lock().unwrap().send((what, id)).unwrap();
        assert_eq!(sockman.close_connection(id), outcome.is_ok());
    }
    fn event_closed(&self, _: &SockMan, id: ConnectionId) {
        self.0.lock().unwrap().send(("closed", id)).unwrap();
    }
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

/// G4: a connection that is closed in the callback with its value ends with one report of its end. A
/// connect that failed has no end to report.
#[test]
fn a_close_in_the_callback_with_the_value_is_followed_by_the_report_of_the_end() {
    let (sender, events) = mpsc::channel();
    let handler = Arc::new(Closing(Mutex::new(sender)));
    let sockman = SockMan::new(handler, without_sweep()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let options = ConnectOptions::default().timeout(DEADLINE);
    let id = sockman.start_connect_with(to, &options, ()).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), ("connected", id));
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), ("closed", id));
    drop(listener);
    let refused = sockman.start_connect_with(to, &options, ()).unwrap();
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), ("failed", refused));
    sockman.interrupt();
    threads.join().unwrap();
    assert!(events.try_recv().is_err());
}
