//! Sends on a connection that the caller has already found.
//!
//! The functions run on any thread. They take the connection's send lock for one system call.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use super::{
    connection::{Connection, SEND_LACKS, Sent},
    shared::Shared,
    threads,
};
use crate::{
    error::SendError,
    sys::{More, held::Held},
};

/// The most pieces that one `sendmsg(2)` takes: `UIO_MAXIOV` on Linux, `IOV_MAX` on other systems.
/// With more pieces, `sendmsg(2)` fails.
const MAX_PIECES: usize = 1024;

impl Shared {
    /// Does what [`SockMan::send_bytes`](crate::SockMan::send_bytes) does.
    #[inline]
    pub(crate) fn send_bytes(
        &self,
        connection: &Arc<Connection>,
        data: &[u8],
    ) -> Result<usize, SendError> {
        self.send_piece(connection, data, More::No)
    }

    /// Sends one piece.
    pub(crate) fn send_piece(
        &self,
        connection: &Arc<Connection>,
        data: &[u8],
        more: More,
    ) -> Result<usize, SendError> {
        self.send(connection, data.len(), |sock| sock.send(data, more))
    }

    /// Does what [`SockMan::send_with`](crate::SockMan::send_with) does.
    #[inline]
    pub(crate) fn send_with(
        &self,
        connection: &Arc<Connection>,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        if let [piece] = pieces {
            // `send(2)` costs less than `sendmsg(2)`.
            return self.send_piece(connection, piece, more);
        }
        self.send_pieces(connection, pieces, more)
    }

    fn send_pieces(
        &self,
        connection: &Arc<Connection>,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        let without_empty: Vec<IoSlice<'_>>;
        let pieces = match pieces.get(..MAX_PIECES) {
            None => pieces,
            Some(first) if pieces.len() == MAX_PIECES || !first.iter().any(|p| p.is_empty()) => {
                first
            }
            // The system counts empty pieces too. Only this rare case allocates.
            Some(_) => {
                let filled = pieces.iter().filter(|piece| !piece.is_empty());
                without_empty = filled.take(MAX_PIECES).copied().collect();
                &without_empty
            }
        };
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.send(connection, length, |sock| sock.send_vectored(pieces, more))
    }

    #[inline]
    fn send(
        &self,
        connection: &Arc<Connection>,
        length: usize,
        send: impl FnMut(&Held) -> io::Result<usize>,
    ) -> Result<usize, SendError> {
        if length == 0 {
            let is_closed = connection.is_closed();
            return if is_closed {
                Err(SendError::UnknownConnection(connection.id))
            } else {
                Ok(0)
            };
        }
        match connection.send(length, threads::is_socket_thread_of(self), send)? {
            Sent::Bytes(bytes) => Ok(bytes),
            Sent::Lacked(error) => {
                self.lacks(connection, SEND_LACKS, &error);
                Ok(0)
            }
        }
    }
}
