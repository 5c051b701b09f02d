//! A listener that other code has bound and that other processes may hold too.
//!
//! The methods run on the socket thread, except `shutdown` and `local_address`. Only
//! `ready_to_accept` takes a lock, which no other method takes.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::RawFd,
    time::Duration,
};

use mio::{Interest, Token, unix::SourceFd};

use super::OsSock;
use crate::{
    address::Service,
    sys::{More, Sock, sync::Mutex},
};

/// A listener that other code has bound. Other processes may hold the same socket. They may clear
/// `O_NONBLOCK`, which belongs to the socket and not to a descriptor, and they may accept a client
/// that this process was about to accept. `accept4(2)` has no flag against waiting, so both
/// together would make `accept` wait.
#[derive(Debug)]
pub(super) struct AdoptedListener {
    listener: OsSock,
    /// A poller that watches the listener alone. Without a descriptor for it, only the flag is set.
    readiness: Option<Mutex<(mio::Poll, mio::Events)>>,
}

impl AdoptedListener {
    pub(super) fn new(listener: OsSock) -> AdoptedListener {
        let readiness = mio::Poll::new().and_then(|poll| {
            let fd = listener.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
            Ok(Mutex::new((poll, mio::Events::with_capacity(1))))
        });
        AdoptedListener { listener, readiness: readiness.ok() }
    }
}

impl Sock for AdoptedListener {
    fn connect(&self, to: &Service) -> io::Result<()> {
        self.listener.connect(to)
    }
    fn bind(&self, to: &Service) -> io::Result<()> {
        self.listener.bind(to)
    }
    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        Box::new(self.listener).listen(backlog)
    }
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        self.listener.accept()
    }
    fn ready_to_accept(&self) -> io::Result<bool> {
        if let Some(readiness) = &self.readiness {
            let (poll, events) = &mut *readiness.lock();
            let fd = self.listener.as_raw_fd();
            // Events are edge-triggered. Another registration reports the state as it is now.
            poll.registry().reregister(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
            poll.poll(events, Some(Duration::ZERO))?;
            if events.is_empty() {
                return Ok(false);
            }
        }
        // The flag is set last, right before the accept.
        self.listener.socket().set_nonblocking(true)?;
        Ok(true)
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.listener.recv(buffer)
    }
    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.listener.send(data, more)
    }
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.listener.send_vectored(data, more)
    }
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.listener.shutdown(how)
    }
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.listener.take_error()
    }
    fn local_address(&self) -> io::Result<Service> {
        self.listener.local_address()
    }
    fn peer_address(&self) -> io::Result<Service> {
        self.listener.peer_address()
    }
    fn short_read_means_empty(&self) -> bool {
        self.listener.short_read_means_empty()
    }
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}
