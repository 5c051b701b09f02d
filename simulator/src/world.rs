//! The actions of the simulated embedder and of its other threads, and the check before the socket
//! thread goes to sleep.
//!
//! One real thread performs all these actions. One mutex protects the model. This mutex is not held
//! during calls into the library, except while a descriptor is looked up.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectOptions, ConnectionId, Interrupt, NewConnection, SendQueue, Service, SockMan,
    address::{Destination, NetAddr},
    error::ConnectErrorKind,
    helpers::{Deadlines, SendQueueLimits},
    options::PanicPolicy,
    proxy::Proxy,
    sys::RawSocket,
    testing::{Network, PeerListener, descriptor},
};

use crate::{
    bridge::Bridge,
    handover::{Leaving, Outside},
    model::{Finish, Model, Phase, Record, Way, bytes},
    proxies::Proxies,
    values::Value,
};

/// The most peers in a run, together with the connections that proxies and the bridge negotiate.
pub(crate) const MOST_PEERS: usize = 24;
/// The most bytes that a peer sends at once, or that the embedder adds to its data to send.
pub(crate) const MOST_BYTES: u64 = 20_000;

/// How long after data the timer of a connection ends.
const IDLE: Duration = Duration::from_millis(30);

/// The most bytes in a send queue.
pub(crate) const MOST_QUEUED: usize = 30_000;

/// The number that no socket has: -1 on Unix, and Winsock's INVALID_SOCKET.
pub(crate) const NO_SOCKET: RawSocket = !0;

/// The limits of send queues. The limits are small, so that queues are sometimes above their high
/// mark, and sometimes full.
const LIMITS: SendQueueLimits = match SendQueueLimits::new(1000, 4000, MOST_QUEUED) {
    Ok(limits) => limits,
    Err(_) => panic!("the limits must be in order"),
};

/// Everything around the library in one run.
pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) started: Instant,
    pub(crate) model: Mutex<Model>,
    pub(crate) policy: PanicPolicy,
    pub(crate) has_sweep: bool,
    /// The value of `Options::max_connections`.
    pub(crate) cap: usize,
    /// Whether the poller reports the end of a stream behind data that was not received.
    pub(crate) reports_ends: bool,
    /// How long data takes to arrive.
    pub(crate) latency: Duration,
    /// A timer for each connection. The timer is set when the connection opens and whenever data is
    /// delivered.
    pub(crate) timers: Deadlines<ConnectionId>,
    /// Whether the embedder compares times of its own instead of using `timers`.
    pub(crate) has_own_timers: bool,
    /// Whether the embedder uses the layer `stateful`.
    pub(crate) keeps_values: bool,
    /// The addresses on which the embedder listens, or has listened.
    pub(crate) listening: Mutex<Vec<Service>>,
    /// The destinations that the embedder connects to.
    pub(crate) targets: Vec<Target>,
    pub(crate) proxies: Mutex<Proxies>,
    pub(crate) bridge: Mutex<Bridge>,
    /// The listeners of the peers.
    pub(crate) listeners: Mutex<Vec<PeerListener>>,
    /// The listeners that the embedder has adopted, as another process holds them.
    pub(crate) shared_listeners: Mutex<Vec<PeerListener>>,
    /// The listeners that the embedder had adopted and that another process keeps open.
    released_listeners: Mutex<Vec<PeerListener>>,
    /// The connections that `connect` returned and that are not activated yet.
    pub(crate) held: Mutex<Vec<NewConnection>>,
    /// The connections that other threads take out in the pass under way.
    pub(crate) leaving: Mutex<Vec<Leaving>>,
    /// The streams that have left and that other code reads.
    pub(crate) outside: Mutex<Vec<Outside>>,
    cancels: Mutex<HashMap<ConnectionId, Interrupt>>,
    /// Whether another thread, a peer or the kernel already acts in the middle of a call, or a
    /// simulated thread is in a blocking connect.
    is_nested: Mutex<bool>,
    /// Whether a simulated thread is in a blocking connect.
    is_blocking: Mutex<bool>,
}

