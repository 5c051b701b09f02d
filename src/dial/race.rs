//! A connect to several addresses (RFC 8305, section 5): the attempts begin one after the other,
//! the first that succeeds wins, and the others are dropped.
//!
//! A race owns a [`Dial`] and a socket for each address. It takes no lock of its own, and runs on
//! the thread that steps it.

use std::{
    fmt,
    io::{self, IoSlice},
    net::Shutdown,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use super::{Awaits, ConnectError, ConnectErrorKind, ConnectOptions, Dial, I2p, Step};
use crate::{
    address::{Destination, Service},
    sys::{
        More, NO_SOCKET, OwnedSocket, Poller, RawSocket, Readiness, Sock, SockFactory,
        passing::{PAUSE, passes},
    },
};

/// The default of [`ConnectOptions::attempt_delay`] (RFC 8305, section 8).
const DEFAULT_DELAY: Duration = Duration::from_millis(250);
/// The shortest delay that RFC 8305 permits.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// The attempts of one connect.
pub(crate) struct Race {
    /// One for each address, in the order of the addresses.
    racers: Vec<Racer>,
    /// How many of the racers have begun.
    begun: usize,
    delay: Duration,
    /// When the next racer begins if no attempt has succeeded.
    next: Option<Instant>,
    deadline: Option<Instant>,
    factory: Arc<dyn SockFactory>,
    winner: Option<Winner>,
    /// Whether an event came that an attempt awaits. The next step steps only such attempts.
    has_event: bool,
    /// The winner's socket, which the connection has.
    won: Arc<OnceLock<Box<dyn Sock>>>,
}

/// An attempt. An error that comes before the attempt begins waits for its turn.
type Racer = Result<Attempt, ConnectError>;

struct Attempt {
    dial: Dial,
    /// `None` until the attempt begins.
    sock: Option<Box<dyn Sock>>,
    waits_for: WaitsFor,
    /// Whether an event came that the attempt awaits.
    has_event: bool,
}

#[derive(Clone, Copy)]
enum WaitsFor {
    Socket,
    Time(Instant),
}

struct Winner {
    dial: Dial,
    me: Service,
}

impl Race {
    /// Prepares the attempts, in the order of the addresses.
    ///
    /// # Errors
    ///
    /// Fails if no address can be dialled with these options.
    pub(crate) fn new(
        to: &Destination,
        options: &ConnectOptions,
        i2p: Option<&Arc<I2p>>,
        factory: &Arc<dyn SockFactory>,
        now: Instant,
    ) -> Result<Race, ConnectError> {
        let of_one = ConnectOptions { alternatives: Vec::new(), ..options.clone() };
        let mut addresses: Vec<&Destination> = Vec::new();
        for address in std::iter::once(to).chain(&options.alternatives) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let attempt =
            |dial| Attempt { dial, sock: None, waits_for: WaitsFor::Socket, has_event: false };
        let dials = addresses.iter().map(|address| Dial::new(address, &of_one, i2p, now));
        let mut racers: Vec<Racer> = dials.map(|dial| dial.map(attempt)).collect();
        let attempts = racers.iter().flatten();
        let Some(default_timeout) = attempts.map(|racer| racer.dial.route.default_timeout).max()
        else {
            return Err(all_failed(to, racers));
        };
        let deadline = now.checked_add(options.timeout.unwrap_or(default_timeout));
        for attempt in racers.iter_mut().flatten() {
            attempt.dial.deadline = deadline;
        }
        Ok(Race {
            racers,
            begun: 0,
            delay: options.attempt_delay.unwrap_or(DEFAULT_DELAY).max(SHORTEST_DELAY),
            next: Some(now),
            deadline,
            factory: Arc::clone(factory),
            winner: None,
            has_event: false,
            won: Arc::default(),
        })
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns when the race has to be stepped although nothing has happened on a socket.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let attempts = self.racers.iter().flatten().filter_map(|attempt| match attempt.waits_for {
            WaitsFor::Time(at) => Some(at),
            WaitsFor::Socket => None,
        });
        attempts.chain(self.next).min()
    }

    /// Returns the socket of the connection, which is the winner's when there is one.
    pub(crate) fn sock(&self) -> Box<dyn Sock> {
        Box::new(RaceSock(Arc::clone(&self.won)))
    }

    /// Returns the address that was reached.
    pub(crate) fn reached(&self) -> Option<&Destination> {
        self.winner.as_ref().map(|winner| winner.dial.to())
    }

    pub(crate) fn me(&self) -> Option<&Service> {
        self.winner.as_ref().map(|winner| &winner.me)
    }

    /// Steps every attempt that has begun, and begins the next one if its time has come or an
    /// attempt has failed.
    ///
    /// # Errors
    ///
    /// Fails with the errors of all attempts, in the order of the addresses.
    pub(crate) fn step(&mut self, to: &Destination, now: Instant) -> Result<Step, ConnectError> {
        if self.winner.is_some() {
            return Ok(Step::Connected);
        }
        let by_event = std::mem::take(&mut self.has_event);
        for at in 0..self.begun {
            if by_event && !self.takes_event(at) {
                continue;
            }
            self.step_racer(at, now);
            if self.winner.is_some() {
                return Ok(Step::Connected);
            }
        }
        while self.next.is_some_and(|next| next <= now) {
            self.begin_next(now);
            if self.winner.is_some() {
                return Ok(Step::Connected);
            }
        }
        if self.racers.iter().flatten().any(|attempt| attempt.sock.is_some()) {
            return Ok(Step::WaitForSocket(Awaits::Any));
        }
        Err(all_failed(to, std::mem::take(&mut self.racers)))
    }

    /// Watches the sockets of the attempts that wait for them.
    pub(crate) fn watch(&mut self, poller: &dyn Poller, token: usize) -> io::Result<()> {
        for attempt in self.racers.iter_mut().flatten() {
            if let (Some(sock), WaitsFor::Socket) = (&attempt.sock, attempt.waits_for) {
                attempt.dial.watch(&**sock, poller, token)?;
            }
        }
        Ok(())
    }

    /// Notes an event. The attempts have one token, so the event may be one of any attempt that
    /// awaits such an event. Returns whether there is one.
    pub(crate) fn heeds(&mut self, event: &Readiness) -> bool {
        for attempt in self.racers.iter_mut().flatten().filter(|attempt| attempt.sock.is_some()) {
            attempt.has_event |= attempt.dial.heeds(event);
            self.has_event |= attempt.has_event;
        }
        self.has_event
    }

    fn takes_event(&mut self, at: usize) -> bool {
        let attempt = self.racers.get_mut(at).and_then(|racer| racer.as_mut().ok());
        attempt.is_some_and(|attempt| std::mem::take(&mut attempt.has_event))
    }

    /// Stops watching the socket of the winner, `sock`.
    pub(crate) fn unwatch(&mut self, sock: &dyn Sock, poller: &dyn Poller) -> io::Result<()> {
        match &mut self.winner {
            Some(winner) => winner.dial.unwatch(sock, poller),
            None => Ok(()),
        }
    }

    fn begin_next(&mut self, now: Instant) {
        let (at, count) = (self.begun, self.racers.len());
        let Some(racer) = self.racers.get_mut(at) else {
            self.next = None;
            return;
        };
        self.begun += 1;
        // A delay beyond the clock's range leaves the next attempt to the failure of this one.
        self.next = now.checked_add(self.delay).filter(|_| self.begun < count);
        let Ok(attempt) = racer else {
            // The address cannot be dialled with these options.
            self.next = self.has_more().then_some(now);
            return;
        };
        attempt.dial.began = now;
        let created = attempt.dial.create_sock(&*self.factory);
        let begun = created.and_then(|sock| attempt.dial.begin(&*sock, now).map(|()| sock));
        match begun {
            Ok(sock) => {
                attempt.sock = Some(sock);
                self.step_racer(at, now);
            }
            Err(error) => self.failed(at, error, now),
        }
    }

    fn step_racer(&mut self, at: usize, now: Instant) {
        let Some(Ok(Attempt { dial, sock: Some(sock), waits_for, .. })) = self.racers.get_mut(at)
        else {
            return;
        };
        match dial.step(&**sock, now) {
            Ok(Step::WaitForSocket(_)) => *waits_for = WaitsFor::Socket,
            Ok(Step::WaitUntil(until)) => *waits_for = WaitsFor::Time(until),
            Ok(Step::Connected) => self.wins(at, now),
            Err(error) => self.failed(at, error, now),
        }
    }

    /// Begins the next attempt at once, unless the time is over.
    fn failed(&mut self, at: usize, error: ConnectError, now: Instant) {
        if let Some(racer) = self.racers.get_mut(at) {
            *racer = Err(error);
        }
        self.next = (self.has_more() && !self.is_late(now)).then_some(now);
    }

    /// Returns whether an address is left that was not tried.
    fn has_more(&self) -> bool {
        self.begun < self.racers.len()
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    fn wait_until(&mut self, at: usize, until: Instant) {
        if let Some(Ok(attempt)) = self.racers.get_mut(at) {
            attempt.waits_for = WaitsFor::Time(until);
        }
    }

    fn wins(&mut self, at: usize, now: Instant) {
        let Some(Ok(Attempt { dial, sock: Some(sock), .. })) = self.racers.get(at) else { return };
        let me = match dial.me() {
            Some(me) => me.clone(),
            None => match sock.local_address() {
                Ok(me) => me,
                // The dial stays connected, and the next step asks again.
                Err(error) if passes(&error) && !self.is_late(now) => {
                    return self.wait_until(at, now + PAUSE);
                }
                Err(error) => return self.failed(at, dial.failed("getsockname", error), now),
            },
        };
        // The other attempts end here: their sockets are closed.
        let mut racers = std::mem::take(&mut self.racers);
        if let Ok(Attempt { dial, sock: Some(sock), .. }) = racers.swap_remove(at) {
            self.won.get_or_init(|| sock);
            self.winner = Some(Winner { dial, me });
        }
    }
}

/// Returns the error of a connect all of whose attempts have failed.
fn all_failed(to: &Destination, racers: Vec<Racer>) -> ConnectError {
    let errors = racers.into_iter().filter_map(Result::err).collect();
    ConnectError::new(to, ConnectErrorKind::AllFailed { errors })
}

impl fmt::Debug for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Race").field("begun", &self.begun).finish_non_exhaustive()
    }
}

