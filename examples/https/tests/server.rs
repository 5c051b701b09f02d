//! The server with rustls clients that block.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod support;

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use sockman_http_rpc::{
    Answer, HttpService, Response, Timers,
    methods::Wallets,
    parser::{Head, Request},
    rpc::{Cookie, RpcService},
};
use sockman_https::{Config, demo::Demo};
use sockman_test_support::{DEADLINE, eventually};
use support::{Client, Pki, answer, config, start};

/// Several requests on one connection, and a body in each direction.
#[test]
fn a_connection_serves_one_request_after_the_other() {
    let pki = Pki::new();
    let server = start(&pki, &config(), Arc::new(Demo));
    let mut client = Client::new(&pki, &server);
    let (head, body) = client.get("/");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"Hello over TLS.\n");
    for length in [0, 1, 16_384, 1_000_000] {
        let sent = vec![b'y'; length];
        write!(client.0, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
            .unwrap();
        client.0.write_all(&sent).unwrap();
        assert!(answer(&mut client.0).1 == sent);
    }
    // Two requests at once: their answers come in order.
    let request = |bytes| format!("GET /bytes/{bytes} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.0.write_all(format!("{}{}", request(5), request(100_000)).as_bytes()).unwrap();
    assert_eq!(answer(&mut client.0).1.len(), 5);
    assert_eq!(answer(&mut client.0).1.len(), 100_000);
    server.stop().unwrap();
    // A truncation would be an error.
    assert_eq!(client.0.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn faults_have_their_status_and_end_the_connection_in_order() {
    let pki = Pki::new();
    let server = start(&pki, &config(), Arc::new(Demo));
    let cases = [
        ("GET /missing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("nonsense\r\n\r\n", 400),
        ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n", 413),
    ];
    for (request, status) in cases {
        let mut client = Client::new(&pki, &server);
        client.0.write_all(request.as_bytes()).unwrap();
        let mut all = String::new();
        client.0.read_to_string(&mut all).unwrap();
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{all}");
    }
    eventually("the places are free", || server.connections() == 0);
}

/// A client may end its stream after its request.
#[test]
fn a_client_that_ends_its_stream_still_gets_its_answer() {
    let pki = Pki::new();
    let server = start(&pki, &config(), Arc::new(Demo));
    let mut client = Client::new(&pki, &server);
    client.0.write_all(b"GET /bytes/3000000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let stream = client.0.get_mut();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut all = Vec::new();
    client.0.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(&[b'x'; 3_000_000]));
}

/// A client that sends nothing loses its place, as does one that takes nothing.
#[test]
fn idle_clients_are_closed() {
    let pki = Pki::new();
    let config = Config { idle_timeout: Duration::from_millis(100), ..config() };
    let server = start(&pki, &config, Arc::new(Demo));
    let mut silent = Client::new(&pki, &server);
    let stream = silent.0.get_mut();
    stream.conn.complete_io(&mut stream.sock).unwrap();
    assert_eq!(silent.0.read_to_end(&mut Vec::new()).unwrap(), 0);
    let mut stalled = Client::new(&pki, &server);
    stalled.0.write_all(b"GET /bytes/30000000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    drop(silent);
    eventually("both are gone", || server.connections() == 0);
    drop(stalled);
}

/// Answers when the test says so.
struct Slow {
    began: mpsc::Sender<()>,
    may_end: Mutex<mpsc::Receiver<()>>,
}

impl HttpService for Slow {
    fn admit(&self, _: &Head) -> Result<(), Response> {
        Ok(())
    }
    fn answer(&self, _: Request, _: &Timers<'_>) -> Answer {
        self.began.send(()).unwrap();
        self.may_end.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        Answer::Response(Response::text(200, "late"))
    }
}

/// A stop waits for the answer of a worker, and then ends the connection with a close_notify. A
/// client in its handshake does not hold the stop up.
#[test]
fn a_stop_waits_for_answers_and_ends_each_connection_in_order() {
    let pki = Pki::new();
    let ((began, has_begun), (end, may_end)) = (mpsc::channel(), mpsc::channel());
    let service = Slow { began, may_end: Mutex::new(may_end) };
    let server = start(&pki, &config(), Arc::new(service));
    let mut waiting = Client::new(&pki, &server);
    let _handshaking =
        std::net::TcpStream::connect(server.listening()[0].to_socket_addr().unwrap()).unwrap();
    waiting.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    has_begun.recv_timeout(DEADLINE).unwrap();
    let stopping = std::thread::spawn(move || server.stop().unwrap());
    end.send(()).unwrap();
    let mut all = String::new();
    waiting.0.read_to_string(&mut all).unwrap();
    assert!(all.ends_with("late\n"), "{all}");
    drop(waiting);
    stopping.join().unwrap();
}

/// The JSON-RPC of `http_rpc`, with its timers, over TLS.
#[test]
fn a_json_rpc_service_can_be_served_through_it() {
    let pki = Pki::new();
    let methods = Wallets::new("secret", sockman::Interrupt::new());
    let service = Arc::new(RpcService { cookie: Cookie::generate().unwrap(), methods });
    let directory = sockman_test_support::tools::TempDir::new();
    let cookie = service.cookie.write(&directory.path("cookie")).unwrap();
    let password = std::fs::read(directory.path("cookie")).unwrap();
    let password = data_encoding::BASE64.encode(&password);
    let server = start(&pki, &config(), service);
    let mut client = Client::new(&pki, &server);
    let mut call = |body: &str| {
        let length = body.len();
        write!(
            client.0,
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {password}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        String::from_utf8(answer(&mut client.0).1).unwrap()
    };
    let locked = r#""unlocked":false"#;
    let info = r#"{"method": "getwalletinfo"}"#;
    let answer = call(info);
    assert!(answer.contains(locked), "{answer}");
    let unlock = call(r#"{"method": "walletpassphrase", "params": ["secret", 1]}"#);
    assert!(unlock.contains(r#""error":null"#), "{unlock}");
    // The timer on the socket thread locks the wallet.
    eventually("the wallet is locked again", || call(info).contains(locked));
    drop(cookie);
}
