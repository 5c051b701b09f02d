//! The common interface of the pure state machines of SOCKS5 and SAM, and the one loop that drives
//! a machine over a socket.
//!
//! A machine takes bytes, and returns bytes, its end or an error. The loop runs on the thread that
//! drives the connect, and takes no lock.

use std::{io, time::Instant};

use super::Step;
use crate::sys::{
    More, Sock,
    passing::{PAUSE, passes, uninterrupted},
};

/// The most bytes that a machine asks for at once: the bound name of SOCKS5 and its port.
pub(crate) const LONGEST_READ: usize = 255 + 2;

/// What a machine wants next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Want<'a> {
    /// The machine sends these bytes, or as many of them as the socket takes.
    Send(&'a [u8]),
    /// The machine receives at least one byte and at most this many.
    Receive(usize),
    /// Nothing for now. The machine is done, and the next byte on the socket is not for it.
    Nothing,
}

/// The bytes that a machine has to send, and how many of them are sent.
#[derive(Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Sets the bytes to send next. The caller has sent the bytes before them.
    pub(crate) fn set(&mut self, bytes: Vec<u8>) {
        *self = Outgoing { bytes, sent: 0 };
    }

    /// Returns the bytes that are not sent yet.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.rest().is_empty()
    }

    /// Records that the socket took `bytes` bytes.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes).min(self.bytes.len());
    }
}

/// A dialogue with a proxy or a bridge, without a socket: it takes bytes and returns bytes.
pub(crate) trait Machine {
    type Error;

    fn wants(&self) -> Want<'_>;

    /// Records that the socket took this many of the bytes to send.
    fn sent(&mut self, bytes: usize);

    /// Takes received bytes, at most as many as the machine wants.
    ///
    /// # Errors
    ///
    /// Returns the error that ended the dialogue.
    fn received(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Returns the error for a stream that ended (`None`) or failed before the dialogue was over.
    fn broke_off(&mut self, source: Option<io::Error>) -> Self::Error;
}

/// Drives a machine as far as possible without waiting. `Connected` means that the machine needs no
/// further step for now.
///
/// The machine asks for an exact number of bytes each time, so the other side cannot decide how
/// long a step takes or which bytes stay unread. A call that lacks memory or buffers is made again
/// after a pause, because no event reports the end of the lack.
///
/// # Errors
///
/// Returns the error that ended the dialogue.
pub(crate) fn drive<M: Machine>(
    machine: &mut M,
    sock: &dyn Sock,
    now: Instant,
) -> Result<Step, M::Error> {
    loop {
        let outcome = match machine.wants() {
            Want::Nothing => return Ok(Step::Connected),
            Want::Send(bytes) => uninterrupted(|| sock.send(bytes, More::No)).map(|sent| {
                machine.sent(sent);
                sent > 0
            }),
            Want::Receive(length) => {
                let mut buffer = [0; LONGEST_READ];
                let wanted = length.min(LONGEST_READ);
                match uninterrupted(|| sock.recv(&mut buffer[..wanted])) {
                    Ok(0) => return Err(machine.broke_off(None)),
                    Ok(received) => {
                        machine.received(&buffer[..received])?;
                        Ok(true)
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => return Ok(Step::WaitForSocket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Step::WaitForSocket);
            }
            Err(error) if passes(&error) => return Ok(Step::WaitUntil(now + PAUSE)),
            Err(error) => return Err(machine.broke_off(Some(error))),
        }
    }
}
