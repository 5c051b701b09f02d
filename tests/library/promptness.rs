//! G9: wakes, interrupts and cancels take effect at once. The tests measure no latencies
//! (benchmarks do that): without the effect each wait would last a minute, and the sweep is off.

#[cfg(unix)]
use std::os::{
    fd::OwnedFd,
    unix::net::{UnixListener, UnixStream},
};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, Interrupt, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, StartError},
};
#[cfg(unix)]
use sockman_test_support::blackhole::UnixBlackhole;
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    blackhole::Blackhole,
    eventually,
    tools::{TempDir, run_passes},
    without_sweep, write_all,
};

/// The limit for "at once" on a machine that is busy with everything else.
const PROMPT: Duration = Duration::from_secs(20);

/// A time-out far longer than [`PROMPT`], so that a connect that ends within `PROMPT` has not ended
/// at its deadline.
fn for_long() -> ConnectOptions {
    ConnectOptions::default().timeout(10 * DEADLINE)
}

/// G9
#[test]
fn a_wake_reaches_ready_to_send_without_a_sweep() {
    let (ready_sender, ready) = mpsc::channel();
    let recorder = Recorder::with_reaction(move |_, event| {
        if let Event::ReadyToSend(id) = event {
            ready_sender.send(*id).unwrap();
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let mut clients = [running.client(), running.client()];
    let ids = [recorder.wait_for_accepted(0), recorder.wait_for_accepted(1)];
    // When its first byte has come, a new connection's first turn is over.
    for (client, id) in clients.iter_mut().zip(ids) {
        write_all(client, b"?");
        recorder.wait_for_bytes(id, 1);
    }
    run_passes(&running.sockman, 1);
    for id in ids {
        recorder.want_to_send(id, true);
    }
    for round in 0..2000 {
        let id = ids[round % 2];
        running.sockman.wake(id);
        assert_eq!(ready.recv_timeout(DEADLINE).unwrap(), id, "round {round}");
    }
    assert!(ready.try_recv().is_err(), "each wake must cause exactly one call");
}

/// G9
#[test]
fn an_interrupt_ends_a_thread_that_sleeps_without_a_timeout() {
    for _ in 0..200 {
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let began = Instant::now();
        sockman.interrupt();
        threads.join().unwrap();
        assert!(began.elapsed() < PROMPT);
    }
}

/// G9
#[test]
fn an_interrupt_ends_the_threads_and_fifty_connects_under_way() {
    let blackhole = Blackhole::new();
    let mut running = Running::start(Recorder::new(), without_sweep());
    let connects: Vec<_> = (0..50)
        .map(|_| {
            let (sockman, to) = (running.sockman.clone(), blackhole.destination());
            thread::spawn(move || sockman.connect(&to, &for_long()).map(|_| ()))
        })
        .collect();
    eventually("all connects are under way", || running.sockman.stats().connections == 50);
    let began = Instant::now();
    running.sockman.interrupt();
    running.threads.take().unwrap().join().unwrap();
    // `join` has cleared the interrupt, and all connects still see it.
    for connect in connects {
        let result = connect.join().unwrap();
        assert!(
            matches!(
                result.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::Interrupted)
            ),
            "{result:?}"
        );
    }
    assert!(began.elapsed() < PROMPT, "the connects took {:?} to end", began.elapsed());
    assert_eq!(
        running.sockman.stats().connections,
        0,
        "the places of the connects must be free again"
    );
}

/// G9: an interrupt ends connects that wait for a retry, too, and with no thread running.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_connects_to_a_full_unix_listener() {
    let blackhole = UnixBlackhole::new();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let connects: Vec<_> = (0..10)
        .map(|_| {
            let (sockman, to) = (sockman.clone(), blackhole.destination());
            thread::spawn(move || sockman.connect(&to, &for_long()).map(|_| ()))
        })
        .collect();
    eventually("all connects are under way", || sockman.stats().connections == 10);
    let began = Instant::now();
    sockman.interrupt();
    for connect in connects {
        let result = connect.join().unwrap();
        assert!(
            matches!(
                result.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::Interrupted)
            ),
            "{result:?}"
        );
    }
    assert!(began.elapsed() < PROMPT, "the connects took {:?} to end", began.elapsed());
}

