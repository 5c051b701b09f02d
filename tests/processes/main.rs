//! The library's tests that need a process of their own, because they lower a limit, set the
//! logger, change the working directory, or count what belongs to the whole process: allocations,
//! descriptors and their numbers. Each test runs this program again with that test alone
//! ([`in_child`](sockman_test_support::child::in_child)), or runs an example.
//!
//! These tests are no part of `tests/library`. While a child starts, it holds copies of its
//! parent's descriptors. A socket that another test closes then stays open until the child executes
//! another program. In this program no parent has a socket for which that matters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failed test panics, and a child reports to its parent through its output"
)]
#![cfg_attr(
    windows,
    allow(unused_imports, dead_code, reason = "the tests that need Unix use them")
)]

mod log_lines;

#[cfg(unix)]
mod chat_example;
#[cfg(unix)]
mod echo_example;
#[cfg(unix)]
mod exhaustion;
#[cfg(feature = "i2p")]
mod i2p_secrets;
mod identity;
#[cfg(feature = "i2p")]
mod key_file;
mod log_reasons;
#[cfg(target_os = "linux")]
mod low_water_mark;
mod memory;
#[cfg(unix)]
mod relay_example;
#[cfg(feature = "socks5")]
mod socks5_many;
#[cfg(feature = "socks5")]
mod socks5_secrets;
mod start_connect_many;
mod timers;
mod working_directory;
