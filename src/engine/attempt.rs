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
    shared::Shared,
};
use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectErrorKind, ConnectOptions, Dial, Step, WaitsOn},
    sys::{
        Sock, Waker,
        interrupt::{WakerGuard, Watches},
        passing::{PAUSE, passes},
    },
};

/// A connect under way that the socket thread drives.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The connection that the attempt becomes. Until the attempt succeeds, the id can only be
    /// closed.
    pub(crate) connection: Arc<Connection>,
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

impl Attempt {
    /// Begins a connect with the steps that need no wait. The socket thread takes the other steps.
    ///
    /// # Errors
    ///
    /// Returns the error of a connect that failed in these steps. A connect that failed at once
    /// gets no id.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<Attempt, ConnectError> {
        let watches = Watches::new(&options.cancel);
        if watches.is_interrupted() || shared.watches().is_interrupted() {
            return Err(ConnectError::new(to, ConnectErrorKind::Interrupted));
        }
        let factory = &*shared.options.sock_factory;
        let now = factory.now();
        let mut dial = Dial::new(to, options, shared.i2p.as_ref(), now)?;
        let place = shared.reserve().ok_or_else(|| too_many(shared, to))?;

        let sock =
            factory.create_sock(dial.endpoint()).map_err(|error| dial.failed("socket", error))?;
        let sock = dial.wrap(sock);
        dial.begin(&*sock, now)?;
        // The kernel chose the local address when the connect began. `step` asks again if a lack of
        // buffers has delayed the connect.
        let me = match sock.local_address() {
            // A unix-domain socket that dials has no name.
            Err(error) if passes(&error) && dial.endpoint().addr().is_unix() => {
                Service::UNIX_UNNAMED
            }
            Err(error) if passes(&error) => Service::from(SocketAddr::from(([0, 0, 0, 0], 0))),
            asked => asked.map_err(|error| dial.failed("getsockname", error))?,
        };
        let connection = place.fill_connecting(sock, me, to.clone(), now);
        let waker: Arc<dyn Waker> = Arc::new(CancelWaker {
            shared: Arc::downgrade(shared),
            connection: Arc::downgrade(&connection),
        });
        let wakers = watches.add_waker(&waker);
        Ok(Attempt {
            connection,
            dial,
            log_options: LogOptions::of(options),
            cancel: Cancel { watches, _wakers: wakers },
        })
    }

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
            if let Some(me) = self.dial.me() {
                self.connection.set_me(me);
            } else if !self.dial.endpoint().addr().is_unix() && self.connection.me().port() == 0 {
                let is_late = self.deadline().is_some_and(|deadline| now >= deadline);
                match self.connection.sock().local_address() {
                    Ok(me) => self.connection.set_me(&me),
                    Err(error) if passes(&error) && !is_late => {
                        return Ok(Step::WaitUntil(now + PAUSE));
                    }
                    Err(error) => return Err(self.failed("getsockname", error)),
                }
            }
        }
        Ok(step)
    }

    pub(crate) fn waits_on(&self) -> (WaitsOn, &dyn Sock) {
        self.dial.waits_on(self.connection.sock())
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
