//! Helpers for the tests of peers: a node, and a peer over a plain blocking socket.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Instant,
};

use bitcoin::{
    BlockHash, Network,
    blockdata::constants::genesis_block,
    consensus::encode::{deserialize, serialize},
    hashes::Hash,
    p2p::{
        Magic, ServiceFlags,
        message::{CommandString, NetworkMessage, RawNetworkMessage},
        message_blockdata::GetHeadersMessage,
        message_network::VersionMessage,
    },
};
use sockman_node::{
    Chain, Config, Node,
    testing::{DEADLINE, Events, start},
};

pub(crate) const NETWORK: Network = Network::Regtest;
pub(crate) const HEADER: usize = 24;
/// The place of the command in a message's header.
pub(crate) const COMMAND: std::ops::Range<usize> = 4..16;
/// The place of the length in a message's header.
pub(crate) const LENGTH: std::ops::Range<usize> = 16..20;
/// The place of the checksum in a message's header.
pub(crate) const CHECKSUM: usize = 20;

/// A peer over a plain blocking socket.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(node: &Node) -> Client {
        let address = node.listening()[0].to_socket_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    /// Connects and completes the handshake.
    pub(crate) fn established(node: &Node) -> Client {
        let mut client = Client::connect(node);
        client.send(version());
        client.send(NetworkMessage::Verack);
        client
            .wait_for("verack", |message| matches!(message, NetworkMessage::Verack).then_some(()));
        client
    }

    pub(crate) fn send(&mut self, message: NetworkMessage) {
        self.stream.write_all(&encode(message)).unwrap();
    }

    /// Receives a message, and answers the message if it is a ping.
    pub(crate) fn receive(&mut self) -> NetworkMessage {
        let (message, has_nonce) = self.receive_only();
        if let (NetworkMessage::Ping(nonce), true) = (&message, has_nonce) {
            self.send(NetworkMessage::Pong(*nonce));
        }
        message
    }

    /// Receives a message, and answers no ping. Returns whether the message has a payload. A ping
    /// without one has the nonce 0.
    pub(crate) fn receive_only(&mut self) -> (NetworkMessage, bool) {
        let mut bytes = vec![0; HEADER];
        self.stream.read_exact(&mut bytes).unwrap();
        let length = u32::from_le_bytes(bytes[LENGTH].try_into().unwrap());
        bytes.resize(HEADER + length as usize, 0);
        self.stream.read_exact(&mut bytes[HEADER..]).unwrap();
        if bytes[COMMAND] == *b"ping\0\0\0\0\0\0\0\0" && bytes.len() == HEADER {
            return (NetworkMessage::Ping(0), false);
        }
        (deserialize::<RawNetworkMessage>(&bytes).unwrap().into_payload(), length > 0)
    }

    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        found: impl Fn(&NetworkMessage) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(result) = found(&self.receive()) {
                return result;
            }
        }
        panic!("{what} did not arrive within {DEADLINE:?}");
    }

    /// Asserts that the node answers a ping.
    pub(crate) fn assert_served(&mut self) {
        self.send(NetworkMessage::Ping(4711));
        self.wait_for("pong", |message| {
            matches!(message, NetworkMessage::Pong(4711)).then_some(())
        });
    }

    /// Waits until the node closes the connection, and ignores the bytes that the node sends
    /// before.
    pub(crate) fn assert_closed(mut self) {
        // A reset is possible too, because the node may not have read all bytes.
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

pub(crate) fn version() -> NetworkMessage {
    let unknown = bitcoin::p2p::Address::new(&([0, 0, 0, 0], 0).into(), ServiceFlags::NONE);
    NetworkMessage::Version(VersionMessage {
        version: 70016,
        ..VersionMessage::new(
            ServiceFlags::NONE,
            0,
            unknown.clone(),
            unknown,
            1,
            "/test/\x1b[31m\u{7}".to_owned(),
            0,
        )
    })
}

pub(crate) fn get_headers() -> NetworkMessage {
    let genesis = genesis_block(NETWORK).block_hash();
    NetworkMessage::GetHeaders(GetHeadersMessage::new(vec![genesis], BlockHash::all_zeros()))
}

/// Returns a message with this payload, which need not be well-formed.
pub(crate) fn raw(command: &'static str, payload: &[u8]) -> NetworkMessage {
    let command = CommandString::try_from_static(command).unwrap();
    NetworkMessage::Unknown { command, payload: payload.to_vec() }
}

pub(crate) fn encode(message: NetworkMessage) -> Vec<u8> {
    serialize(&RawNetworkMessage::new(Magic::REGTEST, message))
}

pub(crate) fn config() -> Config {
    let mut config = Config::new(NETWORK);
    config.listen.push("127.0.0.1:0".parse().unwrap());
    config
}

pub(crate) fn start_with(config: Config) -> (Node, std::sync::Arc<Events>) {
    start(config, Chain::new(NETWORK))
}

pub(crate) fn chain_of(headers: usize) -> Chain {
    let mut chain = Chain::new(NETWORK);
    chain.mine(headers).unwrap();
    chain
}

/// Sends `bytes` to a node. Asserts that the node disconnects with a reason that contains `reason`,
/// and serves another peer as before.
pub(crate) fn assert_disconnects(after_handshake: bool, bytes: &[u8], reason: &str) {
    assert_disconnects_from(config(), after_handshake, bytes, reason);
}

pub(crate) fn assert_disconnects_from(
    config: Config,
    after_handshake: bool,
    bytes: &[u8],
    reason: &str,
) {
    let (node, events) = start_with(config);
    let mut bystander = Client::established(&node);
    let mut client =
        if after_handshake { Client::established(&node) } else { Client::connect(&node) };
    client.stream.write_all(bytes).unwrap();
    let told = events.wait_for_disconnect();
    assert!(told.contains(reason), "{told}");
    client.assert_closed();
    bystander.assert_served();
    assert_eq!(node.peers().len(), 1);
    node.stop().unwrap();
}
