//! The seams between a `SockMan` and a [`Network`]: the factory, the sockets and the pollers.
//!
//! The seams run on the caller's thread. Each call holds the kernel's mutex while it runs.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    calls::Call,
    kernel::{Backlog, End, Kernel, Kind, Owner, Sys},
    network::{Network, Point},
};
use crate::{
    address::Service,
    sys::{
        Adopted, More, OwnedSocket, Poller, RawSocket, Readiness, Sock, SockFactory, SocketOption,
        Waker, errors, raw_socket,
    },
};

#[derive(Debug)]
pub(super) struct Factory {
    pub(super) network: Network,
}

impl SockFactory for Factory {
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>> {
        self.network.check_family(address)?;
        let end = self.network.call(|kernel| {
            kernel.fault(None, Call::Socket)?;
            kernel.create(Owner::Program, address.addr().is_unix(), Kind::Fresh)
        })?;
        Ok(Box::new(MemorySock::new(&self.network, end)))
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        let id = self.network.call(|kernel| {
            kernel.fault(None, Call::CreatePoller)?;
            Ok(kernel.create_poller())
        })?;
        Ok(Box::new(MemoryPoller { network: self.network.clone(), id }))
    }

    fn adopt_listener(&self, listener: OwnedSocket) -> io::Result<Box<dyn Sock>> {
        let end = self.network.call(|kernel| kernel.adopt(raw_socket(&listener)))?;
        Ok(Box::new(MemorySock::new(&self.network, end)))
    }

    fn adopt_connection(&self, stream: OwnedSocket) -> Result<Adopted, (OwnedSocket, io::Error)> {
        match self.network.call(|kernel| kernel.take_back(raw_socket(&stream))) {
            Ok((end, me, them)) => Ok((Box::new(MemorySock::new(&self.network, end)), me, them)),
            Err(error) => Err((stream, error)),
        }
    }

    fn now(&self) -> Instant {
        self.network.now()
    }
}

/// The most pieces that Linux's `sendmsg(2)` takes, empty ones included (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// A socket of the program.
#[derive(Debug)]
pub(super) struct MemorySock {
    network: Network,
    end: End,
    is_unix: bool,
    /// As for the library's own sockets on the system that the network stands for.
    short_means_over: bool,
    /// As for the library's own sockets there, too.
    repeats_events: bool,
}

impl MemorySock {
    pub(super) fn new(network: &Network, end: End) -> MemorySock {
        let mut kernel = network.inner.kernel.lock();
        let is_unix = kernel.socket(end).is_some_and(|socket| socket.is_unix);
        let short_means_over = kernel.system.short_means_over();
        let repeats_events = kernel.system.has_afd();
        drop(kernel);
        MemorySock { network: network.clone(), end, is_unix, short_means_over, repeats_events }
    }

    fn call<T>(&self, call: impl FnOnce(&mut Kernel) -> Sys<T>) -> io::Result<T> {
        self.network.call(call)
    }

    fn faulty(&self, which: Call) -> io::Result<()> {
        self.call(|kernel| kernel.fault(Some(self.end), which))
    }
}

impl Drop for MemorySock {
    fn drop(&mut self) {
        let mut kernel = self.network.inner.kernel.lock();
        if !kernel.release_listener(self.end, Owner::Program) {
            kernel.close(self.end);
        }
    }
}

impl Sock for MemorySock {
    fn connect(&self, to: &Service) -> io::Result<()> {
        self.network.interleave(Point::Call(Call::Connect));
        self.call(|kernel| kernel.connect(self.end, to))
    }

