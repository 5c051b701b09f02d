//! Ten thousand hostile requests against the HTTP server of the `http_rpc` example: mutated, cut
//! anywhere, over fifty connections at once. Each gets the status that is right for it, or the end
//! of the connection; and afterwards nothing of them is left.
//!
//! A test binary of its own: it counts the descriptors of the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../examples/http_rpc/server/mod.rs"]
mod http;
mod http_support;

use std::{
    fs,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use http::Config;
use http_support::{Client, DEADLINE, post, start};

const CONNECTIONS: usize = 50;
const REQUESTS: usize = 10_000;
/// Small, so that mutated lengths reach it.
const MAX_BODY: usize = 5_000;

/// A request, and what it has to be answered with; `None`: it is mutated, and anything of
/// [`POSSIBLE`] will do, or an end.
struct Hostile {
    bytes: Vec<u8>,
    expected: Option<u16>,
}

/// What a mutated request may be answered with. No 500: nothing in the server fails.
const POSSIBLE: [u16; 11] = [100, 200, 400, 401, 408, 413, 417, 431, 501, 503, 505];

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
        (text("GET / HTTP/1.0\r\n\r\n"), 200),
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

fn hostile(rng: &mut Rng) -> Hostile {
    let (mut bytes, status) = rng.choice(seeds()).unwrap();
    if rng.u8(0..4) == 0 {
        return Hostile { bytes, expected: Some(status) };
    }
    mutate(rng, &mut bytes);
    Hostile { bytes, expected: None }
}

/// Sends one request on a new or the same connection, in pieces cut anywhere.
fn send_in_pieces(rng: &mut Rng, client: &mut Client, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let length = if rng.bool() { bytes.len() } else { rng.usize(1..=bytes.len().min(40)) };
        let (now, later) = bytes.split_at(length);
        client.send(now);
        bytes = later;
    }
}

fn one_client(server: &http::Server, seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let mut client = Client::connect(server);
    let mut answered = 0;
    for _ in 0..REQUESTS / CONNECTIONS {
        let request = hostile(&mut rng);
        send_in_pieces(&mut rng, &mut client, &request.bytes);
        // Whatever is still open gets its end, so that the server has to come to a decision.
        if request.expected.is_none() {
            let _ = client.stream.shutdown(Shutdown::Write);
        }
        let what = || format!("seed {seed}: {:?}", String::from_utf8_lossy(&request.bytes));
        match (client.receive(), request.expected) {
            (Some(answer), Some(expected)) => {
                assert_eq!(answer.status, expected, "{}", what());
                answered += 1;
            }
            (Some(answer), None) => {
                assert!(POSSIBLE.contains(&answer.status), "{} for {}", answer.status, what());
                answered += 1;
            }
            (None, Some(expected)) => panic!("the end in place of {expected} for {}", what()),
            (None, None) => {}
        }
        if request.expected.is_none_or(|status| status != 200) || rng.u8(0..8) == 0 {
            client = Client::connect(server);
        } else if request.bytes.starts_with(b"GET / HTTP/1.0") {
            assert_eq!(client.receive(), None);
            client = Client::connect(server);
        }
    }
    answered
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn hostile_requests_get_the_right_status_or_an_end_and_leave_nothing() {
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
    assert!(answered > REQUESTS / 4, "only {answered} were answered");

    // It still works, and has forgotten all of them: those that linger do so for a second.
    assert_eq!(Client::connect(&server).ask(post("/", b"")), 200);
    let deadline = Instant::now() + DEADLINE;
    while server.connections() > 0 {
        assert!(Instant::now() < deadline, "{} connections are left", server.connections());
        thread::park_timeout(Duration::from_millis(1));
    }
    server.stop().unwrap();
    assert_eq!(descriptors(), before);
}
