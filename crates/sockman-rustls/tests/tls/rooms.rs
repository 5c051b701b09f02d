//! A turn reports room several times. The handler ends its connection in the second report.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use sockman::{
    Options,
    options::PanicPolicy,
    testing::{Ended, Network},
};
use sockman_rustls::TlsSettings;

use crate::{
    certificates::{Authority, BOTH},
    recorder::{AtRoom, Event, LINGER, byte_at},
    world::{Client, World},
};

const BUFFER: usize = 1000;
/// The length of the answer that the client asks for. A turn reports room eight times at most, so
/// the answer takes more than one turn.
const LENGTH: usize = 40 * BUFFER;

fn kernels() -> impl Iterator<Item = Network> {
    [Network::linux(), Network::bsd(), Network::macos()].into_iter()
}

fn kernels_with_and_without_a_write() -> impl Iterator<Item = (Network, bool)> {
    kernels().map(|network| (network, false)).chain(kernels().map(|network| (network, true)))
}

/// Lets a client ask for the answer. The handler does `act` in the second report of a turn. Returns
/// when nothing moves any more. The events of the request are taken.
fn answer_with(network: Network, policy: PanicPolicy, act: AtRoom) -> (World, Client) {
    let authority = Authority::new();
    let settings = TlsSettings::default().send_buffer(BUFFER);
    let options = Options::default().panic_policy(policy);
    let mut world = World::with(network, authority.server(BOTH), settings, options);
    let mut client = world.client(authority.client(BOTH, None));
    world.exchange(&mut client);
    client.peer.set_window(4 * LENGTH);
    world.recorder.at_second_room(act);
    client.write(format!("a{LENGTH}").as_bytes());
    world.exchange(&mut client);
    assert!(world.recorder.had_second_room());
    (world, client)
}

/// The events of the request, before those of the end.
fn request() -> [Event; 2] {
    [Event::Secured, Event::Data(format!("a{LENGTH}").into_bytes())]
}

/// Checks that the client has the first bytes of the answer, and returns how many.
#[track_caller]
fn assert_begins_the_answer(client: &Client) -> usize {
    assert!(client.got.iter().enumerate().all(|(at, byte)| *byte == byte_at(at)));
    client.got.len()
}

/// A close in the second report is the last call but `closed`, also after a write that waits for
/// room. What the reports before it wrote has arrived, and no `close_notify` has.
#[test]
fn a_close_in_the_second_report_of_room_is_the_last_call() {
    for (network, writes) in kernels_with_and_without_a_write() {
        let act: AtRoom = Box::new(move |link, value| {
            assert!(!writes || value.write_more(link) > 0);
            assert!(link.close() && link.is_closed());
            assert!(!link.close(), "the second close does nothing");
        });
        let (mut world, client) = answer_with(network, PanicPolicy::Stop, act);
        assert_eq!(client.ended, Some(Ended::Eof));
        assert!(!client.has_close_notify && client.error.is_none());
        let got = assert_begins_the_answer(&client);
        assert_eq!(got, world.recorder.taken(), "what was written before the close is sent");
        world.assert_empty();
        assert_eq!(world.recorder.take(), [&request()[..], &[Event::Closed]].concat());
    }
}

/// An abort in the second report resets the connection, and is the last call but `closed`, also
/// after a write that waits for room.
#[test]
fn an_abort_in_the_second_report_of_room_is_the_last_call() {
    for (network, writes) in kernels_with_and_without_a_write() {
        let act: AtRoom = Box::new(move |link, value| {
            assert!(!writes || value.write_more(link) > 0);
            assert!(link.abort() && link.is_closed());
        });
        let (mut world, client) = answer_with(network, PanicPolicy::Stop, act);
        assert!(matches!(client.ended, Some(Ended::Error(_))), "{:?}", client.ended);
        assert!(!client.has_close_notify);
        world.assert_empty();
        assert_eq!(world.recorder.take(), [&request()[..], &[Event::Closed]].concat());
    }
}

/// A panic in the second report closes the connection. `closed` gives the value back once.
#[test]
fn a_panic_in_the_second_report_of_room_closes_the_connection() {
    for network in kernels() {
        let act: AtRoom = Box::new(|_, _| panic!("as the test wants"));
        let (mut world, client) = answer_with(network, PanicPolicy::CloseConnection, act);
        assert_eq!(client.ended, Some(Ended::Eof));
        assert!(!client.has_close_notify);
        world.assert_empty();
        assert_eq!(world.recorder.take(), [&request()[..], &[Event::Closed]].concat());
    }
}

/// Checks that the client got everything up to `length`, then a `close_notify`, then the end of the
/// stream, and that the connection ends when the client ends its stream, too.
#[track_caller]
fn assert_finished(mut world: World, client: &Client, length: usize) {
    assert_eq!(assert_begins_the_answer(client), length);
    assert!(client.has_close_notify, "the server sent no close_notify");
    assert_eq!((client.ended, &client.error), (Some(Ended::Eof), &None));
    assert_eq!(world.sockman.stats().connections, 1, "the client has not ended its stream");
    client.peer.shutdown_write();
    world.assert_empty();
    assert_eq!(world.recorder.take(), [&request()[..], &[Event::Closed]].concat());
}

/// A finish in the second report sends what was written, if the handler waits for no more room.
#[test]
fn a_finish_in_the_second_report_of_room_sends_what_was_written() {
    for network in kernels() {
        let taken = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&taken);
        let act: AtRoom = Box::new(move |link, value| {
            assert!(link.finish(LINGER));
            assert!(!link.finish(LINGER), "the second finish does nothing");
            written.store(value.taken(), SeqCst);
        });
        let (world, client) = answer_with(network, PanicPolicy::Stop, act);
        let taken = taken.load(SeqCst);
        assert!(taken > 0 && taken < LENGTH);
        assert_finished(world, &client, taken);
    }
}

/// A finish in the second report, before a write that waits for more room, has room reported until
/// the answer is whole. The `close_notify` comes behind it.
#[test]
fn a_finish_in_the_second_report_of_room_waits_for_the_rest_of_the_answer() {
    for network in kernels() {
        let act: AtRoom = Box::new(|link, value| {
            assert!(link.finish(LINGER));
            value.write_more(link);
        });
        let (world, client) = answer_with(network, PanicPolicy::Stop, act);
        assert_finished(world, &client, LENGTH);
    }
}

/// The same, for a peer that reads in small pieces, so that the reports come in turns of their own.
#[test]
fn a_finish_in_the_second_report_of_room_reaches_a_slow_reader_whole() {
    for network in kernels() {
        let act: AtRoom = Box::new(|link, value| {
            value.write_more(link);
            assert!(link.finish(LINGER));
            link.wake();
        });
        let (mut world, mut client) = {
            let authority = Authority::new();
            let settings = TlsSettings::default().send_buffer(BUFFER);
            let mut world = World::on(network, authority.server(BOTH), settings);
            let mut client = world.client(authority.client(BOTH, None));
            world.exchange(&mut client);
            // Room for three buffers, so that a turn reports room twice.
            client.peer.set_window(4 * BUFFER);
            world.recorder.at_second_room(act);
            client.write(format!("a{LENGTH}").as_bytes());
            (world, client)
        };
        world.exchange(&mut client);
        assert!(world.recorder.had_second_room());
        assert_finished(world, &client, LENGTH);
    }
}
