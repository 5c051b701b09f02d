//! The common interface of the pure state machines of SOCKS5 and SAM, and the one loop that drives
//! a machine over a socket.
//!
//! A machine takes bytes, and returns bytes, its end or an error. The loop runs on the thread that
//! drives the connect, and takes no lock.

use std::{io, time::Instant};

use super::{Awaits, Step};
use crate::sys::{
    More, Sock,
    passing::{PAUSE, passes, uninterrupted},
};

/// The most bytes that a machine asks for at once: the bound name of SOCKS5 and its port.
#[cfg(feature = "socks5")]
pub(crate) const LONGEST_READ: usize = 255 + 2;

/// The most bytes of a line that are taken at once.
#[cfg(feature = "i2p")]
const LONGEST_PEEK: usize = 4096;
/// The work that one step may take. Another step at once goes on, so that whoever feeds a machine
/// cannot hold the thread that drives it, which has other sockets to serve.
const BUDGET: usize = 256;
/// What a send, a receive, or a peek with its receive takes of the [`BUDGET`]. The receive of a
/// single byte takes 1.
const COST: usize = 16;

/// What a machine wants next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Want<'a> {
    /// The machine sends these bytes, or as many of them as the socket takes.
    Send(&'a [u8]),
    /// The machine receives at least one byte and at most this many.
    #[cfg(feature = "socks5")]
    Receive(usize),
    /// The machine receives at least one byte, and none behind the next line feed.
    #[cfg(feature = "i2p")]
    Line,
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

/// Drives a machine as far as possible without waiting and within the [`BUDGET`]. `Connected` means
/// that the machine needs no further step for now.
///
/// The machine asks for an exact number of bytes or for a line each time, so the other side cannot
/// decide which bytes stay unread. A call that lacks memory or buffers is made again after a pause,
/// because no event reports the end of the lack.
///
/// # Errors
///
/// Returns the error that ended the dialogue.
pub(crate) fn drive<M: Machine>(
    machine: &mut M,
    sock: &dyn Sock,
    now: Instant,
) -> Result<Step, M::Error> {
    let mut spent = 0;
    while spent < BUDGET {
        let awaits = match machine.wants() {
            Want::Send(_) => Awaits::Room,
            _ => Awaits::Data,
        };
        spent += COST;
        let outcome = match machine.wants() {
            Want::Nothing => return Ok(Step::Connected),
            Want::Send(bytes) => uninterrupted(|| sock.send(bytes, More::No)).map(|sent| {
                machine.sent(sent);
                sent > 0
            }),
            #[cfg(feature = "socks5")]
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
            #[cfg(feature = "i2p")]
            Want::Line => {
                let mut buffer = [0; LONGEST_PEEK];
                let length = match sock.peek(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        spent -= COST - 1;
                        Ok(1)
                    }
                    peeked => peeked.map(|length| up_to_line_feed(&buffer[..length])),
                };
                match length.and_then(|length| sock.recv(&mut buffer[..length])) {
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
            Ok(false) => return Ok(Step::WaitForSocket(awaits)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Step::WaitForSocket(awaits));
            }
            Err(error) if passes(&error) => return Ok(Step::WaitUntil(now + PAUSE)),
            Err(error) => return Err(machine.broke_off(Some(error))),
        }
    }
    Ok(Step::WaitUntil(now))
}

/// Returns the number of bytes up to the first line feed, which is counted too, or of all bytes.
#[cfg(feature = "i2p")]
fn up_to_line_feed(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
}

#[cfg(all(test, feature = "socks5", feature = "i2p"))]
mod tests {
    use std::{
        cell::Cell,
        io::IoSlice,
        net::Shutdown,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{address::Service, sys::RawSocket};

    /// A socket that always has a byte, and always has room for one.
    #[derive(Debug, Default)]
    struct Endless {
        can_peek: bool,
        calls: AtomicUsize,
    }

    impl Endless {
        fn call(&self, length: usize) -> io::Result<usize> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            Ok(length)
        }
    }

    impl Sock for Endless {
        fn connect(&self, _: &Service) -> io::Result<()> {
            unreachable!()
        }
        fn bind(&self, _: &Service) -> io::Result<()> {
            unreachable!()
        }
        fn listen(self: Box<Self>, _: i32) -> io::Result<Box<dyn Sock>> {
            unreachable!()
        }
        fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
            unreachable!()
        }
        fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
            self.call(buffer.len().min(1))
        }
        fn peek(&self, _: &mut [u8]) -> io::Result<usize> {
            if !self.can_peek {
                return Err(io::ErrorKind::Unsupported.into());
            }
            self.call(1)
        }
        fn send(&self, _: &[u8], _: More) -> io::Result<usize> {
            self.call(1)
        }
        fn send_vectored(&self, _: &[IoSlice<'_>], _: More) -> io::Result<usize> {
            unreachable!()
        }
        fn shutdown(&self, _: Shutdown) -> io::Result<()> {
            unreachable!()
        }
        fn take_error(&self) -> io::Result<Option<io::Error>> {
            unreachable!()
        }
        fn local_address(&self) -> io::Result<Service> {
            unreachable!()
        }
        fn peer_address(&self) -> io::Result<Service> {
            unreachable!()
        }
        fn short_read_means_empty(&self) -> bool {
            unreachable!()
        }
        fn as_raw_fd(&self) -> RawSocket {
            unreachable!()
        }
    }

    /// A machine that never comes to its end.
    struct Insatiable(Cell<u8>);

    impl Machine for Insatiable {
        type Error = io::Error;

        fn wants(&self) -> Want<'_> {
            match self.0.get() {
                0 => Want::Send(b"more"),
                1 => Want::Receive(LONGEST_READ),
                _ => Want::Line,
            }
        }
        fn sent(&mut self, _: usize) {}
        fn received(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn broke_off(&mut self, source: Option<io::Error>) -> io::Error {
            source.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// G8: a step ends after a bounded number of system calls, whoever feeds the machine, and goes
    /// on at once.
    #[test]
    fn a_step_is_bounded_whoever_feeds_the_machine() {
        for wants in 0..=2 {
            for can_peek in [false, true] {
                let (sock, now) = (Endless { can_peek, ..Endless::default() }, Instant::now());
                let step = drive(&mut Insatiable(Cell::new(wants)), &sock, now).unwrap();
                assert!(matches!(step, Step::WaitUntil(at) if at == now), "{step:?}");
                let calls = sock.calls.load(Ordering::Relaxed);
                assert!((1..=BUDGET).contains(&calls), "{calls} calls");
            }
        }
    }

    #[test]
    fn a_line_ends_with_its_line_feed() {
        assert_eq!(up_to_line_feed(b"a\nb\n"), 2);
        assert_eq!(up_to_line_feed(b"ab"), 2);
        assert_eq!(up_to_line_feed(b""), 0);
    }
}
