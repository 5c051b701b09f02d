//! Directories for unit tests. The packed crate has no `tests/support`, which has more.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

/// A directory of one test, removed on drop. Its path leaves room for the path of a unix-domain
/// socket.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// Makes the directory. The name distinguishes the tests of this process.
    pub(crate) fn new(name: &str) -> TempDir {
        const LONGEST: usize = 50;
        let chosen = env::temp_dir();
        let is_long = chosen.as_os_str().len() > LONGEST;
        let directory = if is_long { PathBuf::from("/tmp") } else { chosen };
        let path = directory.join(format!("sockman-unit-{name}-{}", process::id()));
        fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
