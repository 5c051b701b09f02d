//! `start_connect`: thousands of connects at once. Runs in a process of its own, because its many
//! descriptors would disturb other tests.

use std::{
    collections::HashMap,
    io::Read,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sockman::{ConnectOptions, ConnectionId, SockMan, address::Destination};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    blackhole::Blackhole,
    child::in_child,
    limits::make_room_for,
    tools::{Spy, run_passes, until},
    without_sweep, write_all,
};

/// The number of attempts of each kind.
const ATTEMPTS: usize = 667;
/// The timeout of silent attempts: longer than a busy machine takes to begin all attempts.
const PATIENCE: Duration = Duration::from_secs(4);
/// The most passes for each attempt and each echo. A loop that spins makes a million passes.
const PASSES_FOR_EACH: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accepts,
    Refuses,
    IsSilent,
}

/// Returns the outcome of each id so far, and the number of outcomes.
fn outcomes(recorder: &Recorder) -> (HashMap<ConnectionId, Result<(), String>>, usize) {
    let mut outcomes = HashMap::new();
    let mut count = 0;
    for event in recorder.events() {
        if let Event::ConnectCompleted { id, outcome, .. } = event {
            outcomes.insert(id, outcome.map(|_| ()));
            count += 1;
        }
    }
    (outcomes, count)
}

/// Returns a handler that echoes what clients send.
fn echoing() -> Arc<Recorder> {
    Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, data) = event {
            assert_eq!(sockman.send_bytes(*id, data).unwrap(), data.len());
        }
    })
}

/// G7, G9, G11: each outcome is reported exactly once, and a silent attempt ends at its deadline.
/// Meanwhile the loop does not spin and serves another connection. The attempts leave nothing
/// behind.
#[test]
fn two_thousand_connects_at_once_are_each_reported_once() {
    in_child(two_thousand_connects_at_once_are_each_reported_once, || {
        make_room_for(8192);
        let (spy, recorder, blackhole) = (Spy::default(), echoing(), Blackhole::new());
        let options = without_sweep().sock_factory(Arc::new(spy.clone()));
        let running = Running::start(recorder.clone(), options);
        let sockman = &running.sockman;
        // Another `SockMan` accepts the connections.
        let accepting = Running::start(Recorder::new(), without_sweep());
        let refusing =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        refusing.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let refusing = (refusing.local_addr().unwrap().as_socket().unwrap(), refusing);

        let mut client = running.client();
        let mut echoes = 0;
        let mut echo = || {
            echoes += 1;
            let mut bytes = [0; 4];
            write_all(&mut client, b"echo");
            client.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"echo");
        };
        echo();

        let before = sockman.stats().passes;
        let mut kinds = HashMap::new();
        for number in 0..3 * ATTEMPTS {
            let (kind, to, timeout) = match number % 3 {
                0 => (Kind::Accepts, Destination::from(accepting.address), DEADLINE),
                1 => (Kind::Refuses, refusing.0.into(), DEADLINE),
                _ => (Kind::IsSilent, blackhole.destination(), PATIENCE),
            };
            let options = ConnectOptions::default().timeout(timeout);
            kinds.insert(sockman.start_connect(&to, &options).unwrap(), kind);
        }
        until("the outcomes of the others are reported", || {
            echo();
            outcomes(&recorder).1 >= 2 * ATTEMPTS
        });
        wait_for_the_silent_ones(sockman, &recorder, &mut echo);
        echo();

        let passes = sockman.stats().passes - before;
        let most = PASSES_FOR_EACH * (3 * ATTEMPTS as u64 + echoes);
        assert!(passes <= most, "the loop spins: {passes} passes for {echoes} echoes");
        run_passes(sockman, 2);
        let (found, count) = outcomes(&recorder);
        assert_eq!((found.len(), count), (3 * ATTEMPTS, 3 * ATTEMPTS), "one outcome per attempt");
        for (id, kind) in &kinds {
            let is_right = match (&found[id], kind) {
                (Ok(()), Kind::Accepts) => true,
                (Err(error), Kind::Refuses) => error.starts_with("Refused"),
                (Err(error), Kind::IsSilent) => error.starts_with("TimedOut"),
                _ => false,
            };
            assert!(is_right, "{kind:?}: {:?}", found[id]);
        }

        let stats = sockman.stats();
        assert_eq!((stats.connections, stats.connected), (ATTEMPTS + 1, ATTEMPTS as u64));
        for id in found.keys() {
            assert_eq!(sockman.close_connection(*id), kinds[id] == Kind::Accepts);
        }
        // The descriptors of the listener and of the client stay open.
        until("their descriptors are closed", || spy.open() == 2);
        assert_eq!(sockman.stats().connections, 1);
    });
}

/// Serves the other connection until the last outcome is reported.
fn wait_for_the_silent_ones(sockman: &SockMan, recorder: &Recorder, echo: &mut impl FnMut()) {
    /// The pause between two echoes, so that the attempts and not the echoes cause the passes.
    const PAUSE: Duration = Duration::from_millis(20);

    let began = Instant::now();
    while outcomes(recorder).1 < 3 * ATTEMPTS {
        assert!(
            began.elapsed() < DEADLINE,
            "the silent attempts did not end in time: {:?}",
            sockman.stats()
        );
        echo();
        thread::sleep(PAUSE);
    }
}
