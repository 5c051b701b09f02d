//! Attempts: connects that do not block their caller. An attempt begins on the caller's thread. The
//! socket thread steps the attempt when its socket is ready, its timer expires or its interrupt is
//! set.
//!
//! The blocking driver uses the same state machine. An attempt takes the connection map's mutex for
//! a moment.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Instant,
};

use super::{
    connect::{LogOptions, log_outcome, too_many},
    connection::Connection,
    inbox::Mark,
    map::{Reservation, Value},
    shared::Shared,
};
use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectErrorKind, ConnectOptions, Dial, Step},
    sys::{
        Poller, Readiness, Sock, Waker,
        interrupt::{Interrupt, WakerGuard, Watches},
        passing::{PAUSE, passes},
    },
};

/// A connect under way that the socket thread drives.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The connection that the attempt becomes. Until the attempt succeeds, the id can only be
    /// closed.
    pub(crate) connection: Arc<Connection>,
    /// The local address, as the kernel reported it when the connect began.
    me: Service,
    dial: Dial,
    log_options: LogOptions,
    cancel: Cancel,
}

/// The attempt's own interrupt, and the wakers registered with it.
struct Cancel {
    watches: Watches,
    _wakers: Vec<WakerGuard>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("is_set", &self.watches.is_interrupted()).finish()
    }
}

/// A connect that has taken the steps that need no wait, and has no id yet.
pub(crate) struct Begun<'a> {
    shared: &'a Arc<Shared>,
    place: Reservation<'a>,
    sock: Box<dyn Sock>,
    me: Service,
    dial: Dial,
    began: Instant,
    watches: Watches,
    log_options: LogOptions,
}

impl<'a> Begun<'a> {
    /// Begins a connect with the steps that need no wait. The socket thread takes the other steps.
    ///
    /// # Errors
    ///
    /// Returns the error of a connect that failed in these steps. A connect that failed at once
    /// gets no id.
    pub(crate) fn begin(
        shared: &'a Arc<Shared>,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<Begun<'a>, ConnectError> {
        let watches = Watches::new(&options.cancel);
        if watches.is_interrupted() || shared.interrupts().any(Interrupt::is_interrupted) {
            return Err(ConnectError::new(to, ConnectErrorKind::Interrupted));
        }
        let factory = &*shared.options.sock_factory;
        let began = factory.now();
        let i2p = shared.i2p.as_ref();
        let mut dial = Dial::to_any(to, options, i2p, &shared.options.sock_factory, began)?;
        let place = shared.reserve().ok_or_else(|| too_many(shared, to))?;

        let sock = dial.create_sock(factory)?;
        dial.begin(&*sock, began)?;
        // The kernel chose the local address when the connect began. `step` asks again if a lack of
        // buffers has delayed the connect.
        let me = match sock.local_address() {
            // A unix-domain socket that dials has no name.
            Err(error) if passes(&error) && dial.endpoint().addr().is_unix() => {
                Service::UNIX_UNNAMED
            }
            Err(error) if passes(&error) => Service::from(SocketAddr::from(([0, 0, 0, 0], 0))),
            asked => {
                let me = asked.map_err(|error| dial.failed("getsockname", error))?;
                dial.set_local_address(&me);
                me
            }
        };
        let log_options = LogOptions::of(options);
        Ok(Begun { shared, place, sock, me, dial, began, watches, log_options })
    }

    /// Gives the connect an id, under which the map keeps `value` until the outcome.
    pub(crate) fn fill(self, value: Option<Value>) -> Attempt {
        let Begun { shared, place, sock, me, dial, began, watches, log_options } = self;
        let connection = place.fill_connecting(sock, began, value);
        let wakers = if watches.is_empty() {
            Vec::new()
        } else {
            let waker: Arc<dyn Waker> = Arc::new(CancelWaker {
                shared: Arc::downgrade(shared),
                connection: Arc::downgrade(&connection),
            });
            watches.add_waker(&waker)
        };
        Attempt { connection, me, dial, log_options, cancel: Cancel { watches, _wakers: wakers } }
    }
}

impl Attempt {
    /// Steps the connect. A step that comes too early does no harm.
    ///
    /// # Errors
    ///
    /// Returns the error that ended the connect. The attempt must not be stepped again.
    pub(crate) fn step(&mut self, now: Instant) -> Result<Step, ConnectError> {
        if self.cancel.watches.is_interrupted() {
            return Err(ConnectError::new(self.to(), ConnectErrorKind::Interrupted));
        }
        let step = self.dial.step(self.connection.sock(), now)?;
        if matches!(step, Step::Connected) {
            let me = match self.dial.me() {
                Some(me) => me.clone(),
                None if self.lacks_address() => {
                    let is_late = self.deadline().is_some_and(|deadline| now >= deadline);
                    match self.connection.sock().local_address() {
                        Ok(me) => me,
                        Err(error) if passes(&error) && !is_late => {
                            return Ok(Step::WaitUntil(now + PAUSE));
                        }
                        Err(error) => return Err(self.failed("getsockname", error)),
                    }
                }
                None => self.me.clone(),
            };
            self.connection.set_addresses(me, self.dial.to().clone());
        }
        Ok(step)
    }

    /// Returns whether the kernel had not chosen the local address when it was asked. A socket that
    /// was bound to a wildcard, even with a port, gets its address when the connect begins.
    fn lacks_address(&self) -> bool {
        let me = &self.me;
        !self.dial.endpoint().addr().is_unix() && (me.port() == 0 || me.addr().is_unspecified())
    }

    /// Watches the sockets that the attempt waits on.
    pub(crate) fn watch(&mut self, poller: &dyn Poller, token: usize) -> io::Result<()> {
        self.dial.watch(self.connection.sock(), poller, token)
    }

    /// Notes an event. Returns whether the event brings the next step.
    pub(crate) fn heeds(&mut self, event: &Readiness) -> bool {
        self.dial.heeds(event)
    }

    /// Stops watching the socket of an attempt that has succeeded.
    pub(crate) fn unwatch(&mut self, poller: &dyn Poller) -> io::Result<()> {
        self.dial.unwatch(self.connection.sock(), poller)
    }

    pub(crate) fn to(&self) -> &Destination {
        self.dial.to()
    }

    /// Returns the error for a failure of the system call named `step`.
    pub(crate) fn failed(&self, step: &'static str, source: io::Error) -> ConnectError {
        self.dial.failed(step, source)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.dial.deadline()
    }

    pub(crate) fn log(&self, outcome: Result<(), &ConnectError>) {
        log_outcome(self.to(), &self.log_options, outcome.map(|()| self.connection.id));
    }
}

/// The waker that an attempt registers with its own interrupt. The waker leaves a mark that names
/// the cancelled attempt. The waker keeps no socket open, because the attempt may be over or closed
/// when the socket thread takes the mark.
struct CancelWaker {
    shared: Weak<Shared>,
    connection: Weak<Connection>,
}

impl Waker for CancelWaker {
    fn wake(&self) -> io::Result<()> {
        if let Some(shared) = self.shared.upgrade() {
            shared.inbox.push(Mark::ConnectCancelled(Weak::clone(&self.connection)));
        }
        Ok(())
    }
}
