//! What the programs of the examples share: an orderly end for signals, listening on a
//! unix-domain path that a killed program has left behind, and files with secrets.

pub mod listening;
pub mod private_files;
pub mod signals;
#[cfg(unix)]
mod unused;
