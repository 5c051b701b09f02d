//! `examples/echo.rs` as a program: its three modes and its back-pressure.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::Command,
    thread,
    time::Duration,
};

use sockman_test_support::program::{Program, assert_lack_of_threads_is_told, example};

fn start(mode: &str) -> (Program, TcpStream) {
    let mut program = Program::start(Command::new(example("echo")).args([mode, "0"]));
    let line = program.wait_for_line("listening");
    let address = line.rsplit(' ').next().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    (program, stream)
}

/// G5: sends more than the queue's high mark and all kernel buffers hold. The peer writes
/// everything before it reads. Without back-pressure the transfer would not end. Without the wait
/// for the queue the connection would end too early.
#[test]
fn echo_returns_everything_to_a_peer_that_half_closes() {
    let (program, stream) = start("echo");
    let sent: Vec<u8> = (0..20_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let mut received = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        (&stream).read_to_end(&mut received).unwrap();
    });
    assert!(
        received == sent,
        "the echo returned {} of {} bytes, or other bytes",
        received.len(),
        sent.len()
    );
    // The program ends by the signal and not by an error.
    assert_eq!(program.terminate().signal(), Some(libc::SIGTERM));
}

#[test]
fn sink_takes_everything_and_closes_at_the_end() {
    let (program, mut stream) = start("sink");
    stream.write_all(&vec![1; 5_000_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // The program ends by the signal and not by an error.
    assert_eq!(program.terminate().signal(), Some(libc::SIGTERM));
}

#[test]
fn source_sends_as_long_as_the_client_reads() {
    let (program, mut stream) = start("source");
    stream.read_exact(&mut vec![0; 50_000_000]).unwrap();
    // The program ends by the signal and not by an error.
    assert_eq!(program.terminate().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_wrong_mode_prints_the_usage() {
    let output = Command::new(example("echo")).args(["ecco", "0"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"));
}

/// A program ends with a message if the system gives it no thread. It does not panic.
#[test]
fn a_lack_of_threads_is_one_line_and_an_exit_code() {
    assert_lack_of_threads_is_told(&example("echo"), &["echo", "0"]);
    assert_lack_of_threads_is_told(&example("first"), &[]);
}

/// The reader of standard output may be gone before the program prints.
#[test]
fn a_closed_standard_output_is_no_panic() {
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let writer = OwnedFd::from(writer);
    let output = Command::new(example("echo")).args(["echo", "0"]).stdout(writer).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), complaint.lines().count()), (Some(1), 1), "{complaint}");
}
