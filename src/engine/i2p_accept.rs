//! The thread that accepts connections from I2P: Core's `ThreadI2PAccept`.
//!
//! [`AcceptThread::step`] gets the time, proceeds as far as it can without waiting, and returns
//! what to wait for. The thread calls it in a loop and waits in its own poller, which the
//! interrupts wake. The thread takes the locks of the map, the inbox and the I2P sessions for a
//! moment. No lock is held while the handler is called.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{announce::announce_accepted, connection::Direction, inbox::Mark};
use crate::{
    address::{NetAddr, Service},
    dial::{
        Awaits, Step,
        i2p::{Fault, Goal, I2P_PORT, I2p, I2pStatus, Made, SamError, Session, SessionMaker, Talk},
    },
    sockman::SockMan,
    sys::{self, Poller, Readiness, Sock, interrupt::Watches},
};

/// The back-off after the first failure, as in Core. Each further failure adds the same time to the
/// back-off.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest back-off, as in Core.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long the bridge may take for each answer, except for the report of a peer. While the thread
/// waits for a peer, it also checks at this interval whether the session is still alive.
const LONGEST_WAIT: Duration = Duration::from_secs(3 * 60);
/// How long a peer that was accepted may wait until the next STREAM ACCEPT is sent.
const LONGEST_DELAY: Duration = Duration::from_millis(50);
/// The interval at which the thread checks whether the next STREAM ACCEPT was sent.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// How often the thread checks whether a place of the `max_connections` is free again.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);

/// The state of the I2P-accept thread.
pub(crate) struct AcceptThread {
    i2p: Arc<I2p>,
    state: State,
    pause: Duration,
    /// The status that was last reported to the embedder.
    told: Option<I2pStatus>,
    address: Option<Arc<Service>>,
    /// Whether the socket of the state is registered with the poller.
    is_registered: bool,
}

enum State {
    /// The thread does nothing until the next try, which begins at this time.
    Idle(Instant),
    /// The thread makes a session, until this time at the latest.
    Session(SessionMaker, Instant),
    /// The thread sends a STREAM ACCEPT and waits for its answer, until this time at the latest.
    Listen(Listening, Instant),
    /// The thread waits for a peer.
    Await(Listening),
    /// A peer waits for a free place. The last field is the next state.
    Held(Box<dyn Sock>, NetAddr, Box<State>),
}

struct Listening {
    session: Arc<Session>,
    sock: Box<dyn Sock>,
    talk: Talk,
}

/// The event that the next step waits for.
enum Wait {
    /// The next step can run at once.
    Nothing,
    /// The thread waits for these events of the socket of the state, until this time at the latest.
    Socket(Instant, Awaits),
    Until(Instant),
}

impl AcceptThread {
    pub(crate) fn new(i2p: &Arc<I2p>) -> AcceptThread {
        AcceptThread {
            i2p: Arc::clone(i2p),
            state: State::Idle(i2p.now()),
            pause: FIRST_PAUSE,
            told: None,
            address: None,
            is_registered: false,
        }
    }

    /// Runs the thread until it is interrupted.
    ///
    /// # Errors
    ///
    /// Fails if the poller fails.
    pub(crate) fn run(
        &mut self,
        sockman: &SockMan,
        mut poller: Box<dyn Poller>,
        interrupts: &Watches,
    ) -> io::Result<()> {
        let _wakers = interrupts.add_waker(&poller.waker());
        let mut events: Vec<Readiness> = Vec::new();
        while !interrupts.is_interrupted() {
            let now = self.i2p.now();
            let (until, awaits) = match self.step(sockman, &*poller, now) {
                Wait::Nothing => continue,
                Wait::Socket(until, awaits) => {
                    if let Err(source) = self.register(&*poller) {
                        self.failed(sockman, &Fault::Os { step: "poll", source }, now);
                        continue;
                    }
                    (until, awaits)
                }
                Wait::Until(at) => (at, Awaits::Any),
            };
            while !interrupts.is_interrupted() {
                events.clear();
                let timeout = until.saturating_duration_since(self.i2p.now());
                sys::poll(&mut *poller, &mut events, Some(timeout))?;
                // The poll also ends for a wake and at `until`, without an event.
                if events.is_empty() || events.iter().any(|event| awaits.heeds(event)) {
                    break;
                }
            }
        }
        self.withdraw(sockman);
        Ok(())
    }

