//! I2P over a SAM bridge that the tests play: sessions, keys, accepting, connecting.

#[cfg(unix)]
use std::os::unix::{fs::PermissionsExt, net::UnixListener};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    panic,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, ConnectionId, Service, SockMan, SocketsThreads,
    address::{Destination, NetAddr},
    error::{ConnectError, ConnectErrorKind, ConnectPhase, CreateError, JoinError},
    i2p::{DestinationError, I2pOptions, I2pStatus, KeyFileError, SamError, SamResult},
    options::PanicPolicy,
    stats::Direction,
    sys::errors,
    testing::{Call, Network},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder,
    drivers::{DRIVERS, Driver},
    eventually,
    sam::{Bridge, Play, SOON, address_of, base64, destination, once, private_key},
    tools::{Spy, TempDir},
    without_sweep,
};

/// Returns the address of the peer with this number.
fn peer(number: u8) -> Service {
    address_of(&destination(number))
}

struct Running {
    recorder: Arc<Recorder>,
    sockman: SockMan,
    threads: Option<SocketsThreads>,
}

impl Running {
    fn start(i2p: I2pOptions) -> Running {
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep().i2p(i2p)).unwrap();
        let threads = Some(sockman.start_sockets_threads().unwrap());
        Running { recorder, sockman, threads }
    }

    fn connect(
        &self,
        driver: Driver,
        to: &Service,
        timeout: Duration,
    ) -> Result<ConnectionId, ConnectError> {
        let options = ConnectOptions::default().timeout(timeout);
        driver.connect(&self.sockman, &self.recorder, &to.into(), &options)
    }

    fn wait_for_status(&self, wanted: I2pStatus, nth: usize) -> Option<Service> {
        self.recorder.wait_for("an I2P status", |events| {
            let mut found = events.iter().filter_map(|event| match event {
                Event::I2p(address, status) if *status == wanted => Some(address.clone()),
                _ => None,
            });
            found.nth(nth)
        })
    }

    /// Interrupts the threads and returns how long they took to end.
    fn stop(&mut self) -> Duration {
        let began = Instant::now();
        self.sockman.interrupt();
        self.threads.take().unwrap().join().unwrap();
        began.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.threads.take());
    }
}

fn persistent(bridge: &Bridge, directory: &TempDir) -> I2pOptions {
    I2pOptions::new(bridge.address.clone()).key_file(directory.path("key"))
}

fn accepting(bridge: &Bridge, directory: &TempDir) -> I2pOptions {
    persistent(bridge, directory).accept_incoming(true)
}

#[test]
fn a_peer_that_connects_is_accepted_with_its_first_bytes() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let running = Running::start(accepting(&bridge, &directory));
    let me = running.wait_for_status(I2pStatus::StartListening, 0).unwrap();
    let key = fs::read(directory.path("key")).unwrap();
    assert_eq!(me, address_of(&key[..391]));

    let mut stream = bridge.peer_connects(200, b"first words");
    let id = running.recorder.wait_for_accepted(0);
    assert_eq!(running.recorder.wait_for_bytes(id, 11), b"first words");
    let accepted =
        running.recorder.wait_for_event("its acceptance", |event| event.id() == Some(id));
    assert_eq!(accepted, Event::Accepted { id, me: me.clone(), them: peer(200) });
    let info = running.sockman.connection_info(id).unwrap();
    assert_eq!((info.me, info.them, info.direction), (me, peer(200).into(), Direction::Inbound));

    running.sockman.send_bytes(id, b"to you").unwrap();
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to you");
    drop(stream);
    running.recorder.wait_for_eof(id);
    assert_eq!(running.sockman.stats().accepted, 1);
    // The status was reported once, because it did not change.
    assert_eq!(running.recorder.count(|event| matches!(event, Event::I2p(..))), 1);
}

#[test]
fn fifty_peers_at_once_are_each_accepted_once() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let running = Running::start(accepting(&bridge, &directory));
    let streams: Vec<TcpStream> =
        (0..50).map(|number| bridge.peer_connects(number, &[number; 10])).collect();
    for number in 0..50 {
        let id = running.recorder.wait_for_accepted(usize::from(number));
        let bytes = running.recorder.wait_for_bytes(id, 10);
        let info = running.sockman.connection_info(id).unwrap();
        assert_eq!((bytes, info.them), (vec![number; 10], peer(number).into()));
    }
    assert_eq!(running.sockman.stats().accepted, 50);
    drop(streams);
}

