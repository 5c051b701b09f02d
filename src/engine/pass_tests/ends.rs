//! Tests that the end of each announced connection is reported once, and when.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Ordinals, Rig};
use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectOptions},
    engine::{
        connect::NewConnection,
        connection::ConnectionId,
        threads::{as_another_thread, run_one_pass},
    },
    event_handler::EventHandler,
    options::{Options, PanicPolicy},
    sockman::SockMan,
    testing::Peer,
};

/// What a callback does besides its record: its name, and the ordinal of its connection.
type Reaction = Box<dyn Fn(&SockMan, &str, ConnectionId) + Send>;

#[derive(Default)]
struct Ends {
    ordinals: Ordinals,
    records: Mutex<Vec<String>>,
    refuses: Mutex<bool>,
    react: Mutex<Option<Reaction>>,
}

impl Ends {
    fn record(&self, sockman: &SockMan, what: &str, id: ConnectionId) {
        self.records.lock().push(format!("{what} {}", self.ordinals.of(id)));
        let react = self.react.lock().take();
        if let Some(react) = react {
            // The reaction is put back even if it panics.
            let reacted = catch_unwind(AssertUnwindSafe(|| react(sockman, what, id)));
            self.react.lock().get_or_insert(react);
            reacted.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.records.lock())
    }

    fn react(&self, react: impl Fn(&SockMan, &str, ConnectionId) + Send + 'static) {
        *self.react.lock() = Some(Box::new(react));
    }
}

impl EventHandler for Ends {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.record(sockman, "accepted", id);
        !*self.refuses.lock()
    }
    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let what = if outcome.is_ok() { "connected" } else { "failed" };
        self.record(sockman, what, id);
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
    fn event_closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(sockman, "closed after panic", id);
    }
    fn event_closed(&self, sockman: &SockMan, id: ConnectionId) {
        assert!(!sockman.close_connection(id));
        assert!(sockman.connection_info(id).is_none());
        self.record(sockman, "closed", id);
    }
}

fn rig_with(options: Options) -> Rig<Ends> {
    Rig::with_handler(Ends::default(), options.sweep(None))
}

fn rig() -> Rig<Ends> {
    rig_with(Options::default())
}

impl Rig<Ends> {
    fn new_connection(&self) -> (NewConnection, Peer) {
        let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let (sock, peer) = self.network.pair(&me, &them).unwrap();
        (self.sockman.add_existing_connection(sock, &me, &them).unwrap(), peer)
    }

    /// Adds connections that are polled, and gives them the next ordinals.
    fn activated(&self, count: usize) -> (Vec<ConnectionId>, Vec<Peer>) {
        let ends: (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (new, peer) = self.new_connection();
                let id = new.activate();
                self.handler.ordinals.of(id);
                (id, peer)
            })
            .unzip();
        self.pass();
        ends
    }

    /// Runs a pass that ends with a panic.
    fn pass_panics(&self) {
        assert!(catch_unwind(AssertUnwindSafe(|| run_one_pass(&self.sockman))).is_err());
        self.sockman.reset_interrupt();
    }
}

/// G4: the end is reported once, whoever closes the connection, and however it was announced.
#[test]
fn the_end_of_a_connection_is_reported_once_whoever_closes_it() {
    let rig = rig();
    let peer = rig.connect_peer();
    rig.pass();
    let to: Service = "10.0.0.9:9".parse().unwrap();
    let listener = rig.network.listen(&to).unwrap();
    rig.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    rig.pass();
    rig.pass();
    let (ids, peers) = rig.activated(2);
    assert_eq!(rig.handler.take(), ["accepted 0", "connected 1"]);

    // In a callback of its own, of another connection, on another thread, with no thread running.
    rig.handler.react(move |sockman, what, id| {
        if what == "data" {
            assert!(sockman.close_connection(id));
            as_another_thread(|| assert!(sockman.close_connection(ids[1])));
        }
    });
    peer.send(b"x").unwrap();
    rig.pass();
    rig.pass();
    assert_eq!(rig.handler.take(), ["data 0", "closed 0", "closed 3"]);
    assert!(rig.sockman.close_connection(rig.handler.ordinals.id(1)));
    assert!(rig.sockman.close_connection(rig.handler.ordinals.id(2)));
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 1", "closed 2"]);
    rig.pass();
    assert!(rig.handler.take().is_empty());
    drop((peers, listener));
}

