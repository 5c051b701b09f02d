//! [`SendQueueWriter`] is the [`io::Write`] of a [`SendQueue`].
//!
//! A writer holds two references and nothing else. Any thread may use it.

use std::io::{self, IoSlice, Write};

use super::{Piece, PushError, SendQueue};
use crate::sockman::SockMan;

/// An [`io::Write`] that enqueues into a [`SendQueue`]. [`SendQueue::writer`] returns one.
///
/// * `write` queues as many of the bytes as the queue has room for, as one
///   [`enqueue_part`](SendQueue::enqueue_part) does. `write_vectored` queues all pieces if the queue
///   has room for all, and otherwise as much of the first piece as fits. Both make no system call.
///   The socket thread sends the bytes without further help.
/// * `flush` hands the queued bytes to the kernel now, as one [`drain`](SendQueue::drain) does, and
///   does not wait. After `Ok(())`, bytes may still be queued; the socket thread sends them when
///   the peer reads. A program need not call `flush`.
///
/// # Errors
///
/// A full queue is an [`io::Error`] of the kind [`io::ErrorKind::WouldBlock`]. No byte of that write
/// was queued. The write may be repeated after a drain; if the peer does not read, close the
/// connection. A used-up [`SendBudget`](super::SendBudget) is an error of the kind
/// [`io::ErrorKind::Other`], because no event reports that other queues have freed a part of it:
/// close the connection. A broken or closed connection has the kind of the
/// [`SendError`](crate::error::SendError). The inner error is a [`PushError`].
#[derive(Debug, Clone, Copy)]
pub struct SendQueueWriter<'a> {
    queue: &'a SendQueue,
    sockman: &'a SockMan,
}

impl<'a> SendQueueWriter<'a> {
    pub(super) fn new(queue: &'a SendQueue, sockman: &'a SockMan) -> SendQueueWriter<'a> {
        SendQueueWriter { queue, sockman }
    }
}

fn io_error(error: PushError) -> io::Error {
    match error {
        PushError::Full { .. } => io::Error::new(io::ErrorKind::WouldBlock, error),
        other => other.into(),
    }
}

impl Write for SendQueueWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.queue.enqueue_part(self.sockman, data).map_err(io_error)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let all = pieces.iter().map(|piece| Piece::Bytes(piece));
        match self.queue.enqueue_all(self.sockman, all) {
            Ok(()) => Ok(pieces.iter().map(|piece| piece.len()).sum()),
            Err(PushError::Full { .. }) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                self.write(first.map_or(&[], |piece| piece))
            }
            Err(error) => Err(io_error(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.queue.drain(self.sockman)?;
        Ok(())
    }
}