/// The next STREAM ACCEPT is sent before the callback, and its reply is awaited after it.
#[test]
fn a_bridge_that_answers_the_next_accept_with_silence_delays_no_peer() {
    let directory = TempDir::new();
    let accepts = std::sync::atomic::AtomicUsize::new(0);
    let bridge = Bridge::planned(move |line| {
        let is_second = line.starts_with("STREAM ACCEPT")
            && accepts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
        if is_second { Play::Silence } else { Play::Properly }
    });
    let running = Running::start(accepting(&bridge, &directory));
    let _stream = bridge.peer_connects(1, b"hello");
    let id = running.recorder.wait_for_accepted(0);
    assert_eq!(running.recorder.wait_for_bytes(id, 5), b"hello");
    bridge.wait_for_request("STREAM ACCEPT", 2);
}

/// G14: the key file keeps one address over restarts.
#[cfg(unix)]
#[test]
fn the_address_survives_a_restart_and_the_key_file_is_private() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let mut first = Running::start(accepting(&bridge, &directory));
    let address = first.wait_for_status(I2pStatus::StartListening, 0).unwrap();
    first.stop();
    assert_eq!(first.wait_for_status(I2pStatus::StopListening, 0), Some(address.clone()));
    let path = directory.path("key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read(&path).unwrap();
    assert_eq!(bridge.requests("DEST GENERATE").len(), 1);
    drop(first);

    let second = Running::start(accepting(&bridge, &directory));
    assert_eq!(second.wait_for_status(I2pStatus::StartListening, 0), Some(address));
    assert_eq!(fs::read(&path).unwrap(), key);
    assert_eq!(bridge.requests("DEST GENERATE").len(), 1);
    assert_eq!(
        fs::read_dir(directory.path("")).unwrap().count(),
        1,
        "the directory must hold the key file alone"
    );
}

#[test]
fn damaged_key_files_are_refused_with_the_reason_and_left_as_they_are() {
    let with_certificate = |length: u16, total: usize| {
        let mut bytes = vec![7; total];
        bytes[385..387].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let too_short = |found| DestinationError::TooShort { found };
    let too_long = |certificate, expected, found| DestinationError::CertificateTooLong {
        certificate,
        expected,
        found,
    };
    let cases = [
        (vec![], too_short(0)),
        (vec![1; 4], too_short(4)),
        (vec![1; 386], too_short(386)),
        (with_certificate(1, 387), too_long(1, 388, 387)),
        (with_certificate(5, 391), too_long(5, 392, 391)),
    ];
    for (bytes, expected) in cases {
        let (bridge, directory) = (Bridge::start(), TempDir::new());
        let path = directory.path("key");
        fs::write(&path, &bytes).unwrap();
        let running = Running::start(accepting(&bridge, &directory));
        assert_eq!(running.wait_for_status(I2pStatus::StopListening, 0), None);
        for driver in DRIVERS {
            let error = running.connect(driver, &peer(1), DEADLINE).unwrap_err();
            let ConnectErrorKind::I2pKeyFile { error: KeyFileError::Damaged { path: of, source } } =
                error.kind()
            else {
                panic!("{driver:?}: {error:?}");
            };
            assert_eq!((of, source), (&path, &expected));
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "a damaged key file must not be overwritten");
        assert!(bridge.requests("SESSION CREATE").is_empty());
    }
}

#[test]
fn a_key_file_that_cannot_be_read_or_made_is_an_error() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    // The first key file is a directory, and the second one is in a directory that does not exist.
    fs::create_dir(directory.path("key")).unwrap();
    let running = Running::start(persistent(&bridge, &directory));
    let nowhere = I2pOptions::new(bridge.address.clone()).key_file(directory.path("no/key"));
    let lost = Running::start(nowhere);
    for driver in DRIVERS {
        for running in [&running, &lost] {
            let error = running.connect(driver, &peer(1), DEADLINE).unwrap_err();
            let is_right = matches!(
                error.kind(),
                ConnectErrorKind::I2pKeyFile { error: KeyFileError::Io { .. }, .. }
            );
            assert!(is_right, "{driver:?}: {error:?}");
        }
    }
    eventually("the sessions are closed", || bridge.sessions() == 0);
}

