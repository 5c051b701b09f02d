//! The state machine of `connect(2)` over one non-blocking socket, which connects to the
//! destination or to the proxy.
//!
//! [`DirectConnect::step`] takes a socket and the time, and returns what to wait for. The state
//! machine takes no lock and runs on any thread, so tests can step it by hand.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Awaits, Step};
use crate::{
    address::Service,
    sys::{Sock, errors, passing::passes},
};

/// The first wait before the retry of a connect to a unix-domain listener with a full backlog. A
/// listener with a full backlog causes no event when it has room again.
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// The longest wait between two tries. Each retry doubles the wait up to this limit.
const LONGEST_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct DirectConnect {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing has started. The next try is at the time `at`. After another failure, the state
    /// machine waits for `retry`.
    NotStarted {
        at: Instant,
        retry: Duration,
    },
    /// The kernel is establishing the connection. `me` is the local address, if the owner has told
    /// it.
    InProgress {
        me: Option<Service>,
    },
    Connected,
}

impl DirectConnect {
    pub(crate) fn new(now: Instant) -> DirectConnect {
        DirectConnect { state: State::NotStarted { at: now, retry: FIRST_RETRY } }
    }

    /// Takes the next step. The caller passes the same socket and destination to each step. A step
    /// that comes too early does no harm.
    pub(crate) fn step(&mut self, sock: &dyn Sock, to: &Service, now: Instant) -> io::Result<Step> {
        match &self.state {
            State::NotStarted { at, .. } if now < *at => Ok(Step::WaitUntil(*at)),
            State::NotStarted { retry, .. } => self.start(sock, to, now, *retry),
            State::InProgress { .. } => self.check(sock, now),
            State::Connected => Ok(Step::Connected),
        }
    }

    /// Tells the state machine the local address of the socket, so that it need not ask the kernel.
    /// The kernel chooses the address when the connect starts. Before the start, this method does
    /// nothing.
    pub(crate) fn set_local_address(&mut self, address: &Service) {
        if let State::InProgress { me } = &mut self.state {
            *me = Some(address.clone());
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
            if !to.addr().is_unix()
                && sock.peer_address().is_ok_and(|peer| is_own(sock, None, &peer))
            {
                return Err(refuse_own(sock));
            }
            self.state = State::Connected;
            return Ok(Step::Connected);
        };
        match error.raw_os_error() {
            // POSIX: a connect that a signal interrupts continues asynchronously.
            Some(errors::EINPROGRESS | errors::EINTR) => {
                self.state = State::InProgress { me: None };
                Ok(Step::WaitForSocket(Awaits::Any))
            }
            // The backlog is full, so the kernel has not started the connect. Waiting for the
            // socket would report a false success, because an unconnected unix-domain socket counts
            // as writable. A lack of memory or buffers starts no connect either, and EAGAIN on TCP
            // is a lack of entries in a table of the kernel.
            _ if error.kind() == io::ErrorKind::WouldBlock || passes(&error) => {
                let at = now + retry;
                self.state = State::NotStarted { at, retry: (retry * 2).min(LONGEST_RETRY) };
                Ok(Step::WaitUntil(at))
            }
            _ => Err(error),
        }
    }

    fn check(&mut self, sock: &dyn Sock, now: Instant) -> io::Result<Step> {
        let State::InProgress { me } = &self.state else { return Ok(Step::Connected) };
        // A socket that has a peer is connected. `SO_ERROR` alone does not say that, because
        // readiness may be spurious. So the usual case needs one system call.
        let not_connected = match sock.peer_address() {
            Ok(peer) if is_own(sock, me.as_ref(), &peer) => return Err(refuse_own(sock)),
            Ok(_) => {
                self.state = State::Connected;
                return Ok(Step::Connected);
            }
            Err(error) => error,
        };
        if let Some(error) = sock.take_error()? {
            return Err(error);
        }
        match not_connected {
            error if error.kind() == io::ErrorKind::NotConnected => {
                Ok(Step::WaitForSocket(Awaits::Any))
            }
            error if passes(&error) => Ok(Step::WaitUntil(now + LONGEST_RETRY)),
            error => Err(error),
        }
    }
}

/// Returns whether a TCP socket is connected to itself. If no program listens on a port of the
/// ephemeral range, the kernel may choose that port for the socket, and the socket's request then
/// meets the socket (simultaneous open, RFC 9293 section 3.5). A unix-domain socket cannot be
/// connected to itself.
///
/// `me` is the local address, if the caller knows it.
fn is_own(sock: &dyn Sock, me: Option<&Service>, peer: &Service) -> bool {
    match me {
        _ if peer.addr().is_unix() => false,
        Some(me) => me == peer,
        None => sock.local_address().is_ok_and(|me| me == *peer),
    }
}

/// Prepares a socket that is connected to itself for its close, and returns the error.
fn refuse_own(sock: &dyn Sock) -> io::Error {
    // An orderly close would keep the port in TIME_WAIT, and the program that usually listens
    // there could not bind it.
    if let Err(error) = sock.set_reset_on_close() {
        log::debug!(target: "sockman::net", "cannot set SO_LINGER: {error}");
    }
    io::Error::new(
        io::ErrorKind::ConnectionRefused,
        "no program listens there, and the request reached its own socket",
    )
}
