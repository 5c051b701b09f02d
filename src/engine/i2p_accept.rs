//! The thread that accepts connections from I2P: Core's `ThreadI2PAccept`.
//!
//! [`AcceptThread::step`] is plain: given the time, it goes as far as it can, and says what to wait
//! for; the thread only loops over it, in a poller of its own, which the interrupts wake. Of locks it
//! takes the map's and those of `session`, for a moment, none while it calls the handler.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{announce::announce_accepted, connection::Direction, inbox::Mark};
use crate::{
    address::{NetAddr, Service},
    dial::{
        Step,
        i2p::{Fault, Goal, I2P_PORT, I2p, I2pStatus, Made, SamError, Session, SessionMaker, Talk},
    },
    sockman::SockMan,
    sys::{Poller, Readiness, Sock, interrupt::Watches},
};

/// Core's: the pause after a failure …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … grows by as much with each, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long a bridge may take for each answer but the one that a peer is there; and how often it is
/// looked, while a peer is waited for, whether the session is still there.
const LONGEST_WAIT: Duration = Duration::from_secs(3 * 60);
/// How long a peer that was accepted may wait for the next STREAM ACCEPT to go out.
const LONGEST_DELAY: Duration = Duration::from_millis(50);
/// Between two looks meanwhile.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// How often it is looked whether there is room again at `max_connections`.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);

pub(crate) struct AcceptThread {
    i2p: Arc<I2p>,
    state: State,
    pause: Duration,
    /// What the embedder was told last.
    told: Option<I2pStatus>,
    address: Option<Service>,
    /// Whether the socket of the state is in the poller.
    is_registered: bool,
}

enum State {
    /// Nothing is under way. Not before this time.
    Idle(Instant),
    /// A session is being made, until then.
    Session(SessionMaker, Instant),
    /// STREAM ACCEPT is being said, until then.
    Listen(Listening, Instant),
    /// A peer is waited for.
    Await(Listening),
    /// A peer is there, and no room for it; what comes after it is kept.
    Held(Box<dyn Sock>, NetAddr, Box<State>),
}

struct Listening {
    session: Arc<Session>,
    sock: Box<dyn Sock>,
    talk: Talk,
}

/// What to wait for.
enum Wait {
    Nothing,
    /// For the socket of the state, and no longer than that.
    Socket(Instant),
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

    /// The thread: until it is interrupted.
    ///
    /// # Errors
    ///
    /// The poller failed.
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
            let until = match self.step(sockman, &*poller, now) {
                Wait::Nothing => continue,
                Wait::Socket(until) => {
                    self.register(&*poller)?;
                    until
                }
                Wait::Until(at) => at,
            };
            if interrupts.is_interrupted() {
                break;
            }
            events.clear();
            let timeout = until.saturating_duration_since(self.i2p.now());
            poller.poll(&mut events, Some(timeout))?;
        }
        self.withdraw(sockman);
        Ok(())
    }

    /// Each socket once.
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

    /// As far as it goes.
    fn step(&mut self, sockman: &SockMan, poller: &dyn Poller, now: Instant) -> Wait {
        match std::mem::replace(&mut self.state, State::Idle(now)) {
            State::Idle(at) if now < at => {
                self.state = State::Idle(at);
                Wait::Until(at)
            }
            // At the cap nobody is asked for.
            State::Idle(_) if sockman.shared().connections.is_full() => {
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
                self.address = Some(session.address.clone());
                self.is_registered = false;
                match self.begin(session, now) {
                    Ok(accepting) => self.state = State::Listen(accepting, now + LONGEST_WAIT),
                    Err(fault) => return self.failed(sockman, &fault, now),
                }
                return Wait::Nothing;
            }
            Ok(Made::WaitForSocket) => Wait::Socket(until),
            Ok(Made::WaitUntil(at)) => Wait::Until(at.min(until)),
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
                    _ => Wait::Socket(until),
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
                    // Not there yet: it was only now that it began to wait.
                    self.state = State::Await(accepting);
                    return Wait::Nothing;
                };
                let Listening { session, sock, .. } = accepting;
                // From here on it is the socket thread's to watch.
                let _ = poller.deregister(&*sock);
                self.is_registered = false;
                // With this one it is full: nobody else is asked for.
                let connections = &sockman.shared().connections;
                self.state = if connections.count().saturating_add(1) >= connections.limit() {
                    State::Idle(now)
                } else {
                    self.next(session, now)
                };
                self.register_peer(sockman, sock, peer, now)
            }
            // A router may end a session without a word to who waits in it.
            Ok(_) if !accepting.session.is_alive() => {
                let request = accepting.talk.dialogue.request();
                let fault = SamError::BrokeOff { request, source: None }.into();
                self.failed(sockman, &fault, now)
            }
            Ok(_) => {
                self.state = State::Await(accepting);
                Wait::Socket(now + LONGEST_WAIT)
            }
            Err(error) => {
                if error.ends_session() {
                    self.i2p.forget(&accepting.session);
                }
                self.failed(sockman, &error.into(), now)
            }
        }
    }

    /// Says the next STREAM ACCEPT before the peer that was accepted is told of, so that another one
    /// finds somebody listening; but the peer does not wait for a bridge that is slow, nor for its
    /// answer.
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
                // From the beginning, where a failure that goes on makes a pause.
                return State::Idle(now);
            }
            if accepting.talk.dialogue.has_asked_to_accept() || now >= until {
                return State::Listen(accepting, now + LONGEST_WAIT);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Into the same map as every other connection.
    fn register_peer(
        &mut self,
        sockman: &SockMan,
        sock: Box<dyn Sock>,
        peer: NetAddr,
        now: Instant,
    ) -> Wait {
        let shared = sockman.shared();
        let Some(place) = shared.reserve() else {
            let next = std::mem::replace(&mut self.state, State::Idle(now));
            self.state = State::Held(sock, peer, Box::new(next));
            return Wait::Until(now + LOOK_FOR_ROOM);
        };
        let them = Service::new(peer, I2P_PORT);
        let me = self.address.clone().unwrap_or(Service::UNIX_UNNAMED);
        let to = them.clone().into();
        let connection = place.fill(Direction::Inbound, sock, me, to, now);
        shared.counters.accepted_elsewhere.add(1);
        let polled = announce_accepted(sockman, &connection, &them);
        if let Some(connection) = polled {
            shared.inbox.push(Mark::Activated(connection));
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

    /// The threads end: nobody listens any more.
    fn withdraw(&mut self, sockman: &SockMan) {
        if self.told == Some(I2pStatus::StartListening) {
            self.tell(sockman, I2pStatus::StopListening);
        }
    }

    /// Changes only.
    fn tell(&mut self, sockman: &SockMan, status: I2pStatus) {
        if self.told != Some(status) {
            self.told = Some(status);
            let address = self.address.as_ref();
            sockman.shared().handler.event_i2p_status(sockman, address, status);
        }
    }
}

fn timed_out(request: &'static str) -> Fault {
    let source = io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 minutes");
    Fault::Sam(SamError::BrokeOff { request, source: Some(source) })
}
