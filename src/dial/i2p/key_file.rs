//! The file with the private key of a persistent session. An existing file is read and never
//! overwritten. A missing file is created once.
//!
//! These functions may take as long as the file system does. They run on a thread of their own,
//! which [`FileWork`] starts, so that no deadline and no interrupt waits for them. They take no
//! lock. The lock of a `FileWork` is held for a moment.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
};

use data_encoding::HEXLOWER;

use super::{destination::PrivateKey, error::KeyFileError};
use crate::sys::{
    files,
    sync::{Builder, Mutex},
};

/// The most bytes that a key file may have. A key of the present type has 679 bytes. A key with the
/// longest certificate has a little more than 66 kB.
const LONGEST: u64 = 128 * 1024;
/// The number of random bytes in a temporary name. A process id would not do: two containers that
/// share a folder can have the same one.
const NAME_BYTES: usize = 8;
/// The name of the thread that does the file work.
const THREAD_NAME: &str = "i2pkey";

/// File work that runs on a thread of its own. If the file system hangs, only that thread hangs.
pub(crate) struct FileWork<T> {
    result: Arc<Mutex<Option<T>>>,
}

impl<T: Send + 'static> FileWork<T> {
    /// Starts the work.
    ///
    /// # Errors
    ///
    /// The operating system provided no thread.
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> io::Result<FileWork<T>> {
        let result = Arc::new(Mutex::new(None));
        let cell = Arc::clone(&result);
        Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            let done = work();
            *cell.lock() = Some(done);
        })?;
        Ok(FileWork { result })
    }

    /// Takes the result. Returns `None` while the work goes on.
    pub(crate) fn take(&self) -> Option<T> {
        self.result.lock().take()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.result.lock().is_some()
    }
}

/// Returns the key in the file. Returns `None` if the file does not exist.
///
/// # Errors
///
/// Fails if the file exists and cannot be read, or contains no key. The file is left unchanged.
pub(crate) fn read(path: &Path) -> Result<Option<PrivateKey>, KeyFileError> {
    let fail = |step| move |source| KeyFileError::Io { path: path.to_owned(), step, source };
    let file = match files::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(fail("open"))?,
    };
    if !file.metadata().map_err(fail("fstat"))?.is_file() {
        let what = "it is not a regular file";
        return Err(fail("open")(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
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
/// behind, and removes no file of another process.
pub(crate) fn write_new(path: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    let fail = |step| move |source| KeyFileError::Io { path: path.to_owned(), step, source };
    let mut random = [0; NAME_BYTES];
    getrandom::fill(&mut random).map_err(|error| fail("getrandom")(error.into()))?;
    let mut name = OsString::from(path);
    name.push(format!(".{}.new", HEXLOWER.encode(&random)));
    let temporary = Path::new(&name);
    let mut file = files::create_private(temporary).map_err(fail("open"))?;
    let written = file
        .write_all(key.as_bytes())
        .map_err(fail("write"))
        .and_then(|()| file.sync_all().map_err(fail("fsync")))
        // A link is used instead of a rename, because a rename would replace a file that another
        // process created.
        .and_then(|()| fs::hard_link(temporary, path).map_err(fail(LINK)));
    let removed = fs::remove_file(temporary).map_err(fail("unlink"));
    written?;
    removed?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    match files::open_directory(directory).map_err(fail("open"))? {
        Some(directory) => directory.sync_all().map_err(fail("fsync")),
        None => Ok(()),
    }
}

/// The step that fails if another process has created the file meanwhile.
const LINK: &str = "link";

/// Returns whether a write failed because another process has created the file meanwhile.
pub(crate) fn exists_already(error: &KeyFileError) -> bool {
    matches!(error, KeyFileError::Io { step: LINK, source, .. }
        if source.kind() == io::ErrorKind::AlreadyExists)
}