/// G9
#[test]
fn a_shared_interrupt_ends_several_sockmans_and_their_connects() {
    let blackhole = Blackhole::new();
    let shared = Interrupt::new();
    let runnings: Vec<_> = (0..3)
        .map(|_| {
            let options = without_sweep().interrupt(shared.clone());
            let sockman = SockMan::new(Recorder::new(), options).unwrap();
            let threads = sockman.start_sockets_threads().unwrap();
            (sockman, threads)
        })
        .collect();
    let connects: Vec<_> = runnings
        .iter()
        .map(|(sockman, _)| {
            let (sockman, to) = (sockman.clone(), blackhole.destination());
            thread::spawn(move || sockman.connect(&to, &for_long()).map(|_| ()))
        })
        .collect();
    for (sockman, _) in &runnings {
        eventually("the connect is under way", || sockman.stats().connections == 1);
    }
    let began = Instant::now();
    shared.interrupt();
    for connect in connects {
        assert!(matches!(
            connect.join().unwrap().as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Interrupted)
        ));
    }
    for (_, threads) in runnings {
        threads.join().unwrap();
    }
    assert!(began.elapsed() < PROMPT);
}

/// G9
#[test]
fn cancel_ends_its_own_attempt_and_no_other() {
    let blackhole = Blackhole::new();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let cancels = [Interrupt::new(), Interrupt::new()];
    let mut connects: Vec<_> = cancels
        .iter()
        .map(|cancel| {
            let (sockman, to) = (sockman.clone(), blackhole.destination());
            let options = for_long().cancel(cancel.clone());
            thread::spawn(move || sockman.connect(&to, &options).map(|_| ()))
        })
        .collect();
    eventually("both connects are under way", || sockman.stats().connections == 2);
    let second = connects.pop().unwrap();
    cancels[0].interrupt();
    assert!(matches!(
        connects.pop().unwrap().join().unwrap().as_ref().map_err(ConnectError::kind),
        Err(ConnectErrorKind::Interrupted)
    ));
    assert_eq!(sockman.stats().connections, 1);
    assert!(!second.is_finished());
    // A cancel does not interrupt the `SockMan` either.
    let threads = sockman.start_sockets_threads().unwrap();
    cancels[1].interrupt();
    assert!(matches!(
        second.join().unwrap().as_ref().map_err(ConnectError::kind),
        Err(ConnectErrorKind::Interrupted)
    ));
    assert!(!threads.is_finished());
}

/// G9
#[test]
fn a_cancel_set_before_ends_the_attempt_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let cancel = Interrupt::new();
    cancel.interrupt();
    let to = Destination::from(listener.local_addr().unwrap());
    let result = sockman.connect(&to, &ConnectOptions::default().cancel(cancel.clone()));
    assert!(
        matches!(result.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{result:?}"
    );
    cancel.reset();
    let result = sockman.connect(&to, &ConnectOptions::default().cancel(cancel));
    assert!(result.is_ok(), "{result:?}");
}

/// G9: an interrupt that was set earlier also ends connects and prevents the start of the threads.
#[test]
fn while_the_interrupt_is_set_nothing_begins() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    sockman.interrupt();
    let to = Destination::from(listener.local_addr().unwrap());
    let result = sockman.connect(&to, &ConnectOptions::default());
    assert!(
        matches!(result.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{result:?}"
    );
    assert!(matches!(sockman.start_sockets_threads(), Err(StartError::Interrupted)));
    assert!(sockman.reset_interrupt());
    assert!(sockman.connect(&to, &ConnectOptions::default()).is_ok());
}

/// G9: one deadline covers the whole connect.
#[cfg(unix)]
#[test]
fn a_connect_without_an_answer_times_out_at_its_deadline() {
    let (tcp, unix) = (Blackhole::new(), UnixBlackhole::new());
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    for to in [tcp.destination(), unix.destination()] {
        let timeout = Duration::from_millis(120);
        let began = Instant::now();
        let result = sockman.connect(&to, &ConnectOptions::default().timeout(timeout));
        let error = result.unwrap_err();
        assert_eq!(error.to(), Some(&to));
        let ConnectErrorKind::TimedOut { after, .. } = *error.kind() else {
            panic!("the connect did not time out: {error:?}");
        };
        assert!(after >= timeout && began.elapsed() >= timeout, "{after:?}");
        assert!(began.elapsed() < PROMPT);
        assert_eq!(sockman.stats().connections, 0);
        // With a time-out of zero, the attempt ends as soon as it would have to wait.
        let result = sockman.connect(&to, &ConnectOptions::default().timeout(Duration::ZERO));
        assert!(
            matches!(
                result.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::TimedOut { .. })
            ),
            "{result:?}"
        );
    }
}

