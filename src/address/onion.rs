//! Addresses of Tor onion services: 32 bytes, written in base32 with a checksum. The addresses are
//! plain values, usable on any thread, without a lock.
//!
//! The bytes are behind an `Arc`. Inline bytes would make every [`Service`](crate::Service) a
//! quarter larger. Each connection holds two `Service`s, and most peers are on neither Tor nor I2P.
//! Bitcoin Core's `CNetAddr` keeps more than 16 bytes on the heap for the same reason.

use std::fmt;
use std::sync::Arc;

use sha3::{Digest, Sha3_256};

use super::base32::{decode_base32, first_not_base32, write_base32};
use super::error::ParseAddrErrorKind as Kind;
use super::parse::ONION_SUFFIX;

/// A version 3 onion service, identified by its ed25519 master public key. Printed with `.onion`.
///
/// Encoding: [Tor rendezvous specification, "Encoding onion addresses"][spec]. Parsing verifies the
/// checksum and the version. Printing computes them. Parsing does not verify that the 32 bytes are
/// a point on the curve, as in Bitcoin Core: Tor verifies that.
///
/// [spec]: https://spec.torproject.org/rend-spec/encoding-onion-addresses.html
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OnionV3 {
    public_key: Arc<[u8; 32]>,
}

impl OnionV3 {
    /// The version byte of version 3, the only version that Tor still supports.
    const VERSION: u8 = 3;

    /// Public key, checksum and version have 35 bytes. Base32 writes 35 bytes as exactly 56
    /// characters, without spare bits.
    const ENCODED_CHARS: usize = 56;

    /// The number of characters of a version 2 address, which is an 80-bit hash.
    const V2_CHARS: usize = 16;

    /// Returns the service with this ed25519 master public key.
    pub fn from_public_key(public_key: [u8; 32]) -> OnionV3 {
        OnionV3 { public_key: Arc::new(public_key) }
    }

    /// Returns the ed25519 master public key, which BIP 155 sends for network `TORV3`.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// Parses the text before `.onion`.
    pub(super) fn parse_label(label: &str) -> Result<OnionV3, Kind> {
        if let Some((found, at)) = first_not_base32(label) {
            return Err(Kind::OnionSymbol { found, at });
        }
        match label.len() {
            OnionV3::ENCODED_CHARS => {}
            OnionV3::V2_CHARS => return Err(Kind::OnionV2),
            found => return Err(Kind::OnionLength { found }),
        }
        let mut bytes = [0; 35];
        // The alphabet and the length are checked above, so the decoder cannot fail.
        if decode_base32(label, &mut bytes).is_err() {
            return Err(Kind::OnionLength { found: label.len() });
        }
        let mut public_key = [0; 32];
        public_key.copy_from_slice(&bytes[..32]);
        let checksum = [bytes[32], bytes[33]];
        let version = bytes[34];
        // The version is checked first: a future version may have another checksum.
        if version != OnionV3::VERSION {
            return Err(Kind::OnionVersion { found: version });
        }
        if checksum != OnionV3::checksum(&public_key) {
            return Err(Kind::OnionChecksum);
        }
        Ok(OnionV3::from_public_key(public_key))
    }

    fn checksum(public_key: &[u8; 32]) -> [u8; 2] {
        let hash = Sha3_256::new()
            .chain_update(b".onion checksum")
            .chain_update(public_key)
            .chain_update([OnionV3::VERSION])
            .finalize();
        [hash[0], hash[1]]
    }
}

impl fmt::Display for OnionV3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 35];
        bytes[..32].copy_from_slice(&*self.public_key);
        bytes[32..34].copy_from_slice(&OnionV3::checksum(&self.public_key));
        bytes[34] = OnionV3::VERSION;
        write_base32(f, &bytes)?;
        f.write_str(ONION_SUFFIX)
    }
}

impl fmt::Debug for OnionV3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnionV3({self})")
    }
}
