//! The source of the simulator's decisions: a seed, or the bytes of a fuzzer.
//!
//! With a seed, each step has its own random generator. Shrinking can therefore omit a step without
//! changing the decisions of the others.

use std::collections::BTreeSet;

#[derive(Debug)]
pub(crate) struct Choices {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Seeded { seed: u64, generator: fastrand::Rng, left_out: BTreeSet<u32> },
    Bytes { bytes: Vec<u8>, position: usize },
}

/// Whether a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Taken,
    LeftOut,
    /// The bytes have run out, so there are no more steps.
    Over,
}

/// The number of the "step" that makes the decisions before the first step.
pub(crate) const SET_UP: u32 = u32::MAX;

impl Choices {
    pub(crate) fn seeded(seed: u64, left_out: &BTreeSet<u32>) -> Choices {
        let generator = fastrand::Rng::with_seed(seed);
        let left_out = left_out.clone();
        Choices { source: Source::Seeded { seed, generator, left_out } }
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Choices {
        Choices { source: Source::Bytes { bytes: bytes.to_vec(), position: 0 } }
    }

    pub(crate) fn begin(&mut self, step: u32) -> Fate {
        match &mut self.source {
            Source::Seeded { left_out, .. } if left_out.contains(&step) => Fate::LeftOut,
            Source::Seeded { seed, generator, .. } => {
                // Neighbouring seeds and steps get generator seeds that are far apart.
                let seed =
                    seed.rotate_left(17) ^ u64::from(step).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *generator = fastrand::Rng::with_seed(seed);
                Fate::Taken
            }
            Source::Bytes { bytes, position } if *position >= bytes.len() => Fate::Over,
            Source::Bytes { .. } => Fate::Taken,
        }
    }

    /// Returns a number below `limit`. Returns 0 when the bytes have run out, because 0 always
    /// means the harmless choice.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        match &mut self.source {
            Source::Seeded { generator, .. } => generator.u64(0..limit.max(1)),
            Source::Bytes { bytes, position } => {
                let wanted = if limit <= 256 { 1 } else { 3 };
                let mut number = 0;
                for _ in 0..wanted {
                    number = number << 8 | u64::from(bytes.get(*position).copied().unwrap_or(0));
                    *position += 1;
                }
                number % limit.max(1)
            }
        }
    }

    /// Returns `true` once in `times` calls, on average.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        // The result is compared with another number than 0, because `below` returns 0 when the
        // bytes have run out.
        self.below(times) == times - 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.below(from.len() as u64);
        from.get(usize::try_from(index).ok()?).copied()
    }

    /// Returns a size from 1 to `limit`: mostly a small one.
    pub(crate) fn size(&mut self, limit: u64) -> u64 {
        let scale = [16, 256, 4096, limit];
        let of = self.pick(&scale).unwrap_or(16).min(limit);
        1 + self.below(of.max(1))
    }
}
