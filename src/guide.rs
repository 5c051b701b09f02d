//! The guide: documentation only, no code of the library's.
#![doc = include_str!("../docs/guide.md")]

/// Onion services and host names through SOCKS5: documentation only.
pub mod tor_and_i2p {
    // Its examples need both features. The module is there without them, for the links to it.
    #![cfg_attr(
        all(feature = "socks5", feature = "i2p"),
        doc = include_str!("../docs/tor-and-i2p.md")
    )]
}
