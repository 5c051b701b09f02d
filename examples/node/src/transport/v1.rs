//! Version 1 of the transport: cuts the byte stream of one peer into whole messages.
//!
//! Runs on the socket thread. It reads only the 24-byte header of each message, for the network and
//! the length. The message handler decodes the payload.

use std::{error::Error, fmt};

use bitcoin::p2p::Magic;

/// The length of the header: magic, command, length, checksum.
const HEADER: usize = 4 + 12 + 4 + 4;
/// The place of the length in the header.
const LENGTH: std::ops::Range<usize> = 16..20;
/// Bitcoin Core's `MAX_PROTOCOL_MESSAGE_LENGTH`.
pub(crate) const MAX_MESSAGE_LENGTH: usize = 4_000_000;

/// The part of a message that has arrived so far.
#[derive(Debug)]
pub(crate) struct Framer {
    magic: Magic,
    /// Grows with the bytes that arrive, not by the length that a header claims.
    partial: Vec<u8>,
}

impl Framer {
    pub(crate) fn new(magic: Magic) -> Framer {
        Framer { magic, partial: Vec::new() }
    }

    /// Takes received bytes, and passes each message that they complete to `whole_message`, header
    /// included.
    ///
    /// # Errors
    ///
    /// [`FramingError`], if the bytes are not from this network or the message is too long. The
    /// stream then cannot be decoded further.
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
            // The length is computed again, because these bytes may have completed the header.
            if self.partial.len() == self.length()? {
                whole_message(std::mem::take(&mut self.partial));
            }
        }
        Ok(())
    }

    /// Returns the length of the message, or of its header while the header is incomplete.
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

/// The error returned when a stream cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramingError {
    WrongMagic,
    Oversized { payload: usize },
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FramingError::WrongMagic => {
                write!(f, "the peer does not speak this network's protocol")
            }
            FramingError::Oversized { payload } => {
                write!(
                    f,
                    "the peer announced a message of {payload} bytes, over {MAX_MESSAGE_LENGTH}"
                )
            }
        }
    }
}

impl Error for FramingError {}
