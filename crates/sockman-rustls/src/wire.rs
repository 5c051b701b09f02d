//! [`Wire`]: the rustls connection of one socket, and how its bytes reach the socket and come from
//! it. The socket thread owns it, and no lock is taken.
//!
//! A received byte is copied once, out of the receive buffer of the library into the buffer of
//! rustls, which decrypts it there. A sent byte is not copied: rustls encrypts it out of the
//! embedder's slice, and the records go to the kernel from where rustls has put them.

use std::io::{self, BufRead, IoSlice};

use rustls::Connection;
use sockman::{options::More, stateful::Link};

use crate::TlsError;

pub(crate) struct Wire {
    pub(crate) tls: Connection,
    /// The last write took less than everything, and the handler was not told of room since.
    pub(crate) wants_room: bool,
    /// This side sends nothing more: a `close_notify` is queued or sent, or the connection failed.
    pub(crate) has_ended: bool,
    /// The peer's `close_notify` was reported.
    pub(crate) peer_has_ended: bool,
}

impl Wire {
    pub(crate) fn new(mut tls: Connection, send_buffer: usize) -> Wire {
        tls.set_buffer_limit(Some(send_buffer));
        Wire { tls, wants_room: false, has_ended: false, peer_has_ended: false }
    }

    /// Gives rustls some of the received bytes, and takes them from `data`. Returns whether the peer
    /// has sent its `close_notify`.
    pub(crate) fn feed(&mut self, data: &mut &[u8]) -> Result<bool, TlsError> {
        match self.tls.read_tls(data) {
            Ok(taken) => match self.tls.process_new_packets() {
                Ok(state) if taken > 0 || state.peer_has_closed() => Ok(state.peer_has_closed()),
                Ok(_) => Err(full("rustls took no byte")),
                Err(error) => Err(TlsError::Protocol(error)),
            },
            Err(error) => Err(full(&error.to_string())),
        }
    }

    /// Returns the first decrypted bytes. An empty slice means that there are none.
    pub(crate) fn received(&mut self) -> &[u8] {
        self.tls.reader().into_first_chunk().unwrap_or_default()
    }

    /// Discards the first `length` of the decrypted bytes, which are in one piece.
    pub(crate) fn consume(&mut self, length: usize) {
        self.tls.reader().consume(length);
    }

    /// Sends what rustls has encrypted, until the kernel takes nothing more.
    pub(crate) fn flush<C>(&mut self, link: Link<'_, C>) -> io::Result<()> {
        let mut outlet = Outlet { link, is_full: false };
        while self.tls.wants_write() && !outlet.is_full {
            match self.tls.write_tls(&mut outlet) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns whether nothing more is sent before room is reported.
    pub(crate) fn is_stalled(&self) -> bool {
        self.wants_room && !self.has_ended
    }

    /// Ends this side's stream if the connection finishes, whichever call said so, and the handler
    /// waits for no room. The `close_notify` follows what is queued.
    pub(crate) fn end_if_finishing<C>(&mut self, link: Link<'_, C>) {
        if link.is_finishing() && !self.wants_room && !self.has_ended {
            self.has_ended = true;
            // Before the end of the handshake, the alert would be in the clear.
            if !self.tls.is_handshaking() {
                self.tls.send_close_notify();
            }
        }
    }
}

/// The error if the buffer of rustls is full although it is processed and emptied after each piece.
/// The buffer is larger than the longest message that rustls accepts, so the error does not come.
fn full(why: &str) -> TlsError {
    TlsError::Protocol(rustls::Error::General(why.to_owned()))
}

/// Sends records past the queue of the layer.
struct Outlet<'a, C> {
    link: Link<'a, C>,
    /// The kernel has not taken everything.
    is_full: bool,
}

impl<C> io::Write for Outlet<'_, C> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = self.link.send_with(pieces, More::No)?;
        self.is_full = sent < pieces.iter().map(|piece| piece.len()).sum();
        if sent == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
