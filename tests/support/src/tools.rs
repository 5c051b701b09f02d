//! Tools of the tests: a gate that holds the socket thread inside a callback, a socket factory that
//! counts, a fence of whole passes, random numbers from a seed, temporary directories.

use std::{
    fmt,
    io::{self, IoSlice, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Service, SockMan,
    address::Destination,
    error::ConnectError,
    sys::{
        More, OsSockFactory, OwnedSocket, Poller, RawSocket, Readiness, Sock, SockFactory,
        SocketOption, Waker, errors,
    },
};

use super::{DEADLINE, reset};

/// Waits like [`eventually`](super::eventually), but yields the processor to other threads if the
/// wait is long, because many tests wait at the same time.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    const PATIENCE: u32 = 20;

    let deadline = Instant::now() + DEADLINE;
    let mut looks = 0;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        looks += 1;
        if looks < PATIENCE {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Waits until the loop has made `count` whole passes that began after this call.
pub fn run_passes(sockman: &SockMan, count: u64) {
    // The loop must make one pass more, because the first pass may be under way already.
    for _ in 0..count + 1 {
        let before = sockman.stats().passes;
        sockman.notify();
        until("the loop makes a pass", || sockman.stats().passes > before);
    }
}

/// Waits until the poller has reported a reset or hang-up of `id`.
pub fn wait_until_hung_up(sockman: &SockMan, id: ConnectionId) {
    until("the connection counts as hung up", || {
        sockman.connection_info(id).is_some_and(|info| info.hung_up.is_some())
    });
}

/// Sends on `id` until the kernel takes no more. Returns the number of bytes that the kernel took.
pub fn fill(sockman: &SockMan, id: ConnectionId, byte: u8) -> usize {
    let block = [byte; 65536];
    let mut total = 0;
    loop {
        match sockman.send_bytes(id, &block).unwrap() {
            0 => return total,
            sent => total += sent,
        }
    }
}

/// Sets deadlines on a plain TCP socket, and turns Nagle's delay off.
pub fn deadlines(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
}

/// Holds one thread, usually the socket thread in a callback, until the test opens the gate.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    held: bool,
    open: bool,
}

impl Gate {
    pub fn new() -> Arc<Gate> {
        Arc::default()
    }

    /// Waits for [`Gate::open`]. The thread that must wait calls this method.
    pub fn hold(&self) {
        let mut state = self.state.lock().unwrap();
        state.held = true;
        self.changed.notify_all();
        while !state.open {
            let (guard, timeout) = self.changed.wait_timeout(state, DEADLINE).unwrap();
            assert!(!timeout.timed_out(), "the gate was never opened");
            state = guard;
        }
        *state = GateState::default();
    }

    pub fn wait_until_held(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.held {
            let (guard, timeout) = self.changed.wait_timeout(state, DEADLINE).unwrap();
            assert!(!timeout.timed_out(), "no thread came to the gate");
            state = guard;
        }
    }

    pub fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }
}

/// The operating system's sockets with counters: how many are open, the descriptors of accepted
/// ones, how many receives were made. A test can make the poller refuse registrations.
#[derive(Debug, Default, Clone)]
pub struct Spy {
    os: OsSockFactory,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    open: AtomicUsize,
    receives: AtomicUsize,
    accepted_fds: Mutex<Vec<RawSocket>>,
    accepted_at: Mutex<Option<Service>>,
    fail_registrations: AtomicBool,
    /// How many of the next calls of `connect` lack buffers.
    lacking_connects: AtomicUsize,
    after_receive: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    last_poll: Mutex<Duration>,
    late_poll: Mutex<Option<LatePoll>>,
    /// How far the clock is ahead of the system's.
    ahead: Mutex<Duration>,
}

/// How late a poll returns, and what happens meanwhile.
type LatePoll = (Duration, Box<dyn FnOnce() + Send>);

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

impl Spy {
    /// Returns how many sockets have an open descriptor, listeners included.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Returns how many system calls to receive were made.
    pub fn receives(&self) -> usize {
        self.seen.receives.load(Ordering::SeqCst)
    }

