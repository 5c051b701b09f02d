//! G3: callbacks come one at a time, on one thread, with no lock held, and may call every method.

use std::{
    collections::HashSet,
    io::{IoSlice, Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use sockman::{
    ConnectOptions, ConnectionId, Options, Service, SockMan, SocketsThreads, WeakSockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, JoinError, StartError},
    options::{More, PanicPolicy},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, read_to_end,
    tools::{CALLBACKS, Callback, Everywhere, Gate, provoke, run_passes, until},
    without_sweep,
};

fn options() -> Options {
    without_sweep().panic_policy(PanicPolicy::CloseConnection)
}

/// G3: while other threads call everything they can, callbacks run on the one socket thread only.
#[test]
fn all_callbacks_run_on_the_socket_thread_and_never_two_at_once() {
    #[derive(Default)]
    struct Seen {
        threads: Mutex<HashSet<(thread::ThreadId, Option<String>)>>,
        callbacks: Mutex<HashSet<Callback>>,
        ids: Mutex<Vec<ConnectionId>>,
        inside: AtomicBool,
        overlaps: AtomicUsize,
    }
    let seen = Arc::new(Seen::default());
    let handler = Everywhere::new({
        let seen = Arc::clone(&seen);
        move |callback, id| {
            if seen.inside.swap(true, Ordering::SeqCst) {
                seen.overlaps.fetch_add(1, Ordering::SeqCst);
            }
            let thread = thread::current();
            let name = thread.name().map(str::to_owned);
            seen.threads.lock().unwrap().insert((thread.id(), name));
            seen.callbacks.lock().unwrap().insert(callback);
            if callback == Callback::Accepted {
                seen.ids.lock().unwrap().extend(id);
            }
            seen.inside.store(false, Ordering::SeqCst);
        }
    })
    .panicking();
    let running = Running::start(Arc::new(handler), options());
    let sockman = &running.sockman;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    sockman.notify();
                    let ids = seen.ids.lock().unwrap().clone();
                    for id in ids.iter().rev().take(4) {
                        sockman.wake(*id);
                        let _ = sockman.send_bytes(*id, b"x");
                    }
                    thread::yield_now();
                }
            });
        }
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..50 {
                        provoke(running.address).unwrap();
                        let options = ConnectOptions::default();
                        sockman.start_connect(running.address, &options).unwrap();
                        let connection = sockman.connect(running.address, &options).unwrap();
                        let id = connection.activate();
                        sockman.send_bytes(id, b"to myself").unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        until("every callback was called", || {
            seen.callbacks.lock().unwrap().len() == CALLBACKS.len()
        });
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(seen.overlaps.load(Ordering::SeqCst), 0);
    let threads = seen.threads.lock().unwrap();
    assert_eq!(threads.len(), 1, "{threads:?}");
    assert!(threads.iter().all(|(_, name)| name.as_deref() == Some("net")), "{threads:?}");
}

/// The state that one armed callback uses.
struct Scene {
    sockman: OnceLock<WeakSockMan>,
    /// The guard of the `SockMan`'s threads, which the callback joins.
    guard: Mutex<Option<SocketsThreads>>,
    /// A connection that the callback does not name.
    other: Mutex<Option<ConnectionId>>,
    armed: Mutex<Option<Callback>>,
    done: AtomicBool,
}

/// Calls every method on `id`. The last method closes the connection.
fn call_everything_on(sockman: &SockMan, id: ConnectionId, is_open: bool) {
    assert_eq!(sockman.connection_info(id).is_some(), is_open);
    // Sends fail if the peer has reset the connection.
    let _ = sockman.send_with(id, &[IoSlice::new(b"one")], More::Follows);
    let _ = sockman.send_vectored(id, &[IoSlice::new(b"two"), IoSlice::new(b"three")]);
    sockman.wake(id);
    let _ = sockman.shutdown_write(id);
    sockman.wake(id);
    assert_eq!(sockman.finish_connection(id, DEADLINE), is_open);
    assert_eq!(sockman.close_connection(id), is_open);
    sockman.wake(id);
    assert!(!sockman.close_connection(id));
    assert!(!sockman.abort_connection(id) && !sockman.finish_connection(id, DEADLINE));
    assert!(sockman.send_bytes(id, b"four").is_err());
}

/// Returns whether the id that the callback names is open.
fn is_open_in(callback: Callback) -> bool {
    !matches!(callback, Callback::ClosedAfterPanic | Callback::Closed)
}

