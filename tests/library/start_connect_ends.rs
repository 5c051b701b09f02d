//! `start_connect`: attempts that end early (by a cancel, a close, or with the last handle), and
//! attempts that outlive the threads.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, ConnectionId, Interrupt, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind},
};
#[cfg(unix)]
use sockman_test_support::blackhole::UnixBlackhole;
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    blackhole::Blackhole,
    limits::make_room_for,
    tools::{Random, Spy, run_passes, until},
    without_sweep,
};

fn for_long() -> ConnectOptions {
    ConnectOptions::default().timeout(DEADLINE)
}

fn options(spy: &Spy) -> sockman::Options {
    without_sweep().sock_factory(Arc::new(spy.clone()))
}

fn is_outcome_of(event: &Event, of: ConnectionId) -> bool {
    matches!(event, Event::ConnectCompleted { id, .. } if *id == of)
}

/// G9: one interrupt ends all attempts that share it, and each of them is reported once. The
/// interrupt ends no other attempt, and does not interrupt the `SockMan`.
#[test]
fn a_cancel_ends_the_five_hundred_attempts_that_share_it() {
    const ATTEMPTS: usize = 500;

    make_room_for(4096);
    let (spy, blackhole, recorder) = (Spy::default(), Blackhole::new(), Recorder::new());
    let running = Running::start(recorder.clone(), options(&spy));
    let (sockman, cancel) = (&running.sockman, Interrupt::new());
    let other = sockman
        .start_connect(blackhole.destination(), &for_long().cancel(Interrupt::new()))
        .unwrap();
    let ids: Vec<_> = (0..ATTEMPTS)
        .map(|_| {
            let options = for_long().cancel(cancel.clone());
            sockman.start_connect(blackhole.destination(), &options).unwrap()
        })
        .collect();
    run_passes(sockman, 2);
    assert_eq!(recorder.events(), []);
    thread::spawn({
        let cancel = cancel.clone();
        move || cancel.interrupt()
    })
    .join()
    .unwrap();
    for id in &ids {
        let outcome = recorder.wait_for_outcome(*id);
        assert!(
            matches!(
                outcome.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::Interrupted)
            ),
            "{outcome:?}"
        );
    }
    run_passes(sockman, 2);
    assert_eq!(recorder.events().len(), ATTEMPTS, "each attempt must be reported exactly once");
    assert_eq!(sockman.stats().connections, 1);
    // The listener and the other attempt stay open.
    until("their descriptors are closed", || spy.open() == 2);
    assert!(sockman.close_connection(other));
}

/// G9: a cancel ends an attempt that waits for a retry, too.
#[cfg(unix)]
#[test]
fn a_cancel_ends_a_retry() {
    let (blackhole, recorder) = (UnixBlackhole::new(), Recorder::new());
    let running = Running::start(recorder.clone(), without_sweep());
    let cancel = Interrupt::new();
    let options = for_long().cancel(cancel.clone());
    let id = running.sockman.start_connect(blackhole.destination(), &options).unwrap();
    run_passes(&running.sockman, 2);
    cancel.interrupt();
    let outcome = recorder.wait_for_outcome(id);
    assert!(
        matches!(outcome.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{outcome:?}"
    );
}

/// G9: a cancel races with the start of attempts. Each attempt is reported as `Interrupted`, or the
/// call returns this error.
#[test]
fn a_cancel_while_attempts_begin_misses_no_attempt() {
    let (blackhole, recorder) = (Blackhole::new(), Recorder::new());
    let running = Running::start(recorder.clone(), without_sweep());
    let sockman = &running.sockman;
    for round in 0..100 {
        let cancel = Interrupt::new();
        let (begun, has_begun) = mpsc::channel();
        let canceller = thread::spawn({
            let cancel = cancel.clone();
            move || {
                has_begun.recv_timeout(DEADLINE).unwrap();
                spin(round * 3);
                cancel.interrupt();
            }
        });
        begun.send(()).unwrap();
        let options = for_long().cancel(cancel);
        let mut ids = Vec::new();
        while let Ok(id) = sockman.start_connect(blackhole.destination(), &options) {
            ids.push(id);
        }
        canceller.join().unwrap();
        for id in ids {
            let outcome = recorder.wait_for_outcome(id);
            assert!(
                matches!(
                    outcome.as_ref().map_err(ConnectError::kind),
                    Err(ConnectErrorKind::Interrupted)
                ),
                "{outcome:?}"
            );
        }
        assert_eq!(sockman.stats().connections, 0);
    }
}

/// Waits for a moment in a loop, without giving up the processor.
fn spin(times: usize) {
    for _ in 0..times {
        std::hint::spin_loop();
    }
}

/// G4: exactly one caller closes an attempt. No outcome is reported, and no descriptor is left.
#[test]
fn an_attempt_closed_from_other_threads_is_never_reported() {
    let (spy, blackhole, recorder) = (Spy::default(), Blackhole::new(), Recorder::new());
    let running = Running::start(recorder.clone(), options(&spy));
    let sockman = &running.sockman;
    for _ in 0..50 {
        let id = sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
        let closed = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    closed.fetch_add(sockman.close_connection(id).into(), Ordering::SeqCst)
                });
            }
        });
        assert_eq!(closed.into_inner(), 1);
    }
    until("only the listener is open", || spy.open() == 1);
    run_passes(sockman, 2);
    assert_eq!(recorder.events(), []);
    assert_eq!((sockman.stats().connections, sockman.stats().closed), (0, 50));
}

