//! Accepting: the latch and the back-off of each listener, and the way of a new connection to its
//! id.
//!
//! Belongs to the socket thread. Takes the connection map's mutex for a moment, none while it calls
//! the handler.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    announce::announce_accepted,
    connection::{Connection, Direction},
    context::Context,
    listener::Listener,
    poll_set::PollSet,
    slab::Key,
};
use crate::{address::Service, sys::Sock};

/// The first pause of a listener after a resource ran out …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// … which doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A listener as the socket thread sees it.
#[derive(Debug)]
pub(crate) struct Accepting {
    listener: Arc<Listener>,
    /// The poller watches it. If it would not, it is asked again, as after any lack of resources.
    is_registered: bool,
    /// Latched by the poller's event, cleared when accepting would block.
    ready: bool,
    is_wildcard: bool,
    /// Accepted, and then there was no place for it: a connect on another thread took the last.
    held: Option<(Box<dyn Sock>, Service)>,
    /// Within an episode of exhaustion: how long the last pause was, and when it is over.
    pause: Option<(Duration, Instant)>,
}

/// What an accept that failed means.
enum AcceptFailure {
    /// Nobody waits: the latch is cleared.
    WouldBlock,
    /// That client is gone again, or a signal came: nothing.
    Nothing,
    /// A resource ran out: pause.
    Exhausted,
}

impl Accepting {
    pub(crate) fn new(listener: Arc<Listener>) -> Accepting {
        let is_wildcard = listener.address().addr().is_unspecified();
        let (ready, held, pause) = (false, None, None);
        Accepting { listener, is_registered: false, ready, is_wildcard, held, pause }
    }

    pub(crate) fn latch(&mut self) {
        self.ready = true;
    }

    /// There is something to do for it, now or when its pause is over. Not if it was stopped: the
    /// mark of that is on its way, and until it comes a latch that is up would keep the loop awake.
    pub(crate) fn is_due(&self) -> bool {
        (self.ready || !self.is_registered) && !self.listener.is_stopped()
    }

    /// Has the poller watch it, unless that is so already or it pauses.
    pub(crate) fn register(&mut self, poll_set: &PollSet, key: Key, now: Instant) {
        if self.is_registered || self.paused_until(now).is_some() {
            return;
        }
        match poll_set.register_listener(self.listener.sock(), key) {
            Ok(()) => {
                self.is_registered = true;
                self.pause = None;
            }
            Err(error) => {
                if self.pause(now) {
                    log::error!(
                        target: "sockman::net",
                        "cannot watch the listener on {} for readiness: {error}; trying again \
                         every {LONGEST_PAUSE:?} at the latest until it goes",
                        self.listener.address()
                    );
                }
            }
        }
    }

    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The local address of a socket that this listener accepted.
    fn me(&self, accepted: &dyn Sock) -> io::Result<Service> {
        if self.is_wildcard {
            accepted.local_address()
        } else {
            Ok(self.listener.address().clone())
        }
    }

    /// Until when it pauses, if it does.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.map(|(_, until)| until).filter(|until| *until > now)
    }

    /// Everybody who waited was accepted: the episode, if there was one, is over.
    fn drained(&mut self) {
        self.ready = false;
        self.pause = None;
    }

    /// Starts or lengthens the pause. `true` if an episode begins with it, which is what is logged.
    fn pause(&mut self, now: Instant) -> bool {
        let begins = self.pause.is_none();
        let length = match self.pause {
            None => FIRST_PAUSE,
            Some((last, _)) => (last * 2).min(LONGEST_PAUSE),
        };
        self.pause = Some((length, now + length));
        begins
    }
}

impl AcceptFailure {
    fn of(error: &io::Error) -> AcceptFailure {
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => AcceptFailure::WouldBlock,
            // Linux hands errors that wait on the new connection's network to accept(2), which
            // says to treat them as if nobody had come; a firewall's EPERM is of the same kind.
            Some(
                libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT,
            ) => AcceptFailure::Nothing,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::ENONET) => AcceptFailure::Nothing,
            None if error.kind() == io::ErrorKind::Interrupted
                || error.kind() == io::ErrorKind::ConnectionAborted =>
            {
                AcceptFailure::Nothing
            }
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and what is unknown had better not spin either.
            _ => AcceptFailure::Exhausted,
        }
    }
}

impl Accepting {
    /// Accepts until nobody waits or the batch is full, and hands each connection that the handler
    /// took to `add`, one by one: nothing is lost if the next callback panics.
    pub(crate) fn accept_batch(
        &mut self,
        context: &Context<'_>,
        now: Instant,
        mut add: impl FnMut(Arc<Connection>),
    ) {
        let shared = context.shared();
        if !self.ready || self.paused_until(now).is_some() {
            return;
        }
        for _ in 0..shared.options.accept_batch {
            if context.interrupts.is_interrupted() || self.listener.is_stopped() {
                return;
            }
            // At the limit the latch stays, and with it whoever waits in the kernel's backlog. No
            // place is taken before somebody is there: it might be the last, and a connect that
            // failed for want of it would have failed for nothing.
            if shared.connections.is_full() {
                return;
            }
            let (sock, them) = match self.held.take() {
                Some(held) => held,
                None => match self.accept(context, now) {
                    Accepted::One(sock, them) => (sock, them),
                    Accepted::Nothing => continue,
                    Accepted::Over => return,
                },
            };
            let Some(place) = shared.reserve() else {
                self.held = Some((sock, them));
                return;
            };
            let me = match self.me(&*sock) {
                Ok(me) => me,
                Err(error) => {
                    log::debug!(target: "sockman::net", "{them} is gone again: {error}");
                    continue;
                }
            };
            let to = them.clone().into();
            let connection = place.fill(Direction::Inbound, sock, me, to, now);
            if let Some(connection) = announce_accepted(context.sockman, &connection, &them) {
                add(connection);
            }
        }
    }

    fn accept(&mut self, context: &Context<'_>, now: Instant) -> Accepted {
        let counters = &context.shared().counters;
        let error = match self.listener.sock().accept() {
            Ok((sock, them)) => {
                counters.accepted.add_owned(1);
                return Accepted::One(sock, them);
            }
            Err(error) => error,
        };
        match AcceptFailure::of(&error) {
            // Stopped by another thread just now: that is what the error is about.
            _ if self.listener.is_stopped() => Accepted::Over,
            AcceptFailure::WouldBlock => {
                self.drained();
                Accepted::Over
            }
            AcceptFailure::Nothing => {
                log::trace!(target: "sockman::net", "accept: {error}");
                Accepted::Nothing
            }
            AcceptFailure::Exhausted => {
                counters.accept_pauses.add_owned(1);
                if self.pause(now) {
                    log::warn!(
                        target: "sockman::net",
                        "cannot accept on {}: {error}; trying again every {LONGEST_PAUSE:?} at \
                         the latest until it goes",
                        self.listener.address()
                    );
                }
                Accepted::Over
            }
        }
    }
}

/// What one try to accept comes to.
enum Accepted {
    One(Box<dyn Sock>, Service),
    /// That one does not count; there may be more.
    Nothing,
    /// No more in this pass.
    Over,
}
