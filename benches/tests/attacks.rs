//! Proves that the hostile connections of the benchmark do what the names of the attacks say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{MsgFlags, recv},
};
use socket2::SockRef;

/// A time that is long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// More connections than an attack has.
const BACKLOG: i32 = 4096;
/// More bytes than the kernel keeps for a peer whose receive buffer is small.
const MORE_THAN_A_WINDOW: usize = 32 << 20;

struct Attack {
    listener: TcpListener,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Attack {
    /// Starts an attack on a listener of the test.
    fn start(name: &str) -> Attack {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // With a full backlog, the kernel drops connections that their clients take for open.
        SockRef::from(&listener).listen(BACKLOG).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sockman-benches"))
            .args(["attack", &listener.local_addr().unwrap().to_string(), name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut attack = Attack { listener, child, answers };
        assert_eq!(attack.answer(), "ready");
        attack
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn begin(&self) {
        writeln!(self.child.stdin.as_ref().unwrap(), "begin").unwrap();
    }

    /// Ends the attack, and returns how much it has counted.
    fn end(mut self) -> u64 {
        drop(self.child.stdin.take());
        let answer = self.answer();
        assert!(self.child.wait().unwrap().success());
        let (count, seconds) = answer.split_once(' ').unwrap();
        assert!(seconds.parse::<f64>().unwrap() > 0.0);
        count.parse().unwrap()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

#[test]
fn a_crowd_sends_nothing_before_the_begin_and_then_writes_from_every_connection() {
    for (name, size) in
        [("single-bytes", 1000), ("single-bytes-flood", 1000), ("bulk-from-100", 100)]
    {
        let attack = Attack::start(name);
        let streams: Vec<TcpStream> = (0..size).map(|_| attack.accept()).collect();
        for stream in &streams {
            stream.set_nonblocking(true).unwrap();
            let error = (&*stream).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{name}");
            stream.set_nonblocking(false).unwrap();
        }
        attack.begin();
        for mut stream in &streams {
            stream.read_exact(&mut [0]).unwrap();
        }
        assert!(attack.end() >= size, "{name}");
    }
}

#[test]
fn idle_connections_never_send() {
    let attack = Attack::start("idle");
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| attack.accept()).collect();
    attack.begin();
    assert_eq!(attack.end(), 0);
    for stream in &mut streams {
        // The process has ended, and its connections are reset.
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn out_of_band_bytes_are_no_part_of_the_stream() {
    let attack = Attack::start("out-of-band-bytes");
    let streams: Vec<TcpStream> = (0..1000).map(|_| attack.accept()).collect();
    attack.begin();
    // An urgent byte comes on each connection.
    for stream in &streams {
        // Before the first urgent byte, the kernel answers EINVAL.
        while recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_OOB).is_err() {
            thread::yield_now();
        }
    }
    attack.end();
}

#[test]
fn resets_come_at_their_rate_and_each_connection_is_reset() {
    let attack = Attack::start("resets");
    attack.begin();
    for _ in 0..200 {
        let error = attack.accept().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(attack.end() >= 200);
}

#[test]
fn a_bulk_peer_discards_the_echo_and_one_with_a_zero_window_does_not() {
    for (name, size, reads) in [("bulk-from-100", 100, true), ("zero-windows", 1000, false)] {
        let attack = Attack::start(name);
        let streams: Vec<TcpStream> = (0..size).map(|_| attack.accept()).collect();
        attack.begin();
        let (stream, mut sent) = (&streams[0], 0);
        // A reading peer makes room within its time-out. The other one never does, so a longer
        // time-out would change nothing.
        let patience = if reads { PATIENCE } else { Duration::from_millis(300) };
        stream.set_write_timeout(Some(patience)).unwrap();
        while sent < MORE_THAN_A_WINDOW {
            match (&*stream).write(&[0; 64 * 1024]) {
                Ok(written) => sent += written,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{name}");
                    break;
                }
            }
        }
        assert_eq!(sent >= MORE_THAN_A_WINDOW, reads, "{name} has read {sent} bytes");
        attack.end();
    }
}

#[test]
fn a_connection_that_the_server_closes_is_opened_again() {
    let attack = Attack::start("bulk-from-100");
    let mut streams: Vec<TcpStream> = (0..100).map(|_| attack.accept()).collect();
    attack.begin();
    drop(streams.pop());
    let mut again = attack.accept();
    again.read_exact(&mut [0]).unwrap();
    attack.end();
}
