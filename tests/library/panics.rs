//! G12: the library never swallows a panic of a callback, under either policy and in any callback.
//! The sweep is off in all tests of this module.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    panic,
    sync::{Arc, Mutex, Once},
    time::Instant,
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, Service, SockMan,
    error::{JoinError, StartError},
    options::PanicPolicy,
};
use sockman_test_support::{
    Event, Recorder, Running, eventually, read_to_end, reset, without_sweep,
};

/// The callbacks of the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Callback {
    Accepted,
    ReadyToSend,
    Data,
    Eof,
    ReadError,
    ShouldSend,
    ShouldRecv,
    CompletedForOne,
    CompletedForAll,
    ClosedAfterPanic,
    NextDeadline,
}

/// The callbacks that are called for one connection.
const WITH_ID: [Callback; 8] = [
    Callback::Accepted,
    Callback::ReadyToSend,
    Callback::Data,
    Callback::Eof,
    Callback::ReadError,
    Callback::ShouldSend,
    Callback::ShouldRecv,
    Callback::CompletedForOne,
];

const WITHOUT_ID: [Callback; 2] = [Callback::CompletedForAll, Callback::NextDeadline];

const ON_PURPOSE: &str = "on purpose";

/// Hides the panics of these tests from the output. All other panics are shown.
fn silence_panics_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with(ON_PURPOSE)) {
                shown(info);
            }
        }));
    });
}

/// A recorder that panics once in each armed callback.
struct Faulty {
    recorder: Arc<Recorder>,
    armed: Mutex<HashSet<Callback>>,
    /// The connection on which no callback panics, because it has to continue.
    bystander: Mutex<Option<ConnectionId>>,
    /// Closes the connection before it panics.
    close_first: bool,
}

impl Faulty {
    fn new(close_first: bool) -> Arc<Faulty> {
        silence_panics_on_purpose();
        Arc::new(Faulty {
            recorder: Recorder::of_everything(|_, _| {}),
            armed: Mutex::default(),
            bystander: Mutex::default(),
            close_first,
        })
    }

    fn arm(&self, callback: Callback) {
        self.armed.lock().unwrap().insert(callback);
    }

    fn is_armed(&self) -> bool {
        !self.armed.lock().unwrap().is_empty()
    }

    fn trip(&self, callback: Callback, on: Option<(Option<&SockMan>, ConnectionId)>) {
        if let Some((sockman, id)) = on {
            if *self.bystander.lock().unwrap() == Some(id) {
                return;
            }
            let is_armed = self.armed.lock().unwrap().remove(&callback);
            if is_armed {
                if let Some(sockman) = sockman.filter(|_| self.close_first) {
                    sockman.close_connection(id);
                }
                panic!("{ON_PURPOSE}: {callback:?}");
            }
        } else if self.armed.lock().unwrap().remove(&callback) {
            panic!("{ON_PURPOSE}: {callback:?}");
        }
    }
}

impl EventHandler for Faulty {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        me: &Service,
        them: &Service,
    ) -> bool {
        self.recorder.event_new_connection_accepted(sockman, id, me, them);
        self.trip(Callback::Accepted, Some((Some(sockman), id)));
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.recorder.event_ready_to_send(sockman, id);
        self.trip(Callback::ReadyToSend, Some((Some(sockman), id)));
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.recorder.event_got_data(sockman, id, data);
        self.trip(Callback::Data, Some((Some(sockman), id)));
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.recorder.event_got_eof(sockman, id);
        self.trip(Callback::Eof, Some((Some(sockman), id)));
    }
    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    ) {
        self.recorder.event_got_permanent_read_error(sockman, id, error);
        self.trip(Callback::ReadError, Some((Some(sockman), id)));
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.trip(Callback::ShouldSend, Some((None, id)));
        true
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.trip(Callback::ShouldRecv, Some((None, id)));
        true
    }
    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        self.recorder.event_io_loop_completed_for_one(sockman, id);
        self.trip(Callback::CompletedForOne, Some((Some(sockman), id)));
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        self.trip(Callback::CompletedForAll, None);
    }
    fn event_closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        self.recorder.event_closed_after_panic(sockman, id);
        self.trip(Callback::ClosedAfterPanic, None);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.trip(Callback::NextDeadline, None);
        None
    }
}

