//! What the simulated embedder and other threads do, and the look at everything before the socket
//! thread goes to sleep.
//!
//! One mutex around the model; never held over a call into the library. One thread plays all of them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectOptions, ConnectionId, Interrupt, NewConnection, SendQueue, Service, SockMan,
    address::Destination,
    error::ConnectErrorKind,
    helpers::{PushError, SendQueueLimits},
    options::PanicPolicy,
    proxy::Proxy,
    testing::{Network, PeerListener, descriptor},
};

use crate::{
    bridge::Bridge,
    model::{Model, Phase, Record, Way, bytes},
    proxies::Proxies,
};

/// How many peers there may be at a time.
pub(crate) const MOST_PEERS: usize = 24;
/// The most that a peer sends at once, or the embedder means to.
pub(crate) const MOST_BYTES: u64 = 20_000;

/// Small, so that queues are above their mark and full now and then.
const LIMITS: SendQueueLimits = match SendQueueLimits::new(1000, 4000, 30_000) {
    Ok(limits) => limits,
    Err(_) => panic!("a low mark below the high mark"),
};

pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) started: Instant,
    pub(crate) model: Mutex<Model>,
    pub(crate) policy: PanicPolicy,
    pub(crate) has_sweep: bool,
    /// The most connections that there may be.
    cap: usize,
    /// Where the program listens, or did.
    pub(crate) listening: Mutex<Vec<Service>>,
    /// What can be connected to, and how.
    pub(crate) targets: Vec<Target>,
    pub(crate) proxies: Mutex<Proxies>,
    pub(crate) bridge: Mutex<Bridge>,
    pub(crate) listeners: Mutex<Vec<PeerListener>>,
    pub(crate) held: Mutex<Vec<NewConnection>>,
    cancels: Mutex<HashMap<ConnectionId, Interrupt>>,
    /// A simulated thread is in a blocking connect, or somebody came in between already.
    is_nested: Mutex<bool>,
    /// A simulated thread is in a blocking connect.
    is_blocking: Mutex<bool>,
}

/// Somewhere to connect to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) to: Destination,
    pub(crate) proxy: Option<Proxy>,
}

impl Target {
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
            listening: Mutex::default(),
            targets,
            proxies: Mutex::default(),
            bridge: Mutex::default(),
            listeners: Mutex::default(),
            held: Mutex::default(),
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

    /// The embedder learns of a connection that it can send to.
    pub(crate) fn register(
        &self,
        sockman: &SockMan,
        model: &mut Model,
        id: ConnectionId,
        phase: Phase,
    ) {
        let fd = descriptor(sockman, id).unwrap_or(-1);
        let probe = self.network.probe(fd).unwrap_or_default();
        let number = model.number(id);
        model.require(probe.peer.is_some(), || format!("{number} has no socket with a peer"));
        let record = Record {
            is_eager: model.choices.once_in(4),
            queue: model.choices.once_in(3).then(|| Arc::new(SendQueue::new(id, LIMITS))),
            ..Record::new(probe.peer.unwrap_or(u64::MAX), phase, fd)
        };
        model.connections.insert(id, record);
    }

    fn any_open(&self) -> Option<ConnectionId> {
        let mut model = self.model.lock();
        let open = model.open();
        model.choices.pick(&open)
    }

