//! The library's own tests, a module for each behaviour. All of them are one program, so that cargo
//! links one; `tests/processes` has the few that need a process of their own.
//!
//! They run beside each other on threads of one process. So a test here
//!
//! - starts no process. A child holds copies of all descriptors until it becomes another program,
//!   and a socket that another test closes meanwhile stays open for as long;
//! - changes nothing that belongs to the process: a limit (a higher one is no harm), the working
//!   directory, the logger, the environment;
//! - counts nothing that belongs to the process: descriptors, their numbers, threads, allocations.
//!   It counts what its own `SockMan` says, or its own [`Spy`](sockman_test_support::tools::Spy);
//! - takes paths from a [`TempDir`](sockman_test_support::tools::TempDir), ports from the kernel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

// The public surface: addresses, texts, what its types are.
mod address;
mod address_errors;
mod readme;
mod surface;

// Connections: bytes, ends, and whom the callbacks are about.
mod bytes;
mod callbacks;
mod close;
mod hooks;
mod loopback;
mod registration;

// Listeners and connects.
mod connection_cap;
mod local_address;
mod reuse_port;
mod start_connect;
mod start_connect_ends;
mod unix_sockets;

// The socket thread: fair, prompt, idle with nothing to do, and what ends it.
mod fairness;
mod no_spin;
mod panics;
mod promptness;
mod restart;

// What the library has for embedders.
mod helpers;
mod send_queue;

// Through others.
#[cfg(feature = "i2p")]
mod i2p;
#[cfg(feature = "socks5")]
mod socks5;
#[cfg(feature = "socks5")]
mod socks5_bytes;
#[cfg(feature = "socks5")]
mod socks5_hostile;

// Over the network in memory.
mod doubles;
mod limits;
