//! The handler: it passes what happens on the connections to the peer manager. Its methods run on
//! the socket thread, with no lock held.

use std::{
    any::Any,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lightning::{bitcoin::secp256k1::PublicKey, ln::msgs::SocketAddress};
use sockman::{
    ConnectionId, NextRecv, Service, SockMan,
    address::Destination,
    error::ConnectError,
    helpers::SendQueueLimits,
    stateful::{Handler, Link},
    stats::HangUp,
};

use crate::{
    Connection, SocketDescriptor, address,
    connection::{End, ReportOnDrop},
    descriptor::LINGER,
    manager::Manager,
};

/// The most bytes in the queue of a connection: two of the longest Lightning messages. One system
/// call sends many small messages. What does not fit stays with LDK, which then pauses the peer.
pub(crate) const QUEUE_LIMIT: usize = 128 * 1024;

/// LDK is told of room when at most this much is queued, so the socket has work while LDK encrypts.
const ROOM_MARK: usize = QUEUE_LIMIT / 2;

const LIMITS: SendQueueLimits = match SendQueueLimits::new(ROOM_MARK, QUEUE_LIMIT, QUEUE_LIMIT) {
    Ok(limits) => limits,
    Err(_) => panic!("the marks are out of order"), // At compile time.
};

/// The value of a connection. The socket thread owns it.
pub(crate) struct Peer {
    stage: Stage,
    _report: ReportOnDrop,
}

enum Stage {
    /// The peer manager does not know the connection yet.
    New(Role),
    /// The peer manager knows the connection, unless it has called `disconnect_socket`.
    Known(SocketDescriptor),
    /// The peer manager has returned an error. It must not hear of the connection again.
    Forgotten,
}

/// Which side dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Inbound,
    Outbound { their_node_id: PublicKey },
}

impl Peer {
    /// Returns the value of a connection that [`Register::register`] is going to register.
    pub(crate) fn new(role: Role, end: Arc<End>) -> Peer {
        Peer { stage: Stage::New(role), _report: ReportOnDrop(end) }
    }

    /// Returns the descriptor, if the peer manager knows it.
    fn known(&self) -> Option<&SocketDescriptor> {
        match &self.stage {
            Stage::Known(descriptor) if !descriptor.is_disconnected() => Some(descriptor),
            _ => None,
        }
    }

    fn known_mut(&mut self) -> Option<&mut SocketDescriptor> {
        match &mut self.stage {
            Stage::Known(descriptor) if !descriptor.is_disconnected() => Some(descriptor),
            _ => None,
        }
    }
}

/// The function that gets the outcome of a connect.
pub(crate) type Outcome = Box<dyn FnOnce(Result<Connection, ConnectError>) + Send>;

/// What a connect brings along.
pub(crate) struct Dial {
    pub(crate) their_node_id: PublicKey,
    pub(crate) outcome: Outcome,
}

/// The handler, for a driver that does not know the type of the peer manager.
pub(crate) trait Register: Send + Sync {
    /// Tells the peer manager of a connection. Runs on the socket thread.
    fn register(&self, link: Link<'_, Peer>, peer: &mut Peer);

    /// Requests a call of `process_events` in the next pass.
    fn request_events(&self);
}

/// The handler of a driver's `SockMan`.
pub(crate) struct Bridge<M> {
    manager: M,
    /// Whether a call to the manager may have left something to process.
    has_events: AtomicBool,
}

impl<M: Manager> Bridge<M> {
    pub(crate) fn new(manager: M) -> Bridge<M> {
        Bridge { manager, has_events: AtomicBool::new(false) }
    }

    /// Ends a connection of which the peer manager has returned an error.
    fn forget(&self, link: Link<'_, Peer>, peer: &mut Peer) {
        peer.stage = Stage::Forgotten;
        link.finish(LINGER);
    }

    /// Tells the peer manager of a connection, and sends its first bytes.
    fn introduce(&self, link: Link<'_, Peer>, role: Role, them: Option<SocketAddress>) -> Stage {
        let descriptor = SocketDescriptor::new(link.remote());
        self.request_events();
        let first = match role {
            Role::Inbound => {
                self.manager.new_inbound(descriptor.clone(), them).map(|()| Vec::new())
            }
            Role::Outbound { their_node_id } => {
                self.manager.new_outbound(their_node_id, descriptor.clone(), them)
            }
        };
        let Ok(first) = first else { return Stage::Forgotten };
        // LDK has nothing to send before the peer's answer to these bytes, so they are the first.
        if link.enqueue(&first).is_err() {
            link.close();
        }
        Stage::Known(descriptor)
    }
}

impl<M: Manager> Register for Bridge<M> {
    fn register(&self, link: Link<'_, Peer>, peer: &mut Peer) {
        if let Stage::New(role) = mem::replace(&mut peer.stage, Stage::Forgotten) {
            peer.stage = self.introduce(link, role, address::of(link.them()));
            if let Stage::Forgotten = peer.stage {
                link.close();
            }
        }
    }

