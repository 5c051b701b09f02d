//! [`Waker`], which any thread may use. It takes no lock but that of the library's inbox.

use std::{fmt, io};

use sockman::WeakSockMan;

/// Wakes a [`Reactor`](crate::Reactor), so that it takes commands and the request to shut down. A
/// clone wakes the same reactor.
///
/// Several calls before the reactor runs count as one. A call before
/// [`run`](nakamoto_net::Reactor::run) counts as well. A waker does not keep its reactor alive.
#[derive(Clone)]
pub struct Waker {
    pub(crate) sockman: WeakSockMan,
}

impl nakamoto_net::Waker for Waker {
    /// Wakes the reactor.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`] if the reactor no longer exists.
    fn wake(&self) -> io::Result<()> {
        let Some(sockman) = self.sockman.upgrade() else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "cannot wake the reactor: it no longer exists",
            ));
        };
        sockman.notify();
        Ok(())
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}
