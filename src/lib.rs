//! A synchronous, protocol-agnostic socket manager: one socket thread, one connection map, and
//! callbacks through a trait object. The library has no async runtime, keeps no hidden queue of
//! payload, and does not know the protocol spoken over its sockets.
//!
//! The library carries the design and the names of Bitcoin Core's `SockMan` (pull request #30988)
//! over to Rust.
//!
//! # How it fits together
//!
//! * [`SockMan`] binds, listens, accepts, connects, sends and closes. Clones of a `SockMan` share
//!   one state and are cheap. Every method may be called from every thread and from every callback.
//! * [`EventHandler`] is the trait that the embedder implements to receive connection events. The
//!   hooks of the trait pause either direction of any connection.
//! * [`stateful::Handler`] is a trait over [`EventHandler`]. Most embedders implement it instead:
//!   the library then keeps a value and a queue for each connection, so the embedder needs no table
//!   and no lock.
//! * [`SocketsThreads`] is the guard of the running threads.
//! * [`SendQueue`] is an optional helper: a bounded queue of outgoing bytes for one connection. The
//!   module [`helpers`] has more optional helpers: a table, timers, a budget of memory, limits of
//!   rates.
//!
//! # Example
//!
//! This program is `examples/first.rs`, the first program of the README.
//!
//! ```no_run
//! //! A server that sends back what it receives. It does not read from a peer that does not read, and
//! //! the peers that do not read may together use 32 megabytes.
//! use std::{error::Error, sync::Arc};
//!
//! use sockman::stateful::{Handler, Link};
//! use sockman::{ConnectionId, Options, Service, SockMan, helpers::SendBudget};
//!
//! struct Echo {
//!     budget: SendBudget,
//! }
//!
//! /// What the library keeps for each connection.
//! #[derive(Default)]
//! struct Peer {
//!     bytes: usize,
//! }
//!
//! impl Handler for Echo {
//!     type Connection = Peer;
//!
//!     fn accepted(&self, _: Link<'_, Peer>, _me: &Service, _them: &Service) -> Option<Peer> {
//!         Some(Peer::default())
//!     }
//!     fn got_data(&self, link: Link<'_, Peer>, peer: &mut Peer, data: &[u8]) {
//!         peer.bytes += data.len();
//!         // Sends what the kernel takes now, and queues the rest.
//!         if link.push(data).is_err() {
//!             link.close(); // The connection is broken, or the budget is used up.
//!         }
//!     }
//!     fn closed(&self, _: &SockMan, id: ConnectionId, peer: Peer) {
//!         println!("connection {id} has sent {} bytes", peer.bytes);
//!     }
//!     fn send_budget(&self) -> Option<&SendBudget> {
//!         Some(&self.budget)
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     let echo = Echo { budget: SendBudget::new(32_000_000) };
//!     let sockman = SockMan::with_state(Arc::new(echo), Options::default())?;
//!     println!("listening on {}", sockman.bind_and_start_listening("127.0.0.1:7000")?);
//!     Ok(sockman.run_sockets_thread()?)
//! }
//! ```
//!
//! # Guide
//!
//! The [`guide`] begins with a [first program](guide::first_program) in ten minutes. The other
//! chapters of the guide are about a [chat server](guide::chat_server), [state](guide::state), the
//! [handler](guide::handler), the [guarantees](guide::guarantees) G1 to G15,
//! [sending](guide::sending), [a relay](guide::relay), [connecting](guide::connecting),
//! [workers](guide::workers), [somebody else's engine](guide::engines), [timers](guide::timers),
//! [ending well](guide::ending), [operation](guide::operation), [logging](guide::logging),
//! [testing](guide::testing), and [Tor, SOCKS5 and I2P](guide::tor_and_i2p).
//!
//! # Features
//!
//! | Feature | Default | What it adds |
//! |---|---|---|
//! | `socks5` | on | connects through SOCKS5 proxies and Tor ([`proxy`]), and onion addresses |
//! | `i2p` | on | connects and accepts through a SAM bridge ([`i2p`]), and I2P addresses |
//! | `testing` | off | test doubles in `sockman::testing`, such as a network in memory |
//!
//! # Modules
//!
//! The root of the crate holds the names that most programs need.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`address`] | the addresses to connect to and to listen on |
//! | [`proxy`] | SOCKS5 proxies (feature `socks5`) |
//! | [`i2p`] | I2P (feature `i2p`) |
//! | [`options`] | the options of a `SockMan` and of a connect |
//! | [`stats`] | what a `SockMan` reports about itself and its connections |
//! | [`error`] | all errors |
//! | [`stateful`] | the layer that keeps a value and a queue for each connection |
//! | [`helpers`] | optional helpers for embedders |
//! | [`sys`] | the seam to the operating system, which may still change |
//! | `testing` | test doubles (feature `testing`) |
//! | [`guide`] | the guide, without code |
//!
//! # Platforms
//!
//! The crate is tested on Linux (epoll). The crate is also written for macOS and the BSDs (kqueue),
//! but it has not been tested on those systems yet. On Windows, the crate has TCP and no unix-domain
//! sockets. Its tests run under Wine, and have not run on Windows yet.

// docs.rs marks each item with the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// Only the documentation with the default features is checked, because other feature sets lack
// items to which the documentation links.
#![cfg_attr(not(all(feature = "socks5", feature = "i2p")), allow(rustdoc::broken_intra_doc_links))]

pub mod address;
mod dial;
mod engine;
pub mod error;
mod event_handler;
pub mod guide;
pub mod helpers;
pub mod options;
mod sockman;
pub mod stateful;
pub mod stats;
pub mod sys;
#[cfg(feature = "testing")]
pub mod testing;

#[doc(inline)]
pub use crate::{
    address::Service,
    dial::ConnectOptions,
    engine::{connect::NewConnection, connection::ConnectionId, threads::SocketsThreads},
    event_handler::{EventHandler, NextRecv},
    helpers::SendQueue,
    options::Options,
    sockman::{SockMan, WeakSockMan},
    sys::interrupt::Interrupt,
};

/// SOCKS5 proxies, including Tor. Feature `socks5`.
#[cfg(feature = "socks5")]
pub mod proxy {
    pub use crate::dial::socks5::{
        Credentials, InvalidCredentials, Proxy, ProxyError, Socks5Reply,
    };
}

/// I2P through a router's SAM bridge. Feature `i2p`.
#[cfg(feature = "i2p")]
pub mod i2p {
    pub use crate::dial::i2p::{
        DestinationError, I2pOptions, I2pStatus, KeyFileError, SamError, SamResult,
    };
}
