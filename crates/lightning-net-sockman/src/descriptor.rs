//! [`SocketDescriptor`], through which LDK sends. Its methods run on any thread, under LDK's locks.
//! They take the lock of the connection's queue for a moment, and call nothing of the embedder.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lightning::ln::peer_handler;
use sockman::{ConnectionId, stateful::Remote};

use crate::handler::Peer;

/// How long a connection that LDK ended may go on sending what is queued, such as LDK's error
/// message. `lightning-net-tokio` leaves this to the kernel.
pub(crate) const LINGER: Duration = Duration::from_secs(3);

/// A connection, as LDK knows it: the descriptor type of the
/// [`PeerManager`](peer_handler::PeerManager). The [`Driver`](crate::Driver) creates the
/// descriptors.
///
/// Two descriptors are equal if they have the same [`ConnectionId`], which is unique in the process
/// and never reused. Clones share one allocation. A descriptor that outlives its connection keeps
/// neither the socket nor the driver alive.
///
/// LDK calls the methods from any thread, with its locks held. They wait for no other thread, and
/// call no method of the peer manager.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use lightning::ln::peer_handler::{ErroringMessageHandler, IgnoringMessageHandler, PeerManager};
/// use lightning::sign::KeysManager;
/// use lightning_net_sockman::SocketDescriptor;
///
/// # struct Logger;
/// type Manager = PeerManager<
///     SocketDescriptor,
///     ErroringMessageHandler,
///     IgnoringMessageHandler,
///     IgnoringMessageHandler,
///     Arc<Logger>,
///     IgnoringMessageHandler,
///     Arc<KeysManager>,
///     IgnoringMessageHandler,
/// >;
/// # impl lightning::util::logger::Logger for Logger {
/// #     fn log(&self, _: lightning::util::logger::Record<'_>) {}
/// # }
/// # fn f(_: Manager) {}
/// ```
#[derive(Clone)]
pub struct SocketDescriptor {
    shared: Arc<Shared>,
}

struct Shared {
    remote: Remote<Peer>,
    /// LDK's last `continue_read`, inverted.
    is_read_paused: AtomicBool,
    /// Whether a `send_data` took less than everything, and LDK was not told of room since.
    wants_room: AtomicBool,
    /// Whether LDK has called `disconnect_socket`. From then on it does not know the descriptor.
    is_disconnected: AtomicBool,
}

impl SocketDescriptor {
    pub(crate) fn new(remote: Remote<Peer>) -> SocketDescriptor {
        SocketDescriptor {
            shared: Arc::new(Shared {
                remote,
                is_read_paused: AtomicBool::new(false),
                wants_room: AtomicBool::new(false),
                is_disconnected: AtomicBool::new(false),
            }),
        }
    }

    /// Returns the id of the connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.shared.remote.id()
    }

    pub(crate) fn is_read_paused(&self) -> bool {
        self.shared.is_read_paused.load(Ordering::Acquire)
    }

    pub(crate) fn wants_room(&self) -> bool {
        self.shared.wants_room.load(Ordering::Acquire)
    }

    /// Returns whether LDK waits for room. The caller tells LDK.
    pub(crate) fn take_wants_room(&self) -> bool {
        self.shared.wants_room.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn is_disconnected(&self) -> bool {
        self.shared.is_disconnected.load(Ordering::Acquire)
    }
}

impl peer_handler::SocketDescriptor for SocketDescriptor {
    fn send_data(&mut self, data: &[u8], continue_read: bool) -> usize {
        let Shared { remote, is_read_paused, wants_room, .. } = &*self.shared;
        let was_paused = is_read_paused.swap(!continue_read, Ordering::AcqRel);
        if was_paused && continue_read {
            remote.wake(); // The answer of `should_try_to_recv` has become yes.
        }
        if data.is_empty() {
            return 0;
        }
        // An error means that the queue is full, or the connection closed.
        let taken = remote.enqueue_part(data).unwrap_or(0);
        #[cfg(test)]
        crate::tests::after_enqueue();
        if taken < data.len() {
            // The socket thread may have emptied the queue since. The wake makes it look again.
            wants_room.store(true, Ordering::Release);
            remote.wake();
        }
        taken
    }

    fn disconnect_socket(&mut self) {
        self.shared.is_disconnected.store(true, Ordering::Release);
        self.shared.remote.finish(LINGER);
    }
}

impl PartialEq for SocketDescriptor {
    fn eq(&self, other: &SocketDescriptor) -> bool {
        self.id() == other.id()
    }
}

impl Eq for SocketDescriptor {}

impl Hash for SocketDescriptor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for SocketDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketDescriptor").field("id", &self.id()).finish_non_exhaustive()
    }
}
