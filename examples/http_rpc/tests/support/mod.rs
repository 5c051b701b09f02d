//! Helpers for the tests of the HTTP server: a client over a blocking socket, and a service.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use sockman_http_rpc::{
    Answer, Config, HttpService, Response, Server, Timers,
    parser::{Head, Request},
};

/// How long a test waits for an expected event. A passing test never waits that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A counter that threads can wait for.
#[derive(Default)]
pub struct Gate {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub fn add(&self) {
        *self.count.lock() += 1;
        self.changed.notify_all();
    }

    pub fn count(&self) -> usize {
        *self.count.lock()
    }

    pub fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        let mut guard = self.count.lock();
        while *guard < count {
            assert!(
                !self.changed.wait_until(&mut guard, deadline).timed_out(),
                "the gate counted {} of {count}",
                *guard
            );
        }
    }
}

/// A service that answers with the body of the request, and does more for some paths.
#[derive(Default)]
pub struct TestService {
    /// Counts requests whose heads were admitted. The callback that counts a request also queues it
    /// for the workers.
    pub admitted: Gate,
    /// Counts requests for `/gate` and `/medium` that a worker has begun.
    pub begun: Gate,
    /// Lets the worker answer requests for `/gate`.
    pub gate: Gate,
    /// Counts expired timers.
    pub timer: Gate,
}

/// The length of the answer to `/large`, in bytes. The kernel's buffers cannot hold the answer.
pub const LARGE: usize = 20_000_000;
/// The length of the answer to `/medium`, in bytes. The kernel takes the whole answer at once, but
/// the write takes some time.
pub const MEDIUM: usize = 1_000_000;

impl HttpService for TestService {
    fn admit(&self, head: &Head) -> Result<(), Response> {
        self.admitted.add();
        match &*head.path {
            "/secret" => Err(Response::text(401, "no")),
            _ => Ok(()),
        }
    }

    fn answer(&self, request: Request, timers: &Timers<'_>) -> Answer {
        let body = match &*request.head.path {
            "/gate" => {
                self.begun.add();
                self.gate.wait_for(1);
                request.body
            }
            "/panic" => panic!("a service that panics"),
            "/large" => vec![b'x'; LARGE],
            "/medium" => {
                self.begun.add();
                vec![b'x'; MEDIUM]
            }
            "/timer" => {
                timers.set(7, Instant::now() + Duration::from_millis(50));
                Vec::new()
            }
            _ => request.body,
        };
        Answer::Response(Response::new(200, "application/octet-stream", body))
    }

    fn timer_ended(&self, number: u32) {
        assert_eq!(number, 7);
        self.timer.add();
    }
}

pub fn start(config: Config) -> (Server, Arc<TestService>) {
    let service = Arc::new(TestService::default());
    (start_with(config, service.clone()), service)
}

pub fn start_with(config: Config, service: Arc<dyn HttpService>) -> Server {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    Server::start(Config { listen, ..config }, service).unwrap()
}

pub fn address(server: &Server) -> SocketAddr {
    server.listening()[0].to_socket_addr().unwrap()
}

pub fn wait_until_all_are_gone(server: &Server) {
    let deadline = Instant::now() + DEADLINE;
    while server.connections() > 0 {
        assert!(Instant::now() < deadline, "{} connections are left", server.connections());
        thread::park_timeout(Duration::from_millis(1));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answered {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(server: &Server) -> Client {
        Client::connect_to(address(server))
    }

    pub fn connect_to(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client::of(stream)
    }

    pub fn of(stream: TcpStream) -> Client {
        Client { stream, buffer: Vec::new() }
    }

    /// Sends bytes. Ignores errors, because the server may have closed the connection.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn post(&mut self, path: &str, body: impl AsRef<[u8]>) {
        self.send(post(path, body.as_ref()));
    }

    /// Returns the next answer, or `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<Answered> {
        loop {
            if let Some((answered, length)) = parse(&self.buffer) {
                self.buffer.drain(..length);
                return Some(answered);
            }
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer arrived: {error}"),
            }
        }
    }

    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> u16 {
        self.send(bytes);
        self.receive().expect("an answer").status
    }

    /// Returns all bytes until the end of the connection.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.buffer);
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("the connection did not end: {error}")
            }
            _ => bytes,
        }
    }
}

pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    request.extend_from_slice(body);
    request
}

fn parse(bytes: &[u8]) -> Option<(Answered, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).unwrap() else { return None };
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8(header.value.to_vec()).unwrap()))
        .collect();
    let mut answered = Answered { status: response.code.unwrap(), headers, body: Vec::new() };
    let length = answered.header("content-length").map_or(0, |length| length.parse().unwrap());
    answered.body = bytes.get(head..head + length)?.to_vec();
    Some((answered, head + length))
}
