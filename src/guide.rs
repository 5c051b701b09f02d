//! The guide. This module holds documentation only, and no code.
//!
// In a chapter's file, a link leads to a file of the repository, so that the link works for readers
// of the file. In this documentation, the definitions of guide_links.md come first and take
// precedence, so the same link leads to an item of the documentation.
#![doc = include_str!("guide_links.md")]
#![doc = include_str!("../docs/guide/README.md")]

/// Declares a chapter from its file in docs/guide.
macro_rules! chapter {
    ($name:ident, $file:literal) => {
        #[doc = include_str!("guide_links.md")]
        #[cfg_attr(feature = "testing", doc = include_str!("guide_testing_links.md"))]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    };
}

chapter!(first_program, "guide/first-program.md");
chapter!(chat_server, "guide/chat-server.md");
chapter!(state, "guide/state.md");
chapter!(handler, "guide/handler.md");
chapter!(guarantees, "guide/guarantees.md");
chapter!(sending, "guide/sending.md");
chapter!(relay, "guide/relay.md");
chapter!(connecting, "guide/connecting.md");
chapter!(workers, "guide/workers.md");
chapter!(engines, "guide/engines.md");
chapter!(timers, "guide/timers.md");
chapter!(ending, "guide/ending.md");
chapter!(operation, "guide/operation.md");
chapter!(logging, "guide/logging.md");
// The program needs the doubles. Without the feature the module is there for the links to it.
#[cfg(feature = "testing")]
chapter!(testing, "guide/testing.md");
/// Testing an embedder: over loopback, or over a network in memory. The text needs the feature
/// `testing`.
#[cfg(not(feature = "testing"))]
pub mod testing {}

// The examples need both features. Without the features, the module exists only as a target of
// links.
#[cfg(all(feature = "socks5", feature = "i2p"))]
chapter!(tor_and_i2p, "tor-and-i2p.md");
/// Onion services, host names and I2P. The text of this chapter needs the features `socks5` and
/// `i2p`.
#[cfg(not(all(feature = "socks5", feature = "i2p")))]
pub mod tor_and_i2p {}