/// G4: after a close on the socket thread no outcome is reported, even if the outcome is known
/// already.
#[test]
fn an_attempt_closed_in_a_callback_is_never_reported() {
    let (spy, blackhole) = (Spy::default(), Blackhole::new());
    let to = blackhole.destination();
    let closed = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder::with_reaction({
        let closed = Arc::clone(&closed);
        move |sockman, event| {
            if let Event::Accepted { me, .. } = event {
                // The second attempt may be connected already, with an outcome that is not reported
                // yet.
                for to in [&to, &Destination::from(me)] {
                    let id = sockman.start_connect(to, &for_long()).unwrap();
                    assert!(sockman.close_connection(id));
                    assert!(!sockman.close_connection(id));
                    closed.lock().unwrap().push(id);
                }
                sockman.stop_listening();
            }
        }
    });
    let running = Running::start(recorder.clone(), options(&spy));
    let _client = running.client();
    recorder.wait_for_accepted(0);
    until("both are closed", || closed.lock().unwrap().len() == 2);
    run_passes(&running.sockman, 2);
    assert!(closed.lock().unwrap().iter().all(|id| recorder.events_of(*id).is_empty()));
    until("only the client's connection is open", || spy.open() == 1);
}

/// G4: a close races with the failure of an attempt. Either the failure is reported, or the close
/// ends the attempt.
#[test]
fn an_attempt_whose_close_races_a_failure_is_either_reported_or_closed() {
    let (spy, recorder) = (Spy::default(), Recorder::new());
    let running = Running::start(recorder.clone(), options(&spy));
    let (sockman, mut random) = (&running.sockman, Random::new(1));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let to = Destination::from(socket.local_addr().unwrap().as_socket().unwrap());
    let mut reported = 0;
    for round in 0..2000 {
        let id = sockman.start_connect(&to, &for_long()).unwrap();
        spin(random.up_to(4000));
        if sockman.close_connection(id) {
            continue;
        }
        recorder.wait_for_outcome(id).unwrap_err();
        reported += 1;
        assert_eq!(recorder.count(|event| is_outcome_of(event, id)), 1, "round {round}");
    }
    until("only the listener is open", || spy.open() == 1);
    run_passes(sockman, 2);
    assert_eq!(recorder.events().len(), reported);
    let stats = sockman.stats();
    assert_eq!((stats.connections, stats.closed), (0, 2000 - reported as u64));
}

/// G4: a close races with the success of an attempt. The success is reported at most once, and the
/// close happens exactly once.
#[test]
fn a_close_that_races_a_success_leaves_nothing() {
    const ROUNDS: u64 = 1500;

    let (spy, recorder) = (Spy::default(), Recorder::new());
    let running = Running::start(recorder.clone(), options(&spy));
    let (sockman, mut random) = (&running.sockman, Random::new(2));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    // Attempts that are closed before they connect never reach `accept`.
    listener.set_nonblocking(true).unwrap();
    let mut ids = Vec::new();
    for _ in 0..ROUNDS {
        let id = sockman.start_connect(&to, &for_long()).unwrap();
        spin(random.up_to(6000));
        assert!(sockman.close_connection(id));
        assert!(!sockman.close_connection(id));
        ids.push(id);
        while listener.accept().is_ok() {}
    }
    until("only the listener is open", || spy.open() == 1);
    run_passes(sockman, 2);
    let mut reported = 0;
    for id in ids {
        let events = recorder.events_of(id);
        let outcomes = events.iter().filter(|event| is_outcome_of(event, id)).count();
        assert!(outcomes <= 1, "{events:?}");
        assert!(outcomes == 1 || events.is_empty(), "{events:?}");
        reported += outcomes as u64;
    }
    let stats = sockman.stats();
    assert_eq!((stats.connections, stats.connected, stats.closed), (0, reported, ROUNDS));
}