#[test]
fn outbound_goes_through_the_persistent_session_if_there_is_one() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    fs::write(directory.path("key"), private_key(99)).unwrap();
    let running = Running::start(persistent(&bridge, &directory));
    for driver in DRIVERS {
        let id = running.connect(driver, &peer(7), DEADLINE).unwrap();
        let mut stream = bridge.connected();
        let info = running.sockman.connection_info(id).unwrap();
        assert_eq!((info.me, info.them), (peer(99), peer(7).into()), "{driver:?}");
        stream.write_all(b"hello").unwrap();
        assert_eq!(running.recorder.wait_for_bytes(id, 5), b"hello");
    }
    assert_eq!(bridge.requests("SESSION CREATE").len(), 1);
    let request = &bridge.requests("SESSION CREATE")[0];
    let key = base64().encode(&private_key(99));
    for option in [
        "STYLE=STREAM",
        "i2cp.leaseSetEncType=4,0",
        "inbound.quantity=3",
        "outbound.quantity=3",
        &format!("DESTINATION={key}"),
    ] {
        assert!(request.contains(option), "{option} is not in {request}");
    }
}

#[test]
fn without_a_key_file_each_connection_has_an_address_of_its_own() {
    let bridge = Bridge::start();
    let options = I2pOptions::new(bridge.address.clone()).tunnel_length(0, 2);
    let running = Running::start(options);
    let mut addresses = Vec::new();
    let mut ids = Vec::new();
    for driver in DRIVERS {
        for _ in 0..2 {
            let id = running.connect(driver, &peer(7), DEADLINE).unwrap();
            let _stream = bridge.connected();
            let me = running.sockman.connection_info(id).unwrap().me;
            assert!(matches!(me.addr(), NetAddr::I2p(_)) && !addresses.contains(&me));
            addresses.push(me);
            ids.push(id);
        }
    }
    assert_eq!(bridge.sessions(), 4);
    let request = &bridge.requests("SESSION CREATE")[0];
    for option in [
        "DESTINATION=TRANSIENT SIGNATURE_TYPE=7",
        "inbound.quantity=1",
        "inbound.length=0",
        "outbound.length=2",
    ] {
        assert!(request.contains(option), "{option} is not in {request}");
    }
    // A session lasts as long as its connection.
    for id in ids {
        assert!(running.sockman.close_connection(id));
    }
    eventually("the sessions end with their connections", || bridge.sessions() == 0);
}

#[test]
fn a_transient_session_whose_connect_failed_is_used_again() {
    for driver in DRIVERS {
        let refusal = b"STREAM STATUS RESULT=CANT_REACH_PEER MESSAGE=\"LeaseSet not found\"\n";
        let bridge = Bridge::planned(once("STREAM CONNECT", Play::SayAndClose(refusal.to_vec())));
        let running = Running::start(I2pOptions::new(bridge.address.clone()));
        let error = running.connect(driver, &peer(7), DEADLINE).unwrap_err();
        let ConnectErrorKind::I2pPeer { result: SamResult::CantReachPeer, .. } = error.kind()
        else {
            panic!("{driver:?}: {error:?}");
        };
        assert!(!error.is_proxy_fault());
        running.connect(driver, &peer(7), DEADLINE).unwrap();
        assert_eq!(bridge.requests("SESSION CREATE").len(), 1, "{driver:?}");
    }
}

#[test]
fn a_port_is_refused_before_anything_is_sent() {
    let bridge = Bridge::start();
    let running = Running::start(I2pOptions::new(bridge.address.clone()));
    for driver in DRIVERS {
        let error = running.connect(driver, &peer(7).with_port(8333), DEADLINE).unwrap_err();
        assert!(matches!(error.kind(), ConnectErrorKind::I2pPort), "{error:?}");
    }
    assert!(bridge.requests("").is_empty());
}

#[test]
fn accepting_without_a_key_file_is_refused() {
    let options =
        I2pOptions::new("127.0.0.1:7656".parse::<Service>().unwrap()).accept_incoming(true);
    let error = SockMan::new(Recorder::new(), without_sweep().i2p(options)).unwrap_err();
    assert!(matches!(error, CreateError::InvalidOption(_)), "{error:?}");
}

const REQUESTS: [&str; 4] = ["HELLO", "SESSION CREATE", "NAMING LOOKUP", "STREAM CONNECT"];

fn phase_of(request: &str) -> ConnectPhase {
    match request {
        "HELLO" | "SESSION CREATE" => ConnectPhase::I2pSession,
        _ => ConnectPhase::I2pConnect,
    }
}

fn reply_verbs(request: &str) -> &'static str {
    match request {
        "HELLO" => "HELLO REPLY",
        "SESSION CREATE" => "SESSION STATUS",
        "NAMING LOOKUP" => "NAMING REPLY",
        _ => "STREAM STATUS",
    }
}

