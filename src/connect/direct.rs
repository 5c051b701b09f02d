//! A connect without a proxy: a state machine over one non-blocking socket, and the small driver
//! that blocks its caller for it. (The driver that does not block is `attempt`.)
//!
//! [`DirectConnect::step`] is plain: given a socket and the time, it says what to wait for. So it
//! can be advanced by hand in tests, and by any thread.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    Destination, Service,
    error::ConnectError,
    interrupt::Watches,
    sock::{Sock, SockFactory},
};

/// A unix-domain listener whose backlog is full gives no event when it has room again: it is asked
/// again after this …
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// … which doubles up to this.
const LONGEST_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct DirectConnect {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was started; try at this time, and wait this long after the next failure.
    NotStarted {
        at: Instant,
        retry: Duration,
    },
    /// The kernel is at it.
    InProgress,
    Connected,
}

/// What a step comes to.
#[derive(Debug)]
pub(crate) enum Step {
    Connected,
    /// Step again when the socket is writable.
    WaitForSocket,
    /// Step again at this time.
    WaitUntil(Instant),
}

impl DirectConnect {
    pub(super) fn new(now: Instant) -> DirectConnect {
        DirectConnect { state: State::NotStarted { at: now, retry: FIRST_RETRY } }
    }

    /// Goes on, always with the same socket and destination. A step too early does no harm.
    pub(super) fn step(&mut self, sock: &dyn Sock, to: &Service, now: Instant) -> io::Result<Step> {
        match self.state {
            State::NotStarted { at, .. } if now < at => Ok(Step::WaitUntil(at)),
            State::NotStarted { retry, .. } => self.start(sock, to, now, retry),
            State::InProgress => self.check(sock),
            State::Connected => Ok(Step::Connected),
        }
    }

    fn start(
        &mut self,
        sock: &dyn Sock,
        to: &Service,
        now: Instant,
        retry: Duration,
    ) -> io::Result<Step> {
        let Err(error) = sock.connect(to) else {
            self.state = State::Connected;
            return Ok(Step::Connected);
        };
        match error.raw_os_error() {
            // POSIX: a connect that a signal interrupts goes on by itself.
            Some(libc::EINPROGRESS | libc::EINTR) => {
                self.state = State::InProgress;
                Ok(Step::WaitForSocket)
            }
            // The backlog is full and nothing was started. Waiting for the socket would report a
            // success that is none: an unconnected unix-domain socket counts as writable.
            Some(libc::EAGAIN) if to.addr().is_unix() => {
                let at = now + retry;
                self.state = State::NotStarted { at, retry: (retry * 2).min(LONGEST_RETRY) };
                Ok(Step::WaitUntil(at))
            }
            _ => Err(error),
        }
    }

    fn check(&mut self, sock: &dyn Sock) -> io::Result<Step> {
        if let Some(error) = sock.take_error()? {
            return Err(error);
        }
        // Readiness may be spurious; a socket that has a peer is connected.
        match sock.peer_address() {
            Ok(_) => {
                self.state = State::Connected;
                Ok(Step::Connected)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(Step::WaitForSocket),
            Err(error) => Err(error),
        }
    }
}

/// Connects, and blocks the caller until that is over, one way or another.
pub(super) fn connect(
    factory: &dyn SockFactory,
    to: &Service,
    named: &Destination,
    interrupts: &Watches,
    timeout: Duration,
) -> Result<Box<dyn Sock>, ConnectError> {
    let began = factory.now();
    let sock =
        factory.create_sock(to).map_err(|error| ConnectError::new(named, "socket", error))?;
    let mut attempt = DirectConnect::new(began);
    let mut waiting: Option<Waiting> = None;
    loop {
        if interrupts.is_interrupted() {
            return Err(ConnectError::Interrupted);
        }
        let now = factory.now();
        let step = attempt
            .step(&*sock, to, now)
            .map_err(|error| ConnectError::new(named, "connect", error))?;
        let elapsed = now.saturating_duration_since(began);
        let Some(left) = timeout.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
            if matches!(step, Step::Connected) {
                return Ok(sock);
            }
            return Err(ConnectError::TimedOut { to: named.clone(), after: elapsed });
        };
        let (for_socket, wait) = match step {
            Step::Connected => return Ok(sock),
            Step::WaitForSocket => (true, left),
            Step::WaitUntil(at) => (false, left.min(at.saturating_duration_since(now))),
        };
        // Not made before it is needed: unix-domain connects mostly succeed at once.
        let poll = |error| ConnectError::new(named, "poll", error);
        let waiting = match &mut waiting {
            Some(waiting) => waiting,
            none => none.insert(Waiting::new(factory, interrupts).map_err(poll)?),
        };
        if for_socket {
            waiting.register(&*sock).map_err(poll)?;
        }
        // The wakers were added before this look at the flag, so none is missed.
        if !interrupts.is_interrupted() {
            waiting.poll(wait).map_err(poll)?;
        }
    }
}

/// What a connect waits in: a poller of its own, which the interrupts wake.
struct Waiting {
    poller: Box<dyn crate::sock::Poller>,
    events: Vec<crate::sock::Readiness>,
    registered: bool,
    _wakers: Vec<crate::interrupt::WakerGuard>,
}

impl Waiting {
    fn new(factory: &dyn SockFactory, interrupts: &Watches) -> io::Result<Waiting> {
        let poller = factory.create_poller()?;
        let wakers = interrupts.add_waker(&poller.waker());
        Ok(Waiting { poller, events: Vec::new(), registered: false, _wakers: wakers })
    }

    fn register(&mut self, sock: &dyn Sock) -> io::Result<()> {
        if !self.registered {
            self.poller.register(sock, 0)?;
            self.registered = true;
        }
        Ok(())
    }

    fn poll(&mut self, timeout: Duration) -> io::Result<()> {
        self.events.clear();
        self.poller.poll(&mut self.events, Some(timeout))
    }
}
