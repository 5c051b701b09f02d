//! G2: no callback names an id before the embedder has registered it, and the library delivers
//! everything that the peer did in the meantime.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Service, SockMan, address::Destination,
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, read_to_end, reset,
    tools::{Spy, deadlines, fill, run_passes, until},
    without_sweep,
};

/// A handler that panics if any callback or hook names an unregistered id. Under the default policy
/// a panic ends the threads, and `Running` then fails the test.
#[derive(Default)]
struct Registry {
    registered: Mutex<HashSet<ConnectionId>>,
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    calls: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Data(ConnectionId, Vec<u8>),
    Eof(ConnectionId),
    ReadError(ConnectionId, io::ErrorKind),
}

impl Registry {
    fn register(&self, id: ConnectionId) {
        assert!(self.registered.lock().unwrap().insert(id), "{id} was registered already");
    }

    fn called(&self, id: ConnectionId) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert!(self.registered.lock().unwrap().contains(&id), "{id} is not registered");
    }

    fn record(&self, seen: Seen) {
        self.seen.lock().unwrap().push(seen);
        self.changed.notify_all();
    }

    /// Waits until `id` has ended. Returns the bytes that the connection received, and its end.
    fn wait_for_end(&self, id: ConnectionId) -> (Vec<u8>, Seen) {
        let mut seen = self.seen.lock().unwrap();
        loop {
            let mut received = Vec::new();
            for one in &*seen {
                match one {
                    Seen::Data(of, data) if *of == id => received.extend_from_slice(data),
                    Seen::Eof(of) | Seen::ReadError(of, _) if *of == id => {
                        return (received, one.clone());
                    }
                    _ => {}
                }
            }
            let (guard, timeout) = self.changed.wait_timeout(seen, DEADLINE).unwrap();
            seen = guard;
            assert!(!timeout.timed_out(), "{id} received {received:?} but did not end; {seen:?}");
        }
    }

    fn wait_for_byte(&self, id: ConnectionId) {
        let mut seen = self.seen.lock().unwrap();
        while !seen.iter().any(|one| matches!(one, Seen::Data(of, _) if *of == id)) {
            let (guard, timeout) = self.changed.wait_timeout(seen, DEADLINE).unwrap();
            seen = guard;
            assert!(!timeout.timed_out(), "{id} received no data");
        }
    }
}

impl EventHandler for Registry {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        // Registers late, so that a callback that comes too early finds no id.
        thread::yield_now();
        self.register(id);
        true
    }

    fn event_ready_to_send(&self, _: &SockMan, id: ConnectionId) -> NextRecv {
        self.called(id);
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        self.called(id);
        self.record(Seen::Data(id, data.to_vec()));
    }

    fn event_got_eof(&self, _: &SockMan, id: ConnectionId) {
        self.called(id);
        self.record(Seen::Eof(id));
    }

    fn event_got_permanent_read_error(&self, _: &SockMan, id: ConnectionId, error: &io::Error) {
        self.called(id);
        self.record(Seen::ReadError(id, error.kind()));
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.called(id);
        true
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.called(id);
        true
    }

    fn event_io_loop_completed_for_one(&self, _: &SockMan, id: ConnectionId) {
        self.called(id);
    }
}

fn connect_to(running: &Running, to: &Destination) -> sockman::NewConnection {
    running.sockman.connect(to, &ConnectOptions::default()).unwrap()
}

/// Returns a plain listener and its address.
fn listener() -> (TcpListener, Destination) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    (listener, to)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    deadlines(&stream);
    stream
}

/// The peer's actions before the embedder registers the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Sends,
    SendsAndCloses,
    SendsAndResets,
}

