//! Tests of the HTTP server over loopback: framing, limits, order, back-pressure, time-outs and the
//! stop. The sweep is off in all tests of this module, so no test depends on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use sockman_http_rpc::{Config, Server};
use support::{Client, DEADLINE, LARGE, post, start, wait_until_all_are_gone};

#[test]
fn pipelined_answers_come_in_order() {
    let (server, service) = start(Config::default());
    let mut client = Client::connect(&server);
    let mut requests = post("/gate", b"first");
    for number in 0..200 {
        requests.extend(post("/", number.to_string().as_bytes()));
    }
    client.send(requests);
    service.begun.wait_for(1);
    service.gate.add();
    assert_eq!(client.receive().unwrap().body, b"first");
    for number in 0..200 {
        assert_eq!(client.receive().unwrap().body, number.to_string().as_bytes());
    }
    server.stop().unwrap();
}

#[test]
fn a_connection_has_one_request_in_flight() {
    let (server, service) = start(Config::default());
    let mut client = Client::connect(&server);
    client.post("/gate", "a");
    client.post("/gate", "b");
    service.begun.wait_for(1);
    // This request is answered after the second request arrived, so the server had time to begin
    // the second one.
    assert_eq!(Client::connect(&server).ask(post("/", b"")), 200);
    assert_eq!(service.begun.count(), 1);
    service.gate.add();
    assert_eq!(client.receive().unwrap().body, b"a");
    assert_eq!(client.receive().unwrap().body, b"b");
}

#[test]
fn each_fault_has_its_status() {
    let (server, _) = start(Config { max_body: 1000, ..Config::default() });
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(101));
    let cases: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET http://x/path?query HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET HTTP://x/secret HTTP/1.1\r\nHost: x\r\n\r\n", 401),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET relative HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET /secret HTTP/1.1\r\nHost: x\r\n\r\n", 401),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (&long, 431),
        (&many, 431),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", 417),
    ];
    for (request, status) in cases {
        let mut client = Client::connect(&server);
        assert_eq!(client.ask(request), *status, "{request}");
        if *status != 200 {
            assert_eq!(client.read_to_end(), b"", "the connection ends after {request}");
        }
    }
}

/// Two programs that disagree about the end of a request can be made to see different requests.
#[test]
fn no_request_is_smuggled() {
    let (server, service) = start(Config::default());
    let framings = [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
    ];
    for framing in framings {
        let mut client = Client::connect(&server);
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n"));
        client.send("0\r\n\r\nPOST /gate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let status = client.receive().unwrap().status;
        assert!(matches!(status, 400 | 501), "{framing:?} got {status}");
        assert_eq!(client.receive(), None, "{framing:?}");
    }
    // HTTP/1.0 has no chunks. A server that ignored the header would parse the chunk as a request.
    let mut client = Client::connect(&server);
    let chunked = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked), 400);
    assert_eq!(service.begun.count(), 0);
}

#[test]
fn malformed_chunks_are_refused() {
    let (server, _) = start(Config::default());
    let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
    let many_trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(3000));
    let bodies = [
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        "\r\n",
        "g\r\n",
        "1\na\r\n",
        "1 \r\na\r\n",
        "1\r\nab\r\n",
        "1\r\na\n0\r\n\r\n",
        &long_extension,
        &many_trailers,
    ];
    for body in bodies {
        let mut client = Client::connect(&server);
        client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(client.ask(body), 400, "{body:?}");
        assert_eq!(client.receive(), None);
    }
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let (server, _) = start(Config::default());
    let mut request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    request.extend_from_slice(
        b"4;a=b\r\nWiki\r\n6 ;c\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\n",
    );
    request.extend(post("/", b"second"));
    for cut in 0..request.len() {
        let mut client = Client::connect(&server);
        client.send(&request[..cut]);
        client.send(&request[cut..]);
        assert_eq!(client.receive().unwrap().body, b"Wikipedia in \r\n\r\nchunks.");
        assert_eq!(client.receive().unwrap().body, b"second");
    }
    let mut client = Client::connect(&server);
    for byte in &request {
        client.send([*byte]);
    }
    assert_eq!(client.receive().unwrap().body, b"Wikipedia in \r\n\r\nchunks.");
    assert_eq!(client.receive().unwrap().body, b"second");
}

