//! The peers, which the test controls by hand. Any thread may call the methods, which hold the
//! mutex of the network during the call.

use std::{io, time::Duration};

use super::{
    calls::Call,
    kernel::{End, Kernel, Owner},
    network::Network,
    stream::Probe,
};
use crate::{
    address::Service,
    sys::{OwnedSocket, errors, raw_socket, stand_in},
};

/// The other end of one of the program's connections, which the test controls by hand. Dropping the
/// value closes the socket.
///
/// No method waits. Bytes that the peer sends arrive after the peer's latency, if it has one. No
/// code of the program runs during a call.
///
/// # Examples
///
/// ```
/// use sockman::{Service, testing::{Ended, Network}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = Network::new();
/// let me: Service = "10.0.0.1:8333".parse()?;
/// let them: Service = "10.0.0.2:8333".parse()?;
/// // `sock` goes into `SockMan::add_existing_connection`. Here it closes at once.
/// let (sock, peer) = network.pair(&me, &them)?;
/// assert_eq!(peer.send(b"ping")?, 4);
/// peer.shutdown_write();
/// drop(sock);
/// // The program did not read the ping, so the close resets the connection.
/// assert!(matches!(peer.receive().1, Some(Ended::Error(_))));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "DynSock")]
#[derive(Debug)]
pub struct Peer {
    network: Network,
    end: End,
}

/// How the stream of a peer ended, as the peer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The program ended the stream in order.
    Eof,
    /// The stream was reset, with this `errno`.
    Error(i32),
}

impl Peer {
    pub(super) fn new(network: Network, end: End) -> Peer {
        Peer { network, end }
    }

    fn kernel<R>(&self, use_it: impl FnOnce(&mut Kernel, End) -> R) -> R {
        let mut kernel = self.network.inner.kernel.lock();
        kernel.release_placeholders();
        use_it(&mut kernel, self.end)
    }

    /// Returns the peer's own address: the program's `them`, if the program accepted the
    /// connection.
    #[must_use]
    pub fn address(&self) -> Service {
        self.kernel(|kernel, end| {
            let socket = kernel.socket(end);
            socket.and_then(|socket| socket.local.clone()).unwrap_or(Service::UNIX_UNNAMED)
        })
    }

    /// Returns the program's address: the program's `me`.
    #[must_use]
    pub fn remote_address(&self) -> Service {
        self.kernel(|kernel, end| {
            let socket = kernel.socket(end);
            socket.and_then(|socket| socket.remote.clone()).unwrap_or(Service::UNIX_UNNAMED)
        })
    }

    /// Sends as much of `data` as the program's window has room for, and returns the number of
    /// bytes sent: 0 if the window is full.
    ///
    /// # Errors
    ///
    /// Fails with `EPIPE` or `ECONNRESET` if the stream is over.
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self.kernel(|kernel, end| kernel.send(end, data)) {
            Ok(sent) => Ok(sent),
            Err(errors::EAGAIN) => Ok(0),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Sends an urgent byte (TCP). A receive of the program ends in front of the urgent byte. The
    /// byte itself is not part of the stream.
    pub fn send_urgent(&self) {
        self.kernel(Kernel::send_urgent);
    }

    /// Takes and returns the bytes that have arrived, and how the stream ended if no more bytes
    /// will arrive.
    pub fn receive(&self) -> (Vec<u8>, Option<Ended>) {
        self.receive_at_most(usize::MAX)
    }

    /// Works as [`receive`](Peer::receive), but takes at most `limit` bytes.
    pub fn receive_at_most(&self, limit: usize) -> (Vec<u8>, Option<Ended>) {
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        while received.len() < limit {
            let room = buffer.len().min(limit - received.len());
            match self.kernel(|kernel, end| kernel.recv(end, &mut buffer[..room])) {
                Ok(0) => return (received, Some(Ended::Eof)),
                Ok(bytes) => received.extend_from_slice(&buffer[..bytes]),
                Err(errors::EAGAIN) => break,
                Err(errno) => return (received, Some(Ended::Error(errno))),
            }
        }
        (received, None)
    }

    /// Half-closes: the program reads the end of the stream after the bytes that were sent before.
    pub fn shutdown_write(&self) {
        // The call fails if the stream is already over. In that case there is no stream to end.
        let _ = self.kernel(Kernel::shutdown_write);
    }

    /// Resets the connection, so that the program reads `ECONNRESET`.
    pub fn reset(self) {
        self.kernel(Kernel::reset);
    }

    /// Limits what the program can send: sets how many bytes may be on the way to, or wait at, this
    /// peer. Default: [`Network::set_window`]. With zero, the peer takes no more bytes.
    pub fn set_window(&self, bytes: usize) {
        self.kernel(|kernel, end| {
            let Some(stream) = kernel.stream(end) else { return };
            stream.window = bytes;
            if let Some(other) = stream.other {
                kernel.there_is_room(other);
            }
        });
    }

    /// Sets how long bytes take to arrive that the peer sends after this call. Default:
    /// [`Network::set_latency`].
    pub fn set_latency(&self, latency: Duration) {
        self.kernel(|kernel, end| {
            if let Some(stream) = kernel.stream(end) {
                stream.latency = latency;
            }
        });
    }

    /// Sets the size of the largest piece in which the bytes that the peer sends arrive. The pieces
    /// of one send arrive a microsecond apart. By default (`None`) a send arrives in one piece.
    pub fn set_chunk(&self, bytes: Option<usize>) {
        self.kernel(|kernel, end| {
            if let Some(stream) = kernel.stream(end) {
                stream.chunk = bytes;
            }
        });
    }

    /// Makes the program's next call of this kind on this connection fail with this `errno`. See
    /// [`Network::fail_next`].
    pub fn fail_next(&self, call: Call, errno: i32) {
        self.kernel(|kernel, end| {
            if let Some(other) = kernel.stream(end).and_then(|stream| stream.other) {
                kernel.fail_next(other, call, errno);
            }
        });
    }

    /// Makes the poller report this connection to the program although nothing happened, as real
    /// pollers may.
    pub fn spurious_event(&self) {
        self.kernel(|kernel, end| {
            if let Some(other) = kernel.stream(end).and_then(|stream| stream.other) {
                kernel.tell_again(other);
            }
        });
    }

    /// Returns the state of the program's end of the connection, or `None` if that end is gone.
    #[must_use]
    pub fn probe_program(&self) -> Option<Probe> {
        self.kernel(|kernel, end| {
            let other = kernel.stream(end).and_then(|stream| stream.other)?;
            // Another socket may have taken the descriptor of that end.
            kernel.probe(other.fd).filter(|probe| probe.peer == Some(end.serial))
        })
    }

    /// Returns the bytes that have arrived and were not received yet, without receiving them.
    /// Returns `None` if more bytes are on the way.
    #[must_use]
    pub fn peek(&self) -> Option<Vec<u8>> {
        self.kernel(|kernel, end| {
            let is_complete = kernel.probe(end.fd)?.in_flight == 0;
            let stream = kernel.stream(end).filter(|_| is_complete)?;
            Some(stream.incoming.iter().copied().collect())
        })
    }

    /// Returns the number of this end, which is unique in this network. [`Probe::peer`] identifies
    /// peers by this number.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.end.serial
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kernel(Kernel::close);
    }
}

