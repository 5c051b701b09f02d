//! The bytes that are sent. Both sides know them, so each receiver can check what it gets.
use std::sync::OnceLock;

/// A prime, so that a loss of a record, of a buffer or of a message shows as a difference.
const PERIOD: usize = 99_991;
/// The most bytes that one slice has.
pub const LONGEST: usize = 64 * 1024;

/// Returns `length` bytes of the endless pattern, from a position on. The length is at most
/// [`LONGEST`].
pub fn at(position: u64, length: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let mut bytes: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        bytes.extend_from_within(..LONGEST);
        bytes
    });
    let start = (position % PERIOD as u64) as usize;
    &bytes[start..start + length]
}

/// Returns whether these are the bytes of the pattern from a position on. `data` may have any
/// length.
pub fn is_at(position: u64, data: &[u8]) -> bool {
    let positions = (position..).step_by(LONGEST);
    positions.zip(data.chunks(LONGEST)).all(|(at, chunk)| self::at(at, chunk.len()) == chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_from_another_position_are_not_the_pattern() {
        let twice: Vec<u8> = [at(7, LONGEST), at(7 + LONGEST as u64, LONGEST)].concat();
        assert!(is_at(7, &twice));
        for other in [8, 7 + 16_384, 7 + LONGEST as u64] {
            assert!(!is_at(other, &twice[..64]));
        }
    }
}
