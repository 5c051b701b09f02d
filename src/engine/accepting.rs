//! Accepting: the latch and the back-off of each listener. This module gives accepted connections
//! their place and their id.
//!
//! The module belongs to the socket thread. It takes the connection map's mutex for a moment. No
//! lock is held while the handler is called.

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
use crate::{
    address::Service,
    sys::{Sock, errors, passing::passes},
};

/// The first back-off of a listener after a resource ran out.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest back-off. Each back-off is twice the previous one, up to this length.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The most accepts in a pass that may each lose one client. More of them in a pass that accepts no
/// client mean that the error belongs to the listener, not to a client. A seccomp filter can answer
/// every accept with any error.
const MOST_LOST: usize = 256;

/// A listener as the socket thread sees it.
#[derive(Debug)]
pub(crate) struct Accepting {
    listener: Arc<Listener>,
    /// Whether the poller watches the socket. A registration that fails is repeated after a
    /// back-off, in the same way as an accept that lacks a resource.
    is_registered: bool,
    /// The latch: set by an event of the poller, cleared when accepting would block.
    ready: bool,
    /// A socket that was accepted but found no place, because a connect on another thread took the
    /// last place.
    held: Option<(Box<dyn Sock>, Service)>,
    /// The local address of the last connection that was accepted, or the listener's address before
    /// the first one. Connections with the same local address share it, which saves memory.
    last_me: Arc<Service>,
    /// The length of the last back-off, and when the back-off ends. The value is `None` while no
    /// resource is lacking.
    pause: Option<(Duration, Instant)>,
}

/// The meaning of an accept that failed.
enum AcceptFailure {
    /// No client waits, so the latch is cleared.
    WouldBlock,
    /// The call consumed a client that is gone, or a signal came. Accepting goes on.
    ClientLost,
    /// The next accept would fail too. A resource ran out, or the system forbids the call. The
    /// listener backs off.
    Persists,
}

impl Accepting {
    pub(crate) fn new(listener: Arc<Listener>) -> Accepting {
        let last_me = Arc::new(listener.address().clone());
        let (ready, held, pause) = (false, None, None);
        Accepting { listener, is_registered: false, ready, held, last_me, pause }
    }

    pub(crate) fn latch(&mut self) {
        self.ready = true;
    }

    /// Returns whether the listener has something to do, now or when its back-off ends. Returns
    /// `false` for a stopped listener, because its latch would keep the loop awake until the socket
    /// thread takes the mark of the stop.
    pub(crate) fn is_due(&self) -> bool {
        (self.ready || !self.is_registered) && !self.listener.is_stopped()
    }

    /// Registers the socket with the poller, unless it is registered already or the listener backs
    /// off.
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
                if self.pause(now, LONGEST_PAUSE) {
                    log::error!(
                        target: "sockman::net",
                        "cannot watch the listener on {} for readiness: {error}; retrying at \
                         least every {LONGEST_PAUSE:?} until it succeeds",
                        self.listener.address()
                    );
                }
            }
        }
    }

    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Returns the local address of a socket that this listener accepted. A TCP socket is asked,
    /// because its address may differ from the listener's: a wildcard listener takes connections to
    /// every local address, and the kernel hands connections to other addresses to the listener of a
    /// transparent proxy (`tproxy`, a BPF program). A unix-domain socket has the name of its
    /// listener.
    fn me(&mut self, accepted: &dyn Sock) -> io::Result<Arc<Service>> {
        if !self.listener.address().addr().is_unix() {
            let me = accepted.local_address()?;
            if me != *self.last_me {
                self.last_me = Arc::new(me);
            }
        }
        Ok(Arc::clone(&self.last_me))
    }

    /// Returns when the current back-off ends, or `None` if the listener does not back off.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.map(|(_, until)| until).filter(|until| *until > now)
    }

    /// Clears the latch and ends the lack of resources, because all waiting clients were accepted.
    fn drained(&mut self) {
        self.ready = false;
        self.pause = None;
    }

    /// Begins a back-off, or a longer one of at most `longest`. Returns `true` if this back-off is
    /// the first one of a lack of resources. The caller logs only the first one.
    fn pause(&mut self, now: Instant, longest: Duration) -> bool {
        let begins = self.pause.is_none();
        let length = match self.pause {
            None => FIRST_PAUSE,
            Some((last, _)) => (last * 2).min(longest),
        };
        self.pause = Some((length, now + length));
        begins
    }
}

