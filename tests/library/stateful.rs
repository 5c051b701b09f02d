//! The layer `stateful` over the doubles: each way in, each way out, and the value that comes back
//! exactly once.

mod closures;
mod finishing;
mod last_question;
mod sending;
mod turn_ends;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, NextRecv, Options, Service, SockMan,
    address::Destination,
    error::ConnectError,
    helpers::{PushError, SendBudget, SendQueueLimits},
    options::PanicPolicy,
    stateful::{Handler, Link, Remote},
    sys::errors,
    testing::{Ended, Network, Peer, SocketThreadByHand},
};
use sockman_test_support::without_sweep;

/// Counts the values that exist.
#[derive(Default, Clone)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn alive(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// The value of a connection.
struct Value {
    name: String,
    got: Vec<u8>,
    count: Count,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.count.0.fetch_sub(1, SeqCst);
    }
}

/// What the handler does with the first byte of the data.
struct Script {
    count: Count,
    records: Mutex<Vec<String>>,
    remotes: Mutex<Vec<Remote<Value>>>,
    /// What `accepted` and `connected` do: `n`othing special, `r`efuse, `c`lose, `p`anic.
    begin: Mutex<u8>,
    limits: SendQueueLimits,
    budget: Option<SendBudget>,
}

impl Script {
    fn record(&self, what: String) {
        self.records.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.records.lock().unwrap())
    }

    fn value(&self, name: &str) -> Value {
        self.count.0.fetch_add(1, SeqCst);
        Value { name: name.to_owned(), got: Vec::new(), count: self.count.clone() }
    }

    fn begin(&self, link: Link<'_, Value>, name: &str) -> Option<Value> {
        self.remotes.lock().unwrap().push(link.remote());
        let begin = *self.begin.lock().unwrap();
        match begin {
            b'r' => return None,
            b'c' => assert!(link.close()),
            b'p' => panic!("as the test wants"),
            _ => {}
        }
        Some(self.value(name))
    }

    fn remote(&self) -> Remote<Value> {
        self.remotes.lock().unwrap().last().unwrap().clone()
    }
}

impl Handler for Script {
    type Connection = Value;

    fn accepted(&self, link: Link<'_, Value>, _: &Service, _: &Service) -> Option<Value> {
        self.begin(link, "in")
    }
    fn connected(&self, link: Link<'_, Value>, _: &Destination, _: &Service) -> Option<Value> {
        self.begin(link, "out")
    }
    fn connect_failed(&self, _: &SockMan, _: ConnectionId, _: &Destination, _: ConnectError) {
        self.record("connect failed".to_owned());
    }
    fn got_data(&self, link: Link<'_, Value>, value: &mut Value, data: &[u8]) {
        value.got.extend_from_slice(data);
        match data[0] {
            b'e' => link.push(data).unwrap(),
            b'c' => assert!(link.close() && link.is_closed() && link.info().is_none()),
            b'f' => assert!(link.finish(Duration::MAX)),
            b'a' => assert!(link.abort()),
            b'p' => panic!("as the test wants"),
            b'd' => link.sockman().drain_and_stop(Duration::MAX),
            _ => {}
        }
    }
    fn closed(&self, sockman: &SockMan, id: ConnectionId, value: Value) {
        assert!(!sockman.close_connection(id), "the id is unknown");
        self.record(format!("closed {} {}", value.name, String::from_utf8_lossy(&value.got)));
        if value.got.ends_with(b"!") {
            panic!("as the test wants");
        }
    }
    fn closed_after_panic(&self, _: &SockMan, _: ConnectionId) {
        self.record("panicked".to_owned());
    }
    fn queue_limits(&self) -> SendQueueLimits {
        self.limits
    }
    fn send_budget(&self) -> Option<&SendBudget> {
        self.budget.as_ref()
    }
}

