//! How thorough a run is.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Does it all still run? Its figures say nothing.
    Smoke,
    /// Under three minutes for the whole suite.
    Quick,
    /// What docs/performance.md shows.
    Full,
}
