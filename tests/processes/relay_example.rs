//! `examples/relay.rs` as a program: two gigabytes through a reader that stalls, its memory, and its
//! command line. `tests/library` has the scenarios of ends and resets.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream, process::ExitStatusExt},
    },
    process::{Command, Output},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use sockman_test_support::program::{Program, example};
use sockman_test_support::tools::{Random, deadlines};

/// A tenth in debug mode, in which the bytes cost more.
const LENGTH: u64 = if cfg!(debug_assertions) { 200_000_000 } else { 2_000_000_000 };
/// How often the reader stalls.
const STALLS: u64 = 5;
/// How long the writer waits for room before it counts as stalled. A shorter time would be right,
/// too: the stalls would only be shorter.
const PATIENCE: Duration = Duration::from_millis(200);
/// The most memory that the program may have used, in kilobytes: what it needs at its start, and the
/// buffers of two queues, each at most four times the high mark of a megabyte.
const MOST_MEMORY: u64 = 24_000;

fn start(target: &str) -> (Program, String) {
    let mut program = Program::start(Command::new(example("relay")).args(["127.0.0.1:0", target]));
    let line = program.wait_for_line("listening");
    let address = line.rsplit(' ').next().unwrap().to_owned();
    (program, address)
}

/// Returns a field of the process' status, in kilobytes.
fn memory(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// The bytes of a stream: a pattern whose length has no divisor, so that no mistake of a buffer's
/// size goes unnoticed.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Pattern {
        Pattern(Random::new(17).bytes(1_048_573))
    }

    /// Returns the next bytes from this place on.
    fn from(&self, place: u64) -> &[u8] {
        &self.0[(place % self.0.len() as u64) as usize..]
    }
}

/// Writes the whole stream and its end. Reports each time that there was no room for a while.
fn write(mut stream: &TcpStream, pattern: &Pattern, stalled: Sender<()>) {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut sent = 0;
    while sent < LENGTH {
        let bytes = pattern.from(sent);
        let bytes = &bytes[..bytes.len().min((LENGTH - sent) as usize)];
        match stream.write(bytes) {
            Ok(written) => sent += written as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => drop(stalled.send(())),
            Err(error) => panic!("cannot write after {sent} bytes: {error}"),
        }
    }
    drop(stalled);
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads and checks the whole stream up to its end. Several times, reads nothing until the writer is
/// stalled, or has written everything into the buffers of the kernel. Returns how often it stalled.
fn read(
    mut stream: &TcpStream,
    pattern: &Pattern,
    stalled: &Receiver<()>,
    at_stall: impl Fn(),
) -> u64 {
    let mut buffer = vec![0; 256 * 1024];
    let (mut received, mut next_stall, mut stalls) = (0, 0, 0);
    loop {
        if received >= next_stall && next_stall < LENGTH {
            // The reports of the last stall may come late.
            while stalled.try_recv().is_ok() {}
            if stalled.recv().is_ok() {
                at_stall();
                stalls += 1;
            }
            next_stall += LENGTH / STALLS;
        }
        let bytes = stream.read(&mut buffer).unwrap();
        if bytes == 0 {
            break;
        }
        let mut rest = &buffer[..bytes];
        while !rest.is_empty() {
            let expected = pattern.from(received);
            let length = rest.len().min(expected.len());
            assert!(rest[..length] == expected[..length], "other bytes after {received}");
            (rest, received) = (&rest[length..], received + length as u64);
        }
    }
    assert_eq!(received, LENGTH);
    stalls
}

/// G5, G10: all bytes arrive, in order, through a reader that stalls, and then the end. The memory
/// of the program stays within the marks of its queue. Without back-pressure, the program would keep
/// what the writer sends.
#[test]
fn two_gigabytes_pass_a_stalled_reader_with_flat_memory() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let (program, address) = start(&target.local_addr().unwrap().to_string());
    let process = program.child.id();
    let pattern = Pattern::new();
    // Once from the client to the target, and once the other way.
    for client_writes in [true, false] {
        let client = TcpStream::connect(&address).unwrap();
        let (server, _) = target.accept().unwrap();
        deadlines(&client);
        deadlines(&server);
        let (writer, reader) = if client_writes { (client, server) } else { (server, client) };
        let (stalls, stalled) = channel();
        thread::scope(|scope| {
            let (writing, pattern) = (&writer, &pattern);
            scope.spawn(move || write(writing, pattern, stalls));
            let stalls = read(&reader, pattern, &stalled, || {
                println!("stalled, with {} kB", memory(process, "VmRSS"));
            });
            assert!(stalls > STALLS / 2, "the reader stalled {stalls} times");
        });
        reader.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&writer).read(&mut [0; 1]).unwrap(), 0);
    }
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().count();
    assert_eq!(threads, 1, "the relay needs the socket thread alone");
    let most = memory(process, "VmHWM");
    assert!(most < MOST_MEMORY, "the relay used {most} kB");
    // The program ends by the signal and not by an error.
    assert_eq!(program.terminate().signal(), Some(libc::SIGTERM));
}

/// The program resets a client whose target refuses, and serves the next one.
#[test]
fn a_target_that_refuses_and_one_that_does_not() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = target.local_addr().unwrap();
    drop(target);
    let (_program, address) = start(&to.to_string());
    let mut refused = TcpStream::connect(&address).unwrap();
    deadlines(&refused);
    let error = refused.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    // Another process may have taken the port meanwhile.
    let Ok(target) = TcpListener::bind(to) else { return };
    let mut client = TcpStream::connect(&address).unwrap();
    deadlines(&client);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    target.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

/// Runs the program, which ends with an error, and returns its only line.
fn complaint(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let complaint = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), complaint.lines().count()), (Some(1), 1), "{complaint}");
    assert!(stdout.is_empty());
    complaint
}

#[test]
fn wrong_arguments_print_the_usage() {
    for arguments in [&[][..], &["127.0.0.1:0"], &["127.0.0.1:0", "127.0.0.1:1", "more"]] {
        let complaint = complaint(Command::new(example("relay")).args(arguments));
        assert_eq!(complaint, "relay: usage: relay LISTEN TARGET\n");
    }
    let no_text = std::ffi::OsStr::from_bytes(b"\xff");
    let complaint = complaint(Command::new(example("relay")).arg("127.0.0.1:0").arg(no_text));
    assert!(complaint.contains("usage"), "{complaint}");
}

/// An address that is none is named, and so is one that is in use.
#[test]
fn a_wrong_address_is_named() {
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let taken = TcpListener::bind(&in_use).unwrap();
    for (listen, target, named) in
        [("127.0.0.1:0", "localhost", "localhost"), ("nonsense", "127.0.0.1:1", "nonsense")]
    {
        let complaint = complaint(Command::new(example("relay")).args([listen, target]));
        assert!(complaint.contains(named), "{complaint}");
    }
    let complaint = complaint(Command::new(example("relay")).args([&*in_use, "127.0.0.1:1"]));
    assert!(complaint.contains(&in_use), "{complaint}");
    drop(taken);
}

/// The reader of standard output may be gone before the program prints.
#[test]
fn a_closed_standard_output_is_no_panic() {
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let mut command = Command::new(example("relay"));
    command.args(["127.0.0.1:0", "127.0.0.1:1"]).stdout(OwnedFd::from(writer));
    complaint(&mut command);
}
