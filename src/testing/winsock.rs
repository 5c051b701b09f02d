//! What Windows does differently with a stream: which calls fail after a reset or a shutdown, and
//! which shutdowns reset.
//!
//! The errors have the numbers of Unix, as the library's own sockets would translate them. The
//! functions change plain data behind the mutex of [`Network`](super::Network).

use super::{
    kernel::{Arrival, End, Kernel, Sys},
    stream::Stream,
};
use crate::sys::errors;

impl Stream {
    /// Notes a reset. Each later call fails, `SO_ERROR` does not hold the error, and what was not
    /// received is lost.
    pub(super) fn was_reset(&mut self) {
        self.break_off();
        self.was_aborted = true;
        self.incoming.clear();
        self.in_flight = 0;
    }
}

impl Kernel {
    /// Fails if a receive fails before it looks for data.
    pub(super) fn winsock_recv_fails(&mut self, end: End) -> Sys<()> {
        let Some(stream) = self.stream(end) else { return Ok(()) };
        match stream {
            Stream { was_aborted: true, .. } => Err(errors::ECONNRESET),
            // The connect has failed. `SO_ERROR` says why.
            Stream { is_broken: true, .. } => Err(errors::ENOTCONN),
            Stream { receive_shut: true, got_fin: false, .. } => Err(errors::ESHUTDOWN),
            _ => Ok(()),
        }
    }

    /// Fails if a send fails before it looks for room. After an own half-close, the error is
    /// `WSAESHUTDOWN`, which stands for `EPIPE`.
    pub(super) fn winsock_send_fails(&mut self, end: End) -> Sys<()> {
        let Some(stream) = self.stream(end) else { return Ok(()) };
        match stream {
            Stream { fin_sent: true, .. } => Err(errors::EPIPE),
            Stream { was_aborted: true, .. } => Err(errors::ECONNRESET),
            Stream { is_broken: true, .. } => Err(errors::ENOTCONN),
            _ => Ok(()),
        }
    }

    /// Returns whether data waits, which a shutdown of the receiving direction would drop.
    pub(super) fn has_unread(&mut self, end: End) -> bool {
        self.stream(end).is_some_and(|stream| !stream.is_broken && !stream.incoming.is_empty())
    }

    /// Returns whether data that arrives now resets the connection, because the receiving direction
    /// was shut down.
    pub(super) fn refuses_data(&mut self, end: End) -> bool {
        let stream = self.stream(end);
        stream.is_some_and(|stream| stream.receive_shut && !stream.got_fin && !stream.is_broken)
    }

    /// Resets the connection from this end, which stays open.
    pub(super) fn abort(&mut self, end: End) {
        let elapsed = self.elapsed;
        let Some(stream) = self.stream(end) else { return };
        let (at, other) = (stream.next_arrival(elapsed), stream.other);
        let room = (stream.room(), stream.window);
        stream.was_reset();
        if let Some(other) = other {
            if let Some(other) = self.stream(other) {
                other.last_room = Some(room);
            }
            self.later_or_now(other, at, Arrival::Reset);
        }
        self.tell(end);
    }
}
