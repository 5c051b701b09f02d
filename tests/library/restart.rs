//! G14: the interrupt, the join and a new start of the threads, the errors of start and join, and
//! the effects of dropping the guard and the handles. The sweep is off in all tests of this module.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, Interrupt, Service, SockMan, SocketsThreads,
    address::Destination,
    error::{JoinError, StartError},
};
#[cfg(unix)]
use sockman_test_support::blackhole::UnixBlackhole;
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, eventually, read_to_end, reset, tools::TempDir,
    without_sweep,
};

fn stop(running: &mut Running) {
    running.sockman.interrupt();
    running.threads.take().unwrap().join().unwrap();
}

fn start_again(running: &mut Running) {
    running.threads = Some(running.sockman.start_sockets_threads().unwrap());
}

/// G14: all events that arrive while no thread runs are handled after the next start.
#[test]
fn listeners_connections_activations_and_wakes_survive_a_restart() {
    let (recorder, elsewhere) = (Recorder::of_everything(|_, _| {}), Recorder::new());
    let serving = Running::start(elsewhere.clone(), without_sweep());
    let mut running = Running::start(recorder.clone(), without_sweep());
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    for round in 1..=20 {
        stop(&mut running);
        // A client, bytes, an outbound connection and a wake come while no thread runs.
        let mut waiting = running.client();
        waiting.write_all(b"in the backlog").unwrap();
        client.write_all(b"bytes").unwrap();
        let to = Destination::from(Service::from(serving.address));
        let outbound = running.sockman.connect(&to, &ConnectOptions::default()).unwrap();
        let outbound = outbound.activate();
        recorder.want_to_send(id, true);
        running.sockman.wake(id);
        let inbound = elsewhere.wait_for_accepted(round - 1);
        serving.sockman.send_bytes(inbound, b"for the outbound one").unwrap();
        let asked = recorder.count(|event| *event == Event::ReadyToSend(id));

        start_again(&mut running);
        recorder.wait_for_bytes(id, 5 * round);
        recorder.wait_for_bytes(outbound, 20);
        let waited = recorder.wait_for_accepted(round);
        assert_eq!(recorder.wait_for_bytes(waited, 14), b"in the backlog");
        recorder.wait_for("the answer to the wake", |events| {
            let now = events.iter().filter(|event| **event == Event::ReadyToSend(id)).count();
            (now > asked).then_some(())
        });
        recorder.want_to_send(id, false);
        assert!(running.sockman.close_connection(outbound));
        elsewhere.wait_for_eof(inbound);
        assert!(running.sockman.close_connection(waited));
    }
    // The counters continue over restarts.
    assert_eq!(running.sockman.stats().accepted, 21);
}