    fn request_events(&self) {
        self.has_events.store(true, Ordering::Release);
    }
}

impl<M: Manager> Handler for Bridge<M> {
    type Connection = Peer;

    fn accepted(&self, link: Link<'_, Peer>, _me: &Service, them: &Service) -> Option<Peer> {
        match self.introduce(link, Role::Inbound, address::of(&them.into())) {
            Stage::Forgotten => None,
            stage => Some(Peer { stage, _report: ReportOnDrop(Arc::default()) }),
        }
    }

    fn connected_with(
        &self,
        link: Link<'_, Peer>,
        to: &Destination,
        _me: &Service,
        value: Box<dyn Any + Send>,
    ) -> Option<Peer> {
        let Dial { their_node_id, outcome } = *value.downcast::<Dial>().ok()?;
        let end = Arc::default();
        let connection = Connection::new(link.id(), Arc::clone(&end));
        let role = Role::Outbound { their_node_id };
        let stage = self.introduce(link, role, address::of(to));
        let peer = Peer { stage, _report: ReportOnDrop(end) };
        outcome(Ok(connection));
        match peer.stage {
            Stage::Forgotten => None,
            _ => Some(peer),
        }
    }

    fn connect_failed_with(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        error: ConnectError,
        value: Box<dyn Any + Send>,
    ) {
        if let Ok(dial) = value.downcast::<Dial>() {
            (dial.outcome)(Err(error));
        }
    }

    fn got_data(&self, link: Link<'_, Peer>, peer: &mut Peer, data: &[u8]) {
        let Some(descriptor) = peer.known_mut() else { return };
        let outcome = self.manager.read_event(descriptor, data);
        self.request_events();
        if outcome.is_err() {
            self.forget(link, peer);
        }
    }

    /// Lightning has no half-open connections.
    fn got_eof(&self, link: Link<'_, Peer>, _: &mut Peer) {
        link.close();
    }

    fn should_try_to_recv(&self, _: Link<'_, Peer>, peer: &mut Peer) -> bool {
        peer.known().is_some_and(|descriptor| !descriptor.is_read_paused())
    }

    fn should_try_to_send(&self, link: Link<'_, Peer>, peer: &mut Peer) -> bool {
        link.queue().has_queued() || peer.known().is_some_and(SocketDescriptor::wants_room)
    }

    fn ready_to_send(&self, link: Link<'_, Peer>, peer: &mut Peer) -> NextRecv {
        let Ok(drained) = link.drain() else {
            link.close();
            return NextRecv::Proceed;
        };
        if drained.left <= ROOM_MARK {
            let Some(descriptor) = peer.known_mut() else { return NextRecv::Proceed };
            // Before the call, in which LDK may send until the queue is full again.
            if descriptor.take_wants_room() {
                let outcome = self.manager.write_buffer_space_avail(descriptor);
                self.request_events();
                if outcome.is_err() {
                    self.forget(link, peer);
                }
            }
        }
        NextRecv::Proceed
    }

    /// A reset waits while LDK does not read, and a peer with nothing queued would stay until LDK's
    /// next ping.
    fn turn_completed(&self, link: Link<'_, Peer>, peer: &mut Peer) {
        if peer.known().is_some_and(SocketDescriptor::is_read_paused) {
            let hung_up = link.info().and_then(|info| info.hung_up);
            if matches!(hung_up, Some(HangUp::Error(_))) {
                link.close();
            }
        }
    }

    fn closed(&self, _: &SockMan, _: ConnectionId, peer: Peer) {
        if let Some(descriptor) = peer.known() {
            self.manager.socket_disconnected(descriptor);
        }
        // LDK's handlers have heard of the end, also if LDK itself ended the connection.
        self.request_events();
    }

    fn loop_completed(&self, _: &SockMan) {
        if self.has_events.swap(false, Ordering::AcqRel) {
            self.manager.process_events();
        }
    }

    fn queue_limits(&self) -> SendQueueLimits {
        LIMITS
    }
}