/// A server with one connection that the panics do not affect.
struct Scene {
    handler: Arc<Faulty>,
    running: Running,
    bystander: TcpStream,
    bystander_id: ConnectionId,
}

impl Scene {
    fn new(options: Options, close_first: bool) -> Scene {
        let handler = Faulty::new(close_first);
        let running = Running::start(handler.clone(), options);
        let bystander = running.client();
        let bystander_id = handler.recorder.wait_for_accepted(0);
        *handler.bystander.lock().unwrap() = Some(bystander_id);
        Scene { handler, running, bystander, bystander_id }
    }

    /// Arms `callback`, and causes this callback on a second connection.
    fn provoke(&self, callback: Callback) -> TcpStream {
        let early = matches!(
            callback,
            Callback::Accepted
                | Callback::ReadyToSend
                | Callback::ShouldSend
                | Callback::CompletedForOne
        );
        if early {
            self.handler.arm(callback);
        }
        let mut victim = self.running.client();
        if early {
            return victim;
        }
        self.handler.recorder.wait_for_accepted(1);
        self.handler.arm(callback);
        match callback {
            Callback::Data | Callback::ShouldRecv => victim.write_all(b"a few bytes").unwrap(),
            Callback::Eof => victim.shutdown(Shutdown::Write).unwrap(),
            Callback::ReadError => {
                let other = victim.try_clone().unwrap();
                socket2::SockRef::from(&victim)
                    .set_linger(Some(std::time::Duration::ZERO))
                    .unwrap();
                drop(victim);
                reset(other);
                return TcpStream::connect(self.running.address).unwrap();
            }
            _ => self.running.sockman.notify(),
        }
        victim
    }

    fn assert_bystander_is_served(&mut self, bytes: &[u8]) {
        let before = self.handler.recorder.received(self.bystander_id).len();
        self.bystander.write_all(bytes).unwrap();
        self.handler.recorder.wait_for_bytes(self.bystander_id, before + bytes.len());
        assert_eq!(self.running.sockman.send_bytes(self.bystander_id, b"reply").unwrap(), 5);
        let mut back = [0; 5];
        self.bystander.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"reply");
    }

    fn join(&mut self) -> Result<(), JoinError> {
        self.running.threads.take().unwrap().join()
    }
}

fn closing() -> Options {
    without_sweep().panic_policy(PanicPolicy::CloseConnection)
}

/// Returns the text of the payload.
fn panicked(result: Result<(), JoinError>) -> String {
    match result {
        Err(JoinError::Panicked(panic)) => {
            let message = panic.message().to_owned();
            assert_eq!(*panic.into_payload().downcast::<String>().unwrap(), message);
            message
        }
        other => panic!("join did not return the panic: {other:?}"),
    }
}