    /// Returns the descriptors of accepted connections, in order.
    pub fn accepted_fds(&self) -> Vec<RawSocket> {
        self.seen.accepted_fds.lock().unwrap().clone()
    }

    /// Makes later accepted sockets report this local address, as those of a transparent proxy do.
    pub fn pretend_accepted_at(&self, local: Service) {
        *self.seen.accepted_at.lock().unwrap() = Some(local);
    }

    pub fn fail_registrations(&self, fail: bool) {
        self.seen.fail_registrations.store(fail, Ordering::SeqCst);
    }

    /// Makes the next calls of `connect` lack buffers.
    pub fn lack_in_connects(&self, calls: usize) {
        self.seen.lacking_connects.store(calls, Ordering::SeqCst);
    }

    /// Calls `act` after the next receive that does not block, before that receive returns.
    pub fn after_receive(&self, act: impl FnOnce() + Send + 'static) {
        *self.seen.after_receive.lock().unwrap() = Some(Box::new(act));
    }

    /// Returns how long the last poll that has ended took. All pollers count.
    pub fn last_poll(&self) -> Duration {
        *self.seen.last_poll.lock().unwrap()
    }

    /// Makes the next poll look before `act` runs, and return without an event when the clock shows
    /// `late` more. So does a poll whose process is stopped after its time-out.
    pub fn next_poll_is_late(&self, late: Duration, act: impl FnOnce() + Send + 'static) {
        *self.seen.late_poll.lock().unwrap() = Some((late, Box::new(act)));
    }

    fn watch(&self, inner: Box<dyn Sock>) -> Box<dyn Sock> {
        self.watch_at(inner, None)
    }

    fn watch_at(&self, inner: Box<dyn Sock>, local: Option<Service>) -> Box<dyn Sock> {
        self.seen.open.fetch_add(1, Ordering::SeqCst);
        Box::new(SpySock { inner, spy: self.clone(), local, _open: Open(Arc::clone(&self.seen)) })
    }
}

impl SockFactory for Spy {
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>> {
        Ok(self.watch(self.os.create_sock(address)?))
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        Ok(Box::new(SpyPoller { inner: self.os.create_poller()?, seen: Arc::clone(&self.seen) }))
    }

    fn adopt_listener(&self, listener: OwnedSocket) -> io::Result<Box<dyn Sock>> {
        Ok(self.watch(self.os.adopt_listener(listener)?))
    }

    fn now(&self) -> Instant {
        self.os.now() + *self.seen.ahead.lock().unwrap()
    }
}

#[derive(Debug)]
struct SpySock {
    // This is the first field, so that the descriptor is closed before it counts as closed.
    inner: Box<dyn Sock>,
    spy: Spy,
    /// The local address that the socket reports instead of its own.
    local: Option<Service>,
    _open: Open,
}

