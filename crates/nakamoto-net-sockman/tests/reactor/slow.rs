//! Peers that do not read, and messages without end.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use nakamoto_net::Io;
use sockman_test_support::tools;

use crate::script::{Call, Ended, Running};

const CHUNK: usize = 100_000;
/// The limit that the documentation names.
const QUEUE_LIMIT: usize = 8_000_000;
/// The most that the kernel takes on loopback, with Linux's defaults.
const KERNEL: usize = 16_000_000;

fn write(peer: SocketAddr, bytes: usize) -> [crate::script::Request; 1] {
    [Io::Write(peer, vec![1; bytes])]
}

/// G10: a peer that does not read costs a bounded queue. At the limit it is disconnected, and other
/// peers are served meanwhile.
#[test]
fn a_peer_that_does_not_read_is_disconnected_at_the_limit() {
    let running = Running::start();
    let (stalled, peer) = running.client();
    let (mut other, others_name) = running.client();
    let mut written = 0;
    let ended = loop {
        running.ask(write(peer, CHUNK));
        running.ask(write(others_name, 1));
        written += CHUNK;
        other.read_exact(&mut [0; 1]).unwrap();
        let calls = running.settle();
        if let [Call::Disconnected(of, ended)] = calls[..] {
            assert_eq!(of, peer);
            break ended;
        }
        assert_eq!(calls, []);
        assert!(written <= QUEUE_LIMIT + KERNEL, "{written} bytes are queued");
    };
    assert_eq!(ended, Ended::Connection(ErrorKind::Other));
    assert!(written > QUEUE_LIMIT, "{written}");
    tools::until("one is left", || running.sockman.stats().connections == 1);
    drop(stalled);
    running.ask(write(others_name, 1));
    other.read_exact(&mut [0; 1]).unwrap();
}

/// Back-pressure: a peer with a long queue is not read from. When it reads, all of it goes on.
#[test]
fn a_peer_with_a_long_queue_is_not_read_from() {
    const REQUEST: [u8; 10_000] = [9; 10_000];
    let running = Running::start();
    let (stream, peer) = running.client();
    // The kernel takes a part. The rest is above the high mark, and below the limit.
    let mut written = 0;
    let is_paused = || {
        let ids = running.sockman.connection_ids();
        let before = running.sockman.connection_info(ids[0]).unwrap().bytes_received;
        (&stream).write_all(&REQUEST).unwrap();
        tools::run_passes(&running.sockman, 3);
        running.sockman.connection_info(ids[0]).unwrap().bytes_received == before
    };
    while !is_paused() {
        running.ask(write(peer, CHUNK));
        written += CHUNK;
        running.settle();
        assert!(written <= QUEUE_LIMIT + KERNEL);
    }
    assert_eq!(running.settle(), []);
    let mut received = vec![0; written];
    (&stream).read_exact(&mut received).unwrap();
    running.wait_for("the request that waited", |call| {
        matches!(call, Call::Received(of, _) if *of == peer).then_some(())
    });
    assert!(received.iter().all(|byte| *byte == 1));
    assert_eq!(running.settle().iter().filter_map(Call::peer).find(|of| *of != peer), None);
}

/// G10: a message that does not fit into the queue ends the connection, before and after it exists.
#[test]
fn a_message_beyond_the_limit_ends_the_connection() {
    let running = Running::start();
    let (mut stream, peer) = running.client();
    running.ask(write(peer, QUEUE_LIMIT + 1));
    assert_eq!(running.wait_for_end(peer), Ended::Connection(ErrorKind::Other));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest); // A reset.
    assert_eq!(rest, b"");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let [message] = write(peer, QUEUE_LIMIT);
    let [one_more] = write(peer, 1);
    running.ask([Io::Connect(peer), message, one_more]);
    running.wait_for_call(&Call::Attempted(peer));
    assert_eq!(running.wait_for_end(peer), Ended::Connection(ErrorKind::Other));
    tools::until("nothing is left", || running.sockman.stats().connections == 0);
}

/// Writing: messages that together exceed the limit reach a peer that reads. The reactor makes room
/// by sending what the kernel takes.
#[test]
fn a_burst_beyond_the_limit_reaches_a_peer_that_reads() {
    const BYTES: [usize; 3] = [QUEUE_LIMIT - 100_000, 200_000, 200_000];
    let running = Running::start();
    let (mut stream, peer) = running.client();
    running.ask(BYTES.map(|bytes| Io::Write(peer, vec![1; bytes])));
    let mut received = vec![0; BYTES.iter().sum()];
    stream.read_exact(&mut received).unwrap();
    assert!(received.iter().all(|byte| *byte == 1));
    assert_eq!(running.settle(), []);
}
