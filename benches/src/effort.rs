//! The amount of measurements in a run.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Runs everything once and briefly, to show that the suite works. The figures mean nothing.
    Smoke,
    /// Takes less than three minutes.
    Quick,
    /// Takes about 45 minutes, and gives the figures of the documentation.
    Full,
}

impl Effort {
    /// Returns the name for [`Report::mode`](crate::report::Report::mode).
    pub fn name(self) -> &'static str {
        match self {
            Effort::Smoke => "smoke",
            Effort::Quick => "quick",
            Effort::Full => "full",
        }
    }
}