/// Interrupts the threads and waits for their end.
fn stop(running: &mut Running) {
    running.sockman.interrupt();
    running.threads.take().unwrap().join().unwrap();
}

fn restart(running: &mut Running) {
    running.threads = Some(running.sockman.start_sockets_threads().unwrap());
}

/// G14: an interrupt ends the threads, but no attempt of `start_connect`.
#[cfg(unix)]
#[test]
fn attempts_continue_over_a_restart() {
    let (tcp, unix) = (Blackhole::new(), UnixBlackhole::new());
    let recorder = Recorder::new();
    let mut running = Running::start(recorder.clone(), without_sweep());
    let cancel = Interrupt::new();
    let cancelled = running
        .sockman
        .start_connect(tcp.destination(), &for_long().cancel(cancel.clone()))
        .unwrap();
    let retried = running.sockman.start_connect(unix.destination(), &for_long()).unwrap();
    run_passes(&running.sockman, 2);
    stop(&mut running);
    assert_eq!(running.sockman.stats().connections, 2);
    restart(&mut running);
    run_passes(&running.sockman, 2);
    assert_eq!(recorder.events(), [], "both attempts must still be under way");
    for _ in &unix.fillers {
        unix.listener.accept().unwrap();
    }
    recorder.wait_for_outcome(retried).unwrap();
    cancel.interrupt();
    let outcome = recorder.wait_for_outcome(cancelled);
    assert!(
        matches!(outcome.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{outcome:?}"
    );
}

/// G14: outcomes that come while no thread runs are reported at the next start: a success, a cancel
/// and a deadline.
#[cfg(unix)]
#[test]
fn outcomes_from_between_two_runs_are_reported_at_the_next_start() {
    let (blackhole, recorder) = (Blackhole::new(), Recorder::new());
    let mut running = Running::start(recorder.clone(), without_sweep());
    let listener = UnixBlackhole::new();
    let cancel = Interrupt::new();
    let timeout = Duration::from_millis(50);
    let start = |sockman: &SockMan| {
        let to = blackhole.destination();
        let begin = |to, options: &_| sockman.start_connect(to, options).unwrap();
        let cancelled = begin(&to, &for_long().cancel(cancel.clone()));
        let late = begin(&to, &ConnectOptions::default().timeout(timeout));
        (cancelled, late)
    };
    // The socket thread already drives the first attempt. The thread has not seen the other
    // attempts.
    let connects = running.sockman.start_connect(listener.destination(), &for_long()).unwrap();
    run_passes(&running.sockman, 2);
    stop(&mut running);
    let began = Instant::now();
    let (cancelled, late) = start(&running.sockman);
    for _ in &listener.fillers {
        listener.listener.accept().unwrap();
    }
    cancel.interrupt();
    until("the deadline has passed", || began.elapsed() > timeout);
    assert_eq!(recorder.events(), []);
    restart(&mut running);
    recorder.wait_for_outcome(connects).unwrap();
    let outcome = recorder.wait_for_outcome(cancelled);
    assert!(
        matches!(outcome.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::Interrupted)),
        "{outcome:?}"
    );
    let outcome = recorder.wait_for_outcome(late);
    assert!(
        matches!(
            outcome.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::TimedOut { .. })
        ),
        "{outcome:?}"
    );
}

/// G14: the thread drives the attempt, and its deadline passes while no thread runs.
#[test]
fn a_deadline_that_passed_while_no_thread_ran_is_reported_at_the_next_start() {
    let (blackhole, recorder) = (Blackhole::new(), Recorder::new());
    let mut running = Running::start(recorder.clone(), without_sweep());
    let timeout = Duration::from_millis(300);
    let options = ConnectOptions::default().timeout(timeout);
    let began = Instant::now();
    let id = running.sockman.start_connect(blackhole.destination(), &options).unwrap();
    stop(&mut running);
    until("the deadline has passed", || began.elapsed() > timeout);
    restart(&mut running);
    let outcome = recorder.wait_for_outcome(id);
    assert!(
        matches!(
            outcome.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::TimedOut { .. })
        ),
        "{outcome:?}"
    );
    assert_eq!(recorder.events().len(), 1);
}

