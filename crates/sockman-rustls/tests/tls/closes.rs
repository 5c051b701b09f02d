//! Each order in which a connection can end.

use std::time::Duration;

use sockman::testing::Ended;

use crate::{
    recorder::{Event, Failure, LINGER, OnEnd},
    world::{Client, World},
};

fn assert_ended_well(client: &Client) {
    assert!(client.has_close_notify, "the server sent no close_notify");
    assert_eq!((client.ended, &client.error), (Some(Ended::Eof), &None));
}

/// This side ends first: everything written, a close_notify, the end of the stream.
#[test]
fn a_finish_sends_what_was_written_a_close_notify_and_the_end() {
    let (mut world, mut client) = World::with_client();
    client.write(b"ehello");
    world.exchange(&mut client);
    client.write(b"f");
    world.exchange(&mut client);
    assert_eq!(client.got, b"hello");
    assert_ended_well(&client);
    // The server waits for the client, discards what it still sends, and reports nothing.
    client.write(b"xlate");
    world.exchange(&mut client);
    assert_eq!(world.sockman.stats().connections, 1);
    client.tls.send_close_notify();
    client.send();
    client.peer.shutdown_write();
    world.assert_empty();
    let data = |bytes: &[u8]| Event::Data(bytes.to_vec());
    assert_eq!(world.recorder.take(), [data(b"ehellof"), Event::Closed]);
}

/// The peer ends first, and the answer still reaches it.
#[test]
fn a_close_notify_of_the_peer_is_reported_once_and_the_rest_still_goes_out() {
    let (mut world, mut client) = World::with_client();
    world.recorder.on_end(OnEnd::AnswerAndFinish);
    client.write(b"ehello");
    client.tls.send_close_notify();
    world.exchange(&mut client);
    assert_eq!(client.got, b"hellothe rest");
    assert_ended_well(&client);
    client.peer.shutdown_write();
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::Data(b"ehello".to_vec()), Event::End, Event::Closed]);
}

/// Data, close_notify and FIN arrive with one receive.
#[test]
fn an_end_in_one_piece_with_the_data_is_no_truncation() {
    for on_end in [OnEnd::Finish, OnEnd::AnswerAndFinish, OnEnd::Nothing] {
        let (mut world, mut client) = World::with_client();
        world.recorder.on_end(on_end);
        client.write(b"xhello");
        client.tls.send_close_notify();
        client.send();
        client.peer.shutdown_write();
        world.exchange(&mut client);
        if on_end == OnEnd::Nothing {
            assert!(!client.has_close_notify);
            assert!(world.recorder.remote().finish(LINGER));
            world.exchange(&mut client);
        }
        assert_ended_well(&client);
        world.assert_empty();
        assert_eq!(
            world.recorder.take(),
            [Event::Data(b"xhello".to_vec()), Event::End, Event::Closed]
        );
    }
}

/// Both sides end at the same time: neither has seen the other's close_notify.
#[test]
fn both_sides_may_end_at_once() {
    let (mut world, mut client) = World::with_client();
    let remote = world.recorder.remote();
    client.tls.send_close_notify();
    client.send();
    client.peer.shutdown_write();
    assert!(remote.finish(LINGER));
    world.exchange(&mut client);
    assert_ended_well(&client);
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::Closed]);
}

/// The peer's FIN without a close_notify is an error of its own, after the data. What was written
/// still goes out.
#[test]
fn a_fin_without_a_close_notify_is_a_truncation() {
    let (mut world, mut client) = World::with_client();
    client.write(b"ehello");
    client.send();
    client.peer.shutdown_write();
    world.exchange(&mut client);
    assert_eq!(client.got, b"hello");
    assert_ended_well(&client);
    world.assert_empty();
    assert_eq!(
        world.recorder.take(),
        [Event::Data(b"ehello".to_vec()), Event::Failed(Failure::Truncated), Event::Closed]
    );
}

/// A FIN in the middle of a record is a truncation too.
#[test]
fn a_fin_within_a_record_is_a_truncation() {
    let (mut world, mut client) = World::with_client();
    client.write(b"xhello");
    while client.tls.wants_write() {
        client.tls.write_tls(&mut client.unsent).unwrap();
    }
    client.unsent.pop();
    client.send();
    client.peer.shutdown_write();
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::Failed(Failure::Truncated), Event::Closed]);
}

#[test]
fn a_reset_is_reported_and_nothing_follows() {
    let (mut world, client) = World::with_client();
    client.peer.reset();
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::Failed(Failure::Socket), Event::Closed]);
}

/// A close at once looks like a truncation to the peer.
#[test]
fn a_close_sends_no_close_notify() {
    let (mut world, mut client) = World::with_client();
    client.write(b"c");
    world.exchange(&mut client);
    assert!(!client.has_close_notify && client.ended.is_some());
    world.assert_empty();
    assert_eq!(world.recorder.take(), [Event::Data(b"c".to_vec()), Event::Closed]);
}

/// A drain, and a finish by another part of the program, end each connection with a close_notify.
#[test]
fn every_end_in_order_sends_a_close_notify() {
    type End = fn(&World);
    let drain: End = |world| world.sockman.drain_and_stop(LINGER);
    let finish: End = |world| {
        assert!(world.sockman.finish_connection(world.recorder.remote().id(), LINGER));
    };
    for end in [drain, finish] {
        let (mut world, mut client) = World::with_client();
        end(&world);
        world.exchange(&mut client);
        assert_ended_well(&client);
        client.peer.shutdown_write();
        world.assert_empty();
        assert_eq!(world.recorder.take(), [Event::Closed]);
    }
}

/// A long answer that waits for room goes out before the close_notify of a finish and of a drain.
#[test]
fn a_finish_sends_the_rest_of_a_long_answer_first() {
    for message in [&b"a1000000f"[..], b"a1000000"] {
        let (mut world, mut client) = World::with_client();
        client.write(message);
        client.send();
        world.thread.run_until_idle().unwrap();
        assert!(world.recorder.taken() < 1_000_000);
        if !message.ends_with(b"f") {
            world.sockman.drain_and_stop(LINGER);
        }
        world.exchange(&mut client);
        assert_eq!(client.got.len(), 1_000_000);
        assert_ended_well(&client);
        client.peer.shutdown_write();
        world.assert_empty();
    }
}

/// A peer that answers no close_notify, and does not close, keeps no connection.
#[test]
fn a_peer_that_ignores_the_end_is_closed_after_the_linger() {
    let (mut world, mut client) = World::with_client();
    let id = world.recorder.remote().id();
    assert!(world.recorder.remote().finish(Duration::from_secs(5)));
    world.thread.run_for(Duration::from_secs(4)).unwrap();
    assert_eq!(world.sockman.stats().connections, 1);
    world.thread.run_for(Duration::from_secs(2)).unwrap();
    client.receive();
    assert_ended_well(&client);
    world.assert_empty();
    assert_eq!(world.recorder.events_of(id), [Event::Closed]);
}