/// A listener of a peer, which the program connects to. Dropping the value closes the socket, unless
/// the program has adopted it.
#[derive(Debug)]
pub struct PeerListener {
    network: Network,
    end: End,
}

impl PeerListener {
    pub(super) fn new(network: Network, end: End) -> PeerListener {
        PeerListener { network, end }
    }

    /// Accepts the next connect of the program, and returns the peer. Returns `None` if no connect
    /// waits.
    #[must_use]
    pub fn accept(&self) -> Option<Peer> {
        let accepted = self.network.inner.kernel.lock().accept(self.end, Owner::Elsewhere);
        accepted.ok().map(|(end, _)| Peer::new(self.network.clone(), end))
    }

    /// Returns a descriptor that stands for this listener, for
    /// [`SockMan::start_listening_on`](crate::SockMan::start_listening_on). Afterwards the program
    /// and this value hold one listener, as two processes may: either of them may accept a client.
    ///
    /// # Errors
    ///
    /// Fails if the process has no descriptor left: the result is a real one.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan, network: sockman::testing::Network) -> Result<(), Box<dyn std::error::Error>> {
    /// let other_process = network.listen(&"10.0.0.1:8333".parse()?)?;
    /// let here = sockman.start_listening_on(other_process.share()?)?;
    /// let client = network.connect(&here)?;
    /// // The other process makes the listener block, and takes the client first.
    /// other_process.clear_nonblocking();
    /// assert!(other_process.accept().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn share(&self) -> io::Result<OwnedSocket> {
        let descriptor = stand_in()?;
        self.network.inner.kernel.lock().shared.insert(raw_socket(&descriptor), self.end);
        Ok(descriptor)
    }

    /// Clears `O_NONBLOCK` on the listener, for all its holders. If the program then accepts while
    /// no client waits, [`Network::blocked_accepts`] counts the accept.
    pub fn clear_nonblocking(&self) {
        if let Some(backlog) = self.network.inner.kernel.lock().backlog(self.end) {
            backlog.is_blocking = true;
        }
    }

    /// Sets how many connections may wait to be accepted. Default: any number. At the limit, a TCP
    /// connect gets no answer for a second. The kernel then tries the connect again. A connect to a
    /// unix-domain path fails with `EAGAIN`.
    pub fn set_backlog(&self, limit: usize) {
        if let Some(backlog) = self.network.inner.kernel.lock().backlog(self.end) {
            backlog.limit = limit;
        }
    }

    /// Returns the address that the listener listens on.
    #[must_use]
    pub fn address(&self) -> Service {
        let mut kernel = self.network.inner.kernel.lock();
        let address = kernel.socket(self.end).and_then(|socket| socket.local.clone());
        address.unwrap_or(Service::UNIX_UNNAMED)
    }
}

impl Drop for PeerListener {
    fn drop(&mut self) {
        let mut kernel = self.network.inner.kernel.lock();
        if !kernel.release_listener(self.end, Owner::Elsewhere) {
            kernel.close(self.end);
        }
    }
}
