//! A peer whose socket the test moves by hand: it can stall, and reset.

use std::{
    hash::{Hash, Hasher},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lightning::{bitcoin::secp256k1::PublicKey, ln::peer_handler::SocketDescriptor};

use crate::ldk::Node;

/// The descriptor of the one connection.
#[derive(Clone)]
pub(crate) struct Plain {
    stream: Arc<TcpStream>,
    wants_room: Arc<AtomicBool>,
}

impl SocketDescriptor for Plain {
    fn send_data(&mut self, data: &[u8], _: bool) -> usize {
        let mut sent = 0;
        while sent < data.len() {
            match (&*self.stream).write(&data[sent..]) {
                Ok(length) => sent += length,
                Err(_) => break,
            }
        }
        self.wants_room.store(sent < data.len(), Ordering::Relaxed);
        sent
    }

    fn disconnect_socket(&mut self) {}
}

impl PartialEq for Plain {
    fn eq(&self, other: &Plain) -> bool {
        Arc::ptr_eq(&self.stream, &other.stream)
    }
}

impl Eq for Plain {}

impl Hash for Plain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.stream).hash(state);
    }
}

pub(crate) struct PlainPeer {
    pub(crate) node: Node<Plain>,
    descriptor: Plain,
    buffer: Vec<u8>,
}

impl PlainPeer {
    /// Connects, and shakes hands.
    pub(crate) fn connect(to: SocketAddr, their_node_id: PublicKey) -> PlainPeer {
        let stream = TcpStream::connect(to).unwrap();
        let node = Node::new();
        let wants_room = Arc::default();
        let mut descriptor = Plain { stream: Arc::new(stream), wants_room };
        let manager = &node.manager;
        let first = manager.new_outbound_connection(their_node_id, descriptor.clone(), None);
        let first = first.unwrap();
        assert_eq!(descriptor.send_data(&first, true), first.len());
        descriptor.stream.set_nonblocking(true).unwrap();
        let mut peer = PlainPeer { node, descriptor, buffer: vec![0; 1 << 16] };
        while peer.node.manager.list_peers().is_empty() {
            peer.turn(true);
        }
        peer
    }

    /// Sends what the kernel takes, and receives if `read` says so.
    pub(crate) fn turn(&mut self, read: bool) {
        let manager = &self.node.manager;
        if self.descriptor.wants_room.load(Ordering::Relaxed) {
            manager.write_buffer_space_avail(&mut self.descriptor).unwrap();
        }
        if read {
            match (&*self.descriptor.stream).read(&mut self.buffer) {
                Ok(0) => panic!("the driver has closed the connection"),
                Ok(length) => {
                    manager.read_event(&mut self.descriptor, &self.buffer[..length]).unwrap();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        manager.process_events();
    }

    /// Closes the socket with a reset.
    pub(crate) fn reset(self) {
        let stream = self.descriptor.stream.try_clone().unwrap();
        drop(self);
        sockman_test_support::reset(stream);
    }
}
