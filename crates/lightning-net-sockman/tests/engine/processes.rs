//! Two processes.

use std::{io::Read, process::Command};

use lightning::bitcoin::secp256k1::PublicKey;
use sockman_test_support::{
    DEADLINE,
    child::{is_child, start},
    program::{Process, Program, example},
};

use crate::ldk::Driven;

/// The child listens, and ends when its standard input does.
#[test]
fn a_node_in_another_process_answers() {
    if is_child() {
        let bob = Driven::start();
        println!("\nnode {} {}", bob.node.id, bob.address);
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        return;
    }
    let alice = Driven::start();
    let mut bob = Process::new(start(a_node_in_another_process_answers));
    let (id, address) = bob.wait_for_line("the node", |line| {
        let (id, address) = line.strip_prefix("node ")?.split_once(' ')?;
        Some((id.parse::<PublicKey>().ok()?, address.trim().parse().ok()?))
    });
    let connection = alice.driver.connect_outbound(id, address).unwrap();
    alice.node.wait_for_peer(id);
    alice.exchange(id, 200, 60_000);
    alice.node.manager.timer_tick_occurred();
    alice.exchange(id, 200, 6);
    // The other process dies without a word.
    drop(bob);
    alice.node.wait_for_end(id);
    assert!(connection.wait_closed(DEADLINE));
    alice.wait_until_alone();
}

/// The example runs to its end.
#[test]
fn the_example_of_two_nodes_ends_by_itself() {
    let output = Command::new(example("two_nodes")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the nodes have parted"), "{text}");
}

/// Two processes of the example shake hands, and each ends at SIGTERM.
#[test]
fn the_example_of_a_node_connects_to_another_one() {
    let path = example("node");
    let mut command = Command::new(&path);
    let mut bob = Program::start(command.args(["--seed", "2", "--listen", "127.0.0.1:0"]));
    let id = bob.wait_for_line("node ").replace("node ", "");
    let address = bob.wait_for_line("listening on ").replace("listening on ", "");
    let mut command = Command::new(&path);
    let mut alice =
        Program::start(command.args(["--seed", "1", "--peer", &format!("{id}@{address}")]));
    let of_alice = alice.wait_for_line("node ").replace("node ", "");
    bob.wait_for_line(&format!("Finished noise handshake for connection with {of_alice}"));
    alice.wait_for_line("connected to ");
    assert!(bob.terminate().success());
    alice.wait_for_line("has ended");
    assert!(alice.terminate().success());
}