/// G12, G14: `PanicPolicy::Stop`.
#[test]
fn under_stop_join_returns_the_panic_and_a_restart_goes_on() {
    for callback in WITH_ID.into_iter().chain(WITHOUT_ID) {
        let mut scene = Scene::new(without_sweep(), false);
        let victim = scene.provoke(callback);
        eventually("the thread has ended", || {
            scene.running.threads.as_ref().unwrap().is_finished()
        });
        assert!(!scene.handler.is_armed(), "{callback:?}");
        // Data that arrives while no thread runs is not lost.
        scene.bystander.write_all(b"meanwhile").unwrap();
        assert!(matches!(
            scene.running.sockman.start_sockets_threads(),
            Err(StartError::Interrupted)
        ));
        assert_eq!(panicked(scene.join()), format!("{ON_PURPOSE}: {callback:?}"));
        assert_eq!(scene.running.sockman.stats().panics, 1);
        assert_eq!(
            scene.handler.recorder.count(|event| matches!(event, Event::ClosedAfterPanic(_))),
            0
        );

        scene.running.threads = Some(scene.running.sockman.start_sockets_threads().unwrap());
        scene.handler.recorder.wait_for_bytes(scene.bystander_id, b"meanwhile".len());
        scene.assert_bystander_is_served(b"and afterwards");

        // A panic in the accept callback closes the connection. After any other panic the
        // connection stays open.
        let id = scene.handler.recorder.wait_for_accepted(1);
        let is_open = scene.running.sockman.connection_info(id).is_some();
        assert_eq!(is_open, callback != Callback::Accepted, "{callback:?}");
        let mut victim = victim;
        match callback {
            Callback::Accepted => assert_eq!(read_to_end(&mut victim), b""),
            // The event was reported before the panic and is not reported again.
            Callback::Eof | Callback::ReadError => {
                let reported = |event: &Event| {
                    *event == Event::Eof(id)
                        || matches!(event, Event::ReadError(of, _) if *of == id)
                };
                assert_eq!(scene.handler.recorder.count(reported), 1);
            }
            _ => {
                let before: &[u8] = match callback {
                    // The data was delivered before the panic, or was not read yet.
                    Callback::Data | Callback::ShouldRecv => b"a few bytes",
                    _ => b"",
                };
                scene.handler.recorder.wait_for_bytes(id, before.len());
                victim.write_all(b"more").unwrap();
                let received = scene.handler.recorder.wait_for_bytes(id, before.len() + 4);
                assert_eq!(received, [before, b"more"].concat(), "{callback:?}");
            }
        }
        assert!(!scene.running.threads.as_ref().unwrap().is_finished());
    }
}

/// G12: `PanicPolicy::CloseConnection`.
#[test]
fn under_close_connection_the_connection_is_closed_and_reported_once() {
    for close_first in [false, true] {
        for callback in WITH_ID {
            let mut scene = Scene::new(closing(), close_first);
            let mut victim = scene.provoke(callback);
            let (handler, sockman) = (scene.handler.clone(), scene.running.sockman.clone());
            let id = handler.recorder.wait_for_accepted(1);
            eventually("the callback has panicked", || sockman.stats().panics == 1);
            eventually("the connection is closed", || sockman.connection_info(id).is_none());
            // A hook gets no `SockMan`, so it cannot close the connection.
            let closed_itself =
                close_first && !matches!(callback, Callback::ShouldSend | Callback::ShouldRecv);
            if !closed_itself {
                handler.recorder.wait_for_event("closed_after_panic", |event| {
                    *event == Event::ClosedAfterPanic(id)
                });
            }
            if callback != Callback::ReadError {
                // The client gets a reset if it had sent bytes that were not read.
                let end = victim.read(&mut [0]);
                assert!(!matches!(end, Ok(1..)), "{callback:?}: {end:?}");
            }
            scene.assert_bystander_is_served(b"first");
            scene.assert_bystander_is_served(b"second");
            // The close is reported once, or not at all if the callback closed the connection
            // itself. After that no callback names the id.
            let events = handler.recorder.events_of(id);
            let reported =
                events.iter().filter(|e| matches!(e, Event::ClosedAfterPanic(_))).count();
            assert_eq!(reported, usize::from(!closed_itself), "{callback:?}: {events:?}");
            if !closed_itself {
                assert_eq!(events.last(), Some(&Event::ClosedAfterPanic(id)), "{events:?}");
            }
            // A new client is accepted.
            let accepted = |event: &Event| matches!(event, Event::Accepted { .. });
            let before = handler.recorder.count(accepted);
            let _next = scene.running.client();
            eventually("a new client is accepted", || handler.recorder.count(accepted) > before);
            scene.running.sockman.interrupt();
            scene.join().unwrap();
        }
    }
}

/// G12: a panic in a callback that names no connection stops the threads.
#[test]
fn a_panic_in_a_callback_without_an_id_stops_under_both_policies() {
    for options in [without_sweep(), closing()] {
        for callback in WITHOUT_ID {
            let mut scene = Scene::new(options.clone(), false);
            let _victim = scene.provoke(callback);
            assert_eq!(panicked(scene.join()), format!("{ON_PURPOSE}: {callback:?}"));
            scene.running.threads = Some(scene.running.sockman.start_sockets_threads().unwrap());
            scene.assert_bystander_is_served(b"again");
        }
    }
}

