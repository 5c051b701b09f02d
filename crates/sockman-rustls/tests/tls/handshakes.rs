//! Handshakes that do not come to an end: their time-out, their limit, their ends.

use std::time::Duration;

use sockman::testing::Ended;
use sockman_rustls::{ConfigError, Tls, TlsSettings};

use crate::{
    certificates::{Authority, BOTH, ONLY_12, ONLY_13},
    recorder::{Event, Failure, Recorder},
    world::World,
};

fn world(settings: TlsSettings) -> (World, Authority) {
    let authority = Authority::new();
    (World::new(authority.server(BOTH), settings), authority)
}

#[test]
fn a_silent_client_is_closed_when_its_time_is_over() {
    let (mut world, authority) = world(TlsSettings::default());
    let mut silent = world.client(authority.client(BOTH, None));
    world.thread.run_until_idle().unwrap();
    let passes = world.thread.run_for(Duration::from_secs(9)).unwrap();
    assert!(passes < 5, "{passes} passes of an idle server");
    assert_eq!((world.recorder.events(), world.tls.handshakes()), (Vec::new(), 1));
    world.thread.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(world.recorder.take(), [Event::HandshakeFailed(Failure::HandshakeTimeout)]);
    silent.receive();
    assert_eq!(silent.ended, Some(Ended::Eof));
    world.assert_empty();
}

/// The time is that of the whole handshake, so bytes now and then do not move it.
#[test]
fn a_client_that_sends_a_byte_a_second_is_closed_when_its_time_is_over() {
    let (mut world, authority) = world(TlsSettings::default());
    let mut slow = world.client(authority.client(BOTH, None));
    let mut hello = Vec::new();
    slow.tls.write_tls(&mut hello).unwrap();
    for byte in &hello[..9] {
        slow.peer.send(&[*byte]).unwrap();
        world.thread.run_for(Duration::from_secs(1)).unwrap();
    }
    assert_eq!(world.tls.handshakes(), 1);
    world.thread.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(world.recorder.take(), [Event::HandshakeFailed(Failure::HandshakeTimeout)]);
    world.assert_empty();
}

/// What has arrived in time counts, although the loop looks at it after the time.
#[test]
fn a_handshake_whose_last_bytes_arrived_in_time_is_complete() {
    let (mut world, authority) = world(TlsSettings::default());
    let mut client = world.client(authority.client(ONLY_13, None));
    client.send();
    world.thread.run_until_idle().unwrap();
    client.receive();
    world.thread.run_for(Duration::from_secs(9)).unwrap();
    client.send();
    world.network.advance(Duration::from_secs(5));
    world.exchange(&mut client);
    assert_eq!(world.recorder.take(), [Event::Secured]);
}

#[test]
fn a_complete_handshake_has_no_time_out() {
    let (mut world, _client) = World::with_client();
    let passes = world.thread.run_for(Duration::from_secs(3600)).unwrap();
    assert!(passes < 5, "{passes} passes in an hour");
    assert_eq!((world.recorder.events(), world.sockman.stats().connections), (Vec::new(), 1));
}

/// Clients beyond the limit are closed at the accept. A complete or failed handshake makes room.
#[test]
fn clients_beyond_the_limit_of_handshakes_are_closed() {
    let (mut world, authority) = world(TlsSettings::default().max_handshakes(2));
    let config = || authority.client(BOTH, None);
    let mut first = world.client(config());
    let second = world.client(config());
    world.thread.run_until_idle().unwrap();
    let mut third = world.client(config());
    world.exchange(&mut third);
    assert_eq!((third.ended.is_some(), world.tls.handshakes(), world.tls.refused()), (true, 2, 1));
    assert_eq!(world.recorder.events(), []);

    world.exchange(&mut first);
    assert_eq!((world.recorder.take(), world.tls.handshakes()), (vec![Event::Secured], 1));
    let mut fourth = world.client(config());
    world.exchange(&mut fourth);
    assert_eq!((world.recorder.take(), world.tls.handshakes()), (vec![Event::Secured], 1));

    second.peer.reset();
    world.thread.run_until_idle().unwrap();
    assert_eq!(world.recorder.take(), [Event::HandshakeFailed(Failure::Socket)]);
    assert_eq!((world.tls.handshakes(), world.tls.refused()), (0, 1));
}

/// Each way in which a handshake can end early is reported once, and gives its place back.
#[test]
fn each_early_end_of_a_handshake_is_reported_once() {
    type End = fn(&mut World, crate::world::Client);
    let cases: [(End, Failure); 4] = [
        (|_, client| client.peer.shutdown_write(), Failure::Truncated),
        (|_, client| client.peer.reset(), Failure::Socket),
        (
            |world, _client| {
                assert!(world.sockman.close_connection(world.sockman.connection_ids()[0]));
            },
            Failure::Closed,
        ),
        (
            |world, client| {
                world.sockman.drain_and_stop(Duration::from_secs(60));
                client.peer.shutdown_write();
            },
            Failure::Closed,
        ),
    ];
    for (end, expected) in cases {
        for versions in [ONLY_12, ONLY_13] {
            let (mut world, authority) = world(TlsSettings::default());
            let client = world.client(authority.client(versions, None));
            world.thread.run_until_idle().unwrap();
            end(&mut world, client);
            world.assert_empty();
            assert_eq!(world.recorder.take(), [Event::HandshakeFailed(expected.clone())]);
        }
    }
}

#[test]
fn a_client_that_the_handler_refuses_gets_a_close_notify() {
    let (mut world, authority) = world(TlsSettings::default());
    world.recorder.refuse();
    let mut client = world.client(authority.client(BOTH, None));
    client.send();
    world.exchange(&mut client);
    client.write(b"xlate");
    world.exchange(&mut client);
    assert!(client.has_close_notify && client.error.is_none());
    world.thread.run_for(Duration::from_secs(4)).unwrap();
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::Secured]);
}

#[test]
fn a_configuration_with_early_data_is_refused() {
    let mut config = Authority::new().server(BOTH);
    config.max_early_data_size = 1;
    let error = Tls::server(Recorder::new(), config.into(), TlsSettings::default()).unwrap_err();
    assert!(matches!(error, ConfigError::EarlyData), "{error}");
}
