//! Listeners as every thread sees them: binding, adopting, stopping.
//!
//! Any thread may use a listener. A listener takes no lock. The latch and the back-off belong to
//! the socket thread alone and are in `accepting`.

use std::{
    fs,
    net::Shutdown,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    address::{NetAddr, Service},
    error::{BindError, BindErrorKind},
    options::Options,
    sys::sync::atomic::{AtomicBool, Ordering},
    sys::{Sock, SockFactory},
};

/// The length of the backlog that the library asks for. Every kernel reduces the number to its own
/// `SOMAXCONN` setting, which may be larger than the constant of that name.
const BACKLOG: i32 = i32::MAX;

/// A listening socket, as all threads see it.
#[derive(Debug)]
pub(crate) struct Listener {
    sock: Box<dyn Sock>,
    /// The address that the socket is bound to, as the kernel reports it.
    address: Service,
    stopped: AtomicBool,
    /// Whether the embedder handed the socket over. Another process may hold a copy of a socket
    /// that was handed over, so the library closes the socket but never shuts it down.
    is_adopted: bool,
    /// The path that `bind` created. The path is removed when the listener stops.
    path: Option<BoundPath>,
}

impl Listener {
    pub(crate) fn bind(options: &Options, to: &Service) -> Result<Listener, BindError> {
        if to.to_sock_addr().is_err() {
            return Err(BindError::new(to, BindErrorKind::Unsupported));
        }
        let fail = |step| move |source| BindError::os(to, step, source);
        let sock = options.sock_factory.create_sock(to).map_err(fail("socket"))?;
        // Unix-domain sockets are excluded: two of them cannot share a path.
        if options.reuse_port && !to.addr().is_unix() {
            sock.set_reuse_port().map_err(fail("setsockopt SO_REUSEPORT"))?;
        }
        sock.bind(to).map_err(fail("bind"))?;
        let path = match to.addr() {
            NetAddr::Unix(unix) => unix.as_path().and_then(BoundPath::made_by_bind),
            _ => None,
        };
        let sock = sock.listen(BACKLOG).map_err(fail("listen"))?;
        let address = sock.local_address().map_err(fail("getsockname"))?;
        Ok(Listener { sock, address, stopped: AtomicBool::new(false), is_adopted: false, path })
    }

    pub(crate) fn adopt(factory: &dyn SockFactory, fd: OwnedFd) -> Result<Listener, BindError> {
        let sock = factory.adopt_listener(fd).map_err(BindError::not_a_listener)?;
        let address = sock.local_address().map_err(BindError::not_a_listener)?;
        let stopped = AtomicBool::new(false);
        Ok(Listener { sock, address, stopped, is_adopted: true, path: None })
    }

    pub(crate) fn sock(&self) -> &dyn Sock {
        &*self.sock
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
/// same name is not removed. `remove` removes the file, at the latest on drop.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Whether the file was removed. The library removes the file only once, because the next file
    /// of that name may get the same inode.
    removed: AtomicBool,
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        self.remove();
    }
}

impl BoundPath {
    fn made_by_bind(path: &Path) -> Option<BoundPath> {
        // A relative path would name another file after the process changes its directory.
        let path = std::path::absolute(path).ok()?;
        let file = fs::symlink_metadata(&path).ok()?;
        let (device, inode) = (file.dev(), file.ino());
        Some(BoundPath { path, device, inode, removed: AtomicBool::new(false) })
    }

    fn remove(&self) {
        if self.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| file.dev() == self.device && file.ino() == self.inode);
        if !is_ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!(
                target: "sockman::net",
                "cannot remove the socket file {} of a stopped listener: {error}",
                self.path.display()
            );
        }
    }
}
