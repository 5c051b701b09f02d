//! Connects and peers that fail.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
};

use sockman::error::ConnectErrorKind;
use sockman_test_support::{DEADLINE, read_to_end, tools::Random, tools::run_passes};

use crate::{ldk::Driven, plain_peer::PlainPeer};

/// A node that is not the one whose key the dialler expects cannot shake hands.
#[test]
fn a_wrong_key_ends_the_connection_on_both_sides() {
    let (alice, bob, carol) = (Driven::start(), Driven::start(), Driven::start());
    let connection = alice.driver.connect_outbound(carol.node.id, bob.address).unwrap();
    assert!(connection.wait_closed(DEADLINE));
    alice.wait_until_alone();
    bob.wait_until_alone();
    for node in [&alice.node, &bob.node] {
        let heard = node.messages.state();
        assert!(heard.connected.is_empty() && heard.disconnected.is_empty());
    }
    alice.connect(&bob);
}

#[test]
fn a_refused_connect_is_an_error() {
    let alice = Driven::start();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = alice.driver.connect_outbound(alice.node.id, free).unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{error:#}");
    alice.wait_until_alone();
}

/// G5: a reset reaches LDK, also while LDK does not read because its answers are not read.
#[test]
fn a_reset_while_ldk_has_paused_the_peer_ends_it() {
    let alice = Driven::start();
    let mut peer = PlainPeer::connect(alice.address, alice.node.id);
    let id = peer.node.id;
    alice.node.wait_for_peer(id);
    for number in 0..2_000 {
        peer.node.messages.request(alice.node.id, number, 60_000);
    }
    // Until LDK makes no more answers.
    let made = || alice.node.messages.state().made;
    loop {
        let before = made();
        peer.turn(false);
        run_passes(alice.driver.sockman(), 3);
        if before > 0 && made() == before {
            break;
        }
    }
    assert!(made() < 2_000);
    peer.reset();
    alice.node.wait_for_end(id);
    alice.wait_until_alone();
    assert_eq!(alice.node.messages.state().disconnected.len(), 1);
}

/// Random bytes end the connection, and nothing else.
#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let (alice, bob) = (Driven::start(), Driven::start());
    alice.connect(&bob);
    let mut random = Random::new(20);
    for _ in 0..50 {
        let mut client = TcpStream::connect(bob.address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = 50 + random.up_to(5_000);
        let _ = client.write_all(&random.bytes(length));
        let _ = client.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut client);
    }
    alice.exchange(bob.node.id, 10, 10);
    assert_eq!(bob.node.messages.state().connected.len(), 1);
}