/// The socket of a connection to one of several addresses. Before an attempt has won, there is
/// nothing to call: the race itself steps the sockets of the attempts.
struct RaceSock(Arc<OnceLock<Box<dyn Sock>>>);

impl RaceSock {
    fn won(&self) -> io::Result<&dyn Sock> {
        self.0.get().map(|sock| &**sock).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl fmt::Debug for RaceSock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaceSock({:?})", self.0.get())
    }
}

impl Sock for RaceSock {
    fn connect(&self, to: &Service) -> io::Result<()> {
        self.won()?.connect(to)
    }
    fn bind(&self, to: &Service) -> io::Result<()> {
        self.won()?.bind(to)
    }
    fn listen(self: Box<Self>, _: i32) -> io::Result<Box<dyn Sock>> {
        Err(io::ErrorKind::InvalidInput.into())
    }
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        self.won()?.accept()
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.won()?.recv(buffer)
    }
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.won()?.peek(buffer)
    }
    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.won()?.send(data, more)
    }
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.won()?.send_vectored(data, more)
    }
    /// Before an attempt has won, the close of the connect drops the race with its sockets.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.won()?.shutdown(how)
    }
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.won()?.take_error()
    }
    fn local_address(&self) -> io::Result<Service> {
        // The address is known when an attempt has won.
        self.0.get().map_or(Ok(Service::UNIX_UNNAMED), |sock| sock.local_address())
    }
    fn peer_address(&self) -> io::Result<Service> {
        self.won()?.peer_address()
    }
    fn short_read_means_empty(&self) -> bool {
        self.0.get().is_some_and(|sock| sock.short_read_means_empty())
    }
    fn would_block_repeats_events(&self) -> bool {
        self.0.get().is_some_and(|sock| sock.would_block_repeats_events())
    }
    fn short_send_means_full(&self) -> bool {
        self.0.get().is_some_and(|sock| sock.short_send_means_full())
    }
    fn set_reset_on_close(&self) -> io::Result<()> {
        self.won()?.set_reset_on_close()
    }
    fn duplicate(&self) -> io::Result<OwnedSocket> {
        self.won()?.duplicate()
    }
    fn as_raw_fd(&self) -> RawSocket {
        self.0.get().map_or(NO_SOCKET, |sock| sock.as_raw_fd())
    }
}
