//! The node against misbehaving peers, each over a plain socket. The node disconnects a misbehaving
//! peer, its memory stays bounded, and it serves other peers as before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bitcoin::{
    blockdata::constants::genesis_block,
    consensus::encode::serialize,
    p2p::{
        Magic,
        message::{CommandString, NetworkMessage, RawNetworkMessage},
    },
};
use sockman::proxy::Proxy;
use sockman_node::{
    Chain, Config, Event, Node,
    testing::{DEADLINE, Events, start},
};
use support::{
    CHECKSUM, Client, HEADER, LENGTH, NETWORK, assert_disconnects, assert_disconnects_from,
    chain_of, config, encode, get_headers, start_with, version,
};

#[test]
fn garbage_disconnects_the_peer() {
    // With version 2 of the transport, any bytes could be a key; tests/v2.rs covers that.
    let config = Config { v2_transport: false, ..config() };
    assert_disconnects_from(config, false, b"GET / HTTP/1.1\r\n\r\n", "does not speak");
    // The first wrong byte is enough.
    assert_disconnects(true, &[0xfa, 0xbf, 0x00], "does not speak");
}

#[test]
fn another_networks_magic_disconnects_the_peer() {
    let message = serialize(&RawNetworkMessage::new(Magic::BITCOIN, version()));
    assert_disconnects(false, &message, "another network");
}

#[test]
fn the_header_of_an_oversized_message_disconnects_the_peer() {
    let mut message = encode(NetworkMessage::Verack);
    message[LENGTH].copy_from_slice(&4_000_001u32.to_le_bytes());
    assert_disconnects(true, &message, "4000001 bytes");
}

#[test]
fn a_wrong_checksum_disconnects_the_peer() {
    let mut message = encode(NetworkMessage::Ping(1));
    message[CHECKSUM] ^= 1;
    assert_disconnects(true, &message, "malformed");
}

#[test]
fn a_malformed_payload_disconnects_the_peer() {
    // The payload claims 2^64-1 headers, and its checksum is right.
    let command = CommandString::try_from_static("headers").unwrap();
    let message = encode(NetworkMessage::Unknown { command, payload: vec![0xff; 9] });
    assert_disconnects(true, &message, "malformed");
}

#[test]
fn a_message_out_of_handshake_order_disconnects_the_peer() {
    // With version 2 of the transport, only a first `version` is recognised as version 1.
    let config = Config { v2_transport: false, ..config() };
    let ping = encode(NetworkMessage::Ping(1));
    assert_disconnects_from(config, false, &ping, "before version");
    assert_disconnects(true, &encode(version()), "second version");
    assert_disconnects(true, &encode(NetworkMessage::Verack), "second verack");
}

#[test]
fn headers_without_proof_of_work_disconnect_the_peer() {
    let mut header = genesis_block(NETWORK).header;
    header.prev_blockhash = header.block_hash();
    header.time += 600;
    while header.validate_pow(header.target()).is_ok() {
        header.nonce += 1;
    }
    assert_disconnects(true, &encode(NetworkMessage::Headers(vec![header])), "proof of work");
}

#[test]
fn a_message_in_pieces_is_put_together() {
    let (node, _) = start_with(config());
    let mut client = Client::established(&node);
    for byte in encode(NetworkMessage::Ping(99)) {
        client.stream.write_all(&[byte]).unwrap();
    }
    client.wait_for("pong", |message| matches!(message, NetworkMessage::Pong(99)).then_some(()));
    node.stop().unwrap();
}

#[test]
fn a_user_agent_cannot_control_a_terminal() {
    let (node, events) = start_with(config());
    let _client = Client::established(&node);
    let agent = events.wait_for("the handshake", |event| match event {
        Event::Handshake { version, .. } => Some(version.agent.clone()),
        _ => None,
    });
    assert_eq!(agent, "/test/[31m");
    node.stop().unwrap();
}

#[test]
fn a_peer_that_says_nothing_is_disconnected() {
    let (node, events) =
        start_with(Config { handshake_timeout: Duration::from_millis(200), ..config() });
    let client = Client::connect(&node);
    assert!(events.wait_for_disconnect().contains("handshake in time"));
    client.assert_closed();
    node.stop().unwrap();
}

#[test]
fn a_peer_that_falls_silent_is_disconnected() {
    let (node, events) =
        start_with(Config { inactivity_timeout: Duration::from_millis(300), ..config() });
    let client = Client::established(&node);
    assert!(events.wait_for_disconnect().contains("silent for too long"));
    client.assert_closed();
    node.stop().unwrap();
}