struct Rig {
    network: Network,
    script: Arc<Script>,
    sockman: SockMan,
    here: Service,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(without_sweep(), SendQueueLimits::default(), None)
    }

    fn with(options: Options, limits: SendQueueLimits, budget: Option<SendBudget>) -> Rig {
        let network = Network::new();
        let script = Arc::new(Script {
            count: Count::default(),
            records: Mutex::default(),
            remotes: Mutex::default(),
            begin: Mutex::new(b'n'),
            limits,
            budget,
        });
        let options = options.sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&script), options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        Rig { network, script, sockman, here }
    }

    fn thread(&self) -> SocketThreadByHand {
        SocketThreadByHand::start(&self.sockman, &self.network).unwrap()
    }

    fn peer(&self) -> Peer {
        self.network.connect(&self.here).unwrap()
    }

    /// Makes one connection in each of the four ways, and returns their peers and ids.
    fn four(&self, thread: &mut SocketThreadByHand) -> [(Peer, ConnectionId); 4] {
        let there: Service = "10.0.0.2:1".parse().unwrap();
        let listener = self.network.listen(&there).unwrap();
        let accepted = self.peer();
        thread.run_until_idle().unwrap();
        let first = self.script.remote().id();
        let second = self.sockman.start_connect(&there, &ConnectOptions::default()).unwrap();
        thread.run_until_idle().unwrap();
        let started = listener.accept().unwrap();
        let new = self.sockman.connect(&there, &ConnectOptions::default()).unwrap();
        let dialled = listener.accept().unwrap();
        let third = new.activate_with(self.script.value("dialled")).unwrap().id();
        let (sock, existing) = self.network.pair(&self.here, &there).unwrap();
        let new = self.sockman.add_existing_connection(sock, &self.here, &there).unwrap();
        let fourth = new.activate_with(self.script.value("existing")).unwrap().id();
        thread.run_until_idle().unwrap();
        [(accepted, first), (started, second), (dialled, third), (existing, fourth)]
    }
}

const NAMES: [&str; 4] = ["in", "out", "dialled", "existing"];

/// Each way in gives the connection its value, and each way out gives the value back, once.
#[test]
fn each_way_in_and_out_gives_the_value_back_once() {
    for way_out in ["c", "a", "p", "finish", "eof", "reset", "sockman"] {
        let rig = Rig::with(
            without_sweep().panic_policy(PanicPolicy::CloseConnection),
            SendQueueLimits::default(),
            None,
        );
        let mut thread = rig.thread();
        let peers = rig.four(&mut thread);
        assert_eq!((rig.script.count.alive(), rig.script.take()), (4, vec![]));
        for ((peer, id), name) in peers.into_iter().zip(NAMES) {
            peer.send(b"hello").unwrap();
            thread.run_until_idle().unwrap();
            let before = rig.script.count.alive();
            let mut got = "";
            match way_out {
                "eof" => peer.shutdown_write(),
                "reset" => peer.reset(),
                "sockman" => assert!(rig.sockman.close_connection(id)),
                "finish" => {
                    peer.send(b"f").unwrap();
                    thread.run_until_idle().unwrap();
                    assert_eq!(peer.receive().1, Some(Ended::Eof));
                    got = "f";
                    drop(peer);
                }
                command => {
                    peer.send(command.as_bytes()).unwrap();
                    got = command;
                }
            }
            thread.run_until_idle().unwrap();
            let closed = format!("closed {name} hello{got}");
            let panicked = (way_out == "p").then(|| "panicked".to_owned());
            let expected: Vec<_> = panicked.into_iter().chain([closed]).collect();
            assert_eq!(rig.script.take(), expected, "{way_out}");
            assert_eq!(rig.script.count.alive(), before - 1);
        }
        assert_eq!(rig.sockman.stats().connections, 0);
        thread.stop();
    }
}

/// A drain ends all connections, and gives all values back before the threads end.
#[test]
fn a_drain_gives_all_values_back() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let peers = rig.four(&mut thread);
    peers[0].0.send(b"drain").unwrap();
    thread.run_until_idle().unwrap();
    assert!(peers.iter().all(|(peer, _)| peer.receive().1 == Some(Ended::Eof)));
    assert_eq!(rig.script.count.alive(), 4);
    drop(peers);
    thread.run_until_idle().unwrap();
    assert!(!thread.pass().unwrap(), "the threads have ended");
    assert_eq!((rig.script.take().len(), rig.script.count.alive()), (4, 0));
}

