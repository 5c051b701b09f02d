//! Key files of I2P that are no regular files. `mkfifo` runs in a process of its own.

use std::{path::Path, process::Command};

use sockman::{
    ConnectOptions, SockMan,
    address::Destination,
    error::ConnectErrorKind,
    i2p::{I2pOptions, I2pStatus, KeyFileError},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder,
    child::in_child,
    drivers::DRIVERS,
    sam::{Bridge, address_of, destination},
    tools::TempDir,
    without_sweep,
};

/// G9: a key file that cannot be opened without a wait ends the connect with an error. Nobody waits
/// for a writer of the FIFO.
#[cfg(unix)]
#[test]
fn a_key_file_that_is_no_regular_file_is_refused_at_once() {
    in_child(a_key_file_that_is_no_regular_file_is_refused_at_once, || {
        let directory = TempDir::new();
        let path = directory.path("key");
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let bridge = Bridge::start();
        let to = Destination::from(address_of(&destination(1)));
        let options = ConnectOptions::default().timeout(DEADLINE);
        for path in [path.as_path(), Path::new("/dev/zero"), Path::new("/dev/null")] {
            let i2p = I2pOptions::new(bridge.address.clone()).key_file(path).accept_incoming(true);
            let recorder = Recorder::new();
            let sockman = SockMan::new(recorder.clone(), without_sweep().i2p(i2p)).unwrap();
            let threads = sockman.start_sockets_threads().unwrap();
            recorder.wait_for_event("the failure to accept", |event| {
                matches!(event, Event::I2p(_, I2pStatus::StopListening))
            });
            for driver in DRIVERS {
                let error = driver.connect(&sockman, &recorder, &to, &options).unwrap_err();
                let ConnectErrorKind::I2pKeyFile { error: KeyFileError::Io { source, .. }, .. } =
                    error.kind()
                else {
                    panic!("{driver:?}: {error:?}");
                };
                assert_eq!(source.kind(), std::io::ErrorKind::InvalidInput, "{error:#}");
            }
            sockman.interrupt();
            threads.join().unwrap();
        }
        assert!(bridge.requests("SESSION CREATE").is_empty());
    });
}
