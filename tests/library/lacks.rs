//! Calls that fail although nothing is wrong with their socket: what the library reports then.

use std::{
    error::Error as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use sockman::{
    ConnectOptions, ConnectionId, Service, SockMan,
    error::{BindError, BindErrorKind},
    sys::errors,
    testing::{Call, Network},
};
use sockman_test_support::{
    DEADLINE, Recorder,
    tools::{Spy, loopbacks},
    without_sweep,
};

/// Returns a port that no socket has on this wildcard.
fn free_port(wildcard: IpAddr) -> u16 {
    TcpListener::bind((wildcard, 0)).unwrap().local_addr().unwrap().port()
}

/// Begins a connect from a port on the wildcard. Another process may have taken a port, which is
/// then replaced by another one.
fn start_from(sockman: &SockMan, wildcard: IpAddr, to: SocketAddr) -> (ConnectionId, u16) {
    let start = |_| {
        let port = free_port(wildcard);
        let options = ConnectOptions::default().bind((wildcard, port)).timeout(DEADLINE);
        Some((sockman.start_connect(to, &options).ok()?, port))
    };
    (0..100).find_map(start).unwrap()
}

/// G13: a connect from a wildcard with a port gets its address when the kernel begins it, and a lack
/// of buffers delays that. The address of the connection is reported, not the wildcard.
#[test]
fn a_connect_from_a_wildcard_that_a_lack_delayed_knows_its_own_address() {
    for loopback in loopbacks() {
        let loopback: SocketAddr = loopback.parse().unwrap();
        let wildcard: IpAddr = match loopback.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        for lacks in 0..3 {
            let (spy, recorder) = (Spy::default(), Recorder::new());
            let options = without_sweep().sock_factory(Arc::new(spy.clone()));
            let sockman = SockMan::new(recorder.clone(), options).unwrap();
            let listener = TcpListener::bind(loopback).unwrap();
            spy.lack_in_connects(lacks);
            let to = listener.local_addr().unwrap();
            let (id, port) = start_from(&sockman, wildcard, to);
            let threads = sockman.start_sockets_threads().unwrap();
            let me = recorder.wait_for_outcome(id).unwrap();
            let (_stream, from) = listener.accept().unwrap();
            assert_eq!(me, Service::from(from), "{lacks} lacks");
            assert_eq!(me, Service::from(SocketAddr::new(loopback.ip(), port)), "{lacks} lacks");
            assert_eq!(sockman.connection_info(id).unwrap().me, me);
            sockman.interrupt();
            threads.join().unwrap();
        }
    }
}

fn adopt_with(network: &Network, fault: Option<(Call, i32)>) -> (SockMan, BindError) {
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    let other = network.listen(&"10.0.0.1:2".parse().unwrap()).unwrap();
    let descriptor = match fault {
        Some(_) => other.share().unwrap(),
        // No double of a listener.
        None => UdpSocket::bind("127.0.0.1:0").unwrap().into(),
    };
    if let Some((call, errno)) = fault {
        network.fail_next(call, errno);
    }
    let error = sockman.start_listening_on(descriptor).unwrap_err();
    (sockman, error)
}

/// An adoption that fails for a reason that says nothing about the descriptor does not report that
/// the descriptor is no listener. Nothing is left of it.
#[test]
fn an_adoption_that_lacks_memory_reports_the_lack() {
    for errno in [errors::ENOBUFS, errors::ENOMEM] {
        let network = Network::new();
        let (sockman, error) = adopt_with(&network, Some((Call::LocalAddress, errno)));
        let BindErrorKind::Os { step: "adopt", source } = error.kind() else {
            panic!("{error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(errno));
        assert!(error.source().is_some() && error.to().is_none());
        let text = error.to_string();
        assert!(text.starts_with("cannot listen on the given descriptor: adopt failed"), "{text}");
        assert_eq!(sockman.stats().listeners, 0);
    }
}

/// A descriptor that is something else is reported as such.
#[test]
fn an_adoption_of_another_socket_reports_that_it_is_no_listener() {
    let (_sockman, error) = adopt_with(&Network::new(), None);
    assert!(matches!(error.kind(), BindErrorKind::NotAListener { .. }), "{error:?}");
    assert!(error.to_string().contains("not a listening stream socket"), "{error}");
}