/// G14: a pass latches all events of a poll before the first callback, and the turns that an
/// interrupt cuts off come first after the restart.
#[test]
fn a_pass_cut_short_by_an_interrupt_loses_no_event() {
    const CLIENTS: usize = 8;
    // The number of callbacks that are left until a callback sets the interrupt.
    let until_interrupt = Arc::new(AtomicUsize::new(usize::MAX));
    let recorder = Recorder::with_reaction({
        let until_interrupt = Arc::clone(&until_interrupt);
        move |sockman, event| {
            if matches!(event, Event::Data(..) | Event::Eof(_) | Event::ReadError(..))
                && until_interrupt.fetch_sub(1, Ordering::SeqCst) == 1
            {
                sockman.interrupt();
            }
        }
    });
    let mut running = Running::start(recorder.clone(), without_sweep());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| running.client()).collect();
    let ids: Vec<_> = (0..CLIENTS).map(|n| recorder.wait_for_accepted(n)).collect();
    for round in 1..=100 {
        stop(&mut running);
        for client in &mut clients {
            client.write_all(&[u8::try_from(round).unwrap()]).unwrap();
        }
        // The interrupt comes after one callback, in the next round after two, and so on up to all
        // of them.
        until_interrupt.store(1 + round % CLIENTS, Ordering::SeqCst);
        start_again(&mut running);
        eventually("the interrupt has ended the threads", || {
            running.threads.as_ref().unwrap().is_finished()
        });
        running.threads.take().unwrap().join().unwrap();
        let so_far: usize = ids.iter().map(|id| recorder.received(*id).len()).sum();
        assert_eq!(
            so_far,
            (round - 1) * CLIENTS + 1 + round % CLIENTS,
            "the interrupt must cut the pass short"
        );
        start_again(&mut running);
        for id in &ids {
            recorder.wait_for_bytes(*id, round);
        }
    }
    // An interrupt also loses no end and no reset.
    stop(&mut running);
    for (n, client) in clients.into_iter().enumerate() {
        if n % 2 == 0 { drop(client) } else { reset(client) }
    }
    let mut left = CLIENTS;
    while left > 0 {
        until_interrupt.store(3.min(left), Ordering::SeqCst);
        left -= 3.min(left);
        start_again(&mut running);
        eventually("the interrupt has ended the threads", || {
            running.threads.as_ref().unwrap().is_finished()
        });
        running.threads.take().unwrap().join().unwrap();
    }
    for (n, id) in ids.iter().enumerate() {
        let ended = |event: &Event| match event {
            Event::Eof(of) => of == id && n % 2 == 0,
            Event::ReadError(of, _) => of == id && n % 2 == 1,
            _ => false,
        };
        assert_eq!(recorder.count(ended), 1, "{:?}", recorder.events_of(*id));
    }
    until_interrupt.store(usize::MAX, Ordering::SeqCst);
    start_again(&mut running);
}

/// G14
#[test]
fn a_batch_of_accepts_cut_short_by_an_interrupt_loses_no_client() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if matches!(event, Event::Accepted { .. }) {
            sockman.interrupt();
        }
    });
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let mut clients: Vec<_> =
        (0..20).map(|_| TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    for n in 0..20 {
        let threads = sockman.start_sockets_threads().unwrap();
        eventually("the interrupt has ended the threads", || threads.is_finished());
        threads.join().unwrap();
        assert_eq!(recorder.count(|event| matches!(event, Event::Accepted { .. })), n + 1);
    }
    let threads = sockman.start_sockets_threads().unwrap();
    for n in 0..20 {
        assert_eq!(recorder.wait_for_bytes(recorder.wait_for_accepted(n), 5), b"hello");
    }
    drop(threads);
}

