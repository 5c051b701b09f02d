//! The example as a program.

use std::{io::Read, net::TcpListener, process::Command};

use sockman_test_support::{
    program::{Program, example},
    tools::{self, TempDir},
};

/// The example connects, sends nakamoto's first message, and ends in order with a signal.
#[test]
fn the_example_connects_and_ends_with_a_signal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let folder = TempDir::new();
    let mut command = Command::new(example("light_client"));
    command.args(["--network", "regtest", "--connect", &peer.to_string()]);
    let root = folder.path("chain");
    let mut program = Program::start(command.arg("--root").arg(&root));
    let (mut stream, _) = listener.accept().unwrap();
    tools::deadlines(&stream);
    let mut header = [0; 24];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(&header[..16], b"\xfa\xbf\xb5\xdaversion\0\0\0\0\0");
    program.wait_for_line(&format!("peer {peer} connected"));
    assert!(program.terminate().success());
    assert!(root.join(".nakamoto/regtest/headers.db").exists());
}