#[test]
fn a_peer_that_does_not_answer_pings_is_disconnected() {
    let (node, events) = start_with(Config {
        // A client that gets no core for so long counts as silent.
        inactivity_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_millis(50),
        ..config()
    });
    let mut client = Client::established(&node);
    let stream = client.stream.try_clone().unwrap();
    // The client sends messages all the time, but no pongs.
    let talking = thread::spawn(move || {
        let mut stream = stream;
        while stream.write_all(&encode(NetworkMessage::SendHeaders)).is_ok() {
            thread::yield_now();
        }
    });
    let reason = events.wait_for_disconnect();
    assert!(reason.contains("answer a ping"), "{reason}");
    let _ = client.stream.read_to_end(&mut Vec::new());
    talking.join().unwrap();
    node.stop().unwrap();
}

/// The limits of a node for one peer in the floods below.
const MAX_SEND: usize = 400_000;
const MAX_RECEIVE: usize = 100_000;
/// The bytes that a node may count beyond `MAX_RECEIVE`. These bytes are the messages of one
/// receive buffer, which count up to three times their length because of overhead.
const SLACK: usize = 3 * 64 * 1024;
/// The length of a message with 2000 headers.
const REPLY: usize = HEADER + 3 + 2000 * 81;

fn bounded() -> Config {
    Config { max_send_buffer: MAX_SEND, max_receive_buffer: MAX_RECEIVE, ..config() }
}

/// Writes `message` again and again, and never reads, until the node closes the connection.
fn flood(mut client: Client, message: NetworkMessage) -> thread::JoinHandle<()> {
    // The writes run on a thread of their own: the node stops reading, so a write may block until
    // the test ends.
    thread::spawn(move || {
        let bytes = encode(message).repeat(100);
        while client.stream.write_all(&bytes).is_ok() {}
    })
}

/// Asserts that a node keeps a bounded number of bytes for a peer that floods it with `message`,
/// whose answers have `reply` bytes, and that it serves another peer meanwhile.
fn assert_bounded(message: NetworkMessage, reply: usize) {
    let (node, _) = start(bounded(), chain_of(2500));
    let mut bystander = Client::established(&node);
    let flooding = flood(Client::established(&node), message);
    let (mut rounds_when_full, mut last_progress) = (0, (0, Instant::now()));
    while rounds_when_full < 100 {
        bystander.assert_served();
        let peer = &node.peers()[1];
        // The test may take long on a slow machine, as long as the flood goes on.
        let progress = peer.bytes_in + peer.bytes_out + peer.unsent as u64;
        if progress != last_progress.0 || peer.unsent >= MAX_SEND {
            last_progress = (progress, Instant::now());
        }
        let is_stuck = last_progress.1.elapsed() > DEADLINE;
        assert!(!is_stuck, "the flood does not fill the send queue: {} unsent", peer.unsent);
        assert!(peer.unsent <= MAX_SEND + reply, "{} unsent bytes", peer.unsent);
        assert!(peer.unprocessed <= MAX_RECEIVE + SLACK, "{} unprocessed", peer.unprocessed);
        if peer.unsent >= MAX_SEND {
            rounds_when_full += 1;
        }
    }
    node.stop().unwrap();
    flooding.join().unwrap();
}

#[test]
fn a_peer_that_asks_and_never_reads_is_held_back() {
    assert_bounded(get_headers(), REPLY);
}

#[test]
fn a_flood_of_the_smallest_requests_is_held_back() {
    assert_bounded(NetworkMessage::Ping(7), HEADER + 8);
}

#[test]
fn a_peer_that_never_reads_is_disconnected_in_the_end() {
    let (node, events) = start(
        Config { inactivity_timeout: Duration::from_millis(500), ..bounded() },
        chain_of(2500),
    );
    let flooding = flood(Client::established(&node), get_headers());
    let reason = events.wait_for_disconnect();
    // The peer reads no bytes, so it does not answer pings. Either of the two time-outs may expire
    // first.
    assert!(reason.contains("does not receive") || reason.contains("answer a ping"), "{reason}");
    flooding.join().unwrap();
    node.stop().unwrap();
}

