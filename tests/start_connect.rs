//! `start_connect`: connects that block nobody, driven by the socket thread.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Event, Recorder, Running, without_sweep};
use sockman::ConnectOptions;

/// G2: the outcome comes first.
#[test]
fn the_outcome_is_the_first_callback_that_names_the_id() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().into();
    let id = running.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    common::write_all(&mut peer, b"hello");
    drop(peer);
    recorder.wait_for_eof(id);
    let events = recorder.events_of(id);
    assert!(matches!(events[0], Event::ConnectCompleted { .. }), "{events:?}");
    assert_eq!(recorder.received(id), b"hello");
}
