//! What peers may say: versions of all ages, addresses, and headers that lead nowhere. Each peer is
//! a plain socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{io::Write, net::SocketAddr};

use bitcoin::{
    BlockHash, TxMerkleNode,
    block::{Header, Version},
    blockdata::constants::genesis_block,
    consensus::encode::serialize,
    hashes::Hash,
    p2p::{
        ServiceFlags,
        address::{AddrV2, AddrV2Message},
        message::{CommandString, NetworkMessage},
        message_blockdata::Inventory,
        message_network::VersionMessage,
    },
};
use sockman_node::{Event, testing::start};
use support::{Client, NETWORK, assert_disconnects, chain_of, config, encode, start_with, version};

/// Sends a `version` with this payload and a `verack`, and asserts that the node serves the peer.
fn assert_greets(protocol: u32, payload: &[u8]) {
    let (node, events) = start_with(config());
    let mut client = Client::connect(&node);
    let command = CommandString::try_from_static("version").unwrap();
    let payload = [&protocol.to_le_bytes(), &payload[4..]].concat();
    client.send(NetworkMessage::Unknown { command, payload });
    let command = CommandString::try_from_static("verack").unwrap();
    client.send(NetworkMessage::Unknown { command, payload: b"grown".to_vec() });
    events
        .wait_for("the handshake", |event| matches!(event, Event::Handshake { .. }).then_some(()));
    client.assert_served();
    node.stop().unwrap();
}

#[test]
fn a_version_without_its_newer_fields_and_a_longer_one_are_accepted() {
    let NetworkMessage::Version(version) = version() else { unreachable!() };
    let payload = serialize(&version);
    let (relay, height) = (payload.len() - 1, payload.len() - 5);
    assert_greets(70016, &payload[..relay]);
    assert_greets(60002, &payload[..height]);
    assert_greets(31800, &payload[..46]);
    assert_greets(70016, &[&payload[..], b"more"].concat());
}

#[test]
fn a_version_older_than_bitcoin_core_accepts_disconnects_the_peer() {
    for protocol in [31799, 0, u32::MAX] {
        let NetworkMessage::Version(version) = version() else { unreachable!() };
        let version = NetworkMessage::Version(VersionMessage { version: protocol, ..version });
        assert_disconnects(false, &encode(version), "older than");
    }
}

/// A peer from before BIP 31 sends no `pong`, so the node does not wait for one.
#[test]
fn a_peer_that_knows_no_pong_is_kept() {
    let (node, _) = start_with(config());
    let mut client = Client::connect(&node);
    let NetworkMessage::Version(version) = version() else { unreachable!() };
    client.send(NetworkMessage::Version(VersionMessage { version: 60000, ..version }));
    client.send(NetworkMessage::Verack);
    let nonce = client.wait_for("a ping", |message| match message {
        NetworkMessage::Ping(nonce) => Some(*nonce),
        _ => None,
    });
    assert_eq!(nonce, 0, "the ping has a nonce");
    assert_eq!(node.peers()[0].ping_wait, None);
    node.stop().unwrap();
}

fn ipv4_addresses(first: u32, count: u32) -> NetworkMessage {
    let entry = |number: u32| AddrV2Message {
        time: 0,
        services: ServiceFlags::NONE,
        addr: AddrV2::Ipv4((first + number).into()),
        port: 8333,
    };
    NetworkMessage::AddrV2((0..count).map(entry).collect())
}

#[test]
fn addresses_that_cannot_be_dialled_do_not_displace_others() {
    let (node, events) = start_with(config());
    let mut flooding = Client::established(&node);
    flooding.send(ipv4_addresses(0x7f00_0001, 1000));
    flooding.send(ipv4_addresses(0x0808_0000, 1000));
    flooding.assert_served();
    let mut honest = Client::established(&node);
    honest.send(ipv4_addresses(0x0909_0900, 3));
    honest.assert_served();
    let mut asking = Client::established(&node);
    asking.send(NetworkMessage::GetAddr);
    let answer = asking.wait_for("addr", |message| match message {
        NetworkMessage::Addr(list) => Some(list.clone()),
        _ => None,
    });
    let told = |ip: u32| {
        let wanted = SocketAddr::from((std::net::Ipv4Addr::from(ip), 8333));
        answer.iter().any(|(_, address)| address.socket_addr().unwrap() == wanted)
    };
    assert!((0x0909_0900..0x0909_0903).all(told), "{answer:?}");
    assert!(!(0x7f00_0001..0x7f00_0100).any(told), "{answer:?}");
    let known = events.all().iter().rev().find_map(|event| match event {
        Event::Addresses { known, .. } => Some(*known),
        _ => None,
    });
    assert!(known.unwrap() < 500, "{known:?}");
    node.stop().unwrap();
}

