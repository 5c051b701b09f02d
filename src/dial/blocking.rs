//! The driver that blocks its caller until the connect has succeeded or failed.
//!
//! The driver runs on the caller's thread, with a poller of its own, which the interrupts wake. The
//! driver takes the interrupts' mutexes for a moment. (The driver that does not block is the
//! engine's `connecting`.)

use std::{io, time::Instant};

use super::{ConnectError, ConnectErrorKind, Dial, Step};
use crate::sys::{
    self, Poller, Readiness, Sock, SockFactory,
    interrupt::{WakerGuard, Watches},
    passing::{PAUSE, passes},
};

/// Connects, and returns the connected socket. Blocks until the connect has succeeded, failed,
/// timed out or been interrupted.
///
/// # Errors
///
/// As [`SockMan::connect`](crate::SockMan::connect).
pub(crate) fn connect(
    factory: &dyn SockFactory,
    dial: &mut Dial,
    interrupts: &Watches,
) -> Result<Box<dyn Sock>, ConnectError> {
    let sock = dial.create_sock(factory)?;
    let mut waiting: Option<Waiting> = None;
    loop {
        if interrupts.is_interrupted() {
            return Err(ConnectError::new(dial.to(), ConnectErrorKind::Interrupted));
        }
        let now = factory.now();
        let (for_socket, mut until) = match dial.step(&*sock, now)? {
            Step::Connected => {
                if let Some(waiting) = &waiting {
                    waiting.release(dial, &*sock);
                }
                return Ok(sock);
            }
            Step::WaitForSocket(_) => (true, dial.deadline()),
            Step::WaitUntil(at) => {
                (false, Some(dial.deadline().map_or(at, |deadline| deadline.min(at))))
            }
        };
        // The poller is created only when the connect has to wait, because most unix-domain
        // connects succeed at once.
        let waiting = match &mut waiting {
            Some(waiting) => waiting,
            none => none.insert(
                Waiting::new(factory, interrupts).map_err(|error| dial.failed("poll", error))?,
            ),
        };
        if for_socket {
            match dial.watch(&*sock, &*waiting.poller, 0) {
                Err(error) if passes(&error) => {
                    let at = now + PAUSE;
                    until = Some(until.map_or(at, |until| until.min(at)));
                }
                watched => watched.map_err(|error| dial.failed("poll", error))?,
            }
        }
        // The wakers were added before this check of the flag, so no interrupt is missed.
        while !interrupts.is_interrupted() {
            let now = factory.now();
            waiting.poll(until, now).map_err(|error| dial.failed("poll", error))?;
            // The poll also ends for an interrupt and at `until`, without an event.
            if waiting.events.is_empty() || waiting.has_news(dial) {
                break;
            }
        }
    }
}

struct Waiting {
    poller: Box<dyn Poller>,
    events: Vec<Readiness>,
    _wakers: Vec<WakerGuard>,
}

impl Waiting {
    fn new(factory: &dyn SockFactory, interrupts: &Watches) -> io::Result<Waiting> {
        let poller = factory.create_poller()?;
        let wakers = interrupts.add_waker(&poller.waker());
        Ok(Waiting { poller, events: Vec::new(), _wakers: wakers })
    }

    /// Stops watching the socket of a connect that has succeeded. On Windows, a socket remembers its
    /// poller, even one that is gone. Elsewhere the end of the poller is enough.
    fn release(&self, dial: &mut Dial, sock: &dyn Sock) {
        // After a failure, the socket thread cannot watch the socket and reports that.
        let _ = dial.unwatch(sock, &*self.poller);
    }

    /// Returns whether an event came that the connect awaits.
    fn has_news(&self, dial: &mut Dial) -> bool {
        let mut has_news = false;
        for event in &self.events {
            has_news |= dial.heeds(event);
        }
        has_news
    }

    fn poll(&mut self, until: Option<Instant>, now: Instant) -> io::Result<()> {
        self.events.clear();
        let timeout = until.map(|until| until.saturating_duration_since(now));
        sys::poll(&mut *self.poller, &mut self.events, timeout)
    }
}