/// Connects `rounds` times to a peer that acts at once, and registers each connection late.
fn assert_nothing_is_lost(peer: Peer, rounds: u64) {
    let registry = Arc::new(Registry::default());
    let running = Running::start(registry.clone(), without_sweep());
    let (listener, to) = listener();
    let (connected, is_connected) = mpsc::channel::<()>();
    let (acted, has_acted) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let is_connected = is_connected;
            for round in 0..rounds {
                let mut stream = accept(&listener);
                stream.write_all(&round.to_le_bytes()).unwrap();
                match peer {
                    Peer::Sends => acted.send(Some(stream)).unwrap(),
                    Peer::SendsAndCloses => {
                        drop(stream);
                        acted.send(None).unwrap();
                    }
                    Peer::SendsAndResets => {
                        // Waits for the connect, because an earlier reset would make the connect
                        // fail.
                        is_connected.recv().unwrap();
                        reset(stream);
                        acted.send(None).unwrap();
                    }
                }
            }
        });
        for round in 0..rounds {
            let connection = connect_to(&running, &to);
            if peer == Peer::SendsAndResets {
                connected.send(()).unwrap();
            }
            // In even rounds the peer acts before the registration, in odd rounds during it.
            let mut stream = None;
            if round % 2 == 0 {
                stream = has_acted.recv().unwrap();
            }
            registry.register(connection.id());
            let id = connection.activate();
            if round % 2 == 1 {
                stream = has_acted.recv().unwrap();
            }
            if let Some(stream) = stream {
                registry.wait_for_byte(id);
                drop(stream);
            }
            let (received, end) = registry.wait_for_end(id);
            assert_eq!(received, round.to_le_bytes(), "in round {round}");
            match peer {
                Peer::SendsAndResets => {
                    assert_eq!(end, Seen::ReadError(id, io::ErrorKind::ConnectionReset));
                }
                _ => assert_eq!(end, Seen::Eof(id)),
            }
            assert!(running.sockman.close_connection(id));
            registry.seen.lock().unwrap().clear();
        }
    });
}

/// G2
#[test]
fn bytes_sent_before_the_registration_are_delivered() {
    assert_nothing_is_lost(Peer::Sends, 2000);
}

/// G2
#[test]
fn bytes_and_an_end_before_the_registration_are_delivered() {
    assert_nothing_is_lost(Peer::SendsAndCloses, 2000);
}

/// G2
#[test]
fn bytes_and_a_reset_before_the_registration_are_delivered() {
    assert_nothing_is_lost(Peer::SendsAndResets, 2000);
}

/// G2: an embedder that registers an id inside the accept callback gets no earlier callback for it.
#[test]
fn no_callback_names_an_id_before_it_was_accepted() {
    const CLIENTS: u64 = 1000;

    let registry = Arc::new(Registry::default());
    let running = Running::start(registry.clone(), without_sweep());
    for round in 0..CLIENTS {
        let mut client = running.client();
        client.write_all(b"at once").unwrap();
        if round % 2 == 0 {
            reset(client);
        }
    }
    until("all connections have ended", || {
        let seen = registry.seen.lock().unwrap();
        seen.iter().filter(|one| !matches!(one, Seen::Data(..))).count() as u64 == CLIENTS
    });
    assert!(registry.calls.load(Ordering::Relaxed) >= CLIENTS);
}

/// G2: neither a callback nor a hook names the id, even after a wake and whatever the peer does.
#[test]
fn no_callback_names_an_outbound_id_before_it_is_activated() {
    let registry = Arc::new(Registry::default());
    let running = Running::start(registry.clone(), without_sweep());
    let (listener, to) = listener();
    for resets in [false, true] {
        let connection = connect_to(&running, &to);
        let mut stream = accept(&listener);
        stream.write_all(b"early").unwrap();
        running.sockman.wake(connection.id());
        assert_eq!(running.sockman.send_bytes(connection.id(), b"reply").unwrap(), 5);
        stream.read_exact(&mut [0; 5]).unwrap();
        if resets {
            reset(stream);
        }
        // A callback would panic here, because no id is registered.
        run_passes(&running.sockman, 3);
        drop(connection);
        run_passes(&running.sockman, 3);
    }
    assert_eq!(registry.calls.load(Ordering::Relaxed), 0);
}

/// G2
#[test]
fn a_refused_connection_is_closed_and_never_named_again() {
    let handler = Recorder::of_everything(|sockman, event| {
        if let Event::Accepted { id, .. } = event {
            // The refusal holds even after a send and a wake.
            assert_eq!(sockman.send_bytes(*id, b"no").unwrap(), 2);
            sockman.wake(*id);
        }
    });
    handler.refuse(true);
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    let mut clients = Vec::new();
    for round in 0..100 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        // The write may fail, because the connection may have ended already.
        let _ = client.write_all(b"let me in");
        clients.push((id, client));
    }
    run_passes(&running.sockman, 2);
    for (id, mut client) in clients {
        assert!(matches!(handler.events_of(id)[..], [Event::Accepted { .. }]));
        assert!(running.sockman.connection_info(id).is_none());
        assert!(!running.sockman.close_connection(id));
        let mut received = Vec::new();
        // The read ends with EOF, or with a reset because the client sent data.
        let ended = client.read_to_end(&mut received);
        assert!(ended.is_ok() || ended.unwrap_err().kind() == io::ErrorKind::ConnectionReset);
    }
    assert_eq!(running.sockman.stats().connections, 0);
    assert_eq!(spy.open(), 1, "only the listener may be open");
}

