//! Two drivers: shake hands, ping, exchange messages, and part.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
};

use lightning::ln::msgs::{ErrorAction, ErrorMessage, SocketAddress};
use lightning::ln::types::ChannelId;
use sockman::ConnectOptions;
use sockman_test_support::{DEADLINE, eventually};

use crate::ldk::Driven;

/// The two nodes exchange messages in both directions. Each end is reported to both.
#[test]
fn two_nodes_shake_hands_exchange_messages_and_part() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let connection = alice.connect(&bob);
    alice.exchange(bob.node.id, 100, 1_000);
    bob.exchange(alice.node.id, 100, 60_000);
    alice.exchange(bob.node.id, 100, 0);

    let peer = alice.node.manager.peer_by_node_id(&bob.node.id).unwrap();
    assert_eq!(peer.socket_address, Some(bob.address.into()));
    assert!(!peer.is_inbound_connection);
    let peer = bob.node.manager.peer_by_node_id(&alice.node.id).unwrap();
    assert!(matches!(
        peer.socket_address,
        Some(SocketAddress::TcpIpV4 { addr: [127, 0, 0, 1], .. })
    ));
    assert!(peer.is_inbound_connection);

    assert!(!connection.is_closed());
    bob.node.manager.disconnect_by_node_id(alice.node.id);
    alice.node.wait_for_end(bob.node.id);
    assert!(connection.wait_closed(DEADLINE));
    assert_eq!(bob.node.messages.state().disconnected, [alice.node.id]);
    alice.wait_until_alone();
    bob.wait_until_alone();
}

/// A ping is answered: after many ticks the connection still stands.
#[test]
fn pings_are_answered() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let connection = alice.connect(&bob);
    let sent = || {
        let sockman = bob.driver.sockman();
        let ids = sockman.connection_ids();
        ids.iter().filter_map(|id| sockman.connection_info(*id)).map(|info| info.bytes_sent).sum()
    };
    for tick in 0..20 {
        let before: u64 = sent();
        alice.node.manager.timer_tick_occurred();
        eventually("the pong is sent", || sent() > before);
        // The pong has come before the reply.
        alice.exchange(bob.node.id, 1, tick);
    }
    assert!(!connection.is_closed());
}

/// As in LDK's tests of lightning-net-tokio: connected streams, and a message handler that ends the
/// connection. The peer gets the reason.
#[test]
fn streams_are_taken_over_and_a_handler_ends_the_connection() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outbound = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inbound = listener.accept().unwrap().0;
    let ours = alice.driver.setup_outbound(bob.node.id, outbound).unwrap();
    let theirs = bob.driver.setup_inbound(inbound).unwrap();
    alice.node.wait_for_peer(bob.node.id);
    bob.node.wait_for_peer(alice.node.id);
    alice.exchange(bob.node.id, 10, 100);

    let reason = ErrorMessage { channel_id: ChannelId([1; 32]), data: "so long".to_owned() };
    alice.node.ends.disconnect(bob.node.id, ErrorAction::DisconnectPeer { msg: Some(reason) });
    assert!(alice.node.messages.state().disconnected.is_empty());
    alice.node.manager.process_events();
    alice.node.wait_for_end(bob.node.id);
    bob.node.wait_for_end(alice.node.id);
    assert!(ours.wait_closed(DEADLINE) && theirs.wait_closed(DEADLINE));
    assert!(bob.node.log.contains("so long"), "the reason was lost");
    alice.wait_until_alone();
    bob.wait_until_alone();
}

/// As in LDK's tests of lightning-net-tokio: streams whose other end has gone already.
#[test]
fn streams_that_have_ended_already_end_again() {
    let alice = Driven::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..100 {
        let outbound = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        let connection = alice.driver.setup_outbound(alice.node.id, outbound).unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let other = alice.driver.setup_inbound(listener.accept().unwrap().0).unwrap();
        assert!(connection.wait_closed(DEADLINE) && other.wait_closed(DEADLINE));
    }
    alice.wait_until_alone();
    assert!(alice.node.messages.state().connected.is_empty());
}

/// LDK keeps one connection to a node. A second one is closed, and the first one stands.
#[test]
fn a_second_connection_to_a_node_is_closed() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let first = alice.connect(&bob);
    let second = alice.driver.connect_outbound(bob.node.id, bob.address).unwrap();
    assert!(second.wait_closed(DEADLINE));
    assert!(!first.is_closed());
    alice.exchange(bob.node.id, 10, 10);
    assert!(bob.node.messages.state().disconnected.is_empty());
}

/// While no thread runs, a connect succeeds, and LDK hears nothing of it. The next start serves it.
#[test]
fn a_connect_while_no_thread_runs_waits_for_the_start() {
    let (mut alice, bob) = (Driven::start(), Driven::start());
    let ended = alice.connect(&bob);
    alice.stop();
    assert!(ended.is_closed());
    bob.node.wait_for_end(alice.node.id);

    let connection = alice.driver.connect_outbound(bob.node.id, bob.address).unwrap();
    assert!(!connection.is_closed());
    assert!(alice.node.manager.list_peers().is_empty());
    alice.start_again();
    eventually("the nodes have shaken hands", || {
        alice.node.manager.peer_by_node_id(&bob.node.id).is_some()
    });
    alice.exchange(bob.node.id, 10, 10);
}

/// A connect that does not wait, and its outcome.
#[test]
fn a_connect_in_the_background_leads_to_a_peer() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let (sender, outcome) = std::sync::mpsc::channel();
    let tell = move |result: Result<_, _>| sender.send(result.is_ok()).unwrap();
    let options = ConnectOptions::default();
    alice.driver.start_connect_outbound(bob.node.id, bob.address, &options, tell).unwrap();
    assert!(outcome.recv_timeout(DEADLINE).unwrap());
    alice.node.wait_for_peer(bob.node.id);
    alice.exchange(bob.node.id, 10, 10);
}

/// A peer that never shakes hands is ended by LDK's second tick.
#[test]
fn a_peer_without_a_handshake_is_ended_by_ldk() {
    let alice = Driven::start();
    let client = TcpStream::connect(alice.address).unwrap();
    client.set_nonblocking(true).unwrap();
    eventually("the connection is there", || alice.driver.sockman().connection_ids().len() == 1);
    eventually("the connection is ended", || {
        alice.node.manager.timer_tick_occurred();
        matches!((&client).read(&mut [0]), Ok(0))
    });
    drop(client);
    alice.wait_until_alone();
}
