//! Streams that leave the program and come back, and the descriptors that stand for them.
//!
//! A placeholder is one end of a real socket pair. The kernel of the double keeps the other end, by
//! which it notices the close of the placeholder. The code runs on the caller's thread, under the
//! mutex of the network, and calls no code of the program.

use std::io::{self, Read};

use super::{
    kernel::{End, Kernel, Kind, Owner, Sys},
    network::Network,
    peer::Peer,
};
use crate::{
    address::Service,
    sys::{LocalStream, OwnedSocket, RawSocket, errors, raw_socket, stream_pair},
};

/// A descriptor that stands for a stream.
#[derive(Debug)]
pub(super) struct Placeholder {
    end: End,
    fd: RawSocket,
    /// The other end of the placeholder's socket pair.
    other: LocalStream,
}

impl Placeholder {
    fn is_closed(&self) -> bool {
        matches!((&self.other).read(&mut [0]), Ok(0))
    }
}

impl Network {
    /// Returns the stream that [`SockMan::into_stream`](crate::SockMan::into_stream) handed out, as
    /// the code that goes on with it holds the stream. [`Peer::address`] is the program's address
    /// then. No call on the stream counts as a call of the program or fails by order of a test.
    ///
    /// The descriptor from `into_stream` stands for the stream. No data passes through the
    /// descriptor itself. The stream stays connected, and counts in
    /// [`descriptors`](Network::descriptors), until this method or
    /// [`SockMan::add_connection`](crate::SockMan::add_connection) takes the descriptor, or until
    /// the descriptor is closed. The network notices that close at the next call of the program or
    /// of a peer. Copies of the descriptor must not be made.
    ///
    /// # Errors
    ///
    /// Gives the descriptor back if it stands for no stream of this network.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use sockman::{testing::Network, ConnectionId, EventHandler, Options, Service, SockMan};
    /// # struct Ignore;
    /// # impl EventHandler for Ignore {
    /// #     fn event_new_connection_accepted(&self, _: &SockMan, _: ConnectionId, _: &Service, _: &Service) -> bool { true }
    /// #     fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    /// #     fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    /// #     fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &std::io::Error) {}
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let network = Network::new();
    /// # let sockman = SockMan::new(Arc::new(Ignore), Options::default().sock_factory(network.factory()))?;
    /// # let (me, them): (Service, Service) = ("10.0.0.1:7".parse()?, "10.0.0.2:7".parse()?);
    /// let (sock, peer) = network.pair(&me, &them)?;
    /// let id = sockman.add_existing_connection(sock, &me, &them)?.activate();
    /// peer.send(b"upgrade")?;
    /// let stream = network.taken_out(sockman.into_stream(id)?).expect("a stream of the network");
    /// assert_eq!(stream.receive().0, b"upgrade");
    /// # Ok(())
    /// # }
    /// ```
    pub fn taken_out(&self, stream: OwnedSocket) -> Result<Peer, OwnedSocket> {
        let mut kernel = self.inner.kernel.lock();
        kernel.release_placeholders();
        let taken = kernel.take_away(raw_socket(&stream));
        drop(kernel);
        match taken {
            Ok(end) => Ok(Peer::new(self.clone(), end)),
            Err(_) => Err(stream),
        }
    }
}

impl Kernel {
    /// Makes another descriptor of a stream of the program.
    pub(super) fn duplicate(&mut self, end: End) -> io::Result<OwnedSocket> {
        if self.descriptor_limit.is_some_and(|limit| self.descriptors >= limit) {
            return Err(io::Error::from_raw_os_error(errors::EMFILE));
        }
        let socket = self.socket(end).ok_or(io::ErrorKind::NotConnected)?;
        if !matches!(socket.kind, Kind::Stream(_)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (placeholder, other) = stream_pair()?;
        other.set_nonblocking(true)?;
        socket.copies += 1;
        socket.was_copied = true;
        self.descriptors += 1;
        self.placeholders.push(Placeholder { end, fd: raw_socket(&placeholder), other });
        Ok(placeholder.into())
    }

    /// Closes the streams whose placeholders were closed.
    pub(super) fn release_placeholders(&mut self) {
        while let Some(at) = self.placeholders.iter().position(Placeholder::is_closed) {
            let Placeholder { end, .. } = self.placeholders.remove(at);
            self.close(end);
        }
    }

    fn placeholder(&self, fd: RawSocket) -> Sys<usize> {
        let at = self.placeholders.iter().position(|placeholder| placeholder.fd == fd);
        at.ok_or(errors::ENOTSOCK)
    }

    /// Makes the placeholder's stream one of the program again. Returns the stream's addresses, too.
    pub(super) fn take_back(&mut self, fd: RawSocket) -> Sys<(End, Service, Service)> {
        let at = self.placeholder(fd)?;
        let end = self.placeholders.get(at).ok_or(errors::ENOTSOCK)?.end;
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        let is_broken = match &socket.kind {
            Kind::Stream(stream) => stream.is_broken && !socket.is_unix,
            _ => true,
        };
        let addresses = socket.local.clone().zip(socket.remote.clone());
        let (me, them) = addresses.filter(|_| !is_broken).ok_or(errors::ENOTCONN)?;
        self.placeholders.remove(at);
        Ok((end, me, them))
    }

    /// Makes the placeholder's stream one of other code, whose descriptors do not count.
    fn take_away(&mut self, fd: RawSocket) -> Sys<End> {
        let at = self.placeholder(fd)?;
        let Placeholder { end, .. } = self.placeholders.remove(at);
        self.socket(end).ok_or(errors::EBADF)?.owner = Owner::Elsewhere;
        self.descriptors -= 1;
        Ok(end)
    }
}