/// A destination, and the proxy through which it is reached.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) to: Destination,
    pub(crate) proxy: Option<Proxy>,
}

impl Target {
    /// Returns whether neither a proxy nor a bridge leads to the target.
    fn is_direct(&self) -> bool {
        let service = self.to.service();
        self.proxy.is_none() && service.is_some_and(|to| !matches!(to.addr(), NetAddr::I2p(_)))
    }

    fn options(&self, timeout: Duration) -> ConnectOptions {
        let options = ConnectOptions::default().timeout(timeout);
        match &self.proxy {
            Some(proxy) => options.proxy(proxy.clone()),
            None => options,
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(
        network: Network,
        model: Model,
        policy: PanicPolicy,
        has_sweep: bool,
        cap: usize,
        targets: Vec<Target>,
    ) -> World {
        let started = network.now();
        World {
            network,
            started,
            model: Mutex::new(model),
            policy,
            has_sweep,
            cap,
            reports_ends: true,
            latency: Duration::ZERO,
            timers: Deadlines::new(),
            has_own_timers: false,
            keeps_values: false,
            listening: Mutex::default(),
            targets,
            proxies: Mutex::default(),
            bridge: Mutex::default(),
            listeners: Mutex::default(),
            shared_listeners: Mutex::default(),
            released_listeners: Mutex::default(),
            held: Mutex::default(),
            leaving: Mutex::default(),
            outside: Mutex::default(),
            cancels: Mutex::default(),
            is_nested: Mutex::new(false),
            is_blocking: Mutex::new(false),
        }
    }

    pub(crate) fn is_wild(&self) -> bool {
        self.model.lock().is_wild
    }

    pub(crate) fn is_listening_at(&self, me: &Service) -> bool {
        self.listening.lock().contains(me)
    }

    pub(crate) fn with_record(&self, id: ConnectionId, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.model.lock().connections.get_mut(&id) {
            change(record);
        }
    }

    pub(crate) fn record_is(&self, id: ConnectionId, phase: Phase) -> bool {
        self.model.lock().connections.get(&id).is_some_and(|record| record.phase == phase)
    }

    /// Adds a connection to the model, with its descriptor and its peer.
    pub(crate) fn register(
        &self,
        sockman: &SockMan,
        model: &mut Model,
        id: ConnectionId,
        phase: Phase,
    ) {
        let fd = descriptor(sockman, id).unwrap_or(NO_SOCKET);
        let probe = self.network.probe(fd).unwrap_or_default();
        let number = model.number(id);
        model.require(probe.peer.is_some(), || {
            format!("connection {number} has no socket with a peer")
        });
        let queue = model.choices.once_in(3).then(|| Arc::new(SendQueue::new(id, LIMITS)));
        let record = Record {
            is_eager: model.choices.once_in(4),
            gate: queue.clone(),
            queue,
            ..Record::new(probe.peer.unwrap_or(u64::MAX), phase, fd)
        };
        model.connections.insert(id, record);
    }

    pub(crate) fn any_open(&self) -> Option<ConnectionId> {
        let mut model = self.model.lock();
        let open = model.open();
        model.choices.pick(&open)
    }

    /// Performs a random action of the embedder, on the socket thread or on another thread.
    pub(crate) fn act_as_embedder(&self, sockman: &SockMan, on_socket_thread: bool) {
        let what = self.model.lock().choices.below(34);
        match what {
            0..=5 => self.send(sockman),
            6..=8 => self.pause(sockman, true),
            9..=10 => self.pause(sockman, false),
            11 => {
                if let Some(id) = self.any_open() {
                    self.close(sockman, id, on_socket_thread);
                }
            }
            12 => self.shutdown_write(sockman),
            13 | 14 => self.start_connect(sockman),
            15 => self.cancel(sockman, on_socket_thread),
            16 => {
                self.model.lock().count("a pass was requested");
                sockman.notify();
            }
            17 => self.change_listeners(sockman),
            18 => {
                let kind = if on_socket_thread {
                    "a callback set the interrupt"
                } else {
                    "the simulator set the interrupt"
                };
                if self.model.lock().choices.once_in(3) {
                    let mut model = self.model.lock();
                    model.count(kind);
                    model.is_interrupted = true;
                    drop(model);
                    sockman.interrupt();
                }
            }
            19 => self.connect_blocking(sockman, on_socket_thread),
            20 => {
                let mut model = self.model.lock();
                let ahead = model.choices.below(80_000);
                model.deadline = Some(self.network.elapsed() + Duration::from_micros(ahead));
                model.count("a deadline was set");
                drop(model);
                sockman.notify();
            }
            21 => self.wake_any(sockman),
            22 | 29 => self.jump(),
            23 => self.end_both(sockman),
            24 | 25 => self.make_relay(sockman),
            26 => self.push_late(sockman),
            27 | 28 => {
                let broken = self.ask_how_it_ended(sockman, false);
                // The guide's embedder gives a broken connection up.
                if let Some(id) = broken.filter(|_| self.model.lock().choices.once_in(2)) {
                    self.close(sockman, id, on_socket_thread);
                }
            }
            30 => self.finish(sockman),
            32 | 33 => self.hand_over(sockman, on_socket_thread),
            _ => self.settle_held(sockman),
        }
    }

    /// Moves the clock, as if a callback took long or the process was stopped.
    pub(crate) fn jump(&self) {
        let by = {
            let mut model = self.model.lock();
            let by = Duration::from_millis(1 + model.choices.below(200));
            model.say(|| format!("  the clock jumps by {by:?}"));
            model.count("the clock jumped");
            by
        };
        let at = self.network.elapsed();
        self.network.advance(by);
        let (now, mut model) = (self.network.elapsed(), self.model.lock());
        model.jumps.push((at, by));
        let has_waiting = |id: ConnectionId| {
            let record = model.connections.get(&id);
            let is_over = record.and_then(|record| record.timer).is_some_and(|at| at <= now);
            is_over && self.waits(&model, id).is_some()
        };
        if model.open().into_iter().any(has_waiting) {
            model.count("the clock jumped over a deadline while data waited");
        }
    }

    /// Returns when the data that waits for a connection arrived, if data waits.
    pub(crate) fn waits(&self, model: &Model, id: ConnectionId) -> Option<Duration> {
        let fd = model.connections.get(&id)?.fd;
        let probe = self.network.probe(fd).filter(|probe| probe.has_data && probe.is_watched);
        probe.and_then(|_| model.waiting_since(id))
    }

    /// Starts the timer of a connection, or moves it.
    pub(crate) fn set_timer(&self, sockman: &SockMan, id: ConnectionId) {
        let at = self.network.elapsed() + IDLE;
        self.with_record(id, |record| record.timer = Some(at));
        if !self.has_own_timers {
            self.timers.set(sockman, id, self.started + at);
        }
    }

    /// Takes one timer that has ended.
    fn take_timer(&self, now: Duration) -> Option<ConnectionId> {
        if !self.has_own_timers {
            return self.timers.take_due(self.started + now);
        }
        let model = self.model.lock();
        let mut timers = model.connections.iter();
        timers.find(|(_, record)| record.timer.is_some_and(|at| at <= now)).map(|(id, _)| *id)
    }

    /// Takes the timers that have ended. Checks that no data waits that arrived before a timer
    /// ended. The embedder's own times may pass during the turns that begin the pass. The check
    /// leaves those out.
    pub(crate) fn take_timers(&self) {
        let now = self.network.elapsed();
        while let Some(id) = self.take_timer(now) {
            let mut model = self.model.lock();
            model.count("a timer ended");
            let number = model.number(id);
            let Some(record) = model.connections.get_mut(&id) else { continue };
            let Some(ended) = record.timer.take() else { continue };
            let counts = !self.has_own_timers || ended <= model.pass_began;
            let waits = counts && self.waits(&model, id).is_some_and(|arrived| arrived < ended);
            model.require(!waits, || {
                format!(
                    "the timer of connection {number} ended, but data waits that arrived before \
                     (G15)"
                )
            });
        }
    }

    /// Checks, at the end of a connection's turn, that no data waits that arrived before the last
    /// poll.
    pub(crate) fn check_heard(&self, id: ConnectionId) {
        let (now, mut model) = (self.network.elapsed(), self.model.lock());
        let (number, waits) = (model.number(id), self.waits(&model, id));
        let Some(record) = model.connections.get(&id) else { return };
        let is_heard = [record.received_at, record.excused_at].contains(&Some(now));
        model.require(is_heard || waits.is_none_or(|arrived| arrived >= now), || {
            format!("the turn of connection {number} ended, but data waits that came before (G15)")
        });
    }

    fn wake_any(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
        self.model.lock().activity += 1;
        self.wake(sockman, id);
    }

    pub(crate) fn wake(&self, sockman: &SockMan, id: ConnectionId) {
        self.with_record(id, Record::ask_hooks_again);
        sockman.wake(id);
    }

    /// Sends on a random connection: through its `SendQueue`, or directly, followed by a wake.
    fn send(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
        let (queued, key, from, to) = {
            let mut model = self.model.lock();
            let length = model.choices.size(MOST_BYTES);
            let Some(record) = model.connections.get_mut(&id) else { return };
            if record.write_shut || record.send_failed {
                return;
            }
            let has_queue = record.queue.is_some();
            if !has_queue {
                record.goal += length;
                record.send_rests = false;
            }
            (has_queue.then_some(length), record.key, record.sent, record.goal)
        };
        if let Some(length) = queued {
            return self.push(sockman, id, length);
        }
        let data = bytes(key, Way::Out, from, to);
        let mut model = self.model.lock();
        let number = model.number(id);
        model.say(|| format!("  has data up to byte {to} to send on connection {number}"));
        drop(model);
        if self.model.lock().choices.once_in(2) {
            let result = sockman.send_bytes(id, &data);
            self.model.lock().sent(id, data.len(), &result);
        }
        self.wake(sockman, id);
    }

    fn pause(&self, sockman: &SockMan, reading: bool) {
        let Some(id) = self.any_open() else { return };
        let wakes = {
            let mut model = self.model.lock();
            // Without a wake, only the sweep ends the pause.
            let forgets = self.has_sweep && model.choices.once_in(3);
            let number = model.number(id);
            let Some(record) = model.connections.get_mut(&id) else { return };
            let paused = if reading { &mut record.recv_paused } else { &mut record.send_paused };
            *paused = !*paused;
            let resumes = !*paused;
            let what = if reading { "reading" } else { "sending" };
            if resumes && forgets {
                record.recv_resumed_silently |= reading;
                record.send_resumed_silently |= !reading;
            }
            model.say(|| {
                format!(
                    "  {what} on connection {number}: resumed {resumes}, without a wake {forgets}"
                )
            });
            model.count(match (reading, resumes) {
                (true, false) => "reading was paused",
                (true, true) => "reading was resumed",
                (false, false) => "sending was paused",
                (false, true) => "sending was resumed",
            });
            if resumes && forgets {
                model.count("a pause ended without a wake");
            }
            resumes && !forgets
        };
        if wakes {
            self.wake(sockman, id);
        }
    }

    pub(crate) fn close(&self, sockman: &SockMan, id: ConnectionId, on_socket_thread: bool) {
        let (phase, fd, key) = {
            let model = self.model.lock();
            let Some(record) = model.connections.get(&id) else { return };
            (record.phase, record.fd, record.key)
        };
        if self.model.lock().connections.get(&id).is_some_and(|record| record.has_left) {
            let closed = sockman.close_connection(id);
            let mut model = self.model.lock();
            return model.require(!closed, || "a connection was closed that had left".to_owned());
        }
        let aborts = {
            let mut model = self.model.lock();
            model.is_wild && model.choices.once_in(3)
        };
        let closed =
            if aborts { sockman.abort_connection(id) } else { sockman.close_connection(id) };
        let again = sockman.close_connection(id);
        let after = self.network.probe(fd).filter(|probe| probe.peer == Some(key));
        let mut model = self.model.lock();
        let number = model.number(id);
        model.say(|| format!("  close of connection {number}: {closed}"));
        let was_there = matches!(phase, Phase::Open | Phase::Attempt | Phase::Quiet);
        let finishes = model.connections.get(&id).is_some_and(|record| record.finish.is_some());
        if finishes && !closed {
            return; // The library was faster.
        }
        model.require(closed == was_there, || {
            format!("the close of connection {number}, which was {phase:?}, returned {closed} (G4)")
        });
        model.require(!again, || format!("two closes of connection {number} returned true (G4)"));
        let is_seen = after.is_none_or(|probe| probe.is_send_shut) || model.shutdown_failed;
        model.require(is_seen || aborts || phase == Phase::Attempt, || {
            format!("connection {number} is closed but its peer does not see it (G4)")
        });
        if let Some(record) = model.connections.get_mut(&id).filter(|_| was_there) {
            record.phase = Phase::Closed;
            record.is_aborted = aborts;
        }
        if aborts && phase != Phase::Attempt {
            model.count("the embedder aborted a connection");
        }
        model.count(match (phase, on_socket_thread) {
            (Phase::Attempt, _) => "a connect was closed before its outcome",
            (_, true) => "the embedder closed a connection on the socket thread",
            (_, false) => "the embedder closed a connection on another thread",
        });
    }

    /// Begins the orderly end of a connection.
    fn finish(&self, sockman: &SockMan) {
        let (id, linger) = {
            let mut model = self.model.lock();
            let there = model.in_phase(|phase| matches!(phase, Phase::Open | Phase::Quiet));
            let linger = model.choices.pick(&[0, 20, 1000, 3000]).unwrap_or(0);
            (model.choices.pick(&there), Duration::from_millis(linger))
        };
        let Some(id) = id else { return };
        let mut model = self.model.lock();
        let (number, now) = (model.number(id), self.network.elapsed());
        let begins = sockman.finish_connection(id, linger);
        model.say(|| format!("  finish of connection {number} within {linger:?}: {begins}"));
        let Some(record) = model.connections.get_mut(&id) else { return };
        let finishes = record.finish.is_some();
        if begins && !finishes {
            let is_cut = record.send_failed || record.write_shut || record.error_reported;
            record.finish = Some(Finish { until: now + linger, goal: record.goal, is_cut });
            model.count("the embedder finished a connection");
        } else {
            model.require(begins != finishes, || {
                format!("a finish of connection {number}, which finishes {finishes}, is {begins}")
            });
        }
    }

    fn shutdown_write(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
        self.shutdown_write_of(sockman, id);
    }

    /// Half-closes a connection that has nothing to send.
    pub(crate) fn shutdown_write_of(&self, sockman: &SockMan, id: ConnectionId) {
        let may = {
            let model = self.model.lock();
            model.connections.get(&id).is_some_and(|record| !record.wants_to_send())
        };
        if may && sockman.shutdown_write(id).is_ok() {
            let mut model = self.model.lock();
            model.count("the embedder half-closed");
            if let Some(record) = model.connections.get_mut(&id) {
                record.write_shut = true;
            }
        }
    }

    fn start_connect(&self, sockman: &SockMan) {
        let (target, timeout, is_cancellable) = {
            let mut model = self.model.lock();
            if model.peers.len() + self.negotiating() + self.talks() >= MOST_PEERS {
                return;
            }
            let at = model.choices.below(self.targets.len() as u64);
            let timeout = Duration::from_millis(model.choices.below(1500));
            (self.targets.get(at as usize).cloned(), timeout, model.choices.once_in(3))
        };
        let Some(target) = target else { return };
        let cancel = Interrupt::new();
        let mut options = target.options(timeout);
        let to = &target.to;
        let mut addresses = vec![to.clone()];
        if let Some(other) = self.alternative(&target, timeout) {
            addresses.push(other.clone());
            options = options.alternatives([other]).attempt_delay(Duration::from_millis(20));
            self.model.lock().count("a connect had two addresses");
        }
        if is_cancellable {
            options = options.cancel(cancel.clone());
        }
        let until = Some(self.network.elapsed() + timeout);
        let begun = sockman
            .start_connect_with(to, &options, addresses)
            .map_err(sockman::error::ConnectError::from);
        let mut model = self.model.lock();
        let number = model.connections.len();
        model.say(|| match &begun {
            Ok(_) => format!("  start_connect({to}): {number}"),
            Err(error) => format!("  start_connect({to}): {error:#}"),
        });
        match begun {
            Ok(id) => {
                let is_new = model.connections.keys().next_back().is_none_or(|last| *last < id);
                model.require(is_new, || format!("id {id} was handed out before (G1)"));
                let record = Record { until, ..Record::new(u64::MAX, Phase::Attempt, NO_SOCKET) };
                model.connections.insert(id, record);
                model.count("a connect was begun");
                if target.proxy.is_some() {
                    model.count("a connect went through a proxy");
                }
                drop(model);
                if is_cancellable {
                    self.cancels.lock().insert(id, cancel);
                }
            }
            Err(error) if matches!(error.kind(), ConnectErrorKind::TooManyConnections { .. }) => {
                model.count("the connection limit was reached");
            }
            Err(_) => model.count("a connect failed"),
        }
    }

    /// Returns another address for a connect that goes through no proxy, now and then. The time-out
    /// decides, so that recorded scripts need no further choice.
    fn alternative(&self, target: &Target, timeout: Duration) -> Option<Destination> {
        let choice = timeout.as_millis() as usize;
        if !target.is_direct() || choice % 3 != 0 {
            return None;
        }
        let other = self.targets.get(choice / 3 % self.targets.len())?;
        other.is_direct().then(|| other.to.clone())
    }

    fn cancel(&self, sockman: &SockMan, on_socket_thread: bool) {
        let attempt = {
            let mut model = self.model.lock();
            let attempts = model.in_phase(|phase| phase == Phase::Attempt);
            model.choices.pick(&attempts)
        };
        let Some(id) = attempt else { return };
        let cancel = self.cancels.lock().remove(&id);
        self.model.lock().activity += 1;
        match cancel {
            Some(cancel) => cancel.interrupt(),
            None => self.close(sockman, id, on_socket_thread),
        }
    }

    /// Calls `SockMan::connect` on another thread. On the socket thread, checks that it is refused.
    fn connect_blocking(&self, sockman: &SockMan, on_socket_thread: bool) {
        let target = {
            let mut model = self.model.lock();
            let at = model.choices.below(self.targets.len() as u64);
            let is_full = model.peers.len() + self.negotiating() + self.talks() >= MOST_PEERS;
            self.targets.get(at as usize).filter(|_| !is_full).cloned()
        };
        let Some(target) = target else { return };
        let (to, options) = (&target.to, target.options(Duration::from_millis(200)));
        if on_socket_thread {
            let refused = sockman.connect(to, &options);
            let is_right = refused
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), ConnectErrorKind::OnSocketThread));
            self.model
                .lock()
                .require(is_right, || format!("`connect` in a callback returned {refused:?}"));
            return;
        }
        let was_nested = std::mem::replace(&mut *self.is_nested.lock(), true);
        *self.is_blocking.lock() = true;
        let connected = sockman.connect(to, &options);
        *self.is_blocking.lock() = false;
        *self.is_nested.lock() = was_nested;
        let mut model = self.model.lock();
        let number = model.connections.len();
        model.say(|| match &connected {
            Ok(_) => format!("  connect({to}): {number}"),
            Err(error) => format!("  connect({to}): {error:#}"),
        });
        model.count("a connect blocked its caller");
        if let Ok(connection) = connected {
            let id = connection.id();
            self.register(sockman, &mut model, id, Phase::Quiet);
            drop(model);
            self.held.lock().push(connection);
        }
    }

    /// Activates, drops, or closes and activates a connection that `connect` returned.
    fn settle_held(&self, sockman: &SockMan) {
        let Some(connection) = self.held.lock().pop() else { return };
        let (id, how) = (connection.id(), self.model.lock().choices.below(4));
        let is_quiet = self.record_is(id, Phase::Quiet);
        match how {
            0 => {
                drop(connection);
                self.with_record(id, |record| record.phase = Phase::Closed);
                self.model.lock().count("a connection was dropped before its activation");
            }
            1 => {
                if is_quiet {
                    self.close(sockman, id, false);
                }
                self.activate(connection);
            }
            _ => self.activate(connection),
        }
    }

    pub(crate) fn activate(&self, connection: NewConnection) {
        let now = self.network.elapsed();
        self.with_record(connection.id(), |record| {
            record.is_announced = true;
            record.excused_at = Some(now);
            if record.phase == Phase::Quiet {
                record.phase = Phase::Open;
            }
        });
        if self.keeps_values {
            let value = Value { id: connection.id() };
            if let Err(error) = connection.activate_with(value) {
                self.model.lock().violated(format!("a value was refused: {error}"));
            }
        } else {
            connection.activate();
        }
        self.model.lock().activity += 1;
    }

    fn change_listeners(&self, sockman: &SockMan) {
        if self.model.lock().choices.once_in(3) {
            sockman.stop_listening();
            let mut model = self.model.lock();
            model.count("the listeners were stopped");
            for listener in self.shared_listeners.lock().drain(..) {
                if model.choices.once_in(2) {
                    model.count("another process kept a listener open");
                    self.released_listeners.lock().push(listener);
                }
            }
        }
        self.listen(sockman);
    }

    pub(crate) fn listen(&self, sockman: &SockMan) {
        let (kind, number) = (self.model.lock().choices.below(5), self.listening.lock().len());
        let at = if kind == 3 {
            format!("unix:/simulated/{number}")
        } else {
            format!("10.0.0.1:{}", 1000 + number)
        };
        let Ok(at) = at.parse::<Service>() else { return };
        if kind == 4 {
            self.adopt(sockman, &at);
        } else if sockman.bind_and_start_listening(&at).is_ok() {
            self.listening.lock().push(at);
            self.model.lock().count("a listener was added");
        }
    }

    /// Returns whether only another process listens at this address, because the embedder has
    /// stopped.
    pub(crate) fn is_released(&self, at: &Service) -> bool {
        self.released_listeners.lock().iter().any(|listener| listener.address() == *at)
    }

    /// Adopts a listener that another process continues to hold.
    fn adopt(&self, sockman: &SockMan, at: &Service) {
        let Ok(listener) = self.network.listen(at) else { return };
        let Ok(descriptor) = listener.share() else { return };
        if sockman.start_listening_on(descriptor).is_ok() {
            self.listening.lock().push(at.clone());
            self.shared_listeners.lock().push(listener);
            self.model.lock().count("a listener was adopted");
        }
    }

    /// Lets another thread, a peer or the kernel act in the middle of a call of the library.
    /// Returns `true` if an action was performed.
    pub(crate) fn act_in_between(&self, sockman: &SockMan) -> bool {
        if std::mem::replace(&mut *self.is_nested.lock(), true) {
            // A thread in a blocking connect waits for the proxies, which are other programs.
            let agrees = !self.is_wild();
            return *self.is_blocking.lock()
                && (self.proxies_act(agrees) | self.bridge_acts(agrees));
        }
        let acts = {
            let mut model = self.model.lock();
            model.is_wild && model.choices.once_in(6)
        };
        if acts {
            self.model.lock().say(|| " in between:".to_owned());
            self.model.lock().count("another thread acted in the middle of a pass");
            self.network.as_another_thread(|| {
                let is_embedder = self.model.lock().choices.once_in(2);
                if is_embedder {
                    self.act_as_embedder(sockman, false);
                } else {
                    self.act_elsewhere();
                }
            });
        }
        *self.is_nested.lock() = false;
        acts
    }

    pub(crate) fn is_in_between(&self) -> bool {
        *self.is_nested.lock()
    }

    /// Returns whether a connection that finishes has data to discard.
    pub(crate) fn discards(&self) -> bool {
        let mut model = self.model.lock();
        let has_data = |record: &Record| {
            let probe = self.network.probe(record.fd).unwrap_or_default();
            record.phase == Phase::Open && record.finish.is_some() && probe.has_data
        };
        let discards = model.connections.values().any(has_data);
        if discards {
            *model.counts.entry("a connection that finishes was discarded from").or_default() += 1;
        }
        discards
    }
}
