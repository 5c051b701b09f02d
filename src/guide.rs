//! The guide: documentation only, no code of the library's.
#![doc = include_str!("../docs/guide.md")]

/// Onion services and host names through SOCKS5: documentation only.
pub mod tor_and_i2p {
    #![doc = include_str!("../docs/tor-and-i2p.md")]
}
