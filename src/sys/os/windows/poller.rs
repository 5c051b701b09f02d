//! The poller: mio's, which asks the AFD driver.
//!
//! A poller belongs to one thread, its waker to all. The list of the watched sockets has a lock,
//! under which no other is taken.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use mio::{Interest, Token};

use super::sockets::Shared;
use crate::sys::{EVENTS_PER_POLL, Poller, Readiness, Sock, Waker, sync::Mutex};

/// The token of the poller's own waker. No socket has this token.
const WAKER: Token = Token(usize::MAX);

/// The number of entries from which a list is searched for closed sockets.
const FEWEST_TO_PURGE: usize = 64;

pub(super) struct MioPoller {
    poll: mio::Poll,
    events: mio::Events,
    waker: Arc<MioWaker>,
    watched: Mutex<Watched>,
}

struct MioWaker(mio::Waker);

/// The watched sockets by their tokens.
#[derive(Default)]
struct Watched {
    sockets: HashMap<usize, Weak<Shared>>,
    /// The number of sockets that were open at the last search for closed ones.
    open: usize,
}

impl Watched {
    fn insert(&mut self, token: usize, socket: &Arc<Shared>) {
        if self.sockets.len() >= FEWEST_TO_PURGE.max(2 * self.open) {
            self.sockets.retain(|_, socket| socket.strong_count() > 0);
            self.open = self.sockets.len();
        }
        self.sockets.insert(token, Arc::downgrade(socket));
    }
}

impl MioPoller {
    pub(super) fn new() -> io::Result<MioPoller> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(MioWaker(mio::Waker::new(poll.registry(), WAKER)?));
        let events = mio::Events::with_capacity(EVENTS_PER_POLL);
        Ok(MioPoller { poll, events, waker, watched: Mutex::new(Watched::default()) })
    }

    /// Appends the events of the last poll of mio.
    fn report(&mut self, events: &mut Vec<Readiness>) {
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            let token = event.token().0;
            // A reset, or a connect that failed. The driver reports no other end of sending.
            let mut is_broken = event.is_error() || event.is_write_closed();
            if is_broken || event.is_read_closed() {
                let socket = self.watched.lock().sockets.get(&token).and_then(Weak::upgrade);
                match socket {
                    Some(socket) if is_broken => socket.note_reset(),
                    // A send has received the reset.
                    Some(socket) if socket.was_reset() => is_broken = true,
                    Some(socket) => socket.note_end(),
                    None => {}
                }
            }
            events.push(Readiness {
                token,
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                broken: is_broken,
                write_closed: event.is_write_closed(),
                priority: false,
            });
        }
    }
}

impl Poller for MioPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let socket = Shared::find(sock.as_raw_fd())?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut *socket.stream_mut(), Token(token), interest)?;
        self.watched.lock().insert(token, &socket);
        Ok(())
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        let socket = Shared::find(sock.as_raw_fd())?;
        self.poll.registry().deregister(&mut *socket.stream_mut())
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let before = events.len();
        self.poll.poll(&mut self.events, timeout)?;
        self.report(events);
        if events.len() > before {
            // An event may be old, and hide what has become true since: the driver reports a state
            // once it was asked again, which the poll does at its end.
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            self.report(events);
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
