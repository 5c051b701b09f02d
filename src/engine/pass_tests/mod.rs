//! Test doubles: a scripted poller and scripted sockets under a clock that stands still until told
//! otherwise, so that one pass can be run by hand.
//!
//! Used by the crate's own unit tests; runs on the test's thread alone.

mod connects;
mod pass;
mod sends;
mod sweep;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::slab::Token;
use crate::{
    address::Service,
    sys::{Poller, Readiness, Sock, SockFactory, Waker},
};

/// A machine in which nothing happens but what the test scripts.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    state: Mutex<State>,
    next_fd: AtomicI32,
}

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    socks: HashMap<RawFd, Script>,
    /// Registered descriptors and their tokens.
    tokens: HashMap<RawFd, usize>,
    /// What the next polls tell.
    events: Vec<Readiness>,
    /// The time-outs that the poller was given.
    timeouts: Vec<Option<Duration>>,
    /// What registering fails with, if it does.
    register_error: Option<i32>,
}

/// What a socket does next; what is not scripted would block.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) recvs: VecDeque<Result<Vec<u8>, i32>>,
    pub(crate) accepts: VecDeque<Result<RawFd, i32>>,
    /// How often `recv` was called.
    pub(crate) recv_calls: usize,
    pub(crate) accept_calls: usize,
    pub(crate) is_unix: bool,
    /// How many bytes the next sends take; those that are not scripted take all.
    pub(crate) room: VecDeque<usize>,
    /// How often `send` was called.
    pub(crate) send_calls: usize,
    /// What `connect` says; what is not scripted succeeds at once.
    pub(crate) connects: VecDeque<Result<(), i32>>,
    pub(crate) connect_calls: usize,
    /// What the next look at `SO_ERROR` finds.
    pub(crate) socket_error: Option<i32>,
    /// Not connected: `peer_address` says so.
    pub(crate) has_no_peer: bool,
    /// The descriptor was closed.
    pub(crate) closed: bool,
    /// What every send fails with, if it does.
    pub(crate) send_error: Option<i32>,
    pub(crate) shut: bool,
}

#[derive(Debug)]
pub(crate) struct MachineFactory {
    machine: Arc<Machine>,
    started: Instant,
}

impl Machine {
    pub(crate) fn new() -> Arc<Machine> {
        Arc::new(Machine { next_fd: AtomicI32::new(3), ..Machine::default() })
    }

    pub(crate) fn factory(self: &Arc<Self>) -> Arc<MachineFactory> {
        Arc::new(MachineFactory { machine: Arc::clone(self), started: Instant::now() })
    }

    /// A descriptor for a socket to be accepted.
    pub(crate) fn fresh_fd(&self) -> RawFd {
        let fd = self.next_fd.fetch_add(1, Ordering::Relaxed);
        // Scripted before, perhaps.
        self.state.lock().socks.entry(fd).or_default();
        fd
    }

    /// The descriptor that the next socket will have, to script what it does from the beginning.
    pub(crate) fn upcoming_fd(&self) -> RawFd {
        self.next_fd.load(Ordering::Relaxed)
    }

    /// The token that `fd` is registered with, if it is.
    pub(crate) fn token(&self, fd: RawFd) -> Option<Token> {
        self.state.lock().tokens.get(&fd).copied().map(Token::decode)
    }

    pub(crate) fn script<R>(&self, fd: RawFd, change: impl FnOnce(&mut Script) -> R) -> R {
        change(self.state.lock().socks.entry(fd).or_default())
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.state.lock().elapsed += by;
    }

    /// The next poll tells of `fd`.
    pub(crate) fn event(&self, fd: RawFd, event: Readiness) {
        let mut state = self.state.lock();
        let token = *state.tokens.get(&fd).expect("the socket is registered");
        state.events.push(Readiness { token, ..event });
    }

    pub(crate) fn last_timeout(&self) -> Option<Duration> {
        *self.state.lock().timeouts.last().expect("there was a poll")
    }

    pub(crate) fn fail_registrations(&self, code: Option<i32>) {
        self.state.lock().register_error = code;
    }
}