/// G14: another thread sets interrupts at any moment, while bytes are in transit.
#[test]
fn restarts_at_any_moment_lose_no_byte() {
    const CLIENTS: usize = 4;
    let recorder = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, data) = event {
            // The acknowledgement is small enough to fit into the send buffer.
            let count = u32::try_from(data.len()).unwrap();
            assert_eq!(sockman.send_bytes(*id, &count.to_be_bytes()).unwrap(), 4);
        }
    });
    let mut running = Running::start(recorder, without_sweep());
    let enough = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (mut client, enough) = (running.client(), Arc::clone(&enough));
            thread::spawn(move || {
                let mut acknowledged = 0;
                while !enough.load(Ordering::SeqCst) {
                    client.write_all(&[9; 3000]).unwrap();
                    let before = acknowledged;
                    while acknowledged < before + 3000 {
                        let mut count = [0; 4];
                        client.read_exact(&mut count).unwrap();
                        acknowledged += u32::from_be_bytes(count);
                    }
                    assert_eq!(acknowledged, before + 3000);
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..200 {
        stop(&mut running);
        start_again(&mut running);
        // Waits until the new thread has served some connections. It needs no event for that while
        // a receive never would block.
        let before = running.sockman.stats().turns;
        eventually("something happened", || running.sockman.stats().turns > before + 3);
    }
    enough.store(true, Ordering::SeqCst);
    for sender in senders {
        assert!(sender.join().unwrap() > 0);
    }
}

/// G14
#[test]
fn a_start_while_interrupted_fails_and_loses_nothing() {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
    sockman.interrupt();
    for _ in 0..3 {
        let error = sockman.start_sockets_threads().unwrap_err();
        assert!(matches!(error, StartError::Interrupted), "{error}");
    }
    assert!(sockman.reset_interrupt());
    assert!(
        sockman.reset_interrupt(),
        "reset_interrupt must succeed even if the interrupt is not set"
    );
    let threads = sockman.start_sockets_threads().unwrap();
    recorder.wait_for_accepted(0);
    assert!(!sockman.reset_interrupt(), "reset_interrupt must fail while the threads run");
    drop(threads);
    assert!(sockman.reset_interrupt());
}

/// G14
#[test]
fn a_second_start_fails_and_leaves_the_first_alone() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if matches!(event, Event::Data(..)) {
            let error = sockman.start_sockets_threads().unwrap_err();
            assert!(
                matches!(error, StartError::AlreadyStarted),
                "started from a callback: {error}"
            );
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    for _ in 0..3 {
        let error = running.sockman.start_sockets_threads().unwrap_err();
        assert!(matches!(error, StartError::AlreadyStarted), "{error}");
    }
    let mut client = running.client();
    client.write_all(b"still there").unwrap();
    recorder.wait_for_bytes(recorder.wait_for_accepted(0), 11);
}

/// G14
#[test]
fn a_shared_interrupt_is_reset_by_its_owner_alone() {
    let shared = Interrupt::new();
    let recorder = Recorder::new();
    let options = without_sweep().interrupt(shared.clone());
    let mut running = Running::start(recorder.clone(), options);
    shared.interrupt();
    running.threads.take().unwrap().join().unwrap();
    assert!(shared.is_interrupted(), "join must not reset a shared interrupt");
    assert!(running.sockman.reset_interrupt());
    assert!(shared.is_interrupted(), "reset_interrupt must reset only the SockMan's own interrupt");
    let error = running.sockman.start_sockets_threads().unwrap_err();
    assert!(matches!(error, StartError::Interrupted), "{error}");
    shared.reset();
    start_again(&mut running);
    let mut client = running.client();
    client.write_all(b"going on").unwrap();
    recorder.wait_for_bytes(recorder.wait_for_accepted(0), 8);
    // The `SockMan`'s own interrupt does not set the shared one either.
    stop(&mut running);
    assert!(!shared.is_interrupted());
}

/// G14: the drop of the guard of ended threads does not stop the threads that were started later.
#[test]
fn dropping_the_guard_of_ended_threads_does_not_end_later_threads() {
    let shared = Interrupt::new();
    let recorder = Recorder::new();
    let options = without_sweep().interrupt(shared.clone());
    let mut running = Running::start(recorder.clone(), options);
    shared.interrupt();
    eventually("the threads have ended", || running.threads.as_ref().unwrap().is_finished());
    shared.reset();
    // The new threads start before the old guard is dropped.
    start_again(&mut running);
    let mut client = running.client();
    client.write_all(b"served").unwrap();
    recorder.wait_for_bytes(recorder.wait_for_accepted(0), 6);
    assert!(!running.threads.as_ref().unwrap().is_finished());
}

/// G14: a caller that waited before an interrupt still sees it after `join` has cleared it.
#[cfg(unix)]
#[test]
fn a_connect_under_way_sees_an_interrupt_that_join_has_cleared() {
    let mut running = Running::start(Recorder::new(), without_sweep());
    let full = UnixBlackhole::new();
    for _ in 0..20 {
        let connect = {
            let (sockman, to) = (running.sockman.clone(), full.destination());
            let options = ConnectOptions::default().timeout(DEADLINE * 2);
            thread::spawn(move || sockman.connect(&to, &options).map(|_| ()))
        };
        eventually("the connect is under way", || running.sockman.stats().connections == 1);
        stop(&mut running);
        start_again(&mut running);
        let began = Instant::now();
        connect.join().unwrap().unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(running.sockman.stats().connections, 0);
    }
}

/// G14
#[cfg(unix)]
#[test]
fn listeners_are_added_and_stopped_while_the_threads_run() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let dir = TempDir::new();
    let (sockman, path) = (&running.sockman, dir.path("sock"));
    let mut accepted = 0;
    for round in 0..20 {
        let tcp = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
        let address = tcp.to_socket_addr().unwrap();
        let mut one = TcpStream::connect(address).unwrap();
        let _other = UnixStream::connect(&path).unwrap();
        recorder.wait_for_accepted(accepted + 1);
        accepted += 2;
        sockman.stop_listening();
        // New clients are refused at once.
        assert!(TcpStream::connect(address).is_err(), "round {round}");
        assert!(UnixStream::connect(&path).is_err());
        assert!(!path.exists());
        assert_eq!(sockman.stats().listeners, 0);
        // Accepted connections stay open.
        one.write_all(b"still here").unwrap();
        recorder.wait_for("its bytes", |events| {
            let data = |event: &&Event| matches!(event, Event::Data(..));
            (events.iter().filter(data).count() > round).then_some(())
        });
    }
    assert_eq!(sockman.stats().accepted, 40);
}

/// G14: clients in the backlog get an end and do not wait without limit.
#[test]
fn stop_listening_refuses_clients_in_the_backlog() {
    for threads_run in [true, false] {
        let recorder = Recorder::new();
        let mut running = Running::start(recorder.clone(), without_sweep().max_connections(1));
        let _first = running.client();
        recorder.wait_for_accepted(0);
        if !threads_run {
            stop(&mut running);
        }
        let waiting = running.client();
        running.sockman.stop_listening();
        assert!(TcpStream::connect(running.address).is_err());
        let end = (&waiting).read(&mut [0]);
        assert!(matches!(end, Err(_) | Ok(0)), "{end:?}");
        if threads_run {
            running.sockman.close_connection(recorder.wait_for_accepted(0));
        }
        assert_eq!(recorder.count(|event| matches!(event, Event::Accepted { .. })), 1);
    }
}

/// G14, G11: stopping a listener from another thread in the middle of a batch does not count as
/// exhaustion.
#[test]
fn stop_listening_while_clients_arrive_does_not_count_as_exhaustion() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if let Event::Accepted { id, .. } = event {
            sockman.close_connection(*id);
        }
    });
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    for n in 0..200 {
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        let address = bound.to_socket_addr().unwrap();
        let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address)).collect();
        if n % 2 == 0 {
            recorder.wait_for_accepted(0);
        }
        sockman.stop_listening();
        drop(clients);
    }
    assert_eq!(sockman.stats().accept_pauses, 0);
}

