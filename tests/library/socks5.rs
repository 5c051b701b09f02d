//! Connects through SOCKS5 proxies that follow the protocol: the requests that the library sends to
//! them, and the outcomes of their answers. `socks5_hostile` has the proxies that break it.

#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use sockman::{
    ConnectOptions, Interrupt, Service,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, ConnectPhase},
    proxy::{Credentials, Proxy, ProxyError, Socks5Reply},
    stats::Direction,
};
use sockman_test_support::{
    DEADLINE, Event,
    blackhole::Blackhole,
    drivers::DRIVERS,
    reset,
    socks5::{
        AUTHENTICATED, CONNECTED, Dialling, METHOD, METHOD_PASSWORD, Request, SOON, answering,
        name, negotiate, proxy, proxy_at, read_credentials, read_greeting, read_request, stall,
    },
    tools::{TempDir, loopbacks},
};

const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

fn destination(host: &str, port: u16) -> Destination {
    Destination::Name { host: host.to_owned(), port }
}

fn through(proxy: &Proxy) -> ConnectOptions {
    ConnectOptions::default().proxy(proxy.clone()).timeout(DEADLINE)
}

/// A proxy that records each request, agrees, and then echoes what it receives.
fn echoing(asked: mpsc::Sender<Request>) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let asked = Mutex::new(asked);
    move |mut stream| {
        let Some(request) = negotiate(&mut stream) else { return };
        asked.lock().unwrap().send(request).unwrap();
        let _ = stream.write_all(CONNECTED);
        let mut buffer = [0; 1000];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write_all(&buffer[..bytes]);
        }
    }
}

#[test]
fn names_and_addresses_are_given_to_the_proxy_as_text() {
    let (sender, asked) = mpsc::channel();
    let proxy = proxy(echoing(sender));
    let dialling = Dialling::start();
    let longest = "n".repeat(255);
    let cases: &[(Destination, &str)] = &[
        (destination("name.test", 80), "name.test"),
        (destination(&longest, 1), &longest),
        (destination("n", 65535), "n"),
        // This name is no valid onion address; Tor has to report that.
        (destination("short.onion", 1), "short.onion"),
        ("1.2.3.4:8333".parse().unwrap(), "1.2.3.4"),
        ("[2001:db8::1]:8333".parse().unwrap(), "2001:db8::1"),
        ("cjdns:[fc00::1]:8333".parse().unwrap(), "fc00::1"),
        (format!("{ONION}:8333").parse().unwrap(), ONION),
        #[cfg(feature = "i2p")]
        (
            format!("{}.b32.i2p:0", "a".repeat(52)).parse().unwrap(),
            &format!("{}.b32.i2p", "a".repeat(52)),
        ),
    ];
    for driver in DRIVERS {
        for (to, host) in cases {
            let id = dialling.connect(driver, to, &through(&proxy)).unwrap();
            let request = asked.recv_timeout(DEADLINE).unwrap();
            let port = match to {
                Destination::Name { port, .. } => *port,
                to => to.service().unwrap().port(),
            };
            assert_eq!(request, Request { host: host.as_bytes().to_vec(), port }, "{driver:?}");

            let info = dialling.running.sockman.connection_info(id).unwrap();
            assert_eq!((&info.them, info.direction), (to, Direction::Outbound));
            assert!(
                info.me.addr().is_loopback(),
                "`me` must be the local address of the socket to the proxy"
            );
            assert_eq!(
                (info.bytes_sent, info.bytes_received),
                (0, 0),
                "only payload must be counted"
            );

            dialling.running.sockman.send_bytes(id, b"through").unwrap();
            assert_eq!(dialling.recorder.wait_for_bytes(id, 7), b"through");
        }
    }
}

#[test]
fn the_outcome_names_the_destination_and_not_the_proxy() {
    let dialling = Dialling::start();
    let options = through(&answering(CONNECTED));
    let connection = dialling.running.sockman.connect(name(), &options).unwrap();
    assert_eq!(connection.them(), &name());
    drop(connection);
    let id = dialling.running.sockman.start_connect(name(), &options).unwrap();
    dialling.recorder.wait_for_outcome(id).unwrap();
    let reported = dialling.recorder.count(|event| {
        matches!(event, Event::ConnectCompleted { id: of, to, .. } if *of == id && *to == name())
    });
    assert_eq!(reported, 1);
}