/// Makes one attempt with one reply replaced by `play`, and returns its error.
fn attempt(driver: Driver, request: &'static str, play: Play, timeout: Duration) -> ConnectError {
    let bridge = Bridge::planned(once(request, play));
    let running = Running::start(I2pOptions::new(bridge.address.clone()));
    running
        .connect(driver, &peer(7), timeout)
        .expect_err("the replaced reply must make the connect fail")
}

#[test]
fn every_invalid_reply_has_its_error() {
    for driver in DRIVERS {
        for request in REQUESTS {
            let sam_error = |play| match attempt(driver, request, play, DEADLINE).into_kind() {
                ConnectErrorKind::SamFailed { error, .. } => error,
                error => panic!("{driver:?}, {request}: {error:?}"),
            };
            let error = sam_error(Play::Close);
            let is_right = matches!(&error, SamError::BrokeOff { request: of, source: None } if *of == request);
            assert!(is_right, "{request}: {error:?}");
            let error = sam_error(Play::SayAndClose(b"STREAM STA".to_vec()));
            assert!(matches!(error, SamError::BrokeOff { .. }), "{request}: {error:?}");
            // A cut reply is an error, even if it contains the word for success.
            let cut = format!("{} RESULT=OK", reply_verbs(request));
            let error = sam_error(Play::SayAndClose(cut.into_bytes()));
            assert!(matches!(error, SamError::BrokeOff { .. }), "{request}: {error:?}");
            let error = sam_error(Play::Say(b"\xff\x00nonsense\n".to_vec()));
            assert!(matches!(error, SamError::Malformed { .. }), "{request}: {error:?}");
            let error = sam_error(Play::Say(b"\n".to_vec()));
            assert!(matches!(error, SamError::Malformed { .. }), "{request}: {error:?}");
            let error = sam_error(Play::Say(b"PING PONG RESULT=OK\n".to_vec()));
            assert!(matches!(error, SamError::UnexpectedReply { .. }), "{request}: {error:?}");
            let without_result = format!("{} VERSION=3.1\n", reply_verbs(request));
            let error = sam_error(Play::Say(without_result.into_bytes()));
            assert!(matches!(error, SamError::UnexpectedReply { .. }), "{request}: {error:?}");
            let error = sam_error(Play::Endless);
            assert!(matches!(error, SamError::LineTooLong { .. }), "{request}: {error:?}");
        }
        for (request, reply) in [
            ("SESSION CREATE", "SESSION STATUS RESULT=OK DESTINATION=short\n"),
            ("NAMING LOOKUP", "NAMING REPLY RESULT=OK VALUE=A\u{20}B\n"),
        ] {
            let error = attempt(driver, request, Play::Say(reply.into()), DEADLINE);
            let is_right = matches!(error.kind(), ConnectErrorKind::SamFailed { error, .. } if matches!(error, SamError::Destination(_)));
            assert!(is_right, "{request}: {error:?}");
        }
    }
}

#[test]
fn every_result_says_whose_fault_it_is() {
    let results = [
        ("CANT_REACH_PEER", SamResult::CantReachPeer, true),
        ("TIMEOUT", SamResult::Timeout, true),
        ("KEY_NOT_FOUND", SamResult::KeyNotFound, true),
        ("PEER_NOT_FOUND", SamResult::PeerNotFound, true),
        ("DUPLICATED_DEST", SamResult::DuplicatedDest, false),
        ("DUPLICATED_ID", SamResult::DuplicatedId, false),
        ("I2P_ERROR", SamResult::I2pError, false),
        ("INVALID_ID", SamResult::InvalidId, false),
        ("NOVERSION", SamResult::NoVersion, false),
        ("SOMETHING_NEW", SamResult::Other, false),
    ];
    for driver in DRIVERS {
        for request in REQUESTS {
            for (text, expected, is_peers) in &results {
                let verbs = reply_verbs(request);
                // The last lines of the router emissary have no line end.
                for end in ["\n", "\r\n", ""] {
                    let line = format!("{verbs} RESULT={text} MESSAGE=\"two words\"{end}");
                    let play = Play::SayAndClose(line.into_bytes());
                    let error = attempt(driver, request, play, DEADLINE);
                    let result = match error.kind() {
                        ConnectErrorKind::I2pPeer { result, .. } if *is_peers => result,
                        ConnectErrorKind::SamFailed { error, .. } if !is_peers => {
                            let SamError::Refused { request: of, result } = error else {
                                panic!("{driver:?}, {request}, {text}: {error:?}");
                            };
                            assert_eq!(*of, request);
                            result
                        }
                        _ => panic!("{driver:?}, {request}, {text}: {error:?}"),
                    };
                    assert_eq!(result, expected);
                }
            }
        }
    }
}

