//! G4: exactly one caller closes, no later callback names the id, the peer sees the close at once,
//! and the descriptor is closed.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Barrier, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use sockman::{ConnectOptions, ConnectionId, SockMan, WeakSockMan, address::Destination};
use sockman_test_support::{
    Event, Recorder, Running, read_to_end, reset,
    tools::{Callback, Everywhere, Gate, Spy, fill, provoke, run_passes, until},
    without_sweep,
};

/// The callbacks that name the id of an open connection.
const WITH_OPEN_ID: [Callback; 8] = [
    Callback::Accepted,
    Callback::ReadyToSend,
    Callback::GotData,
    Callback::GotEof,
    Callback::GotReadError,
    Callback::ShouldTryToSend,
    Callback::ShouldTryToRecv,
    Callback::CompletedForOne,
];

/// G4: the callers include the socket thread.
#[test]
fn exactly_one_of_many_callers_closes() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 200;

    let closed_by_callback = Arc::new(AtomicUsize::new(0));
    let handler = Recorder::with_reaction({
        let closed = Arc::clone(&closed_by_callback);
        move |sockman, event| {
            if let Event::Data(id, _) = event {
                closed.fetch_add(usize::from(sockman.close_connection(*id)), Ordering::SeqCst);
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let barrier = Barrier::new(THREADS + 1);
    let target = Mutex::new(None);
    let closed_by_threads = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    barrier.wait();
                    let id = target.lock().unwrap().unwrap();
                    barrier.wait();
                    let closed = running.sockman.close_connection(id);
                    closed_by_threads.fetch_add(usize::from(closed), Ordering::SeqCst);
                    barrier.wait();
                }
            });
        }
        for round in 0..ROUNDS {
            let mut client = running.client();
            *target.lock().unwrap() = Some(handler.wait_for_accepted(round));
            barrier.wait();
            client.write_all(b"x").unwrap();
            barrier.wait();
            barrier.wait();
            run_passes(&running.sockman, 1);
            let closed = closed_by_threads.load(Ordering::SeqCst)
                + closed_by_callback.load(Ordering::SeqCst);
            assert_eq!(closed, round + 1);
        }
    });
    assert_eq!(running.sockman.stats().closed, ROUNDS as u64);
}

/// Closes each connection in its first `callback`, and all other connections too if `all` is set.
/// Asserts that no later callback names a closed connection.
fn closing_in(callback: Callback, all: bool) {
    #[derive(Default)]
    struct Log {
        open: HashSet<ConnectionId>,
        closed: HashSet<ConnectionId>,
        ended: HashSet<ConnectionId>,
        late: Vec<(Callback, ConnectionId)>,
    }
    let (log, sockman) = (Arc::new(Mutex::new(Log::default())), Arc::new(OnceLock::new()));
    let handler = Arc::new(Everywhere::new({
        let (log, sockman) = (Arc::clone(&log), Arc::clone(&sockman));
        move |now, id| {
            let Some(id) = id else { return };
            let mut log = log.lock().unwrap();
            // The report of the end comes once, and after everything else.
            let is_end = now == Callback::Closed && log.ended.insert(id);
            if log.closed.contains(&id) && !is_end {
                log.late.push((now, id));
            }
            if now == Callback::Accepted {
                log.open.insert(id);
            }
            if now == callback {
                let sockman: Option<&WeakSockMan> = sockman.get();
                let sockman = sockman.unwrap().upgrade().unwrap();
                let ids = if all { log.open.drain().collect() } else { vec![id] };
                for id in ids {
                    log.open.remove(&id);
                    assert!(sockman.close_connection(id));
                    log.closed.insert(id);
                }
            }
        }
    }));
    let made = SockMan::new(handler, without_sweep()).unwrap();
    sockman.set(made.downgrade()).unwrap();
    let bound = made.bind_and_start_listening("127.0.0.1:0").unwrap();
    let threads = made.start_sockets_threads().unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.extend(provoke(bound.to_socket_addr().unwrap()).unwrap());
    }
    until(&format!("{callback:?} has closed"), || !log.lock().unwrap().closed.is_empty());
    until("all clients are accepted", || made.stats().accepted == 8 * 3);
    run_passes(&made, 3);
    made.interrupt();
    threads.join().unwrap();
    let log = log.lock().unwrap();
    assert_eq!(log.late, [], "callbacks named an id after its close in {callback:?}");
    assert_eq!(log.ended, log.closed, "each end is reported, after a close in {callback:?}");
}