    /// Something that an embedder does, on this thread or another.
    pub(crate) fn act_as_embedder(&self, sockman: &SockMan, on_socket_thread: bool) {
        let what = self.model.lock().choices.below(24);
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
                self.model.lock().count("a pass was asked for");
                sockman.notify();
            }
            17 => self.change_listeners(sockman),
            18 => {
                let kind =
                    if on_socket_thread { "an interrupt in a callback" } else { "an interrupt" };
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
            _ => self.settle_held(sockman),
        }
    }

    fn wake_any(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
        self.model.lock().activity += 1;
        self.wake(sockman, id);
    }

    fn wake(&self, sockman: &SockMan, id: ConnectionId) {
        self.with_record(id, Record::heard);
        sockman.wake(id);
    }

    /// Queues, sends what can be sent at once, and wakes if something is left.
    fn send(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
        let (queue, key, from, to) = {
            let mut model = self.model.lock();
            let length = model.choices.size(MOST_BYTES);
            let Some(record) = model.connections.get_mut(&id) else { return };
            if record.write_shut || record.send_failed {
                return;
            }
            if record.queue.is_none() {
                record.goal += length;
                record.send_rests = false;
            }
            let to = if record.queue.is_some() { record.goal + length } else { record.goal };
            let from = if record.queue.is_some() { record.goal } else { record.sent };
            (record.queue.clone(), record.key, from, to)
        };
        if let Some(queue) = queue {
            let data = bytes(key, Way::Out, from, to);
            let pushed = queue.push(sockman, &data);
            let mut model = self.model.lock();
            let number = model.number(id);
            // Without the id, which is another one each time that the seed runs.
            let outcome = match &pushed {
                Ok(()) => "taken",
                Err(PushError::Full { .. }) => "full",
                Err(_) => "broken or unknown",
            };
            model.say(|| format!("  pushed {} bytes on {number}: {outcome}", data.len()));
            let Some(record) = model.connections.get_mut(&id) else { return };
            match pushed {
                Ok(()) => {
                    record.goal += data.len() as u64;
                    record.send_rests = false;
                    model.count("a queue took data");
                }
                Err(PushError::Full { .. }) => model.count("a queue was full"),
                Err(PushError::Send(_)) => {
                    record.send_failed = true;
                    model.count("a send failed");
                }
                Err(other) => {
                    model
                        .violated(format!("the model does not know this error of a push: {other}"));
                }
            }
            return;
        }
        let data = bytes(key, Way::Out, from, to);
        let mut model = self.model.lock();
        let number = model.number(id);
        model.say(|| format!("  means to send up to byte {to} on {number}"));
        drop(model);
        if self.model.lock().choices.once_in(2) {
            let result = sockman.send_bytes(id, &data);
            self.model.lock().sent(id, data.len(), &result);
        }
        self.wake(sockman, id);
    }

    fn pause(&self, sockman: &SockMan, reading: bool) {
        let Some(id) = self.any_open() else { return };
        let tells = {
            let mut model = self.model.lock();
            // Whoever never wakes has to have a sweep.
            let forgets = self.has_sweep && model.choices.once_in(3);
            let number = model.number(id);
            let Some(record) = model.connections.get_mut(&id) else { return };
            let paused = if reading { &mut record.recv_paused } else { &mut record.send_paused };
            *paused = !*paused;
            let goes_on = !*paused;
            let what = if reading { "reading" } else { "sending" };
            if goes_on && forgets {
                record.recv_unheard |= reading;
                record.send_unheard |= !reading;
            }
            model.say(|| format!("  {what} on {number}: goes on {goes_on}, forgets {forgets}"));
            model.count(match (reading, goes_on) {
                (true, false) => "reading was paused",
                (true, true) => "reading went on",
                (false, false) => "sending was paused",
                (false, true) => "sending went on",
            });
            if goes_on && forgets {
                model.count("a pause ended without a wake");
            }
            goes_on && !forgets
        };
        if tells {
            self.wake(sockman, id);
        }
    }

    pub(crate) fn close(&self, sockman: &SockMan, id: ConnectionId, on_socket_thread: bool) {
        let (phase, fd, key) = {
            let model = self.model.lock();
            let Some(record) = model.connections.get(&id) else { return };
            (record.phase, record.fd, record.key)
        };
        let closed = sockman.close_connection(id);
        let again = sockman.close_connection(id);
        let after = self.network.probe(fd).filter(|probe| probe.peer == Some(key));
        let mut model = self.model.lock();
        let number = model.number(id);
        model.say(|| format!("  closed {number}: {closed}"));
        let was_there = matches!(phase, Phase::Open | Phase::Attempt | Phase::Quiet);
        model.require(closed == was_there, || {
            format!("closing {number}, which was {phase:?}, said {closed} (G4)")
        });
        model.require(!again, || format!("{number} was closed twice (G4)"));
        let is_seen = after.is_none_or(|probe| probe.is_send_shut) || model.shutdown_failed;
        model.require(is_seen || phase == Phase::Attempt, || {
            format!("{number} is closed and its peer does not see it (G4)")
        });
        if let Some(record) = model.connections.get_mut(&id).filter(|_| was_there) {
            record.phase = Phase::Closed;
        }
        model.count(match (phase, on_socket_thread) {
            (Phase::Attempt, _) => "a connect was closed before its outcome",
            (_, true) => "the embedder closed on the socket thread",
            (_, false) => "the embedder closed on another thread",
        });
    }

    fn shutdown_write(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
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
        if is_cancellable {
            options = options.cancel(cancel.clone());
        }
        let until = Some(self.network.elapsed() + timeout);
        let begun = sockman.start_connect(to, &options);
        let mut model = self.model.lock();
        let number = model.connections.len();
        model.say(|| match &begun {
            Ok(_) => format!("  start_connect({to}): {number}"),
            Err(error) => format!("  start_connect({to}): {error:#}"),
        });
        match begun {
            Ok(id) => {
                let is_new = model.connections.keys().next_back().is_none_or(|last| *last < id);
                model.require(is_new, || format!("id {id} was given out before (G1)"));
                let record = Record { until, ..Record::new(u64::MAX, Phase::Attempt, -1) };
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
                model.count("the connection cap was reached");
            }
            Err(_) => model.count("a connect failed"),
        }
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

    /// `SockMan::connect`: of another thread, which holds up nobody but itself.
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
            self.model.lock().require(is_right, || format!("connect in a callback: {refused:?}"));
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

    /// Activates, drops or closes a connection that `connect` returned.
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
                connection.activate();
            }
            _ => self.activate(connection),
        }
    }

    pub(crate) fn activate(&self, connection: NewConnection) {
        self.with_record(connection.id(), |record| {
            if record.phase == Phase::Quiet {
                record.phase = Phase::Open;
            }
        });
        connection.activate();
        self.model.lock().activity += 1;
    }

    fn change_listeners(&self, sockman: &SockMan) {
        if self.model.lock().choices.once_in(3) {
            sockman.stop_listening();
            self.model.lock().count("the listeners were stopped");
        }
        self.listen(sockman);
    }

    pub(crate) fn listen(&self, sockman: &SockMan) {
        let (kind, number) = (self.model.lock().choices.below(4), self.listening.lock().len());
        let at = if kind == 3 {
            format!("unix:/simulated/{number}")
        } else {
            format!("10.0.0.1:{}", 1000 + number)
        };
        let Ok(at) = at.parse::<Service>() else { return };
        if sockman.bind_and_start_listening(&at).is_ok() {
            self.listening.lock().push(at);
            self.model.lock().count("a listener was added");
        }
    }

    /// Other threads, peers and the kernel come in between. `true` if somebody did something.
    pub(crate) fn come_in_between(&self, sockman: &SockMan) -> bool {
        if std::mem::replace(&mut *self.is_nested.lock(), true) {
            // Whoever blocks waits for the proxies, who are other programs.
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
            self.model.lock().count("another thread came in between");
            self.network.as_another_thread(|| {
                let is_ours = self.model.lock().choices.once_in(2);
                if is_ours {
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

    /// The socket thread is about to sleep: nothing that it could do may be left.
    pub(crate) fn check_before_sleep(&self, sockman: &SockMan) {
        if self.model.lock().is_interrupted || self.is_in_between() {
            return;
        }
        let now = self.network.elapsed();
        let stats = sockman.stats();
        let (is_full, is_stopped) = (stats.connections >= self.cap, stats.listeners == 0);
        let listening = self.listening.lock().clone();
        let exhausted_at = self.network.exhausted_at();
        let mut left = self.negotiations_left();
        left.extend(self.talks_left());
        let mut model = self.model.lock();
        for (number, record) in model.connections.values().enumerate() {
            if record.phase == Phase::Attempt && record.until.is_some_and(|until| until < now) {
                left.push(format!("asleep beyond the deadline of connect {number} (G9)"));
            }
            if record.phase != Phase::Open {
                continue;
            }
            let Some(probe) = self.network.probe(record.fd) else { continue };
            let is_heard = !record.recv_unheard && !record.recv_rests && !record.error_told;
            let has_news = (probe.has_data || probe.has_end) && !record.eof_told;
            if record.may_recv() && is_heard && has_news {
                left.push(format!("asleep with something to receive on {number} (G6)"));
            }
            // Of one that the poller would not watch, that failure is told, as a read error, and no
            // room to send.
            let is_told = !record.send_unheard && !record.send_rests && probe.is_watched;
            let can_send = probe.is_writable && is_told;
            if record.wants_to_send() && record.may_send() && can_send {
                left.push(format!("asleep with something to send on {number} (G6)"));
            }
        }
        // The longest pause of a listener, and a little.
        let is_exhausted = exhausted_at.is_some_and(|at| now <= at + Duration::from_millis(1001));
        if !is_full && !is_exhausted && !is_stopped {
            for at in listening.iter().filter(|at| self.network.waiting_at(at) > 0) {
                left.push(format!("asleep with a client waiting at {at} (G11)"));
            }
        }
        for what in left {
            model.violated(what);
        }
    }
}
