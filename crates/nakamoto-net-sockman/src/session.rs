//! One run of a service: the table of its peers, and the calls to it. All of this belongs to the
//! thread of the reactor, so there is no lock. No lock of the library is held during a call to the
//! service.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    io, mem,
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use crossbeam_channel as chan;
use nakamoto_net::{Disconnect, Io, Link, PeerId, Publisher, Service};
use sockman::{ConnectOptions, ConnectionId, SockMan, helpers::PushError};

use crate::{
    bridge::{Bridge, Input, QUEUE_LIMIT, Way, What},
    clock::Clock,
    reactor::LINGER,
};

/// A peer that the service knows. It is connecting or connected.
enum Peer {
    Connecting {
        /// `None` if the connect failed at once. The service is told in the next turn.
        id: Option<ConnectionId>,
        /// What the service has written before the connection exists.
        early: Vec<u8>,
    },
    Connected(Way),
}

pub(crate) struct Session<'a, Id: PeerId, S, E> {
    bridge: &'a Bridge,
    connect: &'a ConnectOptions,
    service: S,
    publisher: E,
    clock: Clock,
    peers: HashMap<Id, Peer>,
    /// The peers that have an id. The inputs name these ids.
    names: HashMap<ConnectionId, Id>,
    /// The connects that failed at once.
    failed: Vec<(Id, io::Error)>,
}

