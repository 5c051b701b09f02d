//! Listeners as every thread sees them: binding, adopting, stopping.
//!
//! Any thread may use a listener. A listener takes no lock. The latch and the back-off belong to
//! the socket thread alone and are in `accepting`.

use std::{
    fs::{self, DirBuilder},
    io,
    net::Shutdown,
    os::{
        fd::{OwnedFd, RawFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use crate::{
    address::{NetAddr, Service},
    error::{BindError, BindErrorKind},
    options::Options,
    sys::sync::atomic::{AtomicBool, Ordering},
    sys::{
        OptionError, Sock, SockFactory, SocketOptions,
        holders::{is_unix_socket_open, socket_inode},
    },
};

/// The length of the backlog that the library asks for. Every kernel reduces the number to its own
/// `SOMAXCONN` setting, which may be larger than the constant of that name.
const BACKLOG: i32 = i32::MAX;
/// How many names are tried for the directory in which a socket file is removed. A name is taken
/// only if an earlier process of the same number was killed in the middle of a removal.
const ATTEMPTS_FOR_A_NAME: u32 = 16;
/// How often a drop checks whether another process holds the socket. A child holds a copy for a
/// moment each time that any thread starts a program: between the fork and the exec.
const LOOKS: u32 = 10;
/// The time between two of these checks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// A listening socket, as all threads see it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The first field, so that the socket is closed before `path` is dropped.
    sock: Box<dyn Sock>,
    /// The address that the socket is bound to, as the kernel reports it.
    address: Service,
    stopped: AtomicBool,
    /// Whether the embedder handed the socket over. Another process may hold a copy of a socket
    /// that was handed over, so the library closes the socket but never shuts it down.
    is_adopted: bool,
    /// The path that `bind` created. The path is removed when the listener stops.
    path: Option<BoundPath>,
    /// The options of the accepted connections.
    socket: SocketOptions,
}

impl Listener {
    pub(crate) fn bind(
        options: &Options,
        to: &Service,
        socket: &SocketOptions,
    ) -> Result<Listener, BindError> {
        if to.to_sock_addr().is_err() {
            return Err(BindError::new(to, BindErrorKind::Unsupported));
        }
        let fail = |step| move |source| BindError::os(to, step, source);
        let sock = options.sock_factory.create_sock(to).map_err(fail("socket"))?;
        // Unix-domain sockets are excluded: two of them cannot share a path.
        if options.reuse_port && !to.addr().is_unix() {
            sock.set_reuse_port().map_err(fail("setsockopt SO_REUSEPORT"))?;
        }
        socket.apply(&*sock, to.addr().is_unix()).map_err(|OptionError { option, source }| {
            BindError::new(to, BindErrorKind::SocketOption { option, source })
        })?;
        sock.bind(to).map_err(fail("bind"))?;
        let path = match to.addr() {
            NetAddr::Unix(unix) => {
                unix.as_path().and_then(|path| BoundPath::made_by_bind(path, sock.as_raw_fd()))
            }
            _ => None,
        };
        let sock = sock.listen(BACKLOG).map_err(fail("listen"))?;
        let address = sock.local_address().map_err(fail("getsockname"))?;
        let (stopped, socket) = (AtomicBool::new(false), socket.clone());
        Ok(Listener { sock, address, stopped, is_adopted: false, path, socket })
    }

    pub(crate) fn adopt(factory: &dyn SockFactory, fd: OwnedFd) -> Result<Listener, BindError> {
        let sock = factory.adopt_listener(fd).map_err(BindError::adopted)?;
        let address = sock.local_address().map_err(BindError::adopted)?;
        let stopped = AtomicBool::new(false);
        let socket = SocketOptions::default();
        Ok(Listener { sock, address, stopped, is_adopted: true, path: None, socket })
    }

    pub(crate) fn sock(&self) -> &dyn Sock {
        &*self.sock
    }

    /// Sets what the system does not copy from the listener to a connection that it accepts.
    pub(crate) fn prepare_accepted(&self, sock: &dyn Sock, them: &Service) {
        // The call fails on some systems if the peer has already gone. The next receive reports the
        // lost peer.
        let is_unix = self.address.addr().is_unix();
        if let Err(OptionError { option, source }) = self.socket.apply_to_accepted(sock, is_unix) {
            log::debug!(target: "sockman::net", "cannot set {option} for {them}: {source}");
        }
    }

    pub(crate) fn address(&self) -> &Service {
        &self.address
    }

    /// Returns whether other processes may hold the same socket.
    pub(crate) fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Stops the listener at once. On Linux, the kernel refuses clients after this call, although
    /// the descriptor stays open until the socket thread releases it. An adopted listener is only
    /// released, because the process that handed it over may go on listening (systemd keeps a
    /// copy).
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if self.is_adopted {
            return;
        }
        if let Err(error) = self.sock.shutdown(Shutdown::Both) {
            // The BSDs refuse to shut a listener down. On the BSDs, closing the descriptor stops
            // the listener.
            log::trace!(
                target: "sockman::net",
                "cannot shut down the listener on {}: {error}", self.address
            );
        }
        if let Some(path) = &self.path {
            path.remove();
        }
    }
}

/// A socket file that `bind` created. The inode identifies the file, so that another file of the
/// same name is not removed. `remove` removes the file. A drop does so, too, unless the process has
/// forked and another process may still listen on the socket: then the last process removes the
/// file.
#[derive(Debug)]
struct BoundPath {
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

impl Drop for BoundPath {
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

impl BoundPath {
    fn made_by_bind(path: &Path, fd: RawFd) -> Option<BoundPath> {
        // A relative path would name another file after the process changes its directory.
        let path = std::path::absolute(path).ok()?;
        let file = fs::symlink_metadata(&path).ok()?;
        let (device, inode) = (file.dev(), file.ino());
        let (socket, maker) = (socket_inode(fd), process::id());
        Some(BoundPath { path, device, inode, socket, maker, removed: AtomicBool::new(false) })
    }

    fn remove(&self) {
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
        let bound = BoundPath::made_by_bind(&path, first.as_raw_fd()).unwrap();
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
        let bound = BoundPath::made_by_bind(&path, listener.as_raw_fd()).unwrap();
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