    /// Registers the socket of the state with the poller, unless the socket is registered already.
    fn register(&mut self, poller: &dyn Poller) -> io::Result<()> {
        let sock = match &self.state {
            State::Session(maker, _) => maker.control(),
            State::Listen(accepting, _) | State::Await(accepting) => Some(&*accepting.sock),
            State::Idle(_) | State::Held(..) => None,
        };
        if let Some(sock) = sock.filter(|_| !self.is_registered) {
            poller.register(sock, 0)?;
            self.is_registered = true;
        }
        Ok(())
    }

    /// Proceeds as far as possible without waiting. Returns what to wait for.
    fn step(&mut self, sockman: &SockMan, poller: &dyn Poller, now: Instant) -> Wait {
        match std::mem::replace(&mut self.state, State::Idle(now)) {
            State::Idle(at) if now < at => {
                self.state = State::Idle(at);
                Wait::Until(at)
            }
            // At the connection limit, and while the server ends, the thread asks the bridge for no
            // peer.
            State::Idle(_)
                if sockman.shared().connections.is_full() || sockman.shared().is_draining() =>
            {
                let at = now + LOOK_FOR_ROOM;
                self.state = State::Idle(at);
                Wait::Until(at)
            }
            State::Idle(_) => {
                self.is_registered = false;
                self.state = State::Session(SessionMaker::new(&self.i2p), now + LONGEST_WAIT);
                Wait::Nothing
            }
            State::Session(maker, until) => self.step_session(sockman, maker, until, now),
            State::Listen(accepting, until) => self.step_listen(sockman, accepting, until, now),
            State::Await(accepting) => self.step_await(sockman, poller, accepting, now),
            State::Held(sock, peer, next) => {
                self.state = *next;
                self.register_peer(sockman, sock, peer, now)
            }
        }
    }

    fn step_session(
        &mut self,
        sockman: &SockMan,
        mut maker: SessionMaker,
        until: Instant,
        now: Instant,
    ) -> Wait {
        let wait = match maker.step(now) {
            Ok(Made::Session(session)) => {
                self.address = Some(Arc::new(session.address.clone()));
                self.is_registered = false;
                match self.begin(session, now) {
                    Ok(accepting) => self.state = State::Listen(accepting, now + LONGEST_WAIT),
                    Err(fault) => return self.failed(sockman, &fault, now),
                }
                return Wait::Nothing;
            }
            Ok(Made::WaitForSocket(awaits)) => Wait::Socket(until, awaits),
            Ok(Made::WaitUntil(at)) => Wait::Until(at.min(until)),
            Ok(Made::Restarted) => {
                self.is_registered = false;
                Wait::Nothing
            }
            Err(fault) => return self.failed(sockman, &fault, now),
        };
        if now >= until {
            let request = maker.request();
            return self.failed(sockman, &timed_out(request), now);
        }
        self.state = State::Session(maker, until);
        wait
    }

    fn begin(&self, session: Arc<Session>, now: Instant) -> Result<Listening, Fault> {
        let goal = Goal::Accept { session: session.id.clone() };
        let talk = Talk::new(self.i2p.sam(), goal, now);
        Ok(Listening { session, sock: self.i2p.create_sock()?, talk })
    }

    fn step_listen(
        &mut self,
        sockman: &SockMan,
        mut accepting: Listening,
        until: Instant,
        now: Instant,
    ) -> Wait {
        match accepting.talk.step(&*accepting.sock, now) {
            Ok(Step::Connected) => {
                accepting.talk.dialogue.await_peer();
                self.state = State::Await(accepting);
                self.pause = FIRST_PAUSE;
                self.tell(sockman, I2pStatus::StartListening);
                Wait::Nothing
            }
            Ok(_) if now >= until => {
                let request = accepting.talk.dialogue.request();
                self.failed(sockman, &timed_out(request), now)
            }
            Ok(step) => {
                self.state = State::Listen(accepting, until);
                match step {
                    Step::WaitUntil(at) => Wait::Until(at.min(until)),
                    Step::WaitForSocket(awaits) => Wait::Socket(until, awaits),
                    Step::Connected => Wait::Nothing,
                }
            }
            Err(error) => {
                if error.ends_session() {
                    self.i2p.forget(&accepting.session);
                }
                self.failed(sockman, &error.into(), now)
            }
        }
    }