/// A refused connection has no value, and a failed connect is reported by itself.
#[test]
fn a_connection_that_is_refused_is_closed_without_a_report() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    *rig.script.begin.lock().unwrap() = b'r';
    let there: Service = "10.0.0.2:1".parse().unwrap();
    let listener = rig.network.listen(&there).unwrap();
    let peer = rig.peer();
    rig.sockman.start_connect(&there, &ConnectOptions::default()).unwrap();
    rig.network.refuse(&"10.0.0.3:1".parse().unwrap(), errors::ECONNREFUSED);
    let _ = rig.sockman.start_connect("10.0.0.3:1", &ConnectOptions::default());
    thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().1, Some(Ended::Eof));
    assert_eq!(listener.accept().unwrap().receive().1, Some(Ended::Eof));
    assert!(rig.script.take().iter().all(|record| record == "connect failed"));
    assert_eq!((rig.script.remotes.lock().unwrap().len(), rig.sockman.stats().connections), (2, 0));
    assert!(rig.script.remote().run(|_, _| {}).is_err());
}

/// `start_connect_with` brings the value of the connection along. A value of another type is dropped,
/// and so is the value of a connect that fails or is closed before its outcome.
#[test]
fn a_connect_may_bring_the_value_of_its_connection() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let [there, silent]: [Service; 2] = ["10.0.0.2:1", "10.0.0.3:1"].map(|at| at.parse().unwrap());
    let _listener = rig.network.listen(&there).unwrap();
    let (options, value) = (ConnectOptions::default(), |name| rig.script.value(name));
    let id = rig.sockman.start_connect_with(&there, &options, value("brought")).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.count.alive(), 1);
    assert!(rig.sockman.close_connection(id));
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.take(), ["closed brought "]);

    let id = rig.sockman.start_connect_with(&there, &options, "of another type").unwrap();
    thread.run_until_idle().unwrap();
    assert!(rig.sockman.close_connection(id));
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.take(), ["closed out "]);

    rig.network.ignore(&silent);
    let timeout = options.clone().timeout(Duration::from_secs(1));
    rig.sockman.start_connect_with(&silent, &timeout, value("lost")).unwrap();
    thread.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!((rig.script.take(), rig.script.count.alive()), (vec!["connect failed".into()], 0));
    let id = rig.sockman.start_connect_with(&silent, &timeout, value("dropped")).unwrap();
    assert!(rig.sockman.close_connection(id));
    assert_eq!(rig.script.count.alive(), 0);
    thread.run_for(Duration::from_secs(2)).unwrap();
    assert!(rig.script.take().is_empty());
}

/// The value comes back although the connection is closed before it has a slot: in the callback
/// that reports it, on another thread before `activate_with`, and between `activate_with` and the
/// socket thread's next pass.
#[test]
fn a_value_comes_back_if_the_connection_is_closed_before_it_is_polled() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    *rig.script.begin.lock().unwrap() = b'c';
    let _peer = rig.peer();
    thread.run_until_idle().unwrap();
    assert_eq!((rig.script.take(), rig.script.count.alive()), (vec!["closed in ".to_owned()], 0));

    let there: Service = "10.0.0.2:1".parse().unwrap();
    for is_closed_first in [true, false] {
        let (sock, _peer) = rig.network.pair(&rig.here, &there).unwrap();
        let new = rig.sockman.add_existing_connection(sock, &rig.here, &there).unwrap();
        let id = new.id();
        if is_closed_first {
            assert!(rig.sockman.close_connection(id));
        }
        let remote = new.activate_with(rig.script.value("x")).unwrap();
        if !is_closed_first {
            assert!(remote.close());
        }
        assert!(remote.is_closed() && remote.run(|_, _| {}).is_err());
        assert_eq!(rig.script.count.alive(), 1);
        thread.run_until_idle().unwrap();
        assert_eq!(
            (rig.script.take(), rig.script.count.alive()),
            (vec!["closed x ".to_owned()], 0)
        );
    }
}

/// G14: with no thread running, values wait for the next start: of connections closed before and
/// after they had a slot, and of those that stay open. Closes in between lose none.
#[test]
fn values_survive_a_restart() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let peers = rig.four(&mut thread);
    // One is closed just before the end of the thread, whose last pass has not taken the mark.
    rig.sockman.close_connection(peers[0].1);
    thread.stop();
    rig.sockman.close_connection(peers[1].1);
    let there: Service = "10.0.0.2:2".parse().unwrap();
    let (sock, _late) = rig.network.pair(&rig.here, &there).unwrap();
    let new = rig.sockman.add_existing_connection(sock, &rig.here, &there).unwrap();
    let late = new.activate_with(rig.script.value("late")).unwrap();
    late.close();
    assert_eq!((rig.script.count.alive(), rig.script.take()), (5, vec![]));
    let mut thread = rig.thread();
    thread.run_until_idle().unwrap();
    let mut records = rig.script.take();
    records.sort();
    assert_eq!(records, ["closed in ", "closed late ", "closed out "]);
    peers[3].0.send(b"echo").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(peers[3].0.receive().0, b"echo");
    // When the last `SockMan` goes, the values are dropped without a report.
    thread.stop();
    assert_eq!(rig.script.count.alive(), 2);
    let Rig { script, sockman, .. } = rig;
    drop(sockman);
    assert_eq!((script.count.alive(), script.take()), (0, vec![]));
}

