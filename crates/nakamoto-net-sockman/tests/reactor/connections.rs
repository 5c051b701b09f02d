//! Connects, accepted connections, and bytes in both directions.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use nakamoto_net::{Io, Link};
use sockman::Options;
use sockman_test_support::{read_to_end, tools};

use crate::script::{Call, Ended, Reason, Running};

/// Connecting: the service hears of the attempt, then of the connection with its local address, and
/// bytes go both ways.
#[test]
fn a_connect_is_attempted_and_then_connected() {
    let running = Running::start();
    let (mut stream, peer) = running.dial();
    running.ask([Io::Write(peer, b"hello ".to_vec()), Io::Write(peer, b"there".to_vec())]);
    let mut bytes = [0; 11];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello there");
    stream.write_all(b"yes").unwrap();
    running.wait_for_call(&Call::Received(peer, b"yes".to_vec()));
    assert_eq!(running.settle(), []);
}

/// Listening: the reactor accepts on each address, and names the address of this side.
#[test]
fn connections_are_accepted_on_all_addresses() {
    let running = Running::with(Options::default(), 3, |_| Vec::new());
    assert_eq!(running.addresses.len(), 3);
    for address in &running.addresses {
        let mut stream = crate::script::client(*address);
        let (peer, me) = (stream.local_addr().unwrap(), *address);
        stream.write_all(b"hello").unwrap();
        running.wait_for_call(&Call::Connected { peer, me, link: Link::Inbound });
        running.wait_for_call(&Call::Received(peer, b"hello".to_vec()));
        running.ask([Io::Write(peer, b"hi".to_vec())]);
        stream.read_exact(&mut [0; 2]).unwrap();
    }
}

/// Writing: what the service writes before the connection exists goes out first, in order.
#[test]
fn what_is_written_during_the_connect_goes_out_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let running = Running::reacting(move |call| match call {
        Call::Attempted(peer) => vec![Io::Write(*peer, b"1".to_vec())],
        Call::Connected { peer, .. } => vec![Io::Write(*peer, b"3".to_vec())],
        _ => Vec::new(),
    });
    running.ask([Io::Connect(peer), Io::Write(peer, b"2".to_vec())]);
    let (mut stream, _) = listener.accept().unwrap();
    tools::deadlines(&stream);
    let mut bytes = [0; 3];
    stream.read_exact(&mut bytes).unwrap();
    // The reaction to the attempt comes after the request that waited.
    assert_eq!(&bytes, b"213");
}

/// Connecting: a request for a peer that is connecting or connected does nothing.
#[test]
fn a_peer_is_not_connected_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let running = Running::start();
    running.ask([Io::Connect(peer), Io::Connect(peer)]);
    let (_stream, me) = listener.accept().unwrap();
    running.wait_for_call(&Call::Connected { peer, me, link: Link::Outbound });
    running.ask([Io::Connect(peer)]);
    assert_eq!(running.settle(), []);
    assert_eq!(running.sockman.stats().connections, 1);
}

/// Identity: a second connection from an address that is a peer already is closed. The service does
/// not hear of it, and the first one goes on.
#[test]
fn a_second_connection_of_one_address_is_closed() {
    let running = Running::with(Options::default(), 2, |_| Vec::new());
    let from = |source: SocketAddr, to: SocketAddr| {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        let stream = std::net::TcpStream::from(socket);
        tools::deadlines(&stream);
        stream
    };
    let mut first = from(([127, 0, 0, 1], 0).into(), running.addresses[0]);
    let peer = first.local_addr().unwrap();
    let me = running.addresses[0];
    running.wait_for_call(&Call::Connected { peer, me, link: Link::Inbound });
    let mut second = from(peer, running.addresses[1]);
    assert_eq!(read_to_end(&mut second), b"");
    first.write_all(b"still here").unwrap();
    running.wait_for_call(&Call::Received(peer, b"still here".to_vec()));
    assert_eq!(running.settle(), []);
    drop(first);
    assert!(matches!(running.wait_for_end(peer), Ended::Connection(_)));
}

/// G5: bytes arrive in order, none lost, none twice, in both directions at once.
#[test]
fn megabytes_come_back_in_order() {
    const BYTES: usize = 20_000_000;
    let running = Running::reacting(|call| match call {
        Call::Received(peer, bytes) => vec![Io::Write(*peer, bytes.clone())],
        _ => Vec::new(),
    });
    let (mut stream, _) = running.client();
    let sent = tools::Random::new(7).bytes(BYTES);
    let received = {
        let mut stream = stream.try_clone().unwrap();
        thread::spawn(move || {
            let mut received = vec![0; BYTES];
            stream.read_exact(&mut received).unwrap();
            received
        })
    };
    stream.write_all(&sent).unwrap();
    assert!(received.join().unwrap() == sent);
}

/// Events: each event of the service is published, in order.
#[test]
fn events_are_published_in_order() {
    let running = Running::start();
    let events: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    running.ask(events.iter().cloned().map(Io::Event).collect::<Vec<_>>());
    let published: Vec<String> = running.events.iter().take(100).collect();
    assert_eq!(published, events);
}

/// Identity: an address may be connected again as soon as the service has disconnected it.
#[test]
fn an_address_can_be_connected_again_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let running = Running::start();
    let reason = Reason("again");
    for round in 0..20 {
        let mut streams = Vec::new();
        running.ask([Io::Connect(peer)]);
        running.wait_for_call(&Call::Attempted(peer));
        if round % 2 == 0 {
            let (stream, me) = listener.accept().unwrap();
            streams.push(stream);
            running.wait_for_call(&Call::Connected { peer, me, link: Link::Outbound });
        }
        running.ask([Io::Disconnect(peer, reason), Io::Connect(peer)]);
        running.wait_for_call(&Call::Disconnected(peer, Ended::Service(reason)));
        running.wait_for_call(&Call::Attempted(peer));
        // A connect that was given up may have reached the listener before.
        let mine = running.wait_for("the connection", |call| match call {
            Call::Connected { peer: of, me, .. } if *of == peer => Some(*me),
            _ => None,
        });
        let mut stream = loop {
            let (stream, me) = listener.accept().unwrap();
            streams.push(stream);
            if me == mine {
                break streams.pop().unwrap();
            }
        };
        tools::deadlines(&stream);
        running.ask([Io::Write(peer, vec![round]), Io::Disconnect(peer, reason)]);
        running.wait_for_call(&Call::Disconnected(peer, Ended::Service(reason)));
        assert_eq!(read_to_end(&mut stream), [round]);
    }
}