impl AcceptFailure {
    fn of(error: &io::Error) -> AcceptFailure {
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => AcceptFailure::WouldBlock,
            // Windows reports a client that has reset in this way, and Wine in the second.
            _ if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            ) =>
            {
                AcceptFailure::ClientLost
            }
            // Linux's accept(2) returns network errors that are pending on the new connection. Its
            // manual page says to treat them like EAGAIN. Only errors that consume a client belong
            // here. EPERM does not: seccomp and the security modules refuse before the kernel takes
            // a client from the queue.
            Some(
                errors::ECONNABORTED
                | errors::EINTR
                | errors::EPROTO
                | errors::ENETDOWN
                | errors::ENOPROTOOPT
                | errors::EHOSTDOWN
                | errors::EHOSTUNREACH
                | errors::EOPNOTSUPP
                | errors::ENETUNREACH
                | errors::ETIMEDOUT,
            ) => AcceptFailure::ClientLost,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(errors::ENONET) => AcceptFailure::ClientLost,
            None if error.kind() == io::ErrorKind::Interrupted
                || error.kind() == io::ErrorKind::ConnectionAborted =>
            {
                AcceptFailure::ClientLost
            }
            // EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM. An unknown error backs off too, so that it
            // does not make the loop spin.
            _ => AcceptFailure::Persists,
        }
    }
}

impl Accepting {
    /// Accepts until no client waits or the batch is full. Passes each connection that the handler
    /// keeps to `add` at once, so that no connection is lost if the next callback panics.
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
        let (mut accepted, mut lost) = (0, 0);
        while accepted < shared.options.accept_batch {
            if context.interrupts.is_interrupted() || self.listener.is_stopped() {
                return;
            }
            // At the limit the latch stays set, and clients wait in the kernel's backlog. A place
            // is taken only after a client was accepted. A place taken earlier might be the last
            // one, and a connect on another thread would fail without need.
            if shared.connections.is_full() {
                return;
            }
            let (sock, them) = match self.held.take() {
                Some(held) => held,
                None => match self.accept(context, now) {
                    Accepted::One(sock, them) => (sock, them),
                    Accepted::Nothing(error) => {
                        lost += 1;
                        if lost < MOST_LOST {
                            continue;
                        }
                        if accepted == 0 {
                            // Each try makes many calls, so this back-off does not grow. A flood of
                            // clients that are gone would otherwise delay the others.
                            self.back_off(context, now, FIRST_PAUSE, &error);
                        }
                        return;
                    }
                    Accepted::Over => return,
                },
            };
            accepted += 1;
            let Some(place) = shared.reserve() else {
                self.held = Some((sock, them));
                return;
            };
            let me = match self.me(&*sock) {
                Ok(me) => me,
                Err(error) if passes(&error) => {
                    self.held = Some((sock, them));
                    self.back_off(context, now, LONGEST_PAUSE, &error);
                    return;
                }
                Err(error) => {
                    log::debug!(
                        target: "sockman::net",
                        "dropped the connection from {them}: cannot read its local address: {error}"
                    );
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
        let sock = self.listener.sock();
        let accepted = if self.listener.is_adopted() {
            // Another holder of the listener may have made it block, and may take the client.
            sock.ready_to_accept().and_then(|is_ready| {
                if is_ready { sock.accept() } else { Err(io::ErrorKind::WouldBlock.into()) }
            })
        } else {
            sock.accept()
        };
        let error = match accepted {
            Ok((sock, them)) => {
                counters.accepted.add_owned(1);
                self.listener.prepare_accepted(&*sock, &them);
                return Accepted::One(sock, them);
            }
            Err(error) => error,
        };
        match AcceptFailure::of(&error) {
            // Another thread has just stopped the listener, which caused the error.
            _ if self.listener.is_stopped() => Accepted::Over,
            AcceptFailure::WouldBlock => {
                self.drained();
                Accepted::Over
            }
            AcceptFailure::ClientLost => {
                log::trace!(
                    target: "sockman::net",
                    "an accept on {} failed: {error}", self.listener.address()
                );
                Accepted::Nothing(error)
            }
            AcceptFailure::Persists => {
                self.back_off(context, now, LONGEST_PAUSE, &error);
                Accepted::Over
            }
        }
    }

    /// Begins a back-off of at most `longest`, or a longer one, after an accept that failed with
    /// `error`.
    fn back_off(
        &mut self,
        context: &Context<'_>,
        now: Instant,
        longest: Duration,
        error: &io::Error,
    ) {
        context.shared().counters.accept_pauses.add_owned(1);
        if self.pause(now, longest) {
            log::warn!(
                target: "sockman::net",
                "cannot accept on {}: {error}; retrying at least every {LONGEST_PAUSE:?} until it \
                 succeeds",
                self.listener.address()
            );
        }
    }
}

/// The result of one call of accept.
enum Accepted {
    One(Box<dyn Sock>, Service),
    /// The accept returned no connection, but more clients may wait.
    Nothing(io::Error),
    /// The listener accepts no more connections in this pass.
    Over,
}
