//! Misbehaviour that Bitcoin Core's functional tests describe. `docs/core-tests.md` lists them, with
//! the test of ours for each. Each peer is a plain socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bitcoin::{
    BlockHash, Txid,
    blockdata::constants::genesis_block,
    hashes::Hash,
    p2p::{
        ServiceFlags,
        message::NetworkMessage,
        message_blockdata::{GetBlocksMessage, GetHeadersMessage, Inventory},
    },
};
use sockman_node::{
    Config, Event, Node,
    testing::{DEADLINE, start},
};
use support::{
    COMMAND, Client, NETWORK, assert_disconnects, chain_of, config, encode, get_headers, raw,
    start_with, version,
};

/// Asserts that a node serves a peer after these messages.
fn assert_ignored(messages: impl IntoIterator<Item = Vec<u8>>) {
    let (node, _) = start_with(config());
    let mut client = Client::established(&node);
    for message in messages {
        client.stream.write_all(&message).unwrap();
        client.assert_served();
    }
    node.stop().unwrap();
}

/// `p2p_invalid_messages`: the oversized `inv`, `getdata` and `headers`.
#[test]
fn a_list_beyond_its_limit_disconnects_the_peer() {
    let item = Inventory::Transaction(Txid::all_zeros());
    let header = genesis_block(NETWORK).header;
    let of = |count| NetworkMessage::Inv(vec![item; count]);
    assert_ignored([of(50_000), of(0)].map(encode));
    assert_disconnects(true, &encode(of(50_001)), "50001 items");
    let of = |count| NetworkMessage::GetData(vec![item; count]);
    assert_ignored([encode(of(0))]);
    assert_disconnects(true, &encode(of(50_001)), "50001 items");
    let headers = NetworkMessage::Headers(vec![header; 2001]);
    assert_disconnects(true, &encode(headers), "2001 headers");
}

/// `p2p_invalid_messages`: the command has a byte behind its end, or one that is not printable. Its
/// name is that of a known message otherwise.
#[test]
fn a_message_with_an_invalid_command_is_ignored() {
    let with = |place: usize, byte: u8| {
        let mut message = encode(NetworkMessage::Verack);
        message[COMMAND.start + place] = byte;
        message
    };
    assert_ignored([with(3, 0), with(7, b'x'), with(11, 1), with(0, 0xff), with(0, 0)]);
}

/// `p2p_invalid_messages`: an `addrv2` without addresses. One without a payload is malformed.
#[test]
fn an_empty_list_of_addresses_is_no_fault() {
    assert_ignored([encode(raw("addrv2", &[0])), encode(raw("addr", &[0]))]);
    assert_disconnects(true, &encode(raw("addrv2", &[])), "malformed");
}

/// `p2p_invalid_messages`: the second header does not follow the first one.
#[test]
fn headers_with_a_gap_disconnect_the_peer() {
    let chain = chain_of(3);
    let (node, _) = start(config(), chain);
    let mut client = Client::established(&node);
    client.send(get_headers());
    let headers = client.wait_for("headers", |message| match message {
        NetworkMessage::Headers(headers) => Some(headers.clone()),
        _ => None,
    });
    node.stop().unwrap();
    let gap = NetworkMessage::Headers(vec![headers[0], headers[2]]);
    assert_disconnects(true, &encode(gap), "do not follow one another");
}

/// `p2p_invalid_messages`: messages of the largest size that no node understands.
#[test]
fn large_messages_of_no_use_keep_neither_their_peer_nor_others_from_being_served() {
    const COUNT: usize = 3;
    let (node, _) = start_with(config());
    let mut bystander = Client::established(&node);
    let mut client = Client::established(&node);
    let mut stream = client.stream.try_clone().unwrap();
    let junk = encode(raw("junk", &vec![b'j'; 4_000_000]));
    let writing = thread::spawn(move || {
        for _ in 0..COUNT {
            stream.write_all(&junk).unwrap();
        }
    });
    while !writing.is_finished() {
        bystander.assert_served();
        // The limit, one message, and one receive buffer.
        let unprocessed = node.peers()[1].unprocessed;
        assert!(unprocessed <= 5_000_000 + 4_000_000 + 200_000, "{unprocessed}");
    }
    writing.join().unwrap();
    client.assert_served();
    node.stop().unwrap();
}

/// `p2p_invalid_locator`: at most 101 hashes, in `getheaders` and in `getblocks`.
#[test]
fn a_locator_beyond_its_limit_disconnects_the_peer() {
    let of = |count| {
        let (hashes, stop) = (vec![BlockHash::all_zeros(); count], BlockHash::all_zeros());
        [
            NetworkMessage::GetHeaders(GetHeadersMessage::new(hashes.clone(), stop)),
            NetworkMessage::GetBlocks(GetBlocksMessage::new(hashes, stop)),
        ]
    };
    assert_ignored(of(101).map(encode));
    for message in of(102) {
        assert_disconnects(true, &encode(message), "102 hashes");
    }
    // The message claims more hashes than it has.
    for command in ["getheaders", "getblocks"] {
        let payload = [&[0; 4][..], &[0xff; 9], &[0; 32]].concat();
        assert_disconnects(true, &encode(raw(command, &payload)), "malformed");
    }
}

