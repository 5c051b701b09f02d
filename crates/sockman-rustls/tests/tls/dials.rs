//! Connects: this crate on both sides.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use sockman::{ConnectOptions, ConnectionId, Options, Service, SockMan};
use sockman_rustls::{Dial, Tls, TlsSettings};

use crate::{
    certificates::{Authority, BOTH},
    recorder::{Event, Failure, Recorder},
    world::World,
};

/// Connects the server's `SockMan` to `to`.
fn dial(world: &World, to: &Service, config: ClientConfig, name: &str) -> ConnectionId {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let dial = Dial::new(Arc::new(config), name).unwrap();
    let options = ConnectOptions::default();
    world.sockman.start_connect_with(to.clone(), &options, dial).unwrap()
}

#[test]
fn both_sides_of_a_connection_can_be_of_one_sockman() {
    let authority = Authority::new();
    let mut world = World::new(authority.server(BOTH), TlsSettings::default());
    let id = dial(&world, &world.at, authority.client(BOTH, None), "localhost");
    world.thread.run_until_idle().unwrap();
    assert_eq!(world.recorder.take(), [Event::Secured, Event::Secured]);
    world.sockman.finish_connection(id, Duration::from_secs(60));
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::End, Event::Closed, Event::Closed]);
}

/// A server with another name is not the one that was dialled.
#[test]
fn a_wrong_name_fails_on_both_sides() {
    let authority = Authority::new();
    let mut world = World::new(authority.server(BOTH), TlsSettings::default());
    let id = dial(&world, &world.at, authority.client(BOTH, None), "example.org");
    world.assert_empty();
    let failed = world.recorder.events_of(id);
    let is_certificate = matches!(
        failed[..],
        [Event::HandshakeFailed(Failure::Protocol(rustls::Error::InvalidCertificate(_)))]
    );
    assert!(is_certificate, "{failed:?}");
    let all = world.recorder.take();
    let is_alert = |event: &Event| {
        matches!(event, Event::HandshakeFailed(Failure::Protocol(rustls::Error::AlertReceived(_))))
    };
    assert!(all.len() == 2 && all.iter().any(is_alert), "{all:?}");
}

#[test]
fn a_server_that_does_not_answer_times_out() {
    let authority = Authority::new();
    let mut world = World::new(authority.server(BOTH), TlsSettings::default());
    let silent: Service = "10.0.0.2:443".parse().unwrap();
    let listener = world.network.listen(&silent).unwrap();
    let id = dial(&world, &silent, authority.client(BOTH, None), "localhost");
    world.thread.run_until_idle().unwrap();
    let server = listener.accept().unwrap();
    assert!(!server.receive().0.is_empty(), "the client says hello first");
    world.thread.run_for(Duration::from_secs(11)).unwrap();
    let expected = [Event::HandshakeFailed(Failure::HandshakeTimeout)];
    assert_eq!(world.recorder.events_of(id), expected);
    world.assert_empty();
}

#[test]
fn a_refused_connect_is_reported() {
    let authority = Authority::new();
    let mut world = World::new(authority.server(BOTH), TlsSettings::default());
    let nobody: Service = "10.0.0.3:443".parse().unwrap();
    dial(&world, &nobody, authority.client(BOTH, None), "localhost");
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::ConnectFailed]);
}

/// Without a `Dial`, nobody knows whom to expect.
#[test]
fn a_connect_without_a_dial_is_closed() {
    let mut world = World::new(Authority::new().server(BOTH), TlsSettings::default());
    let elsewhere: Service = "10.0.0.2:443".parse().unwrap();
    let listener = world.network.listen(&elsewhere).unwrap();
    let options = ConnectOptions::default();
    world.sockman.start_connect(elsewhere.clone(), &options).unwrap();
    world.sockman.start_connect_with(elsewhere.clone(), &options, "not a dial").unwrap();
    world.thread.run_until_idle().unwrap();
    for _ in 0..2 {
        assert!(listener.accept().unwrap().receive().1.is_some());
    }
    world.assert_empty();
    assert_eq!(world.recorder.take(), []);
}

/// A `SockMan` that only connects closes those that it accepts.
#[test]
fn a_client_accepts_nobody() {
    let network = sockman::testing::Network::new();
    let tls = Tls::client(Recorder::new(), TlsSettings::default());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::with_state(Arc::new(tls), options).unwrap();
    let at = sockman.bind_and_start_listening("10.0.0.1:443").unwrap();
    let mut thread = sockman::testing::SocketThreadByHand::start(&sockman, &network).unwrap();
    let peer = network.connect(&at).unwrap();
    thread.run_until_idle().unwrap();
    assert!(peer.receive().1.is_some());
}
