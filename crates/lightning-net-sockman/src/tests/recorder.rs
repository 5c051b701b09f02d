//! A manager in place of LDK's, which records the calls of the driver.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Instant,
};

use lightning::{
    bitcoin::secp256k1::PublicKey,
    ln::{
        msgs::SocketAddress,
        peer_handler::{PeerHandleError, SocketDescriptor as _},
    },
};

use super::{DEADLINE, eventually};
use crate::{SocketDescriptor, manager::Manager};

/// A call that the driver made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Inbound(SocketDescriptor, Option<SocketAddress>),
    Outbound(SocketDescriptor, PublicKey, Option<SocketAddress>),
    Read(SocketDescriptor, Vec<u8>),
    Room(SocketDescriptor),
    Disconnected(SocketDescriptor),
    Events,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) calls: Vec<Call>,
    /// Whether the next calls return an error.
    pub(super) refuse: bool,
    /// What goes out when there is room.
    pub(super) to_send: VecDeque<u8>,
}

/// The manager of a test. It holds `lock` in each call, as LDK does, and panics if a call comes
/// while another one for the same connection runs.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    pub(super) lock: Mutex<()>,
}

impl Recorder {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn note(&self, call: Call) -> Result<(), PeerHandleError> {
        let _lock = self.lock.lock().unwrap();
        let mut state = self.state();
        state.calls.push(call);
        self.changed.notify_all();
        if state.refuse { Err(PeerHandleError {}) } else { Ok(()) }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub(super) fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.state().calls.iter().filter(|call| wanted(call)).count()
    }

    pub(super) fn wait_for<T>(&self, what: &str, found: impl Fn(&Call) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state();
        loop {
            if let Some(found) = state.calls.iter().find_map(&found) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}: {:?}", state.calls);
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    pub(super) fn wait_for_call(&self, wanted: &Call) {
        self.wait_for("a call", |call| (call == wanted).then_some(()));
    }

    /// Waits until `bytes` have been read on a connection.
    pub(super) fn wait_for_bytes(&self, descriptor: &SocketDescriptor, bytes: usize) -> Vec<u8> {
        let mut received = Vec::new();
        eventually("the bytes are read", || {
            received = Vec::new();
            for call in &self.state().calls {
                if let Call::Read(of, data) = call {
                    if of == descriptor {
                        received.extend_from_slice(data);
                    }
                }
            }
            received.len() >= bytes
        });
        received
    }
}

impl Manager for Arc<Recorder> {
    fn new_outbound(
        &self,
        their_node_id: PublicKey,
        descriptor: SocketDescriptor,
        address: Option<SocketAddress>,
    ) -> Result<Vec<u8>, PeerHandleError> {
        self.note(Call::Outbound(descriptor, their_node_id, address)).map(|()| b"first".to_vec())
    }

    fn new_inbound(
        &self,
        descriptor: SocketDescriptor,
        address: Option<SocketAddress>,
    ) -> Result<(), PeerHandleError> {
        self.note(Call::Inbound(descriptor, address))
    }

    fn read_event(
        &self,
        descriptor: &mut SocketDescriptor,
        data: &[u8],
    ) -> Result<(), PeerHandleError> {
        self.note(Call::Read(descriptor.clone(), data.to_vec()))
    }

    fn write_buffer_space_avail(
        &self,
        descriptor: &mut SocketDescriptor,
    ) -> Result<(), PeerHandleError> {
        self.note(Call::Room(descriptor.clone()))?;
        let _lock = self.lock.lock().unwrap();
        self.send_rest(descriptor);
        Ok(())
    }

    fn socket_disconnected(&self, descriptor: &SocketDescriptor) {
        let _ = self.note(Call::Disconnected(descriptor.clone()));
    }

    fn process_events(&self) {
        let _ = self.note(Call::Events);
    }
}

impl Recorder {
    /// Sends until the driver takes no more.
    pub(super) fn send_rest(&self, descriptor: &SocketDescriptor) {
        let to_send = &mut self.state().to_send;
        let rest = to_send.make_contiguous();
        let taken = descriptor.clone().send_data(rest, true);
        to_send.drain(..taken);
    }
}
