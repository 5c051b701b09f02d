//! The program `https`: how it ends, and what it says about its arguments.

#![cfg(unix)] // The signals, paths and modes of Unix.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod support;

use std::{fs, process::Command};

use sockman_test_support::program::assert_unix_path_is_handled;
use support::Pki;

#[test]
fn every_signal_ends_the_program_in_order_and_an_unused_path_is_replaced() {
    let pki = Pki::new();
    let path = pki.path("https");
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_https"));
        command.env_remove("RUST_LOG").arg("--cert").arg(pki.path("server.pem"));
        command.arg("--key").arg(pki.path("server.key"));
        command.arg("--listen").arg(format!("unix:{}", path.display()));
        command
    };
    assert_unix_path_is_handled(command, &path, None);
}

/// Each fault of the arguments is one line that names the file or the option.
#[test]
fn faults_of_the_arguments_are_one_line_and_an_exit_code() {
    let pki = Pki::new();
    fs::write(pki.path("empty"), "").unwrap();
    let path = |name: &str| pki.path(name).to_str().unwrap().to_owned();
    let run = |arguments: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_https"));
        let output = command.args(arguments).env_remove("RUST_LOG").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let with = |certificate: &str, key: &str, more: &[&str]| {
        let mut arguments = vec!["--cert".into(), path(certificate), "--key".into(), path(key)];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        run(&arguments)
    };
    let cases = [
        (run(&[]), 2, "--cert"),
        (with("server.pem", "server.key", &["--require-client-cert"]), 2, "--client-ca"),
        (with("server.pem", "server.key", &["--client-ca", &path("empty")]), 1, "empty"),
        (with("missing", "server.key", &[]), 1, "missing"),
        (with("empty", "server.key", &[]), 1, "empty"),
        (with("server.pem", "empty", &[]), 1, "empty"),
        (with("server.pem", "client.key", &[]), 1, "server.pem"),
    ];
    for ((code, text), expected, named) in cases {
        assert_eq!(code, expected, "{text}");
        assert!(text.lines().next().is_some_and(|line| line.contains(named)), "{text}");
    }
}