#[test]
fn bound_addresses_of_every_type_and_length_are_read_exactly() {
    let dialling = Dialling::start();
    let v4 = [&b"\x05\x00\x00\x01"[..], &[9; 4], &[1, 2]].concat();
    let v6 = [&b"\x05\x00\x00\x04"[..], &[9; 16], &[1, 2]].concat();
    let named = |length: u8| {
        [&b"\x05\x00\x00\x03"[..], &[length], &vec![b'x'; usize::from(length)], &[1, 2]].concat()
    };
    for driver in DRIVERS {
        for reply in [v4.clone(), v6.clone(), named(0), named(1), named(255)] {
            // G5: the first bytes of the destination come in the same segment as the reply.
            let proxy = answering([&reply[..], b"first words"].concat());
            let id = dialling.connect(driver, &name(), &through(&proxy)).unwrap();
            dialling.recorder.wait_for_eof(id);
            assert_eq!(dialling.recorder.received(id), b"first words", "{driver:?}, {reply:?}");
        }
    }
}

#[test]
fn an_answer_in_single_bytes_is_accepted() {
    let dialling = Dialling::start();
    let proxy = proxy(|mut stream| {
        stream.set_nodelay(true).unwrap();
        let one_by_one = |stream: &mut TcpStream, bytes: &[u8]| {
            bytes.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
        };
        let Some(_) = read_greeting(&mut stream) else { return };
        one_by_one(&mut stream, METHOD);
        let Some(_) = read_request(&mut stream) else { return };
        one_by_one(&mut stream, CONNECTED);
        one_by_one(&mut stream, b"and on");
        stall(&mut stream);
    });
    for driver in DRIVERS {
        let id = dialling.connect(driver, &name(), &through(&proxy)).unwrap();
        assert_eq!(dialling.recorder.wait_for_bytes(id, 6), b"and on", "{driver:?}");
    }
}

