//! SOCKS5 proxies for tests, which do what they are told to: also what no proxy should.

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

/// "None", which every client here offers.
pub const METHOD: &[u8] = b"\x05\x00";
pub const METHOD_PASSWORD: &[u8] = b"\x05\x02";
pub const AUTHENTICATED: &[u8] = b"\x01\x00";
/// Success, bound to 1.2.3.4:258.
pub const CONNECTED: &[u8] = b"\x05\x00\x00\x01\x01\x02\x03\x04\x01\x02";

/// Listens on loopback, and plays each connection on a thread of its own. The threads end with their
/// connections.
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

/// What a client asked for.
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

/// The methods that are offered. `None`: the client has gone.
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
    assert_eq!(kind, 3, "always a name");
    let host = read_counted(stream)?;
    let port = u16::from_be_bytes(read(stream)?);
    Some(Request { host, port })
}

/// Greeting and request, as they should be, with `METHOD`; the answer to the request is the caller's.
pub fn negotiate(stream: &mut TcpStream) -> Option<Request> {
    read_greeting(stream)?;
    stream.write_all(METHOD).ok()?;
    read_request(stream)
}

/// A proxy that gives `answer` to the request, and leaves the connection open until the client
/// closes it.
pub fn answering(answer: impl Into<Vec<u8>>) -> Proxy {
    let answer = answer.into();
    proxy(move |mut stream| {
        if negotiate(&mut stream).is_some() {
            let _ = stream.write_all(&answer);
            stay(&mut stream);
        }
    })
}

/// A proxy that gives `answer` to the greeting.
pub fn greeting_with(answer: impl Into<Vec<u8>>) -> Proxy {
    let answer = answer.into();
    proxy(move |mut stream| {
        if read_greeting(&mut stream).is_some() {
            let _ = stream.write_all(&answer);
            stay(&mut stream);
        }
    })
}

/// Until the other side closes.
pub fn stay(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// Until the other side closes, without ending this one's direction.
pub fn stall(stream: &mut TcpStream) {
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// A running `SockMan`, to connect with.
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

    /// An activated connection, or why there is none.
    pub fn connect(
        &self,
        driver: Driver,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<ConnectionId, ConnectError> {
        driver.connect(&self.running.sockman, &self.recorder, to, options)
    }

    /// The error of an attempt to reach `name.test:80` through `proxy`.
    pub fn error(&self, driver: Driver, proxy: &Proxy) -> ConnectError {
        let options = ConnectOptions::default().proxy(proxy.clone()).timeout(DEADLINE);
        self.connect(driver, &name(), &options).expect_err("no connection comes of this")
    }
}

pub fn name() -> Destination {
    Destination::Name { host: "name.test".to_owned(), port: 80 }
}

/// Far longer than anything here takes, and short enough to wait for.
pub const SOON: Duration = Duration::from_millis(100);