/// `p2p_nobloomfilter_messages` (BIP 111).
#[test]
fn messages_for_bloom_filters_disconnect_the_peer() {
    for command in ["mempool", "filterload", "filteradd", "filterclear"] {
        assert_disconnects(true, &encode(raw(command, &[])), "does not offer");
    }
}

/// `p2p_unrequested_blocks`, `p2p_mutated_blocks`, `p2p_compactblocks`, `p2p_invalid_tx`,
/// `p2p_sendtxrcncl`: the node uses none of these messages, and so decodes none.
#[test]
fn messages_that_the_node_does_not_use_are_ignored_whatever_they_contain() {
    let commands = [
        "block",
        "tx",
        "cmpctblock",
        "getblocktxn",
        "blocktxn",
        "merkleblock",
        "notfound",
        "reject",
        "feefilter",
        "sendcmpct",
        "sendheaders",
        "sendtxrcncl",
        "wtxidrelay",
        "sendaddrv2",
        "alert",
        "cfilter",
        "cfheaders",
        "cfcheckpt",
    ];
    assert_ignored(commands.map(|command| encode(raw(command, &[0xff; 100]))));
}

/// `p2p_getdata`, for announcements: types of items that do not exist.
#[test]
fn announcements_of_unknown_types_are_ignored() {
    let unknown = |inv_type| Inventory::Unknown { inv_type, hash: [7; 32] };
    let items = [0, 3, 6, 0x4000_0003, u32::MAX].map(unknown).to_vec();
    assert_ignored([encode(NetworkMessage::Inv(items))]);
}

/// `p2p_leak`: until the handshake is complete, a peer gets nothing but the node's part of it.
#[test]
fn a_peer_gets_nothing_but_the_handshake_until_it_is_complete() {
    let (node, _) = start_with(config());
    let mut silent = Client::connect(&node);
    let mut client = Client::connect(&node);
    let early = [
        version(),
        NetworkMessage::Ping(1),
        NetworkMessage::GetAddr,
        get_headers(),
        NetworkMessage::GetData(vec![Inventory::Block(genesis_block(NETWORK).block_hash())]),
        NetworkMessage::Verack,
        NetworkMessage::Ping(2),
    ];
    early.into_iter().for_each(|message| client.send(message));
    let mut received = Vec::new();
    while received.last() != Some(&NetworkMessage::Pong(2)) {
        received.push(client.receive_only().0);
    }
    let commands: Vec<&str> = received.iter().map(NetworkMessage::cmd).collect();
    let expected = ["version", "sendaddrv2", "verack", "sendheaders", "ping", "pong"];
    assert_eq!(commands, expected);
    node.stop().unwrap();
    let mut rest = Vec::new();
    silent.stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, []);
}

