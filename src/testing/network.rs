//! The network in memory, as tests use it.
//!
//! The methods run on the caller's thread. Each call holds the one mutex around the kernel. The
//! network is made for one thread: a poll with nothing to report moves the clock. After a call of
//! [`Network::set_blocking`], a poll with nothing to report waits instead.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    calls::Call,
    kernel::{End, Fate, Kernel, Kind, Owner, Sys, System},
    peer::{Peer, PeerListener},
    script::Script,
    seams::{Factory, MemorySock},
    stream::Probe,
};
use crate::{
    address::Service,
    sys::{RawSocket, Readiness, Sock, SockFactory, errors, sync::Mutex},
};

/// A network in memory, with a clock of its own. The network uses no port, no descriptor and no
/// sleep.
///
/// A clone is another handle to the same network. Give [`factory`](Network::factory) to
/// [`Options::sock_factory`](crate::Options::sock_factory), run the socket thread by hand with
/// [`SocketThreadByHand`](super::SocketThreadByHand), and control the peers with [`Peer`].
///
/// The sockets of [`Network::new`] behave like those of Linux, also in their edges. Networks of other
/// systems are made by [`Network::bsd`], [`Network::macos`] and [`Network::windows`]. On Linux, the poller reports a change of
/// readiness, and it reports room when a third of the window is free. After a reset, the data that
/// arrived before it is received first. TCP and unix-domain sockets differ where they differ in
/// Linux.
///
/// **Time** stands still while a program runs. A poll with nothing to report moves the clock to the
/// end of its time-out, or to the next arrival of something on a wire if that is sooner. Under
/// [`run_until_idle`](super::SocketThreadByHand::run_until_idle) the clock does not move at all.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use sockman::testing::Network;
///
/// let network = Network::new();
/// network.set_latency(Duration::from_millis(30));
/// let before = network.now();
/// network.advance(Duration::from_secs(3600));
/// assert_eq!(network.now() - before, Duration::from_secs(3600));
/// ```
#[derive(Clone)]
pub struct Network {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) kernel: Mutex<Kernel>,
    started: Instant,
    /// The time beyond which no poll moves the clock.
    pub(super) horizon: Mutex<Option<Duration>>,
    interleave: Mutex<Option<Interleave>>,
}

/// A point in the program at which other threads can act. See [`Network::set_interleave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// A poller found nothing to report and is about to sleep. After this point, the clock moves.
    Sleep,
    /// A system call on a socket is about to be made, and the caller holds no lock of the library.
    /// At present, only [`Call::Connect`], [`Call::Accept`] and [`Call::Recv`] reach this point. On
    /// an adopted listener, the point comes before
    /// [`Sock::ready_to_accept`].
    Call(Call),
}

