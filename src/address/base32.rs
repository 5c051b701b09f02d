//! Writes and reads the base32 (RFC 4648) of onion and I2P addresses. The output is lower case
//! without padding; the input may be in either case. The functions are pure, usable on any thread,
//! without a lock.

use std::fmt::{self, Write};

use data_encoding::{BASE32_NOPAD, DecodeKind};

/// Returns the first character that is not base32 (RFC 4648, either case), and its position,
/// counted from 1.
pub(super) fn first_not_base32(label: &str) -> Option<(char, usize)> {
    let mut counted = label.chars().zip(1..);
    counted.find(|(found, _)| !matches!(found, 'a'..='z' | 'A'..='Z' | '2'..='7'))
}

/// Decodes `label`, in either case, into `bytes`. The length of `label` must match the length of
/// `bytes`.
pub(super) fn decode_base32(label: &str, bytes: &mut [u8]) -> Result<(), DecodeKind> {
    match BASE32_NOPAD.decode_mut(label.to_ascii_uppercase().as_bytes(), bytes) {
        Ok(_) => Ok(()),
        Err(partial) => Err(partial.error.kind),
    }
}

/// The number of characters of an onion address, the longest text that this module writes.
const LONGEST: usize = 56;

/// Writes lower-case base32 without padding and without allocating. `bytes` has at most 35 bytes.
pub(super) fn write_base32(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut buffer = [0; LONGEST];
    let text = &mut buffer[..BASE32_NOPAD.encode_len(bytes.len())];
    BASE32_NOPAD.encode_mut(bytes, text);
    text.iter().try_for_each(|byte| f.write_char(char::from(byte.to_ascii_lowercase())))
}
