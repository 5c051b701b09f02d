//! Addresses of I2P: the hash of a destination, written in base32. The addresses are plain values,
//! usable on any thread, without a lock.
//!
//! The bytes are behind an `Arc`, as in an onion address, to keep addresses small.

use std::fmt;
use std::sync::Arc;

use data_encoding::DecodeKind;

use super::base32::{decode_base32, first_not_base32, write_base32};
use super::error::ParseAddrErrorKind as Kind;
use super::parse::I2P_SUFFIX;

/// An I2P destination, identified by the SHA-256 hash of its binary form. Printed with `.b32.i2p`.
///
/// Encoding: [I2P naming, "Base 32 names"][spec]. The longer names of encrypted lease sets ("b33")
/// are not hashes. The library does not support these names, and neither does Bitcoin Core.
///
/// [spec]: https://geti2p.net/en/docs/naming#base32
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct I2pHash {
    hash: Arc<[u8; 32]>,
}

impl I2pHash {
    /// The hash has 256 bits, and each character holds five bits. The last four bits of the last
    /// character are zero.
    const ENCODED_CHARS: usize = 52;

    /// Returns the destination with this hash.
    pub fn new(hash: [u8; 32]) -> I2pHash {
        I2pHash { hash: Arc::new(hash) }
    }

    /// Returns the hash, which BIP 155 sends for network `I2P`.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Parses the text before `.b32.i2p`.
    pub(super) fn parse_label(label: &str) -> Result<I2pHash, Kind> {
        if let Some((found, at)) = first_not_base32(label) {
            return Err(Kind::I2pSymbol { found, at });
        }
        if label.len() != I2pHash::ENCODED_CHARS {
            return Err(Kind::I2pLength { found: label.len() });
        }
        let mut hash = [0; 32];
        match decode_base32(label, &mut hash) {
            Ok(()) => Ok(I2pHash::new(hash)),
            Err(DecodeKind::Trailing) => Err(Kind::I2pTrailingBits),
            // The alphabet and the length are checked above, so the decoder has no other error.
            Err(_) => Err(Kind::I2pLength { found: label.len() }),
        }
    }
}

impl fmt::Display for I2pHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32(f, &*self.hash)?;
        f.write_str(I2P_SUFFIX)
    }
}

impl fmt::Debug for I2pHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I2pHash({self})")
    }
}
