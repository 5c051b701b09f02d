//! G7: with nothing to do the loop runs about once per `select_timeout`, and not at all with the
//! sweep off, whatever the state of the connections.
//!
//! These tests measure time on purpose: they count the passes in 300 ms.

use std::{
    io::{self, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, EventHandler, Interrupt, NextRecv, Options, Service, SockMan, WeakSockMan,
    options::SELECT_TIMEOUT,
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, eventually, read_to_end, reset, tools::run_passes,
    without_sweep,
};

const SPAN: Duration = Duration::from_millis(300);

/// Returns the largest number of passes that an idle loop may make. A loop that spins makes some
/// hundred thousand passes in 300 ms, and one that polls every millisecond makes three hundred.
fn most_passes(elapsed: Duration, sweep: bool) -> u64 {
    let periods = elapsed.as_millis().div_ceil(SELECT_TIMEOUT.as_millis());
    if sweep { 6 + 2 * u64::try_from(periods).unwrap() } else { 4 }
}

/// Lets the loop come to rest: a few passes handle the events that are under way.
fn settle(sockman: &SockMan) {
    run_passes(sockman, 2);
}

/// Asserts that the loop makes few passes while there is nothing to do.
fn assert_no_spin(sockman: &SockMan, sweep: bool) {
    settle(sockman);
    let (began, before) = (Instant::now(), sockman.stats());
    assert!(Interrupt::new().sleep_for(SPAN));
    let (elapsed, after) = (began.elapsed(), sockman.stats());
    let passes = after.passes - before.passes;
    assert!(
        passes <= most_passes(elapsed, sweep),
        "{passes} passes in {elapsed:?}, sweep {sweep}: {before:?}, {after:?}"
    );
    if sweep {
        assert!(after.sweeps > before.sweeps, "no sweep in {elapsed:?}: {before:?}, {after:?}");
    }
}

/// Runs `test` with the default sweep and without one.
fn with_and_without_sweep(test: impl Fn(Options, bool) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| test(Options::default(), true));
        scope.spawn(|| test(without_sweep(), false));
    });
}

/// A server with `count` connections and a [`Recorder`] whose hooks say yes to everything, as the
/// default hooks do.
fn serving(options: Options, count: usize) -> (Arc<Recorder>, Running, Vec<TcpStream>) {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), options);
    let clients: Vec<_> = (0..count).map(|_| running.client()).collect();
    for n in 0..count {
        recorder.want_to_send(recorder.wait_for_accepted(n), true);
    }
    (recorder, running, clients)
}

/// A handler with the required methods alone: every hook is the default one.
#[derive(Default)]
struct Willing {
    accepted: AtomicU64,
    ready: AtomicU64,
}

impl EventHandler for Willing {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        self.ready.fetch_add(1, Ordering::SeqCst);
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

/// G7
#[test]
fn default_hooks_that_always_say_yes_do_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let handler = Arc::new(Willing::default());
        let running = Running::start(handler.clone(), options);
        let _clients: Vec<_> = (0..10).map(|_| running.client()).collect();
        eventually("all are accepted", || handler.accepted.load(Ordering::SeqCst) == 10);
        eventually("all are asked", || handler.ready.load(Ordering::SeqCst) >= 10);
        assert_no_spin(&running.sockman, sweep);
    });
}

/// G7
#[test]
fn no_connection_at_all_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (_recorder, running, _clients) = serving(options, 0);
        assert_no_spin(&running.sockman, sweep);
    });
}

/// G7
#[test]
fn paused_reads_with_data_pending_do_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let recorder = Recorder::new();
        recorder.pause_all_recv(true);
        let running = Running::start(recorder.clone(), options);
        let mut client = running.client();
        client.write_all(&[1; 10_000]).unwrap();
        let id = recorder.wait_for_accepted(0);
        assert_no_spin(&running.sockman, sweep);
        client.write_all(&[2; 10_000]).unwrap();
        assert_no_spin(&running.sockman, sweep);
        assert_eq!(recorder.received(id), b"");
        recorder.pause_all_recv(false);
        running.sockman.wake(id);
        recorder.wait_for_bytes(id, 20_000);
    });
}

