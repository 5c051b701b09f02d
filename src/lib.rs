//! A synchronous, protocol-agnostic socket manager: one socket thread, one connection map, and
//! callbacks through a trait object. It has no async runtime, queues no payload behind the
//! embedder's back, and knows nothing of the protocol spoken over its sockets.
//!
//! The shape is that of Bitcoin Core's `SockMan` (pull request #30988), carried over to Rust with
//! its names.
//!
//! # How it fits together
//!
//! * [`SockMan`] binds, listens, accepts, connects, sends and closes. It is a cheap clone of one
//!   shared state. Every method may be called from every thread and from every callback.
//! * [`EventHandler`] is the trait that the embedder implements to receive connection events. Its
//!   hooks pause either direction of any connection.
//! * [`SocketsThreads`] is the guard of the running threads.
//! * [`SendQueue`] is an optional helper: a bounded queue of outgoing bytes for one connection.
//!   [`helpers`] has two more.
//!
//! The [`guide`] explains the rest, chapter by chapter.
//!
//! # Example
//!
//! A server that sends back what it receives. It keeps nothing that the kernel did not take at once;
//! the example `echo` shows how to.
//!
//! ```
//! use std::{io, sync::Arc};
//! use sockman::{ConnectionId, EventHandler, Options, Service, SockMan};
//!
//! struct Echo;
//!
//! impl EventHandler for Echo {
//!     fn event_new_connection_accepted(
//!         &self, _: &SockMan, _: ConnectionId, _me: &Service, _them: &Service,
//!     ) -> bool {
//!         true
//!     }
//!     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
//!         let _ = sockman.send_bytes(id, data);
//!     }
//!     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
//!         sockman.close_connection(id);
//!     }
//!     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
//!         sockman.close_connection(id);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let sockman = SockMan::new(Arc::new(Echo), Options::default())?;
//! let bound = sockman.bind_and_start_listening("127.0.0.1:0")?;
//! let threads = sockman.start_sockets_threads()?;
//! # use std::io::{Read, Write};
//! # let mut peer = std::net::TcpStream::connect(bound.to_socket_addr().unwrap())?;
//! # peer.write_all(b"ping")?;
//! # let mut back = [0; 4];
//! # peer.read_exact(&mut back)?;
//! # assert_eq!(&back, b"ping");
//! sockman.interrupt();
//! threads.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! The guarantees G1 to G14 (identity, registration first, one callback at a time, close, bytes,
//! hooks, no spin, fairness, promptness, no hidden memory, exhaustion, panics, addresses, restart)
//! are listed in the [`guide`]. `docs/testing.md` names the test of each.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `socks5` | on | connects through SOCKS5 proxies and Tor ([`proxy`]), and onion addresses |
//! | `i2p` | on | connects and accepts through a SAM bridge ([`i2p`]), and I2P addresses |
//! | `testing` | off | test doubles (`sockman::testing`): a network in memory and the socket thread by hand |
//!
//! # Modules
//!
//! The root holds the names that a first program needs. [`address`], [`proxy`] and [`i2p`] hold what
//! a connect can be asked for, [`options`] and [`stats`] what a `SockMan` can be told and asked,
//! [`error`] all errors. [`sys`] is the seam to the operating system; it may still change.
//!
//! # Platforms
//!
//! Unix. Proven on Linux (epoll); written for macOS and the BSDs (kqueue).

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// The documentation of the default features is the one that is checked: others lack what it links to.
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

/// SOCKS5 proxies, Tor among them. Feature `socks5`.
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
