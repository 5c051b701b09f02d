//! Two hundred simultaneous connects through a proxy that stalls, each on its own thread. Runs in a
//! process of its own, because its many threads and descriptors would disturb other tests.

use std::{
    io::Read,
    net::TcpListener,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions,
    error::{ConnectErrorKind, ConnectPhase},
    proxy::Proxy,
};
use sockman_test_support::{
    Event, Recorder, Running,
    child::in_child,
    limits::make_room_for,
    socks5::name,
    tools::{Spy, until},
    without_sweep, write_all,
};

const ATTEMPTS: usize = 200;
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most time from an attempt's deadline to its end, on a machine that is busy with other tests.
/// (The benchmark measures the lateness on an idle machine.)
const GRACE: Duration = Duration::from_secs(10);
/// The passes for each echo: one for its arrival, and a few more.
const PASSES_FOR_EACH: u64 = 4;

/// G9, G10: each attempt ends at its deadline and names the phase. The attempts neither cause
/// passes of the socket thread nor block it, and they leave nothing behind.
#[test]
fn two_hundred_attempts_through_a_stalling_proxy_end_at_their_deadlines() {
    in_child(two_hundred_attempts_through_a_stalling_proxy_end_at_their_deadlines, || {
        make_room_for(4096);
        // No program accepts: the kernel completes the connects and keeps them in the backlog.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backlog = i32::try_from(2 * ATTEMPTS).unwrap();
        socket2::SockRef::from(&listener).listen(backlog).unwrap();
        let proxy = Proxy::socks5(listener.local_addr().unwrap());

        let spy = Spy::default();
        let recorder = Recorder::with_reaction(|sockman, event| {
            if let Event::Data(id, data) = event {
                assert_eq!(sockman.send_bytes(*id, data).unwrap(), data.len());
            }
        });
        let options = without_sweep().sock_factory(Arc::new(spy.clone()));
        let running = Running::start(recorder, options);
        let sockman = &running.sockman;
        let mut client = running.client();
        let mut echo = || {
            let mut bytes = [0; 4];
            write_all(&mut client, b"echo");
            client.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"echo");
        };
        echo();
        let (open, passes) = (spy.open(), sockman.stats().passes);
        let mut echoes = 0;

        let together = Barrier::new(ATTEMPTS + 1);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let attempts: Vec<_> = (0..ATTEMPTS)
                .map(|_| {
                    scope.spawn(|| {
                        let options =
                            ConnectOptions::default().proxy(proxy.clone()).timeout(TIMEOUT);
                        together.wait();
                        let began = Instant::now();
                        let outcome = sockman.connect(name(), &options).map(drop);
                        (outcome, began.elapsed())
                    })
                })
                .collect();
            together.wait();
            while !attempts.iter().all(thread::ScopedJoinHandle::is_finished) {
                echo();
                echoes += 1;
                thread::sleep(Duration::from_millis(5));
            }
            attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
        });
        for (outcome, took) in outcomes {
            let error = outcome.unwrap_err();
            let ConnectErrorKind::TimedOut { phase, after, .. } = *error.kind() else {
                panic!("{error:?}");
            };
            assert_eq!(phase, ConnectPhase::NegotiateWithProxy);
            assert!(after >= TIMEOUT && took >= after && took < TIMEOUT + GRACE, "{took:?}");
        }

        // An attempt wakes the socket thread only if it gives back a place at the limit.
        let passes = sockman.stats().passes - passes;
        assert!(passes <= PASSES_FOR_EACH * (echoes + 1), "{passes} passes for {echoes} echoes");
        until("their descriptors are closed", || spy.open() == open);
        assert_eq!(sockman.stats().connections, 1, "only the client's connection may be left");
        assert_eq!(sockman.stats().connected, 0);
    });
}
