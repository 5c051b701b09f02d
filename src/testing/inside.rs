//! Access to the inside of the library, for an embedder's simulator: acting as another thread, and
//! finding the socket of a connection.
//!
//! The functions run on the caller's thread, and take the connection map's lock for a look-up.

use super::Network;
use crate::{
    engine::{connection::ConnectionId, threads::as_another_thread},
    sockman::SockMan,
    sys::RawSocket,
};

impl Network {
    /// Runs `run` as if on another thread: inside `run`, the calling thread does not count as the
    /// socket thread, even in the middle of a pass. An [`Interleave`](super::Interleave) uses this
    /// method to act as another thread. [`set_interleave`](Network::set_interleave) has an example.
    ///
    /// `run` may block in [`SockMan::connect`], which moves the clock as far as necessary, even
    /// beyond the end of a [`pass_within`](super::SocketThreadByHand::pass_within) under way.
    ///
    /// In the middle of a pass, [`SockMan::into_stream`] does not wait for the turn under way, which
    /// goes on only after `run`. The simulated thread must count as waiting until the pass has
    /// ended, and must use the stream only then: the turn may still deliver what it has received.
    pub fn as_another_thread<R>(&self, run: impl FnOnce() -> R) -> R {
        self.with_free_clock(|| as_another_thread(run))
    }
}

/// Returns the descriptor number of this connection's socket, for [`Network::probe`]. Returns
/// `None` if the connection is closed or never existed.
///
/// The number identifies the socket until the socket thread has released the closed connection.
/// After the release, another socket may get the number.
#[must_use]
pub fn descriptor(sockman: &SockMan, id: ConnectionId) -> Option<RawSocket> {
    let connection = sockman.shared().connections.find(id)?;
    Some(connection.sock().as_raw_fd())
}

/// Returns how many unused I2P sessions the `SockMan` keeps for later connects, each with a
/// descriptor.
// The function is hidden, because this number is not part of the library's promises. This project's
// simulator subtracts these sessions when it looks for leaked descriptors.
#[cfg(feature = "i2p")]
#[doc(hidden)]
#[must_use]
pub fn unused_sessions(sockman: &SockMan) -> usize {
    sockman.shared().i2p.as_ref().map_or(0, |i2p| i2p.unused_sessions())
}
