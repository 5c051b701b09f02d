//! What an embedder's simulator needs from inside of the library: to act as another thread, and to
//! find the socket of a connection.
//!
//! Runs on the caller's thread. Takes the connection map's lock for a look-up.

use std::os::fd::RawFd;

use super::Network;
use crate::{
    engine::{connection::ConnectionId, threads::as_another_thread},
    sockman::SockMan,
};

impl Network {
    /// Runs `run` as if on another thread: in it the calling thread does not count as the socket
    /// thread, even in the middle of a pass. An [`Interleave`](super::Interleave) plays its other
    /// threads in here.
    ///
    /// `run` may block in [`SockMan::connect`], which moves the clock as far as it needs to, also
    /// beyond the end of a [`pass_within`](super::SocketThreadByHand::pass_within) under way.
    pub fn as_another_thread<R>(&self, run: impl FnOnce() -> R) -> R {
        self.with_free_clock(|| as_another_thread(run))
    }
}

/// Returns the number of the descriptor that this connection's socket has, which
/// [`Network::probe`] takes. `None` if the connection is closed or never existed.
///
/// The number stays the socket's until the socket thread has let go of the closed connection. After
/// that another socket may get it.
#[must_use]
pub fn descriptor(sockman: &SockMan, id: ConnectionId) -> Option<RawFd> {
    let connection = sockman.shared().connections.find(id)?;
    Some(connection.sock().as_raw_fd())
}

/// Returns how many I2P sessions the `SockMan` keeps for the next connects, each with a descriptor.
// Hidden: how many are kept is no promise. This project's simulator subtracts them when it looks
// for descriptors that are left over.
#[cfg(feature = "i2p")]
#[doc(hidden)]
#[must_use]
pub fn unused_sessions(sockman: &SockMan) -> usize {
    sockman.shared().i2p.as_ref().map_or(0, |i2p| i2p.unused_sessions())
}