#[test]
fn a_slow_reader_gets_every_answer_without_the_sweep() {
    // Both limits pause reading many times. Without the sweep, only wakes end the pauses.
    let limits =
        Config { max_send_buffer: 200_000, max_receive_buffer: 2_000, sweep: None, ..config() };
    const REQUESTS: usize = 100;
    let (node, _) = start(limits, chain_of(2500));
    let mut client = Client::established(&node);
    let mut stream = client.stream.try_clone().unwrap();
    let asking = thread::spawn(move || {
        for _ in 0..REQUESTS {
            stream.write_all(&encode(get_headers())).unwrap();
        }
        stream.write_all(&encode(NetworkMessage::Ping(1))).unwrap();
    });
    let mut answers = 0;
    loop {
        match client.receive() {
            NetworkMessage::Headers(headers) => {
                assert_eq!(headers.len(), 2000);
                answers += 1;
            }
            NetworkMessage::Pong(1) => break,
            _ => {}
        }
    }
    assert_eq!(answers, REQUESTS);
    asking.join().unwrap();
    node.stop().unwrap();
}

/// Returns the bytes that a node has sent or queued for its only peer.
fn replied(node: &Node) -> usize {
    let peer = &node.peers()[0];
    usize::try_from(peer.bytes_out).unwrap() + peer.unsent
}

#[test]
fn a_peer_that_reads_late_is_served_again_without_the_sweep() {
    let limits = Config { max_send_buffer: 1_000_000, sweep: None, ..config() };
    let (node, _) = start(limits, chain_of(2500));
    let mut client = Client::established(&node);
    let deadline = Instant::now() + DEADLINE;
    let mut requests = 0;
    // Sends one request at a time, until the unsent replies reach the limit.
    while node.peers()[0].unsent < 1_000_000 {
        let before = replied(&node);
        client.send(get_headers());
        requests += 1;
        while replied(&node) < before + REPLY {
            assert!(Instant::now() < deadline, "request {requests} is not answered");
            thread::yield_now();
        }
    }
    // The node reads this ping only after the client has received the replies. No later event would
    // make the node read the ping.
    client.send(NetworkMessage::Ping(1));
    let mut answers = 0;
    loop {
        match client.receive() {
            NetworkMessage::Headers(_) => answers += 1,
            NetworkMessage::Pong(1) => break,
            _ => {}
        }
    }
    assert_eq!(answers, requests);
    node.stop().unwrap();
}

#[test]
fn the_inbound_limit_leaves_room_for_outbound_connections() {
    let mut config = Config { max_connections: 2, ..config() };
    // No node listens on this address, but a place is reserved for a connection to it.
    config.connect.push(SocketAddr::from(([127, 0, 0, 1], 1)).into());
    let (node, events) = start_with(config);
    let mut first = Client::established(&node);
    let second = Client::connect(&node);
    second.assert_closed();
    events.wait_for("the refusal", |event| {
        matches!(event, Event::Refused { limit: 1, .. }).then_some(())
    });
    first.assert_served();
    node.stop().unwrap();
}

#[test]
fn a_node_that_dials_itself_notices() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = Config::new(NETWORK);
    config.listen.push(port.into());
    config.connect.push(port.into());
    let (node, events) = start_with(config);
    events.wait_for("the discovery", |event| match event {
        Event::Disconnected { reason, .. } => reason.contains("this node itself").then_some(()),
        _ => None,
    });
    node.stop().unwrap();
}

/// The proxy answers for one destination only.
#[test]
fn a_destination_that_answers_does_not_wait_for_six_that_do_not() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::new(NETWORK);
    config.v2_transport = false;
    config.proxy = Some(Proxy::socks5(proxy.local_addr().unwrap()));
    for host in 1..=7 {
        config.connect.push(format!("10.0.0.{host}:18444").parse().unwrap());
    }
    proxy.set_nonblocking(true).unwrap();
    let (node, events) = start_with(config);
    let mut silent = Vec::new();
    let mut live = None;
    let deadline = Instant::now() + DEADLINE / 2;
    while silent.len() + usize::from(live.is_some()) < 7 {
        let Ok((mut stream, _)) = proxy.accept() else {
            assert!(Instant::now() < deadline, "{} dials at once", silent.len());
            thread::yield_now();
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
        stream.write_all(&[5, 0]).unwrap();
        // CONNECT with a name: 4 bytes, a length, 8 characters, a port.
        let mut request = [0; 4 + 1 + 8 + 2];
        stream.read_exact(&mut request).unwrap();
        if &request[5..13] == b"10.0.0.7" { live = Some(stream) } else { silent.push(stream) }
    }
    let mut client = Client { stream: live.unwrap() };
    client.stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    client.send(version());
    client.send(NetworkMessage::Verack);
    client.assert_served();
    let has_failed = |event: &Event| matches!(event, Event::ConnectFailed { .. });
    assert!(!events.all().iter().any(has_failed), "{:?}", events.all());
    assert_eq!(node.peers().len(), 1);
    // The stop ends the attempts.
    node.stop().unwrap();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

/// The proxy answers only after the network is switched off, so `set_network_active` does not find
/// the peer in the table.
#[test]
fn a_network_that_is_switched_off_during_a_dial_has_no_peer_afterwards() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::new(NETWORK);
    config.proxy = Some(Proxy::socks5(proxy.local_addr().unwrap()));
    config.connect.push("10.0.0.1:18444".parse().unwrap());
    let (node, events) = start_with(config);
    let mut stream = proxy.accept().unwrap().0;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
    stream.write_all(&[5, 0]).unwrap();
    // CONNECT with a name: 4 bytes, a length, 8 characters, a port.
    stream.read_exact(&mut [0; 4 + 1 + 8 + 2]).unwrap();
    node.control().set_network_active(false);
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(events.wait_for_disconnect().contains("switched off"));
    assert_eq!(node.peers().len(), 0);
    // The node sent nothing to the peer.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    node.stop().unwrap();
}

