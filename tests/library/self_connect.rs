//! G13: a TCP connect that reaches its own socket. The kernel joins the two ends of such a connect
//! (simultaneous open) if no program listens on a port of the ephemeral range and the kernel chooses
//! that port for the socket itself. The tests bind the socket to the port before the connect.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use sockman::{
    ConnectOptions, Service, SockMan,
    error::{ConnectError, ConnectErrorKind},
    sys::{OsSockFactory, OwnedSocket, Poller, Sock, SockFactory},
};
use sockman_test_support::{
    DEADLINE, Recorder, drivers::DRIVERS, tools::has_family_of, without_sweep,
};

/// The system's sockets. Each new one is bound to `source`.
#[derive(Debug)]
struct Bound {
    os: OsSockFactory,
    source: Service,
}

impl SockFactory for Bound {
    fn create_sock(&self, address: &Service) -> io::Result<Box<dyn Sock>> {
        let sock = self.os.create_sock(address)?;
        sock.bind(&self.source)?;
        Ok(sock)
    }

    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        self.os.create_poller()
    }

    fn adopt_listener(&self, listener: OwnedSocket) -> io::Result<Box<dyn Sock>> {
        self.os.adopt_listener(listener)
    }
}

/// Returns an address on which no program listens. Each test has a host of its own, because the
/// other tests get their ports from the kernel.
fn free(host: &str) -> Service {
    TcpListener::bind(format!("{host}:0")).unwrap().local_addr().unwrap().into()
}

/// Connects to `to` with both drivers, from sockets that are bound to `source`, and checks the
/// error and that the port is free afterwards.
fn fails(source: &Service, to: &Service, options: &ConnectOptions, check: impl Fn(ConnectError)) {
    let factory = Bound { os: OsSockFactory::default(), source: source.clone() };
    let recorder = Recorder::new();
    let options_of_all = without_sweep().sock_factory(Arc::new(factory));
    let sockman = SockMan::new(recorder.clone(), options_of_all).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    for driver in DRIVERS {
        check(driver.connect(&sockman, &recorder, &to.into(), options).unwrap_err());
        assert_eq!(sockman.stats().connections, 0);
        assert_is_free(source);
    }
    sockman.interrupt();
    threads.join().unwrap();
}

/// Asserts that no socket has the port, not even one that waits in TIME_WAIT.
fn assert_is_free(address: &Service) {
    let address = address.to_socket_addr().unwrap();
    let domain = socket2::Domain::for_address(address);
    // This socket does not set SO_REUSEADDR, which would ignore sockets in TIME_WAIT.
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
}

fn for_long() -> ConnectOptions {
    ConnectOptions::default().timeout(DEADLINE)
}

/// G13
#[test]
fn a_connect_that_reaches_its_own_socket_is_refused() {
    for (host, wildcard) in [("127.66.0.1", "0.0.0.0"), ("[::1]", "[::]")] {
        if !has_family_of(host) {
            continue;
        }
        let own = free(host);
        // As a destination, the wildcard stands for the address of the socket itself. Windows
        // refuses it (WSAEADDRNOTAVAIL).
        let wildcard: SocketAddr = format!("{wildcard}:{}", own.port()).parse().unwrap();
        let is_destination = cfg!(not(windows));
        for to in [Some(own.clone()), is_destination.then(|| wildcard.into())].into_iter().flatten()
        {
            fails(&own, &to, &for_long(), |error| {
                assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{error:?}");
                assert!(format!("{error:#}").contains("its own socket"), "{error:#}");
            });
        }
    }
}

/// G13: a program that listens on the port is reached, also from a socket on the same address.
#[test]
fn a_connect_between_two_sockets_of_one_host_is_not_refused() {
    for _ in 0..1000 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Service::from(listener.local_addr().unwrap());
        let source = free("127.0.0.2").with_port(to.port());
        let factory = Bound { os: OsSockFactory::default(), source: source.clone() };
        let options = without_sweep().sock_factory(Arc::new(factory));
        let sockman = SockMan::new(Recorder::new(), options).unwrap();
        match sockman.connect(&to, &for_long()) {
            Ok(connection) => {
                assert_eq!(connection.me(), &source);
                return;
            }
            // Another process has this port on the other address.
            Err(error) => assert!(format!("{error:#}").contains("in use"), "{error:#}"),
        }
    }
    panic!("no port was free on both addresses");
}

/// G13
#[cfg(feature = "socks5")]
#[test]
fn a_connect_to_a_proxy_that_reaches_its_own_socket_is_the_proxys_fault() {
    use sockman::proxy::{Proxy, ProxyError};

    let own = free("127.66.0.2");
    let options = for_long().proxy(Proxy::socks5(own.clone()));
    fails(&own, &"192.0.2.1:1".parse().unwrap(), &options, |error| {
        assert!(error.is_proxy_fault(), "{error:?}");
        let ConnectErrorKind::ProxyFailed { error: ProxyError::Unreachable { source }, .. } =
            error.kind()
        else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    });
}

/// G13: the session's control socket reaches itself.
#[cfg(feature = "i2p")]
#[test]
fn a_connect_to_a_sam_bridge_that_reaches_its_own_socket_is_the_bridges_fault() {
    use sockman::i2p::{I2pOptions, SamError};

    let own = free("127.66.0.3");
    // The socket of the stream has the same address. SO_REUSEADDR permits that, because neither
    // socket listens.
    let factory = Bound { os: OsSockFactory::default(), source: own.clone() };
    let options = without_sweep().sock_factory(Arc::new(factory));
    let recorder = Recorder::new();
    let options = options.i2p(I2pOptions::new(own.clone()));
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let to = Service::new(sockman::address::NetAddr::i2p([7; 32]), 0);
    for driver in DRIVERS {
        let error = driver.connect(&sockman, &recorder, &(&to).into(), &for_long()).unwrap_err();
        assert!(error.is_proxy_fault(), "{error:?}");
        let ConnectErrorKind::SamFailed { error: SamError::Unreachable { source }, .. } =
            error.kind()
        else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
        assert_is_free(&own);
    }
}
