//! SOCKS5 proxies for tests, which follow a script, even against the protocol.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, Service, address::Destination, error::ConnectError, proxy::Proxy,
};

use super::{DEADLINE, Recorder, Running, drivers::Driver, without_sweep};

/// The proxy's choice of the method "no authentication", which every client here offers.
pub const METHOD: &[u8] = b"\x05\x00";
pub const METHOD_PASSWORD: &[u8] = b"\x05\x02";
pub const AUTHENTICATED: &[u8] = b"\x01\x00";
/// Success, bound to 1.2.3.4:258.
pub const CONNECTED: &[u8] = b"\x05\x00\x00\x01\x01\x02\x03\x04\x01\x02";

/// Listens on loopback and calls `play` for each connection, on a thread that ends with the
/// connection.
pub fn proxy(play: impl Fn(TcpStream) + Send + Sync + 'static) -> Proxy {
    proxy_at("127.0.0.1:0", play)
}

pub fn proxy_at(address: &str, play: impl Fn(TcpStream) + Send + Sync + 'static) -> Proxy {
    let listener = TcpListener::bind(address).unwrap();
    let endpoint = Service::from(listener.local_addr().unwrap());
    let play = Arc::new(play);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let play = Arc::clone(&play);
            thread::spawn(move || play(stream));
        }
    });
    Proxy::socks5(endpoint)
}

/// The destination that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub host: Vec<u8>,
    pub port: u16,
}

pub fn read<const N: usize>(stream: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn read_counted(stream: &mut impl Read) -> Option<Vec<u8>> {
    let [length] = read(stream)?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Reads the greeting and returns the methods offered, or `None` if the client has gone.
pub fn read_greeting(stream: &mut impl Read) -> Option<Vec<u8>> {
    let [version] = read(stream)?;
    assert_eq!(version, 5);
    read_counted(stream)
}

pub fn read_credentials(stream: &mut impl Read) -> Option<(Vec<u8>, Vec<u8>)> {
    let [version] = read(stream)?;
    assert_eq!(version, 1);
    Some((read_counted(stream)?, read_counted(stream)?))
}

pub fn read_request(stream: &mut impl Read) -> Option<Request> {
    let [version, command, reserved, kind] = read(stream)?;
    assert_eq!((version, command, reserved), (5, 1, 0));
    assert_eq!(kind, 3, "the address type must always be a name");
    let host = read_counted(stream)?;
    let port = u16::from_be_bytes(read(stream)?);
    Some(Request { host, port })
}

/// Reads the greeting, answers it with `METHOD`, and reads the request. The caller answers the
/// request.
pub fn negotiate(stream: &mut TcpStream) -> Option<Request> {
    read_greeting(stream)?;
    stream.write_all(METHOD).ok()?;
    read_request(stream)
}

/// A proxy that answers the request with `answer`, ends its direction, and keeps the connection
/// open until the client closes it.
pub fn answering(answer: impl Into<Vec<u8>>) -> Proxy {
    let answer = answer.into();
    proxy(move |mut stream| {
        if negotiate(&mut stream).is_some() {
            let _ = stream.write_all(&answer);
            stay(&mut stream);
        }
    })
}

/// A proxy that answers the greeting with `answer`.
pub fn greeting_with(answer: impl Into<Vec<u8>>) -> Proxy {
    let answer = answer.into();
    proxy(move |mut stream| {
        if read_greeting(&mut stream).is_some() {
            let _ = stream.write_all(&answer);
            stay(&mut stream);
        }
    })
}

/// Ends this direction, and reads until the other side closes.
pub fn stay(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// Reads until the other side closes, and keeps this direction open.
pub fn stall(stream: &mut TcpStream) {
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// A running `SockMan` to connect with.
pub struct Dialling {
    pub recorder: Arc<Recorder>,
    pub running: Running,
}

impl Dialling {
    pub fn start() -> Dialling {
        let recorder = Recorder::new();
        let running = Running::start(recorder.clone(), without_sweep());
        Dialling { recorder, running }
    }

    /// Connects and activates. Returns the id of the connection, or the error of the attempt.
    pub fn connect(
        &self,
        driver: Driver,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<ConnectionId, ConnectError> {
        driver.connect(&self.running.sockman, &self.recorder, to, options)
    }

    /// Returns the error of an attempt to reach `name.test:80` through `proxy`.
    pub fn error(&self, driver: Driver, proxy: &Proxy) -> ConnectError {
        let options = ConnectOptions::default().proxy(proxy.clone()).timeout(DEADLINE);
        self.connect(driver, &name(), &options).expect_err("the connect must fail")
    }
}

pub fn name() -> Destination {
    Destination::Name { host: "name.test".to_owned(), port: 80 }
}

/// A time-out that is far longer than any dialogue here, and short enough to wait for.
pub const SOON: Duration = Duration::from_millis(100);
