//! What the loads of both engines have in common.
use std::{
    io,
    time::{Duration, Instant},
};

/// How long a server may take for a handshake or for an answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A load on a server, on the calling thread. It checks each byte that it receives.
pub trait Load {
    /// Continues the load until the given time, and adds the completed work to the tally.
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()>;
}

/// The work that was completed in a slice of time.
#[derive(Debug, Default)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
}