/// G12
#[test]
fn a_panic_in_closed_after_panic_stops() {
    for callback in WITH_ID {
        let mut scene = Scene::new(closing(), false);
        scene.handler.arm(Callback::ClosedAfterPanic);
        let _victim = scene.provoke(callback);
        let text = panicked(scene.join());
        assert_eq!(text, format!("{ON_PURPOSE}: {:?}", Callback::ClosedAfterPanic));
        let id = scene.handler.recorder.wait_for_accepted(1);
        assert!(scene.running.sockman.connection_info(id).is_none());
        scene.running.threads = Some(scene.running.sockman.start_sockets_threads().unwrap());
        scene.assert_bystander_is_served(b"again");
        let reported = scene.handler.recorder.count(|e| *e == Event::ClosedAfterPanic(id));
        assert_eq!(reported, 1, "{callback:?}");
    }
}

/// G12: events that came with the same poll behind the panicking callback stay latched.
#[test]
fn a_panic_in_the_middle_of_a_batch_loses_nothing_for_the_others() {
    const CLIENTS: usize = 8;
    silence_panics_on_purpose();
    for options in [without_sweep(), closing()] {
        // The handler panics on the byte 1.
        let recorder = Recorder::with_reaction(|_, event| {
            if matches!(event, Event::Data(_, data) if data.contains(&1)) {
                panic!("{}", format!("{ON_PURPOSE}: in the middle"));
            }
        });
        let closes = options.clone();
        let mut running = Running::start(recorder.clone(), options);
        let stops = format!("{closes:?}").contains("Stop");
        for round in 0..50 {
            let mut clients: Vec<_> = (0..CLIENTS).map(|_| running.client()).collect();
            let ids: Vec<_> =
                (0..CLIENTS).map(|n| recorder.wait_for_accepted(round * CLIENTS + n)).collect();
            running.sockman.interrupt();
            running.threads.take().unwrap().join().unwrap();
            for (n, client) in clients.iter_mut().enumerate() {
                client.write_all(&[if n == round % CLIENTS { 1 } else { 2 }]).unwrap();
            }
            running.threads = Some(running.sockman.start_sockets_threads().unwrap());
            if stops {
                panicked(running.threads.take().unwrap().join());
                running.threads = Some(running.sockman.start_sockets_threads().unwrap());
            }
            for id in ids {
                assert_eq!(recorder.wait_for_bytes(id, 1).len(), 1);
                running.sockman.close_connection(id);
            }
        }
    }
}

/// G12: the rest of a batch is accepted although the callback of one client panics.
#[test]
fn a_panic_in_the_accept_callback_loses_no_waiting_client() {
    for options in [without_sweep(), closing()] {
        silence_panics_on_purpose();
        let handler = Faulty::new(false);
        let sockman = SockMan::new(handler.clone(), options.clone()).unwrap();
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        let address = bound.to_socket_addr().unwrap();
        let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
        handler.arm(Callback::Accepted);
        let mut threads = sockman.start_sockets_threads().unwrap();
        if format!("{options:?}").contains("Stop") {
            assert_eq!(panicked(threads.join()), "on purpose: Accepted");
            assert_eq!(sockman.stats().connections, 0);
            threads = sockman.start_sockets_threads().unwrap();
        }
        handler.recorder.wait_for_accepted(9);
        eventually("nine connections are left", || sockman.stats().connections == 9);
        drop((threads, clients));
    }
}

/// G12: the threads end although no thread joins them, and can be started again.
#[test]
fn after_a_panic_without_a_join_the_sockman_can_be_started_again() {
    let mut scene = Scene::new(without_sweep(), false);
    let _victim = scene.provoke(Callback::Data);
    eventually("the thread has ended", || scene.running.threads.as_ref().unwrap().is_finished());
    drop(scene.running.threads.take());
    scene.running.threads = Some(scene.running.sockman.start_sockets_threads().unwrap());
    scene.assert_bystander_is_served(b"again");
}
