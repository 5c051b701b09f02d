//! The poller: mio's, which asks the AFD driver.
//!
//! A poller belongs to one thread, its waker to all. The list of the watched sockets has a lock,
//! under which no other is taken.

use std::{
    collections::HashMap,
    io, mem,
    sync::{Arc, Weak},
    time::Duration,
};

use mio::{Interest, Token};

use super::sockets::{Shared, blocked_calls};
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
    /// The number of calls that would have blocked, when the last poll began.
    blocked_calls: usize,
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
        let (watched, blocked_calls) = (Mutex::new(Watched::default()), blocked_calls());
        Ok(MioPoller { poll, events, waker, watched, blocked_calls })
    }

    /// Returns how many polls of mio, which do not wait, take the polls of the driver that mio
    /// cancels. mio cancels the poll of a socket on which a call would have blocked, if that poll
    /// does not ask for every event, and asks again only after the poll of mio that takes the
    /// cancelled one. Until then, nothing reports what arrives on the socket.
    fn polls_of_cancelled(&mut self) -> usize {
        let before = mem::replace(&mut self.blocked_calls, blocked_calls());
        let calls = self.blocked_calls.wrapping_sub(before);
        match calls {
            0 => 0,
            calls => calls.min(self.watched.lock().sockets.len()).div_ceil(EVENTS_PER_POLL),
        }
    }

    /// Makes one poll of mio, and appends its events. Returns whether the waker ended the poll.
    fn poll_once(
        &mut self,
        events: &mut Vec<Readiness>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        self.poll.poll(&mut self.events, timeout)?;
        let mut is_woken = false;
        for event in &self.events {
            if event.token() == WAKER {
                is_woken = true;
                continue;
            }
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
        Ok(is_woken)
    }
}

impl Poller for MioPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let socket = Shared::find(sock.as_raw_fd())?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        let mut stream = socket.stream_mut();
        if let Err(error) = registry.register(&mut *stream, Token(token), interest) {
            // A debug build of mio takes the socket for registered, and would refuse the next try.
            if error.kind() != io::ErrorKind::AlreadyExists {
                let _ = registry.deregister(&mut *stream);
            }
            return Err(error);
        }
        drop(stream);
        self.watched.lock().insert(token, &socket);
        Ok(())
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        let socket = Shared::find(sock.as_raw_fd())?;
        self.poll.registry().deregister(&mut *socket.stream_mut())
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let before = events.len();
        let mut is_woken = false;
        for _ in 0..self.polls_of_cancelled() {
            is_woken |= self.poll_once(events, Some(Duration::ZERO))?;
        }
        let taken = events.len();
        let is_over = is_woken || taken > before;
        self.poll_once(events, if is_over { Some(Duration::ZERO) } else { timeout })?;
        if events.len() > taken {
            // An event may be old, and hide what has become true since: the driver reports a state
            // once it was asked again, which the next poll does at its beginning.
            self.poll_once(events, Some(Duration::ZERO))?;
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::sys::{More, OsSockFactory, SockFactory};

    /// Returns a connected socket of the factory, and the peer's end.
    fn pair() -> (Box<dyn Sock>, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let (sock, ..) = OsSockFactory::default().adopt_connection(stream.into()).unwrap();
        (sock, peer)
    }

    /// Polls until the poller has reported something to receive.
    fn wait_until_readable(poller: &mut MioPoller) {
        let mut events = Vec::new();
        while !events.iter().any(|event: &Readiness| event.readable) {
            poller.poll(&mut events, None).unwrap();
        }
    }

    /// Receives one byte, and tries to receive another one.
    fn receive_all(sock: &dyn Sock) {
        assert_eq!(sock.recv(&mut [0; 9]).unwrap(), 1);
        assert_eq!(sock.recv(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// G15: mio cancels the poll of a socket on which a call would have blocked, and asks the driver
    /// again with the next poll. What has arrived by then is reported.
    #[test]
    fn a_poll_after_a_call_that_would_block_reports_what_has_arrived() {
        let (sock, mut peer) = pair();
        let copy = TcpStream::from(sock.duplicate().unwrap());
        let mut poller = MioPoller::new().unwrap();
        poller.register(&*sock, 7).unwrap();
        for _ in 0..20 {
            peer.write_all(b"x").unwrap();
            wait_until_readable(&mut poller);
            receive_all(&*sock);
            peer.write_all(b"y").unwrap();
            // The copy is not mio's, so its calls make mio ask for nothing.
            while copy.peek(&mut [0]).is_err() {}
            let mut events = Vec::new();
            poller.poll(&mut events, Some(Duration::ZERO)).unwrap();
            assert!(events.iter().any(|event| event.readable), "{events:?}");
            receive_all(&*sock);
        }
    }

    /// G9: a wake is not lost in the poll that takes what mio has cancelled.
    #[test]
    fn a_wake_ends_a_poll_after_a_call_that_would_block() {
        let (sock, _peer) = pair();
        let mut poller = MioPoller::new().unwrap();
        poller.register(&*sock, 7).unwrap();
        let mut events = Vec::new();
        while !events.iter().any(|event: &Readiness| event.writable) {
            poller.poll(&mut events, None).unwrap();
        }
        // The socket is full and has nothing to receive, so only the wake ends the poll.
        while sock.send(&[0; 65536], More::No).is_ok() {}
        poller.waker().wake().unwrap();
        events.clear();
        poller.poll(&mut events, None).unwrap();
        assert_eq!(events, []);
    }
}