/// The function that [`Network::set_interleave`] takes. The function returns whether it did
/// something. If it did something at [`Point::Sleep`], the poller looks for events again before it
/// sleeps.
pub type Interleave = Arc<dyn Fn(Point) -> bool + Send + Sync>;

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl Network {
    /// Creates an empty network, without latency and with windows of 64 KiB. Its sockets behave like
    /// those of Linux.
    #[must_use]
    pub fn new() -> Network {
        Network::linux()
    }

    /// Creates a network like [`new`](Network::new).
    #[must_use]
    pub fn linux() -> Network {
        Network::of(System::Linux)
    }

    /// Creates a network whose sockets behave like those of FreeBSD, NetBSD and OpenBSD.
    ///
    /// The poller is kqueue: it reports each direction by an event of its own, it reports the
    /// program's own half-close as the end of sending, it does not report urgent data, and it
    /// reports room after each receive of the peer. A receive returns a reset that came after the
    /// end of the stream. A close with unread data sends a FIN, not a reset. A full backlog refuses
    /// a unix-domain client. A listener cannot be shut down.
    #[must_use]
    pub fn bsd() -> Network {
        Network::of(System::Bsd)
    }

    /// Creates a network whose sockets behave like those of macOS.
    ///
    /// The rules of [`bsd`](Network::bsd) hold. Besides, `shutdown(2)` refuses a direction that has
    /// ended. An accept at the limit of descriptors loses its client. The first send that meets a
    /// reset fails with `EPROTOTYPE`. A poll refuses a time-out of several years.
    #[must_use]
    pub fn macos() -> Network {
        Network::of(System::Macos)
    }

    /// Creates a network whose sockets behave like those of Windows, as mio uses them.
    ///
    /// The poller reports an event once, and again only after a receive, a send or an accept on the
    /// socket has returned "would block". It then reports at once what is true, in both directions.
    /// It reports the end of a stream behind unread data only after such a call. It does not report
    /// urgent data. A socket remembers its poller: another poller refuses the socket until the first
    /// one has deregistered it, even if the first one is gone.
    ///
    /// A reset discards the data that was not received. After it, each receive and each send fails
    /// with `ECONNRESET`, and `SO_ERROR` returns nothing. An accept of a client that has reset fails
    /// with `ECONNRESET`. A shutdown of both directions resets the connection if data waits, and data
    /// that arrives later resets it too. A listener cannot be shut down. The system has no
    /// unix-domain sockets: creating one fails with [`io::ErrorKind::Unsupported`].
    #[must_use]
    pub fn windows() -> Network {
        Network::of(System::Windows)
    }

    fn of(system: System) -> Network {
        Network {
            inner: Arc::new(Inner {
                kernel: Mutex::new(Kernel::new(system)),
                started: Instant::now(),
                horizon: Mutex::new(None),
                interleave: Mutex::new(None),
            }),
        }
    }

    /// Returns the factory from which a `SockMan` gets this network's sockets, pollers and time.
    #[must_use]
    pub fn factory(&self) -> Arc<dyn SockFactory> {
        Arc::new(Factory { network: self.clone() })
    }

    /// Returns the time of this network's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.inner.started + self.inner.kernel.lock().elapsed
    }

    /// Returns how long the network has existed, in its own time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.inner.kernel.lock().elapsed
    }

    /// Moves the clock by `by`, and delivers what arrives during that time. No code of the program
    /// runs during the call.
    pub fn advance(&self, by: Duration) {
        let mut kernel = self.inner.kernel.lock();
        let until = kernel.elapsed + by;
        kernel.advance_to(until);
    }

    /// Sets whether a poll with nothing to report waits. With `true`, a poll with nothing to report
    /// waits on its thread until something happens. In this mode, only
    /// [`advance`](Network::advance) moves the clock. Tests with real threads use `true`. With
    /// `false`, the default, a poll with nothing to report moves the clock, and no thread waits.
    ///
    /// A poll that waits does not pass [`Point::Sleep`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{io, sync::{Arc, mpsc}};
    /// # use sockman::{ConnectionId, EventHandler, Options, Service, SockMan, testing::Network};
    /// # struct Forward(mpsc::Sender<Vec<u8>>);
    /// # impl EventHandler for Forward {
    /// #     fn event_new_connection_accepted(&self, _: &SockMan, _: ConnectionId, _: &Service, _: &Service) -> bool { true }
    /// #     fn event_got_data(&self, _: &SockMan, _: ConnectionId, data: &[u8]) { self.0.send(data.to_vec()).unwrap(); }
    /// #     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) { sockman.close_connection(id); }
    /// #     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) { sockman.close_connection(id); }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let network = Network::new();
    /// network.set_blocking(true);
    /// let (sender, received) = mpsc::channel();
    /// let options = Options::default().sock_factory(network.factory());
    /// let sockman = SockMan::new(Arc::new(Forward(sender)), options)?;
    /// let here = sockman.bind_and_start_listening("10.0.0.1:8333")?;
    /// let threads = sockman.start_sockets_threads()?;
    ///
    /// let peer = network.connect(&here)?;
    /// peer.send(b"ping")?;
    /// assert_eq!(received.recv()?, b"ping");
    ///
    /// sockman.interrupt();
    /// threads.join()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_blocking(&self, blocks: bool) {
        let mut kernel = self.inner.kernel.lock();
        kernel.is_blocking = blocks;
        kernel.changed.notify_all();
    }

    /// Sets how long data takes to arrive, in each direction, on connections that are made after
    /// this call. Default: zero.
    pub fn set_latency(&self, latency: Duration) {
        self.inner.kernel.lock().latency = latency;
    }

    /// Sets how many bytes may be on the way to, or wait at, each end of connections that are made
    /// after this call: the program's end and the peer's. Default: 64 KiB. A value of zero counts
    /// as one; [`Peer::set_window`] accepts zero.
    pub fn set_window(&self, bytes: usize) {
        self.inner.kernel.lock().window = bytes.max(1);
    }

    /// Sets how many descriptors the program may have. By default the number has no limit (`None`).
    /// At the limit, a call that needs a descriptor fails with `EMFILE`.
    pub fn set_descriptor_limit(&self, limit: Option<usize>) {
        self.inner.kernel.lock().descriptor_limit = limit;
    }

    /// Returns how many descriptors the program has now: those of sockets and listeners, not those
    /// of pollers. The number is zero when everything is closed.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let mut kernel = self.inner.kernel.lock();
        kernel.release_placeholders();
        kernel.descriptors()
    }

    /// Makes the program's next call of this kind fail with this `errno`, on any socket. Each
    /// further call of this method makes one more call of the program fail, in the same order.
    ///
    /// An event follows a call that fails with `EAGAIN` although it would not have blocked, as in a
    /// real kernel. A connect over TCP that fails with `EINTR` continues asynchronously.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan, network: sockman::testing::Network) {
    /// use sockman::{ConnectOptions, testing::Call};
    ///
    /// const ENFILE: i32 = 23;
    /// network.fail_next(Call::Socket, ENFILE);
    /// assert!(sockman.connect("10.0.0.2:8333", &ConnectOptions::default()).is_err());
    /// # }
    /// ```
    pub fn fail_next(&self, call: Call, errno: i32) {
        self.inner.kernel.lock().faults.push_back((call, errno));
    }

    /// Makes every call of this kind fail with this `errno`, on any socket of the program, until
    /// [`heal`](Network::heal) ends the failure. A failure that was ordered with
    /// [`fail_next`](Network::fail_next) comes first. A further call of this method for the same
    /// call replaces the `errno`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(network: sockman::testing::Network) {
    /// use sockman::testing::Call;
    ///
    /// // A seccomp filter forbids `accept4(2)`.
    /// const EPERM: i32 = 1;
    /// network.fail_always(Call::Accept, EPERM);
    /// # }
    /// ```
    pub fn fail_always(&self, call: Call, errno: i32) {
        self.inner.kernel.lock().lasting_faults.insert(call, errno);
    }

    /// Ends the failures that were ordered with [`fail_always`](Network::fail_always), and cancels
    /// those that were ordered with [`fail_next`](Network::fail_next) and [`Peer::fail_next`] and
    /// have not happened yet.
    pub fn heal(&self) {
        self.inner.kernel.lock().heal();
    }

    /// Connects a peer to a listener of the program, from an address that no other socket has. A
    /// listener at the wildcard `0.0.0.0` or `[::]` takes connections to each address of its family.
    ///
    /// # Errors
    ///
    /// Fails with `ECONNREFUSED` if no socket listens at the address, with `EAGAIN` if the backlog
    /// is full, and with [`io::ErrorKind::Unsupported`] if the system has no such sockets.
    pub fn connect(&self, to: &Service) -> io::Result<Peer> {
        self.check_family(to)?;
        let mut kernel = self.inner.kernel.lock();
        let peer = kernel.connect_peer(to).map_err(io::Error::from_raw_os_error)?;
        drop(kernel);
        Ok(Peer::new(self.clone(), peer))
    }

    /// Makes a peer listen on `at`. The program can connect to the peer.
    ///
    /// # Errors
    ///
    /// Fails with `EADDRINUSE` if a socket already listens on `at`, and with
    /// [`io::ErrorKind::Unsupported`] if the system has no such sockets.
    pub fn listen(&self, at: &Service) -> io::Result<PeerListener> {
        self.check_family(at)?;
        let mut kernel = self.inner.kernel.lock();
        let listener = kernel.listen_elsewhere(at).map_err(io::Error::from_raw_os_error)?;
        drop(kernel);
        Ok(PeerListener::new(self.clone(), listener))
    }

    /// Makes TCP connects to `at` get no answer, so that they time out.
    pub fn ignore(&self, at: &Service) {
        self.inner.kernel.lock().fates.insert(at.clone(), Fate::Silence);
    }

    /// Makes TCP connects to `at` fail with this `errno`, after the latency. (A connect to an
    /// address at which no socket listens fails with `ECONNREFUSED` without this call.)
    pub fn refuse(&self, at: &Service, errno: i32) {
        self.inner.kernel.lock().fates.insert(at.clone(), Fate::Refusal(errno));
    }

    /// Creates a connected pair: a socket for
    /// [`SockMan::add_existing_connection`](crate::SockMan::add_existing_connection), and the peer
    /// at its other end.
    ///
    /// # Errors
    ///
    /// Fails with `EMFILE` if the program is at its limit of descriptors, and with
    /// [`io::ErrorKind::Unsupported`] if the system has no such sockets.
    pub fn pair(&self, me: &Service, them: &Service) -> io::Result<(Box<dyn Sock>, Peer)> {
        self.check_family(them)?;
        let is_unix = them.addr().is_unix();
        let ends = self.inner.kernel.lock().pair(Owner::Program, is_unix, me, them);
        let (ours, theirs) = ends.map_err(io::Error::from_raw_os_error)?;
        Ok((Box::new(MemorySock::new(self, ours)), Peer::new(self.clone(), theirs)))
    }

    /// Creates a socket that follows `script`.
    ///
    /// # Errors
    ///
    /// Fails with `EMFILE` if the program is at its limit of descriptors.
    pub fn scripted(&self, script: Script) -> io::Result<Box<dyn Sock>> {
        let end = self.inner.kernel.lock().create(Owner::Program, false, Kind::Scripted(script));
        Ok(Box::new(MemorySock::new(self, end.map_err(io::Error::from_raw_os_error)?)))
    }

    /// Checks that the system has sockets of the family of this address.
    pub(super) fn check_family(&self, address: &Service) -> io::Result<()> {
        if address.addr().is_unix() && !self.inner.kernel.lock().system.has_unix_sockets() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }

    /// Makes polls move the clock no further than `by` from now. `None` removes the limit.
    pub(crate) fn hold_clock(&self, by: Option<Duration>) {
        let elapsed = self.elapsed();
        *self.inner.horizon.lock() = by.map(|by| elapsed + by);
    }

    /// Removes the limit of the clock while `run` runs.
    pub(super) fn with_free_clock<R>(&self, run: impl FnOnce() -> R) -> R {
        let horizon = self.inner.horizon.lock().take();
        let result = run();
        *self.inner.horizon.lock() = horizon;
        result
    }

    /// Sets the function that the network calls at each [`Point`] at which other threads could act.
    /// Default: `None`. The function runs on the thread that is at the point, which holds no lock
    /// of the library.
    ///
    /// In this way, one thread acts as all threads. `interleave` may call every method of the
    /// `SockMan` and of the peers. Calls inside [`as_another_thread`](Network::as_another_thread)
    /// count as calls of another thread. These calls reach points too, so `interleave` is also
    /// called while it runs.
    ///
    /// [`Point::Sleep`] is also the place to check that the socket thread left nothing to do.
    ///
    /// The network keeps the function until another function replaces it. A function that holds a
    /// handle to the network, or to a `SockMan` on it, keeps both alive.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{io, sync::Arc};
    /// # use sockman::{testing::{Call, Ended, Network, Point, SocketThreadByHand}, ConnectionId, EventHandler, NextRecv, Options, Service, SockMan};
    /// # struct Echo;
    /// # impl EventHandler for Echo {
    /// #     fn event_new_connection_accepted(&self, _: &SockMan, _: ConnectionId, _: &Service, _: &Service) -> bool { true }
    /// #     fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv { NextRecv::Proceed }
    /// #     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) { sockman.send_bytes(id, data).unwrap(); }
    /// #     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) { sockman.close_connection(id); }
    /// #     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) { sockman.close_connection(id); }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let network = Network::new();
    /// # let options = Options::default().sock_factory(network.factory());
    /// # let sockman = SockMan::new(Arc::new(Echo), options)?;
    /// # let (me, them) = ("10.0.0.1:7".parse()?, "10.0.0.2:7".parse()?);
    /// let (sock, peer) = network.pair(&me, &them)?;
    /// let id = sockman.add_existing_connection(sock, &me, &them)?.activate();
    /// let mut thread = SocketThreadByHand::start(&sockman, &network)?;
    /// peer.send(b"ping")?;
    ///
    /// // Another thread closes the connection just before the socket thread receives from it.
    /// let (threads, closer) = (network.clone(), sockman.clone());
    /// network.set_interleave(Some(Arc::new(move |point| {
    ///     point == Point::Call(Call::Recv)
    ///         && threads.as_another_thread(|| closer.close_connection(id))
    /// })));
    /// thread.run_until_idle()?;
    /// network.set_interleave(None);
    ///
    /// // The handler, which sends back what it receives, was not called.
    /// assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_interleave(&self, interleave: Option<Interleave>) {
        *self.inner.interleave.lock() = interleave;
    }

    /// Returns the state of the connected socket with this descriptor, or `None` if no such socket
    /// exists. [`descriptor`] returns the descriptor of a connection.
    ///
    /// [`descriptor`]: super::descriptor
    #[must_use]
    pub fn probe(&self, fd: RawSocket) -> Option<Probe> {
        let fd = usize::try_from(fd).ok()?;
        self.inner.kernel.lock().probe(fd)
    }

    /// Returns how many clients wait to be accepted at this address.
    #[must_use]
    pub fn waiting_at(&self, address: &Service) -> usize {
        let mut kernel = self.inner.kernel.lock();
        let listener = kernel.listener_at(address);
        let backlog = listener.and_then(|listener| kernel.backlog(listener));
        backlog.map_or(0, |backlog| backlog.waiting.len())
    }

    /// Returns how many calls have failed because [`fail_next`](Network::fail_next) or
    /// [`Peer::fail_next`] ordered the failure.
    #[must_use]
    pub fn faults_taken(&self) -> u64 {
        self.inner.kernel.lock().faults_taken
    }

    /// Returns when an accept or a registration last failed, either because a test ordered the
    /// failure or for lack of a descriptor.
    // The method is hidden. Only this project's simulator uses this method, because only the
    // simulator knows how long the library pauses a listener.
    #[doc(hidden)]
    #[must_use]
    pub fn exhausted_at(&self) -> Option<Duration> {
        self.inner.kernel.lock().exhausted_at
    }

    /// Returns when a call last failed with `ENOBUFS`, `ENOMEM` or `EINTR`, because a test ordered
    /// the failure.
    // The method is hidden. Only this project's simulator uses this method, because only the
    // simulator knows how long the library waits after such a failure.
    #[doc(hidden)]
    #[must_use]
    pub fn lacked_at(&self) -> Option<Duration> {
        self.inner.kernel.lock().lacked_at
    }

    /// Returns the failures that a test ordered and that have happened: the call, the `errno`, and
    /// whether the failure was ordered with [`fail_always`](Network::fail_always).
    // The method is hidden. Only this project's simulator uses this method, to prove that it has
    // reached each failure.
    #[doc(hidden)]
    #[must_use]
    pub fn faults_met(&self) -> Vec<(Call, i32, bool)> {
        self.inner.kernel.lock().faults_met.iter().copied().collect()
    }

    /// Returns how many accepts of the program would have blocked its thread, because another holder
    /// had cleared `O_NONBLOCK` and no client was waiting. Such an accept fails with `EAGAIN` here.
    #[must_use]
    pub fn blocked_accepts(&self) -> u64 {
        self.inner.kernel.lock().blocked_accepts
    }

    pub(super) fn interleave(&self, point: Point) -> bool {
        let interleave = self.inner.interleave.lock().clone();
        interleave.is_some_and(|interleave| interleave(point))
    }

    pub(super) fn call<T>(&self, call: impl FnOnce(&mut Kernel) -> Sys<T>) -> io::Result<T> {
        let mut kernel = self.inner.kernel.lock();
        kernel.release_placeholders();
        call(&mut kernel).map_err(io::Error::from_raw_os_error)
    }

    /// Returns how often the program has made this call, on all its sockets together. Failed calls
    /// are counted, and calls of peers are not.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.inner.kernel.lock().calls(call)
    }

    /// Returns the time-out of the last poll: the program had nothing to do for that time. `None`
    /// means that only an event or a wake would have ended the poll, or that no poll was made yet.
    #[must_use]
    pub fn last_timeout(&self) -> Option<Duration> {
        self.inner.kernel.lock().last_timeout
    }

    /// Returns the tokens of all the program's sockets that a poller watches.
    #[must_use]
    pub fn registered_tokens(&self) -> Vec<usize> {
        self.inner.kernel.lock().tokens()
    }

    /// Makes the next poll report this event and nothing else, independent of the state of the
    /// sockets. The event can be a spurious one, a combination that the network does not produce,
    /// or a late event with the token of a socket that was closed. If several events were injected,
    /// the next poll reports all of them. The poll after it reports what is ready.
    pub fn inject_event(&self, event: Readiness) {
        self.inner.kernel.lock().injected.push(event);
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Moves the clock to each arrival in turn, up to `until`.
    pub(super) fn advance_to(&mut self, until: Duration) {
        while let Some(at) = self.next_arrival().filter(|at| *at <= until) {
            self.elapsed = self.elapsed.max(at);
            self.deliver();
        }
        self.elapsed = self.elapsed.max(until);
        self.changed.notify_all();
    }

    fn connect_peer(&mut self, to: &Service) -> Sys<End> {
        let listener = self.listener_with_room(Owner::Elsewhere, to)?;
        let is_unix = to.addr().is_unix();
        let them = if is_unix { Service::UNIX_UNNAMED } else { self.ephemeral(to) };
        let (client, server) = self.pair(Owner::Elsewhere, is_unix, &them, to)?;
        self.backlog(listener).ok_or(errors::ECONNREFUSED)?.waiting.push_back(server);
        self.tell(listener);
        Ok(client)
    }

    fn listen_elsewhere(&mut self, at: &Service) -> Sys<End> {
        if self.listener_at(at).is_some() {
            return Err(errors::EADDRINUSE);
        }
        let end = self.create(Owner::Elsewhere, at.addr().is_unix(), Kind::Fresh)?;
        self.bind(end, at)?;
        self.listen(end, usize::MAX)?;
        Ok(end)
    }
}
