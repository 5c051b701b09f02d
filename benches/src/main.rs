//! Measures `sockman` against what people would use instead.
#![allow(dead_code, unused_imports, reason = "a place holder: the command line comes with a merge")]

mod docs;
#[cfg(test)]
mod fixture;
mod plot;
mod report;
mod table;

fn main() {}
