//! Tests that need a process of their own (a lowered limit, counts of allocations that no other
//! test disturbs): the test binary runs itself again with one test.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::{
    env,
    process::{Child, Command, Stdio},
};

const MARK: &str = "SOCKMAN_TEST_CHILD";

/// Is this the child?
pub fn is_child() -> bool {
    env::var_os(MARK).is_some()
}

fn command(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(MARK, "1");
    command
}

/// Runs `body` in a child process of the test named `test`, which calls this, and shows what it
/// printed.
pub fn in_child(test: &str, body: impl FnOnce()) {
    if is_child() {
        return body();
    }
    let output = command(test).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}\n{err}");
    assert!(output.status.success(), "the child failed:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "no test is named {test}:\n{out}");
}

/// Starts a child of the test named `test`, with pipes to its input and output.
pub fn start(test: &str) -> Child {
    command(test).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}
