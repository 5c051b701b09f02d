//! Many connects that are started at once.
use std::io;

use crate::{connects::measure, cores::Cores, servers::Peer};

/// Returns the processor time of one connect, µs: that of the repetition whose process waited least
/// for other programs.
pub(super) fn run(peer: Peer, count: usize, repeats: usize, cores: Cores) -> io::Result<f64> {
    let mut calmest = measure(peer, count, cores.server)?;
    for _ in 1..repeats {
        let again = measure(peer, count, cores.server)?;
        if again.waited < calmest.waited {
            calmest = again;
        }
    }
    Ok(calmest.on_core as f64 / 1e3 / count as f64)
}
