//! Connects that fail, and connections that end.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use nakamoto_net::Io;
use sockman::Options;
use sockman_test_support::{read_to_end, reset, tools};

use crate::script::{Call, Ended, Reason, Running, client};

const ENOUGH: Reason = Reason("enough");

/// Returns an address at which no program listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Connecting: a refused connect is attempted, and reported as nakamoto's peer manager wants it.
#[test]
fn a_refused_connect_is_reported() {
    let running = Running::start();
    let peer = nobody();
    running.ask([Io::Connect(peer)]);
    running.wait_for_call(&Call::Attempted(peer));
    assert_eq!(running.wait_for_end(peer), Ended::Connection(ErrorKind::ConnectionRefused));
    assert_eq!(running.sockman.stats().connections, 0);
}

/// Connecting: a connect that fails at once is an error of dialling, reported once and not in the
/// middle of the request. Later connects are not affected.
#[test]
fn a_connect_that_fails_at_once_is_reported() {
    let running = Running::with(Options::default().max_connections(1), 1, |_| Vec::new());
    let (stream, peer) = running.client();
    let others = [nobody(), nobody()];
    running.ask(others.map(Io::Connect));
    for other in others {
        running.wait_for_call(&Call::Attempted(other));
    }
    for other in others {
        assert!(matches!(running.wait_for_end(other), Ended::Dial(_)));
    }
    drop(stream);
    running.wait_for_end(peer);
    let _ = running.dial();
}

/// Connecting: an attempt that failed at once can be given up before the service has heard of the
/// failure, and then ends only once.
#[test]
fn a_failed_connect_that_the_service_gives_up_ends_once() {
    let running = Running::with(Options::default().max_connections(1), 1, |_| Vec::new());
    let _client = running.client();
    let peer = nobody();
    running.ask([Io::Connect(peer), Io::Disconnect(peer, ENOUGH)]);
    running.wait_for_call(&Call::Attempted(peer));
    assert_eq!(running.wait_for_end(peer), Ended::Service(ENOUGH));
    assert_eq!(running.settle(), []);
}

/// Ends: data before the end of the stream comes before the end.
#[test]
fn the_end_of_a_peer_comes_after_its_data() {
    let running = Running::start();
    for (stream, peer) in [running.client(), running.dial()] {
        let data = b"the end".to_vec();
        (&stream).write_all(&data).unwrap();
        drop(stream);
        running.wait_for_call(&Call::Received(peer, data));
        assert_eq!(running.wait_for_end(peer), Ended::Connection(ErrorKind::ConnectionReset));
    }
    assert_eq!(running.settle(), []);
    tools::until("both are gone", || running.sockman.stats().connections == 0);
}

/// Ends: a reset is reported once.
#[test]
fn a_reset_is_reported() {
    let running = Running::start();
    for (stream, peer) in [running.client(), running.dial()] {
        reset(stream);
        assert_eq!(running.wait_for_end(peer), Ended::Connection(ErrorKind::ConnectionReset));
    }
    assert_eq!(running.settle(), []);
}

/// Ends: the service disconnects. The report comes at once, with the service's reason. The last
/// words go out. The service hears nothing more, although the peer goes on to send.
#[test]
fn a_peer_that_the_service_disconnects_gets_the_last_words() {
    let running = Running::reacting(|call| match call {
        Call::Received(peer, _) => {
            vec![Io::Write(*peer, b"goodbye".to_vec()), Io::Disconnect(*peer, ENOUGH)]
        }
        _ => Vec::new(),
    });
    for (stream, peer) in [running.client(), running.dial()] {
        let sender = {
            let mut stream = stream.try_clone().unwrap();
            // Ends with an error when the connection is closed.
            thread::spawn(move || while stream.write_all(&[7; 10_000]).is_ok() {})
        };
        let mut words = [0; 7];
        (&stream).read_exact(&mut words).unwrap();
        assert_eq!(&words, b"goodbye");
        assert_eq!(running.wait_for_end(peer), Ended::Service(ENOUGH));
        sender.join().unwrap();
    }
    assert_eq!(running.settle(), []);
}

/// Ends: a peer with nothing queued is closed at once.
#[test]
fn a_peer_without_queued_bytes_is_closed_at_once() {
    let running = Running::start();
    let (mut stream, peer) = running.client();
    running.ask([Io::Disconnect(peer, ENOUGH), Io::Write(peer, b"too late".to_vec())]);
    assert_eq!(running.wait_for_end(peer), Ended::Service(ENOUGH));
    assert_eq!(read_to_end(&mut stream), b"");
    tools::until("the connection is closed", || running.sockman.stats().connections == 0);
    // The second one does nothing.
    running.ask([Io::Disconnect(peer, ENOUGH)]);
    assert_eq!(running.settle(), []);
}

/// Ends: the service gives up a connect that is under way.
#[test]
fn a_connect_under_way_can_be_given_up() {
    let running = Running::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    running.ask([Io::Connect(peer), Io::Disconnect(peer, ENOUGH)]);
    running.wait_for_call(&Call::Attempted(peer));
    assert_eq!(running.wait_for_end(peer), Ended::Service(ENOUGH));
    tools::until("the attempt is gone", || running.sockman.stats().connections == 0);
    assert_eq!(running.settle(), []);
}

/// Ends: if the program closes a connection past the service, the service hears of it.
#[test]
fn a_connection_that_the_program_closes_is_reported() {
    let running = Running::start();
    let (_stream, peer) = running.client();
    let ids = running.sockman.connection_ids();
    assert!(running.sockman.close_connection(ids[0]));
    assert_eq!(running.wait_for_end(peer), Ended::Connection(ErrorKind::NotConnected));
}

/// Robustness: hundreds of peers that come, send, stall, end and reset, and a service that ends some
/// of them. The service checks the order of the calls for each peer. Each ends once.
#[test]
fn each_of_many_peers_ends_once() {
    const THREADS: u64 = 8;
    const PEERS: usize = 40;
    let mut received = 0;
    let running = Running::reacting(move |call| match call {
        Call::Received(peer, bytes) => {
            received += 1;
            let answer = Io::Write(*peer, bytes.clone());
            match received % 5 {
                0 => vec![answer, Io::Disconnect(*peer, ENOUGH)],
                1 => vec![Io::Disconnect(*peer, ENOUGH), answer],
                _ => vec![answer],
            }
        }
        _ => Vec::new(),
    });
    let address = running.addresses[0];
    let peers = |seed| {
        move || {
            let mut random = tools::Random::new(seed);
            for _ in 0..PEERS {
                let mut stream = client(address);
                for _ in 0..random.up_to(3) {
                    let bytes = vec![1; 1 + random.up_to(100_000)];
                    // The service may have closed the connection.
                    let outcome: io::Result<()> = stream.write_all(&bytes);
                    if outcome.is_err() {
                        break;
                    }
                }
                if random.up_to(2) == 0 {
                    reset(stream);
                }
            }
        }
    };
    let threads: Vec<_> = (1..=THREADS).map(|seed| thread::spawn(peers(seed))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    tools::until("all connections are closed", || {
        let stats = running.sockman.stats();
        stats.connections == 0 && stats.accepted == THREADS * PEERS as u64
    });
    let calls = running.settle();
    let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
    let connected = count(|call| matches!(call, Call::Connected { .. }));
    assert_eq!(connected, count(|call| matches!(call, Call::Disconnected(..))));
    // A client's port may be used again. Its first connection then was closed before.
    assert!(connected as u64 <= THREADS * PEERS as u64);
    assert!(
        connected > 0
            && calls.iter().all(|call| *call == Call::Initialized || call.peer().is_some())
    );
}