/// Returns a header of regtest that is valid after `parent`. The version 2 after the genesis block
/// is the first header of [`chain_of`].
fn mined(parent: BlockHash, version: i32) -> Header {
    let mut header = Header {
        version: Version::from_consensus(version),
        prev_blockhash: parent,
        merkle_root: TxMerkleNode::all_zeros(),
        time: genesis_block(NETWORK).header.time + 600,
        nonce: 0,
        ..genesis_block(NETWORK).header
    };
    while header.validate_pow(header.target()).is_err() {
        header.nonce += 1;
    }
    header
}

/// Asserts that a node with ten headers disconnects a peer that sends the messages again and again.
fn assert_disconnects_in_the_end(messages: &[NetworkMessage], reason: &str) {
    let (node, events) = start(config(), chain_of(10));
    let mut bystander = Client::established(&node);
    let mut client = Client::established(&node);
    let round: Vec<u8> = messages.iter().cloned().flat_map(encode).collect();
    // The node may close the connection before it has read all rounds.
    let _ = client.stream.write_all(&round.repeat(50));
    let told = events.wait_for_disconnect();
    assert!(told.contains(reason), "{told}");
    client.assert_closed();
    bystander.assert_served();
    node.stop().unwrap();
}

#[test]
fn a_peer_that_repeats_headers_of_less_work_is_disconnected() {
    let genesis = genesis_block(NETWORK).block_hash();
    let headers = |list: &[Header]| NetworkMessage::Headers(list.to_vec());
    let (one, other) = (mined(genesis, 7), mined(genesis, 8));
    let known = mined(genesis, 2);
    let reason = "of less work";
    assert_disconnects_in_the_end(&[headers(&[one])], reason);
    // Neither another such header nor other messages in between excuse the peer.
    assert_disconnects_in_the_end(&[headers(&[one]), headers(&[other])], reason);
    assert_disconnects_in_the_end(&[headers(&[one]), headers(&[])], reason);
    assert_disconnects_in_the_end(&[headers(&[one]), headers(&[known])], reason);
    assert_disconnects_in_the_end(&[headers(&[one]), inventory()], reason);
}

#[test]
fn a_peer_whose_headers_never_connect_is_disconnected() {
    let genesis = genesis_block(NETWORK).block_hash();
    let headers = |list: &[Header]| NetworkMessage::Headers(list.to_vec());
    let unconnected = headers(&[mined(BlockHash::from_byte_array([7; 32]), 7)]);
    let reason = "do not follow a known header";
    assert_disconnects_in_the_end(std::slice::from_ref(&unconnected), reason);
    assert_disconnects_in_the_end(&[unconnected.clone(), headers(&[])], reason);
    let known = mined(genesis, 2);
    assert_disconnects_in_the_end(&[unconnected.clone(), headers(&[known])], reason);
    assert_disconnects_in_the_end(&[unconnected.clone(), inventory()], reason);
    // A header of less work is no progress either.
    let (one, reason) = (mined(genesis, 7), "the peer kept sending");
    assert_disconnects_in_the_end(&[unconnected, headers(&[one])], reason);
}

#[test]
fn a_peer_that_repeats_known_headers_is_served() {
    let (node, _) = start(config(), chain_of(10));
    let mut client = Client::established(&node);
    let genesis = genesis_block(NETWORK).block_hash();
    let known = mined(genesis, 2);
    for _ in 0..50 {
        client.send(NetworkMessage::Headers(vec![known]));
    }
    client.assert_served();
    node.stop().unwrap();
}

/// An announcement of an unknown block, which the node answers with `getheaders`.
fn inventory() -> NetworkMessage {
    NetworkMessage::Inv(vec![Inventory::Block(BlockHash::from_byte_array([9; 32]))])
}
