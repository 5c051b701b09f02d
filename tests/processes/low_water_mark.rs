//! `SO_RCVLOWAT`, which no crate sets here: perl(1) sets it on the listener.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use sockman::SockMan;
use sockman_test_support::{Recorder, child::in_child, tools::run_passes, without_sweep};

/// socket(7): accepted sockets inherit the low-water mark of an adopted listener. Fewer bytes cause
/// no event, and wait until more arrive or the stream ends.
#[test]
fn fewer_bytes_than_the_low_water_mark_of_an_adopted_listener_wait() {
    in_child(fewer_bytes_than_the_low_water_mark_of_an_adopted_listener_wait, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = format!(
            "setsockopt(STDIN, {}, {}, pack('i', 6)) or die $!",
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT
        );
        let copy = OwnedFd::from(listener.try_clone().unwrap());
        let perl = Command::new("perl").args(["-e", &script]).stdin(Stdio::from(copy)).status();
        assert!(perl.unwrap().success());

        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
        sockman.start_listening_on(listener).unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let id = recorder.wait_for_accepted(0);
        // A new connection receives once without an event.
        run_passes(&sockman, 1);
        client.write_all(b"few").unwrap();
        run_passes(&sockman, 2);
        assert_eq!(recorder.received(id), b"");
        client.write_all(b" more").unwrap();
        assert_eq!(recorder.wait_for_bytes(id, 8), b"few more");
        client.write_all(b"last").unwrap();
        run_passes(&sockman, 2);
        assert_eq!(recorder.received(id), b"few more");
        drop(client);
        recorder.wait_for_eof(id);
        assert_eq!(recorder.received(id), b"few morelast");
        sockman.interrupt();
        threads.join().unwrap();
    });
}
