//! How much of the suite a run does.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Everything is run once and shortly: it works, and no figure means anything.
    Smoke,
    /// Under three minutes.
    Quick,
    /// What docs/performance.md shows.
    Full,
}

impl Effort {
    /// As [`Report::mode`](crate::report::Report::mode) has it.
    pub fn name(self) -> &'static str {
        match self {
            Effort::Smoke => "smoke",
            Effort::Quick => "quick",
            Effort::Full => "full",
        }
    }
}
