//! The program `http_rpc`: how it ends, and how it starts after a program that was killed.

#![cfg(unix)] // The signals, paths and modes of Unix.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, process::Command};

use sockman_test_support::{
    program::{assert_lack_of_threads_is_told, assert_unix_path_is_handled},
    tools::TempDir,
};

#[test]
fn every_signal_ends_the_program_in_order_and_an_unused_path_is_replaced() {
    let directory = TempDir::new();
    let (path, cookie) = (directory.path("rpc"), directory.path("cookie"));
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_http_rpc"));
        command.env_remove("RUST_LOG").arg("--cookie").arg(&cookie);
        command.arg("--listen").arg(format!("unix:{}", path.display()));
        command
    };
    assert_unix_path_is_handled(command, &path, Some(&cookie));
}

#[test]
fn a_lack_of_threads_is_one_line_and_an_exit_code() {
    assert_lack_of_threads_is_told(
        Path::new(env!("CARGO_BIN_EXE_http_rpc")),
        &["--listen", "127.0.0.1:0"],
    );
}
