//! The file of a unix-domain listener, which the library does not have on Windows.

use std::path::Path;

use super::RawSocket;

/// A socket file. There is none.
#[derive(Debug)]
pub(crate) enum SocketFile {}

impl SocketFile {
    /// Returns `None`. A test double may have a listener with a path, but no file.
    pub(crate) fn made_by_bind(_: &Path, _: RawSocket) -> Option<SocketFile> {
        None
    }

    pub(crate) fn remove(&self) {
        match *self {}
    }
}
