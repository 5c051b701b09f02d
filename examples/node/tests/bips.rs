//! What BIP 155 and BIP 339 say about messages, each over a plain socket. `v2` has BIP 324, `peers`
//! has misbehaving peers. `docs/conformance.md` lists each statement with its test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
};

use bitcoin::{
    Network, Wtxid,
    consensus::encode::{deserialize, serialize},
    hashes::{Hash, sha256d},
    p2p::{
        Address, Magic, ServiceFlags,
        address::{AddrV2, AddrV2Message},
        message::{NetworkMessage, RawNetworkMessage},
        message_blockdata::Inventory,
        message_network::VersionMessage,
    },
};
use sockman_node::{
    Chain, Config, Node,
    testing::{DEADLINE, Events, start},
};

const NETWORK: Network = Network::Regtest;
const HEADER: usize = 24;

fn listening() -> (Node, Arc<Events>) {
    let mut config = Config::new(NETWORK);
    config.listen.push("127.0.0.1:0".parse().unwrap());
    start(config, Chain::new(NETWORK))
}

/// A peer over a plain blocking socket.
struct Client(TcpStream);

impl Client {
    fn connect(node: &Node) -> Client {
        let stream = TcpStream::connect(node.listening()[0].to_socket_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    /// Connects and completes the handshake, with `between` sent between `version` and `verack`.
    fn established(node: &Node, between: &[NetworkMessage]) -> Client {
        let mut client = Client::connect(node);
        client.send(version());
        for message in between {
            client.send(message.clone());
        }
        client.send(NetworkMessage::Verack);
        while client.receive() != NetworkMessage::Verack {}
        client
    }

    fn send(&mut self, message: NetworkMessage) {
        self.0.write_all(&serialize(&RawNetworkMessage::new(Magic::REGTEST, message))).unwrap();
    }

    /// Sends a message with this payload, which need not be well-formed.
    fn send_raw(&mut self, command: &str, payload: &[u8]) {
        let mut name = command.as_bytes().to_vec();
        name.resize(12, 0);
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let checksum = sha256d::Hash::hash(payload).to_byte_array();
        let magic = Magic::REGTEST.to_bytes();
        let message = [&magic[..], &name, &length, &checksum[..4], payload].concat();
        self.0.write_all(&message).unwrap();
    }

    fn receive(&mut self) -> NetworkMessage {
        let mut bytes = vec![0; HEADER];
        self.0.read_exact(&mut bytes).unwrap();
        let length = u32::from_le_bytes(bytes[16..20].try_into().unwrap());
        bytes.resize(HEADER + length as usize, 0);
        self.0.read_exact(&mut bytes[HEADER..]).unwrap();
        deserialize::<RawNetworkMessage>(&bytes).unwrap().into_payload()
    }

    /// Asserts that the node answers a ping.
    fn assert_served(&mut self) {
        self.send(NetworkMessage::Ping(4711));
        while self.receive() != NetworkMessage::Pong(4711) {}
    }
}

fn nowhere() -> Address {
    Address::new(&([0, 0, 0, 0], 0).into(), ServiceFlags::NONE)
}

fn version() -> NetworkMessage {
    let agent = "/test/".to_owned();
    NetworkMessage::Version(VersionMessage {
        version: 70016,
        ..VersionMessage::new(ServiceFlags::NONE, 0, nowhere(), nowhere(), 1, agent, 0)
    })
}

/// Returns the payload of an `addrv2` message with one address.
fn addr_v2(network: u8, address: &[u8]) -> Vec<u8> {
    let length = u16::try_from(address.len()).unwrap();
    let mut payload = vec![1, 0, 0, 0, 0, 0, network];
    match u8::try_from(length) {
        Ok(short) if short < 253 => payload.push(short),
        _ => payload.extend([&[253][..], &length.to_le_bytes()].concat()),
    }
    payload.extend(address);
    payload.extend(8333_u16.to_be_bytes());
    payload
}

/// BIP 155, "Signaling support": `sendaddrv2` answers `version` and comes before `verack`.
#[test]
fn sendaddrv2_is_sent_between_version_and_verack() {
    let (node, _) = listening();
    let mut client = Client::connect(&node);
    client.send(version());
    assert!(matches!(client.receive(), NetworkMessage::Version(_)));
    assert_eq!(client.receive(), NetworkMessage::SendAddrV2);
    assert_eq!(client.receive(), NetworkMessage::Verack);
    // After `verack`, which the client has not sent yet, the message is only ignored.
    client.send(NetworkMessage::Verack);
    client.send(NetworkMessage::SendAddrV2);
    client.assert_served();
}

/// BIP 155, "Specification": a message has up to 1,000 addresses.
#[test]
fn more_than_a_thousand_addresses_disconnect_the_peer() {
    let v2 = AddrV2Message {
        time: 0,
        services: ServiceFlags::NONE,
        addr: AddrV2::Ipv4(Ipv4Addr::LOCALHOST),
        port: 1,
    };
    for messages in [
        [1000, 1001].map(|count| NetworkMessage::AddrV2(vec![v2.clone(); count])),
        [1000, 1001].map(|count| NetworkMessage::Addr(vec![(0, nowhere()); count])),
    ] {
        let (node, events) = listening();
        let mut client = Client::established(&node, &[NetworkMessage::SendAddrV2]);
        let [most, more] = messages;
        client.send(most);
        client.assert_served();
        client.send(more);
        let reason = events.wait_for_disconnect();
        assert!(reason.contains("1001 addresses"), "{reason}");
        node.stop().unwrap();
    }
}

/// BIP 155, "Specification": an address has at most 512 bytes, and each known network has its
/// length.
#[test]
fn an_address_of_the_wrong_length_disconnects_the_peer() {
    for (network, length) in [(1, 5), (2, 4), (4, 31), (5, 33), (6, 15), (99, 513), (99, 4096)] {
        let (node, events) = listening();
        let mut client = Client::established(&node, &[]);
        client.send_raw("addrv2", &addr_v2(network, &vec![0xfc; length]));
        let reason = events.wait_for_disconnect();
        assert!(reason.contains("malformed"), "network {network}, {length} bytes: {reason}");
        node.stop().unwrap();
    }
}

/// BIP 155, "Specification": addresses of unknown networks are not passed on. Yggdrasil (7) is one
/// here, and Tor v2 (3) is to be ignored.
#[test]
fn an_address_of_an_unknown_network_is_ignored_and_not_passed_on() {
    let (node, _) = listening();
    let mut client = Client::established(&node, &[NetworkMessage::SendAddrV2]);
    for (network, length) in [(99, 0), (99, 512), (3, 10), (7, 16), (255, 7)] {
        client.send_raw("addrv2", &addr_v2(network, &vec![0x77; length]));
        client.assert_served();
    }
    let mut asking = Client::established(&node, &[NetworkMessage::SendAddrV2]);
    asking.send(NetworkMessage::GetAddr);
    asking.send(NetworkMessage::Ping(1));
    loop {
        match asking.receive() {
            NetworkMessage::AddrV2(list) => {
                let is_known =
                    |addr: &AddrV2| !matches!(addr, AddrV2::TorV2(_) | AddrV2::Unknown(..));
                assert!(list.iter().all(|message| is_known(&message.addr)), "{list:?}");
            }
            NetworkMessage::Pong(1) => break,
            _ => {}
        }
    }
}

/// BIP 155, "Signaling support": a peer without `sendaddrv2` gets `addr`.
#[test]
fn a_peer_that_did_not_send_sendaddrv2_gets_no_addrv2() {
    let (node, _) = listening();
    let mut teaching = Client::established(&node, &[]);
    teaching.send_raw("addrv2", &addr_v2(4, &[7; 32]));
    teaching.send_raw("addrv2", &addr_v2(1, &[8, 8, 8, 8]));
    teaching.assert_served();
    let mut asking = Client::established(&node, &[]);
    asking.send(NetworkMessage::GetAddr);
    asking.send(NetworkMessage::Ping(1));
    loop {
        match asking.receive() {
            NetworkMessage::AddrV2(list) => panic!("{list:?}"),
            NetworkMessage::Pong(1) => break,
            _ => {}
        }
    }
}

/// BIP 339: `wtxidrelay` comes before `verack`; later it is ignored. `inv` and `getdata` may name a
/// wtxid. This node has no transactions.
#[test]
fn wtxidrelay_and_inventories_of_wtxids_are_no_fault() {
    let (node, _) = listening();
    let mut client = Client::established(&node, &[NetworkMessage::WtxidRelay]);
    client.send(NetworkMessage::WtxidRelay);
    let wtxid = vec![Inventory::WTx(Wtxid::all_zeros())];
    client.send(NetworkMessage::Inv(wtxid.clone()));
    client.assert_served();
    client.send(NetworkMessage::GetData(wtxid.clone()));
    assert_eq!(client.receive(), NetworkMessage::NotFound(wtxid));
}
