//! Listeners as every thread sees them: binding, adopting, stopping.
//!
//! Any thread may use a listener. A listener takes no lock. The latch and the back-off belong to
//! the socket thread alone and are in `accepting`.

use std::net::Shutdown;

use crate::{
    address::{NetAddr, Service},
    dial::is_of_family,
    error::{BindError, BindErrorKind},
    options::Options,
    sys::sync::atomic::{AtomicBool, Ordering},
    sys::{OptionError, OwnedSocket, Sock, SockFactory, SocketFile, SocketOptions},
};

/// The length of the backlog that the library asks for. Every kernel reduces the number to its own
/// `SOMAXCONN` setting, which may be larger than the constant of that name.
const BACKLOG: i32 = i32::MAX;

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
    path: Option<SocketFile>,
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
        let sock = options.sock_factory.create_sock(to).map_err(|source| {
            // The library has no unix-domain sockets on Windows.
            if to.addr().is_unix() && is_of_family(&source) {
                return BindError::new(to, BindErrorKind::Unsupported);
            }
            BindError::os(to, "socket", source)
        })?;
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
                unix.as_path().and_then(|path| SocketFile::made_by_bind(path, sock.as_raw_fd()))
            }
            _ => None,
        };
        let sock = sock.listen(BACKLOG).map_err(fail("listen"))?;
        let address = sock.local_address().map_err(fail("getsockname"))?;
        let (stopped, socket) = (AtomicBool::new(false), socket.clone());
        Ok(Listener { sock, address, stopped, is_adopted: false, path, socket })
    }

    pub(crate) fn adopt(factory: &dyn SockFactory, fd: OwnedSocket) -> Result<Listener, BindError> {
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
