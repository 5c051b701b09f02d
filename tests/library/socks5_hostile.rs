//! SOCKS5 proxies that break the protocol. Each proxy causes its exact error with both ways to
//! connect, and no socket is left.

use std::{io::Write, net::TcpStream, thread};

use sockman::{
    ConnectOptions,
    error::{ConnectErrorKind, ConnectPhase},
    proxy::{Credentials, Proxy, ProxyError},
};
use sockman_test_support::{
    DEADLINE,
    drivers::{DRIVERS, Driver},
    eventually, reset,
    socks5::{
        AUTHENTICATED, CONNECTED, Dialling, METHOD, METHOD_PASSWORD, SOON, answering,
        greeting_with, name, negotiate, proxy, read_credentials, read_greeting, read_request,
        stall,
    },
};

/// Connects through `proxy`, and returns the fault of the proxy that the error reports.
fn fault(dialling: &Dialling, driver: Driver, proxy: &Proxy) -> ProxyError {
    let error = dialling.error(driver, proxy);
    assert!(error.is_proxy_fault(), "{error:?}");
    assert_eq!(error.to(), Some(&name()));
    match error.into_kind() {
        ConnectErrorKind::ProxyFailed { proxy: by, error } => {
            assert_eq!(&by, proxy.endpoint());
            error
        }
        error => panic!("{driver:?}: {error:?}"),
    }
}

fn with_credentials(proxy: Proxy) -> Proxy {
    proxy.credentials(Credentials::new("user", "password").unwrap())
}

macro_rules! assert_fault {
    ($proxy:expr, $pattern:pat $(if $guard:expr)?) => {
        let (dialling, proxy) = (Dialling::start(), $proxy);
        for driver in DRIVERS {
            let fault = fault(&dialling, driver, &proxy);
            assert!(matches!(fault, $pattern $(if $guard)?), "{driver:?}: {fault:?}");
        }
    };
}

#[test]
fn a_server_that_is_no_proxy_is_reported_as_such() {
    assert_fault!(
        greeting_with("HTTP/1.0 501 Tor is not an HTTP Proxy\r\n"),
        ProxyError::NotSocks5 { found: b'H' }
    );
    assert_fault!(greeting_with([4, 0]), ProxyError::NotSocks5 { found: 4 });
    assert_fault!(greeting_with([0, 0]), ProxyError::NotSocks5 { found: 0 });
    assert_fault!(answering([4, 0, 0, 1, 0, 0, 0, 0, 0, 0]), ProxyError::NotSocks5 { found: 4 });
}

#[test]
fn methods_that_were_not_offered_are_refused() {
    assert_fault!(greeting_with([5, 0xff]), ProxyError::NoAcceptableMethod);
    // GSSAPI.
    assert_fault!(greeting_with([5, 1]), ProxyError::MethodNotOffered { method: 1 });
    // User name and password, of which the test configures none.
    assert_fault!(greeting_with([5, 2]), ProxyError::MethodNotOffered { method: 2 });
    assert_fault!(greeting_with([5, 0x80]), ProxyError::MethodNotOffered { method: 0x80 });
    let with = |answer: [u8; 2]| with_credentials(greeting_with(answer));
    assert_fault!(with([5, 0xff]), ProxyError::NoAcceptableMethod);
    assert_fault!(with([5, 1]), ProxyError::MethodNotOffered { method: 1 });
}

/// A proxy that answers the credentials with `answer`.
fn answering_credentials(answer: &'static [u8]) -> Proxy {
    with_credentials(proxy(move |mut stream| {
        if read_greeting(&mut stream).is_some() {
            let _ = stream.write_all(METHOD_PASSWORD);
            assert_eq!(
                read_credentials(&mut stream),
                Some((b"user".to_vec(), b"password".to_vec()))
            );
            let _ = stream.write_all(answer);
            stall(&mut stream);
        }
    }))
}

