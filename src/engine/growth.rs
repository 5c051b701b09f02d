//! The growth of the vectors whose length follows the number of connections.

/// The least number of values by which a vector grows.
const LEAST: usize = 64;

/// Appends a value.
#[inline]
pub(crate) fn push<T>(values: &mut Vec<T>, value: T) {
    make_room(values, 1);
    values.push(value);
}

/// Makes room for this many more values. A full vector grows by about an eighth: one that doubles
/// would take the memory of up to twice as many connections as there are.
#[inline]
pub(crate) fn make_room<T>(values: &mut Vec<T>, more: usize) {
    if values.capacity() - values.len() < more {
        values.reserve_exact(more.max(values.len() / 8 + LEAST));
    }
}