/// G14: the accept callback stops the listener while more clients wait.
#[test]
fn stop_listening_in_the_accept_callback_ends_the_batch() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if matches!(event, Event::Accepted { .. }) {
            sockman.stop_listening();
        }
    });
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let clients: Vec<_> =
        (0..10).map(|_| TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap()).collect();
    let _threads = sockman.start_sockets_threads().unwrap();
    let id = recorder.wait_for_accepted(0);
    let mut ended = 0;
    for mut client in clients {
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = client.write_all(b"?");
        // The accepted client stays open, and its byte arrives.
        let is_the_one = sockman
            .connection_info(id)
            .is_some_and(|info| info.them == Service::from(client.local_addr().unwrap()));
        if is_the_one {
            recorder.wait_for_bytes(id, 1);
        } else {
            assert!(matches!(client.read(&mut [0]), Err(_) | Ok(0)));
            ended += 1;
        }
    }
    assert_eq!(ended, 9);
    assert_eq!(
        sockman.stats().accept_pauses,
        0,
        "stopping a listener must not count as exhaustion"
    );
    assert_eq!(sockman.stats().accepted, 1);
}

/// G14
#[cfg(unix)]
#[test]
fn dropping_the_last_handle_closes_everything() {
    for was_started in [false, true] {
        let dir = TempDir::new();
        let path = dir.path("sock");
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
        let tcp = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
        let address = tcp.to_socket_addr().unwrap();
        let to = Destination::from(peer.local_addr().unwrap());
        sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
        let mut peers = vec![peer.accept().unwrap().0, TcpStream::connect(address).unwrap()];
        if was_started {
            let threads = sockman.start_sockets_threads().unwrap();
            recorder.wait_for_accepted(0);
            sockman.interrupt();
            threads.join().unwrap();
        }
        let clone = sockman.clone();
        drop(sockman);
        assert!(path.exists(), "the path must stay while another handle exists");
        drop(clone);
        assert!(!path.exists());
        assert!(TcpStream::connect(address).is_err());
        for peer in &mut peers {
            peer.set_read_timeout(Some(DEADLINE)).unwrap();
            let end = peer.read(&mut [0]);
            // A client that was still in the backlog gets a reset.
            assert!(matches!(end, Ok(0)) || !was_started && end.is_err(), "{end:?}");
        }
        assert_eq!(Arc::strong_count(&recorder), 1, "the handler must be freed");
    }
}

