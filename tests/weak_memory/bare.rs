//! The system's TCP sockets and mio's poller, without any option that Miri does not know.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use sockman::{
    Service,
    options::More,
    sys::{Poller, Readiness, Sock, SockFactory, Waker},
};

/// The token of the poller's own waker.
const WAKER: Token = Token(usize::MAX);

/// Makes pollers. The tests add their sockets themselves.
#[derive(Debug)]
pub(crate) struct BareFactory;

impl SockFactory for BareFactory {
    fn create_sock(&self, _: &Service) -> io::Result<Box<dyn Sock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        let poll = Poll::new()?;
        let waker = Arc::new(BareWaker(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(Box::new(BarePoller { poll, events: Events::with_capacity(16), waker }))
    }
    fn adopt_listener(&self, _: OwnedFd) -> io::Result<Box<dyn Sock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct BarePoller {
    poll: Poll,
    events: Events,
    waker: Arc<BareWaker>,
}

struct BareWaker(mio::Waker);

impl Waker for BareWaker {
    fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

impl Poller for BarePoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&sock.as_raw_fd()), Token(token), interest)
    }
    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&sock.as_raw_fd()))
    }
    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)?;
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            let mut readiness = Readiness::new(event.token().0);
            readiness.readable = event.is_readable();
            readiness.writable = event.is_writable();
            readiness.read_closed = event.is_read_closed();
            readiness.broken = event.is_error();
            events.push(readiness);
        }
        Ok(())
    }
    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.waker) as Arc<dyn Waker>
    }
}

#[derive(Debug)]
struct BareSock(TcpStream);

impl Sock for BareSock {
    fn connect(&self, _: &Service) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn bind(&self, _: &Service) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn listen(self: Box<Self>, _: i32) -> io::Result<Box<dyn Sock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
    fn send(&self, data: &[u8], _: More) -> io::Result<usize> {
        (&self.0).write(data)
    }
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        data.iter().find(|slice| !slice.is_empty()).map_or(Ok(0), |slice| self.send(slice, more))
    }
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }
    fn local_address(&self) -> io::Result<Service> {
        self.0.local_addr().map(Service::from)
    }
    fn peer_address(&self) -> io::Result<Service> {
        self.0.peer_addr().map(Service::from)
    }
    fn short_read_means_empty(&self) -> bool {
        false
    }
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Returns the library's end of a new TCP connection, and the peer's end, which blocks.
pub(crate) fn connected_pair() -> io::Result<(Box<dyn Sock>, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((Box::new(BareSock(stream)), peer))
}
