//! A socket that does what it was told, one outcome after the other.

use std::collections::VecDeque;

use crate::sys::Readiness;

use super::kernel::Sys;

/// What a scripted socket does: one outcome for each `recv`, one for each `send`, and then the same
/// one for ever. From [`Network::scripted`](super::Network::scripted).
///
/// `EAGAIN` among the outcomes is followed by an event, as if more had come meanwhile.
///
/// ```
/// use sockman::testing::Script;
///
/// // "hello" in two pieces, and the end of the stream; takes three bytes, and no more.
/// let script = Script::new().recv(b"hel").recv(b"lo").then_eof().send(3).then_no_room();
/// ```
#[doc(alias = "FuzzedSock")]
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Script {
    recvs: VecDeque<Result<Vec<u8>, i32>>,
    sends: VecDeque<Result<usize, i32>>,
    then_recv: Then,
    then_send: Then,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Then {
    /// Nothing to receive; a send takes all.
    #[default]
    Quiet,
    Eof,
    Zeroes,
    NoRoom,
    Error(i32),
}

impl Script {
    /// Receives nothing, and takes all that is sent.
    pub fn new() -> Script {
        Script::default()
    }

    /// The next `recv` gives these bytes, as many as there is room for; the rest stays.
    pub fn recv(mut self, data: impl Into<Vec<u8>>) -> Script {
        self.recvs.push_back(Ok(data.into()));
        self
    }

    /// The next `recv` fails with this `errno`.
    pub fn recv_error(mut self, errno: i32) -> Script {
        self.recvs.push_back(Err(errno));
        self
    }

    /// After its last outcome `recv` says "end of the stream", for ever.
    pub fn then_eof(mut self) -> Script {
        self.then_recv = Then::Eof;
        self
    }

    /// After its last outcome `recv` gives zero bytes, as many as fit, for ever.
    pub fn then_zeroes(mut self) -> Script {
        self.then_recv = Then::Zeroes;
        self
    }

    /// After its last outcome each call fails with this `errno`, for ever: how a double ends in a
    /// fuzz target, so that no input makes a loop.
    pub fn then_error(mut self, errno: i32) -> Script {
        self.then_recv = Then::Error(errno);
        self.then_send = Then::Error(errno);
        self
    }

    /// The next `send` takes as many bytes as this, at most.
    pub fn send(mut self, bytes: usize) -> Script {
        self.sends.push_back(Ok(bytes));
        self
    }

    /// The next `send` fails with this `errno`.
    pub fn send_error(mut self, errno: i32) -> Script {
        self.sends.push_back(Err(errno));
        self
    }

    /// After its last outcome `send` would block, for ever.
    pub fn then_no_room(mut self) -> Script {
        self.then_send = Then::NoRoom;
        self
    }

    pub(super) fn recv_now(&mut self, buffer: &mut [u8]) -> Sys<usize> {
        match self.recvs.pop_front() {
            Some(Ok(mut data)) => {
                let bytes = data.len().min(buffer.len());
                for (place, byte) in buffer.iter_mut().zip(data.drain(..bytes)) {
                    *place = byte;
                }
                if !data.is_empty() {
                    self.recvs.push_front(Ok(data));
                }
                Ok(bytes)
            }
            Some(Err(errno)) => Err(errno),
            None => match self.then_recv {
                Then::Quiet | Then::NoRoom => Err(libc::EAGAIN),
                Then::Eof => Ok(0),
                Then::Zeroes => {
                    buffer.fill(0);
                    Ok(buffer.len())
                }
                Then::Error(errno) => Err(errno),
            },
        }
    }

    /// Would a poller tell of it again after this outcome? Pieces are told of one by one, since a
    /// receive that does not fill the buffer is taken for the last.
    pub(super) fn goes_on_after(&self, received: &Sys<usize>) -> bool {
        let has_more = !self.recvs.is_empty() || !matches!(self.then_recv, Then::Quiet);
        has_more && !matches!(received, Ok(0))
    }

    pub(super) fn send_now(&mut self, data: &[u8]) -> Sys<usize> {
        match self.sends.pop_front() {
            Some(Ok(0)) => Err(libc::EAGAIN),
            Some(Ok(bytes)) => Ok(bytes.min(data.len())),
            Some(Err(errno)) => Err(errno),
            None => match self.then_send {
                Then::NoRoom => Err(libc::EAGAIN),
                Then::Error(errno) => Err(errno),
                Then::Quiet | Then::Eof | Then::Zeroes => Ok(data.len()),
            },
        }
    }

    /// Is there room now, or will there be?
    pub(super) fn has_room(&self) -> bool {
        !self.sends.is_empty() || self.then_send != Then::NoRoom
    }

    pub(super) fn readiness(&self) -> Readiness {
        let is_broken = matches!(self.then_recv, Then::Error(_)) && self.recvs.is_empty();
        Readiness {
            readable: !self.recvs.is_empty() || self.then_recv != Then::Quiet,
            writable: self.has_room(),
            read_closed: self.then_recv == Then::Eof && self.recvs.is_empty(),
            broken: is_broken,
            ..Readiness::default()
        }
    }
}
