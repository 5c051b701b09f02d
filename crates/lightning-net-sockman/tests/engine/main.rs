//! `lightning-net-sockman` with LDK's `PeerManager`: two drivers, two processes, the other side with
//! tokio, peers that stall, and peers that lie.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by a panic"
)]

mod events;
mod faults;
mod handshake;
mod ldk;
mod plain_peer;
#[cfg(unix)] // Programs that signals end.
mod processes;
mod stall;
mod tokio_peer;
mod tor;
