//! The library's own tests: one module for each behaviour, all in one program, so that cargo links
//! one binary. `tests/processes` has the few tests that need a process of their own.
//!
//! The tests run in parallel, on threads of one process. Therefore a test here
//!
//! - starts no process. A child process holds copies of all descriptors until it executes another
//!   program, and a socket that another test closes meanwhile stays open for as long;
//! - changes no state of the process: the limits (raising one is harmless), the working directory,
//!   the logger, the environment;
//! - counts nothing of the whole process: descriptors, their numbers, threads, allocations. It
//!   counts what its own `SockMan` reports, or its own [`Spy`](sockman_test_support::tools::Spy);
//! - takes paths from a [`TempDir`](sockman_test_support::tools::TempDir) and ports from the
//!   kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test panics")]
#![cfg_attr(
    windows,
    allow(unused_imports, dead_code, reason = "the tests that need Unix use them")
)]

// The public surface: addresses, error texts, traits of the types.
mod address;
mod address_errors;
mod readme;
mod surface;

// Connections: bytes, ends, and the ids that the callbacks name.
mod bytes;
mod callbacks;
mod close;
mod ending;
mod guide;
mod handover;
mod handover_doubles;
mod hang_up;
mod hooks;
mod kernels;
mod logging;
mod loopback;
mod registration;

// Listeners and connects.
mod alternatives;
mod connect_faults;
mod connection_cap;
mod local_address;
mod reuse_port;
mod self_connect;
#[cfg(target_os = "linux")]
mod socket_options;
mod start_connect;
mod start_connect_ends;
mod start_connect_values;
#[cfg(unix)]
mod unix_sockets;
mod windows;
#[cfg(all(feature = "i2p", feature = "socks5"))]
mod windows_connects;

// The socket thread: fairness, promptness, idleness, panics and restarts.
mod callers_thread;
mod fairness;
mod no_spin;
mod panics;
mod promptness;
mod restart;

// The helpers for embedders.
mod helpers;
mod rate_limits;
mod relay;
mod relay_example;
mod send_budget;
mod send_queue;
mod send_queue_pieces;
mod stateful;
mod stateful_threads;

// Connections through I2P and SOCKS5.
#[cfg(feature = "i2p")]
mod i2p;
#[cfg(feature = "socks5")]
mod socks5;
#[cfg(feature = "socks5")]
mod socks5_bytes;
#[cfg(feature = "socks5")]
mod socks5_hostile;

// What the manual pages and the protocols say, as far as no module above tests it.
mod conformance;

// Over the network in memory.
mod by_hand;
mod doubles;
mod lacks;
mod limits;
