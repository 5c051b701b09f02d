//! G1: an id names one connection and is never reused, whatever happens to its descriptor and its
//! slot. Each test runs alone in its process: beside the sockets of other tests, descriptor numbers
//! would not be reused as often as these tests need.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
};

use sockman::{ConnectOptions, ConnectionId, Service, address::Destination, error::SendError};
#[cfg(unix)]
use sockman_test_support::descriptors::send_along;
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    child::in_child,
    reset,
    tools::{Gate, Spy, run_passes, until},
    without_sweep,
};

/// G1
#[test]
fn ids_are_never_reused() {
    in_child(ids_are_never_reused, || {
        const THREADS: usize = 4;
        const ROUNDS: usize = 100;

        let recorder = Recorder::with_reaction(|sockman, event| {
            if let Event::Accepted { id, .. } = event {
                // Closes about half of the connections in their accept callback.
                if id.as_u64() % 2 == 0 {
                    sockman.close_connection(*id);
                }
            }
        });
        let accepting = Running::start(recorder.clone(), without_sweep());
        let dialling = Running::start(Recorder::new(), without_sweep());
        let to = Destination::from(Service::from(accepting.address));
        let mut ids: Vec<ConnectionId> = thread::scope(|scope| {
            let dial = || -> Vec<ConnectionId> {
                let connect =
                    || dialling.sockman.connect(&to, &ConnectOptions::default()).expect("loopback");
                (0..ROUNDS)
                    .map(|round| {
                        let connection = connect();
                        let id = connection.id();
                        if round % 3 > 0 {
                            connection.activate();
                        } else {
                            drop(connection);
                        }
                        assert_eq!(dialling.sockman.close_connection(id), round % 3 > 0);
                        id
                    })
                    .collect()
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(dial)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        // The other `SockMan` takes its ids from the same counter.
        ids.extend(recorder.wait_for("all accepts", |events| {
            let accepted: Vec<_> = events
                .iter()
                .filter(|event| matches!(event, Event::Accepted { .. }))
                .filter_map(Event::id)
                .collect();
            (accepted.len() == THREADS * ROUNDS).then_some(accepted)
        }));
        ids.sort();
        let expected: Vec<u64> = (0..2 * (THREADS * ROUNDS) as u64).collect();
        assert!(
            ids.iter().map(|id| id.as_u64()).eq(expected),
            "each number must be used exactly once: {ids:?}"
        );
    });
}

/// G1
#[test]
fn the_id_of_a_closed_connection_stays_unknown_when_its_descriptor_is_reused() {
    in_child(the_id_of_a_closed_connection_stays_unknown_when_its_descriptor_is_reused, || {
        let handler = Recorder::new();
        let running = Running::start(handler.clone(), without_sweep());
        let sockman = &running.sockman;
        let mut closed: Vec<ConnectionId> = Vec::new();
        for round in 0..50 {
            let mut client = running.client();
            let id = handler.wait_for_accepted(round);
            client.write_all(b"hello").unwrap();
            handler.wait_for_bytes(id, 5);
            for old in &closed {
                assert!(matches!(
                    sockman.send_bytes(*old, b"x"),
                    Err(SendError::UnknownConnection(of)) if of == *old
                ));
                assert!(matches!(
                    sockman.shutdown_write(*old),
                    Err(SendError::UnknownConnection(_))
                ));
                assert!(sockman.connection_info(*old).is_none());
                assert!(!sockman.close_connection(*old));
                sockman.wake(*old);
            }
            assert!(sockman.close_connection(id));
            run_passes(sockman, 1);
            closed.push(id);
        }
    });
}

/// The state of [`no_event_of_an_old_connection_reaches_the_new_one_on_its_descriptor`]: the
/// connections, and the violations that the test found.
#[derive(Default)]
struct Crowd {
    /// The port of each peer, which the peer sends repeatedly as two bytes.
    tags: HashMap<ConnectionId, [u8; 2]>,
    closed: HashSet<ConnectionId>,
    wrong: Vec<String>,
}

/// G1: each peer continues to send after its connection is closed, while the next clients connect.
#[test]
fn no_event_of_an_old_connection_reaches_the_new_one_on_its_descriptor() {
    in_child(no_event_of_an_old_connection_reaches_the_new_one_on_its_descriptor, || {
        const THREADS: usize = 4;
        const ROUNDS: usize = 150;

        let crowd = Arc::new(Mutex::new(Crowd::default()));
        let handler = Recorder::of_everything({
            let crowd = Arc::clone(&crowd);
            move |sockman, event| {
                let Some(id) = event.id() else { return };
                let mut crowd = crowd.lock().unwrap();
                if crowd.closed.contains(&id) {
                    crowd.wrong.push(format!("a callback came after the close: {event:?}"));
                }
                match event {
                    Event::Accepted { them, .. } => {
                        let before = crowd.tags.insert(id, them.port().to_be_bytes());
                        crowd.wrong.extend(before.map(|_| format!("accepted twice: {id}")));
                    }
                    Event::Data(_, data) => {
                        let tag = crowd.tags.get(&id).copied();
                        if data
                            .chunks(2)
                            .any(|chunk| tag.is_none_or(|tag| tag[..chunk.len()] != *chunk))
                        {
                            crowd.wrong.push(format!(
                                "{id} received bytes of another connection: {data:?}"
                            ));
                        }
                        crowd.closed.insert(id);
                        assert!(sockman.close_connection(id));
                    }
                    Event::Eof(_) | Event::ReadError(..) => {
                        crowd
                            .wrong
                            .push(format!("an end came although the peer still sends: {event:?}"));
                    }
                    _ => {}
                }
            }
        });
        let spy = Spy::default();
        let running = Running::start(handler, without_sweep().sock_factory(Arc::new(spy.clone())));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let mut client = running.client();
                        let block = client.local_addr().unwrap().port().to_be_bytes().repeat(64);
                        for _ in 0..30 {
                            if client.write_all(&block).is_err() {
                                break;
                            }
                        }
                        // The read returns when the connection is closed, with an end or with an
                        // error.
                        let _ = client.read(&mut [0]);
                    }
                });
            }
        });
        run_passes(&running.sockman, 2);
        let crowd = crowd.lock().unwrap();
        assert_eq!(crowd.wrong, Vec::<String>::new());
        assert_eq!(crowd.closed.len(), THREADS * ROUNDS);
        let fds = spy.accepted_fds();
        let distinct: HashSet<_> = fds.iter().collect();
        assert!(
            distinct.len() * 2 < fds.len(),
            "too few descriptors were reused to prove anything"
        );
    });
}

