//! `start_connect`: connects that do not block the caller and that the socket thread drives. The
//! order of the callbacks, the failures, and panics in the outcome. `start_connect_ends` tests how
//! attempts end early, and `start_connect_many` tests thousands of attempts.

#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::{
    collections::HashSet,
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, ConnectionId, Interrupt, Options, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, JoinError, SendError},
    options::{More, PanicPolicy},
    stats::Direction,
};
#[cfg(unix)]
use sockman_test_support::blackhole::UnixBlackhole;
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    blackhole::Blackhole,
    read_to_end, reset,
    tools::{Gate, Spy, TempDir, deadlines, run_passes, until},
    without_sweep, write_all,
};

fn for_long() -> ConnectOptions {
    ConnectOptions::default().timeout(DEADLINE)
}

/// A plain listener, whose clients the test accepts by hand.
struct Peers(TcpListener);

impl Peers {
    fn new() -> Peers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Peers(listener)
    }

    fn destination(&self) -> Destination {
        self.0.local_addr().unwrap().into()
    }

    fn accept(&self) -> TcpStream {
        let mut accepted = None;
        until("a peer connects", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        deadlines(&stream);
        stream
    }
}

/// An address without a listener. The socket is bound, so that no other test listens on this
/// address.
struct ClosedPort(socket2::Socket);

impl ClosedPort {
    fn new() -> ClosedPort {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        ClosedPort(socket)
    }

    fn destination(&self) -> Destination {
        self.0.local_addr().unwrap().as_socket().unwrap().into()
    }
}

/// Returns the kinds of the callbacks that named `id`, in order.
fn callbacks_of(recorder: &Recorder, id: ConnectionId) -> Vec<&'static str> {
    recorder
        .events_of(id)
        .iter()
        .map(|event| match event {
            Event::Accepted { .. } => "accepted",
            Event::ConnectCompleted { outcome: Ok(_), .. } => "connected",
            Event::ConnectCompleted { outcome: Err(_), .. } => "failed",
            Event::Data(..) => "data",
            Event::Eof(_) => "eof",
            Event::ReadError(..) => "error",
            Event::ClosedAfterPanic(_) => "closed after panic",
            Event::ReadyToSend(_) | Event::CompletedForOne(_) | Event::CompletedForAll => "turn",
            #[cfg(feature = "i2p")]
            Event::I2p(..) => "i2p",
        })
        .collect()
}

/// G2: the outcome comes before any hook and any turn, and names the destination.
#[test]
fn the_outcome_is_the_first_callback_that_names_the_id() {
    let recorder = Recorder::of_everything(|_, _| {});
    let running = Running::start(recorder.clone(), without_sweep());
    let peers = Peers::new();
    let to = peers.destination();
    let id = running.sockman.start_connect(&to, &for_long()).unwrap();
    let mut peer = peers.accept();
    let me = Service::from(peer.peer_addr().unwrap());
    write_all(&mut peer, b"hello");
    drop(peer);
    recorder.wait_for_eof(id);
    let events = recorder.events_of(id);
    assert_eq!(events[0], Event::ConnectCompleted { id, to, outcome: Ok(me) });
    assert_eq!(recorder.received(id), b"hello");
    assert_eq!(callbacks_of(&recorder, id).iter().filter(|what| **what == "connected").count(), 1);
}

/// G2, G5, G14: data that the socket received before the thread started is reported after the
/// outcome.
#[test]
fn data_and_the_end_that_came_before_the_outcome_are_reported_after_it() {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let peers = Peers::new();
    let id = sockman.start_connect(peers.destination(), &for_long()).unwrap();
    let mut peer = peers.accept();
    write_all(&mut peer, b"hello");
    drop(peer);
    assert!(recorder.events().is_empty(), "no callback may come while no thread runs");
    let _threads = sockman.start_sockets_threads().unwrap();
    recorder.wait_for_eof(id);
    assert_eq!(callbacks_of(&recorder, id), ["connected", "data", "eof"]);
    assert_eq!(recorder.received(id), b"hello");
}