/// G7
#[test]
fn paused_reads_with_an_end_or_a_reset_behind_them_do_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, mut clients) = serving(options, 3);
        recorder.pause_all_recv(true);
        let (shut, gone, broken) =
            (clients.pop().unwrap(), clients.pop().unwrap(), clients.pop().unwrap());
        shut.shutdown(Shutdown::Write).unwrap();
        drop(gone);
        reset(broken);
        let sockman = &running.sockman;
        eventually("one connection has hung up", || {
            (0..3).any(|n| {
                sockman.connection_info(recorder.wait_for_accepted(n)).unwrap().hung_up.is_some()
            })
        });
        assert_no_spin(sockman, sweep);
        assert_eq!(recorder.count(|event| !matches!(event, Event::Accepted { .. })), 0);
    });
}

/// G7
#[test]
fn paused_writes_do_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, _clients) = serving(options, 3);
        for n in 0..3 {
            recorder.want_to_send(recorder.wait_for_accepted(n), false);
        }
        assert_no_spin(&running.sockman, sweep);
    });
}

/// G7: a full send buffer causes no spin, whether the last send took a part of the bytes or none.
#[test]
fn a_full_send_buffer_does_not_spin() {
    fn fills(sockman: &SockMan, id: ConnectionId, sends_until_it_would_block: bool) -> bool {
        const BYTES: usize = 100_000;

        loop {
            match sockman.send_bytes(id, &[0; BYTES]) {
                Ok(0) => return true,
                Ok(BYTES) if !sends_until_it_would_block => return false,
                Ok(_) if !sends_until_it_would_block => return true,
                Ok(_) => {}
                // The client closes at the end of the test.
                Err(_) => return false,
            }
        }
    }

    for sends_until_it_would_block in [false, true] {
        with_and_without_sweep(|options, sweep| {
            let (full_sender, full) = mpsc::channel();
            let recorder = Recorder::with_reaction(move |sockman, event| {
                if let Event::ReadyToSend(id) = event {
                    if fills(sockman, *id, sends_until_it_would_block) {
                        let _ = full_sender.send(());
                    }
                }
            });
            let running = Running::start(recorder.clone(), options);
            let client = running.client();
            let id = recorder.wait_for_accepted(0);
            recorder.want_to_send(id, true);
            running.sockman.wake(id);
            full.recv_timeout(DEADLINE).unwrap();
            assert_no_spin(&running.sockman, sweep);
            drop(client);
        });
    }
}

/// G7
#[test]
fn a_connection_kept_after_its_end_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, clients) = serving(options, 3);
        for client in &clients {
            client.shutdown(Shutdown::Write).unwrap();
        }
        for n in 0..3 {
            recorder.wait_for_eof(recorder.wait_for_accepted(n));
        }
        assert_no_spin(&running.sockman, sweep);
        assert_eq!(recorder.count(|event| matches!(event, Event::Eof(_))), 3);
    });
}

/// G7
#[test]
fn a_connection_kept_after_a_reset_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, clients) = serving(options, 3);
        clients.into_iter().for_each(reset);
        for n in 0..3 {
            recorder.wait_for_read_error(recorder.wait_for_accepted(n));
        }
        assert_no_spin(&running.sockman, sweep);
        assert_eq!(recorder.count(|event| matches!(event, Event::ReadError(..))), 3);
    });
}

/// G7
#[test]
fn a_connection_kept_after_an_end_and_a_reset_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, mut clients) = serving(options, 1);
        let (client, id) = (clients.pop().unwrap(), recorder.wait_for_accepted(0));
        client.shutdown(Shutdown::Write).unwrap();
        recorder.wait_for_eof(id);
        reset(client);
        recorder.wait_for_read_error(id);
        assert_no_spin(&running.sockman, sweep);
    });
}

/// G7, G6: a receive that is skipped waits for an event, a wake or the sweep.
#[test]
fn skip_with_data_pending_and_nothing_sent_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, mut running, mut clients) = serving(options, 1);
        recorder.skip_recv(true);
        let id = recorder.wait_for_accepted(0);
        settle(&running.sockman);
        running.sockman.interrupt();
        running.threads.take().unwrap().join().unwrap();
        clients[0].write_all(&[1; 10_000]).unwrap();
        // In a turn after a wake, the ready-to-send call comes before the receive, so its `Skip`
        // takes effect.
        running.sockman.wake(id);
        running.threads = Some(running.sockman.start_sockets_threads().unwrap());
        assert_no_spin(&running.sockman, sweep);
        assert_eq!(recorder.received(id), b"");
        recorder.skip_recv(false);
        running.sockman.wake(id);
        recorder.wait_for_bytes(id, 10_000);
    });
}

