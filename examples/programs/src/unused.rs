//! Socket files on which no process listens.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};
use sockman::{Service, address::NetAddr};

/// Removes the file of a unix-domain address if no process listens on it. Returns whether the file
/// is gone.
pub(crate) fn remove(address: &Service) -> bool {
    let NetAddr::Unix(unix) = address.addr() else { return false };
    let Some(path) = unix.as_path() else { return false };
    is_unused(path) && remove_unused(path).unwrap_or(false)
}

/// Removes a file on which no process listened at the last look. Returns `false` if a process listens
/// now: another start of the program may have put its own file there. So the file is moved first,
/// which no other process does at the same time, and looked at again.
fn remove_unused(path: &Path) -> io::Result<bool> {
    let random = RandomState::new().build_hasher().finish();
    let moved = path.with_file_name(format!(".unused-{random:016x}"));
    fs::rename(path, &moved)?;
    let is_unused = is_unused(&moved);
    if !is_unused {
        // Fails if yet another process has bound the path.
        fs::hard_link(&moved, path)?;
    }
    fs::remove_file(&moved)?;
    Ok(is_unused)
}

/// Returns whether the file is a socket on which no process listens. The connect does not wait: a
/// process that listens may be too busy to accept.
fn is_unused(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = || -> io::Result<bool> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let connected = socket.connect(&SockAddr::unix(path)?);
        Ok(connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
    };
    is_socket && refused().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use sockman_test_support::tools::TempDir;

    use super::*;

    /// Another start of the program binds the path between the two looks at the file.
    #[test]
    fn a_file_on_which_a_process_listens_again_goes_back_to_its_path() {
        let directory = TempDir::new();
        let path = directory.path("listener");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(!remove_unused(&path).unwrap());
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_on_which_no_process_listens_is_removed() {
        let directory = TempDir::new();
        let path = directory.path("listener");
        drop(UnixListener::bind(&path).unwrap());
        assert!(remove_unused(&path).unwrap());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}
