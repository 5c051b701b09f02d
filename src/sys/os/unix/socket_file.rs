//! The file of a unix-domain listener: which file `bind` created, and its removal.
//!
//! The functions run on any thread and take no lock.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::RawFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use super::holders::{is_unix_socket_open, socket_inode};
use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// How many names are tried for the directory in which a socket file is removed. A name is taken
/// only if an earlier process of the same number was killed in the middle of a removal.
const ATTEMPTS_FOR_A_NAME: u32 = 16;
/// How often a drop checks whether another process holds the socket. A child holds a copy for a
/// moment each time that any thread starts a program: between the fork and the exec.
const LOOKS: u32 = 10;
/// The time between two of these checks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// A socket file that `bind` created. The inode identifies the file, so that another file of the
/// same name is not removed. `remove` removes the file. A drop does so, too, unless the process has
/// forked and another process may still listen on the socket: then the last process removes the
/// file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The inode of the socket itself, which differs from the inode of the file. `None` if the
    /// system does not tell.
    socket: Option<u64>,
    /// The id of the process that created the file.
    maker: u32,
    /// Whether the file was removed. The library removes the file only once, because the next file
    /// of that name may get the same inode.
    removed: AtomicBool,
}

impl Drop for SocketFile {
    /// The listener has closed its socket before.
    fn drop(&mut self) {
        if self.removed.load(Ordering::Acquire) {
            return;
        }
        for look in 0..LOOKS {
            if look > 0 {
                thread::sleep(BETWEEN_LOOKS);
            }
            let is_held_elsewhere = self
                .socket
                .and_then(is_unix_socket_open)
                .unwrap_or_else(|| self.maker != process::id());
            if !is_held_elsewhere {
                return self.remove();
            }
        }
    }
}

impl SocketFile {
    /// Returns the file at `path`, which `bind` has just created for the socket `fd`.
    pub(crate) fn made_by_bind(path: &Path, fd: RawFd) -> Option<SocketFile> {
        // A relative path would name another file after the process changes its directory.
        let path = std::path::absolute(path).ok()?;
        let file = fs::symlink_metadata(&path).ok()?;
        let (device, inode) = (file.dev(), file.ino());
        let (socket, maker) = (socket_inode(fd), process::id());
        Some(SocketFile { path, device, inode, socket, maker, removed: AtomicBool::new(false) })
    }

    /// Removes the file, once, unless another file has taken its path.
    pub(crate) fn remove(&self) {
        if self.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        if !self.is_ours(&self.path) {
            return;
        }
        if let Err(error) = self.remove_if_still_ours() {
            log::warn!(
                target: "sockman::net",
                "cannot remove the socket file {} of a stopped listener: {error}",
                self.path.display()
            );
        }
    }

    fn is_ours(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|file| file.dev() == self.device && file.ino() == self.inode)
    }

    /// Removes the file. Another program may replace the file at any time, and no system call
    /// removes a file only if it is a certain one. The file is therefore moved into a directory
    /// that nobody else uses. There it is removed, or put back if it turns out to be another file.
    fn remove_if_still_ours(&self) -> io::Result<()> {
        let Some(directory) = self.make_directory() else {
            // The program may have no right to make a directory.
            return fs::remove_file(&self.path);
        };
        let moved = directory.join("socket");
        let removed = match fs::rename(&self.path, &moved) {
            Ok(()) if self.is_ours(&moved) => fs::remove_file(&moved),
            Ok(()) => self.put_back(&moved),
            // Another program has removed the file meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.and(fs::remove_dir(&directory))
    }

    /// Puts another program's file back, unless a third file has taken its path.
    fn put_back(&self, moved: &Path) -> io::Result<()> {
        match fs::hard_link(moved, &self.path) {
            // Linux may forbid links to the files of other users.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                fs::rename(moved, &self.path)
            }
            _ => fs::remove_file(moved),
        }
    }

    /// Makes a directory beside the socket file.
    fn make_directory(&self) -> Option<PathBuf> {
        let parent = self.path.parent()?;
        (0..ATTEMPTS_FOR_A_NAME).find_map(|n| {
            let path = parent.join(format!(".sockman-{}-{}-{n}", process::id(), self.inode));
            // `mkdir` fails if the name is taken, so the directory is this call's own.
            DirBuilder::new().mode(0o700).create(&path).is_ok().then_some(path)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::net::UnixListener};

    use super::*;
    use crate::sys::temporary::TempDir;

    fn names(directory: &TempDir) -> Vec<PathBuf> {
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// A file that another program puts in place between the check and the removal stays.
    #[test]
    fn a_file_that_replaces_the_socket_file_at_the_last_moment_stays() {
        let dir = TempDir::new("replaced");
        let path = dir.path().join("sock");
        let first = UnixListener::bind(&path).unwrap();
        let bound = SocketFile::made_by_bind(&path, first.as_raw_fd()).unwrap();
        // The second socket exists before the first file is gone, so its inode is another one.
        let _second = UnixListener::bind(dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        bound.remove_if_still_ours().unwrap();
        assert_eq!(names(&dir), std::slice::from_ref(&path));
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(first);
    }

    /// The socket file itself is removed, and nothing is left beside it.
    #[test]
    fn the_socket_file_is_removed_and_leaves_nothing() {
        let dir = TempDir::new("own");
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let bound = SocketFile::made_by_bind(&path, listener.as_raw_fd()).unwrap();
        // A directory of the name that the removal would use does no harm.
        let inode = fs::symlink_metadata(&path).unwrap().ino();
        let taken = dir.path().join(format!(".sockman-{}-{inode}-0", process::id()));
        fs::create_dir(&taken).unwrap();
        bound.remove_if_still_ours().unwrap();
        assert_eq!(names(&dir), std::slice::from_ref(&taken));
        // A file that is gone is no error.
        bound.remove_if_still_ours().unwrap();
        assert_eq!(names(&dir), [taken]);
    }
}