/// Nothing but the addition wakes the node. If it still works at that time, the next round finds it
/// asleep.
#[test]
fn an_added_address_is_dialled_at_once_without_the_sweep() {
    let (node, _) = start_with(Config { sweep: None, ..config() });
    let mut client = Client::established(&node);
    let mut dialled = Vec::new();
    for _ in 0..20 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        client.assert_served();
        assert!(node.control().add_target(&listener.local_addr().unwrap().into(), false));
        dialled.push(listener.accept().unwrap());
    }
    client.assert_served();
    node.stop().unwrap();
}

/// Nothing but the switch wakes the node, as above.
#[test]
fn a_network_that_is_switched_on_again_is_dialled_at_once_without_the_sweep() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config { sweep: None, redial: Duration::ZERO, ..config() };
    config.connect.push(listener.local_addr().unwrap().into());
    let (node, _) = start_with(config);
    for _ in 0..20 {
        let mut peer = listener.accept().unwrap().0;
        node.control().set_network_active(false);
        let _ = peer.read_to_end(&mut Vec::new());
        // The node refuses this client, and has nothing else to do afterwards.
        Client::connect(&node).assert_closed();
        node.control().set_network_active(true);
    }
    node.stop().unwrap();
}

#[test]
fn a_stop_reports_each_peer_once_and_keeps_the_totals() {
    let (node, events) = start_with(config());
    let mut clients = [Client::established(&node), Client::established(&node)];
    clients.iter_mut().for_each(Client::assert_served);
    let control = node.control();
    let before = control.totals();
    assert!(control.disconnect(|_| true));
    events.wait_for_disconnect();
    assert!(control.totals() >= before, "{:?}, before {before:?}", control.totals());
    node.stop().unwrap();
    let reasons: Vec<_> = events
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::Disconnected { reason, .. } => Some(reason),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, ["requested by RPC", "this node is stopping"]);
    clients.into_iter().for_each(Client::assert_closed);
}

/// Asserts that a panic of the observer ends the whole node, and that this number of peers is
/// reported as disconnected.
fn assert_a_panic_ends_the_node(panics: fn(&[Event]) -> bool, disconnected: usize) {
    let events = Arc::new(Events::default());
    let observed = Arc::clone(&events);
    let node = Node::start(config(), Chain::new(NETWORK), move |event| {
        observed.add(event);
        assert!(!panics(&observed.all()), "the test wants this panic");
    })
    .unwrap();
    // The handle does not keep the connections open.
    let _control = node.control();
    let mut clients = [Client::connect(&node), Client::connect(&node)];
    // Fails if the node has ended already.
    let hello = [encode(version()), encode(NetworkMessage::Verack)].concat();
    let _ = clients[1].stream.write_all(&hello);
    let deadline = Instant::now() + DEADLINE;
    while node.is_running() {
        assert!(Instant::now() < deadline, "the node goes on");
        thread::yield_now();
    }
    assert!(node.stop().is_err());
    clients.into_iter().for_each(Client::assert_closed);
    let ends = events.all().into_iter().filter(|event| matches!(event, Event::Disconnected { .. }));
    assert_eq!(ends.count(), disconnected);
}

#[test]
fn a_panic_on_the_message_handler_ends_the_node_and_reports_its_peers() {
    let has_greeted = |events: &[Event]| matches!(events.last(), Some(Event::Handshake { .. }));
    assert_a_panic_ends_the_node(has_greeted, 2);
}

/// The report of the second connection panics, so that this connection has no peer.
#[test]
fn a_panic_on_the_socket_thread_ends_the_node_and_reports_its_peers() {
    assert_a_panic_ends_the_node(|events| events.len() == 2, 1);
}