#[test]
fn rejected_credentials_are_reported_with_the_status() {
    // The proxies dante and microsocks use these statuses.
    assert_fault!(
        answering_credentials(b"\x01\x01"),
        ProxyError::CredentialsRejected { status: 1 }
    );
    assert_fault!(
        answering_credentials(b"\x01\x02"),
        ProxyError::CredentialsRejected { status: 2 }
    );
    assert_fault!(
        answering_credentials(b"\x01\xff"),
        ProxyError::CredentialsRejected { status: 255 }
    );
    // A common mistake of proxies is the version of SOCKS in place of the version of the
    // negotiation (RFC 1929).
    assert_fault!(
        answering_credentials(b"\x05\x00"),
        ProxyError::AuthenticationVersion { found: 5 }
    );
}

#[test]
fn malformed_replies_are_reported_with_the_wrong_field() {
    assert_fault!(answering([5, 0, 1, 1, 0, 0, 0, 0, 0, 0]), ProxyError::ReservedByte { found: 1 });
    for kind in [0, 2, 5, 255] {
        assert_fault!(
            answering([5, 0, 0, kind, 0, 0, 0, 0, 0, 0]),
            ProxyError::AddressType { found } if found == kind
        );
    }
}

/// A proxy that sends the first `answers` bytes of its answers and then calls `end`.
fn ending_after(answers: usize, end: fn(TcpStream)) -> Proxy {
    with_credentials(proxy(move |mut stream| {
        let mut left = answers;
        let mut answer = |stream: &mut TcpStream, bytes: &[u8]| {
            let now = left.min(bytes.len());
            left -= now;
            let _ = stream.write_all(&bytes[..now]);
            now == bytes.len()
        };
        let goes_on = read_greeting(&mut stream).is_some()
            && answer(&mut stream, METHOD_PASSWORD)
            && read_credentials(&mut stream).is_some()
            && answer(&mut stream, AUTHENTICATED)
            && read_request(&mut stream).is_some()
            && answer(&mut stream, CONNECTED);
        assert!(!goes_on, "the dialogue must end before the whole answer");
        end(stream);
    }))
}

const ANSWERS: usize = METHOD_PASSWORD.len() + AUTHENTICATED.len() + CONNECTED.len();

fn phase_after(answers: usize) -> ConnectPhase {
    if answers < METHOD_PASSWORD.len() + AUTHENTICATED.len() {
        ConnectPhase::NegotiateWithProxy
    } else {
        ConnectPhase::ProxyConnect
    }
}

#[test]
fn a_proxy_that_closes_at_any_point_is_reported_as_broken_off_in_that_phase() {
    let dialling = Dialling::start();
    for answers in 0..ANSWERS {
        let proxy = ending_after(answers, drop);
        for driver in DRIVERS {
            let fault = fault(&dialling, driver, &proxy);
            let ProxyError::BrokeOff { phase, source: None } = fault else {
                panic!("{driver:?}, {answers}: {fault:?}");
            };
            assert_eq!(phase, phase_after(answers), "{driver:?}, {answers}");
        }
    }
}

#[test]
fn a_proxy_that_resets_at_any_point_is_reported_as_broken_off() {
    let dialling = Dialling::start();
    for answers in 0..ANSWERS {
        let proxy = ending_after(answers, reset);
        for driver in DRIVERS {
            // A reset may overtake the bytes before it. The error then names an earlier phase.
            let fault = fault(&dialling, driver, &proxy);
            assert!(
                matches!(fault, ProxyError::BrokeOff { source: Some(_), .. }),
                "{driver:?}, {answers}: {fault:?}"
            );
        }
    }
}

