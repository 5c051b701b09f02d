//! `Options::reuse_port`: several `SockMan`s on one port.

use sockman::{
    SockMan,
    error::{BindError, BindErrorKind},
};
use sockman_test_support::{Recorder, Running, tools::TempDir, without_sweep};

/// The kernel spreads the clients over both listeners. Each client is accepted exactly once.
#[test]
#[cfg(target_os = "linux")]
fn two_sockmans_share_the_clients_of_one_port() {
    use sockman_test_support::Event;
    use sockman_test_support::tools::until;
    use std::io::Read;

    const CLIENTS: usize = 200;

    let greet = |sockman: &SockMan, event: &Event| {
        if let Event::Accepted { id, .. } = event {
            assert_eq!(sockman.send_bytes(*id, b"+").unwrap(), 1);
        }
    };
    let recorders = [Recorder::with_reaction(greet), Recorder::with_reaction(greet)];
    let first = Running::start(recorders[0].clone(), without_sweep().reuse_port(true));
    let second = SockMan::new(recorders[1].clone(), without_sweep().reuse_port(true)).unwrap();
    let bound = second.bind_and_start_listening(first.address).unwrap();
    assert_eq!(bound.to_socket_addr(), Some(first.address));
    let threads = second.start_sockets_threads().unwrap();

    let clients: Vec<_> = (0..CLIENTS).map(|_| first.client()).collect();
    for mut client in &clients {
        client.read_exact(&mut [0]).unwrap();
    }
    let accepted =
        |recorder: &Recorder| recorder.count(|event| matches!(event, Event::Accepted { .. }));
    let counts = [accepted(&recorders[0]), accepted(&recorders[1])];
    assert_eq!(counts[0] + counts[1], CLIENTS);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

    // When one `SockMan` stops, the other gets all clients.
    second.interrupt();
    threads.join().unwrap();
    second.stop_listening();
    let before = accepted(&recorders[0]);
    let later: Vec<_> = (0..20).map(|_| first.client()).collect();
    until("the remaining SockMan accepts all later clients", || {
        accepted(&recorders[0]) == before + later.len()
    });
}

/// The kernel gives a `SockMan` at its limit a share of the clients, although the other has room.
/// They wait until the first one has room again. The documentation of the options says how to limit
/// the connections instead.
#[test]
#[cfg(target_os = "linux")]
fn a_full_sockman_keeps_its_share_of_the_clients_waiting() {
    use sockman_test_support::Event;
    use sockman_test_support::tools::run_passes;
    use sockman_test_support::tools::until;

    const CLIENTS: usize = 100;

    let accepted =
        |recorder: &Recorder| recorder.count(|event| matches!(event, Event::Accepted { .. }));
    let (full, other) = (Recorder::new(), Recorder::new());
    let first = Running::start(full.clone(), without_sweep().reuse_port(true).max_connections(1));
    let second = SockMan::new(other.clone(), without_sweep().reuse_port(true)).unwrap();
    second.bind_and_start_listening(first.address).unwrap();
    let threads = second.start_sockets_threads().unwrap();

    let clients: Vec<_> = (0..CLIENTS).map(|_| first.client()).collect();
    full.wait_for_accepted(0);
    other.wait_for_accepted(0);
    run_passes(&first.sockman, 2);
    run_passes(&second, 2);
    assert_eq!((accepted(&full), first.sockman.stats().connections), (1, 1));
    // A client that waits is accepted when the connection before it closes.
    let mut closed = 0;
    while accepted(&full) + accepted(&other) < CLIENTS || closed < accepted(&full) {
        let id = full.wait_for_accepted(closed);
        assert!(first.sockman.close_connection(id));
        closed += 1;
        until("the next client is accepted", || {
            accepted(&full) > closed || accepted(&full) + accepted(&other) == CLIENTS
        });
    }
    assert!(closed > 1, "the first one had a share of the clients");
    drop(clients);
    second.interrupt();
    threads.join().unwrap();
}

#[cfg(unix)]
#[test]
fn without_the_option_a_port_has_one_listener() {
    let running = Running::start(Recorder::new(), without_sweep());
    let second = SockMan::new(Recorder::new(), without_sweep().reuse_port(true)).unwrap();
    let refused = second.bind_and_start_listening(running.address);
    assert!(
        matches!(
            refused.as_ref().map_err(BindError::kind),
            Err(BindErrorKind::AddressInUse { .. })
        ),
        "{refused:?}"
    );
}

/// A path has one listener with or without the option, and binding it with the option works.
#[cfg(unix)]
#[test]
fn a_unix_domain_path_can_be_bound_with_the_option() {
    let dir = TempDir::new();
    let sockman = SockMan::new(Recorder::new(), without_sweep().reuse_port(true)).unwrap();
    let to = format!("unix:{}", dir.path("s").display()).parse().unwrap();
    assert_eq!(sockman.bind_and_start_listening(&to).unwrap(), to);
    let again = sockman.bind_and_start_listening(&to);
    assert!(
        matches!(again.as_ref().map_err(BindError::kind), Err(BindErrorKind::AddressInUse { .. })),
        "{again:?}"
    );
}
