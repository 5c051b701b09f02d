//! The two byte streams of a connection: how one is made, and how one is checked.
//!
//! A stream is a header (seed, length, whether it will be cut short), the bytes that the seed gives,
//! and their CRC-32; then it ends.

use crc32fast::Hasher;
use fastrand::Rng;

/// Seed, length, flag.
const HEADER: usize = 17;
const CHECKSUM: usize = 4;
const CHUNK: usize = 16 * 1024;

/// Makes one.
pub(crate) struct Outgoing {
    generator: Rng,
    left: u64,
    hasher: Hasher,
    /// Made, and not taken by the kernel yet.
    pending: Vec<u8>,
    is_checksum_made: bool,
}

impl Outgoing {
    pub(crate) fn new(seed: u64, length: u64, is_cut_short: bool) -> Outgoing {
        let mut pending = Vec::with_capacity(HEADER);
        pending.extend(seed.to_le_bytes());
        pending.extend(length.to_le_bytes());
        pending.push(u8::from(is_cut_short));
        let (generator, hasher) = (Rng::with_seed(seed), Hasher::new());
        Outgoing { generator, left: length, hasher, pending, is_checksum_made: false }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_checksum_made && self.pending.is_empty()
    }

    /// What to send next.
    pub(crate) fn next(&mut self) -> &[u8] {
        if self.pending.is_empty() && self.left > 0 {
            let length = self.left.min(CHUNK as u64) as usize;
            self.pending.resize(length, 0);
            self.generator.fill(&mut self.pending);
            self.hasher.update(&self.pending);
            self.left -= length as u64;
        } else if self.left == 0 && !self.is_checksum_made {
            self.pending.extend(self.hasher.clone().finalize().to_le_bytes());
            self.is_checksum_made = true;
        }
        &self.pending
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.pending.drain(..bytes);
    }
}

/// Checks one.
#[derive(Default)]
pub(crate) struct Incoming {
    buffer: Vec<u8>,
    body: Option<Body>,
    pub(crate) received: u64,
}

struct Body {
    left: u64,
    is_cut_short: bool,
    hasher: Hasher,
}

impl Incoming {
    /// Takes what arrived.
    pub(crate) fn receive(&mut self, data: &[u8]) -> Result<(), String> {
        self.received += data.len() as u64;
        let mut data = data;
        if self.body.is_none() {
            let wanted = (HEADER - self.buffer.len()).min(data.len());
            let (head, rest) = data.split_at(wanted);
            self.buffer.extend(head);
            data = rest;
            if self.buffer.len() == HEADER {
                let length = self.buffer[8..16].try_into().map_or(0, u64::from_le_bytes);
                let is_cut_short = self.buffer[16] != 0;
                self.body = Some(Body { left: length, is_cut_short, hasher: Hasher::new() });
                self.buffer.clear();
            }
        }
        let Some(body) = &mut self.body else { return Ok(()) };
        let length = (data.len() as u64).min(body.left) as usize;
        let (payload, rest) = data.split_at(length);
        body.hasher.update(payload);
        body.left -= length as u64;
        self.buffer.extend(rest);
        if self.buffer.len() > CHECKSUM {
            return Err("more bytes than the header says".to_owned());
        }
        Ok(())
    }

    /// Will the other side cut it short? `None` before the header.
    pub(crate) fn is_cut_short(&self) -> Option<bool> {
        self.body.as_ref().map(|body| body.is_cut_short)
    }

    /// Is everything there, and right?
    pub(crate) fn is_complete(&self) -> bool {
        let checksum = |body: &Body| body.hasher.clone().finalize().to_le_bytes();
        self.body.as_ref().is_some_and(|body| body.left == 0 && self.buffer == checksum(body))
    }
}
