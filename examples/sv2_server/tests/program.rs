//! Tests of the program: its arguments, its key file, and its end.

#![cfg(unix)] // The signals, paths and modes of Unix.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use sockman_test_support::{
    program::{
        Program, assert_lack_of_threads_is_told, assert_unix_path_is_handled, signal,
        with_default_signals,
    },
    tools::TempDir,
};
use support::{Client, DEADLINE, with_deadlines};

/// The exit code of the program after a second signal.
const INTERRUPTED: i32 = 130;

fn plain_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sv2_server"));
    command.env_remove("RUST_LOG").args(arguments);
    command
}

fn command(arguments: &[&str]) -> Command {
    with_default_signals(&plain_command(arguments))
}

/// Starts the program on a free port. Returns the program with its public key and its address.
fn start(arguments: &[&str]) -> (Program, String, SocketAddr) {
    started(command(arguments).args(["--listen", "127.0.0.1:0"]))
}

fn started(command: &mut Command) -> (Program, String, SocketAddr) {
    let mut program = Program::start(command);
    let line = program.wait_for_line("authority public key ");
    let key = line.rsplit(' ').next().unwrap().to_owned();
    let line = program.wait_for_line("listening on ");
    let address = line["listening on ".len()..].split(';').next().unwrap().parse().unwrap();
    (program, key, address)
}

/// Returns the public key from its text, without the version.
fn decode(key: &str) -> [u8; 32] {
    let bytes = bitcoin::base58::decode_check(key).unwrap();
    assert_eq!(bytes[..2], [1, 0]);
    bytes[2..].try_into().unwrap()
}

fn failure(arguments: &[&str], code: i32) -> String {
    let Output { status, stderr, .. } = command(arguments).output().unwrap();
    let complaint = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {complaint}");
    complaint
}

#[test]
fn bad_arguments_are_named_and_end_with_code_2() {
    let cases: [(&[&str], &str); 8] = [
        (&["--nonsense"], "--nonsense"),
        (&["stray"], "stray"),
        (&["--listen", "nowhere"], "nowhere"),
        (&["--interval", "0"], "\"0\""),
        // This number of seconds exceeds the limit of the option.
        (&["--interval", "18446744073709551615"], "18446744073709551615"),
        (&["--max-connections", "0"], "\"0\""),
        (&["--max-connections", "many"], "many"),
        (&["--key"], "--key"),
    ];
    for (arguments, expected) in cases {
        let complaint = failure(arguments, 2);
        assert!(complaint.contains(expected), "{arguments:?}: {complaint}");
    }
}

#[test]
fn help_says_what_happens_without_a_key() {
    let output = command(&["--help"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("--key FILE") && text.contains("a new key"), "{text}");
}

#[test]
fn the_key_of_a_file_is_the_same_after_a_restart() {
    let directory = TempDir::new();
    let file = directory.path("authority.key");
    let arguments = ["--key", file.to_str().unwrap()];
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (mut program, key, address) = start(&arguments);
        let stream = with_deadlines(TcpStream::connect(address).unwrap());
        let mut client = Client::on(stream, decode(&key)).unwrap();
        client.set_up();
        client.subscribe();
        client.receive_template();
        program.wait_for_line("subscribed to templates");
        assert!(program.terminate().success());
        client.assert_closed();
        keys.push(key);
    }
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn a_damaged_key_file_is_named_and_left_as_it_is() {
    let directory = TempDir::new();
    let file = directory.path("authority.key");
    fs::write(&file, "no key").unwrap();
    let complaint = failure(&["--key", file.to_str().unwrap(), "--listen", "127.0.0.1:0"], 1);
    assert!(complaint.contains("authority.key") && complaint.contains("left as it is"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "no key");
}

#[test]
fn a_key_file_that_others_can_read_is_used_with_a_warning() {
    let directory = TempDir::new();
    let file = directory.path("authority.key");
    // The programs that `again` starts end by themselves, because the first program uses the
    // address.
    let (_program, key, address) = start(&["--key", file.to_str().unwrap()]);
    let again = || {
        let address = address.to_string();
        let output = command(&["--key", file.to_str().unwrap(), "--listen", &address])
            .env("RUST_LOG", "warn")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(&key), "{said}");
        String::from_utf8(output.stderr).unwrap()
    };
    let complaint = again();
    assert!(!complaint.contains("authority.key"), "{complaint}");
    for mode in [0o640, 0o604] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let complaint = again();
        assert!(complaint.contains("WARN") && complaint.contains("authority.key"), "{complaint}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let (_program, _, address) = start(&[]);
    let address = address.to_string();
    let complaint = failure(&["--listen", &address], 1);
    assert!(complaint.contains(&address), "{complaint}");
}

#[test]
fn clients_do_not_write_the_log() {
    let (mut program, key, address) = start(&["--interval", "3600"]);
    for bytes in [&b""[..], &[7; 64]] {
        for _ in 0..500 {
            let mut stream = with_deadlines(TcpStream::connect(address).unwrap());
            stream.write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    // Clients that subscribe cause a bounded number of lines.
    for _ in 0..50 {
        let stream = with_deadlines(TcpStream::connect(address).unwrap());
        let mut client = Client::on(stream, decode(&key)).unwrap();
        client.set_up();
        client.subscribe();
        client.receive_template();
    }
    signal(program.child.id(), "TERM");
    let mut text = String::new();
    program.stdout.read_to_string(&mut text).unwrap();
    assert!(program.child.wait().unwrap().success());
    assert!(text.contains("lines about clients are left out"), "{text}");
    assert!(text.lines().count() < 30, "{text}");
}

/// With `RUST_LOG`, the program prints more than a pipe holds, and the test does not read it.
#[test]
fn a_blocked_output_stalls_no_client_and_a_second_signal_ends_the_program() {
    const LINES: usize = 10_000;

    let arguments = ["--max-connections", "100", "--listen", "127.0.0.1:0"];
    let mut command = command(&arguments);
    command.env("RUST_LOG", "sv2_server=debug").stderr(Stdio::piped());
    let (mut program, key, address) = started(&mut command);
    for _ in 0..LINES / 2 {
        drop(with_deadlines(TcpStream::connect(address).unwrap()));
    }
    let stream = with_deadlines(TcpStream::connect(address).unwrap());
    let mut client = Client::on(stream, decode(&key)).unwrap();
    client.set_up();
    client.subscribe();
    client.receive_template();

    // The first signal stops the program in order, but its printing loop is blocked. The second
    // signal ends it.
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        signal(program.child.id(), "INT");
        if let Some(status) = program.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the program did not end");
    };
    assert_eq!(status.code(), Some(INTERRUPTED));
    client.assert_closed();
}

#[test]
fn every_signal_ends_the_program_in_order_and_an_unused_path_is_replaced() {
    let directory = TempDir::new();
    let path = directory.path("sv2.sock");
    let listen = format!("unix:{}", path.display());
    assert_unix_path_is_handled(|| plain_command(&["--listen", &listen]), &path, None);
}

#[test]
fn a_lack_of_threads_is_one_line_and_an_exit_code() {
    assert_lack_of_threads_is_told(
        Path::new(env!("CARGO_BIN_EXE_sv2_server")),
        &["--listen", "127.0.0.1:0"],
    );
}