#[derive(Debug)]
struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Sock for SpySock {
    fn connect(&self, to: &Service) -> io::Result<()> {
        let lack = |left: usize| left.checked_sub(1);
        let lacking = &self.spy.seen.lacking_connects;
        if lacking.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lack).is_ok() {
            return Err(io::Error::from_raw_os_error(errors::ENOBUFS));
        }
        self.inner.connect(to)
    }

    fn bind(&self, to: &Service) -> io::Result<()> {
        self.inner.bind(to)
    }

    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        let SpySock { inner, spy, local, _open } = *self;
        Ok(Box::new(SpySock { inner: inner.listen(backlog)?, spy, local, _open }))
    }

    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        let (sock, them) = self.inner.accept()?;
        self.spy.seen.accepted_fds.lock().unwrap().push(sock.as_raw_fd());
        let local = self.spy.seen.accepted_at.lock().unwrap().clone();
        Ok((self.spy.watch_at(sock, local), them))
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.spy.seen.receives.fetch_add(1, Ordering::SeqCst);
        let result = self.inner.recv(buffer);
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            let act = self.spy.seen.after_receive.lock().unwrap().take();
            if let Some(act) = act {
                act();
            }
        }
        result
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.peek(buffer)
    }

    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.inner.send(data, more)
    }

    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.inner.send_vectored(data, more)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    fn local_address(&self) -> io::Result<Service> {
        if let Some(local) = &self.local {
            return Ok(local.clone());
        }
        self.inner.local_address()
    }

    fn peer_address(&self) -> io::Result<Service> {
        self.inner.peer_address()
    }

    fn short_read_means_empty(&self) -> bool {
        self.inner.short_read_means_empty()
    }

    fn short_send_means_full(&self) -> bool {
        self.inner.short_send_means_full()
    }

    fn set_option(&self, option: &SocketOption<'_>) -> io::Result<()> {
        self.inner.set_option(option)
    }

    fn duplicate(&self) -> io::Result<OwnedSocket> {
        self.inner.duplicate()
    }

    fn set_reset_on_close(&self) -> io::Result<()> {
        self.inner.set_reset_on_close()
    }

    fn as_raw_fd(&self) -> RawSocket {
        self.inner.as_raw_fd()
    }
}

struct SpyPoller {
    inner: Box<dyn Poller>,
    seen: Arc<Seen>,
}

impl Poller for SpyPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        if self.seen.fail_registrations.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(errors::ENOSPC));
        }
        self.inner.register(sock, token)
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.inner.deregister(sock)
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let late = self.seen.late_poll.lock().unwrap().take();
        if let Some((late, act)) = late {
            act();
            *self.seen.ahead.lock().unwrap() += late;
            return Ok(());
        }
        let began = Instant::now();
        let result = self.inner.poll(events, timeout);
        *self.seen.last_poll.lock().unwrap() = began.elapsed();
        result
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.inner.waker()
    }
}

/// xorshift64*, which gives the same numbers for the same seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from 1 to `limit`.
    pub fn up_to(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize + 1
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Names each method of `EventHandler` that the library calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Callback {
    Accepted,
    ReadyToSend,
    GotData,
    GotEof,
    GotReadError,
    ShouldTryToSend,
    ShouldTryToRecv,
    CompletedForOne,
    CompletedForAll,
    ClosedAfterPanic,
    Closed,
    NextDeadline,
    ConnectCompleted,
}

pub const CALLBACKS: [Callback; 13] = [
    Callback::Accepted,
    Callback::ReadyToSend,
    Callback::GotData,
    Callback::GotEof,
    Callback::GotReadError,
    Callback::ShouldTryToSend,
    Callback::ShouldTryToRecv,
    Callback::CompletedForOne,
    Callback::CompletedForAll,
    Callback::ClosedAfterPanic,
    Callback::Closed,
    Callback::NextDeadline,
    Callback::ConnectCompleted,
];

type React = dyn Fn(Callback, Option<ConnectionId>) + Send + Sync;

/// A handler that calls `react` in every callback.
pub struct Everywhere {
    react: Box<React>,
    /// Whether `event_got_data` panics when the data is exactly `panic`.
    panics: bool,
}

impl Everywhere {
    pub fn new(
        react: impl Fn(Callback, Option<ConnectionId>) + Send + Sync + 'static,
    ) -> Everywhere {
        Everywhere { react: Box::new(react), panics: false }
    }

    pub fn panicking(self) -> Everywhere {
        Everywhere { panics: true, ..self }
    }
}

impl EventHandler for Everywhere {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        (self.react)(Callback::Accepted, Some(id));
        true
    }

    fn event_connect_completed(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Destination,
        _: Result<&Service, ConnectError>,
    ) {
        (self.react)(Callback::ConnectCompleted, Some(id));
    }

    fn event_ready_to_send(&self, _: &SockMan, id: ConnectionId) -> NextRecv {
        (self.react)(Callback::ReadyToSend, Some(id));
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        if self.panics && data == b"panic" {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        (self.react)(Callback::GotData, Some(id));
    }

    fn event_got_eof(&self, _: &SockMan, id: ConnectionId) {
        (self.react)(Callback::GotEof, Some(id));
    }

    fn event_got_permanent_read_error(&self, _: &SockMan, id: ConnectionId, _: &io::Error) {
        (self.react)(Callback::GotReadError, Some(id));
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        (self.react)(Callback::ShouldTryToSend, Some(id));
        true
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        (self.react)(Callback::ShouldTryToRecv, Some(id));
        true
    }

    fn event_io_loop_completed_for_one(&self, _: &SockMan, id: ConnectionId) {
        (self.react)(Callback::CompletedForOne, Some(id));
    }

    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        (self.react)(Callback::CompletedForAll, None);
    }

    fn event_closed_after_panic(&self, _: &SockMan, id: ConnectionId) {
        (self.react)(Callback::ClosedAfterPanic, Some(id));
    }

    fn event_closed(&self, _: &SockMan, id: ConnectionId) {
        (self.react)(Callback::Closed, Some(id));
    }

    fn next_deadline(&self) -> Option<Instant> {
        (self.react)(Callback::NextDeadline, None);
        None
    }
}

