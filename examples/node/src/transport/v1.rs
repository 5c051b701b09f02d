//! Cuts the byte stream of one peer into whole messages.
//!
//! Runs on the socket thread. It reads nothing but the 24-byte header of each message: whether it
//! belongs to this network, and how long it is. What is inside is the message handler's affair.

use std::{error::Error, fmt};

use bitcoin::p2p::Magic;

/// Magic, command, length, checksum.
const HEADER: usize = 4 + 12 + 4 + 4;
/// Where the length is in the header.
const LENGTH: std::ops::Range<usize> = 16..20;
/// Bitcoin Core's `MAX_PROTOCOL_MESSAGE_LENGTH`.
pub(crate) const MAX_MESSAGE_LENGTH: usize = 4_000_000;

/// The part of a message that has arrived so far.
#[derive(Debug)]
pub(crate) struct Framer {
    magic: Magic,
    /// Grows with the bytes that arrive, never with the length that a header claims.
    partial: Vec<u8>,
}

impl Framer {
    pub(crate) fn new(magic: Magic) -> Framer {
        Framer { magic, partial: Vec::new() }
    }

    /// Takes bytes off the wire, and hands on each message that they complete, header included.
    ///
    /// # Errors
    ///
    /// The peer speaks of another network or of nothing sensible; the stream cannot be made sense
    /// of from here on.
    pub(crate) fn receive(
        &mut self,
        mut data: &[u8],
        mut whole_message: impl FnMut(Vec<u8>),
    ) -> Result<(), FramingError> {
        while !data.is_empty() {
            let missing = self.length()?.saturating_sub(self.partial.len());
            let (now, later) = data.split_at(missing.min(data.len()));
            self.partial.extend_from_slice(now);
            data = later;
            // Again: the header may have become complete only now.
            if self.partial.len() == self.length()? {
                whole_message(std::mem::take(&mut self.partial));
            }
        }
        Ok(())
    }

    /// How long the message is, or, until that is known, its header.
    fn length(&self) -> Result<usize, FramingError> {
        let magic = self.magic.to_bytes();
        let arrived = self.partial.len().min(magic.len());
        if self.partial[..arrived] != magic[..arrived] {
            return Err(FramingError::WrongMagic);
        }
        if self.partial.len() < HEADER {
            return Ok(HEADER);
        }
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.partial[LENGTH]);
        let payload = usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        if payload > MAX_MESSAGE_LENGTH {
            return Err(FramingError::Oversized { payload });
        }
        Ok(HEADER + payload)
    }
}

/// Why a stream is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramingError {
    WrongMagic,
    Oversized { payload: usize },
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FramingError::WrongMagic => write!(f, "it does not speak this network's protocol"),
            FramingError::Oversized { payload } => {
                write!(f, "it announced a message of {payload} bytes")
            }
        }
    }
}

impl Error for FramingError {}
