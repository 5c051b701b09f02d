//! Measures `sockman` against what people would use instead.
mod report;

fn main() {}
