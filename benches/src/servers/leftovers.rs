//! What the kernel did not take of one connection yet.

#[derive(Debug, Default)]
pub(super) struct Leftovers {
    bytes: Vec<u8>,
    /// Those before it are sent.
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

    /// `count` of them are sent. Once all are, it holds no memory.
    pub(super) fn advance(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            *self = Leftovers::default();
        }
    }
}
