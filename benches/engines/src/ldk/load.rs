//! The load on an LDK node: nodes on plain sockets, on one thread that never sleeps. So the server
//! never pays for waking it.
use std::{
    error::Error,
    hash::{Hash, Hasher},
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use lightning::{bitcoin::secp256k1::PublicKey, ln::peer_handler::SocketDescriptor};

use super::node::{Message, Node};
use crate::{
    cases::Case,
    load::{Load, PATIENCE, Tally},
    server_process::ServerProcess,
};

/// The number of nodes that connect to the server.
const NODES: u8 = 4;
/// The requests that each node has under way.
const UNDER_WAY: u32 = 8;
/// The bytes of a large message. Lightning's longest one has 65,535.
const LARGE: u32 = 60_000;
const SMALL: u32 = 0;
const RECEIVE_BUFFER: usize = 64 * 1024;

/// The nodes that send requests.
pub struct Nodes {
    peers: Vec<Client>,
    server: PublicKey,
    /// The bytes of data of a request and of a reply.
    sizes: (u32, u32),
    buffer: Vec<u8>,
}

struct Client {
    node: Node<Plain>,
    descriptor: Plain,
    /// The requests that were sent, and the replies that were counted.
    sent: u32,
    counted: u32,
}

impl Nodes {
    /// Connects, and waits for the handshakes.
    pub fn connect(server: &ServerProcess, case: Case) -> Result<Nodes, Box<dyn Error>> {
        let id = PublicKey::from_slice(&server.identity)?;
        let sizes = if case == Case::LdkServes { (SMALL, LARGE) } else { (LARGE, SMALL) };
        let mut nodes =
            Nodes { peers: Vec::new(), server: id, sizes, buffer: vec![0; RECEIVE_BUFFER] };
        for number in 1..=NODES {
            let stream = TcpStream::connect(server.address)?;
            stream.set_nodelay(true)?;
            let node = Node::new(number)?;
            let mut descriptor = Plain { stream: Arc::new(stream), wants_room: Arc::default() };
            let first = node.manager.new_outbound_connection(id, descriptor.clone(), None);
            let first = first.map_err(|_| "LDK refuses the connection")?;
            // The socket still blocks, so it takes everything.
            descriptor.send_data(&first, true);
            descriptor.stream.set_nonblocking(true)?;
            nodes.peers.push(Client { node, descriptor, sent: 0, counted: 0 });
        }
        let deadline = Instant::now() + PATIENCE;
        while nodes.peers.iter().any(|peer| peer.node.manager.list_peers().is_empty()) {
            if Instant::now() > deadline {
                return Err("the handshakes take too long".into());
            }
            nodes.turn()?;
        }
        Ok(nodes)
    }

    /// Moves the bytes of all nodes. Returns whether there was anything to do.
    fn turn(&mut self) -> io::Result<bool> {
        let mut has_moved = false;
        for peer in &mut self.peers {
            has_moved |= peer.turn(&mut self.buffer)?;
        }
        Ok(has_moved)
    }
}

impl Load for Nodes {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        let (request, reply) = self.sizes;
        while Instant::now() < until {
            for peer in &mut self.peers {
                let replies = peer.node.messages.replies();
                let new = u64::from(replies - peer.counted);
                peer.counted = replies;
                tally.messages += new;
                tally.bytes += new * u64::from(request + reply);
                while peer.sent - replies < UNDER_WAY {
                    let message = Message::request(peer.sent, request, reply);
                    peer.node.messages.send(self.server, message);
                    peer.sent += 1;
                }
            }
            if !self.turn()? {
                thread::yield_now();
            }
        }
        Ok(())
    }
}

impl Client {
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let manager = &self.node.manager;
        let refused = |_| io::Error::other("LDK ends the connection: a message is wrong");
        if self.descriptor.wants_room.load(Ordering::Relaxed) {
            manager.write_buffer_space_avail(&mut self.descriptor).map_err(refused)?;
        }
        let has_received = match (&*self.descriptor.stream).read(buffer) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(length) => {
                let data = &buffer[..length];
                manager.read_event(&mut self.descriptor, data).map_err(refused)?;
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        manager.process_events();
        Ok(has_received)
    }
}

/// The descriptor of a connection: LDK sends on the socket itself.
#[derive(Clone)]
struct Plain {
    stream: Arc<TcpStream>,
    wants_room: Arc<AtomicBool>,
}

impl SocketDescriptor for Plain {
    fn send_data(&mut self, data: &[u8], _: bool) -> usize {
        let mut sent = 0;
        while sent < data.len() {
            // An error shows again at the next read.
            let Ok(length) = (&*self.stream).write(&data[sent..]) else { break };
            sent += length;
        }
        self.wants_room.store(sent < data.len(), Ordering::Relaxed);
        sent
    }

    fn disconnect_socket(&mut self) {
        // The next read reports the end.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
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