/// G2: what was never announced has no end to report.
#[test]
fn the_end_of_a_connection_that_was_not_announced_is_not_reported() {
    let rig = rig();
    *rig.handler.refuses.lock() = true;
    let _refused = rig.connect_peer();
    rig.pass();
    let (dropped, _peer) = rig.new_connection();
    drop(dropped);
    let (dropped_after_close, _peer) = rig.new_connection();
    assert!(rig.sockman.close_connection(dropped_after_close.id()));
    drop(dropped_after_close);
    let to: Service = "10.0.0.9:9".parse().unwrap();
    rig.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    rig.pass();
    let silent: Service = "10.0.0.9:10".parse().unwrap();
    rig.network.ignore(&silent);
    for runs in [false, true] {
        let id = rig.sockman.start_connect(&silent, &ConnectOptions::default()).unwrap();
        if runs {
            rig.pass();
        }
        assert!(rig.sockman.close_connection(id));
    }
    for _ in 0..3 {
        rig.pass();
    }
    let records = rig.handler.take();
    assert_eq!(records[0], "accepted 0");
    assert!(records.iter().all(|record| !record.starts_with("closed")), "{records:?}");
}

/// G2, G4: a close that comes before the announcement or in its callback is reported after it.
#[test]
fn a_close_before_the_announcement_is_reported_after_it() {
    let rig = rig();
    let (new, _peer) = rig.new_connection();
    assert!(rig.sockman.close_connection(new.id()));
    rig.pass();
    assert!(rig.handler.take().is_empty());
    new.activate();
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 0"]);

    rig.handler.react(|sockman, what, id| {
        if what != "closed" {
            assert!(sockman.close_connection(id));
        }
    });
    let _peer = rig.connect_peer();
    rig.pass();
    rig.pass();
    assert_eq!(rig.handler.take(), ["accepted 1", "closed 1"]);
    let to: Service = "10.0.0.9:9".parse().unwrap();
    let _listener = rig.network.listen(&to).unwrap();
    rig.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.handler.take(), ["connected 2", "closed 2"]);
}

/// G14: closes while no thread runs free their descriptors at once and are reported first after the
/// next start. An interrupt in between loses no report.
#[test]
fn ends_while_no_thread_runs_are_reported_first_after_the_next_start() {
    let rig = rig();
    let (ids, _peers) = rig.activated(4);
    let descriptors = rig.network.descriptors();
    assert!(ids.iter().all(|id| rig.sockman.close_connection(*id)));
    assert_eq!(rig.network.descriptors(), descriptors - 4);
    // The first report sets the interrupt.
    rig.handler.react(|sockman, _, _| sockman.interrupt());
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 0"]);
    rig.sockman.reset_interrupt();
    rig.handler.react(|_, _, _| {});
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 1", "closed 2", "closed 3"]);
}

/// G14: a thread that ends keeps the reports that it has not made.
#[test]
fn a_close_in_the_last_pass_before_the_end_of_the_thread_is_reported_after_the_next_start() {
    use crate::testing::SocketThreadByHand;

    let rig = rig();
    let (_, peers) = rig.activated(1);
    let descriptors = rig.network.descriptors();
    rig.handler.react(|sockman, what, id| {
        if what == "data" {
            sockman.close_connection(id);
            sockman.interrupt();
        }
    });
    peers[0].send(b"x").unwrap();
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    while thread.pass_within(Duration::ZERO).unwrap() {}
    drop(thread);
    assert_eq!(rig.network.descriptors(), descriptors - 1);
    assert_eq!(rig.handler.take(), ["data 0"]);
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 0"]);
}

/// G12: a panic under `CloseConnection` is reported, and then the end is, also for a connection
/// that the panic kept from being announced.
#[test]
fn the_end_after_a_panic_is_reported_after_event_closed_after_panic() {
    let rig = rig_with(Options::default().panic_policy(PanicPolicy::CloseConnection));
    rig.handler.react(|sockman, what, id| match what {
        "closed" | "closed after panic" => {}
        "data" => {
            sockman.close_connection(id);
            panic!("after a close");
        }
        _ => panic!("in the announcement"),
    });
    let _peer = rig.connect_peer();
    rig.pass();
    rig.pass();
    assert_eq!(rig.handler.take(), ["accepted 0", "closed after panic 0", "closed 0"]);
    let to: Service = "10.0.0.9:9".parse().unwrap();
    let _listener = rig.network.listen(&to).unwrap();
    rig.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    for _ in 0..3 {
        rig.pass();
    }
    assert_eq!(rig.handler.take(), ["connected 1", "closed after panic 1", "closed 1"]);
    let (_, peers) = rig.activated(1);
    peers[0].send(b"x").unwrap();
    rig.pass();
    rig.pass();
    assert_eq!(rig.handler.take(), ["data 2", "closed 2"]);
}