/// Causes every callback except the outcome of a connect: data, an end, a reset, a panic. Fails if
/// the listener is closed. A close by the handler may prevent later callbacks.
pub fn provoke(address: SocketAddr) -> io::Result<Vec<TcpStream>> {
    let client = |data: &[u8]| {
        let mut stream = TcpStream::connect(address)?;
        deadlines(&stream);
        let _ = stream.write_all(data);
        io::Result::Ok(stream)
    };
    let ends = client(b"data")?;
    let _ = ends.shutdown(Shutdown::Write);
    let panics = client(b"panic")?;
    reset(client(b"data")?);
    Ok(vec![ends, panics])
}

/// Asserts that the loop of `running` does not spin: while connections come and go, it makes a few
/// passes for each. (A loop that spins makes hundreds.) The handler may do anything with these
/// connections.
pub fn assert_no_spin(running: &super::Running) {
    const CONNECTIONS: u64 = 30;
    const PASSES_FOR_EACH: u64 = 12;

    run_passes(&running.sockman, 1);
    let before = running.sockman.stats();
    for n in 1..=CONNECTIONS {
        let client = running.client();
        until("the client is accepted", || running.sockman.stats().accepted >= before.accepted + n);
        drop(client);
    }
    let passes = running.sockman.stats().passes - before.passes;
    assert!(
        passes <= CONNECTIONS * PASSES_FOR_EACH,
        "the loop spins: {passes} passes for {CONNECTIONS} connections"
    );
}

/// Returns whether this host has an address of the family of `host`, which is an address without or
/// with a port. A host may have no IPv6.
pub fn has_family_of(host: &str) -> bool {
    !host.starts_with('[') || std::net::UdpSocket::bind("[::1]:0").is_ok()
}

/// Returns the loopback addresses of this host, with port 0: of IPv4, and of IPv6 if the host has it.
pub fn loopbacks() -> impl Iterator<Item = &'static str> {
    ["127.0.0.1:0", "[::1]:0"].into_iter().filter(|host| has_family_of(host))
}

/// Returns the system's directory for temporary files, or `/tmp` if the path of that directory is so
/// long that it leaves no room for the path of a unix-domain socket.
pub fn temporary_directory() -> PathBuf {
    const LONGEST: usize = 50;
    let chosen = std::env::temp_dir();
    if chosen.as_os_str().len() > LONGEST { PathBuf::from("/tmp") } else { chosen }
}

/// A directory of one test, which is removed when this is dropped. The path is short enough for a
/// unix-domain socket in the directory. Tests run in parallel in one process, so neither a fixed
/// name nor the process id makes a path unique.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        crate::limits::make_room_for_all_tests();
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("sockman-{}-{number}", std::process::id());
            let path = temporary_directory().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return TempDir(path),
                // A process with the same id was killed and left this directory.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot create {}: {error}", path.display()),
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