#[test]
fn a_silent_bridge_times_out_at_the_deadline_and_the_error_names_the_phase() {
    thread::scope(|scope| {
        for driver in DRIVERS {
            for request in REQUESTS {
                scope.spawn(move || {
                    let error = attempt(driver, request, Play::Silence, SOON);
                    let ConnectErrorKind::TimedOut { phase, after, .. } = *error.kind() else {
                        panic!("{driver:?}, {request}: {error:?}");
                    };
                    assert!(after >= SOON, "{after:?}");
                    // On a busy machine the dialogue may not reach this phase in time.
                    assert!(phase == phase_of(request) || phase == ConnectPhase::I2pSession);
                });
            }
        }
    });
}

/// G9: the interrupt ends the dialogue in each of its states.
#[test]
fn the_interrupt_ends_every_state_at_once() {
    for request in ["HELLO", "DEST GENERATE", "SESSION CREATE", "STREAM ACCEPT"] {
        let directory = TempDir::new();
        let bridge = Bridge::planned(once(request, Play::Silence));
        let mut running = Running::start(accepting(&bridge, &directory));
        bridge.wait_for_request(request, 1);
        let took = running.stop();
        assert!(took < DEADLINE / 4, "{request}: {took:?}");
    }
    for request in REQUESTS {
        let bridge = Bridge::planned(once(request, Play::Silence));
        let mut running = Running::start(I2pOptions::new(bridge.address.clone()));
        let sockman = running.sockman.clone();
        let attempt =
            thread::spawn(move || sockman.connect(peer(7), &ConnectOptions::default()).map(drop));
        bridge.wait_for_request(request, 1);
        let took = running.stop();
        let ended = attempt.join().unwrap();
        assert!(
            matches!(
                ended.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::Interrupted)
            ),
            "{request}: {ended:?}"
        );
        assert!(took < DEADLINE / 4, "{request}: {took:?}");
    }
    // The interrupt also ends a thread that waits for a peer, or for the end of a pause.
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let mut running = Running::start(accepting(&bridge, &directory));
    running.wait_for_status(I2pStatus::StartListening, 0);
    assert!(running.stop() < DEADLINE / 4);
    let unreachable = I2pOptions::new("127.0.0.1:1".parse::<Service>().unwrap());
    let unreachable = unreachable.key_file(directory.path("other")).accept_incoming(true);
    let mut running = Running::start(unreachable);
    running.wait_for_status(I2pStatus::StopListening, 0);
    assert!(running.stop() < DEADLINE / 4);
}

/// A session that the router closes is created again each time, with the same address.
#[test]
fn a_closed_session_is_created_again_each_time() {
    const TIMES: usize = 5;
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let running = Running::start(accepting(&bridge, &directory));
    for time in 0..TIMES {
        let address = running.wait_for_status(I2pStatus::StartListening, time);
        assert!(address.is_some());
        assert_eq!(bridge.requests("SESSION CREATE").len(), time + 1);
        bridge.say_to_accepting("STREAM STATUS RESULT=I2P_ERROR MESSAGE=\"Session was closed\"\n");
        assert_eq!(running.wait_for_status(I2pStatus::StopListening, time), address);
    }
    running.wait_for_status(I2pStatus::StartListening, TIMES);
    let _stream = bridge.peer_connects(3, b"at last");
    let id = running.recorder.wait_for_accepted(0);
    assert_eq!(running.recorder.wait_for_bytes(id, 7), b"at last");
}

