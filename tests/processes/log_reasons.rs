//! A log line about a failure ends with the operating system's reason, because an operator sees
//! nothing else.

use std::net::TcpListener;

use sockman::{ConnectOptions, Service, SockMan, sys::errors::ECONNREFUSED};
use sockman_test_support::{Recorder, child::in_child, without_sweep};

use crate::log_lines::{logged, start_logging};

/// Returns an address on which no program listens any more.
fn closed_address() -> Service {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().into()
}

/// Returns the text of the system's error.
fn refused() -> String {
    std::io::Error::from_raw_os_error(ECONNREFUSED).to_string()
}

fn assert_logged(start: &str, end: &str) {
    let lines = logged();
    let found = lines.iter().any(|line| line.starts_with(start) && line.contains(end));
    assert!(found, "no line starts with {start:?} and contains {end:?}: {lines:#?}");
}

#[test]
fn a_connect_that_fails_is_logged_with_its_reason() {
    in_child(a_connect_that_fails_is_logged_with_its_reason, || {
        start_logging();
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        let options = ConnectOptions::default().is_important(true);
        let to = closed_address();
        sockman.connect(&to, &options).unwrap_err();
        let start = format!("INFO sockman::net: cannot connect to {to}");
        assert_logged(&start, &refused());
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
        let i2p =
            I2pOptions::new(closed_address()).key_file(directory.path("key")).accept_incoming(true);
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
        assert_logged(start, &refused());
    });
}

/// The target names the way that a connect takes.
#[cfg(feature = "i2p")]
#[test]
fn a_connect_to_i2p_is_logged_under_the_target_of_i2p() {
    use sockman::i2p::I2pOptions;

    in_child(a_connect_to_i2p_is_logged_under_the_target_of_i2p, || {
        start_logging();
        let options = without_sweep().i2p(I2pOptions::new(closed_address()));
        let sockman = SockMan::new(Recorder::new(), options).unwrap();
        let to = format!("{}.b32.i2p:0", "a".repeat(52));
        sockman.connect(&*to, &ConnectOptions::default()).unwrap_err();
        assert_logged(
            &format!("DEBUG sockman::i2p: cannot connect to {to}"),
            &format!("(os error {ECONNREFUSED})"),
        );
    });
}