/// G9: a full backlog causes neither a failure nor a false success. The connect succeeds once there
/// is room.
#[cfg(unix)]
#[test]
fn a_connect_to_a_full_unix_listener_succeeds_once_there_is_room() {
    let blackhole = UnixBlackhole::new();
    let running = Running::start(Recorder::new(), without_sweep());
    let connect = {
        let (sockman, to) = (running.sockman.clone(), blackhole.destination());
        thread::spawn(move || sockman.connect(&to, &for_long()).map(|new| new.activate()))
    };
    eventually("the connect is under way", || running.sockman.stats().connections == 1);
    for _ in &blackhole.fillers {
        blackhole.listener.accept().unwrap();
    }
    let (accepted, _) = blackhole.listener.accept().unwrap();
    let id = connect.join().unwrap().unwrap();
    assert_eq!(running.sockman.send_bytes(id, b"really connected").unwrap(), 16);
    let mut bytes = [0; 16];
    accepted.set_read_timeout(Some(DEADLINE)).unwrap();
    std::io::Read::read_exact(&mut &accepted, &mut bytes).unwrap();
    assert_eq!(&bytes, b"really connected");
}

/// G9
#[cfg(unix)]
#[test]
fn a_connect_to_a_port_without_a_listener_is_refused() {
    // The socket is bound, so that no other test listens there, but it does not listen.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let closed_port = socket.local_addr().unwrap().as_socket().unwrap();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let result = sockman.connect(closed_port, &for_long());
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(&closed_port.to_string()), "{error}");
    assert_eq!(sockman.stats().connections, 0);

    let dir = TempDir::new();
    let path = dir.path("stale");
    drop(UnixListener::bind(&path).unwrap());
    let result = sockman.connect(Service::unix(&path).unwrap(), &for_long());
    assert!(
        matches!(
            result.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Refused { .. })
        ),
        "{result:?}"
    );
}

/// G9: a pass sees at most one waker write, even if many threads wake.
#[test]
fn wakes_from_many_threads_coalesce() {
    let (entered_sender, entered) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let ready = Arc::new(AtomicUsize::new(0));
    let recorder = Recorder::with_reaction({
        let ready = Arc::clone(&ready);
        move |_, event| match event {
            Event::Data(_, data) if data == b"stand still" => {
                entered_sender.send(()).unwrap();
                let _ = gate.lock().unwrap().recv_timeout(DEADLINE);
            }
            Event::ReadyToSend(_) => {
                ready.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let mut holder = running.client();
    let mut other = running.client();
    let id = recorder.wait_for_accepted(1);
    let sockman = &running.sockman;
    // When its first byte has come, a new connection's first turn is over.
    write_all(&mut other, b"?");
    recorder.wait_for_bytes(id, 1);
    run_passes(sockman, 1);
    for _ in 0..20 {
        write_all(&mut holder, b"stand still");
        entered.recv_timeout(DEADLINE).unwrap();
        recorder.want_to_send(id, true);
        ready.store(0, Ordering::SeqCst);
        let before = sockman.stats();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        sockman.wake(id);
                    }
                });
            }
        });
        go_on.send(()).unwrap();
        eventually("the wakes were answered", || ready.load(Ordering::SeqCst) > 0);
        run_passes(sockman, 1);
        let after = sockman.stats();
        assert_eq!(
            ready.load(Ordering::SeqCst),
            1,
            "8000 wakes during one callback must cause one call"
        );
        assert!(after.passes - before.passes <= 6, "{before:?} {after:?}");
        recorder.want_to_send(id, false);
    }
}

/// G9: another holder of an adopted listener clears `O_NONBLOCK`, which all holders share. The
/// thread serves on, and `join` returns. Over TCP and over a unix-domain socket.
#[cfg(unix)]
#[test]
fn an_adopted_listener_that_another_holder_makes_block_does_not_hang_the_thread() {
    fn serve<C>(listener: impl Into<OwnedFd>, clear: impl Fn(), connect: impl Fn() -> C) {
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
        sockman.start_listening_on(listener).unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let mut clients = Vec::new();
        for nth in 0..5 {
            clear();
            clients.push(connect());
            recorder.wait_for_accepted(nth);
        }
        clear();
        sockman.interrupt();
        threads.join().unwrap();
    }

    let (sender, served) = mpsc::channel();
    // If the thread hangs, only this test's own thread waits for it without end.
    thread::spawn(move || {
        let kept = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = kept.local_addr().unwrap();
        let clear = || kept.set_nonblocking(false).unwrap();
        serve(kept.try_clone().unwrap(), clear, || TcpStream::connect(address).unwrap());

        let directory = TempDir::new();
        let path = directory.path("sock");
        let kept = UnixListener::bind(&path).unwrap();
        let clear = || kept.set_nonblocking(false).unwrap();
        serve(kept.try_clone().unwrap(), clear, || UnixStream::connect(&path).unwrap());
        sender.send(()).unwrap();
    });
    assert!(served.recv_timeout(DEADLINE).is_ok(), "the socket thread hangs in accept");
}
