//! What the handler asks of a peer manager. The only implementation outside of tests is
//! [`PeerManager`](lightning::ln::peer_handler::PeerManager).

use std::ops::Deref;

use lightning::{
    bitcoin::secp256k1::PublicKey,
    ln::{
        msgs::SocketAddress,
        peer_handler::{APeerManager, PeerHandleError},
    },
};

use crate::SocketDescriptor;

/// The calls of [`PeerManager`](lightning::ln::peer_handler::PeerManager) that a driver makes.
pub(crate) trait Manager: Send + Sync + 'static {
    /// Returns the first bytes for the peer.
    fn new_outbound(
        &self,
        their_node_id: PublicKey,
        descriptor: SocketDescriptor,
        address: Option<SocketAddress>,
    ) -> Result<Vec<u8>, PeerHandleError>;

    fn new_inbound(
        &self,
        descriptor: SocketDescriptor,
        address: Option<SocketAddress>,
    ) -> Result<(), PeerHandleError>;

    fn read_event(
        &self,
        descriptor: &mut SocketDescriptor,
        data: &[u8],
    ) -> Result<(), PeerHandleError>;

    fn write_buffer_space_avail(
        &self,
        descriptor: &mut SocketDescriptor,
    ) -> Result<(), PeerHandleError>;

    fn socket_disconnected(&self, descriptor: &SocketDescriptor);

    fn process_events(&self);
}

/// A pointer to a peer manager.
pub(crate) struct Ldk<PM>(pub(crate) PM);

impl<PM> Manager for Ldk<PM>
where
    PM: Deref + Send + Sync + 'static,
    PM::Target: APeerManager<Descriptor = SocketDescriptor>,
{
    fn new_outbound(
        &self,
        their_node_id: PublicKey,
        descriptor: SocketDescriptor,
        address: Option<SocketAddress>,
    ) -> Result<Vec<u8>, PeerHandleError> {
        self.0.as_ref().new_outbound_connection(their_node_id, descriptor, address)
    }

    fn new_inbound(
        &self,
        descriptor: SocketDescriptor,
        address: Option<SocketAddress>,
    ) -> Result<(), PeerHandleError> {
        self.0.as_ref().new_inbound_connection(descriptor, address)
    }

    fn read_event(
        &self,
        descriptor: &mut SocketDescriptor,
        data: &[u8],
    ) -> Result<(), PeerHandleError> {
        self.0.as_ref().read_event(descriptor, data)
    }

    fn write_buffer_space_avail(
        &self,
        descriptor: &mut SocketDescriptor,
    ) -> Result<(), PeerHandleError> {
        self.0.as_ref().write_buffer_space_avail(descriptor)
    }

    fn socket_disconnected(&self, descriptor: &SocketDescriptor) {
        self.0.as_ref().socket_disconnected(descriptor);
    }

    fn process_events(&self) {
        self.0.as_ref().process_events();
    }
}
