//! Files with secrets. On Unix, only the owner of such a file can read it. On Windows, a file has the
//! access rights of its folder, so keep it in the user's profile.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Creates a file that only its owner can read and write.
///
/// # Errors
///
/// The file exists, or cannot be created.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Returns whether the mode of a file lets other users read it. Windows has no modes, and the
/// function returns `false` there.
///
/// # Errors
///
/// The file's metadata cannot be read.
pub fn is_readable_by_others(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o044 != 0);
    #[cfg(not(unix))]
    {
        let _no_mode = metadata;
        Ok(false)
    }
}

/// Makes a new name in a file's folder outlast a failure of the power. Windows cannot sync folders.
/// There, the file system's journal does the same a little later.
///
/// # Errors
///
/// The folder cannot be opened or synced.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