/// G14
#[test]
fn dropping_the_guard_ends_and_joins_and_a_restart_works() {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    for n in 0..50 {
        let threads = sockman.start_sockets_threads().unwrap();
        drop(threads);
        // The threads have ended and their interrupt is cleared, so the next start succeeds.
        let threads = sockman.start_sockets_threads().unwrap();
        let client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
        recorder.wait_for_accepted(n);
        drop((threads, client));
    }
}

/// Stores the guard where a callback can reach it.
type Kept = Arc<Mutex<Option<SocketsThreads>>>;

/// G14, G3: the drop of the guard in a callback does not deadlock.
#[test]
fn dropping_the_guard_in_a_callback_ends_the_threads_and_they_can_be_started_again() {
    let kept: Kept = Kept::default();
    let recorder = Recorder::with_reaction({
        let kept = Arc::clone(&kept);
        move |_, event| {
            if matches!(event, Event::Data(..)) {
                drop(kept.lock().unwrap().take());
            }
        }
    });
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
    for n in 1..=50 {
        // The test calls no `join`, so the start succeeds only when the old thread has finished its
        // clean-up.
        let deadline = Instant::now() + DEADLINE;
        let threads = loop {
            match sockman.start_sockets_threads() {
                Ok(threads) => break threads,
                Err(StartError::AlreadyStarted) => {
                    assert!(Instant::now() < deadline);
                    thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        };
        *kept.lock().unwrap() = Some(threads);
        client.write_all(b"!").unwrap();
        recorder.wait_for_bytes(recorder.wait_for_accepted(0), n);
        eventually("the guard is gone", || kept.lock().unwrap().is_none());
    }
}

/// G14: when the last handles are dropped in a callback, the thread ends and everything is closed.
#[test]
fn dropping_the_guard_and_the_last_handle_in_a_callback_closes_everything() {
    let kept: Arc<Mutex<Option<(SockMan, SocketsThreads)>>> = Arc::default();
    let recorder = Recorder::with_reaction({
        let kept = Arc::clone(&kept);
        move |_, event| {
            if matches!(event, Event::Data(..)) {
                drop(kept.lock().unwrap().take());
            }
        }
    });
    let freed = Arc::downgrade(&recorder);
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    *kept.lock().unwrap() = Some((sockman, threads));
    drop(recorder);
    client.write_all(b"!").unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    eventually("the handler is freed", || freed.upgrade().is_none());
}

/// G14, G3: `join` in a callback returns an error that hands the guard back.
#[test]
fn join_in_a_callback_returns_an_error_with_the_guard() {
    let kept: Kept = Kept::default();
    let (back_sender, back) = mpsc::channel();
    let recorder = Recorder::with_reaction({
        let kept = Arc::clone(&kept);
        move |_, event| {
            if matches!(event, Event::Data(..)) {
                let threads = kept.lock().unwrap().take().unwrap();
                let Err(JoinError::OnLibraryThread(threads)) = threads.join() else {
                    panic!("join in a callback");
                };
                *kept.lock().unwrap() = Some(threads);
                back_sender.send(()).unwrap();
            }
        }
    });
    let mut running = Running::start(recorder.clone(), without_sweep());
    *kept.lock().unwrap() = running.threads.take();
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    for n in 1..=3 {
        client.write_all(b"!").unwrap();
        recorder.wait_for_bytes(id, n);
        back.recv_timeout(DEADLINE).unwrap();
    }
    running.threads = kept.lock().unwrap().take();
    assert!(!running.threads.as_ref().unwrap().is_finished());
}

#[cfg(target_os = "linux")]
fn is_open(target: &str) -> bool {
    use sockman_test_support::descriptors;

    descriptors::with_target(target).is_some()
}

/// G14: no thread is there to free the slot, so the closing call frees it.
#[cfg(target_os = "linux")]
#[test]
fn close_with_no_thread_running_frees_the_descriptor() {
    use sockman::ConnectionId;
    use sockman_test_support::descriptors;

    let recorder = Recorder::new();
    let mut running = Running::start(recorder.clone(), without_sweep());
    let clients: Vec<_> = (0..3).map(|_| running.client()).collect();
    let ids: Vec<ConnectionId> = (0..3).map(|n| recorder.wait_for_accepted(n)).collect();
    let inode = |n: usize| {
        let peer = clients[n].local_addr().unwrap();
        descriptors::target(descriptors::of(running.address, Some(peer)))
    };
    let inodes: Vec<_> = (0..3).map(inode).collect();
    stop(&mut running);
    // Closes one connection, wakes and closes another, and never closes the third.
    running.sockman.wake(ids[1]);
    for n in 0..2 {
        assert!(is_open(&inodes[n]));
        assert!(running.sockman.close_connection(ids[n]));
        assert!(!is_open(&inodes[n]), "connection {n}");
    }
    assert!(is_open(&inodes[2]));
    start_again(&mut running);
    (&clients[2]).write_all(b"!").unwrap();
    recorder.wait_for_bytes(ids[2], 1);
}

/// G14: the closing call frees an outbound connection of a `SockMan` that was never started, too.
#[cfg(target_os = "linux")]
#[test]
fn an_outbound_connection_closed_with_no_thread_running_frees_the_descriptor() {
    use sockman_test_support::descriptors;

    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    for activate in [false, true] {
        let connection = sockman.connect(address, &ConnectOptions::default()).unwrap();
        let me = connection.me().to_socket_addr().unwrap();
        let inode = descriptors::target(descriptors::of(me, Some(address)));
        assert!(is_open(&inode));
        if activate {
            let id = connection.activate();
            sockman.wake(id);
            assert!(sockman.close_connection(id));
        } else {
            drop(connection);
        }
        assert!(!is_open(&inode), "activated: {activate}");
    }
}

/// G14
#[cfg(target_os = "linux")]
#[test]
fn stop_listening_with_no_thread_running_frees_the_descriptor() {
    use sockman_test_support::descriptors;

    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let inode = descriptors::target(descriptors::of(bound.to_socket_addr().unwrap(), None));
    assert!(is_open(&inode));
    sockman.stop_listening();
    assert!(!is_open(&inode));
}

/// G14: an end that arrives between two runs is reported after the data that came before it.
#[test]
fn an_end_that_came_while_no_thread_ran_is_reported_after_the_data() {
    let recorder = Recorder::new();
    let mut running = Running::start(recorder.clone(), without_sweep());
    for n in 0..20 {
        let mut client = running.client();
        let id = recorder.wait_for_accepted(n);
        stop(&mut running);
        client.write_all(b"last words").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        start_again(&mut running);
        recorder.wait_for_eof(id);
        assert_eq!(recorder.received(id), b"last words");
    }
}