/// G14: with no thread running, a close frees the descriptor at once, in every state of the
/// attempt.
#[test]
fn a_close_with_no_thread_running_frees_the_descriptor_at_once() {
    let (spy, blackhole, recorder) = (Spy::default(), Blackhole::new(), Recorder::new());
    let mut running = Running::start(recorder.clone(), options(&spy));
    let cancel = Interrupt::new();
    let sockman = running.sockman.clone();
    let start = || {
        let options = for_long().cancel(cancel.clone());
        sockman.start_connect(blackhole.destination(), &options).unwrap()
    };
    let driven = [start(), start()];
    run_passes(&sockman, 2);
    stop(&mut running);
    let new = [start(), start()];
    assert_eq!(spy.open(), 5);
    assert!(sockman.close_connection(driven[0]));
    assert_eq!(spy.open(), 4);
    assert!(sockman.close_connection(new[0]));
    assert_eq!(spy.open(), 3);
    cancel.interrupt();
    assert!(sockman.close_connection(driven[1]));
    assert_eq!(spy.open(), 2, "the mark of the cancel must not keep the descriptor open");
    assert!(sockman.close_connection(new[1]));
    assert_eq!(spy.open(), 1);
    assert_eq!(sockman.stats().connections, 0);
    restart(&mut running);
    run_passes(&sockman, 2);
    assert_eq!(recorder.events(), []);
}

/// G14: an attempt that is closed just before the thread ends is freed by then.
#[test]
fn an_attempt_closed_in_the_callback_that_interrupts_keeps_no_descriptor() {
    let (spy, blackhole) = (Spy::default(), Blackhole::new());
    let attempt = Arc::new(Mutex::new(None));
    let recorder = Recorder::with_reaction({
        let attempt = Arc::clone(&attempt);
        move |sockman, event| {
            if let Event::Accepted { .. } = event {
                assert!(sockman.close_connection(attempt.lock().unwrap().unwrap()));
                sockman.interrupt();
            }
        }
    });
    let mut running = Running::start(recorder, options(&spy));
    let id = running.sockman.start_connect(blackhole.destination(), &for_long()).unwrap();
    *attempt.lock().unwrap() = Some(id);
    run_passes(&running.sockman, 2);
    let _client = running.client();
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(spy.open(), 2, "only the listener and the client's connection may be open");
}

/// G14: an attempt that a callback begins just before the thread ends goes on at the next start, and
/// a close before that start frees it.
#[test]
fn an_attempt_began_just_before_the_end_is_freed_by_a_close_and_else_goes_on() {
    for is_closed in [true, false] {
        let (spy, blackhole) = (Spy::default(), Blackhole::new());
        let attempt = Arc::new(Mutex::new(None));
        let to = blackhole.destination();
        let cancel = Interrupt::new();
        let recorder = Recorder::with_reaction({
            let (attempt, cancel) = (Arc::clone(&attempt), cancel.clone());
            move |sockman, event| {
                if let Event::Accepted { .. } = event {
                    let options = for_long().cancel(cancel.clone());
                    *attempt.lock().unwrap() = Some(sockman.start_connect(&to, &options).unwrap());
                    sockman.interrupt();
                }
            }
        });
        let mut running = Running::start(recorder.clone(), options(&spy));
        let _client = running.client();
        running.threads.take().unwrap().join().unwrap();
        let id = attempt.lock().unwrap().unwrap();
        assert_eq!(spy.open(), 3);
        if is_closed {
            assert!(running.sockman.close_connection(id));
            assert_eq!(spy.open(), 2);
            continue;
        }
        restart(&mut running);
        cancel.interrupt();
        let outcome = recorder.wait_for_outcome(id);
        assert!(matches!(
            outcome.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Interrupted)
        ));
    }
}