/// G1: the close, the event of the old connection and the new connection fall into one pass.
#[test]
fn a_late_event_is_ignored_when_its_slot_is_reused_in_the_same_pass() {
    in_child(a_late_event_is_ignored_when_its_slot_is_reused_in_the_same_pass, || {
        const ROUNDS: usize = 300;

        // The holder's data keeps the socket thread busy until all is prepared. In half of the
        // rounds the holder's callback closes the victim, so that its descriptor is free before the
        // accept. In the other rounds the killer's callback closes the victim, in the pass that
        // already has an event for the victim.
        #[derive(Default)]
        struct Cast {
            holder: Option<ConnectionId>,
            killer: Option<ConnectionId>,
            victim: Option<ConnectionId>,
            by_holder: bool,
        }

        let (cast, gate) = (Arc::new(Mutex::new(Cast::default())), Gate::new());
        let handler = Recorder::with_reaction({
            let (cast, gate) = (Arc::clone(&cast), Arc::clone(&gate));
            move |sockman, event| {
                let Event::Data(id, _) = event else { return };
                let is_holder = cast.lock().unwrap().holder == Some(*id);
                if is_holder {
                    gate.hold();
                }
                let cast = cast.lock().unwrap();
                if is_holder == cast.by_holder && (is_holder || cast.killer == Some(*id)) {
                    assert!(sockman.close_connection(cast.victim.unwrap()));
                }
            }
        });
        let spy = Spy::default();
        let running =
            Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
        let mut holder = running.client();
        cast.lock().unwrap().holder = Some(handler.wait_for_accepted(0));
        let mut accepted = 1;
        let mut next = |client: &TcpStream| {
            client.set_write_timeout(Some(DEADLINE)).unwrap();
            accepted += 1;
            handler.wait_for_accepted(accepted - 1)
        };
        let mut reused = 0;
        for round in 0..ROUNDS {
            let mut killer = running.client();
            let killer_id = next(&killer);
            let mut victim = running.client();
            let victim_id = next(&victim);
            {
                let mut cast = cast.lock().unwrap();
                (cast.killer, cast.victim) = (Some(killer_id), Some(victim_id));
                cast.by_holder = round % 2 == 0;
            }
            holder.write_all(b"h").unwrap();
            gate.wait_until_held();
            killer.write_all(b"k").unwrap();
            victim.write_all(b"old").unwrap();
            let mut newcomer = running.client();
            newcomer.write_all(b"new").unwrap();
            gate.open();

            let newcomer_id = next(&newcomer);
            assert_eq!(handler.wait_for_bytes(newcomer_id, 3), b"new");
            // The result is ignored, because the connection may be closed already.
            let _ = victim.write_all(b"older");
            run_passes(&running.sockman, 1);
            assert_eq!(handler.received(newcomer_id), b"new");
            assert_eq!(
                handler.events_of(victim_id).len(),
                1,
                "the victim was named after its close"
            );
            let fds = spy.accepted_fds();
            reused += usize::from(fds[fds.len() - 1] == fds[fds.len() - 2]);
            for (id, client) in [(killer_id, killer), (newcomer_id, newcomer)] {
                running.sockman.close_connection(id);
                reset(client);
            }
        }
        assert!(reused > ROUNDS / 10, "only {reused} descriptors were reused at once");
    });
}