impl<'a, Id, S, E> Session<'a, Id, S, E>
where
    Id: PeerId,
    S: Service<Id>,
    E: Publisher<S::Event>,
{
    pub(crate) fn new(
        bridge: &'a Bridge,
        connect: &'a ConnectOptions,
        service: S,
        publisher: E,
    ) -> Session<'a, Id, S, E> {
        Session {
            bridge,
            connect,
            service,
            publisher,
            clock: Clock::new(),
            peers: HashMap::new(),
            names: HashMap::new(),
            failed: Vec::new(),
        }
    }

    /// Initializes the service.
    pub(crate) fn begin(&mut self, sockman: &SockMan) {
        let now = self.clock.now();
        self.service.initialize(now);
        self.process(sockman);
    }

    /// Tells the service what has happened, and does what it asks for. After each call, its requests
    /// are carried out, so it hears nothing more of a peer that it has disconnected.
    pub(crate) fn turn(&mut self, sockman: &SockMan, commands: &chan::Receiver<S::Command>) {
        // Before the inputs: data that is in the queue now was there when the timers were read.
        let timers_at = Instant::now();
        let now = self.clock.now();
        self.service.tick(now);
        for (peer, error) in mem::take(&mut self.failed) {
            if let Some(Peer::Connecting { id: None, .. }) = self.peers.get(&peer) {
                self.forget(&peer);
                self.service.disconnected(&peer, Disconnect::DialError(Arc::new(error)));
                self.process(sockman);
            }
        }
        for input in self.bridge.take() {
            self.input(sockman, input);
            self.process(sockman);
        }
        // A thread that goes on to send commands does not keep the loop here.
        for command in commands.try_iter().take(commands.len()) {
            self.service.command_received(command);
            self.process(sockman);
        }
        if self.bridge.timers.take_due(timers_at) {
            self.service.timer_expired();
            self.process(sockman);
        }
    }

    /// Ends the connects under way. A connection that the service knows stays for the library to
    /// finish.
    pub(crate) fn end(&mut self, sockman: &SockMan) {
        for peer in self.peers.values() {
            if let Peer::Connecting { id: Some(id), .. } = peer {
                sockman.close_connection(*id);
            }
        }
    }

    fn input(&mut self, sockman: &SockMan, Input { id, what }: Input) {
        if let What::Accepted { me, them, way } = what {
            self.accepted(me, them, way);
            return;
        }
        // An input of a connection that the service has given up names nobody.
        let Some(peer) = self.names.get(&id).cloned() else {
            if let What::Connected { way, .. } = what {
                way.close();
            }
            return;
        };
        match what {
            What::Accepted { .. } => {}
            What::Connected { me, way } => self.connected(sockman, &peer, me, way),
            What::ConnectFailed(error) | What::Ended(error) => {
                self.forget(&peer);
                let reason = Disconnect::ConnectionError(Arc::new(error));
                self.service.disconnected(&peer, reason);
            }
            What::Data(data) => self.service.message_received(&peer, Cow::Borrowed(&data)),
        }
    }

    fn accepted(&mut self, me: SocketAddr, them: SocketAddr, way: Way) {
        let peer = Id::from(them);
        match self.peers.entry(peer.clone()) {
            // The service has one name for both connections.
            Entry::Occupied(_) => {
                way.close();
            }
            Entry::Vacant(place) => {
                self.names.insert(way.id(), peer.clone());
                place.insert(Peer::Connected(way));
                self.service.connected(peer, &me, Link::Inbound);
            }
        }
    }

    fn connected(&mut self, sockman: &SockMan, peer: &Id, me: SocketAddr, way: Way) {
        let known = self.peers.insert(peer.clone(), Peer::Connected(way));
        self.service.connected(peer.clone(), &me, Link::Outbound);
        if let Some(Peer::Connecting { early, .. }) = known {
            if !early.is_empty() {
                self.write(sockman, peer, &early);
            }
        }
    }

    /// Carries out the requests of the service.
    fn process(&mut self, sockman: &SockMan) {
        while let Some(request) = self.service.next() {
            match request {
                Io::Write(peer, bytes) => self.write(sockman, &peer, &bytes),
                Io::Connect(peer) => self.connect(sockman, &peer),
                Io::Disconnect(peer, reason) => self.disconnect(sockman, &peer, reason.into()),
                Io::SetTimer(delay) => self.bridge.timers.set(sockman, Instant::now(), delay),
                Io::Event(event) => self.publisher.publish(event),
            }
        }
    }

    /// Queues bytes for a peer. A peer that does not read is disconnected. Bytes for a peer that is
    /// gone are dropped, because the service may not have heard of the end yet.
    fn write(&mut self, sockman: &SockMan, peer: &Id, bytes: &[u8]) {
        let outcome = match self.peers.get_mut(peer) {
            None => return,
            Some(Peer::Connecting { early, .. }) => {
                let fits = bytes.len() <= QUEUE_LIMIT.saturating_sub(early.len());
                if fits {
                    early.extend_from_slice(bytes);
                    return;
                }
                Err(PushError::Full { limit: QUEUE_LIMIT }.into())
            }
            Some(Peer::Connected(way)) => enqueue(way, bytes),
        };
        if let Err(error) = outcome {
            let reason = Disconnect::ConnectionError(Arc::new(error));
            if let Some(Peer::Connected(way)) = self.peers.get(peer) {
                way.abort(); // It does not read, so nothing of the queue would go out.
            }
            self.disconnect(sockman, peer, reason);
        }
    }

    fn connect(&mut self, sockman: &SockMan, peer: &Id) {
        // As with nakamoto's own reactor, a request for a peer that is known does nothing.
        if self.peers.contains_key(peer) {
            return;
        }
        let id = match sockman.start_connect(peer.to_socket_addr(), self.connect) {
            Ok(id) => Some(id),
            Err(error) => {
                self.failed.push((peer.clone(), error.into()));
                sockman.notify(); // The next turn tells the service.
                None
            }
        };
        if let Some(id) = id {
            self.names.insert(id, peer.clone());
        }
        self.peers.insert(peer.clone(), Peer::Connecting { id, early: Vec::new() });
        self.service.attempted(peer);
    }

    /// Ends a connection or a connect, and tells the service.
    fn disconnect(
        &mut self,
        sockman: &SockMan,
        peer: &Id,
        reason: Disconnect<S::DisconnectReason>,
    ) {
        match self.forget(peer) {
            None => return,
            Some(Peer::Connecting { id, .. }) => {
                if let Some(id) = id {
                    sockman.close_connection(id);
                }
            }
            Some(Peer::Connected(way)) if way.queue().has_queued() => {
                way.finish(LINGER); // The service's last words go out.
            }
            Some(Peer::Connected(way)) => {
                way.close();
            }
        }
        self.service.disconnected(peer, reason);
    }

    fn forget(&mut self, peer: &Id) -> Option<Peer> {
        let known = self.peers.remove(peer)?;
        let id = match &known {
            Peer::Connecting { id, .. } => *id,
            Peer::Connected(way) => Some(way.id()),
        };
        if let Some(id) = id {
            self.names.remove(&id);
        }
        Some(known)
    }
}

/// Queues `bytes`. The library sends them at the end of the pass. If they do not fit, makes room by
/// sending what the kernel takes now.
fn enqueue(way: &Way, bytes: &[u8]) -> io::Result<()> {
    loop {
        match way.enqueue(bytes) {
            Err(error @ (PushError::Full { .. } | PushError::OverBudget { .. })) => {
                if way.drain()?.sent == 0 {
                    return Err(error.into());
                }
            }
            result => return Ok(result?),
        }
    }
}