/// Each reply of the accepting dialogue is replaced once by each kind of bad reply. The failure is
/// reported, and the thread recovers.
#[test]
fn the_accept_thread_recovers_from_any_single_bad_reply() {
    let requests = ["HELLO", "DEST GENERATE", "SESSION CREATE", "STREAM ACCEPT"];
    let plays = |request: &str| {
        let verbs = match request {
            "DEST GENERATE" => "DEST REPLY",
            other => reply_verbs(other),
        };
        [
            Play::Close,
            Play::SayAndClose(format!("{verbs} RESULT=O").into_bytes()),
            Play::Say(b"\xff\x00nonsense\n".to_vec()),
            Play::Say(format!("{verbs} RESULT=I2P_ERROR MESSAGE=\"two words\"\n").into_bytes()),
            Play::Say(format!("{verbs} VERSION=3.1\n").into_bytes()),
            Play::Endless,
        ]
    };
    thread::scope(|scope| {
        for request in requests {
            for play in plays(request) {
                scope.spawn(move || {
                    let directory = TempDir::new();
                    let bridge = Bridge::planned(once(request, play));
                    let running = Running::start(accepting(&bridge, &directory));
                    running.wait_for_status(I2pStatus::StopListening, 0);
                    running.wait_for_status(I2pStatus::StartListening, 0);
                    let _stream = bridge.peer_connects(3, b"hello");
                    let id = running.recorder.wait_for_accepted(0);
                    assert_eq!(running.recorder.wait_for_bytes(id, 5), b"hello");
                });
            }
        }
    });
}

/// A bridge on a unix-domain path works like one on TCP.
#[cfg(unix)]
#[test]
fn the_bridge_may_listen_on_a_unix_domain_path() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let path = directory.path("sam");
    let listener = UnixListener::bind(&path).unwrap();
    let behind = bridge.address.to_socket_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let other = TcpStream::connect(behind).unwrap();
            let (mut from, mut to) = (stream.try_clone().unwrap(), other.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            thread::spawn(move || std::io::copy(&mut &other, &mut &stream));
        }
    });
    let options = I2pOptions::new(Service::unix(&path).unwrap());
    let running = Running::start(options);
    for driver in DRIVERS {
        let id = running.connect(driver, &peer(7), DEADLINE).unwrap();
        bridge.connected().write_all(b"hello").unwrap();
        assert_eq!(running.recorder.wait_for_bytes(id, 5), b"hello", "{driver:?}");
    }
}

/// The accept thread creates a new session when a stopped router runs again.
#[test]
fn the_accept_thread_recovers_when_the_router_returns() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let running = Running::start(accepting(&bridge, &directory));
    let address = running.wait_for_status(I2pStatus::StartListening, 0);
    bridge.wait_for_request("STREAM ACCEPT", 1);
    eventually("the bridge has the session", || bridge.sessions() == 1);
    bridge.end_sessions();
    running.wait_for_status(I2pStatus::StopListening, 0);
    assert_eq!(running.wait_for_status(I2pStatus::StartListening, 1), address);
    let _stream = bridge.peer_connects(3, b"again");
    let id = running.recorder.wait_for_accepted(0);
    assert_eq!(running.recorder.wait_for_bytes(id, 5), b"again");
}

/// The control socket was closed while no request was under way. The next connect creates a new
/// session.
#[test]
fn a_session_that_ended_while_unused_is_not_used_again() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let running = Running::start(persistent(&bridge, &directory));
    for (number, driver) in DRIVERS.into_iter().enumerate() {
        running.connect(driver, &peer(7), DEADLINE).unwrap();
        assert_eq!(bridge.requests("SESSION CREATE").len(), number + 1);
        bridge.end_sessions();
    }
    running.connect(Driver::Blocking, &peer(7), DEADLINE).unwrap();
}

/// The key is free again for a new session, although connections of the old session stay open.
#[test]
fn a_session_that_the_router_does_not_know_is_dropped() {
    let (bridge, directory) = {
        let refusal = b"STREAM STATUS RESULT=INVALID_ID\n".to_vec();
        let connects = std::sync::atomic::AtomicUsize::new(0);
        let bridge = Bridge::planned(move |line| {
            let is_second = line.starts_with("STREAM CONNECT")
                && connects.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1;
            if is_second { Play::SayAndClose(refusal.clone()) } else { Play::Properly }
        });
        (bridge, TempDir::new())
    };
    let running = Running::start(persistent(&bridge, &directory));
    let kept = running.connect(Driver::Blocking, &peer(7), DEADLINE).unwrap();
    assert_eq!(bridge.sessions(), 1);
    let error = running.connect(Driver::SocketThread, &peer(7), DEADLINE).unwrap_err();
    assert!(error.is_proxy_fault(), "{error:?}");
    eventually("the control socket of the session is closed", || bridge.sessions() == 0);
    running.connect(Driver::Blocking, &peer(7), DEADLINE).unwrap();
    assert_eq!((bridge.requests("SESSION CREATE").len(), bridge.sessions()), (2, 1));
    assert!(running.sockman.close_connection(kept));
}

