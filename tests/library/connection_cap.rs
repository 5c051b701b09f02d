//! G11: at the connection cap, clients wait in the backlog and connects fail until a place is free.
//! (`tests/processes/exhaustion.rs` tests a lack of descriptors.)

use std::{io::Write, net::TcpListener, thread};

use sockman::{
    ConnectOptions, Interrupt,
    address::Destination,
    error::{ConnectError, ConnectErrorKind},
};
#[cfg(unix)]
use sockman_test_support::blackhole::UnixBlackhole;
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, eventually, read_to_end, reset, tools::run_passes,
    without_sweep,
};

/// G11
#[test]
fn at_the_cap_clients_wait_and_are_accepted_when_a_callback_closes_one() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, _) = event {
            assert!(sockman.close_connection(*id));
        }
    });
    let running = Running::start(recorder.clone(), without_sweep().max_connections(2));
    let mut clients: Vec<_> = (0..20).map(|_| running.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        recorder.wait_for_accepted((n + 1).min(19));
        assert!(running.sockman.stats().connections <= 2);
        let accepted = recorder.count(|event| matches!(event, Event::Accepted { .. }));
        assert_eq!(accepted, (n + 2).min(20), "the cap must limit the accepts");
        client.write_all(b"close me").unwrap();
        assert_eq!(read_to_end(client), b"");
    }
}

/// G11
#[test]
fn at_the_cap_clients_wait_and_are_accepted_when_another_thread_closes_one() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep().max_connections(3));
    let clients: Vec<_> = (0..20).map(|_| running.client()).collect();
    for n in 0..20 {
        let id = recorder.wait_for_accepted(n);
        assert!(running.sockman.stats().connections <= 3);
        assert!(running.sockman.close_connection(id));
    }
    drop(clients);
}

/// G11: closing a connection that is already broken causes no event, and must still let the next
/// client in.
#[test]
fn at_the_cap_closing_a_connection_that_was_reset_lets_the_next_one_in() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
    let mut client = running.client();
    for n in 0..20 {
        let id = recorder.wait_for_accepted(n);
        // This client waits in the backlog while the place is taken.
        let next = running.client();
        reset(std::mem::replace(&mut client, next));
        recorder.wait_for_read_error(id);
        run_passes(&running.sockman, 1);
        assert!(running.sockman.close_connection(id));
    }
}

/// G11
#[test]
fn at_the_cap_connect_fails_and_resumes_when_there_is_a_place() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(peer.local_addr().unwrap());
    let running = Running::start(Recorder::new(), without_sweep().max_connections(2));
    let sockman = &running.sockman;
    let first = sockman.connect(&to, &ConnectOptions::default()).unwrap();
    let second = sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
    for _ in 0..3 {
        let error = sockman.connect(&to, &ConnectOptions::default()).unwrap_err();
        assert!(
            matches!(error.kind(), ConnectErrorKind::TooManyConnections { limit: 2 }),
            "{error}"
        );
        assert!(error.to_string().contains("limit of 2"), "{error}");
    }
    assert_eq!(sockman.stats().connections, 2);
    // A connection that is dropped without activation gives its place back. A closed connection
    // does so, too.
    drop(first);
    let third = sockman.connect(&to, &ConnectOptions::default()).unwrap();
    assert!(sockman.close_connection(second));
    let fourth = sockman.connect(&to, &ConnectOptions::default()).unwrap();
    assert!(sockman.connect(&to, &ConnectOptions::default()).is_err());
    drop((third, fourth));
}

/// G11: a connect under way holds a place. When it fails, a client in the backlog is accepted.
#[cfg(unix)]
#[test]
fn a_connect_that_fails_gives_its_place_to_a_client_in_the_backlog() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
    // The full listener keeps a connect under way.
    let full = UnixBlackhole::new();
    for n in 0..20 {
        let cancel = Interrupt::new();
        let connect = {
            let (sockman, to) = (running.sockman.clone(), full.destination());
            let options = ConnectOptions::default().timeout(DEADLINE).cancel(cancel.clone());
            thread::spawn(move || sockman.connect(&to, &options).map(|_| ()))
        };
        eventually("the connect holds the place", || running.sockman.stats().connections == 1);
        let client = running.client();
        run_passes(&running.sockman, 1);
        assert_eq!(recorder.count(|event| matches!(event, Event::Accepted { .. })), n);
        cancel.interrupt();
        assert!(matches!(
            connect.join().unwrap().as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Interrupted)
        ));
        let id = recorder.wait_for_accepted(n);
        drop(client);
        recorder.wait_for_eof(id);
        running.sockman.close_connection(id);
        // The listener needs the free place to look once more for clients in this pass.
        run_passes(&running.sockman, 1);
    }
}

/// G11: a connection that was never polled gives its place back, although no event comes.
#[test]
fn a_connection_never_activated_gives_its_place_to_a_client_in_the_backlog() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(peer.local_addr().unwrap());
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
    for n in 0..20 {
        let connection = running.sockman.connect(&to, &ConnectOptions::default()).unwrap();
        let client = running.client();
        run_passes(&running.sockman, 1);
        drop(connection);
        let id = recorder.wait_for_accepted(n);
        drop(client);
        recorder.wait_for_eof(id);
        running.sockman.close_connection(id);
        run_passes(&running.sockman, 1);
    }
}

/// G11: a refused connection gives its place back.
#[test]
fn a_refused_connection_gives_its_place_back() {
    let recorder = Recorder::new();
    recorder.refuse(true);
    let running = Running::start(recorder.clone(), without_sweep().max_connections(1));
    let mut clients: Vec<_> = (0..50).map(|_| running.client()).collect();
    recorder.wait_for_accepted(49);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"");
    }
    eventually("every place is free", || running.sockman.stats().connections == 0);
}