/// G12: a panic in the report itself counts as a report, under both policies, and the others are
/// reported.
#[test]
fn a_panic_in_the_report_of_an_end_repeats_no_report_and_loses_none() {
    for policy in [PanicPolicy::Stop, PanicPolicy::CloseConnection] {
        let rig = rig_with(Options::default().panic_policy(policy));
        let (ids, _peers) = rig.activated(3);
        assert!(ids.iter().all(|id| rig.sockman.close_connection(*id)));
        let first = ids[0];
        rig.handler.react(move |_, _, id| assert_ne!(id, first, "a panic in the report"));
        if policy == PanicPolicy::Stop {
            rig.pass_panics();
            assert_eq!(rig.handler.take(), ["closed 0"]);
            rig.pass();
            assert_eq!(rig.handler.take(), ["closed 1", "closed 2"]);
        } else {
            rig.pass();
            assert_eq!(rig.handler.take(), ["closed 0", "closed 1", "closed 2"]);
        }
        rig.pass();
        assert!(rig.handler.take().is_empty());
    }
}

/// G12: `event_closed_after_panic` announces the id even if it panics itself. A connect whose
/// success was reported is announced, although the report panicked.
#[test]
fn a_panic_that_stops_the_threads_loses_no_end_of_an_announced_connection() {
    let rig = rig_with(Options::default().panic_policy(PanicPolicy::CloseConnection));
    rig.handler.react(|_, what, _| assert_eq!(what, "closed", "a panic"));
    let _peer = rig.connect_peer();
    rig.pass_panics();
    rig.pass();
    assert_eq!(rig.handler.take(), ["accepted 0", "closed after panic 0", "closed 0"]);

    let rig = rig_with(Options::default());
    rig.handler.react(|_, what, _| assert_eq!(what, "closed", "a panic"));
    let _peer = rig.connect_peer();
    rig.pass_panics();
    let to: Service = "10.0.0.9:9".parse().unwrap();
    let _listener = rig.network.listen(&to).unwrap();
    rig.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    rig.pass_panics();
    rig.pass();
    assert_eq!(rig.handler.take(), ["accepted 0", "connected 1", "closed 1"]);
}

/// G8: reports of many ends do not keep a connection with data waiting.
#[test]
fn reports_of_many_ends_take_a_millisecond_of_each_pass() {
    let rig = rig();
    let (ids, peers) = rig.activated(10);
    assert!(ids.iter().skip(1).all(|id| rig.sockman.close_connection(*id)));
    let network = rig.network.clone();
    rig.handler.react(move |_, what, _| {
        if what == "closed" {
            network.advance(Duration::from_micros(400));
        }
    });
    peers[0].send(b"x").unwrap();
    rig.pass();
    let records = rig.handler.take();
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO), "the poll does not wait");
    // One millisecond before the poll, one after it.
    assert_eq!(records.iter().position(|record| record == "data 0"), Some(6), "{records:?}");
    rig.pass();
    assert_eq!(rig.handler.take(), ["closed 7", "closed 8", "closed 9"]);
}

/// G14: the end of the last `SockMan` closes its connections without a report.
#[test]
fn the_drop_of_the_last_sockman_reports_no_end() {
    let rig = rig();
    let (ids, _peers) = rig.activated(2);
    assert!(rig.sockman.close_connection(ids[0]));
    let handler = rig.handler.clone();
    drop(rig);
    assert!(handler.take().is_empty());
}

/// G10: what a request costs that waits in the inbox, such as the report of an end while no thread
/// runs. The page of limits has the number.
#[test]
#[cfg(target_pointer_width = "64")]
fn a_request_to_the_socket_thread_takes_24_bytes() {
    assert_eq!(size_of::<crate::engine::inbox::Mark>(), 24);
}
