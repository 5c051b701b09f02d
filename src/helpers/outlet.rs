//! The way to a connection: through its id, or directly.
//!
//! An outlet owns nothing and may be used on any thread.

use std::{io::IoSlice, sync::Arc};

use crate::{
    engine::connection::{Connection, ConnectionId},
    error::SendError,
    options::More,
    sockman::SockMan,
};

/// Where a [`SendQueue`](super::SendQueue) sends.
pub(crate) trait Outlet {
    /// Works as [`SockMan::send_with`].
    fn send_with(
        &self,
        id: ConnectionId,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError>;

    /// Sends one piece. Works as [`SockMan::send_with`] in all else.
    fn send(&self, id: ConnectionId, data: &[u8], more: More) -> Result<usize, SendError> {
        self.send_with(id, &[IoSlice::new(data)], more)
    }

    /// Returns an error if the connection is closed. Makes no system call.
    fn check_open(&self, id: ConnectionId) -> Result<(), SendError> {
        // A send of no bytes only looks the connection up.
        self.send_with(id, &[], More::No).map(drop)
    }

    /// Works as [`SockMan::wake`].
    fn wake(&self, id: ConnectionId);
}

impl Outlet for SockMan {
    fn send_with(
        &self,
        id: ConnectionId,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        SockMan::send_with(self, id, pieces, more)
    }

    fn wake(&self, id: ConnectionId) {
        SockMan::wake(self, id);
    }
}

/// A connection that the caller has at hand. Its own id needs no look-up.
#[derive(Clone, Copy)]
pub(crate) struct Direct<'a> {
    pub(crate) sockman: &'a SockMan,
    pub(crate) connection: &'a Arc<Connection>,
}

impl Outlet for Direct<'_> {
    #[inline]
    fn send_with(
        &self,
        _: ConnectionId,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        self.sockman.shared().send_with(self.connection, pieces, more)
    }

    #[inline]
    fn send(&self, _: ConnectionId, data: &[u8], more: More) -> Result<usize, SendError> {
        self.sockman.shared().send_piece(self.connection, data, more)
    }

    #[inline]
    fn check_open(&self, _: ConnectionId) -> Result<(), SendError> {
        match self.connection.is_closed() {
            true => Err(SendError::UnknownConnection(self.connection.id)),
            false => Ok(()),
        }
    }

    fn wake(&self, id: ConnectionId) {
        if id == self.connection.id {
            self.sockman.shared().wake(self.connection);
        } else {
            self.sockman.wake(id);
        }
    }
}