#[test]
fn a_100_continue_is_sent_only_for_a_body_that_is_accepted() {
    let (server, _) = start(Config { max_body: 100, ..Config::default() });
    let head = "HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length:";
    let mut client = Client::connect(&server);
    assert_eq!(client.ask(format!("POST / {head} 5\r\n\r\n")), 100);
    client.send("hello");
    assert_eq!(client.receive().unwrap().body, b"hello");
    assert_eq!(client.ask(format!("POST / {head} 101\r\n\r\n")), 413);
    let mut client = Client::connect(&server);
    assert_eq!(client.ask(format!("POST /secret {head} 5\r\n\r\n")), 401);
}

/// The client receives the status and then EOF, not a reset.
#[test]
fn a_client_that_is_refused_may_have_sent_more() {
    let (server, _) = start(Config { max_body: 100, ..Config::default() });
    let mut client = Client::connect(&server);
    let mut writer = Client::of(client.stream.try_clone().unwrap());
    let writing = thread::spawn(move || writer.post("/", vec![b'x'; 2_000_000]));
    assert_eq!(client.receive().unwrap().status, 413);
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    writing.join().unwrap();
}

#[test]
fn connections_stay_open_as_the_http_version_requires() {
    let (server, _) = start(Config::default());
    let cases = [
        ("HTTP/1.1\r\nHost: x\r\n\r\n", "keep-alive"),
        ("HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n", "close"),
        ("HTTP/1.0\r\n\r\n", "close"),
        ("HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "keep-alive"),
    ];
    for (rest, expected) in cases {
        let mut client = Client::connect(&server);
        client.send(format!("GET / {rest}"));
        let answered = client.receive().unwrap();
        assert_eq!(answered.header("connection"), Some(expected), "{rest}");
        match expected {
            "close" => assert_eq!(client.receive(), None),
            _ => assert_eq!(client.ask(post("/", b"")), 200),
        }
    }
}

#[test]
fn a_full_work_queue_is_answered_with_503_and_the_connection_goes_on() {
    let (server, service) = start(Config { workers: 1, work_queue: 1, ..Config::default() });
    let (mut working, mut waiting) = (Client::connect(&server), Client::connect(&server));
    working.post("/gate", "");
    service.begun.wait_for(1);
    waiting.post("/", "");
    service.admitted.wait_for(2);
    // Callbacks run one after the other, so the request is in the queue before the next callback.
    // The queue is full then.
    let mut third = Client::connect(&server);
    assert_eq!(third.ask(post("/", b"")), 503);
    service.gate.add();
    assert_eq!(working.receive().unwrap().status, 200);
    assert_eq!(waiting.receive().unwrap().status, 200);
    assert_eq!(third.ask(post("/", b"again")), 200);
}

#[test]
fn a_panic_in_the_service_is_answered() {
    let (server, _) = start(Config { workers: 1, ..Config::default() });
    assert_eq!(Client::connect(&server).ask(post("/panic", b"")), 500);
    assert_eq!(Client::connect(&server).ask(post("/", b"")), 200);
    server.stop().unwrap();
}

#[test]
fn clients_beyond_the_limit_wait_their_turn() {
    let (server, _) = start(Config { max_connections: 1, ..Config::default() });
    let mut first = Client::connect(&server);
    assert_eq!(first.ask(post("/", b"")), 200);
    let mut second = Client::connect(&server);
    second.post("/", "second");
    assert_eq!(first.ask(post("/", b"")), 200);
    drop(first);
    assert_eq!(second.receive().unwrap().body, b"second");
}

#[test]
fn the_server_does_not_read_from_a_client_that_does_not_read_its_answer() {
    let (server, service) = start(Config::default());
    let mut client = Client::connect(&server);
    client.post("/large", "");
    // The answer has begun to arrive. The rest of the answer is in the queue, because the kernel
    // cannot hold the whole answer.
    assert_eq!(client.stream.peek(&mut [0]).unwrap(), 1);
    client.stream.set_nonblocking(true).unwrap();
    let flood = vec![b'x'; 65_536];
    let mut blocked = 0;
    while blocked < 10 {
        match client.stream.write(&flood) {
            Ok(_) => blocked = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                blocked += 1;
                // This request is answered after the flood, so the server had time to read more of
                // the flood.
                assert_eq!(Client::connect(&server).ask(post("/", b"")), 200);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(
            received(&server) < MAX_AHEAD,
            "the server reads from a client that does not take its answer"
        );
    }
    assert_eq!(service.begun.count(), 0);
}

/// The bytes of one turn, and some for the requests themselves.
const MAX_AHEAD: u64 = 2 * 65_536;

/// Returns the largest number of bytes received on one connection.
fn received(server: &Server) -> u64 {
    server.connection_infos().iter().map(|info| info.bytes_received).max().unwrap_or(0)
}

#[test]
fn requests_sent_ahead_are_not_read_before_earlier_ones_are_answered() {
    let (server, _) = start(Config::default());
    let mut client = Client::connect(&server);
    let request = post("/", b"0123456789");
    assert_eq!(client.ask(&request), 200);
    // The server counts the bytes shortly after it has sent them.
    let begin = Instant::now();
    let answer_length = loop {
        match server.connection_infos()[0].bytes_sent {
            0 => assert!(begin.elapsed() < DEADLINE),
            length => break length,
        }
    };
    let mut writer = Client::of(client.stream.try_clone().unwrap());
    let requests = request.repeat(50_000);
    let sender = thread::spawn(move || writer.send(requests));
    for _ in 0..50_000 {
        assert_eq!(client.receive().unwrap().body, b"0123456789");
        let info = &server.connection_infos()[0];
        let answered = info.bytes_sent / answer_length * request.len() as u64;
        let ahead = info.bytes_received.saturating_sub(answered);
        assert!(ahead < MAX_AHEAD, "{ahead} bytes ahead of the answers");
    }
    sender.join().unwrap();
}

#[test]
fn a_half_closed_connection_still_gets_its_answers() {
    let (server, service) = start(Config::default());
    let mut client = Client::connect(&server);
    client.post("/gate", "one");
    client.post("/", "two");
    client.stream.shutdown(Shutdown::Write).unwrap();
    service.begun.wait_for(1);
    service.gate.add();
    assert_eq!(client.receive().unwrap().body, b"one");
    assert_eq!(client.receive().unwrap().body, b"two");
    assert_eq!(client.receive(), None);
}

/// Closes the stream in a way that makes the kernel send a reset.
fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// One worker is busy with `/gate`, and the other clients wait in the queue. Then all clients are
/// gone: each one closes its socket, or resets the connection, after it has sent `ahead`.
fn all_clients_give_up(ahead: &[u8], end: impl Fn(TcpStream)) {
    const CLIENTS: usize = 8;
    let config =
        Config { max_connections: CLIENTS, workers: 1, work_queue: CLIENTS, ..Config::default() };
    let (server, service) = start(config);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(&server);
            client.post("/gate", "");
            client
        })
        .collect();
    service.begun.wait_for(1);
    service.admitted.wait_for(CLIENTS);
    for client in &mut clients {
        client.stream.set_nonblocking(true).unwrap();
        client.send(ahead);
    }
    clients.into_iter().for_each(|client| end(client.stream));
    wait_until_all_are_gone(&server);

    // All places are free again, in the server and in the queue. The worker is still busy.
    let mut others: Vec<_> = (1..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(&server);
            client.post("/", "next");
            client
        })
        .collect();
    service.admitted.wait_for(2 * CLIENTS - 1);
    service.gate.add();
    for client in &mut others {
        assert_eq!(client.receive().unwrap().body, b"next");
    }
    assert_eq!(service.begun.count(), 1, "a call of a client that is gone was made");
}

