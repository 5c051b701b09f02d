//! `connect(2)`: a state machine over one non-blocking socket, to the destination or to the proxy.
//!
//! [`DirectConnect::step`] is plain: given a socket and the time, it says what to wait for. So it
//! can be advanced by hand in tests, and by any thread.

use std::{
    io,
    time::{Duration, Instant},
};

use super::Step;
use crate::{address::Service, sys::Sock};

/// A unix-domain listener whose backlog is full gives no event when it has room again: it is asked
/// again after this …
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// … which doubles up to this.
const LONGEST_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct DirectConnect {
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

impl DirectConnect {
    pub(crate) fn new(now: Instant) -> DirectConnect {
        DirectConnect { state: State::NotStarted { at: now, retry: FIRST_RETRY } }
    }

    /// Goes on, always with the same socket and destination. A step too early does no harm.
    pub(crate) fn step(&mut self, sock: &dyn Sock, to: &Service, now: Instant) -> io::Result<Step> {
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
