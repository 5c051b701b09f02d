//! Pseudo-random numbers, the same in every run.

pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// Returns a number from 0 to below 1. xorshift64 is enough: the suite only needs an even
    /// spread.
    pub fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for unplaced in (1..list.len()).rev() {
            let chosen = (self.fraction() * (unplaced + 1) as f64) as usize;
            list.swap(unplaced, chosen);
        }
    }
}