/// Calls every method that is not about a connection.
fn call_everything_else(sockman: &SockMan) {
    let any = "127.0.0.1:0";
    sockman.notify();
    sockman.bind_and_start_listening(any).unwrap();
    sockman.start_listening_on(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    sockman.stop_listening();
    sockman.bind_and_start_listening(any).unwrap();
    assert_eq!(sockman.stats().listeners, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    let id = sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    sockman.wake(id);
    sockman.abort_connection(id);
    assert!(matches!(sockman.start_sockets_threads(), Err(StartError::AlreadyStarted)));
    assert!(sockman.downgrade().upgrade().is_some());
    assert!(!sockman.reset_interrupt());
    assert!(!format!("{sockman:?}").is_empty());
}

/// Runs `play` once inside `callback`, with the id that it names and the id of another connection.
fn inside(
    callback: Callback,
    play: impl Fn(&SockMan, &Scene, Option<ConnectionId>, ConnectionId) + Send + Sync + 'static,
) {
    let scene = Arc::new(Scene {
        sockman: OnceLock::new(),
        guard: Mutex::new(None),
        other: Mutex::new(None),
        armed: Mutex::new(None),
        done: AtomicBool::new(false),
    });
    let handler = Everywhere::new({
        let scene = Arc::clone(&scene);
        move |now, id| {
            if now == Callback::Accepted {
                scene.other.lock().unwrap().get_or_insert(id.unwrap());
            }
            let other = *scene.other.lock().unwrap();
            let Some(other) = other.filter(|other| Some(*other) != id) else { return };
            if scene.armed.lock().unwrap().take_if(|armed| *armed == now).is_none() {
                return;
            }
            let sockman = scene.sockman.get().unwrap().upgrade().unwrap();
            play(&sockman, &scene, id, other);
            scene.done.store(true, Ordering::SeqCst);
        }
    })
    .panicking();
    let mut running = Running::start(Arc::new(handler), options());
    scene.sockman.set(running.sockman.downgrade()).unwrap();
    *scene.guard.lock().unwrap() = running.threads.take();
    let mut other = running.client();
    other.write_all(b"x").unwrap();
    until("the other connection is accepted", || scene.other.lock().unwrap().is_some());
    *scene.armed.lock().unwrap() = Some(callback);

    // An earlier callback may have stopped the listener.
    if callback == Callback::ConnectCompleted {
        let options = ConnectOptions::default().timeout(DEADLINE);
        running.sockman.start_connect(running.address, &options).unwrap();
    }
    let clients = provoke(running.address);
    until(&format!("{callback:?} has called everything"), || scene.done.load(Ordering::SeqCst));
    drop(clients);
    running.sockman.interrupt();
    scene.guard.lock().unwrap().take().unwrap().join().unwrap();
}

/// G3
#[test]
fn every_method_may_be_called_from_every_callback_on_every_id() {
    for callback in CALLBACKS {
        inside(callback, move |sockman, scene, id, other| {
            let to = Destination::from("127.0.0.1:1".parse::<Service>().unwrap());
            let options = ConnectOptions::default();
            assert!(matches!(
                sockman.connect(&to, &options).as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::OnSocketThread)
            ));
            let made = sockman.connect_and_make_id(&to, &options, |_, _| {
                panic!("register was called on the socket thread")
            });
            assert!(matches!(
                made.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::OnSocketThread)
            ));

            let guard = scene.guard.lock().unwrap().take().unwrap();
            let Err(JoinError::OnLibraryThread(guard)) = guard.join() else {
                panic!("join on the socket thread did not return the guard");
            };
            assert!(!guard.is_finished());
            *scene.guard.lock().unwrap() = Some(guard);

            call_everything_else(sockman);
            call_everything_on(sockman, other, true);
            if let Some(id) = id {
                call_everything_on(sockman, id, is_open_in(callback));
            }
            sockman.drain_and_stop(DEADLINE);
            sockman.interrupt();
        });
    }
}

/// G3: if the library held a lock, the other thread would wait without end.
#[test]
fn no_lock_is_held_while_a_callback_runs() {
    for callback in CALLBACKS {
        inside(callback, move |sockman, _, id, other| {
            let (sockman, done) = (sockman.clone(), Gate::new());
            let thread = thread::spawn({
                let done = Arc::clone(&done);
                move || {
                    call_everything_else(&sockman);
                    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                    let to = Destination::from(listener.local_addr().unwrap());
                    let options = ConnectOptions::default().timeout(DEADLINE);
                    let connection = sockman.connect(&to, &options).unwrap();
                    connection.activate();
                    drop(sockman.connect(&to, &options).unwrap());
                    call_everything_on(&sockman, other, true);
                    if let Some(id) = id {
                        call_everything_on(&sockman, id, is_open_in(callback));
                    }
                    sockman.drain_and_stop(DEADLINE);
                    sockman.interrupt();
                    done.open();
                }
            });
            done.hold();
            thread.join().unwrap();
        });
    }
}

/// G3, G6: with the sweep off, a callback's send, wake and close of another connection take effect.
#[test]
fn a_callback_can_send_on_wake_and_close_another_connection() {
    let other = Arc::new(OnceLock::new());
    let handler = Recorder::of_everything({
        let other = Arc::clone(&other);
        move |sockman, event| {
            let Event::Data(id, data) = event else { return };
            let Some(other) = other.get().copied().filter(|other| other != id) else { return };
            match data[..] {
                [b's'] => assert_eq!(sockman.send_bytes(other, b"sent").unwrap(), 4),
                [b'w'] => sockman.wake(other),
                _ => assert!(sockman.close_connection(other)),
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let mut asking = running.client();
    handler.wait_for_accepted(0);
    let mut asked = running.client();
    let id = handler.wait_for_accepted(1);
    other.set(id).unwrap();
    run_passes(&running.sockman, 2);

    asking.write_all(b"s").unwrap();
    let mut received = [0; 4];
    asked.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"sent");

    handler.want_to_send(id, true);
    asking.write_all(b"w").unwrap();
    handler.wait_for_event("ready to send", |event| *event == Event::ReadyToSend(id));

    asking.write_all(b"c").unwrap();
    assert_eq!(read_to_end(&mut asked), b"");
}