/// G7
#[test]
fn the_connection_cap_with_clients_in_the_backlog_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, _clients) = serving(options.max_connections(2), 2);
        let waiting: Vec<_> = (0..5).map(|_| running.client()).collect();
        assert_no_spin(&running.sockman, sweep);
        assert_eq!(running.sockman.stats().accepted, 2);
        // The clients in the backlog are still accepted later.
        for n in 0..2 {
            running.sockman.close_connection(recorder.wait_for_accepted(n));
        }
        recorder.wait_for_accepted(3);
        drop(waiting);
    });
}

/// G7
#[test]
fn a_deadline_in_the_past_that_stays_the_same_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let (recorder, running, _clients) = serving(options, 1);
        recorder.set_next_deadline(Some(Instant::now() - Duration::from_secs(1)));
        assert_no_spin(&running.sockman, sweep);
        // A deadline that passes while the loop runs causes no spin either.
        let soon = Instant::now() + Duration::from_millis(20);
        recorder.set_next_deadline(Some(soon));
        running.sockman.notify();
        eventually("the deadline has passed", || Instant::now() > soon);
        assert_no_spin(&running.sockman, sweep);
    });
}

/// A handler whose deadline is a little older each time the library asks for it.
struct OlderAndOlder(Mutex<Instant>);

impl EventHandler for OlderAndOlder {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn next_deadline(&self) -> Option<Instant> {
        let mut at = self.0.lock().unwrap();
        *at -= Duration::from_micros(1);
        Some(*at)
    }
}

/// G7
#[test]
fn a_deadline_in_the_past_that_becomes_older_does_not_spin() {
    with_and_without_sweep(|options, sweep| {
        let handler = OlderAndOlder(Mutex::new(Instant::now()));
        let running = Running::start(Arc::new(handler), options);
        assert_no_spin(&running.sockman, sweep);
    });
}

/// G7: a deadline in the past causes exactly one immediate pass.
#[test]
fn a_deadline_in_the_past_causes_exactly_one_immediate_pass() {
    // A strong reference would keep the recorder, which has the closure, for ever.
    let recorder: Arc<OnceLock<Weak<Recorder>>> = Arc::default();
    let (passes, pass) = mpsc::channel();
    let (arm, armed) = mpsc::channel();
    let armed = Mutex::new(armed);
    let handler = {
        let recorder = Arc::clone(&recorder);
        Recorder::with_reaction(move |_, event| {
            if *event == Event::CompletedForAll {
                let deadline = armed.lock().unwrap().try_recv().ok();
                if deadline.is_some() {
                    let recorder = recorder.get().unwrap().upgrade().unwrap();
                    recorder.set_next_deadline(deadline);
                }
                let _ = passes.send(deadline.is_some());
            }
        })
    };
    assert!(recorder.set(Arc::downgrade(&handler)).is_ok());
    let running = Running::start(handler, without_sweep());
    for n in 1..20 {
        arm.send(Instant::now() - Duration::from_secs(60 - n)).unwrap();
        running.sockman.notify();
        // The pass in which the deadline is set has taken the notify, so only the deadline can
        // cause the next pass.
        while !pass.recv_timeout(DEADLINE).unwrap() {}
        assert!(!pass.recv_timeout(DEADLINE).unwrap());
    }
}