#[test]
fn every_reply_code_is_an_error_of_its_own_and_the_destinations_fault() {
    let dialling = Dialling::start();
    let expected = |code: u8| match code {
        0x01 => Socks5Reply::GeneralFailure,
        0x02 => Socks5Reply::NotAllowed,
        0x03 => Socks5Reply::NetworkUnreachable,
        0x04 => Socks5Reply::HostUnreachable,
        0x05 => Socks5Reply::ConnectionRefused,
        0x06 => Socks5Reply::TtlExpired,
        0x07 => Socks5Reply::CommandNotSupported,
        0x08 => Socks5Reply::AddressTypeNotSupported,
        0xf0 => Socks5Reply::OnionServiceNotFound,
        0xf1 => Socks5Reply::OnionServiceInvalid,
        0xf2 => Socks5Reply::OnionServiceIntroFailed,
        0xf3 => Socks5Reply::OnionServiceRendFailed,
        0xf4 => Socks5Reply::OnionServiceMissingClientAuth,
        0xf5 => Socks5Reply::OnionServiceWrongClientAuth,
        0xf6 => Socks5Reply::OnionServiceBadAddress,
        0xf7 => Socks5Reply::OnionServiceIntroTimedOut,
        code => Socks5Reply::Unassigned(code),
    };
    let mut sentences = HashSet::new();
    for code in 1..=255 {
        let proxy = answering([5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        for driver in DRIVERS {
            let error = dialling.error(driver, &proxy);
            let ConnectErrorKind::ProxyReplied { proxy: by, reply } = error.kind() else {
                panic!("{driver:?}, {code:#04x}: {error:?}");
            };
            assert_eq!((error.to(), by), (Some(&name()), proxy.endpoint()));
            assert_eq!((*reply, reply.code()), (expected(code), code), "{driver:?}");
            assert!(!error.is_proxy_fault());
            assert!(error.to_string().contains("name.test:80"), "{error}");
            sentences.insert(reply.to_string());
        }
    }
    assert_eq!(sentences.len(), 255, "each code must have a message of its own");
}

#[test]
fn a_bad_reply_is_reported_as_soon_as_its_code_arrives() {
    let dialling = Dialling::start();
    let stalling = proxy(|mut stream| {
        if negotiate(&mut stream).is_some() {
            let _ = stream.write_all(b"\x05\x05");
            stall(&mut stream);
        }
    });
    for driver in DRIVERS {
        let error = dialling.error(driver, &stalling);
        assert!(
            matches!(
                error.kind(),
                ConnectErrorKind::ProxyReplied { reply: Socks5Reply::ConnectionRefused, .. }
            ),
            "{driver:?}: {error:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_proxy_may_listen_on_ipv6_or_on_a_unix_domain_path() {
    let dialling = Dialling::start();
    let (sender, asked) = mpsc::channel();
    for host in loopbacks() {
        let proxy = proxy_at(host, echoing(sender.clone()));
        for driver in DRIVERS {
            dialling.connect(driver, &name(), &through(&proxy)).unwrap();
            assert_eq!(asked.recv_timeout(DEADLINE).unwrap().host, b"name.test");
        }
    }

    let directory = TempDir::new();
    let path = directory.path("proxy");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::socks5(Service::unix(&path).unwrap());
    let served = thread::spawn(move || {
        for _ in DRIVERS {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            read_greeting(&mut stream).unwrap();
            stream.write_all(METHOD).unwrap();
            assert_eq!(read_request(&mut stream).unwrap().host, b"name.test");
            stream.write_all(CONNECTED).unwrap();
            stream.write_all(b"hello").unwrap();
        }
    });
    for driver in DRIVERS {
        let id = dialling.connect(driver, &name(), &through(&proxy)).unwrap();
        dialling.recorder.wait_for_eof(id);
        assert_eq!(dialling.recorder.received(id), b"hello");
        let info = dialling.running.sockman.connection_info(id).unwrap();
        assert_eq!((info.me, info.them), (Service::UNIX_UNNAMED, name()));
    }
    served.join().unwrap();
}

/// The methods that a proxy was offered, and the credentials that it then got.
type Offered = (Vec<u8>, Option<(Vec<u8>, Vec<u8>)>);

/// A proxy that asks for credentials if the client offers this method.
fn wanting_credentials(offered: mpsc::Sender<Offered>) -> Proxy {
    let offered = Mutex::new(offered);
    proxy(move |mut stream| {
        let Some(methods) = read_greeting(&mut stream) else { return };
        let mut credentials = None;
        if methods.contains(&2) {
            let _ = stream.write_all(METHOD_PASSWORD);
            credentials = read_credentials(&mut stream);
            let _ = stream.write_all(AUTHENTICATED);
        } else {
            let _ = stream.write_all(METHOD);
        }
        read_request(&mut stream).unwrap();
        offered.lock().unwrap().send((methods, credentials)).unwrap();
        let _ = stream.write_all(CONNECTED);
        stall(&mut stream);
    })
}

#[test]
fn credentials_are_none_or_given_or_unique_per_connection() {
    let dialling = Dialling::start();
    let (sender, offered) = mpsc::channel();
    let plain = wanting_credentials(sender);
    let given = plain.clone().credentials(Credentials::new("alice", "x".repeat(255)).unwrap());
    let unique = plain.clone().tor_stream_isolation();
    for driver in DRIVERS {
        let offered_to = |proxy: &Proxy| {
            dialling.connect(driver, &name(), &through(proxy)).unwrap();
            offered.recv_timeout(DEADLINE).unwrap()
        };
        assert_eq!(offered_to(&plain), (vec![0], None));
        let expected = (b"alice".to_vec(), vec![b'x'; 255]);
        assert_eq!(offered_to(&given), (vec![0, 2], Some(expected)));
        // A clone makes unique credentials, too; otherwise two connections would share a circuit.
        let mut seen = HashSet::new();
        let mut prefixes = HashSet::new();
        for _ in 0..20 {
            let (methods, credentials) = offered_to(&unique.clone());
            assert_eq!(methods, [0, 2]);
            let (username, password) = credentials.unwrap();
            // Tor's form of isolation. Tor calls other user names legacy isolation, and Tor 0.4.9
            // refuses this user name with anything behind it.
            assert_eq!(username, b"<torS0X>0");
            let text = String::from_utf8(password).unwrap();
            prefixes.insert(text.split_once('-').unwrap().0.to_owned());
            seen.insert(text);
        }
        assert_eq!((seen.len(), prefixes.len()), (20, 1));
    }
}

#[test]
fn credentials_of_an_invalid_length_are_refused_with_the_part_that_is_wrong() {
    assert!(Credentials::new("u", "p").is_ok());
    let long = "x".repeat(256);
    for (username, password, said) in [
        ("", "p", "user name"),
        ("u", "", "password"),
        (&long, "p", "user name has 256"),
        ("u", &long, "password has 256"),
    ] {
        let error = Credentials::new(username, password).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn destinations_that_no_proxy_could_reach_are_refused_before_anything_is_sent() {
    let dialling = Dialling::start();
    // No proxy listens there, so an attempt to reach it would give another error.
    let proxy = "127.0.0.1:1".parse::<Proxy>().unwrap();
    for driver in DRIVERS {
        for host in ["", &"n".repeat(256), "good.test\0.onion"] {
            let error = dialling.connect(driver, &destination(host, 1), &through(&proxy));
            assert!(
                matches!(
                    error.as_ref().map_err(ConnectError::kind),
                    Err(ConnectErrorKind::InvalidName)
                ),
                "{error:?}"
            );
        }
        let unix = Service::unix("/here").unwrap().into();
        let error = dialling.connect(driver, &unix, &through(&proxy));
        assert!(
            matches!(
                error.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::InvalidDestination)
            ),
            "{error:?}"
        );
        let error = dialling.connect(driver, &name(), &ConnectOptions::default());
        assert!(
            matches!(error.as_ref().map_err(ConnectError::kind), Err(ConnectErrorKind::NeedsProxy)),
            "{error:?}"
        );
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_at_fault() {
    let dialling = Dialling::start();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoints = [
        Service::from(gone),
        Service::unix("/nonexistent/proxy").unwrap(),
        // An endpoint that cannot be dialled is also blamed on the proxy.
        Service::UNIX_UNNAMED,
        format!("{ONION}:9050").parse().unwrap(),
    ];
    for driver in DRIVERS {
        for endpoint in &endpoints {
            let error = dialling.error(driver, &Proxy::socks5(endpoint.clone()));
            assert!(error.is_proxy_fault(), "{error:?}");
            let ConnectErrorKind::ProxyFailed { proxy, error: fault, .. } = error.kind() else {
                panic!("{driver:?}: {error:?}");
            };
            assert_eq!(proxy, endpoint);
            assert!(matches!(fault, ProxyError::Unreachable { .. }), "{fault:?}");
            assert!(std::error::Error::source(fault).is_some());
            assert!(error.to_string().contains(&endpoint.to_string()), "{error}");
        }
    }
}

/// A proxy that stops before it sends the answer of a phase, and sends a message on the channel at
/// this point.
fn stalling(before: ConnectPhase) -> (Proxy, mpsc::Receiver<()>) {
    let (sender, is_there) = mpsc::channel();
    let sender = Mutex::new(sender);
    let proxy = proxy(move |mut stream| {
        if before == ConnectPhase::ProxyConnect {
            negotiate(&mut stream);
        }
        let _ = sender.lock().unwrap().send(());
        stall(&mut stream);
    });
    (proxy, is_there)
}

const STALLS: [ConnectPhase; 2] = [ConnectPhase::NegotiateWithProxy, ConnectPhase::ProxyConnect];

#[test]
fn a_time_out_names_its_phase_and_its_duration() {
    let dialling = Dialling::start();
    for driver in DRIVERS {
        for phase in STALLS {
            // On a busy machine the proxy may not reach its stall in a short time. Then the test
            // connects again with a longer timeout.
            let mut timeout = SOON;
            let (error, proxy) = loop {
                let (proxy, _is_there) = stalling(phase);
                let options = through(&proxy).timeout(timeout);
                let error = dialling.connect(driver, &name(), &options).unwrap_err();
                let ConnectErrorKind::TimedOut { phase: in_phase, .. } = error.kind() else {
                    panic!("{driver:?}: {error:?}");
                };
                if *in_phase == phase || timeout > DEADLINE / 2 {
                    break (error, proxy);
                }
                timeout *= 2;
            };
            let is_proxys = error.is_proxy_fault();
            let ConnectErrorKind::TimedOut { proxy: by, phase: in_phase, after } = error.kind()
            else {
                panic!("{driver:?}: {error:?}");
            };
            assert_eq!((error.to(), by), (Some(&name()), &Some(proxy.endpoint().clone())));
            assert_eq!(*in_phase, phase);
            let after = *after;
            assert!(after >= timeout && after < 2 * DEADLINE, "{after:?}");
            assert_eq!(is_proxys, phase == ConnectPhase::NegotiateWithProxy);
        }
    }
}

#[test]
fn a_proxy_that_does_not_answer_times_out_in_its_own_phase() {
    let dialling = Dialling::start();
    let blackhole = Blackhole::new();
    let endpoint = blackhole.destination().service().unwrap().clone();
    for driver in DRIVERS {
        let options = through(&Proxy::socks5(endpoint.clone())).timeout(SOON);
        let error = dialling.connect(driver, &name(), &options).unwrap_err();
        assert!(error.is_proxy_fault());
        let ConnectErrorKind::TimedOut { proxy, phase, .. } = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!((proxy.as_ref(), *phase), (Some(&endpoint), ConnectPhase::ReachProxy));
        assert!(error.to_string().contains("did not accept the connection"), "{error}");
    }
}

/// G9: in every phase, the attempt's own interrupt ends this attempt and no other.
#[test]
fn cancel_ends_one_attempt_at_once_in_every_phase() {
    let dialling = Dialling::start();
    for driver in DRIVERS {
        for phase in STALLS {
            let (proxy, is_there) = stalling(phase);
            let other = Interrupt::new();
            let cancel = Interrupt::new();
            let options = through(&proxy).cancel(cancel.clone());
            let other_options = through(&proxy).cancel(other.clone());
            thread::scope(|scope| {
                let attempt = scope.spawn(|| dialling.connect(driver, &name(), &options));
                let beside = scope.spawn(|| dialling.connect(driver, &name(), &other_options));
                is_there.recv_timeout(DEADLINE).unwrap();
                is_there.recv_timeout(DEADLINE).unwrap();
                let began = Instant::now();
                cancel.interrupt();
                let ended = attempt.join().unwrap();
                assert!(
                    matches!(
                        ended.as_ref().map_err(ConnectError::kind),
                        Err(ConnectErrorKind::Interrupted)
                    ),
                    "{driver:?}: {ended:?}"
                );
                assert!(began.elapsed() < DEADLINE / 2);
                assert!(!beside.is_finished());
                other.interrupt();
                let ended = beside.join().unwrap();
                assert!(
                    matches!(
                        ended.as_ref().map_err(ConnectError::kind),
                        Err(ConnectErrorKind::Interrupted)
                    ),
                    "{driver:?}: {ended:?}"
                );
            });
        }
    }
}

/// G9: the interrupt also ends a connect in the middle of the dialogue with the proxy.
#[test]
fn the_interrupt_ends_every_phase_of_a_blocking_connect() {
    for phase in STALLS {
        let dialling = Dialling::start();
        let (proxy, is_there) = stalling(phase);
        let sockman = dialling.running.sockman.clone();
        let options = through(&proxy);
        let attempt = thread::spawn(move || sockman.connect(name(), &options).map(drop));
        is_there.recv_timeout(DEADLINE).unwrap();
        dialling.running.sockman.interrupt();
        let ended = attempt.join().unwrap();
        assert!(
            matches!(
                ended.as_ref().map_err(ConnectError::kind),
                Err(ConnectErrorKind::Interrupted)
            ),
            "{phase:?}: {ended:?}"
        );
    }
}

#[test]
fn bytes_of_the_destination_and_a_reset_behind_them_are_reported_in_order() {
    let dialling = Dialling::start();
    let (sender, may_reset) = mpsc::channel::<()>();
    let may_reset = Arc::new(Mutex::new(may_reset));
    let proxy = proxy(move |mut stream| {
        negotiate(&mut stream);
        stream.write_all(&[CONNECTED, b"words"].concat()).unwrap();
        let _ = may_reset.lock().unwrap().recv_timeout(DEADLINE);
        reset(stream);
    });
    for driver in DRIVERS {
        let id = dialling.connect(driver, &name(), &through(&proxy)).unwrap();
        assert_eq!(dialling.recorder.wait_for_bytes(id, 5), b"words");
        sender.send(()).unwrap();
        dialling.recorder.wait_for_read_error(id);
        assert_eq!(dialling.recorder.received(id), b"words", "{driver:?}");
    }
}
