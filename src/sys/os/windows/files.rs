//! Files with secrets. The functions may take as long as the file system does.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Creates a file. Fails if the file exists. The file inherits the access rights of its folder,
/// because the standard library sets no others. A folder of the user's profile gives them to the
/// user, the administrators and the system.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Returns `None`: NTFS keeps a journal of its folders, and has no call that syncs one.
#[allow(clippy::unnecessary_wraps, reason = "the function of Unix fails")]
pub(crate) fn open_directory(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}