#[test]
fn a_client_that_closed_gives_back_its_place_while_its_call_waits() {
    all_clients_give_up(b"", drop);
}

#[test]
fn a_client_that_sent_ahead_and_closed_gives_back_its_place() {
    all_clients_give_up(&post("/gate", b"ahead"), drop);
}

#[test]
fn a_client_that_reset_gives_back_its_place_while_its_call_waits() {
    all_clients_give_up(b"", reset);
}

/// The server does not read all that these clients have sent, so it cannot receive the reset.
#[test]
fn a_client_that_reset_with_much_unread_gives_back_its_place() {
    all_clients_give_up(&post("/", b"0123456789").repeat(50_000), reset);
}

/// The beginning of the answer, which finds out whether the client is gone, is a part of the answer.
#[test]
fn each_kind_of_answer_arrives_whole_at_a_client_that_half_closed() {
    let (server, service) = start(Config { workers: 1, work_queue: 1, ..Config::default() });
    let half_closed = |requests: &[u8]| {
        let mut client = Client::connect(&server);
        client.send(requests);
        client.stream.shutdown(Shutdown::Write).unwrap();
        client
    };
    let mut answered = half_closed(&post("/gate", b"one"));
    service.begun.wait_for(1);
    let mut waiting = half_closed(b"HEAD /gate HTTP/1.0\r\n\r\n");
    service.admitted.wait_for(2);
    let mut refused = half_closed(&post("/", b""));
    assert_eq!(refused.receive().unwrap().status, 503);
    assert_eq!(refused.receive(), None);
    // The beginning arrives before the answer.
    let mut begin = [0; 9];
    answered.stream.peek(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 ");
    service.gate.add();
    assert_eq!(answered.receive().unwrap().body, b"one");
    assert_eq!(answered.receive(), None);
    let head = String::from_utf8(waiting.read_to_end()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(head.matches("HTTP/1.1").count(), 1, "{head}");

    // In the server above, the queue could be full for the second and the third request.
    let (server, service) = start(Config { workers: 1, ..Config::default() });
    let mut ahead = Client::connect(&server);
    ahead.send(post("/gate", b"one").repeat(3));
    ahead.stream.shutdown(Shutdown::Write).unwrap();
    service.begun.wait_for(1);
    ahead.stream.peek(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 ");
    service.gate.add();
    for _ in 0..3 {
        assert_eq!(ahead.receive().unwrap().body, b"one");
    }
    assert_eq!(ahead.receive(), None);
}

#[test]
fn an_idle_client_is_disconnected() {
    let idle_timeout = Duration::from_millis(500);
    let (server, _) = start(Config { idle_timeout, ..Config::default() });
    let mut silent = Client::connect(&server);
    let mut within_head = Client::connect(&server);
    within_head.send("POST / HT");
    let mut within_body = Client::connect(&server);
    within_body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc");
    let mut between = Client::connect(&server);
    assert_eq!(between.ask(post("/", b"")), 200);
    let mut not_taking = Client::connect(&server);
    not_taking.post("/large", "");

    assert_eq!(silent.read_to_end(), b"");
    assert_eq!(between.receive(), None);
    for client in [&mut within_head, &mut within_body] {
        assert_eq!(client.receive().unwrap().status, 408);
        assert_eq!(client.receive(), None);
    }
    // The client took nothing, so the server discarded the rest. The client reads only what the
    // kernel had.
    wait_until_all_are_gone(&server);
    assert!(not_taking.read_to_end().len() < LARGE);
}

/// The server goes on to send soon after a slow client has taken a little, so the client does not
/// look idle. No timer helps. Without the option of the socket, Linux reports room only after more
/// than a megabyte.
#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_little_that_a_client_takes_is_noticed() {
    // Twice the part of its largest buffer, 6 MiB, that the client's kernel has to have free before
    // it offers room again.
    const A_LITTLE: usize = 2 * 6 * 1024 * 1024 / 16;
    let idle_timeout = Duration::from_secs(24 * 60 * 60);
    let (server, _) = start(Config { idle_timeout, ..Config::default() });
    let mut client = Client::connect(&server);
    client.post("/large", "");
    // The answer has begun to arrive.
    assert_eq!(client.stream.peek(&mut [0]).unwrap(), 1);
    let sent = || server.connection_infos()[0].bytes_sent;
    let mut taken = vec![0; A_LITTLE];
    // On a busy machine, small segments can fill the client's buffer, so that its kernel offers no
    // room for a while. Without the option, that happens at every second read.
    let mut silent_rounds = 0;
    for _ in 0..LARGE / A_LITTLE / 2 {
        let (before, deadline) = (sent(), Instant::now() + DEADLINE / 2);
        client.stream.read_exact(&mut taken).unwrap();
        while sent() == before && before < LARGE as u64 {
            if Instant::now() > deadline {
                silent_rounds += 1;
                assert!(silent_rounds < 3, "the server sends nothing after {before} bytes");
                break;
            }
            thread::yield_now();
        }
    }
}

/// The test is about a time-out. A round in which this thread itself was late does not count, and
/// the next round has more time.
#[test]
fn a_client_that_takes_its_answer_slowly_is_not_disconnected() {
    let mut idle_timeout = Duration::from_millis(500);
    while !is_served_slowly(idle_timeout) {
        idle_timeout *= 2;
    }
}

/// Returns `false` if the client was late.
fn is_served_slowly(idle_timeout: Duration) -> bool {
    let (server, _) = start(Config { idle_timeout, ..Config::default() });
    let mut client = Client::connect(&server);
    client.post("/large", "");
    assert_eq!(client.stream.peek(&mut [0]).unwrap(), 1);
    let begin = Instant::now();
    let (mut taken, mut last_read) = (0, begin);
    while begin.elapsed() < 5 * idle_timeout {
        // Each read frees a whole segment of loopback.
        taken += client.stream.read(&mut [0; 64 * 1024]).unwrap();
        if last_read.elapsed() > idle_timeout / 2 {
            return false;
        }
        last_read = Instant::now();
        thread::park_timeout(idle_timeout / 50);
    }
    // The bytes include the head.
    while taken <= LARGE {
        let length = client.stream.read(&mut [0; 64 * 1024]).unwrap();
        if last_read.elapsed() > idle_timeout / 2 {
            return false;
        }
        assert!(length > 0, "the server cut the client off after {taken} bytes");
        (taken, last_read) = (taken + length, Instant::now());
    }
    true
}

/// A client that sends one byte now and then times out, too.
#[test]
fn a_request_has_to_be_complete_in_time() {
    let idle_timeout = Duration::from_millis(200);
    let (server, _) = start(Config { idle_timeout, ..Config::default() });
    let beginnings = [
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
    ];
    for beginning in beginnings {
        let mut client = Client::connect(&server);
        let mut reader = Client::of(client.stream.try_clone().unwrap());
        let status = thread::spawn(move || reader.receive().map(|answered| answered.status));
        client.send(beginning);
        while !status.is_finished() {
            client.send("x");
            // The pause keeps the head below 8 KiB, which would be another fault.
            thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(status.join().unwrap(), Some(408), "{beginning}");
    }
}

#[test]
fn a_timer_of_the_service_ends_without_any_traffic() {
    let (server, service) = start(Config::default());
    assert_eq!(Client::connect(&server).ask(post("/timer", b"")), 200);
    service.timer.wait_for(1);
}

#[test]
fn the_stop_finishes_answers_in_flight_and_closes_idle_connections() {
    let (server, service) = start(Config::default());
    let mut idle = Client::connect(&server);
    assert_eq!(idle.ask(post("/", b"")), 200);
    let mut within = Client::connect(&server);
    within.send("POST / HT");
    let mut busy = Client::connect(&server);
    busy.post("/gate", "done");
    busy.post("/", "never begun");
    service.begun.wait_for(1);

    let stopping = thread::spawn(move || server.stop());
    assert_eq!(idle.receive(), None);
    assert_eq!(within.receive(), None);
    assert!(!stopping.is_finished());
    service.gate.add();
    let answered = busy.receive().unwrap();
    assert_eq!((&*answered.body, answered.header("connection")), (&b"done"[..], Some("close")));
    assert_eq!(busy.receive(), None);
    stopping.join().unwrap().unwrap();
}

/// The stop begins at every moment before, during and after a client's last answer. The stop must
/// not wait for the idle time-out of a client that has its answer.
#[test]
fn the_stop_does_not_wait_for_clients_that_have_their_answers() {
    let wait_for_nothing = Duration::from_secs(3600);
    for round in 0..100 {
        let (idle_timeout, drain_timeout) = (wait_for_nothing, wait_for_nothing);
        let config = Config { idle_timeout, drain_timeout, ..Config::default() };
        let (server, service) = start(config);
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let mut client = Client::connect(&server);
                thread::spawn(move || {
                    for _ in 0..(round + number) % 4 {
                        client.post("/", "x");
                        let Some(_) = client.receive() else { return };
                    }
                    client.post("/medium", "");
                    client.read_to_end();
                })
            })
            .collect();
        service.begun.wait_for(round % 4 + 1);
        let (done, stopped) = mpsc::channel();
        thread::spawn(move || done.send(server.stop()));
        stopped.recv_timeout(DEADLINE).expect("the server did not stop").unwrap();
        for client in clients {
            client.join().unwrap();
        }
    }
}

/// The client sends more during the stop. If the server closed the connection immediately, a reset
/// would replace the rest of the answer.
#[test]
fn an_answer_that_the_client_is_reading_arrives_whole_during_the_stop() {
    let (server, _) = start(Config::default());
    let mut client = Client::connect(&server);
    client.post("/large", "");
    let mut writer = Client::of(client.stream.try_clone().unwrap());
    let writing = thread::spawn(move || writer.post("/", vec![b'x'; 1_000_000]));
    assert_eq!(client.stream.peek(&mut [0]).unwrap(), 1);
    let stopping = thread::spawn(move || server.stop());
    assert_eq!(client.receive().expect("the whole answer").body.len(), LARGE);
    client.read_to_end();
    writing.join().unwrap();
    stopping.join().unwrap().unwrap();
}

#[test]
fn the_stop_waits_for_a_worker_only_until_the_drain_time_out() {
    let config = Config { drain_timeout: Duration::from_millis(50), ..Config::default() };
    let (server, service) = start(config);
    let mut client = Client::connect(&server);
    client.post("/gate", "");
    service.begun.wait_for(1);
    let (done, stopped) = mpsc::channel();
    thread::spawn(move || done.send(server.stop()));
    // The worker itself waits for up to `DEADLINE`.
    stopped.recv_timeout(DEADLINE / 4).expect("the server did not stop").unwrap();
    assert_eq!(client.receive(), None);
    service.gate.add();
}