/// G14: attempts end with the last handle and without a callback, even if their interrupt lives on.
#[test]
fn dropping_the_last_handle_closes_the_attempts() {
    let (spy, blackhole, recorder) = (Spy::default(), Blackhole::new(), Recorder::new());
    let cancel = Interrupt::new();
    let sockman = SockMan::new(recorder.clone(), options(&spy)).unwrap();
    let start = || {
        let options = for_long().cancel(cancel.clone());
        sockman.start_connect(blackhole.destination(), &options).unwrap();
    };
    start();
    let threads = sockman.start_sockets_threads().unwrap();
    start();
    run_passes(&sockman, 2);
    sockman.interrupt();
    threads.join().unwrap();
    start();
    assert_eq!(spy.open(), 3);
    let weak = sockman.downgrade();
    drop(sockman);
    assert_eq!(spy.open(), 0);
    assert!(weak.upgrade().is_none());
    cancel.interrupt();
    assert_eq!(recorder.events(), []);
}

/// G2, G4, G9, G14: three threads start attempts to all kinds of peers, and cancel and close them,
/// over restarts. Each attempt is either reported once or closed, and no descriptor is left.
#[cfg(unix)]
#[test]
fn with_concurrent_cancels_and_closes_each_attempt_is_reported_once_or_closed() {
    const THREADS: u64 = 3;
    const ATTEMPTS: usize = 400;

    make_room_for(4096);
    let (spy, recorder) = (Spy::default(), Recorder::new());
    let mut running = Running::start(recorder.clone(), options(&spy));
    let accepting = Running::start(Recorder::new(), without_sweep());
    let (tcp, unix) = (Blackhole::new(), UnixBlackhole::new());
    let closed_port =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    closed_port.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let destinations = [
        tcp.destination(),
        unix.destination(),
        closed_port.local_addr().unwrap().as_socket().unwrap().into(),
        accepting.address.into(),
    ];
    // The ids of the attempts, and whether a close by this test ended them.
    let attempts = Mutex::new(Vec::new());
    let running_threads = AtomicUsize::new(THREADS as usize);
    let sockman = running.sockman.clone();
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let (attempts, sockman, destinations) = (&attempts, &sockman, &destinations);
            let running_threads = &running_threads;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..ATTEMPTS {
                    let cancel = Interrupt::new();
                    let to = &destinations[random.up_to(destinations.len()) - 1];
                    let timeout = Duration::from_millis(random.up_to(40) as u64);
                    let options = ConnectOptions::default().timeout(timeout).cancel(cancel.clone());
                    let mut begun = None;
                    // The call fails while the interrupt of a restart is set.
                    until("the attempt begins", || {
                        begun = sockman.start_connect(to, &options).ok();
                        begun.is_some()
                    });
                    let id = begun.unwrap();
                    spin(random.up_to(2000));
                    let closed = match random.up_to(3) {
                        1 => sockman.close_connection(id),
                        2 => {
                            cancel.interrupt();
                            false
                        }
                        _ => false,
                    };
                    attempts.lock().unwrap().push((id, closed));
                }
                running_threads.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while running_threads.load(Ordering::SeqCst) > 0 {
            stop(&mut running);
            spin(1000);
            restart(&mut running);
            run_passes(&sockman, 1);
        }
    });
    let attempts = attempts.into_inner().unwrap();
    let mut connected = 0;
    for (id, closed) in &attempts {
        if !closed {
            let is_connected = recorder.wait_for_outcome(*id).is_ok();
            connected += usize::from(is_connected);
            assert_eq!(sockman.close_connection(*id), is_connected);
        }
    }
    run_passes(&sockman, 2);
    for (id, _) in &attempts {
        assert!(recorder.count(|event| is_outcome_of(event, *id)) <= 1);
    }
    assert!(connected > 0);
    until("only the listener is open", || spy.open() == 1);
    assert_eq!(sockman.stats().connections, 0);
}

/// G14: the drop of the last handle and a simultaneous cancel do not deadlock.
#[test]
fn dropping_the_last_handle_during_a_cancel_closes_the_attempts() {
    let (spy, blackhole) = (Spy::default(), Blackhole::new());
    for round in 0..300 {
        let cancel = Interrupt::new();
        let sockman = SockMan::new(Recorder::new(), options(&spy)).unwrap();
        let options = for_long().cancel(cancel.clone());
        for _ in 0..3 {
            sockman.start_connect(blackhole.destination(), &options).unwrap();
        }
        let canceller = thread::spawn(move || cancel.interrupt());
        spin(round * 10);
        drop(sockman);
        canceller.join().unwrap();
        assert_eq!(spy.open(), 0, "round {round}");
    }
}