/// G1: a descriptor that stays open elsewhere, for example in a child process, stays in the poller
/// after the close. The poller continues to report its events.
#[cfg(unix)]
#[test]
fn an_event_of_a_closed_connection_is_ignored_while_its_descriptor_lives_on() {
    in_child(an_event_of_a_closed_connection_is_ignored_while_its_descriptor_lives_on, || {
        let handler = Recorder::of_everything(|_, _| {});
        let spy = Spy::default();
        let running =
            Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
        let sockman = &running.sockman;
        for round in 0..50 {
            let mut old_client = running.client();
            let old = handler.wait_for_accepted(2 * round);
            // Waits until the connection is in the poller.
            run_passes(sockman, 1);
            // A message that no process receives keeps the descriptor open.
            let (post, office) = UnixStream::pair().unwrap();
            send_along(&post, b"x", *spy.accepted_fds().last().unwrap());
            assert!(sockman.close_connection(old));
            run_passes(sockman, 2);

            let _new_client = running.client();
            let new = handler.wait_for_accepted(2 * round + 1);
            run_passes(sockman, 2);
            let (events, before) = (sockman.stats().events, handler.events_of(new));
            // No process can receive these bytes, so a reset answers them.
            old_client.write_all(b"late").unwrap();
            until("the poller has reported the event", || {
                sockman.notify();
                sockman.stats().events > events
            });
            run_passes(sockman, 2);
            assert_eq!(
                handler.events_of(new),
                before,
                "the new connection got the old one's event"
            );
            assert_eq!(sockman.connection_info(new).unwrap().hung_up, None);
            sockman.close_connection(new);
            drop(office);
        }
    });
}