/// G2, G5: the socket is registered twice, and nothing is lost between the two registrations.
#[test]
fn data_and_a_reset_that_come_during_the_outcome_are_reported_after_it() {
    let gate = Gate::new();
    let recorder = Recorder::with_reaction({
        let gate = Arc::clone(&gate);
        move |_, event| {
            if matches!(event, Event::ConnectCompleted { .. }) {
                gate.hold();
            }
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let peers = Peers::new();
    for _ in 0..20 {
        let id = running.sockman.start_connect(peers.destination(), &for_long()).unwrap();
        let mut peer = peers.accept();
        gate.wait_until_held();
        write_all(&mut peer, b"hello");
        reset(peer);
        gate.open();
        assert_eq!(recorder.wait_for_read_error(id), std::io::ErrorKind::ConnectionReset);
        assert_eq!(callbacks_of(&recorder, id), ["connected", "data", "error"]);
        assert_eq!(recorder.received(id), b"hello");
        running.sockman.close_connection(id);
    }
}

/// G2, G5: the poller watches the attempt first and then the connection. (Most attempts over
/// loopback end before the poller watches them. In this test the answer takes a second.)
#[test]
fn a_connect_that_takes_time_becomes_a_connection() {
    let (recorder, blackhole) = (Recorder::new(), Blackhole::new());
    let running = Running::start(recorder.clone(), without_sweep());
    let id = running.sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
    run_passes(&running.sockman, 2);
    assert_eq!(recorder.events(), []);
    for _ in &blackhole.fillers {
        blackhole.listener.accept().unwrap();
    }
    recorder.wait_for_outcome(id).unwrap();
    let (mut peer, _) = blackhole.listener.accept().unwrap();
    deadlines(&peer);
    write_all(&mut peer, b"hello");
    recorder.wait_for_bytes(id, 5);
    drop(peer);
    recorder.wait_for_eof(id);
    assert_eq!(callbacks_of(&recorder, id), ["connected", "data", "eof"]);
}

/// G15: a connect that succeeded before a late poll returned does not time out, although the poll did
/// not report it.
#[test]
fn a_connect_that_succeeded_before_a_late_poll_returned_does_not_time_out() {
    let (recorder, spy) = (Recorder::new(), Spy::default());
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let running = Running::start(recorder.clone(), options);
    let Blackhole { address, listener, fillers } = Blackhole::new();
    let options = ConnectOptions::default().timeout(10 * DEADLINE);
    let id = running.sockman.start_connect(address, &options).unwrap();
    run_passes(&running.sockman, 2); // The kernel has sent a SYN.
    spy.next_poll_is_late(20 * DEADLINE, move || {
        // The kernel repeats the SYN. The last accept returns after the handshake.
        (0..=fillers.len()).for_each(|_| drop(listener.accept().unwrap()));
    });
    running.sockman.notify();
    recorder.wait_for_outcome(id).unwrap();
}

/// G2: a reset that comes before the thread starts is reported once, as a failed connect.
#[test]
fn a_reset_before_the_outcome_is_reported_as_a_failed_connect() {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let peers = Peers::new();
    let id = sockman.start_connect(peers.destination(), &for_long()).unwrap();
    reset(peers.accept());
    let _threads = sockman.start_sockets_threads().unwrap();
    let Err(ConnectErrorKind::Os { step: "connect", source, .. }) =
        recorder.wait_for_outcome(id).map_err(ConnectError::into_kind)
    else {
        panic!("{:?}", recorder.events());
    };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
    run_passes(&sockman, 2);
    assert_eq!(callbacks_of(&recorder, id), ["failed"]);
    assert_eq!(sockman.stats().connections, 0);
}

/// G2: the connection exists when the outcome is reported.
#[test]
fn inside_the_outcome_the_id_can_be_sent_to_and_is_known() {
    let info = Arc::new(Mutex::new(None));
    let recorder = Recorder::with_reaction({
        let info = Arc::clone(&info);
        move |sockman, event| {
            if let Event::ConnectCompleted { id, outcome, .. } = event {
                outcome.as_ref().unwrap();
                *info.lock().unwrap() = sockman.connection_info(*id);
                let first = [std::io::IoSlice::new(b"first ")];
                assert_eq!(sockman.send_with(*id, &first, More::Follows).unwrap(), 6);
                assert_eq!(sockman.send_bytes(*id, b"words").unwrap(), 5);
                sockman.wake(*id);
            }
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let peers = Peers::new();
    let id = running.sockman.start_connect(peers.destination(), &for_long()).unwrap();
    let mut peer = peers.accept();
    let mut words = [0; 11];
    peer.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"first words");
    let me = recorder.wait_for_outcome(id).unwrap();
    let info = info.lock().unwrap().take().expect("the id must be known in its outcome");
    assert_eq!(me, peer.peer_addr().unwrap().into());
    assert_eq!((info.id, info.direction), (id, Direction::Outbound));
    assert_eq!((info.me, info.them), (me, peers.0.local_addr().unwrap().into()));
    // The peer may read the bytes before the library counts them.
    run_passes(&running.sockman, 1);
    assert_eq!(running.sockman.connection_info(id).unwrap().bytes_sent, 11);
}

/// G2, G4: after a close in the outcome, no callback names the id.
#[test]
fn an_id_closed_in_its_outcome_is_never_named_again() {
    let recorder = Recorder::of_everything(|sockman, event| {
        if let Event::ConnectCompleted { id, .. } = event {
            assert!(sockman.close_connection(*id));
            assert!(!sockman.close_connection(*id));
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let peers = Peers::new();
    let id = running.sockman.start_connect(peers.destination(), &for_long()).unwrap();
    let mut peer = peers.accept();
    assert!(read_to_end(&mut peer).is_empty());
    run_passes(&running.sockman, 2);
    assert_eq!(callbacks_of(&recorder, id), ["connected"]);
    assert_eq!(running.sockman.stats().connections, 0);
}

/// G2: before the outcome the id can only be closed.
#[test]
fn before_the_outcome_the_id_is_unknown() {
    let running = Running::start(Recorder::new(), without_sweep());
    let (sockman, blackhole) = (&running.sockman, Blackhole::new());
    let id = sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
    run_passes(sockman, 2);
    assert!(sockman.connection_info(id).is_none());
    let is_unknown = |result| matches!(result, Err(SendError::UnknownConnection(of)) if of == id);
    assert!(is_unknown(sockman.send_bytes(id, b"too early")));
    assert!(is_unknown(sockman.shutdown_write(id).map(|()| 0)));
    sockman.wake(id);
    assert_eq!(sockman.stats().connections, 1, "an attempt must take a place");
    assert!(sockman.close_connection(id));
}

/// G3: connects can begin in callbacks, and in the callbacks of those connects.
#[test]
fn connects_can_be_begun_inside_callbacks() {
    let peers = Peers::new();
    let to = peers.destination();
    let begun = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder::with_reaction({
        let begun = Arc::clone(&begun);
        move |sockman, event| {
            // The accept of a client begins the first connect, the outcome of that connect begins
            // the second, and the data begins the third.
            let begins = match event {
                Event::Accepted { .. } | Event::Data(..) => true,
                Event::ConnectCompleted { id, outcome, .. } => {
                    outcome.as_ref().unwrap();
                    begun.lock().unwrap().first() == Some(id)
                }
                _ => false,
            };
            if begins {
                let id = sockman.start_connect(&to, &for_long()).unwrap();
                begun.lock().unwrap().push(id);
            }
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let _client = running.client();
    let mut accepted = [peers.accept(), peers.accept()];
    write_all(&mut accepted[1], b"one more");
    let _third = peers.accept();
    let ids = recorder.wait_for("three outcomes", |events| {
        let ids: Vec<_> = events
            .iter()
            .filter(|event| matches!(event, Event::ConnectCompleted { outcome: Ok(_), .. }))
            .filter_map(|event| event.id())
            .collect();
        (ids.len() == 3).then_some(ids)
    });
    assert_eq!(ids, *begun.lock().unwrap());
}

/// G2: a table of attempts is correct if its lock is held during the call of `start_connect` and is
/// taken in the callback.
#[test]
fn a_table_filled_under_a_lock_holds_the_id_when_the_outcome_comes() {
    let table = Arc::new(Mutex::new(HashSet::new()));
    let recorder = Recorder::with_reaction({
        let table = Arc::clone(&table);
        move |sockman, event| {
            if let Event::ConnectCompleted { id, .. } = event {
                assert!(table.lock().unwrap().remove(id), "{id} is not in the table");
                sockman.close_connection(*id);
            }
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let to = Destination::from(running.address);
    for _ in 0..300 {
        let mut table = table.lock().unwrap();
        table.insert(running.sockman.start_connect(&to, &for_long()).unwrap());
    }
    recorder.wait_for("all outcomes", |events| {
        let outcomes =
            events.iter().filter(|event| matches!(event, Event::ConnectCompleted { .. }));
        (outcomes.count() == 300).then_some(())
    });
    // The recorder records an event before it reacts to it.
    until("the last id is removed from the table", || table.lock().unwrap().is_empty());
}

/// G9: a connect to a port without a listener fails at once.
#[cfg(unix)]
#[test]
fn a_connect_to_an_address_without_a_listener_is_refused() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let (sockman, closed_port) = (&running.sockman, ClosedPort::new());
    let id = sockman.start_connect(closed_port.destination(), &for_long()).unwrap();
    let error = recorder.wait_for_outcome(id).unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{error:?}");
    assert_eq!(error.to(), Some(&closed_port.destination()));
    // A connect to a unix-domain socket fails in the call itself.
    let directory = TempDir::new();
    let path = directory.path("stale");
    drop(UnixListener::bind(&path).unwrap());
    let to = Destination::from(Service::unix(&path).unwrap());
    let result = sockman.start_connect(&to, &for_long());
    assert!(
        matches!(
            result.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Refused { .. })
        ),
        "{result:?}"
    );
    run_passes(sockman, 2);
    assert_eq!(callbacks_of(&recorder, id), ["failed"]);
    assert_eq!(recorder.events().len(), 1);
    assert_eq!(sockman.stats().connections, 0);
}

/// G9: the deadline of a connect is met without the sweep.
#[cfg(unix)]
#[test]
fn a_connect_without_an_answer_times_out_at_its_deadline() {
    /// The limit for "at once" on a machine that is busy with everything else.
    const PROMPT: Duration = Duration::from_secs(20);

    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let (tcp, unix) = (Blackhole::new(), UnixBlackhole::new());
    for to in [tcp.destination(), unix.destination()] {
        for timeout in [Duration::from_millis(120), Duration::ZERO] {
            let began = Instant::now();
            let options = ConnectOptions::default().timeout(timeout);
            let id = running.sockman.start_connect(&to, &options).unwrap();
            let error = recorder.wait_for_outcome(id).unwrap_err();
            assert_eq!(error.to(), Some(&to));
            let ConnectErrorKind::TimedOut { after, .. } = *error.kind() else {
                panic!("{error:?}");
            };
            assert!(after >= timeout && began.elapsed() >= timeout, "{after:?}");
            assert!(began.elapsed() < PROMPT);
        }
    }
    assert_eq!(running.sockman.stats().connections, 0);
}

/// The call returns an error that it finds at once, and no callback follows.
#[cfg(unix)]
#[test]
fn an_immediate_error_is_returned_by_the_call_alone() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
    let (sockman, blackhole) = (&running.sockman, Blackhole::new());
    let start =
        |to: &str, options: &ConnectOptions| sockman.start_connect(to, options).unwrap_err();
    let need_a_proxy = [
        #[cfg(feature = "socks5")]
        "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:8333",
        "example.com:8333",
    ];
    for to in need_a_proxy {
        assert!(matches!(start(to, &for_long()).kind(), ConnectErrorKind::NeedsProxy), "{to}");
    }
    let unnamed = the_unnamed_address();
    let result = sockman.start_connect(&unnamed, &for_long());
    assert!(
        matches!(
            result.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::InvalidDestination)
        ),
        "{result:?}"
    );
    let cancel = Interrupt::new();
    cancel.interrupt();
    let result = sockman.start_connect(blackhole.destination(), &for_long().cancel(cancel));
    assert!(
        matches!(result.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{result:?}"
    );

    assert_eq!(sockman.stats().connections, 0);
    let attempt = sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
    let result = sockman.start_connect(blackhole.destination(), &for_long());
    assert!(
        matches!(
            result.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::TooManyConnections { limit: 1 })
        ),
        "{result:?}"
    );
    assert!(sockman.close_connection(attempt));
    run_passes(sockman, 2);
    assert_eq!(recorder.events(), []);

    // The call also returns an error if the `SockMan`'s own interrupt is set.
    let stopped = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    stopped.interrupt();
    let result = stopped.start_connect(blackhole.destination(), &for_long());
    assert!(
        matches!(result.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{result:?}"
    );
    assert_eq!(stopped.stats().connections, 0);
}

/// Returns the address of an unnamed peer, which cannot be dialled.
fn the_unnamed_address() -> Destination {
    let directory = TempDir::new();
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound =
        sockman.bind_and_start_listening(Service::unix(directory.path("s")).unwrap()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let id = sockman.start_connect(bound, &for_long()).unwrap();
    recorder.wait_for_outcome(id).unwrap().into()
}

/// G9: a full backlog causes neither a failure nor a false success. The connect succeeds once there
/// is room.
#[cfg(unix)]
#[test]
fn a_connect_to_a_full_unix_listener_succeeds_once_there_is_room() {
    let blackhole = UnixBlackhole::new();
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let id = running.sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
    run_passes(&running.sockman, 2);
    assert_eq!(recorder.events(), []);
    for _ in &blackhole.fillers {
        blackhole.listener.accept().unwrap();
    }
    let (mut accepted, _) = blackhole.listener.accept().unwrap();
    recorder.wait_for_outcome(id).unwrap();
    assert_eq!(running.sockman.send_bytes(id, b"really connected").unwrap(), 16);
    let mut bytes = [0; 16];
    accepted.set_read_timeout(Some(DEADLINE)).unwrap();
    accepted.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"really connected");
}

/// G11: the place of a failed attempt is free when its outcome is reported.
#[test]
fn at_the_cap_a_failed_attempt_has_given_its_place_back_when_it_is_reported() {
    let (peers, closed_port) = (Peers::new(), ClosedPort::new());
    let to = peers.destination();
    let recorder = Recorder::with_reaction(move |sockman, event| {
        if matches!(event, Event::ConnectCompleted { outcome: Err(_), .. }) {
            sockman.start_connect(&to, &for_long()).unwrap();
        }
    });
    let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
    running.sockman.start_connect(closed_port.destination(), &for_long()).unwrap();
    let _peer = peers.accept();
    recorder.wait_for_event("the second outcome", |event| {
        matches!(event, Event::ConnectCompleted { outcome: Ok(_), .. })
    });
}

/// G11: without the sweep, an attempt that ends lets in a client that waits for a place.
#[test]
fn at_the_cap_an_attempt_that_ends_lets_a_client_in() {
    let blackhole = Blackhole::new();
    for is_cancelled in [true, false] {
        let recorder = Recorder::new();
        let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
        let cancel = Interrupt::new();
        let options = for_long().cancel(cancel.clone());
        let id = running.sockman.start_connect(blackhole.destination(), &options).unwrap();
        let _client = running.client();
        run_passes(&running.sockman, 2);
        assert_eq!(recorder.events(), []);
        if is_cancelled {
            cancel.interrupt();
        } else {
            assert!(running.sockman.close_connection(id));
        }
        recorder.wait_for_accepted(0);
    }
}

/// `Stats` counts attempts among the connections.
#[test]
fn attempts_are_counted_among_the_connections() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let (sockman, peers, closed_port) = (&running.sockman, Peers::new(), ClosedPort::new());
    let counts = || {
        let stats = sockman.stats();
        (stats.connections, stats.connected, stats.closed)
    };
    let id = sockman.start_connect(peers.destination(), &for_long()).unwrap();
    recorder.wait_for_outcome(id).unwrap();
    assert_eq!(counts(), (1, 1, 0));
    let failed = sockman.start_connect(closed_port.destination(), &for_long()).unwrap();
    recorder.wait_for_outcome(failed).unwrap_err();
    assert_eq!(counts(), (1, 1, 0), "a failed attempt must not count as connected");
    let blackhole = Blackhole::new();
    let under_way = sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
    assert_eq!(counts(), (2, 1, 0));
    assert!(sockman.close_connection(under_way));
    assert_eq!(counts(), (1, 1, 1));
    assert!(sockman.close_connection(id));
    assert_eq!(counts(), (0, 1, 2));
}

/// A `SockMan` whose handler panics in the next outcome while the flag is set.
fn panicking(options: Options) -> (Arc<AtomicBool>, Arc<Recorder>, Running) {
    let is_armed = Arc::new(AtomicBool::new(true));
    let recorder = Recorder::with_reaction({
        let is_armed = Arc::clone(&is_armed);
        move |_, event| {
            let is_outcome = matches!(event, Event::ConnectCompleted { .. });
            if is_outcome && is_armed.swap(false, Ordering::SeqCst) {
                // `resume_unwind` skips the panic hook, so the test's output stays clean.
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        }
    });
    let running = Running::start(recorder.clone(), options);
    (is_armed, recorder, running)
}

/// G12: `join` returns the panic. The connection is closed, and all other connections continue.
#[test]
fn under_stop_a_panic_in_an_outcome_ends_the_threads_and_closes_the_connection() {
    let (peers, closed_port) = (Peers::new(), ClosedPort::new());
    for to in [peers.destination(), closed_port.destination()] {
        let (_, recorder, mut running) = panicking(without_sweep());
        let sockman = running.sockman.clone();
        let id = sockman.start_connect(&to, &for_long()).unwrap();
        let result = running.threads.take().unwrap().join();
        let Err(JoinError::Panicked(panic)) = result else { panic!("{result:?}") };
        assert_eq!(panic.message(), "on purpose");
        assert_eq!(panic.into_payload().downcast_ref::<&str>(), Some(&"on purpose"));
        assert_eq!(sockman.stats().connections, 0);
        assert!(!sockman.close_connection(id), "the connection must be closed already");
        running.threads = Some(sockman.start_sockets_threads().unwrap());
        let next = sockman.start_connect(peers.destination(), &for_long()).unwrap();
        recorder.wait_for_outcome(next).unwrap();
        assert_eq!(callbacks_of(&recorder, id).len(), 1);
        assert_eq!(sockman.stats().panics, 1);
    }
    assert!(read_to_end(&mut peers.accept()).is_empty(), "the peer must see the close");
}

/// G12: the connection is closed and reported. A failed attempt has no connection to close.
#[test]
fn under_close_connection_a_panic_in_an_outcome_closes_that_connection_alone() {
    let (peers, closed_port) = (Peers::new(), ClosedPort::new());
    for (to, callbacks) in [
        (peers.destination(), &["connected", "closed after panic"][..]),
        (closed_port.destination(), &["failed"]),
    ] {
        let options = without_sweep().panic_policy(PanicPolicy::CloseConnection);
        let (_, recorder, running) = panicking(options);
        let id = running.sockman.start_connect(&to, &for_long()).unwrap();
        recorder.wait_for("the outcome", |events| {
            events.iter().find(|event| event.id() == Some(id)).map(|_| ())
        });
        run_passes(&running.sockman, 2);
        assert_eq!(callbacks_of(&recorder, id), callbacks);
        let next = running.sockman.start_connect(peers.destination(), &for_long()).unwrap();
        recorder.wait_for_outcome(next).unwrap();
        let stats = running.sockman.stats();
        assert_eq!((stats.connections, stats.panics), (1, 1));
    }
    assert!(read_to_end(&mut peers.accept()).is_empty(), "the peer must see the close");
}
