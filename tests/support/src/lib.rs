//! The tools that the tests of this workspace share.
//!
//! The root has a handler that records events, functions that wait for events with a generous
//! deadline, and a running `SockMan` that stops when it is dropped.
//!
//! | Module | Contents |
//! |---|---|
//! | [`tools`] | a gate for the socket thread, a socket factory that counts, whole passes, random numbers, directories |
//! | [`blackhole`] | listeners that answer no connect |
//! | `descriptors` (Unix), [`limits`] | the descriptors of this process, and their limit |
//! | `signals` | whether a call raises SIGPIPE (Linux) |
//! | [`child`], `program` (Unix) | a test in a process of its own; an example as a program |
//! | [`relay_example`] | the handler of `examples/relay.rs` |
//! | [`drivers`] | the two ways to connect |
//! | [`socks5`], [`socks5_oracle`] | scripted SOCKS5 proxies; the expected outcome for their bytes (feature `socks5`) |
//! | [`sam`] | a scripted SAM bridge (feature `i2p`) |

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::needless_pass_by_value,
    clippy::new_without_default,
    clippy::should_implement_trait,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is for tests, which fail by a panic"
)]

pub mod blackhole;
pub mod child;
#[cfg(unix)]
pub mod descriptors;
pub mod drivers;
pub mod limits;
#[cfg(unix)]
pub mod program;
pub mod relay_example;
#[cfg(feature = "i2p")]
pub mod sam;
#[cfg(target_os = "linux")]
pub mod signals;
#[cfg(feature = "socks5")]
pub mod socks5;
#[cfg(feature = "socks5")]
pub mod socks5_oracle;
pub mod tools;

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, Service, SockMan, SocketsThreads,
    address::Destination, error::ConnectError,
};

#[cfg(feature = "i2p")]
use sockman::i2p::I2pStatus;

/// The kind of the error of a reset that comes after the end of the peer's stream.
pub const RESET_AFTER_END: io::ErrorKind =
    if cfg!(windows) { io::ErrorKind::ConnectionReset } else { io::ErrorKind::BrokenPipe };

/// How long a test waits for an event. Long enough for a machine that is busy with everything else;
/// a passing test never waits that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Accepted {
        id: ConnectionId,
        me: Service,
        them: Service,
    },
    ReadyToSend(ConnectionId),
    Data(ConnectionId, Vec<u8>),
    Eof(ConnectionId),
    ReadError(ConnectionId, io::ErrorKind),
    CompletedForOne(ConnectionId),
    CompletedForAll,
    ClosedAfterPanic(ConnectionId),
    #[cfg(feature = "i2p")]
    I2p(Option<Service>, I2pStatus),
    /// The outcome is this side's address or the text of the error.
    ConnectCompleted {
        id: ConnectionId,
        to: Destination,
        outcome: Result<Service, String>,
    },
}

impl Event {
    pub fn id(&self) -> Option<ConnectionId> {
        match self {
            Event::Accepted { id, .. }
            | Event::ConnectCompleted { id, .. }
            | Event::ReadyToSend(id)
            | Event::Data(id, _)
            | Event::Eof(id)
            | Event::ReadError(id, _)
            | Event::CompletedForOne(id)
            | Event::ClosedAfterPanic(id) => Some(*id),
            Event::CompletedForAll => None,
            #[cfg(feature = "i2p")]
            Event::I2p(..) => None,
        }
    }
}

type Reaction = dyn Fn(&SockMan, &Event) + Send + Sync;

/// A handler that records events, pauses the directions that the test names, and calls a reaction
/// for each event after recording it. It panics if a callback names a connection whose end was
/// reported. The frequent events `CompletedForOne`, `CompletedForAll` and
/// `ReadyToSend` are recorded only by [`Recorder::of_everything`]. The reaction gets all events.
pub struct Recorder {
    state: Mutex<State>,
    changed: Condvar,
    reaction: Box<Reaction>,
    record_all: bool,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    recv_paused: HashSet<ConnectionId>,
    all_recv_paused: bool,
    wants_to_send: HashSet<ConnectionId>,
    refuse: bool,
    skip_recv: bool,
    next_deadline: Option<Instant>,
    /// The connections whose end was reported.
    closed: Vec<ConnectionId>,
    /// The errors of failed connects, until a test takes them.
    connect_errors: Vec<(ConnectionId, ConnectError)>,
}

impl Recorder {
    pub fn new() -> Arc<Recorder> {
        Recorder::with_reaction(|_, _| {})
    }

