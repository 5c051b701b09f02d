//! The library's tests that need a process of their own, because they lower a limit, set the logger,
//! change the working directory, or count what belongs to the whole process: allocations,
//! descriptors and their numbers. Each runs this program again, with itself alone
//! ([`in_child`](sockman_test_support::child::in_child)), or an example.
//!
//! They are no part of `tests/library`: while a child starts, it holds copies of its parent's
//! descriptors, and what a test closes in the parent is not closed until the child is another
//! program. Here no parent has a socket of which that matters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is how a test fails, and a child tells its parent by what it prints"
)]

mod log_lines;

mod echo_example;
mod exhaustion;
#[cfg(feature = "i2p")]
mod i2p_secrets;
mod identity;
mod log_reasons;
mod memory;
#[cfg(feature = "socks5")]
mod socks5_many;
#[cfg(feature = "socks5")]
mod socks5_secrets;
mod start_connect_many;
mod working_directory;
