//! The reactor with a service that does what the tests say, and checks the order of the calls.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod connections;
mod ends;
#[cfg(unix)] // Programs that signals end.
mod programs;
mod runs;
mod script;
mod slow;
mod timers;
mod wakes;