/// G2
#[test]
fn an_id_can_be_sent_to_inside_the_accept_callback() {
    let handler = Recorder::with_reaction(|sockman, event| {
        if let Event::Accepted { id, .. } = event {
            assert_eq!(sockman.send_bytes(*id, b"welcome").unwrap(), 7);
            assert!(sockman.connection_info(*id).is_some());
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let mut received = [0; 7];
    client.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"welcome");
    client.write_all(b"thanks").unwrap();
    handler.wait_for_bytes(handler.wait_for_accepted(0), 6);
}

/// G2: bytes that the socket does not take at once are sent when there is room again.
#[test]
fn a_socket_filled_inside_the_accept_callback_is_ready_to_send_later() {
    let this: Arc<OnceLock<Weak<Recorder>>> = Arc::default();
    let handler = Recorder::of_everything({
        let this = Arc::clone(&this);
        move |sockman, event| {
            if let Event::Accepted { id, .. } = event {
                this.get().unwrap().upgrade().unwrap().want_to_send(*id, true);
                fill(sockman, *id, b'x');
            }
        }
    });
    this.set(Arc::downgrade(&handler)).unwrap();
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    let mut block = vec![0; 1 << 20];
    client.set_nonblocking(true).unwrap();
    until("the connection is ready to send", || {
        let _ = client.read(&mut block);
        handler.count(|event| *event == Event::ReadyToSend(id)) > 0
    });
}

/// G2
#[test]
fn a_connection_closed_inside_the_accept_callback_is_never_named_again() {
    let handler = Recorder::of_everything(|sockman, event| {
        if let Event::Accepted { id, .. } = event {
            sockman.send_bytes(*id, b"bye").unwrap();
            assert!(sockman.close_connection(*id));
            sockman.wake(*id);
            assert!(sockman.send_bytes(*id, b"more").is_err());
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..100 {
        let mut client = running.client();
        assert_eq!(read_to_end(&mut client), b"bye");
        let id = handler.wait_for_accepted(round);
        run_passes(&running.sockman, 1);
        assert!(matches!(handler.events_of(id)[..], [Event::Accepted { .. }]));
    }
    assert_eq!(running.sockman.stats().connections, 0);
}

/// G2
#[test]
fn an_id_can_be_sent_to_and_closed_inside_register() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let (listener, to) = listener();
    let (sockman, options) = (&running.sockman, ConnectOptions::default());

    let id = sockman.connect_and_make_id(&to, &options, |id, me| {
        assert_eq!(sockman.connection_info(id).unwrap().me, *me);
        assert_eq!(sockman.send_bytes(id, b"hello").unwrap(), 5);
    });
    let mut stream = accept(&listener);
    let mut received = [0; 5];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"hello");
    stream.write_all(b"back").unwrap();
    assert_eq!(handler.wait_for_bytes(id.unwrap(), 4), b"back");

    let closed = sockman.connect_and_make_id(&to, &options, |id, _| {
        assert_eq!(sockman.send_bytes(id, b"bye").unwrap(), 3);
        assert!(sockman.close_connection(id));
    });
    assert_eq!(read_to_end(&mut accept(&listener)), b"bye");
    run_passes(sockman, 2);
    assert_eq!(handler.events_of(closed.unwrap()), []);
}

/// G2
#[test]
fn a_new_connection_dropped_without_activate_is_closed_and_never_named() {
    let handler = Recorder::of_everything(|_, _| {});
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    let (listener, to) = listener();
    let connection = connect_to(&running, &to);
    let id = connection.id();
    let mut stream = accept(&listener);
    stream.write_all(b"unheard").unwrap();
    drop(connection);
    assert!(running.sockman.connection_info(id).is_none());
    assert!(!running.sockman.close_connection(id));
    assert!(
        stream.read(&mut [0; 1]).map_or_else(
            |error| error.kind() == io::ErrorKind::ConnectionReset,
            |bytes| bytes == 0
        )
    );
    run_passes(&running.sockman, 2);
    assert_eq!(handler.events_of(id), []);
    assert_eq!(spy.open(), 1, "only the listener may be open");
}

/// G2: a connection whose `register` panics is closed, and no callback names it.
#[test]
fn a_panic_in_register_closes_the_connection() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let (listener, to) = listener();
    let id = Mutex::new(None);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        running.sockman.connect_and_make_id(&to, &ConnectOptions::default(), |new, _| {
            *id.lock().unwrap() = Some(new);
            std::panic::resume_unwind(Box::new("on purpose"));
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(read_to_end(&mut accept(&listener)), b"");
    run_passes(&running.sockman, 2);
    let id = id.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).unwrap();
    assert_eq!(handler.events_of(id), []);
    assert_eq!(running.sockman.stats().connections, 0);
}

/// G2: a wake before the activation takes effect after it, and later wakes work too.
#[test]
fn a_wake_before_the_activation_is_kept() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let (listener, to) = listener();
    for seen_early in [true, false] {
        let connection = connect_to(&running, &to);
        let _stream = accept(&listener);
        let id = connection.id();
        handler.want_to_send(id, true);
        running.sockman.wake(id);
        if seen_early {
            // Lets the socket thread see the wake before the activation.
            run_passes(&running.sockman, 2);
        }
        assert_eq!(handler.events_of(id), []);
        connection.activate();
        let ready = |events: &[Event]| {
            events.iter().filter(|event| **event == Event::ReadyToSend(id)).count()
        };
        handler.wait_for("ready to send", |events| (ready(events) >= 1).then_some(()));
        run_passes(&running.sockman, 2);
        for _ in 0..3 {
            let before = ready(&handler.events());
            running.sockman.wake(id);
            handler.wait_for("ready to send", |events| (ready(events) > before).then_some(()));
            run_passes(&running.sockman, 2);
        }
    }
}

/// G2
#[test]
fn activating_a_closed_connection_does_nothing() {
    let handler = Recorder::of_everything(|_, _| {});
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    let (listener, to) = listener();
    for seen_early in [true, false] {
        let connection = connect_to(&running, &to);
        let mut stream = accept(&listener);
        assert!(running.sockman.close_connection(connection.id()));
        // The peer sees the close before the activation.
        assert_eq!(read_to_end(&mut stream), b"");
        if seen_early {
            run_passes(&running.sockman, 2);
        }
        let id = connection.activate();
        run_passes(&running.sockman, 2);
        assert_eq!(handler.events_of(id), []);
        assert!(!running.sockman.close_connection(id));
        assert_eq!(spy.open(), 1, "only the listener may be open");
    }
}

/// G2, G14
#[test]
fn a_connection_activated_with_no_thread_running_starts_with_the_thread() {
    let handler = Recorder::of_everything(|_, _| {});
    let sockman = SockMan::new(handler.clone(), without_sweep()).unwrap();
    let (listener, to) = listener();
    let mut connected = Vec::new();
    for round in 0..10_u8 {
        let connection = sockman.connect(&to, &ConnectOptions::default()).unwrap();
        let mut stream = accept(&listener);
        stream.write_all(&[round]).unwrap();
        handler.want_to_send(connection.id(), true);
        connected.push((connection.activate(), stream));
    }
    let closed = sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
    assert!(sockman.close_connection(closed));
    assert_eq!(handler.events(), []);
    let threads = sockman.start_sockets_threads().unwrap();
    for (round, (id, _)) in connected.iter().enumerate() {
        assert_eq!(handler.wait_for_bytes(*id, 1), [u8::try_from(round).unwrap()]);
        handler.wait_for_event("ready to send", |event| *event == Event::ReadyToSend(*id));
    }
    assert_eq!(handler.events_of(closed), []);
    sockman.interrupt();
    threads.join().unwrap();
}

/// G2, G5: if the kernel refuses to watch the socket, the embedder gets one read error.
#[test]
fn a_registration_that_fails_is_reported_as_a_read_error() {
    let handler = Recorder::with_reaction(|_, _| {});
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    let (listener, to) = listener();
    // The poller has to watch the listener before registrations fail.
    run_passes(&running.sockman, 1);
    let outbound = connect_to(&running, &to);
    spy.fail_registrations(true);

    let outbound = outbound.activate();
    let mut client = running.client();
    let inbound = handler.wait_for_accepted(0);
    for id in [outbound, inbound] {
        handler.wait_for_read_error(id);
    }
    // The embedder closes the connection, and can still send on it.
    assert_eq!(running.sockman.send_bytes(inbound, b"sorry").unwrap(), 5);
    for id in [outbound, inbound] {
        running.sockman.wake(id);
    }
    run_passes(&running.sockman, 2);
    for id in [outbound, inbound] {
        assert_eq!(handler.count(|event| matches!(event, Event::ReadError(of, _) if *of == id)), 1);
        assert!(running.sockman.close_connection(id));
    }
    assert_eq!(read_to_end(&mut client), b"sorry");
    assert_eq!(read_to_end(&mut accept(&listener)), b"");
}
