//! The poller: mio's, which is epoll or kqueue.
//!
//! The methods take no lock. A poller belongs to one thread, its waker to all.

use std::{io, sync::Arc, time::Duration};

use mio::{Interest, Token, unix::SourceFd};

use crate::sys::{EVENTS_PER_POLL, Poller, Readiness, Sock, Waker};

/// The token of the poller's own waker. No socket has this token.
const WAKER: Token = Token(usize::MAX);

pub(super) struct MioPoller {
    poll: mio::Poll,
    events: mio::Events,
    waker: Arc<MioWaker>,
}

struct MioWaker(mio::Waker);

/// Whether mio's poller is epoll. With epoll, mio's "write closed" is a hang-up of both directions.
/// With kqueue, it is the end of sending, whoever ended it.
const IS_EPOLL: bool = cfg!(any(target_os = "linux", target_os = "android", target_os = "illumos"));

impl MioPoller {
    pub(super) fn new() -> io::Result<MioPoller> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(MioWaker(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(MioPoller { poll, events: mio::Events::with_capacity(EVENTS_PER_POLL), waker })
    }
}

impl Poller for MioPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Urgent data ends a receive early without a further edge, so the poller must report it.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        self.poll.registry().register(&mut SourceFd(&sock.as_raw_fd()), Token(token), interest)
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&sock.as_raw_fd()))
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let is_signal = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        let mut polled = self.poll.poll(&mut self.events, timeout);
        if polled.as_ref().is_err_and(is_signal) {
            // A signal ended the poll, perhaps long ago: Linux also ends a poll when the process is
            // stopped and continued. The second poll reports what has happened meanwhile.
            polled = self.poll.poll(&mut self.events, Some(Duration::ZERO));
        }
        match polled {
            Ok(()) => {}
            Err(error) if is_signal(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            events.push(Readiness {
                token: event.token().0,
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                broken: event.is_error() || (IS_EPOLL && event.is_write_closed()),
                write_closed: !IS_EPOLL && event.is_write_closed(),
                priority: event.is_priority(),
            });
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.waker) as Arc<dyn Waker>
    }
}

impl Waker for MioWaker {
    fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}