    fn step_await(
        &mut self,
        sockman: &SockMan,
        poller: &dyn Poller,
        mut accepting: Listening,
        now: Instant,
    ) -> Wait {
        match accepting.talk.step(&*accepting.sock, now) {
            Ok(Step::Connected) => {
                let Some(peer) = accepting.talk.dialogue.outcome().peer.clone() else {
                    // No peer has connected yet, because this step only began to wait for a peer.
                    self.state = State::Await(accepting);
                    return Wait::Nothing;
                };
                let Listening { session, sock, .. } = accepting;
                // The socket thread watches the socket after this point.
                let _ = poller.deregister(&*sock);
                self.is_registered = false;
                // If this peer takes the last place, the thread asks for no further peer.
                let connections = &sockman.shared().connections;
                self.state = if connections.count().saturating_add(1) >= connections.limit() {
                    State::Idle(now)
                } else {
                    self.next(session, now)
                };
                self.register_peer(sockman, sock, peer, now)
            }
            // A router may end a session without answering the STREAM ACCEPT that waits in it.
            Ok(_) if !accepting.session.is_alive() => {
                let request = accepting.talk.dialogue.request();
                let fault = SamError::BrokeOff { request, source: None }.into();
                self.failed(sockman, &fault, now)
            }
            Ok(step) => {
                self.state = State::Await(accepting);
                match step {
                    Step::WaitUntil(at) => Wait::Until(at),
                    Step::WaitForSocket(awaits) => Wait::Socket(now + LONGEST_WAIT, awaits),
                    Step::Connected => Wait::Nothing,
                }
            }
            Err(error) => {
                if error.ends_session() {
                    self.i2p.forget(&accepting.session);
                }
                self.failed(sockman, &error.into(), now)
            }
        }
    }

    /// Sends the next STREAM ACCEPT before the accepted peer is reported, so that another peer
    /// finds the address listening. The report of the accepted peer does not wait for a slow bridge
    /// or for the bridge's answer.
    fn next(&self, session: Arc<Session>, now: Instant) -> State {
        let Ok(mut accepting) = self.begin(session, now) else { return State::Idle(now) };
        let until = now + LONGEST_DELAY;
        loop {
            let now = self.i2p.now();
            if let Err(error) = accepting.talk.step(&*accepting.sock, now) {
                log::debug!(target: "sockman::i2p", "the next STREAM ACCEPT failed: {error:#}");
                if error.ends_session() {
                    self.i2p.forget(&accepting.session);
                }
                // The next step begins from the start. If the failure persists, the next step backs
                // off.
                return State::Idle(now);
            }
            if accepting.talk.dialogue.has_asked_to_accept() || now >= until {
                return State::Listen(accepting, now + LONGEST_WAIT);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Puts the peer into the map of connections and reports it. If no place is free, the peer
    /// waits in [`State::Held`].
    fn register_peer(
        &mut self,
        sockman: &SockMan,
        sock: Box<dyn Sock>,
        peer: NetAddr,
        now: Instant,
    ) -> Wait {
        let shared = sockman.shared();
        if shared.is_draining() {
            self.state = State::Idle(now);
            return Wait::Nothing;
        }
        let Some(place) = shared.reserve() else {
            let next = std::mem::replace(&mut self.state, State::Idle(now));
            self.state = State::Held(sock, peer, Box::new(next));
            return Wait::Until(now + LOOK_FOR_ROOM);
        };
        let them = Service::new(peer, I2P_PORT);
        let me = self.address.clone().unwrap_or_else(|| Arc::new(Service::UNIX_UNNAMED));
        let to = them.clone().into();
        let connection = place.fill(Direction::Inbound, sock, me, to, now);
        shared.counters.accepted_elsewhere.add(1);
        let polled = announce_accepted(sockman, &connection, &them);
        if let Some(connection) = polled {
            shared.inbox.push(Mark::Activated(Arc::downgrade(&connection)));
        }
        Wait::Nothing
    }

    fn failed(&mut self, sockman: &SockMan, fault: &Fault, now: Instant) -> Wait {
        log::warn!(
            target: "sockman::i2p",
            "cannot accept from I2P through {}: {fault:#}; trying again in {:?}",
            self.i2p.sam(), self.pause
        );
        self.state = State::Idle(now + self.pause);
        self.pause = (self.pause + FIRST_PAUSE).min(LONGEST_PAUSE);
        self.tell(sockman, I2pStatus::StopListening);
        Wait::Nothing
    }

    /// Reports that the address no longer listens, because the threads end.
    fn withdraw(&mut self, sockman: &SockMan) {
        if self.told == Some(I2pStatus::StartListening) {
            self.tell(sockman, I2pStatus::StopListening);
        }
    }

    /// Reports the status to the embedder, if the status has changed.
    fn tell(&mut self, sockman: &SockMan, status: I2pStatus) {
        if self.told != Some(status) {
            self.told = Some(status);
            let address = self.address.as_deref();
            sockman.shared().handler.event_i2p_status(sockman, address, status);
        }
    }
}

fn timed_out(request: &'static str) -> Fault {
    let source = io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 minutes");
    Fault::Sam(SamError::BrokeOff { request, source: Some(source) })
}