    pub fn with_reaction(
        reaction: impl Fn(&SockMan, &Event) + Send + Sync + 'static,
    ) -> Arc<Recorder> {
        limits::make_room_for_all_tests();
        Arc::new(Recorder {
            state: Mutex::default(),
            changed: Condvar::new(),
            reaction: Box::new(reaction),
            record_all: false,
        })
    }

    /// Returns a recorder that records every event, frequent ones included.
    pub fn of_everything(
        reaction: impl Fn(&SockMan, &Event) + Send + Sync + 'static,
    ) -> Arc<Recorder> {
        limits::make_room_for_all_tests();
        Arc::new(Recorder {
            state: Mutex::default(),
            changed: Condvar::new(),
            reaction: Box::new(reaction),
            record_all: true,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A reaction that panics on purpose does not hold the lock. If the lock is poisoned, the
        // test has failed already.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    pub fn events_of(&self, id: ConnectionId) -> Vec<Event> {
        self.state().events.iter().filter(|event| event.id() == Some(id)).cloned().collect()
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.state().events.iter().filter(|event| wanted(event)).count()
    }

    /// Returns all bytes received on `id` so far.
    pub fn received(&self, id: ConnectionId) -> Vec<u8> {
        let mut bytes = Vec::new();
        for event in &self.state().events {
            if let Event::Data(of, data) = event {
                if *of == id {
                    bytes.extend_from_slice(data);
                }
            }
        }
        bytes
    }

    /// Waits until `found` returns a value for the events so far, and returns the value. Panics
    /// with the last events after [`DEADLINE`].
    pub fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&[Event]) -> Option<T>) -> T {
        self.wait_for_state(what, |state| found(&state.events))
    }