/// G9: one deadline covers the whole dialogue, so the time before the stall does not extend it.
#[test]
fn a_proxy_that_stalls_at_any_point_times_out_at_the_deadline() {
    let dialling = Dialling::start();
    for driver in DRIVERS {
        thread::scope(|scope| {
            for answers in 0..ANSWERS {
                let dialling = &dialling;
                scope.spawn(move || {
                    let proxy = ending_after(answers, |mut stream| stall(&mut stream));
                    let options = ConnectOptions::default().proxy(proxy).timeout(SOON);
                    let error = dialling.connect(driver, &name(), &options).unwrap_err();
                    let ConnectErrorKind::TimedOut { phase, after, .. } = *error.kind() else {
                        panic!("{driver:?}, {answers}: {error:?}");
                    };
                    // On a busy machine the dialogue may not reach this phase in time.
                    assert!(
                        phase == phase_after(answers)
                            || phase == ConnectPhase::NegotiateWithProxy
                            || phase == ConnectPhase::ReachProxy,
                        "{driver:?}, {answers}: {phase:?}"
                    );
                    assert!(after >= SOON && after < DEADLINE, "{after:?}");
                });
            }
        });
    }
}

#[test]
fn a_proxy_that_closes_or_resets_before_the_greeting_is_reported_as_broken_off() {
    assert_fault!(
        proxy(drop),
        ProxyError::BrokeOff { phase: ConnectPhase::NegotiateWithProxy, .. }
    );
    let dialling = Dialling::start();
    for driver in DRIVERS {
        // The reset may come before the library checks the connect, which then fails.
        let fault = fault(&dialling, driver, &proxy(reset));
        assert!(
            matches!(fault, ProxyError::BrokeOff { .. } | ProxyError::Unreachable { .. }),
            "{driver:?}: {fault:?}"
        );
    }
}

/// The library reads no more than it asked for, so an endless answer costs no more than a short
/// one.
#[test]
fn endless_answers_are_read_no_further_than_needed() {
    let endless = |mut stream: TcpStream| {
        let zeroes = [0; 65_536];
        while stream.write_all(&zeroes).is_ok() {}
    };
    let dialling = Dialling::start();
    let greeting = proxy(endless);
    let behind_the_reply = proxy(move |mut stream| {
        negotiate(&mut stream);
        let _ = stream.write_all(CONNECTED);
        endless(stream);
    });
    for driver in DRIVERS {
        let fault = fault(&dialling, driver, &greeting);
        assert!(matches!(fault, ProxyError::NotSocks5 { found: 0 }), "{driver:?}: {fault:?}");
        // These bytes come from the destination, and the embedder decides when to read them.
        let options = ConnectOptions::default().proxy(behind_the_reply.clone()).timeout(DEADLINE);
        let sockman = &dialling.running.sockman;
        let id = match driver {
            Driver::Blocking => {
                let new = sockman.connect(name(), &options).unwrap();
                let id = new.id();
                assert_eq!(sockman.connection_info(id).unwrap().bytes_received, 0);
                dialling.recorder.pause_recv(id, true);
                new.activate()
            }
            Driver::SocketThread => {
                dialling.recorder.pause_all_recv(true);
                let id = sockman.start_connect(name(), &options).unwrap();
                dialling.recorder.wait_for_outcome(id).unwrap();
                id
            }
        };
        assert_eq!(sockman.connection_info(id).unwrap().bytes_received, 0);
        assert!(sockman.close_connection(id));
    }
}

/// If an answer comes too early, the library reads it only after it has sent the request.
#[test]
fn answers_that_come_too_early_are_read_in_order() {
    let dialling = Dialling::start();
    let hasty = proxy(|mut stream| {
        let _ = stream.write_all(&[METHOD, CONNECTED, b"early"].concat());
        stall(&mut stream);
    });
    for driver in DRIVERS {
        let options = ConnectOptions::default().proxy(hasty.clone()).timeout(DEADLINE);
        let id = dialling.connect(driver, &name(), &options).unwrap();
        assert_eq!(dialling.recorder.wait_for_bytes(id, 5), b"early", "{driver:?}");
    }
}

#[test]
fn failed_attempts_leave_no_socket() {
    let dialling = Dialling::start();
    let proxies = [
        greeting_with([5, 0xff]),
        ending_after(5, drop),
        ending_after(9, reset),
        answering([5, 1]),
    ];
    for driver in DRIVERS {
        for proxy in &proxies {
            dialling.error(driver, proxy);
        }
    }
    eventually("every socket is closed", || dialling.running.sockman.stats().connections == 0);
}