/// G12: under `Stop`, the value of the connection whose callback panicked is there after the next
/// start, with what the callback did to it.
#[test]
fn a_value_survives_a_panic_that_stops_the_threads() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let peer = rig.peer();
    thread.run_until_idle().unwrap();
    peer.send(b"panic ").unwrap();
    thread.run_until_idle().unwrap_err();
    rig.script.remote().run(|_, _| panic!("as the test wants")).unwrap();
    thread.stop();
    let mut thread = rig.thread();
    thread.run_until_idle().unwrap_err();
    thread.stop();
    let mut thread = rig.thread();
    peer.send(b"close").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.take(), ["closed in panic close"]);
    assert_eq!(rig.script.count.alive(), 0);
}

/// G12: a panic of `accepted` leaves no value. A panic of `closed` drops the value.
#[test]
fn a_panic_at_the_beginning_or_the_end_leaves_no_value() {
    for policy in [PanicPolicy::Stop, PanicPolicy::CloseConnection] {
        let rig = Rig::with(without_sweep().panic_policy(policy), SendQueueLimits::default(), None);
        let mut thread = rig.thread();
        *rig.script.begin.lock().unwrap() = b'p';
        let _peer = rig.peer();
        let outcome = thread.run_until_idle();
        assert_eq!(outcome.is_err(), policy == PanicPolicy::Stop);
        thread.stop();
        *rig.script.begin.lock().unwrap() = b'n';
        let mut thread = rig.thread();
        thread.run_until_idle().unwrap();
        rig.script.take();
        let peer = rig.peer();
        thread.run_until_idle().unwrap();
        peer.send(b"close!").unwrap();
        let outcome = thread.run_until_idle();
        assert_eq!(outcome.is_err(), policy == PanicPolicy::Stop);
        assert_eq!(rig.script.take(), ["closed in close!"]);
        assert_eq!((rig.script.count.alive(), rig.sockman.stats().connections), (0, 0));
    }
}

/// Misuse: a value of another type, a `SockMan` that keeps no values, and no value at all.
#[test]
fn a_value_of_the_wrong_type_is_returned_and_a_missing_value_closes() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let there: Service = "10.0.0.2:1".parse().unwrap();
    let (sock, peer) = rig.network.pair(&rig.here, &there).unwrap();
    let new = rig.sockman.add_existing_connection(sock, &rig.here, &there).unwrap();
    let id = new.id();
    let error = new.activate_with(7_u64).unwrap_err();
    let text = format!("cannot activate connection {id}: its SockMan keeps no values of type u64");
    assert_eq!(error.to_string(), text);
    let (new, value) = error.into_parts();
    assert_eq!(value, 7);
    let value = rig.script.value("right");
    new.activate_with(value).unwrap();
    peer.send(b"close").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.take(), ["closed right close"]);

    // An error that is dropped closes the connection.
    let (sock, peer) = rig.network.pair(&rig.here, &there).unwrap();
    let new = rig.sockman.add_existing_connection(sock, &rig.here, &there).unwrap();
    let error = io::Error::from(new.activate_with("text").unwrap_err());
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(peer.receive().1, Some(Ended::Eof));

    let (sock, peer) = rig.network.pair(&rig.here, &there).unwrap();
    rig.sockman.add_existing_connection(sock, &rig.here, &there).unwrap().activate();
    thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().1, Some(Ended::Eof), "a connection without a value is closed");
    assert_eq!((rig.script.take(), rig.script.count.alive()), (vec![], 0));
}

