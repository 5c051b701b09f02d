//! What the two sides agree on: version, protocol, certificates, resumption.

use std::sync::Arc;

use rustls::{
    AlertDescription, CertificateError, Error, HandshakeKind, ProtocolVersion, crypto::ring,
};
use sockman_rustls::TlsSettings;

use crate::{
    certificates::{Authority, BOTH, ONLY_12, ONLY_13},
    recorder::{Agreed, Event, Failure},
    world::{Client, World},
};

fn shake_hands(world: &mut World, config: rustls::ClientConfig) -> Client {
    let mut client = world.client(config);
    world.exchange(&mut client);
    client
}

/// Returns the one failure, whose connection is closed.
fn failure(world: &mut World, client: &Client) -> Failure {
    client.peer.shutdown_write();
    world.assert_empty();
    match &world.recorder.take()[..] {
        [Event::HandshakeFailed(failure)] => failure.clone(),
        events => panic!("{events:?}"),
    }
}

#[test]
fn each_version_is_spoken_alone_and_with_the_other() {
    let (tls_12, tls_13) = (ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
    let cases = [
        (ONLY_12, BOTH, tls_12),
        (BOTH, ONLY_12, tls_12),
        (ONLY_12, ONLY_12, tls_12),
        (BOTH, BOTH, tls_13),
        (ONLY_13, BOTH, tls_13),
    ];
    let authority = Authority::new();
    for (server, client, version) in cases {
        let mut world = World::new(authority.server(server), TlsSettings::default());
        let mut client = shake_hands(&mut world, authority.client(client, None));
        let kind = HandshakeKind::Full;
        assert_eq!(
            world.recorder.agreed(),
            [Agreed { alpn: None, version, kind, certificates: 0 }]
        );
        client.write(b"ehello");
        world.exchange(&mut client);
        client.write(b"f");
        world.exchange(&mut client);
        assert_eq!((&client.got[..], client.has_close_notify), (&b"hello"[..], true));
    }
}

/// The peer gets the alert that says why.
#[test]
fn no_common_version_fails_with_an_alert() {
    let authority = Authority::new();
    for (server, client) in [(ONLY_12, ONLY_13), (ONLY_13, ONLY_12)] {
        let mut world = World::new(authority.server(server), TlsSettings::default());
        let client = shake_hands(&mut world, authority.client(client, None));
        let alert = Error::AlertReceived(AlertDescription::ProtocolVersion);
        assert_eq!(client.error, Some(alert));
        let failure = failure(&mut world, &client);
        assert!(matches!(failure, Failure::Protocol(Error::PeerIncompatible(_))), "{failure:?}");
    }
}

#[test]
fn a_common_application_protocol_is_agreed_on_and_none_fails_with_an_alert() {
    let authority = Authority::new();
    for versions in [ONLY_12, ONLY_13] {
        let server = || {
            let mut config = authority.server(BOTH);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            World::new(config, TlsSettings::default())
        };
        let client = |protocols: &[&[u8]]| {
            let mut config = authority.client(versions, None);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            config
        };
        for (protocols, expected) in
            [(&[&b"h2"[..], b"http/1.1"][..], Some(b"http/1.1".to_vec())), (&[], None)]
        {
            let mut world = server();
            shake_hands(&mut world, client(protocols));
            assert_eq!(world.recorder.agreed()[0].alpn, expected);
        }
        let mut world = server();
        let client = shake_hands(&mut world, client(&[b"h2"]));
        let alert = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(client.error, Some(alert));
        assert_eq!(failure(&mut world, &client), Failure::Protocol(Error::NoApplicationProtocol));
    }
}

#[test]
fn a_client_certificate_is_required_and_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for versions in [ONLY_12, ONLY_13] {
        let server = || World::new(authority.server_for_members(BOTH), TlsSettings::default());
        let member = authority.issue("member");
        let mut world = server();
        shake_hands(&mut world, authority.client(versions, Some(member)));
        assert_eq!(world.recorder.agreed()[0].certificates, 1);

        let mut world = server();
        let client = shake_hands(&mut world, authority.client(versions, None));
        assert!(matches!(client.error, Some(Error::AlertReceived(_))), "{:?}", client.error);
        assert_eq!(failure(&mut world, &client), Failure::Protocol(Error::NoCertificatesPresented));

        let mut world = server();
        let identity = Some(stranger.issue("member"));
        let client = shake_hands(&mut world, authority.client(versions, identity));
        assert!(matches!(client.error, Some(Error::AlertReceived(_))), "{:?}", client.error);
        let failure = failure(&mut world, &client);
        let expected = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(failure, Failure::Protocol(expected));
    }
}

/// A client that does not trust the server says so, and the server reports the alert.
#[test]
fn the_alert_of_a_client_is_reported() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for versions in [ONLY_12, ONLY_13] {
        let mut world = World::new(authority.server(BOTH), TlsSettings::default());
        let client = shake_hands(&mut world, stranger.client(versions, None));
        let expected = Error::AlertReceived(AlertDescription::UnknownCA);
        assert_eq!(failure(&mut world, &client), Failure::Protocol(expected));
    }
}

#[test]
fn a_ticket_resumes_the_session_without_a_full_handshake() {
    let authority = Authority::new();
    for versions in [ONLY_12, ONLY_13] {
        let mut config = authority.server(BOTH);
        config.ticketer = ring::Ticketer::new().unwrap();
        let mut world = World::new(config, TlsSettings::default());
        let config = Arc::new(authority.client(versions, None));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut client = world.client_of(Arc::clone(&config));
            world.exchange(&mut client);
            client.write(b"ehello");
            world.exchange(&mut client);
            assert_eq!(client.got, b"hello");
            assert_eq!(world.recorder.agreed().last().unwrap().kind, expected);
            client.tls.send_close_notify();
            world.exchange(&mut client);
            client.peer.shutdown_write();
        }
        world.assert_empty();
    }
}
