//! Listening on a unix-domain path that a killed program has left behind. The packages in this folder
//! share this file.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};
use sockman::{
    Service, SockMan,
    address::NetAddr,
    error::{BindError, BindErrorKind},
    options::SocketOptions,
};

/// Starts to listen on an address, and returns the actual address. A socket file with the name of a
/// unix-domain path is replaced if no process listens on it, as after a SIGKILL.
///
/// # Errors
///
/// Listening failed, for example because another process listens on the address.
pub fn listen(sockman: &SockMan, address: &Service) -> Result<Service, BindError> {
    listen_with(sockman, address, &SocketOptions::default())
}

/// Works as [`listen`], with options of the sockets.
///
/// # Errors
///
/// As [`listen`].
pub fn listen_with(
    sockman: &SockMan,
    address: &Service,
    options: &SocketOptions,
) -> Result<Service, BindError> {
    let error = match sockman.bind_and_start_listening_with(address, options) {
        Err(error) if matches!(error.kind(), BindErrorKind::AddressInUse { .. }) => error,
        other => return other,
    };
    let NetAddr::Unix(unix) = address.addr() else { return Err(error) };
    match unix.as_path() {
        Some(path) if is_unused(path) && remove_unused(path).unwrap_or(false) => {
            log::warn!("replaced {address}: no process listened on it");
            sockman.bind_and_start_listening_with(address, options)
        }
        _ => Err(error),
    }
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