/// G6: the queue pauses reading above its high mark, with the sweep off, and reads go on when the
/// peer reads. The budget gets its bytes back at the end, although remotes live on.
#[test]
fn the_queue_of_a_connection_has_the_limits_and_the_budget_of_the_handler() {
    let limits = SendQueueLimits::new(100, 1000, 10_000).unwrap();
    let budget = SendBudget::new(5000);
    let rig = Rig::with(without_sweep(), limits, Some(budget.clone()));
    rig.network.set_window(100);
    let mut thread = rig.thread();
    let peer = rig.peer();
    thread.run_until_idle().unwrap();
    let mut sent = Vec::new();
    for round in 0..40_u8 {
        let mut piece = vec![round; 100];
        piece[0] = b'e';
        sent.extend_from_slice(&piece[..peer.send(&piece).unwrap()]);
        thread.run_until_idle().unwrap();
    }
    let remote = rig.script.remote();
    assert!(remote.queue().is_above_high_mark());
    assert!(remote.queue().queued() < 2000, "the library reads no further");
    assert!(budget.used() >= remote.queue().queued());
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(peer.receive().0);
        thread.run_until_idle().unwrap();
    }
    assert_eq!(got, sent);
    assert!(!remote.queue().has_queued());
    assert!(matches!(remote.push(&[0; 10_001]), Err(PushError::Full { .. })));
    remote.push(&[1; 3000]).unwrap();
    assert!(budget.used() > 0);
    remote.close();
    thread.run_until_idle().unwrap();
    assert_eq!(budget.used(), 0, "the queue is discarded at the end");
}

/// A handler that overrides the hooks decides alone. The value is at hand in each of them.
#[test]
fn a_handler_may_override_the_hooks() {
    #[derive(Default)]
    struct Own(Mutex<Option<Remote<Vec<u8>>>>);
    impl Handler for Own {
        type Connection = Vec<u8>;
        fn accepted(&self, link: Link<'_, Vec<u8>>, _: &Service, _: &Service) -> Option<Vec<u8>> {
            *self.0.lock().unwrap() = Some(link.remote());
            Some(Vec::new())
        }
        fn got_data(&self, _: Link<'_, Vec<u8>>, queued: &mut Vec<u8>, data: &[u8]) {
            queued.extend_from_slice(data);
        }
        fn should_try_to_send(&self, _: Link<'_, Vec<u8>>, queued: &mut Vec<u8>) -> bool {
            !queued.is_empty()
        }
        fn should_try_to_recv(&self, _: Link<'_, Vec<u8>>, queued: &mut Vec<u8>) -> bool {
            queued.len() < 10
        }
        fn ready_to_send(&self, link: Link<'_, Vec<u8>>, queued: &mut Vec<u8>) -> NextRecv {
            let sent = link.send(queued).unwrap();
            queued.drain(..sent);
            NextRecv::Proceed
        }
        fn turn_completed(&self, link: Link<'_, Vec<u8>>, queued: &mut Vec<u8>) {
            if queued.ends_with(b"end") {
                link.close();
            }
        }
    }
    let network = Network::new();
    let options = without_sweep().sock_factory(network.factory());
    let own = Arc::new(Own::default());
    let sockman = SockMan::with_state(Arc::clone(&own), options).unwrap();
    let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    network.set_window(4);
    let peer = network.connect(&here).unwrap();
    thread.run_until_idle().unwrap();
    // A closure changes what a hook answers.
    let remote = own.0.lock().unwrap().take().unwrap();
    remote.run(|_, queued| queued.extend_from_slice(b"run")).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().0, b"run");
    peer.send(b"0123").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().0, b"0123");
    thread.run_until_idle().unwrap();
    peer.send(b"4567").unwrap();
    thread.run_until_idle().unwrap();
    peer.send(b"end").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(sockman.stats().connections, 0);
}

/// The layer's end of a `SockMan` outside of callbacks: a panic of a value's destructor reaches the
/// code that drops the last handle, and nothing else.
#[test]
fn dropping_the_last_sockman_drops_the_values_on_that_thread() {
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("as the test wants");
        }
    }
    struct Own;
    impl Handler for Own {
        type Connection = Loud;
        fn accepted(&self, _: Link<'_, Loud>, _: &Service, _: &Service) -> Option<Loud> {
            Some(Loud)
        }
        fn got_data(&self, _: Link<'_, Loud>, _: &mut Loud, _: &[u8]) {}
    }
    let network = Network::new();
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::with_state(Arc::new(Own), options).unwrap();
    let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let _peer = network.connect(&here).unwrap();
    thread.run_until_idle().unwrap();
    thread.stop();
    assert_eq!(sockman.stats().connections, 1);
    catch_unwind(AssertUnwindSafe(|| drop(sockman))).unwrap_err();
}
