//! Files with secrets. The functions may take as long as the file system does.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Only the owner may read and write the file.
const MODE: u32 = 0o600;

/// Opens a file for reading. The open of a FIFO without a writer does not wait.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Creates a file that only its owner may read and write. Fails if the file exists.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Opens a directory, so that a sync writes its entries to the disk. Returns `None` on a system
/// that has no such sync.
pub(crate) fn open_directory(path: &Path) -> io::Result<Option<File>> {
    File::open(path).map(Some)
}