/// Only changes are reported, so a continuing failure is reported once.
#[test]
fn a_router_that_stays_unreachable_is_reported_once() {
    let directory = TempDir::new();
    let bridge =
        Bridge::planned(
            |line| {
                if line.starts_with("HELLO") { Play::Close } else { Play::Properly }
            },
        );
    let running = Running::start(accepting(&bridge, &directory));
    bridge.wait_for_request("HELLO", 3);
    let reported = running.recorder.count(|event| matches!(event, Event::I2p(..)));
    assert_eq!(reported, 1);
}

/// G11: at the cap the thread sends no STREAM ACCEPT.
#[test]
fn at_the_cap_no_accept_is_sent_until_there_is_room() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let recorder = Recorder::new();
    let options = without_sweep().max_connections(1).i2p(accepting(&bridge, &directory));
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    let running = Running { recorder, sockman, threads: Some(threads) };
    let _first = bridge.peer_connects(1, b"one");
    let id = running.recorder.wait_for_accepted(0);
    // No event shows the absence of a request, so the test waits for a fixed time.
    let until = Instant::now() + 2 * SOON;
    while Instant::now() < until {
        assert_eq!(bridge.requests("STREAM ACCEPT").len(), 1);
        thread::yield_now();
    }
    assert!(running.sockman.close_connection(id));
    let _second = bridge.peer_connects(2, b"two");
    let id = running.recorder.wait_for_accepted(1);
    assert_eq!(running.recorder.wait_for_bytes(id, 3), b"two");
}

/// G3: a callback on the accepting thread may send and close. `join` in such a callback returns an
/// error.
#[test]
fn callbacks_on_the_accepting_thread_may_call_everything() {
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let guard: Arc<Mutex<Option<SocketsThreads>>> = Arc::default();
    let recorder = Recorder::with_reaction({
        let guard = Arc::clone(&guard);
        move |sockman, event| {
            if let Event::Accepted { id, .. } = event {
                assert_eq!(thread::current().name(), Some("i2paccept"));
                assert_eq!(sockman.send_bytes(*id, b"welcome").unwrap(), 7);
                let mut guard = guard.lock().unwrap();
                match guard.take().unwrap().join() {
                    Err(JoinError::OnLibraryThread(threads)) => *guard = Some(threads),
                    other => panic!("join on the accepting thread: {other:?}"),
                }
                assert!(sockman.close_connection(*id));
                assert!(!sockman.close_connection(*id));
            }
        }
    });
    let options = without_sweep().i2p(accepting(&bridge, &directory));
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    // The guard is stored under the lock, because the callback needs it.
    let mut threads = guard.lock().unwrap();
    *threads = Some(sockman.start_sockets_threads().unwrap());
    drop(threads);
    let mut stream = bridge.peer_connects(1, b"");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"welcome");
    // The callback holds this lock until it has put the guard back, so the test waits here for the
    // callback.
    sockman.interrupt();
    let threads = guard.lock().unwrap().take().unwrap();
    threads.join().unwrap();
    assert_eq!(sockman.stats().connections, 0);
}

/// G12: as for a peer that a listener accepts, `event_closed_after_panic` names the id unless the
/// callback closed it before the panic.
#[test]
fn a_peer_whose_callback_closes_and_panics_is_not_named_again() {
    for closes_and_panics in [false, true] {
        let (bridge, directory) = (Bridge::start(), TempDir::new());
        let recorder = Recorder::with_reaction(move |sockman, event| {
            if let Event::Accepted { id, .. } = event {
                if closes_and_panics {
                    assert!(sockman.close_connection(*id));
                }
                panic::resume_unwind(Box::new("on purpose"));
            }
        });
        let options = without_sweep()
            .i2p(accepting(&bridge, &directory))
            .panic_policy(PanicPolicy::CloseConnection);
        let sockman = SockMan::new(recorder.clone(), options).unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let mut stream = bridge.peer_connects(1, b"");
        // The client sees the end of the stream.
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        eventually("the panic is counted", || sockman.stats().panics == 1);
        // The threads end after the callback has ended.
        sockman.interrupt();
        threads.join().unwrap();
        let named = recorder
            .events()
            .iter()
            .filter(|event| matches!(event, Event::ClosedAfterPanic(_)))
            .count();
        assert_eq!(named, usize::from(!closes_and_panics));
        assert_eq!((sockman.stats().connections, sockman.stats().closed), (0, 1));
        // The report of the end may come only after the next start.
        let threads = sockman.start_sockets_threads().unwrap();
        if !closes_and_panics {
            recorder.wait_for_event("the end", |event| matches!(event, Event::ClosedAfterPanic(_)));
            recorder.wait_for_closed(recorder.wait_for_accepted(0));
        }
        sockman.interrupt();
        threads.join().unwrap();
        assert_eq!(recorder.closed().len(), usize::from(!closes_and_panics));
    }
}

