//! The bytes of one connection that the kernel has not accepted yet.

#[derive(Debug, Default)]
pub(super) struct Leftovers {
    bytes: Vec<u8>,
    /// The bytes before this index are sent.
    start: usize,
}

impl Leftovers {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Removes the first `count` bytes, which are sent. Frees the memory when no bytes are left.
    pub(super) fn advance(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            *self = Leftovers::default();
        }
    }
}
