//! A socket that follows a script, one outcome after the other. A script is plain data, usable on
//! any thread, without a lock.

use std::collections::VecDeque;

use crate::sys::{Readiness, errors};

use super::kernel::Sys;

/// The script of a socket: one outcome for each `recv` and one for each `send`. After the last
/// outcome of the script, each call has the same outcome.
/// [`Network::scripted`](super::Network::scripted) creates the socket.
///
/// An event follows each `EAGAIN` among the outcomes, as if more had arrived meanwhile.
///
/// # Examples
///
/// ```
/// use sockman::testing::{Network, Script};
///
/// // Receives "hello" in two pieces, and then the end of the stream. Takes three bytes in all.
/// let script = Script::new().recv(b"hel").recv(b"lo").then_eof().send(3).then_no_room();
/// let sock = Network::new().scripted(script)?;
/// let mut buffer = [0; 16];
/// assert_eq!(sock.recv(&mut buffer)?, 3);
/// assert_eq!(sock.recv(&mut buffer)?, 2);
/// assert_eq!(sock.recv(&mut buffer)?, 0);
/// # Ok::<(), std::io::Error>(())
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
    /// A receive finds nothing, and a send takes everything.
    #[default]
    Quiet,
    Eof,
    Zeroes,
    NoRoom,
    Error(i32),
}

impl Script {
    /// Creates a script that receives nothing and takes everything that is sent.
    pub fn new() -> Script {
        Script::default()
    }

    /// Makes the next `recv` return these bytes, as many as the buffer has room for. The remaining
    /// bytes stay for the following `recv`.
    pub fn recv(mut self, data: impl Into<Vec<u8>>) -> Script {
        self.recvs.push_back(Ok(data.into()));
        self
    }

    /// Makes the next `recv` fail with this `errno`.
    pub fn recv_error(mut self, errno: i32) -> Script {
        self.recvs.push_back(Err(errno));
        self
    }

    /// Makes every `recv` after the last outcome return the end of the stream.
    pub fn then_eof(mut self) -> Script {
        self.then_recv = Then::Eof;
        self
    }

    /// Makes every `recv` after the last outcome fill the buffer with bytes of value zero.
    pub fn then_zeroes(mut self) -> Script {
        self.then_recv = Then::Zeroes;
        self
    }

    /// Makes every `recv` and every `send` after the last outcome fail with this `errno`. A script
    /// in a fuzz target ends in this way, so that no input causes an endless loop.
    pub fn then_error(mut self, errno: i32) -> Script {
        self.then_recv = Then::Error(errno);
        self.then_send = Then::Error(errno);
        self
    }

    /// Makes the next `send` take at most this many bytes.
    pub fn send(mut self, bytes: usize) -> Script {
        self.sends.push_back(Ok(bytes));
        self
    }

    /// Makes the next `send` fail with this `errno`.
    pub fn send_error(mut self, errno: i32) -> Script {
        self.sends.push_back(Err(errno));
        self
    }

    /// Makes every `send` after the last outcome report "would block".
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
                Then::Quiet | Then::NoRoom => Err(errors::EAGAIN),
                Then::Eof => Ok(0),
                Then::Zeroes => {
                    buffer.fill(0);
                    Ok(buffer.len())
                }
                Then::Error(errno) => Err(errno),
            },
        }
    }

    /// Returns whether a poller reports the socket again after this outcome. The poller reports
    /// each piece, because the library receives no more after a receive that does not fill the
    /// buffer.
    pub(super) fn goes_on_after(&self, received: &Sys<usize>) -> bool {
        let has_more = !self.recvs.is_empty() || !matches!(self.then_recv, Then::Quiet);
        has_more && !matches!(received, Ok(0))
    }

    pub(super) fn send_now(&mut self, data: &[u8]) -> Sys<usize> {
        match self.sends.pop_front() {
            Some(Ok(0)) => Err(errors::EAGAIN),
            Some(Ok(bytes)) => Ok(bytes.min(data.len())),
            Some(Err(errno)) => Err(errno),
            None => match self.then_send {
                Then::NoRoom => Err(errors::EAGAIN),
                Then::Error(errno) => Err(errno),
                Then::Quiet | Then::Eof | Then::Zeroes => Ok(data.len()),
            },
        }
    }

    /// Returns whether a send finds room now or later.
    pub(super) fn has_room(&self) -> bool {
        !self.sends.is_empty() || self.then_send != Then::NoRoom
    }

    /// Returns the error with which all further calls fail, if that is the script's next outcome.
    pub(super) fn pending_error(&self) -> Option<i32> {
        match self.then_recv {
            Then::Error(errno) if self.recvs.is_empty() => Some(errno),
            _ => None,
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        Readiness {
            readable: !self.recvs.is_empty() || self.then_recv != Then::Quiet,
            writable: self.has_room(),
            read_closed: self.then_recv == Then::Eof && self.recvs.is_empty(),
            broken: self.pending_error().is_some(),
            ..Readiness::default()
        }
    }
}