/// Two processes in containers can have the same process id and share a folder. Here the two are in
/// one process, and a third one has left its temporary file behind.
#[test]
fn two_that_make_a_key_in_one_folder_at_once_have_the_same_key() {
    let directory = TempDir::new();
    let left = format!("key.{}.new", std::process::id());
    fs::write(directory.path(&left), "of another process").unwrap();
    for round in 0..20 {
        let _ = fs::remove_file(directory.path("key"));
        let bridges = [Bridge::start(), Bridge::start()];
        let running =
            bridges.each_ref().map(|bridge| Running::start(accepting(bridge, &directory)));
        let [first, second] = running
            .each_ref()
            .map(|running| running.wait_for_status(I2pStatus::StartListening, 0).unwrap());
        assert_eq!(first, second, "round {round}");
        let key = fs::read(directory.path("key")).unwrap();
        assert_eq!(first, address_of(&key[..391]));
    }
    assert_eq!(fs::read(directory.path(&left)).unwrap(), b"of another process");
    assert_eq!(fs::read_dir(directory.path("")).unwrap().count(), 2, "no temporary file is left");
}

/// G8: a bridge that pads its answers to the longest line costs few system calls. Each byte behind
/// the last line belongs to the connection.
#[test]
fn padded_answers_of_a_bridge_are_received_in_large_pieces() {
    const CONNECTS: usize = 20;
    // A reply that comes in small segments costs more calls. Byte by byte, a connect would cost more
    // than 200,000.
    const RECEIVES_EACH: usize = 2_000;
    let paddings = [" ".to_owned(), " a=b".to_owned(), " X=\"a b\"".to_owned(), " A".to_owned()];
    let bridge = Bridge::planned(move |line| {
        let padding = &paddings[line.len() % paddings.len()];
        Play::Padded(padding.repeat(64_000 / padding.len()))
    });
    let (spy, recorder) = (Spy::default(), Recorder::new());
    let options = without_sweep()
        .sock_factory(Arc::new(spy.clone()))
        .i2p(I2pOptions::new(bridge.address.clone()));
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    let to = Destination::from(peer(7));
    let options = ConnectOptions::default().timeout(DEADLINE);
    let mut ids = Vec::new();
    for number in 0..CONNECTS {
        if number % 2 == 0 {
            ids.push(sockman.start_connect(&to, &options).unwrap());
        } else {
            ids.push(sockman.connect(&to, &options).unwrap().activate());
        }
    }
    for id in ids.iter().step_by(2) {
        recorder.wait_for_outcome(*id).unwrap();
    }
    let receives = spy.receives();
    assert!(receives < CONNECTS * RECEIVES_EACH, "{receives} receives");
    for _ in &ids {
        bridge.connected().write_all(b"hello").unwrap();
    }
    for id in ids {
        assert_eq!(recorder.wait_for_bytes(id, 5), b"hello");
    }
    sockman.interrupt();
    threads.join().unwrap();
}

/// G11, G12: a poller that refuses the bridge's socket ends no thread. The I2P-accept thread tries
/// again, as after any other failure.
#[test]
fn a_refused_registration_does_not_end_the_threads() {
    let (network, recorder, folder) = (Network::new(), Recorder::new(), TempDir::new());
    network.set_blocking(true);
    let bridge = network.listen(&"10.0.0.9:7656".parse().unwrap()).unwrap();
    network.fail_always(Call::Register, errors::ENOMEM);
    let i2p = I2pOptions::new(bridge.address()).key_file(folder.path("key")).accept_incoming(true);
    let options = without_sweep().i2p(i2p).sock_factory(network.factory());
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    // The thread that reads the key file is looked at again and again on the network's clock.
    eventually("an I2P status", || {
        network.advance(Duration::from_millis(10));
        let is_stopped = |event: &Event| matches!(event, Event::I2p(_, I2pStatus::StopListening));
        recorder.events().iter().any(is_stopped)
    });
    while bridge.accept().is_some() {}
    network.heal();
    network.advance(Duration::from_secs(1));
    eventually("the thread dials the bridge again", || {
        network.advance(Duration::from_millis(10));
        bridge.accept().is_some()
    });
    sockman.interrupt();
    threads.join().unwrap();
}
