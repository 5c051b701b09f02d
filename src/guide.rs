//! The guide: documentation only, no code of the library's.
#![doc = include_str!("../docs/guide.md")]
