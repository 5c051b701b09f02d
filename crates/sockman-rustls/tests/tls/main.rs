//! `sockman-rustls` with rustls as the other side: over a network in memory, byte by byte, and over
//! loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod certificates;
mod closes;
mod dials;
mod faults;
mod handshakes;
mod loopback;
mod negotiation;
mod recorder;
mod rooms;
mod sending;
mod world;