    fn wait_for_state<T>(&self, what: &str, mut found: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state();
        loop {
            if let Some(result) = found(&state) {
                return result;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let last = state.events.len().saturating_sub(20);
                panic!("waited in vain for {what}; the last events: {:?}", &state.events[last..]);
            };
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    pub fn wait_for_event(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.wait_for(what, |events| events.iter().find(|event| wanted(event)).cloned())
    }

    /// Returns the connections whose end was reported, in the order of the reports.
    pub fn closed(&self) -> Vec<ConnectionId> {
        self.state().closed.clone()
    }

    pub fn wait_for_closed(&self, id: ConnectionId) {
        self.wait_for_state("the end of a connection", |state| {
            state.closed.contains(&id).then_some(())
        });
    }

    /// Returns the id of the `n`th accepted connection, from 0.
    pub fn wait_for_accepted(&self, n: usize) -> ConnectionId {
        self.wait_for("an accepted connection", |events| {
            events.iter().filter(|event| matches!(event, Event::Accepted { .. })).nth(n)?.id()
        })
    }

    pub fn wait_for_bytes(&self, id: ConnectionId, count: usize) -> Vec<u8> {
        self.wait_for("received bytes", |events| {
            let mut bytes = Vec::new();
            for event in events {
                if let Event::Data(of, data) = event {
                    if *of == id {
                        bytes.extend_from_slice(data);
                    }
                }
            }
            (bytes.len() >= count).then_some(bytes)
        })
    }

    pub fn wait_for_eof(&self, id: ConnectionId) {
        self.wait_for_event("EOF", |event| *event == Event::Eof(id));
    }

    pub fn wait_for_read_error(&self, id: ConnectionId) -> io::ErrorKind {
        self.wait_for("a read error", |events| {
            events.iter().find_map(|event| match event {
                Event::ReadError(of, kind) if *of == id => Some(*kind),
                _ => None,
            })
        })
    }

    /// Waits for the outcome of a `start_connect`. An error can be taken only once.
    pub fn wait_for_outcome(&self, id: ConnectionId) -> Result<Service, ConnectError> {
        let outcome = self.wait_for("the outcome of a connect", |events| {
            events.iter().find_map(|event| match event {
                Event::ConnectCompleted { id: of, outcome, .. } if *of == id => {
                    Some(outcome.clone())
                }
                _ => None,
            })
        });
        outcome.map_err(|_| {
            let errors = &mut self.state().connect_errors;
            let position = errors
                .iter()
                .position(|(of, _)| *of == id)
                .expect("the error of this connect was taken already");
            errors.swap_remove(position).1
        })
    }

    /// Sets the answer of `should_try_to_recv` for `id`. Does not wake.
    pub fn pause_recv(&self, id: ConnectionId, paused: bool) {
        let mut state = self.state();
        if paused {
            state.recv_paused.insert(id);
        } else {
            state.recv_paused.remove(&id);
        }
    }

    /// Sets the answer of `should_try_to_recv` for every id. Does not wake.
    pub fn pause_all_recv(&self, paused: bool) {
        self.state().all_recv_paused = paused;
    }

    /// Sets the answer of `should_try_to_send` for `id`, which is `false` at first. Does not wake.
    pub fn want_to_send(&self, id: ConnectionId, wanted: bool) {
        let mut state = self.state();
        if wanted {
            state.wants_to_send.insert(id);
        } else {
            state.wants_to_send.remove(&id);
        }
    }

    /// Sets whether the handler refuses new connections.
    pub fn refuse(&self, refuse: bool) {
        self.state().refuse = refuse;
    }

    /// Sets whether `event_ready_to_send` returns `Skip`.
    pub fn skip_recv(&self, skip: bool) {
        self.state().skip_recv = skip;
    }

    pub fn set_next_deadline(&self, deadline: Option<Instant>) {
        self.state().next_deadline = deadline;
    }

    /// Checks that the end of the connection was not reported yet.
    fn check_open(&self, id: ConnectionId) {
        let is_closed = self.state().closed.contains(&id);
        assert!(!is_closed, "a callback names {id} after the report of its end");
    }

    fn record(&self, sockman: &SockMan, event: Event, is_rare: bool) {
        if let Some(id) = event.id() {
            self.check_open(id);
        }
        if is_rare || self.record_all {
            self.state().events.push(event.clone());
            self.changed.notify_all();
        }
        (self.reaction)(sockman, &event);
    }
}

impl EventHandler for Recorder {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        me: &Service,
        them: &Service,
    ) -> bool {
        let accept = !self.state().refuse;
        self.record(sockman, Event::Accepted { id, me: me.clone(), them: them.clone() }, true);
        accept
    }

    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let outcome = outcome.cloned().map_err(|error| {
            let text = format!("{:?}", error.kind());
            self.state().connect_errors.push((id, error));
            text
        });
        self.record(sockman, Event::ConnectCompleted { id, to: to.clone(), outcome }, true);
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.record(sockman, Event::ReadyToSend(id), false);
        if self.state().skip_recv { NextRecv::Skip } else { NextRecv::Proceed }
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.record(sockman, Event::Data(id, data.to_vec()), true);
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(sockman, Event::Eof(id), true);
    }

    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    ) {
        self.record(sockman, Event::ReadError(id, error.kind()), true);
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.check_open(id);
        self.state().wants_to_send.contains(&id)
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.check_open(id);
        let state = self.state();
        !state.all_recv_paused && !state.recv_paused.contains(&id)
    }

    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(sockman, Event::CompletedForOne(id), false);
    }

    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        self.record(sockman, Event::CompletedForAll, false);
    }

    #[cfg(feature = "i2p")]
    fn event_i2p_status(&self, sockman: &SockMan, addr: Option<&Service>, status: I2pStatus) {
        self.record(sockman, Event::I2p(addr.cloned(), status), true);
    }

    fn event_closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        self.record(sockman, Event::ClosedAfterPanic(id), true);
    }

    fn event_closed(&self, _: &SockMan, id: ConnectionId) {
        self.check_open(id);
        self.state().closed.push(id);
        self.changed.notify_all();
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.state().next_deadline
    }
}

/// Returns options with the sweep off, because the sweep hides mistakes about latches, wakes and
/// queues.
pub fn without_sweep() -> Options {
    Options::default().sweep(None)
}

/// A `SockMan` with running threads and one listener on 127.0.0.1, which stops when dropped.
pub struct Running {
    pub sockman: SockMan,
    pub address: SocketAddr,
    /// `None` after the test has joined the threads itself.
    pub threads: Option<SocketsThreads>,
}

impl Running {
    pub fn start(handler: Arc<dyn EventHandler>, options: Options) -> Running {
        limits::make_room_for_all_tests();
        let sockman = SockMan::new(handler, options).unwrap();
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        Running { sockman, address: bound.to_socket_addr().unwrap(), threads: Some(threads) }
    }

    /// Returns a plain blocking client with a deadline on its reads and writes.
    pub fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            self.sockman.interrupt();
            // This drop does not panic if the test has already failed, so that the output shows the
            // first panic.
            let joined = threads.join();
            if !std::thread::panicking() {
                joined.unwrap();
            }
        }
    }
}

/// Sends all of `data` without a queue, and waits as long as necessary. Clients in tests use this
/// function.
pub fn write_all(stream: &mut TcpStream, data: &[u8]) {
    stream.write_all(data).unwrap();
}

/// Reads until the peer closes.
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Closes with a reset instead of an orderly end.
pub fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until `done` returns true, asking again and again. Use this function for conditions that
/// no event reports. Panics after [`DEADLINE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