impl SockFactory for MachineFactory {
    fn create_sock(&self, _address: &Service) -> io::Result<Box<dyn Sock>> {
        let fd = self.machine.fresh_fd();
        Ok(Box::new(ScriptedSock { machine: Arc::clone(&self.machine), fd }))
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        Ok(Box::new(ScriptedPoller { machine: Arc::clone(&self.machine) }))
    }

    fn adopt_listener(&self, _listener: OwnedFd) -> io::Result<Box<dyn Sock>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        self.started + self.machine.state.lock().elapsed
    }
}

struct ScriptedPoller {
    machine: Arc<Machine>,
}

struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Poller for ScriptedPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let mut state = self.machine.state.lock();
        if let Some(code) = state.register_error {
            return Err(io::Error::from_raw_os_error(code));
        }
        state.tokens.insert(sock.as_raw_fd(), token);
        Ok(())
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.machine.state.lock().tokens.remove(&sock.as_raw_fd());
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let mut state = self.machine.state.lock();
        state.timeouts.push(timeout);
        events.append(&mut state.events);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(NoWaker)
    }
}

#[derive(Debug)]
struct ScriptedSock {
    machine: Arc<Machine>,
    fd: RawFd,
}

impl Drop for ScriptedSock {
    fn drop(&mut self) {
        // As the kernel does: who is closed is watched no more.
        let mut state = self.machine.state.lock();
        state.tokens.remove(&self.fd);
        state.socks.entry(self.fd).or_default().closed = true;
    }
}

fn would_block() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

impl Sock for ScriptedSock {
    fn connect(&self, _to: &Service) -> io::Result<()> {
        let connected = self.machine.script(self.fd, |script| {
            script.connect_calls += 1;
            script.connects.pop_front()
        });
        connected.unwrap_or(Ok(())).map_err(io::Error::from_raw_os_error)
    }

    fn bind(&self, _to: &Service) -> io::Result<()> {
        Ok(())
    }

    fn listen(self: Box<Self>, _backlog: i32) -> io::Result<Box<dyn Sock>> {
        Ok(self)
    }

    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        let accepted = self.machine.script(self.fd, |script| {
            script.accept_calls += 1;
            script.accepts.pop_front()
        });
        match accepted {
            Some(Ok(fd)) => {
                let sock = ScriptedSock { machine: Arc::clone(&self.machine), fd };
                Ok((Box::new(sock), "10.0.0.2:2".parse().expect("an address")))
            }
            Some(Err(code)) => Err(io::Error::from_raw_os_error(code)),
            None => Err(would_block()),
        }
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = self.machine.script(self.fd, |script| {
            script.recv_calls += 1;
            script.recvs.pop_front()
        });
        match received {
            Some(Ok(bytes)) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            Some(Err(code)) => Err(io::Error::from_raw_os_error(code)),
            None => Err(would_block()),
        }
    }

    fn send(&self, data: &[u8], _will_send_more: bool) -> io::Result<usize> {
        self.machine.script(self.fd, |script| {
            script.send_calls += 1;
            match (script.send_error, script.room.pop_front()) {
                (Some(code), _) => Err(io::Error::from_raw_os_error(code)),
                (None, Some(0)) => Err(would_block()),
                (None, room) => Ok(data.len().min(room.unwrap_or(usize::MAX))),
            }
        })
    }

    fn send_vectored(&self, data: &[IoSlice<'_>], _will_send_more: bool) -> io::Result<usize> {
        Ok(data.iter().map(|piece| piece.len()).sum())
    }

    fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        self.machine.script(self.fd, |script| script.shut = true);
        Ok(())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        let error = self.machine.script(self.fd, |script| script.socket_error.take());
        Ok(error.map(io::Error::from_raw_os_error))
    }

    fn local_address(&self) -> io::Result<Service> {
        Ok("10.0.0.1:1".parse().expect("an address"))
    }

    fn peer_address(&self) -> io::Result<Service> {
        if self.machine.script(self.fd, |script| script.has_no_peer) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok("10.0.0.2:2".parse().expect("an address"))
    }

    fn short_read_means_empty(&self) -> bool {
        self.machine.script(self.fd, |script| !script.is_unix)
    }

    fn short_send_means_full(&self) -> bool {
        self.machine.script(self.fd, |script| !script.is_unix)
    }

    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}
