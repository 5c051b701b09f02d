//! Real sockets, a real thread, and rustls clients that block.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use sockman::{Options, Service, SockMan, SocketsThreads};
use sockman_rustls::{Tls, TlsSettings};
use sockman_test_support::{
    DEADLINE,
    tools::{Random, deadlines, run_passes},
};

use crate::{
    certificates::{Authority, BOTH, ONLY_12, ONLY_13},
    recorder::{Event, Failure, Recorder, byte_at},
};

struct Server {
    recorder: Arc<Recorder>,
    sockman: SockMan,
    bound: Service,
    threads: Option<SocketsThreads>,
}

impl Server {
    fn start(authority: &Authority, settings: TlsSettings) -> Server {
        let recorder = Recorder::new();
        let config = Arc::new(authority.server(BOTH));
        let tls = Tls::server(Arc::clone(&recorder), config, settings).unwrap();
        let sockman = SockMan::with_state(Arc::new(tls), Options::default().sweep(None)).unwrap();
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        let threads = Some(sockman.start_sockets_threads().unwrap());
        Server { recorder, sockman, bound, threads }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.bound.to_socket_addr().unwrap()).unwrap();
        deadlines(&stream);
        stream
    }

    fn client(&self, config: ClientConfig) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), self.connect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.sockman.drain_and_stop(Duration::from_secs(1));
        let joined = self.threads.take().unwrap().join();
        if !thread::panicking() {
            joined.unwrap();
        }
    }
}

/// A large answer to a reader that stalls first: bounded meanwhile, whole afterwards.
#[test]
fn a_large_answer_to_a_reader_that_stalls_is_bounded_and_arrives_whole() {
    const ANSWER: usize = 20_000_000;
    let authority = Authority::new();
    let server = Server::start(&authority, TlsSettings::default());
    for versions in [ONLY_12, ONLY_13] {
        let before = server.recorder.taken();
        let mut client = server.client(authority.client(versions, None));
        // A small buffer, so that the answer is larger than what the kernel takes.
        socket2::SockRef::from(&client.sock).set_recv_buffer_size(65536).unwrap();
        client.write_all(format!("a{ANSWER}f").as_bytes()).unwrap();
        let taken = || server.recorder.taken() - before;
        // Until nothing more is taken.
        sockman_test_support::eventually("the server stalls", || {
            let before = taken();
            run_passes(&server.sockman, 3);
            before > 0 && taken() == before
        });
        assert!(taken() < ANSWER, "{} bytes were taken", taken());
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap(); // Fails at a truncation.
        assert!(answer.iter().enumerate().all(|(at, byte)| *byte == byte_at(at)));
        assert_eq!(answer.len(), ANSWER);
    }
}

/// Many clients at once, each with a conversation and an end of its own.
#[test]
fn many_clients_talk_and_end_in_each_way() {
    const CLIENTS: usize = 40;
    let authority = Authority::new();
    let server = Server::start(&authority, TlsSettings::default());
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let versions = if number % 2 == 0 { ONLY_12 } else { ONLY_13 };
            let mut client = server.client(authority.client(versions, None));
            scope.spawn(move || {
                // Each message is one record, so at most 16 KiB.
                for round in 0..20 {
                    let message = vec![b'a' + round; 1 + 797 * usize::from(round)];
                    client.write_all(&[b"e", &message[..]].concat()).unwrap();
                    let mut answer = vec![0; message.len()];
                    client.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, message);
                }
                match number % 4 {
                    0 => client.write_all(b"f").unwrap(),
                    1 => {
                        client.conn.send_close_notify();
                        client.flush().unwrap();
                    }
                    2 => {
                        client.sock.shutdown(Shutdown::Write).unwrap();
                    }
                    _ => return sockman_test_support::reset(client.sock),
                }
                assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
            });
        }
    });
    server.recorder.wait_for("the ends", CLIENTS, |event| *event == Event::Closed);
    let events = server.recorder.events();
    let count = |wanted: &Event| events.iter().filter(|event| *event == wanted).count();
    assert_eq!(count(&Event::Failed(Failure::Truncated)), CLIENTS / 4);
    assert_eq!(count(&Event::Failed(Failure::Socket)), CLIENTS / 4);
    assert_eq!(count(&Event::End), CLIENTS / 4);
}

/// Random bytes end the connection, and nothing else.
#[test]
fn random_bytes_end_their_connection_alone() {
    let authority = Authority::new();
    let server = Server::start(&authority, TlsSettings::default().linger(DEADLINE));
    let mut honest = server.client(authority.client(BOTH, None));
    honest.write_all(b"ehello").unwrap();
    let mut random = Random::new(30);
    for _ in 0..50 {
        let mut client = server.connect();
        let length = 50 + random.up_to(50_000);
        let _ = client.write_all(&random.bytes(length));
        let _ = client.shutdown(Shutdown::Write);
        sockman_test_support::read_to_end(&mut client);
    }
    let mut answer = [0; 5];
    honest.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    server.recorder.wait_for("the failures", 50, |event| {
        matches!(event, Event::HandshakeFailed(Failure::Protocol(_) | Failure::Truncated))
    });
}

/// The clock of the system ends a handshake too.
#[test]
fn a_silent_client_is_closed() {
    let authority = Authority::new();
    let settings = TlsSettings::default().handshake_timeout(Duration::from_millis(50));
    let server = Server::start(&authority, settings);
    let mut silent = server.connect();
    let ended = silent.read(&mut [0]);
    assert!(matches!(&ended, Ok(0)), "{ended:?}");
    let failed = Event::HandshakeFailed(Failure::HandshakeTimeout);
    server.recorder.wait_for("the time-out", 1, |event| *event == failed);
}

/// A client sees the end of a server that closes at once as a truncation.
#[test]
fn a_close_at_once_is_a_truncation_for_the_client() {
    let authority = Authority::new();
    let server = Server::start(&authority, TlsSettings::default());
    let mut client = server.client(authority.client(BOTH, None));
    client.write_all(b"c").unwrap();
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    assert!(kinds.contains(&error.kind()), "{error}");
}