    fn bind(&self, to: &Service) -> io::Result<()> {
        self.call(|kernel| kernel.bind(self.end, to))
    }

    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        let backlog = usize::try_from(backlog).unwrap_or(0);
        self.call(|kernel| kernel.listen(self.end, backlog))?;
        Ok(self)
    }

    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        let is_shared = |backlog: &mut Backlog| backlog.is_shared;
        let is_shared = self.network.inner.kernel.lock().backlog(self.end).is_some_and(is_shared);
        if !is_shared {
            self.network.interleave(Point::Call(Call::Accept));
        }
        let (end, them) = self.call(|kernel| kernel.accept(self.end, Owner::Program))?;
        Ok((Box::new(MemorySock::new(&self.network, end)), them))
    }

    fn ready_to_accept(&self) -> io::Result<bool> {
        self.network.interleave(Point::Call(Call::Accept));
        self.call(|kernel| kernel.ready_to_accept(self.end))
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.network.interleave(Point::Call(Call::Recv));
        self.call(|kernel| kernel.recv(self.end, buffer))
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let peeked = self.call(|kernel| Ok(kernel.peek(self.end, buffer)))?;
        // The library then receives, which says whether the socket would block.
        peeked.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn send(&self, data: &[u8], _: More) -> io::Result<usize> {
        self.call(|kernel| kernel.send(self.end, data))
    }

    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        if data.len() > MAX_PIECES {
            return Err(io::Error::from_raw_os_error(errors::EMSGSIZE));
        }
        let data: Vec<u8> = data.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.send(&data, more)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.faulty(Call::Shutdown)?;
        self.call(|kernel| match (kernel.backlog(self.end).is_some(), how) {
            (true, _) => kernel.shutdown_listener(self.end),
            (false, Shutdown::Both) => kernel.shutdown_both(self.end),
            (false, Shutdown::Write) => kernel.shutdown_write(self.end),
            (false, Shutdown::Read) => kernel.shutdown_read(self.end),
        })
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.faulty(Call::TakeError)?;
        let errno = self.call(|kernel| {
            Ok(match kernel.socket(self.end).map(|socket| &mut socket.kind) {
                Some(Kind::Stream(stream)) => stream.error.take(),
                Some(Kind::Scripted(script)) => script.pending_error(),
                _ => None,
            })
        })?;
        Ok(errno.map(io::Error::from_raw_os_error))
    }

    fn local_address(&self) -> io::Result<Service> {
        self.faulty(Call::LocalAddress)?;
        self.call(|kernel| {
            let socket = kernel.socket(self.end).ok_or(errors::EBADF)?;
            let unbound = || match self.is_unix {
                true => Service::UNIX_UNNAMED,
                false => Service::from(SocketAddr::from(([0, 0, 0, 0], 0))),
            };
            Ok(socket.local.clone().unwrap_or_else(unbound))
        })
    }

    fn peer_address(&self) -> io::Result<Service> {
        self.faulty(Call::PeerAddress)?;
        self.call(|kernel| {
            let socket = kernel.socket(self.end).ok_or(errors::EBADF)?;
            match &socket.kind {
                Kind::Stream(stream)
                    if stream.is_connecting || stream.is_broken || stream.other.is_none() =>
                {
                    Err(errors::ENOTCONN)
                }
                Kind::Fresh | Kind::Listener(_) => Err(errors::ENOTCONN),
                _ => socket.remote.clone().ok_or(errors::ENOTCONN),
            }
        })
    }

    fn short_read_means_empty(&self) -> bool {
        !self.is_unix && self.short_means_over
    }

    fn short_send_means_full(&self) -> bool {
        !self.is_unix && self.short_means_over
    }

    fn would_block_repeats_events(&self) -> bool {
        self.repeats_events
    }

    fn set_reset_on_close(&self) -> io::Result<()> {
        self.call(|kernel| {
            let is_unix = kernel.socket(self.end).is_none_or(|socket| socket.is_unix);
            if let Some(stream) = kernel.stream(self.end).filter(|_| !is_unix) {
                stream.resets_on_close = true;
            }
            Ok(())
        })
    }

    fn set_reuse_port(&self) -> io::Result<()> {
        self.faulty(Call::SetReusePort)
    }

    fn set_option(&self, option: &SocketOption<'_>) -> io::Result<()> {
        self.faulty(Call::SetOption)?;
        match option {
            // There is no descriptor.
            SocketOption::Custom(_) => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(()),
        }
    }

    fn duplicate(&self) -> io::Result<OwnedSocket> {
        let mut kernel = self.network.inner.kernel.lock();
        kernel.release_placeholders();
        kernel.duplicate(self.end)
    }

    fn as_raw_fd(&self) -> RawSocket {
        RawSocket::try_from(self.end.fd).unwrap_or(RawSocket::MAX)
    }
}

struct MemoryPoller {
    network: Network,
    id: u64,
}

struct MemoryWaker {
    network: Network,
    poller: u64,
}

impl Waker for MemoryWaker {
    fn wake(&self) -> io::Result<()> {
        self.network.inner.kernel.lock().wake_poller(self.poller);
        Ok(())
    }
}

impl Drop for MemoryPoller {
    fn drop(&mut self) {
        self.network.inner.kernel.lock().drop_poller(self.id);
    }
}

impl Poller for MemoryPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let fd = usize::try_from(sock.as_raw_fd()).unwrap_or(usize::MAX);
        self.network.call(|kernel| kernel.register(self.id, fd, token))
    }

    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        let fd = usize::try_from(sock.as_raw_fd()).unwrap_or(usize::MAX);
        self.network.call(|kernel| kernel.deregister(self.id, fd))
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = self.network.call(|kernel| {
            kernel.last_timeout = timeout;
            if timeout.is_some_and(|for_| for_.as_secs() > kernel.system.longest_poll_seconds()) {
                return Err(errors::EINVAL);
            }
            match kernel.fault(None, Call::Poll) {
                // The library's own poller also polls once more after a signal, without waiting.
                Err(errors::EINTR) => Ok(Some(Duration::ZERO)),
                other => other.map(|()| timeout),
            }
        })?;
        let until = timeout.map(|timeout| self.network.elapsed().saturating_add(timeout));
        loop {
            {
                let mut kernel = self.network.inner.kernel.lock();
                kernel.deliver();
                let is_woken = kernel.collect(self.id, events);
                let is_over = until.is_some_and(|until| kernel.elapsed >= until);
                if is_woken || is_over || !events.is_empty() {
                    return Ok(());
                }
                if kernel.is_blocking {
                    Arc::clone(&kernel.changed).wait(&mut kernel);
                    continue;
                }
            }
            if self.network.interleave(Point::Sleep) {
                continue;
            }
            let horizon = *self.network.inner.horizon.lock();
            let mut kernel = self.network.inner.kernel.lock();
            if horizon.is_some_and(|horizon| kernel.elapsed >= horizon) {
                return Ok(());
            }
            let stops = [until, horizon, kernel.next_arrival()];
            let Some(to) = stops.into_iter().flatten().min() else {
                return Err(io::Error::new(
                    io::ErrorKind::Deadlock,
                    "the poller of the network would wait without end: it has no time-out, and \
                     nothing is on the way; let a peer act first, or set a sweep",
                ));
            };
            kernel.advance_to(to);
        }
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(MemoryWaker { network: self.network.clone(), poller: self.id })
    }
}
