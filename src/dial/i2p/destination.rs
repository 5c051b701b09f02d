//! Destinations and private keys: I2P's base64, the end of the destination inside a private key,
//! and the address, which is the hash of the destination.
//!
//! The values are plain data, usable on any thread, without a lock. Source: [Common structures],
//! "KeysAndCert".
//!
//! [Common structures]: https://geti2p.net/spec/common-structures

use std::fmt;

use data_encoding::{Encoding, Specification};
use sha2::{Digest, Sha256};

use super::error::DestinationError;
use crate::address::NetAddr;

/// The length of the fixed part in bytes: a public key of 256, a signing key of 128, and the type
/// (1) and the length (2) of the certificate.
const FIXED: usize = 256 + 128 + 1 + 2;
/// The offset of the length of the certificate. The length has two bytes, the higher one first.
const CERTIFICATE_LENGTH_AT: usize = 385;

/// Returns the encoding: the standard alphabet, with `-` and `~` in place of `+` and `/`.
fn base64() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~");
    specification.padding = Some('=');
    specification.encoding().ok()
}

fn decode(text: &str) -> Result<Vec<u8>, DestinationError> {
    let decoded = base64().and_then(|base64| base64.decode(text.as_bytes()).ok());
    decoded.ok_or(DestinationError::NotBase64)
}

fn encode(bytes: &[u8]) -> String {
    // The alphabet above is always valid, as the tests show.
    base64().map(|base64| base64.encode(bytes)).unwrap_or_default()
}

/// Returns the length of the destination at the start of `bytes`.
fn destination_length(bytes: &[u8]) -> Result<usize, DestinationError> {
    let found = bytes.len();
    let length = bytes.get(CERTIFICATE_LENGTH_AT..FIXED);
    let Some(&[high, low]) = length else { return Err(DestinationError::TooShort { found }) };
    let certificate = usize::from(u16::from_be_bytes([high, low]));
    let expected = FIXED + certificate;
    if found < expected {
        return Err(DestinationError::CertificateTooLong { certificate, expected, found });
    }
    Ok(expected)
}

/// Returns the `.b32.i2p` address of a destination in base64.
///
/// # Errors
///
/// Fails if the text is not a destination.
pub(crate) fn address_of(base64: &str) -> Result<NetAddr, DestinationError> {
    let bytes = decode(base64)?;
    destination_length(&bytes)?;
    Ok(NetAddr::i2p(Sha256::digest(&bytes).into()))
}

/// A private key: a destination, and the secret that proves its ownership. No message and no
/// `Debug` text contains it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PrivateKey {
    bytes: Vec<u8>,
    destination_length: usize,
}

impl PrivateKey {
    /// Creates a key from its bytes.
    ///
    /// # Errors
    ///
    /// Fails if the key is damaged.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<PrivateKey, DestinationError> {
        let destination_length = destination_length(&bytes)?;
        Ok(PrivateKey { bytes, destination_length })
    }

    /// Parses a key in base64.
    ///
    /// # Errors
    ///
    /// Fails if the key is damaged.
    pub(crate) fn from_base64(text: &str) -> Result<PrivateKey, DestinationError> {
        PrivateKey::new(decode(text)?)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn to_base64(&self) -> String {
        encode(&self.bytes)
    }

    /// Returns the address that the key belongs to.
    pub(crate) fn address(&self) -> NetAddr {
        NetAddr::i2p(Sha256::digest(&self.bytes[..self.destination_length]).into())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_i2p_is_decoded_and_encoded() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = encode(&bytes);
        assert!(text.contains('-') && text.contains('~') && text.ends_with('='));
        assert_eq!(decode(&text), Ok(bytes));
        for wrong in ["+", "A", "AAAA AAAA", "é", "====", "AB=="] {
            assert_eq!(decode(wrong), Err(DestinationError::NotBase64), "{wrong}");
        }
        assert_eq!(decode("AA=="), Ok(vec![0]));
    }

    /// Each case of Core's tests of damaged keys is refused with its exact reason.
    #[test]
    fn damaged_keys_are_refused_with_the_reason() {
        let with_certificate = |length: u16, total: usize| {
            let mut bytes = vec![7; total];
            bytes[385..387].copy_from_slice(&length.to_be_bytes());
            PrivateKey::new(bytes)
        };
        for found in [0, 4, 386] {
            let error = PrivateKey::new(vec![0; found]).unwrap_err();
            assert_eq!(error, DestinationError::TooShort { found });
            assert!(error.to_string().contains(&format!("{found} bytes")), "{error}");
        }
        assert_eq!(
            with_certificate(1, 387),
            Err(DestinationError::CertificateTooLong { certificate: 1, expected: 388, found: 387 })
        );
        assert_eq!(
            with_certificate(5, 391),
            Err(DestinationError::CertificateTooLong { certificate: 5, expected: 392, found: 391 })
        );
        assert!(with_certificate(0, 387).is_ok() && with_certificate(4, 391).is_ok());
    }

    /// The address is the hash of the destination alone, wherever the private part begins.
    #[test]
    fn the_address_of_a_key_is_that_of_its_destination() {
        let mut bytes: Vec<u8> = (0..391).map(|at| at as u8).collect();
        bytes[385..387].copy_from_slice(&4_u16.to_be_bytes());
        let public = address_of(&encode(&bytes)).unwrap();
        bytes.extend([0xff; 288]);
        let key = PrivateKey::new(bytes).unwrap();
        assert_eq!(key.address(), public);
        assert_eq!(PrivateKey::from_base64(&key.to_base64()), Ok(key));
    }
}
