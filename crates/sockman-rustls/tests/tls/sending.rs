//! Back-pressure, in both directions.

use rustls::ProtocolVersion;
use sockman::testing::Network;
use sockman_rustls::TlsSettings;

use crate::{
    certificates::{Authority, BOTH, ONLY_12, ONLY_13},
    recorder::{Event, byte_at},
    world::World,
};

const ANSWER: usize = 3_000_000;

/// A reader that stalls costs the send buffer and nothing more, no pass is made meanwhile, and the
/// connection is not read. Afterwards everything comes, in order.
#[test]
fn a_reader_that_stalls_costs_the_send_buffer_and_no_pass() {
    const WINDOW: usize = 10_000;
    let authority = Authority::new();
    for (versions, buffer) in [(ONLY_12, 64 * 1024), (ONLY_13, 64 * 1024), (ONLY_13, 1000)] {
        let settings = TlsSettings::default().send_buffer(buffer);
        let mut world = World::new(authority.server(BOTH), settings);
        let mut client = world.client(authority.client(versions, None));
        world.exchange(&mut client);
        client.peer.set_window(WINDOW);
        client.write(format!("a{ANSWER}").as_bytes());
        client.send();
        world.thread.run_until_idle().unwrap();
        let stalled = world.recorder.taken();
        assert!((1..=WINDOW + buffer).contains(&stalled), "{stalled} bytes were taken");

        // Requests wait in the kernel.
        client.write(b"xnext");
        client.send();
        let hour = std::time::Duration::from_secs(3600);
        let passes = world.thread.run_for(hour).unwrap();
        assert!(passes < 10, "{passes} passes in an hour of stall");
        assert_eq!(world.recorder.taken(), stalled);
        assert!(client.peer.probe_program().is_some_and(|program| program.has_data));

        client.peer.set_window(1 << 20);
        let mut most = 0;
        while client.got.len() < ANSWER {
            let before = client.got.len();
            world.thread.run_until_idle().unwrap();
            client.receive();
            most = most.max(world.recorder.taken() - before);
            assert!(client.got.len() > before, "the answer does not go on");
        }
        assert!(most <= (1 << 20) + WINDOW + buffer, "{most} bytes were under way");
        assert!(client.got.iter().enumerate().all(|(at, byte)| *byte == byte_at(at)));
        world.exchange(&mut client);
        let last = world.recorder.take().pop();
        assert!(matches!(last, Some(Event::Data(data)) if data.ends_with(b"xnext")));
    }
}

/// A turn reports room several times while the kernel takes everything, so a long answer costs few
/// passes. It reports room at most eight times, so other connections have their turns meanwhile.
#[test]
fn a_turn_reports_room_several_times_and_not_without_end() {
    const BUFFER: usize = 1000;
    const ROOMS: usize = 8;
    const LENGTH: usize = 400 * BUFFER;
    let authority = Authority::new();
    let settings = TlsSettings::default().send_buffer(BUFFER);
    let mut world = World::new(authority.server(BOTH), settings);
    let mut client = world.client(authority.client(BOTH, None));
    world.exchange(&mut client);
    client.peer.set_window(2 * LENGTH);
    client.write(format!("a{LENGTH}").as_bytes());
    client.send();
    let passes = world.thread.run_until_idle().unwrap();
    assert_eq!(world.recorder.taken(), LENGTH);
    let least = LENGTH / BUFFER / ROOMS;
    assert!((least..2 * least).contains(&passes), "{passes} passes, and {least} are due");
    world.exchange(&mut client);
    assert!(client.got.iter().enumerate().all(|(at, byte)| *byte == byte_at(at)));
    assert_eq!(client.got.len(), LENGTH);
}

/// A write at the end of a turn, too, has the connection read again when it takes everything, on
/// kernels whose report of room says nothing about data.
#[test]
fn a_write_at_the_end_of_a_turn_ends_a_stall() {
    const ANSWER: usize = 80_000;
    for network in [Network::linux(), Network::bsd(), Network::macos(), Network::windows()] {
        let authority = Authority::new();
        let mut world = World::on(network, authority.server(BOTH), TlsSettings::default());
        world.recorder.go_on_in_each_turn();
        let mut client = world.client(authority.client(BOTH, None));
        world.exchange(&mut client);
        client.peer.set_window(10_000);
        client.write(format!("a{ANSWER}").as_bytes());
        client.send();
        world.thread.run_until_idle().unwrap();
        client.write(b"xnext");
        world.exchange(&mut client);
        assert_eq!(client.got.len(), ANSWER);
        let last = world.recorder.take().pop();
        assert!(matches!(last, Some(Event::Data(data)) if data.ends_with(b"xnext")));
    }
}

/// While the handler pauses, nothing is read. A wake resumes it.
#[test]
fn a_paused_connection_is_not_read_until_it_is_woken() {
    let (mut world, mut client) = World::with_client();
    world.recorder.pause(true);
    client.write(b"ehello");
    client.tls.send_close_notify();
    world.exchange(&mut client);
    assert_eq!(world.recorder.take(), []);
    world.recorder.pause(false);
    world.recorder.remote().wake();
    world.exchange(&mut client);
    assert_eq!(world.recorder.take(), [Event::Data(b"ehello".to_vec()), Event::End]);
    assert_eq!(client.got, b"hello");
}

/// What a closure of another thread writes goes out without a further event.
#[test]
fn what_a_remote_writes_is_sent() {
    let (mut world, mut client) = World::with_client();
    let remote = world.recorder.remote();
    remote.run(|link, _| assert_eq!(link.write(b"hello"), Ok(5))).unwrap();
    world.exchange(&mut client);
    assert_eq!(client.got, b"hello");
}

/// A peer that asks for new keys again and again is stopped, and makes no backlog.
#[test]
fn a_peer_that_asks_for_new_keys_without_end_is_stopped() {
    let (mut world, mut client) = World::with_client();
    assert_eq!(client.tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    client.peer.set_window(0);
    for _ in 0..1000 {
        client.tls.refresh_traffic_keys().unwrap();
        client.send();
        world.thread.run_until_idle().unwrap();
    }
    let events = world.recorder.take();
    assert!(matches!(events[..], [Event::Failed(_)]), "{events:?}");
}

/// A record of one byte each is as good as a large one.
#[test]
fn many_small_writes_arrive_in_order() {
    let (mut world, mut client) = World::with_client();
    let remote = world.recorder.remote();
    remote
        .run(|link, _| {
            for number in 0..=255 {
                assert_eq!(link.write(&[number]), Ok(1));
            }
        })
        .unwrap();
    world.exchange(&mut client);
    assert!(client.got.iter().copied().eq(0..=255));
}
