//! What the programs of the examples share: an orderly end for signals, and listening on a
//! unix-domain path that a killed program has left behind.

pub mod listening;
pub mod signals;
#[cfg(unix)]
mod unused;
