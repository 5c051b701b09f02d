//! What the log says of a failure ends with the operating system's reason: it is all that an operator
//! has.

use std::net::TcpListener;

use sockman::{ConnectOptions, Service, SockMan};
use sockman_test_support::{Recorder, child::in_child, without_sweep};

use crate::log_lines::{logged, start_logging};

/// An address on which no program listens any more.
fn nobody() -> Service {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().into()
}

fn assert_logged(start: &str, end: &str) {
    let lines = logged();
    let found = lines.iter().any(|line| line.starts_with(start) && line.contains(end));
    assert!(found, "no line {start:?} … {end:?} in {lines:#?}");
}

#[test]
fn a_connect_that_fails_is_logged_with_its_reason() {
    in_child(a_connect_that_fails_is_logged_with_its_reason, || {
        start_logging();
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        let options = ConnectOptions::default().is_important(true);
        let to = nobody();
        sockman.connect(&to, &options).unwrap_err();
        let start = format!("INFO sockman::net: cannot connect to {to}");
        assert_logged(&start, "Connection refused (os error 111)");
    });
}

#[cfg(feature = "i2p")]
#[test]
fn a_bridge_that_cannot_be_reached_is_logged_with_its_reason() {
    use sockman::i2p::{I2pOptions, I2pStatus};
    use sockman_test_support::{Event, tools::TempDir};

    in_child(a_bridge_that_cannot_be_reached_is_logged_with_its_reason, || {
        start_logging();
        let directory = TempDir::new();
        let i2p = I2pOptions::new(nobody()).key_file(directory.path("key")).accept_incoming(true);
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep().i2p(i2p)).unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        recorder.wait_for("the failure", |events| {
            events
                .iter()
                .any(|event| matches!(event, Event::I2p(_, I2pStatus::StopListening)))
                .then_some(())
        });
        sockman.interrupt();
        threads.join().unwrap();
        let start = "WARN sockman::i2p: cannot accept from I2P through";
        assert_logged(start, "Connection refused (os error 111)");
    });
}
