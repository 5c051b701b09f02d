//! Peers that break the protocol, and peers whose bytes come in odd pieces.

use std::time::Duration;

use rustls::{AlertDescription, Error, InvalidMessage};
use sockman_rustls::TlsSettings;
use sockman_test_support::tools::Random;

use crate::{
    certificates::{Authority, BOTH, ONLY_12, ONLY_13},
    recorder::{Event, Failure},
    world::World,
};

/// The peer gets an alert in place of the handshake, and the connection is closed.
#[test]
fn garbage_in_place_of_a_client_hello_gets_an_alert() {
    let authority = Authority::new();
    let cases: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[0; 100], &[0xff; 100], &[22, 3, 1, 0, 0]];
    for garbage in cases {
        let mut world = World::new(authority.server(BOTH), TlsSettings::default());
        let peer = world.network.connect(&world.at).unwrap();
        peer.send(garbage).unwrap();
        world.thread.run_until_idle().unwrap();
        let (alert, ended) = peer.receive();
        // An alert in the clear: fatal, decode_error.
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, u8::from(AlertDescription::DecodeError)]);
        assert!(ended.is_some());
        let events = world.recorder.take();
        let is_expected = matches!(
            &events[..],
            [Event::HandshakeFailed(Failure::Protocol(Error::InvalidMessage(_)))]
        );
        assert!(is_expected, "{events:?}");
        // The peer may keep its side open: it loses its place after the linger.
        assert_eq!((world.tls.handshakes(), world.sockman.stats().connections), (0, 1));
        world.thread.run_for(Duration::from_secs(4)).unwrap();
        world.assert_empty();
    }
}

/// A damaged record after the handshake gets an alert, and everything before it is delivered.
#[test]
fn a_damaged_record_gets_an_alert_after_the_data_before_it() {
    // The first byte of the ciphertext, and the length: no record may be that long.
    for (damage, alert) in [(5, AlertDescription::BadRecordMac), (3, AlertDescription::DecodeError)]
    {
        let (mut world, mut client) = World::with_client();
        client.write(b"xgood");
        client.tls.write_tls(&mut client.unsent).unwrap();
        let start = client.unsent.len();
        client.write(b"xdamaged");
        client.tls.write_tls(&mut client.unsent).unwrap();
        client.unsent[start + damage] ^= 0x80;
        world.exchange(&mut client);
        assert_eq!(client.error, Some(Error::AlertReceived(alert)));
        let events = world.recorder.take();
        let is_expected = matches!(
            &events[..],
            [Event::Data(data), Event::Failed(Failure::Protocol(_))] if data == b"xgood"
        );
        assert!(is_expected, "{events:?}");
        client.peer.shutdown_write();
        world.assert_empty();
        assert_eq!(world.recorder.take(), [Event::Closed]);
    }
}

/// After a failure, no closure of a remote runs, and nothing can be written.
#[test]
fn nothing_runs_on_a_connection_that_has_failed() {
    let (mut world, mut client) = World::with_client();
    let remote = world.recorder.remote();
    client.peer.send(&[0; 100]).unwrap();
    world.exchange(&mut client);
    let expected = Error::InvalidMessage(InvalidMessage::InvalidContentType);
    assert_eq!(world.recorder.take(), [Event::Failed(Failure::Protocol(expected))]);
    remote.run(|_, _| panic!("the connection has failed")).unwrap();
    client.peer.shutdown_write();
    world.assert_empty();
}

/// The whole conversation in single bytes, in both directions.
#[test]
fn single_bytes_make_no_difference() {
    let authority = Authority::new();
    for versions in [ONLY_12, ONLY_13] {
        let mut world = World::new(authority.server(BOTH), TlsSettings::default());
        let mut client = world.client(authority.client(versions, None));
        client.peer.set_chunk(Some(1));
        client.write(b"ehello");
        for round in 0..6 {
            if round == 3 {
                client.tls.send_close_notify();
            }
            client.send();
            world.thread.run_for(Duration::from_millis(100)).unwrap();
            client.receive();
        }
        assert_eq!((&client.got[..], client.has_close_notify), (&b"hello"[..], true));
        client.peer.shutdown_write();
        world.thread.run_for(Duration::from_millis(100)).unwrap();
        world.assert_empty();
        assert_eq!(
            world.recorder.take(),
            [Event::Secured, Event::Data(b"ehello".to_vec()), Event::End, Event::Closed]
        );
    }
}

/// Whatever bytes arrive, in whatever pieces, the connection ends with one report, and nothing is
/// left. The bytes are those of a client, with damage at one place.
#[test]
fn damage_at_any_place_ends_the_connection_and_nothing_else() {
    let authority = Authority::new();
    let mut random = Random::new(20);
    for versions in [ONLY_12, ONLY_13] {
        let mut world = World::new(authority.server(BOTH), TlsSettings::default());
        for round in 0..500 {
            let mut client = world.client(authority.client(versions, None));
            client.write(b"ehello");
            // The flight in which the damage is, and the byte.
            let (flight, place) = (round % 2, random.up_to(400));
            for number in 0..3 {
                while client.tls.wants_write() {
                    client.tls.write_tls(&mut client.unsent).unwrap();
                }
                if number == flight && !client.unsent.is_empty() {
                    let at = place % client.unsent.len();
                    client.unsent[at] ^= 1 << random.up_to(7);
                }
                client.send();
                world.thread.run_until_idle().unwrap();
                client.receive();
            }
            client.peer.shutdown_write();
            world.thread.run_until_idle().unwrap();
            let _ = client.peer.receive();
            world.thread.run_for(Duration::from_secs(700)).unwrap();
            world.assert_empty();
            let events = world.recorder.take();
            let ends = |event: &&Event| matches!(event, Event::Closed | Event::HandshakeFailed(_));
            assert_eq!(events.iter().filter(ends).count(), 1, "{events:?}");
        }
    }
}
