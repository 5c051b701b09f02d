//! A connect that blocks nobody: begun on the caller's thread, then advanced by the socket thread,
//! step by step, whenever its socket, its timer or its interrupt calls for it.
//!
//! The state machine is the same as the blocking driver's. Takes the connection map's mutex for a
//! moment.

use std::{
    fmt, io,
    sync::{Arc, Weak},
    time::Instant,
};

use super::{
    ConnectOptions, Destination, dialled, direct::DirectConnect, direct::Step, log_outcome,
};
use crate::{
    connection::Connection,
    error::ConnectError,
    inbox::Mark,
    interrupt::{WakerGuard, Watches},
    sock::Waker,
    sockman::Shared,
};

#[derive(Debug)]
pub(crate) struct Attempt {
    /// What the connection will be. Until then, its id can only be closed.
    pub(crate) connection: Arc<Connection>,
    pub(crate) to: Destination,
    connect: DirectConnect,
    began: Instant,
    /// `None`: beyond what the clock can tell.
    deadline: Option<Instant>,
    is_important: bool,
    cancel: Cancel,
}

/// The attempt's own interrupt.
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
    /// Does what can be done at once. What has to be waited for is the socket thread's.
    pub(super) fn start(
        shared: &Arc<Shared>,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<Attempt, ConnectError> {
        let watches = Watches::new(&options.cancel);
        if watches.is_interrupted() || shared.watches().is_interrupted() {
            return Err(ConnectError::Interrupted);
        }
        let service = dialled(to)?;
        let limit = shared.connections.limit();
        let place = shared.reserve().ok_or(ConnectError::TooManyConnections { limit })?;

        let factory = &*shared.options.sock_factory;
        let began = factory.now();
        let fail = |step| move |error: io::Error| ConnectError::new(to, step, error);
        let sock = factory.create_sock(service).map_err(fail("socket"))?;
        let mut connect = DirectConnect::new(began);
        connect.step(&*sock, service, began).map_err(fail("connect"))?;
        // The kernel chose it when the connect began.
        let me = sock.local_address().map_err(fail("getsockname"))?;
        let connection = place.fill_connecting(sock, me, service.clone(), began);
        let waker: Arc<dyn Waker> = Arc::new(CancelWaker {
            shared: Arc::downgrade(shared),
            connection: Arc::downgrade(&connection),
        });
        let wakers = watches.add_waker(&waker);
        Ok(Attempt {
            connection,
            to: to.clone(),
            connect,
            began,
            deadline: began.checked_add(options.timeout),
            is_important: options.is_important,
            cancel: Cancel { watches, _wakers: wakers },
        })
    }

    /// Goes on. A step too early does no harm.
    ///
    /// # Errors
    ///
    /// The outcome: there is nothing more to step.
    pub(crate) fn step(&mut self, now: Instant) -> Result<Step, ConnectError> {
        if self.cancel.watches.is_interrupted() {
            return Err(ConnectError::Interrupted);
        }
        let (sock, them) = (self.connection.sock(), self.connection.them());
        let step = self
            .connect
            .step(sock, them, now)
            .map_err(|error| ConnectError::new(&self.to, "connect", error))?;
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        if is_late && !matches!(step, Step::Connected) {
            let after = now.saturating_duration_since(self.began);
            return Err(ConnectError::TimedOut { to: self.to.clone(), after });
        }
        Ok(step)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn log(&self, outcome: Result<(), &ConnectError>) {
        log_outcome(&self.to, self.is_important, outcome.map(|()| self.connection.id));
    }
}

/// Tells the socket thread which attempt its interrupt ends. Keeps no socket open: an attempt may be
/// over, or closed, while this is on its way.
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
