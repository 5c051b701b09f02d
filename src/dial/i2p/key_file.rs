//! The file with the private key of a persistent session. An existing file is read and never
//! overwritten. A missing file is created once.
//!
//! These functions run on the I2P-accept thread, or on the thread that drives a connect. Takes no
//! lock.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{destination::PrivateKey, error::KeyFileError};

/// The most bytes that a key file may have. A key of the present type has 679 bytes. A key with the
/// longest certificate has a little more than 66 kB.
const LONGEST: u64 = 128 * 1024;
/// Only the owner may read and write the file.
const MODE: u32 = 0o600;

/// Returns the key in the file. Returns `None` if the file does not exist.
///
/// # Errors
///
/// Fails if the file exists and cannot be read, or contains no key. The file is left unchanged.
pub(crate) fn read(path: &Path) -> Result<Option<PrivateKey>, KeyFileError> {
    let fail = |step| move |source| KeyFileError::Io { path: path.to_owned(), step, source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(fail("open"))?,
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(fail("read"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(KeyFileError::TooLong { path: path.to_owned() });
    }
    let key = PrivateKey::new(bytes)
        .map_err(|source| KeyFileError::Damaged { path: path.to_owned(), source })?;
    Ok(Some(key))
}

/// Creates the file completely or not at all. The file is written under another name, synced, and
/// then linked to its own name, unless a file of that name was created meanwhile.
///
/// # Errors
///
/// Fails if the file could not be created, or already exists. The failure leaves no other file
/// behind.
pub(crate) fn write_new(path: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    let fail = |step| move |source| KeyFileError::Io { path: path.to_owned(), step, source };
    let mut name = OsString::from(path);
    name.push(format!(".{}.new", std::process::id()));
    let temporary = Path::new(&name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(temporary)
        .map_err(fail("open"))
        .and_then(|mut file| {
            file.write_all(key.as_bytes()).map_err(fail("write"))?;
            file.sync_all().map_err(fail("fsync"))?;
            // A link is used instead of a rename, because a rename would replace a file that
            // another process created.
            fs::hard_link(temporary, path).map_err(fail("link"))
        });
    let removed = fs::remove_file(temporary).map_err(fail("unlink"));
    written?;
    removed?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).map_err(fail("open"))?;
    directory.sync_all().map_err(fail("fsync"))
}
