//! Connects through a SOCKS5 proxy, as Tor has one.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use lightning::ln::msgs::SocketAddress;
use sockman::{error::ConnectErrorKind, proxy::Proxy};
use sockman_test_support::socks5::{
    AUTHENTICATED, CONNECTED, METHOD_PASSWORD, Request, negotiate, proxy, read_credentials,
    read_greeting, read_request,
};

use crate::ldk::Driven;

const ONION: &str = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd.onion:9735";

/// What a client has sent to the proxy.
type Requests = Arc<Mutex<Vec<((Vec<u8>, Vec<u8>), Request)>>>;

/// A proxy that takes each client to `to`, whatever the client asks for.
fn tor(to: SocketAddr) -> (Proxy, Requests) {
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let proxy = proxy(move |mut client| {
        read_greeting(&mut client).unwrap();
        client.write_all(METHOD_PASSWORD).unwrap();
        let credentials = read_credentials(&mut client).unwrap();
        client.write_all(AUTHENTICATED).unwrap();
        let request = read_request(&mut client).unwrap();
        seen.lock().unwrap().push((credentials, request));
        client.write_all(CONNECTED).unwrap();
        let server = TcpStream::connect(to).unwrap();
        client.set_read_timeout(None).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = io::copy(&mut &client, &mut &server);
                let _ = server.shutdown(Shutdown::Both);
            });
            let _ = io::copy(&mut &server, &mut &client);
            let _ = client.shutdown(Shutdown::Both);
        });
    });
    (proxy, requests)
}

/// The proxy gets the onion address or the host name, and other credentials for each connect.
#[test]
fn each_connect_through_tor_has_its_own_circuit() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let (proxy, requests) = tor(bob.address);
    for text in [ONION, "node.example.org:9736"] {
        let address: SocketAddress = text.parse().unwrap();
        let to = proxy.endpoint().clone();
        let connection = alice.driver.tor_connect_outbound(bob.node.id, &address, to).unwrap();
        let known = |heard: &crate::ldk::Heard| heard.connected.len() == 1;
        alice.node.messages.wait_for("the peer", known);
        bob.node.messages.wait_for("the peer", known);
        alice.exchange(bob.node.id, 20, 10_000);
        let peer = alice.node.manager.peer_by_node_id(&bob.node.id).unwrap();
        assert_eq!(peer.socket_address, Some(address));
        alice.node.manager.disconnect_by_node_id(bob.node.id);
        assert!(connection.wait_closed(sockman_test_support::DEADLINE));
        bob.wait_until_alone();
        for node in [&alice.node, &bob.node] {
            node.messages.state().connected.clear();
        }
    }
    let requests = requests.lock().unwrap();
    let [(first, onion), (second, name)] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&onion.host[56..], onion.port), (&b".onion"[..], 9735));
    assert_eq!((&name.host[..], name.port), (&b"node.example.org"[..], 9736));
    assert_ne!(first, second);
}

/// An answer of Tor is an error with a kind, and an address that Tor cannot know is not tried.
#[test]
fn tor_may_refuse_a_connect() {
    let alice = Driven::start();
    let refusing = proxy(|mut client| {
        if let Some(_greeting) = read_greeting(&mut client) {
            let _ = client.write_all(METHOD_PASSWORD);
            let _ = read_credentials(&mut client);
            let _ = client.write_all(AUTHENTICATED);
            let _ = read_request(&mut client);
            // "Host unreachable".
            let _ = client.write_all(b"\x05\x04\x00\x01\0\0\0\0\0\0");
        }
    });
    let onion: SocketAddress = ONION.parse().unwrap();
    let connect = |address: &SocketAddress, proxy: &Proxy| {
        let to = proxy.endpoint().clone();
        alice.driver.tor_connect_outbound(alice.node.id, address, to).unwrap_err()
    };
    let error = connect(&onion, &refusing);
    assert!(matches!(error.kind(), ConnectErrorKind::ProxyReplied { .. }), "{error:#}");
    let error = connect(&SocketAddress::OnionV2([1; 12]), &refusing);
    assert!(matches!(error.kind(), ConnectErrorKind::InvalidText(_)), "{error:#}");
    // A proxy without passwords.
    let open = proxy(|mut client| drop(negotiate(&mut client)));
    connect(&onion, &open);
    alice.wait_until_alone();
}