/// `p2p_leak`: the `version` tells no address of the node.
#[test]
fn the_version_message_reveals_no_address() {
    let (node, _) = start_with(config());
    let mut client = Client::connect(&node);
    client.send(version());
    let told = client.wait_for("version", |message| match message {
        NetworkMessage::Version(version) => Some(version.clone()),
        _ => None,
    });
    let sender = told.sender.socket_addr().unwrap();
    assert!(sender.ip().to_canonical().is_unspecified() && sender.port() == 0, "{sender}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(told.timestamp.abs_diff(i64::try_from(now).unwrap()) < 3600, "{}", told.timestamp);
    node.stop().unwrap();
}

/// `p2p_timeouts`: neither silence nor other messages replace `verack`.
#[test]
fn a_peer_that_does_not_complete_the_handshake_is_disconnected() {
    let limits = || Config { handshake_timeout: Duration::from_millis(300), ..config() };
    for is_talking in [false, true] {
        let (node, events) = start_with(limits());
        let mut client = Client::connect(&node);
        client.send(version());
        let mut stream = client.stream.try_clone().unwrap();
        let talking = thread::spawn(move || {
            while is_talking && stream.write_all(&encode(NetworkMessage::Ping(1))).is_ok() {
                thread::yield_now();
            }
        });
        let reason = events.wait_for_disconnect();
        assert!(reason.contains("handshake in time"), "{reason}");
        client.assert_closed();
        talking.join().unwrap();
        node.stop().unwrap();
    }
}

/// Receives messages up to the next ping, and returns its nonce.
fn next_ping(client: &mut Client) -> u64 {
    loop {
        if let (NetworkMessage::Ping(nonce), _) = client.receive_only() {
            return nonce;
        }
    }
}

/// Waits until the node has processed what the client sent. Returns whether the node then waits for a
/// pong.
fn waits_for_pong(client: &mut Client, node: &Node) -> bool {
    client.send(NetworkMessage::Ping(4711));
    while client.receive_only().0 != NetworkMessage::Pong(4711) {}
    node.peers()[0].ping_wait.is_some()
}

/// `p2p_ping`.
#[test]
fn a_pong_ends_the_wait_if_it_has_the_right_nonce_none_or_zero() {
    let (node, events) = start_with(config());
    let mut client = Client::connect(&node);
    client.send(version());
    client.send(NetworkMessage::Verack);
    let nonce = next_ping(&mut client);
    assert_ne!(nonce, 0);
    for wrong in [nonce ^ 1, nonce.swap_bytes() ^ 7] {
        client.send(NetworkMessage::Pong(wrong));
        assert!(waits_for_pong(&mut client, &node), "another nonce does not end the wait");
    }
    client.send(raw("pong", &[]));
    assert!(!waits_for_pong(&mut client, &node), "a pong without a nonce ends the wait");
    client.send(NetworkMessage::Pong(nonce));
    client.send(NetworkMessage::Pong(0));
    assert!(!waits_for_pong(&mut client, &node), "a pong that nobody waits for is ignored");

    node.control().ping_all();
    next_ping(&mut client);
    assert!(waits_for_pong(&mut client, &node));
    client.send(NetworkMessage::Pong(0));
    assert!(!waits_for_pong(&mut client, &node), "a pong with the nonce zero ends the wait");
    assert!(node.peers()[0].round_trip.is_none(), "none of these pongs is a measurement");
    node.control().ping_all();
    let nonce = next_ping(&mut client);
    client.send(raw("pong", &[&nonce.to_le_bytes()[..], b"more"].concat()));
    events.wait_for("the pong", |event| matches!(event, Event::Pong { .. }).then_some(()));
    assert!(!waits_for_pong(&mut client, &node));
    assert!(node.peers()[0].round_trip.is_some());
    node.stop().unwrap();
}

/// `p2p_ping`, from the other side. A ping without a whole nonce has no answer, as before BIP 31.
#[test]
fn a_ping_of_the_wrong_length_is_answered_only_if_it_has_a_nonce() {
    let (node, _) = start_with(config());
    let mut client = Client::established(&node);
    client.send(raw("ping", &[]));
    client.send(raw("ping", &[1; 7]));
    client.send(raw("ping", &[2; 9]));
    client.send(raw("ping", &[3; 1000]));
    let mut pongs = Vec::new();
    while pongs.len() < 2 {
        if let NetworkMessage::Pong(nonce) = client.receive() {
            pongs.push(nonce.to_le_bytes());
        }
    }
    assert_eq!(pongs, [[2; 8], [3; 8]]);
    client.assert_served();
    node.stop().unwrap();
}

/// `p2p_getaddr_caching`, `p2p_addr_relay`: a peer could map the network with more answers.
#[test]
fn only_the_first_getaddr_of_an_inbound_peer_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config { v2_transport: false, ..config() };
    config.connect.push(listener.local_addr().unwrap().into());
    let (node, _) = start_with(config);
    let mut outbound = accepted(&listener);
    let mut client = Client::established(&node);
    let address = bitcoin::p2p::Address::new(&([8, 8, 8, 8], 8333).into(), ServiceFlags::NONE);
    client.send(NetworkMessage::Addr(vec![(0, address)]));
    let answers = |client: &mut Client| {
        client.send(NetworkMessage::GetAddr);
        client.send(NetworkMessage::Ping(1));
        let mut answers = 0;
        loop {
            match client.receive() {
                NetworkMessage::Addr(_) => answers += 1,
                NetworkMessage::Pong(1) => return answers,
                _ => {}
            }
        }
    };
    assert_eq!([answers(&mut client), answers(&mut client), answers(&mut outbound)], [1, 0, 0]);
    node.stop().unwrap();
}

/// Accepts a connection of a node, and completes the handshake.
fn accepted(listener: &TcpListener) -> Client {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut client = Client { stream };
    client.send(version());
    client.send(NetworkMessage::Verack);
    client
}

/// `p2p_initial_headers_sync`, `p2p_outbound_eviction`: a peer that answers pings, but never
/// `getheaders`. The node asks each peer that it dials, so it syncs from the other one. It keeps this
/// one, as Bitcoin Core keeps peers that the operator named.
#[test]
fn a_peer_that_never_answers_getheaders_delays_no_sync() {
    let (other, _) = start(config(), chain_of(50));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config { v2_transport: false, ..config() };
    config.connect.push(listener.local_addr().unwrap().into());
    let (node, events) = start_with(config);
    let mut stalling = accepted(&listener);
    let is_request =
        |message: &NetworkMessage| matches!(message, NetworkMessage::GetHeaders(_)).then_some(());
    stalling.wait_for("getheaders", is_request);
    // The node dials the other one while it waits for this one.
    assert!(node.control().add_target(&other.listening()[0].clone().into(), false));
    events.wait_for("the headers", |event| {
        matches!(event, Event::Headers { height: 50, .. }).then_some(())
    });
    stalling.assert_served();
    // It is asked again when it announces a block.
    let unknown = Inventory::Block(BlockHash::from_byte_array([7; 32]));
    stalling.send(NetworkMessage::Inv(vec![unknown]));
    stalling.wait_for("getheaders", is_request);
    assert_eq!(node.peers().len(), 2);
    node.stop().unwrap();
    other.stop().unwrap();
}