/// G7: the library meets deadlines without the sweep.
#[test]
fn a_deadline_in_the_future_is_met_without_a_sweep() {
    let (passes, pass) = mpsc::channel();
    let recorder = Recorder::with_reaction(move |_, event| {
        if *event == Event::CompletedForAll {
            let _ = passes.send(Instant::now());
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    settle(&running.sockman);
    for milliseconds in [1, 3, 10, 30, 100] {
        let before = running.sockman.stats().passes;
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        recorder.set_next_deadline(Some(deadline));
        running.sockman.notify();
        let met = loop {
            let at = pass.recv_timeout(DEADLINE).unwrap();
            if at >= deadline {
                break at;
            }
        };
        // An idle machine is a few milliseconds late; a busy one may be later.
        assert!(
            met - deadline < Duration::from_secs(2),
            "the deadline was met {:?} late",
            met - deadline
        );
        let passes = running.sockman.stats().passes - before;
        assert!(passes <= 8, "{passes} passes for a deadline in {milliseconds} ms");
        recorder.set_next_deadline(None);
    }
}

/// G7: after `notify`, an earlier deadline counts at once.
#[test]
fn a_deadline_that_becomes_earlier_counts_after_notify() {
    let (passes, pass) = mpsc::channel();
    let recorder = Recorder::with_reaction(move |_, event| {
        if *event == Event::CompletedForAll {
            let _ = passes.send(Instant::now());
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    recorder.set_next_deadline(Some(Instant::now() + Duration::from_secs(3600)));
    settle(&running.sockman);
    let deadline = Instant::now() + Duration::from_millis(10);
    recorder.set_next_deadline(Some(deadline));
    running.sockman.notify();
    while pass.recv_timeout(DEADLINE).unwrap() < deadline {}
}

/// G7
#[test]
fn each_notify_of_an_idle_loop_runs_a_pass() {
    let recorder = Recorder::of_everything(|_, _| {});
    let running = Running::start(recorder.clone(), without_sweep());
    for _ in 0..1000 {
        let before = recorder.count(|event| *event == Event::CompletedForAll);
        running.sockman.notify();
        recorder.wait_for("completed_for_all", |events| {
            let all = events.iter().filter(|event| **event == Event::CompletedForAll).count();
            (all > before).then_some(())
        });
    }
}

/// G9: a `notify` inside `event_io_loop_completed_for_all` causes another pass.
#[test]
fn a_notify_during_the_callback_of_a_pass_causes_another_pass() {
    const NOT_YET: u64 = u64::MAX;

    #[derive(Default)]
    struct Passes {
        count: AtomicU64,
        /// The number of passes at the time when the callback asked for another pass.
        asked_at: AtomicU64,
        asks: AtomicBool,
    }

    let passes = Arc::new(Passes::default());
    let recorder = Recorder::of_everything({
        let passes = Arc::clone(&passes);
        move |sockman, event| {
            if *event == Event::CompletedForAll {
                let count = passes.count.fetch_add(1, Ordering::SeqCst) + 1;
                if passes.asks.swap(false, Ordering::SeqCst) {
                    passes.asked_at.store(count, Ordering::SeqCst);
                    sockman.notify();
                }
            }
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    for _ in 0..100 {
        passes.asked_at.store(NOT_YET, Ordering::SeqCst);
        passes.asks.store(true, Ordering::SeqCst);
        running.sockman.notify();
        eventually("a pass after the one that asked for it", || {
            let asked_at = passes.asked_at.load(Ordering::SeqCst);
            asked_at != NOT_YET && passes.count.load(Ordering::SeqCst) > asked_at
        });
    }
}

/// A handler that stores a weak handle, as the guide recommends, and uses it in a hook, which gets
/// no handle as a parameter.
#[derive(Default)]
struct Keeper {
    sockman: OnceLock<WeakSockMan>,
    asked: AtomicU64,
}

impl EventHandler for Keeper {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let sockman = self.sockman.get().unwrap().upgrade().unwrap();
        assert!(sockman.connection_info(id).is_some());
        self.asked.fetch_add(1, Ordering::SeqCst);
        true
    }
}

/// G7: a handler that stores a weak handle causes no spin, and neither the handler nor the
/// `SockMan` leaks.
#[test]
fn a_handler_that_keeps_a_weak_handle_neither_spins_nor_leaks() {
    with_and_without_sweep(|options, sweep| {
        let handler = Arc::new(Keeper::default());
        let freed = Arc::downgrade(&handler);
        let running = Running::start(handler.clone(), options);
        handler.sockman.set(running.sockman.downgrade()).unwrap();
        let mut client = running.client();
        eventually("the hook was asked", || handler.asked.load(Ordering::SeqCst) > 0);
        assert_no_spin(&running.sockman, sweep);
        drop(handler);
        assert!(freed.upgrade().is_some());
        let weak = running.sockman.downgrade();
        drop(running);
        assert!(freed.upgrade().is_none(), "the handler must be freed");
        assert!(weak.upgrade().is_none(), "the SockMan must be freed");
        assert_eq!(read_to_end(&mut client), b"", "the connection must be closed");
    });
}