/// G4
#[test]
fn a_connection_that_closes_itself_in_any_callback_is_not_named_again() {
    for callback in WITH_OPEN_ID {
        closing_in(callback, false);
    }
}

/// G4
#[test]
fn connections_closed_in_a_callback_of_another_are_not_named_again() {
    for callback in WITH_OPEN_ID {
        closing_in(callback, true);
    }
}

/// G4: both connections have an event in the same poll, and the first turn closes the other.
#[test]
fn a_connection_closed_before_its_turn_in_the_same_pass_is_not_named_again() {
    let (gate, holder) = (Gate::new(), Arc::new(OnceLock::new()));
    let pair: Arc<Mutex<Vec<ConnectionId>>> = Arc::default();
    let handler = Recorder::of_everything({
        let (gate, pair, holder) = (Arc::clone(&gate), Arc::clone(&pair), Arc::clone(&holder));
        move |sockman, event| {
            let Event::Data(id, _) = event else { return };
            if holder.get() == Some(id) {
                gate.hold();
            }
            // The connection that gets the first turn closes the other one.
            let pair = pair.lock().unwrap();
            if pair.contains(id) {
                let other = pair.iter().find(|other| *other != id).unwrap();
                assert!(sockman.close_connection(*other));
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let mut holding = running.client();
    holder.set(handler.wait_for_accepted(0)).unwrap();
    for round in 0..200 {
        let mut clients = [running.client(), running.client()];
        let ids = [2 * round + 1, 2 * round + 2].map(|n| handler.wait_for_accepted(n));
        run_passes(&running.sockman, 1);
        *pair.lock().unwrap() = ids.to_vec();
        let before = ids.map(|id| handler.events_of(id).len());
        holding.write_all(b"h").unwrap();
        gate.wait_until_held();
        for client in &mut clients {
            client.write_all(b"both").unwrap();
        }
        gate.open();
        handler.wait_for_event(
            "data of one",
            |event| matches!(event, Event::Data(id, _) if ids.contains(id)),
        );
        run_passes(&running.sockman, 2);
        let mut named = 0;
        for (id, before) in ids.into_iter().zip(before) {
            if handler.events_of(id).len() > before {
                named += 1;
                assert!(running.sockman.close_connection(id));
            }
        }
        assert_eq!(named, 1, "exactly one of the two may be named in round {round}");
        for client in clients {
            reset(client);
        }
    }
}

/// G4: at most one callback, hooks included, begins after `close_connection` has returned.
#[test]
fn after_a_close_from_another_thread_at_most_one_callback_begins() {
    const ROUNDS: usize = 500;

    let accepted: Arc<Mutex<Vec<ConnectionId>>> = Arc::default();
    // The closed id plus one, and the number of callbacks that began for this id after the close.
    let (closed, late) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let data = Arc::new(AtomicU64::new(0));
    let handler = Arc::new(Everywhere::new({
        let (accepted, closed) = (Arc::clone(&accepted), Arc::clone(&closed));
        let (late, data) = (Arc::clone(&late), Arc::clone(&data));
        move |callback, id| {
            let Some(id) = id else { return };
            let is_end = callback == Callback::Closed;
            if closed.load(Ordering::SeqCst) == id.as_u64() + 1 && !is_end {
                late.fetch_add(1, Ordering::SeqCst);
            }
            match callback {
                Callback::Accepted => accepted.lock().unwrap().push(id),
                Callback::GotData => data.store(id.as_u64() + 1, Ordering::SeqCst),
                _ => {}
            }
        }
    }));
    let running = Running::start(handler, without_sweep());
    let mut any_late = 0;
    for round in 0..ROUNDS {
        let mut client = running.client();
        thread::scope(|scope| {
            scope.spawn(move || while client.write_all(&[7; 100_000]).is_ok() {});
            until("the client is accepted", || accepted.lock().unwrap().len() > round);
            let id = accepted.lock().unwrap()[round];
            until("data arrives", || data.load(Ordering::SeqCst) == id.as_u64() + 1);
            late.store(0, Ordering::SeqCst);
            assert!(running.sockman.close_connection(id));
            closed.store(id.as_u64() + 1, Ordering::SeqCst);
            run_passes(&running.sockman, 1);
            let late = late.load(Ordering::SeqCst);
            assert!(late <= 1, "{late} callbacks began after the close in round {round}");
            any_late += late;
        });
    }
    // The test does not assert this count: the scheduler decides how often the one allowed callback
    // begins.
    let _ = any_late;
}

/// G4: the pass checks for the close right before each callback, after the receive that leads to
/// it.
#[test]
fn a_close_that_returns_during_the_receive_takes_effect() {
    let handler = Recorder::of_everything(|_, _| {});
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    for round in 0..60 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        run_passes(&running.sockman, 2);
        let before = handler.events_of(id);
        let (gate, sockman) = (Gate::new(), running.sockman.clone());
        spy.after_receive({
            let gate = Arc::clone(&gate);
            move || gate.hold()
        });
        // The receive returns data, the end, or an error.
        match round % 3 {
            0 => client.write_all(b"x").unwrap(),
            1 => client.shutdown(std::net::Shutdown::Write).unwrap(),
            _ => reset(client),
        }
        gate.wait_until_held();
        assert!(sockman.close_connection(id));
        gate.open();
        run_passes(&sockman, 1);
        assert_eq!(handler.events_of(id), before);
    }
}

/// G4: before the next poll, the pass asks the hooks of connections that are left with work. The
/// pass does not ask the hooks of a connection that such a hook has closed.
#[test]
fn a_connection_closed_by_a_hook_before_the_poll_is_not_asked_again() {
    for callback in [Callback::ShouldTryToSend, Callback::ShouldTryToRecv] {
        for all in [false, true] {
            for _ in 0..20 {
                closing_before_the_poll(callback, all);
            }
        }
    }
}

/// Closes connections in `callback` if the callback comes between a pass's first callback and its
/// poll.
fn closing_before_the_poll(callback: Callback, all: bool) {
    #[derive(Default)]
    struct Log {
        before_the_poll: bool,
        open: HashSet<ConnectionId>,
        closed: HashSet<ConnectionId>,
        ended: HashSet<ConnectionId>,
        late: Vec<(Callback, ConnectionId)>,
    }
    let (log, sockman) = (Arc::new(Mutex::new(Log::default())), Arc::new(OnceLock::new()));
    let handler = Arc::new(Everywhere::new({
        let (log, sockman) = (Arc::clone(&log), Arc::clone(&sockman));
        move |now, id| {
            let mut log = log.lock().unwrap();
            let sockman: Option<&WeakSockMan> = sockman.get();
            let sockman = sockman.unwrap().upgrade().unwrap();
            match now {
                Callback::CompletedForAll => log.before_the_poll = true,
                // The pass calls `next_deadline` right after the hooks.
                Callback::NextDeadline => log.before_the_poll = false,
                _ => {}
            }
            let Some(id) = id else { return };
            // The report of the end comes once, and after everything else.
            let is_end = now == Callback::Closed && log.ended.insert(id);
            if log.closed.contains(&id) && !is_end {
                log.late.push((now, id));
            }
            match now {
                Callback::Accepted => drop(log.open.insert(id)),
                // Leaves more work for the next pass.
                Callback::ReadyToSend => drop(sockman.send_bytes(id, b"x")),
                _ => {}
            }
            if log.before_the_poll && now == callback && log.open.len() == 3 {
                let ids = if all { log.open.drain().collect() } else { vec![id] };
                for id in ids {
                    assert!(sockman.close_connection(id));
                    log.closed.insert(id);
                }
            }
        }
    }));
    // Each receive fills the buffer, so it also leaves work for the next pass.
    let options = without_sweep().receive_buffer(1);
    let made = SockMan::new(handler, options).unwrap();
    sockman.set(made.downgrade()).unwrap();
    let bound = made.bind_and_start_listening("127.0.0.1:0").unwrap();
    let threads = made.start_sockets_threads().unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
        client.write_all(&[1; 10_000]).unwrap();
        clients.push(client);
    }
    until("the hook has closed", || !log.lock().unwrap().closed.is_empty());
    run_passes(&made, 3);
    made.interrupt();
    threads.join().unwrap();
    let log = log.lock().unwrap();
    assert_eq!(log.late, [], "callbacks named an id after its close in {callback:?}");
    assert_eq!(log.ended, log.closed, "each end is reported, after a close in {callback:?}");
}

/// G4: the guarantee holds for a caller on the socket thread that loses the race to close, too.
#[test]
fn after_a_lost_close_on_the_socket_thread_no_callback_names_the_id() {
    const ROUNDS: usize = 1000;

    let handler = Recorder::of_everything({
        let closed = Mutex::new(HashSet::new());
        move |sockman, event| {
            let Some(id) = event.id() else { return };
            let mut closed = closed.lock().unwrap();
            assert!(!closed.contains(&id), "{event:?} came after the close");
            if let Event::Data(..) = event {
                // Waits until another thread has closed the connection.
                while sockman.connection_info(id).is_some() {}
                assert!(!sockman.close_connection(id));
                closed.insert(id);
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..ROUNDS {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        client.write_all(b"x").unwrap();
        handler.wait_for_bytes(id, 1);
        assert!(running.sockman.close_connection(id));
    }
    run_passes(&running.sockman, 2);
}

/// G4: the peer sees the close although no event comes and the sweep is off.
#[test]
fn the_peer_sees_a_close_at_once() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    run_passes(&running.sockman, 2);
    assert!(running.sockman.close_connection(id));
    assert_eq!(read_to_end(&mut client), b"");
}

/// G4: the peer first reads all bytes that the kernel took before the close.
#[test]
fn the_peer_reads_what_was_sent_before_the_close() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    let sent = fill(&running.sockman, id, b'x');
    assert!(running.sockman.close_connection(id));
    let received = read_to_end(&mut client);
    assert_eq!(received.len(), sent);
    assert!(received.iter().all(|byte| *byte == b'x'));
}

/// G4: the close does not need the socket thread.
#[test]
fn the_peer_sees_a_close_while_the_socket_thread_is_busy() {
    let gate = Gate::new();
    let handler = Recorder::with_reaction({
        let gate = Arc::clone(&gate);
        move |_, event| {
            if let Event::Data(..) = event {
                gate.hold();
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let mut holding = running.client();
    let holder = handler.wait_for_accepted(0);
    let mut client = running.client();
    let id = handler.wait_for_accepted(1);
    holding.write_all(b"h").unwrap();
    gate.wait_until_held();
    assert!(running.sockman.close_connection(id));
    assert_eq!(read_to_end(&mut client), b"");
    // A close of the connection whose callback is running, and whose data has been read, also
    // reaches the peer at once.
    assert!(running.sockman.close_connection(holder));
    assert_eq!(read_to_end(&mut holding), b"");
    gate.open();
}

/// G4
#[test]
fn the_peer_sees_a_close_with_no_thread_running() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    let spy = Spy::default();
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    let connect = || sockman.connect(&to, &ConnectOptions::default()).unwrap();
    // One connection is queued for the socket thread, and the other one is not activated.
    let (queued, held) = (connect().activate(), connect());
    for id in [queued, held.id()] {
        let mut peer = listener.accept().unwrap().0;
        assert!(sockman.close_connection(id));
        assert_eq!(read_to_end(&mut peer), b"");
    }
    drop(held);
    assert_eq!(spy.open(), 0, "every descriptor must be closed");
}

/// G4, G10: the inbox of a thread that never runs does not grow, and keeps no descriptor open.
#[test]
fn with_no_thread_running_a_close_gives_the_descriptor_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    let spy = Spy::default();
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    for _ in 0..100 {
        let id = sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
        sockman.wake(id);
        assert!(sockman.close_connection(id));
        sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        sockman.stop_listening();
        assert_eq!(spy.open(), 0);
    }
}

/// G4, G14
#[test]
fn between_two_runs_a_close_gives_the_descriptor_back() {
    let handler = Recorder::new();
    let spy = Spy::default();
    let mut running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    let mut clients: Vec<_> = (0..4).map(|_| running.client()).collect();
    let ids: Vec<_> = (0..4).map(|n| handler.wait_for_accepted(n)).collect();
    running.sockman.interrupt();
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(spy.open(), 1 + 4);
    for (n, id) in ids.iter().enumerate() {
        clients[n].write_all(b"unread").unwrap();
        assert!(running.sockman.close_connection(*id));
        assert_eq!(spy.open(), 1 + 3 - n);
    }
    running.sockman.stop_listening();
    assert_eq!(spy.open(), 0);
    running.threads = Some(running.sockman.start_sockets_threads().unwrap());
    run_passes(&running.sockman, 1);
    assert_eq!(handler.count(|event| matches!(event, Event::Data(..))), 0);
}

/// G4: the mark that the last callback leaves does not keep the descriptor until the next run.
#[test]
fn a_close_in_the_last_callback_before_the_end_gives_the_descriptor_back() {
    let handler = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, _) = event {
            assert!(sockman.close_connection(*id));
            sockman.stop_listening();
            sockman.interrupt();
        }
    });
    let spy = Spy::default();
    let mut running = Running::start(handler, without_sweep().sock_factory(Arc::new(spy.clone())));
    let mut client = running.client();
    client.write_all(b"x").unwrap();
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(spy.open(), 0);
}

/// G4: only the close wakes the socket thread.
#[test]
fn a_close_gives_the_descriptor_back_at_once() {
    let handler = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, _) = event {
            assert!(sockman.close_connection(*id));
        }
    });
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    let mut clients: Vec<_> = (0..2).map(|_| running.client()).collect();
    let id = handler.wait_for_accepted(0);
    handler.wait_for_accepted(1);
    run_passes(&running.sockman, 2);
    // Another thread closes the first connection, and a callback closes the second one.
    assert!(running.sockman.close_connection(id));
    until("the descriptor is closed", || spy.open() == 2);
    clients[1].write_all(b"x").unwrap();
    until("the descriptor is closed", || spy.open() == 1);
    for client in &mut clients {
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
}

/// G4: `connection_ids` names the connections that are not closed, in ascending order.
#[test]
fn connection_ids_are_those_of_the_open_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let connect = || {
        let to = listener.local_addr().unwrap();
        sockman.connect(to, &ConnectOptions::default()).unwrap()
    };
    let connections: Vec<_> = (0..100).map(|_| connect()).collect();
    let mut ids: Vec<_> = connections.into_iter().map(|connection| connection.activate()).collect();
    ids.sort_unstable();
    assert_eq!(sockman.connection_ids(), ids);
    let closed = ids.remove(50);
    sockman.close_connection(closed);
    assert_eq!(sockman.connection_ids(), ids);
    let dropped = connect();
    assert_eq!(sockman.connection_ids().last(), Some(&dropped.id()));
    drop(dropped);
    assert_eq!(sockman.connection_ids(), ids);
}
