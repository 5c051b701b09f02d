//! Ten thousand hostile streams of requests against the HTTP server. The streams are mutated, cut
//! anywhere and sent over fifty connections at a time. Each stream gets the right statuses and the
//! end of the connection, and the server frees everything that it stored for the stream.
//!
//! The right statuses of a mutated stream are those of the parser, which gets the whole stream at
//! once.
//!
//! This is a test binary of its own because it counts the descriptors of the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use sockman_http_rpc::{Config, Server, testing::parse};
use support::{Client, DEADLINE, post, start};

const CONNECTIONS: usize = 50;
const STREAMS: usize = 10_000;
/// The most requests in one stream.
const MAX_REQUESTS: usize = 3;
/// The limit is small, so that mutated lengths exceed it.
const MAX_BODY: usize = 5_000;

/// The allowed statuses. 500 is not among them: the server does not fail.
const POSSIBLE: [u16; 9] = [200, 400, 401, 413, 417, 431, 501, 503, 505];

fn seeds() -> Vec<(Vec<u8>, u16)> {
    let chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (text("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: a\r\n\r\n"), 200),
        (post("/", b"{\"method\": \"uptime\"}"), 200),
        (post("/", &[b'x'; 3000]), 200),
        (post("/secret", b"x"), 401),
        (
            text(&format!(
                "{chunked}5\r\nhello\r\n10;a=b\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n"
            )),
            200,
        ),
        (text(&format!("{chunked}0\r\n\r\n")), 200),
        (text(&format!("{chunked}000000002 ;x\r\nab\r\n0\r\n\r\n")), 200),
        (text(&format!("{chunked}2;\rx\r\nab\r\n0\r\n\r\n")), 400),
        (text(&format!("{chunked}0\r\nno trailer\r\n\r\n")), 400),
        (text(&format!("{chunked}2000\r\n")), 413),
        (text("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5001\r\n\r\n"), 413),
        (text("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"), 400),
        (
            text(
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            400,
        ),
        (text(&format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(9000))), 431),
        (text("\r\n\r\nGET http://x?y=/secret HTTP/1.1\r\nHost: x\r\n\r\n"), 200),
        (text(&"\r\n".repeat(100)), 400),
        (text("GET / HTTP/1.0\r\n\r\n"), 200),
        (text("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), 200),
        (text("GET / HTTP/1.1\r\nHost: x\r\nConnection: close, keep-alive\r\n\r\n"), 200),
    ]
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const TOKENS: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\0",
        b" ",
        b":",
        b"\xff",
        b"Content-Length: 7\r\n",
        b"0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"99999999999999999999",
        b"-",
    ];
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(0..bytes.len());
        match rng.u8(0..6) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(0..8),
            2 => drop(bytes.remove(at)),
            3 => drop(bytes.splice(at..at, rng.choice(TOKENS).unwrap().iter().copied())),
            4 => {
                let end = (at + rng.usize(0..20)).min(bytes.len());
                let copied = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, copied));
            }
            _ => bytes.truncate(at.max(1)),
        }
        if bytes.is_empty() {
            bytes.push(b'\r');
        }
    }
}

/// Returns a few requests in a row, which are either all intact or mutated together.
fn hostile(rng: &mut Rng) -> Vec<u8> {
    let requests = rng.usize(1..=MAX_REQUESTS);
    let mut bytes: Vec<u8> = (0..requests).flat_map(|_| rng.choice(seeds()).unwrap().0).collect();
    if rng.u8(0..4) != 0 {
        mutate(rng, &mut bytes);
    }
    bytes
}

/// Sends the bytes in pieces of random lengths.
fn send_in_pieces(rng: &mut Rng, client: &mut Client, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let length = if rng.bool() { bytes.len() } else { rng.usize(1..=bytes.len().min(40)) };
        let (now, later) = bytes.split_at(length);
        client.send(now);
        bytes = later;
    }
}

/// Sends one client's share of the streams, and returns the number of answers.
fn one_client(server: &Server, seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let mut answered = 0;
    for _ in 0..STREAMS / CONNECTIONS {
        let bytes = hostile(&mut rng);
        let mut client = Client::connect(server);
        send_in_pieces(&mut rng, &mut client, &bytes);
        // An unfinished request ends here, so that the server closes the connection.
        let _ = client.stream.shutdown(Shutdown::Write);
        let expected = parse([&bytes[..]], MAX_BODY).statuses();
        let mut statuses = Vec::new();
        while let Some(answer) = client.receive() {
            assert!(POSSIBLE.contains(&answer.status));
            statuses.push(answer.status);
        }
        assert_eq!(statuses, expected, "seed {seed}: {:?}", String::from_utf8_lossy(&bytes));
        answered += statuses.len();
    }
    answered
}

/// Returns how many descriptors the process has. Only Linux lists them.
fn descriptors() -> Option<usize> {
    cfg!(target_os = "linux").then(|| fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
fn the_parser_returns_the_known_status_of_each_seed() {
    for (bytes, status) in seeds() {
        let statuses = parse([&bytes[..]], MAX_BODY).statuses();
        assert_eq!(statuses, [status], "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn hostile_requests_get_the_right_statuses_and_an_end_and_leave_nothing() {
    let before = descriptors();
    let config = Config { max_connections: 100, max_body: MAX_BODY, ..Config::default() };
    let (server, _) = start(config);
    let answered: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|seed| {
                let server = &server;
                scope.spawn(move || one_client(server, seed as u64))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered > STREAMS / 2, "only {answered} were answered");

    // The server still works, and closes the last connections: lingering takes up to a second.
    assert_eq!(Client::connect(&server).ask(post("/", b"")), 200);
    let deadline = Instant::now() + DEADLINE;
    while server.connections() > 0 {
        assert!(Instant::now() < deadline, "{} connections are left", server.connections());
        thread::park_timeout(Duration::from_millis(1));
    }
    server.stop().unwrap();
    assert_eq!(descriptors(), before);
}
