//! The HTTP server of the `http_rpc` example over loopback: framing, limits, order, back-pressure,
//! time-outs and the drain. The sweep is off throughout, so nothing works by its grace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../examples/http_rpc/server/mod.rs"]
mod http;
mod http_support;

use std::{
    net::Shutdown,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use http::{
    Answer, Config, HttpService, Timers,
    events::EventStream,
    parser::{Head, Request},
    response::Response,
};
use http_support::{Client, DEADLINE, LARGE, post, start, start_with};
use parking_lot::Mutex;

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
    // Whatever the server would do with the second, it has had the occasion by now.
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
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
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

/// Two programs that disagree about where a request ends can be made to see different ones.
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
    // HTTP/1.0 has no chunks: there, what looks like one would be taken for a request.
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
        b"4;a=b\r\nWiki\r\n6 \r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\n",
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
fn a_body_is_asked_for_only_when_it_is_wanted() {
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

#[test]
fn connections_are_kept_as_the_version_says() {
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
fn a_full_work_queue_is_told_and_the_connection_goes_on() {
    let (server, service) = start(Config { workers: 1, work_queue: 1, ..Config::default() });
    let (mut working, mut waiting) = (Client::connect(&server), Client::connect(&server));
    working.post("/gate", "");
    service.begun.wait_for(1);
    waiting.post("/", "");
    let mut third = Client::connect(&server);
    // The second may still be on its way: then the third is in the queue in its place.
    let busy = loop {
        third.post("/", "");
        third.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut fourth = Client::connect(&server);
        if fourth.ask(post("/", b"")) == 503 {
            break fourth;
        }
    };
    service.gate.add();
    assert_eq!(working.receive().unwrap().status, 200);
    let mut busy = busy;
    loop {
        // Until the worker has got through.
        if busy.ask(post("/", b"again")) == 200 {
            break;
        }
    }
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
fn a_client_that_leaves_its_answer_lying_is_not_read_from() {
    let (server, service) = start(Config::default());
    let mut client = Client::connect(&server);
    client.post("/large", "");
    client.post("/gate", "");
    // Others are served meanwhile, and the second request of this one has not been begun.
    assert_eq!(Client::connect(&server).ask(post("/", b"")), 200);
    assert_eq!(service.begun.count(), 0);
    service.gate.add();
    assert_eq!(client.receive().unwrap().body.len(), LARGE);
    assert_eq!(client.receive().unwrap().status, 200);
}

#[test]
fn half_a_connection_is_enough_for_an_answer() {
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

#[test]
fn who_does_nothing_is_closed() {
    let idle_timeout = Duration::from_millis(100);
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
    // It took nothing for so long that the rest was thrown away. (It takes some now.)
    silent_for(&server, &mut not_taking);
}

/// Waits until the server has closed the connection, without reading from it.
fn silent_for(server: &http::Server, client: &mut Client) {
    while server.connections() > 0 {
        thread::yield_now();
    }
    assert!(client.read_to_end().len() < LARGE);
}

/// One byte now and then is not enough.
#[test]
fn a_head_has_to_be_complete_in_time() {
    let idle_timeout = Duration::from_millis(200);
    let (server, _) = start(Config { idle_timeout, ..Config::default() });
    let mut client = Client::connect(&server);
    let mut reader = Client::of(client.stream.try_clone().unwrap());
    let status = thread::spawn(move || reader.receive().map(|answered| answered.status));
    client.send("GET / HTTP/1.1\r\n");
    while !status.is_finished() {
        client.send("x");
        thread::yield_now();
        // 8 KiB would be a fault of another kind.
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status.join().unwrap(), Some(408));
}

#[test]
fn a_timer_of_the_service_ends_without_any_traffic() {
    let (server, service) = start(Config::default());
    assert_eq!(Client::connect(&server).ask(post("/timer", b"")), 200);
    service.timer.wait_for(1);
}

#[test]
fn at_the_end_answers_in_flight_finish_and_idle_connections_close() {
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

/// Hands the streams to the test.
struct Streaming(Mutex<mpsc::Sender<EventStream>>);

impl HttpService for Streaming {
    fn admit(&self, _: &Head) -> Result<(), Response> {
        Ok(())
    }

    fn answer(&self, _: Request, _: &Timers<'_>) -> Answer {
        let sender = self.0.lock().clone();
        Answer::Events(Box::new(move |stream| sender.send(stream).unwrap()))
    }
}

fn streaming() -> (http::Server, mpsc::Receiver<EventStream>) {
    let (sender, streams) = mpsc::channel();
    let service = Arc::new(Streaming(Mutex::new(sender)));
    (start_with(Config::default(), service), streams)
}

#[test]
fn an_event_stream_carries_events_and_ends_in_order() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.0\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    stream.send("peers", "one\ntwo").unwrap();
    drop(stream);
    let text = String::from_utf8(client.read_to_end()).unwrap();
    let (head, events) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(head.contains("Content-Type: text/event-stream"));
    assert_eq!(events, "event: peers\ndata: one\ndata: two\n\n");
}

#[test]
fn a_client_of_events_that_leaves_is_noticed() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    drop(client);
    while server.connections() > 0 {
        thread::yield_now();
    }
    stream.send("too", "late").unwrap_err();
}

#[test]
fn a_client_of_events_that_falls_behind_is_let_go_of() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    let data = "x".repeat(10_000);
    // The kernel's buffers take some megabytes; after that the queue is bounded.
    while stream.send("flood", &data).is_ok() {}
    assert_eq!(server.connections(), 0);
}

#[test]
fn streams_do_not_hold_up_the_end() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let _stream = streams.recv_timeout(DEADLINE).unwrap();
    server.stop().unwrap();
    client.read_to_end();
}
