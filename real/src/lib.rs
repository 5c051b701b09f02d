//! Helpers for the tests against programs that others wrote: paths of the fixtures, of installed
//! programs, and of this workspace's programs; certificates; a bitcoind.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by a panic")]

pub mod bitcoind;
mod certificates;

pub use certificates::write_certificates;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sockman_test_support::program::workspace_program;

/// Returns the path of a file in `real/fixtures/`.
#[must_use]
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// Returns the path of `file`, which `fixtures/<fixture>/install.sh` installs into the folder
/// `<fixture>` of cargo's target directory. `temporary` is the test's `CARGO_TARGET_TMPDIR`.
///
/// # Panics
///
/// The file does not exist.
#[must_use]
pub fn installed(temporary: &str, fixture: &str, file: &str) -> PathBuf {
    let path = Path::new(temporary).with_file_name(fixture).join(file);
    if !path.exists() {
        panic!("{} is missing: run real/fixtures/{fixture}/install.sh first", path.display());
    }
    path
}

/// Returns a command that runs the example `node`.
#[must_use]
pub fn node() -> Command {
    Command::new(workspace_program("sockman-node", "node"))
}
