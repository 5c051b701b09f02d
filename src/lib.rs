//! A synchronous, protocol-agnostic socket manager: one socket thread, one connection map, and
//! callbacks through a trait object. It has no async runtime, queues no payload behind its user's
//! back, and knows nothing of the protocol spoken over its sockets.
//!
//! The shape is that of Bitcoin Core's `SockMan` (pull request #30988), carried over to Rust with
//! its names, so that people who come from there find their way.
//!
//! # How it fits together
//!
//! * [`SockMan`] binds, listens, accepts, connects, sends and closes. It is a cheap clone of one
//!   shared state, and every method may be called from every thread and from every callback.
//! * [`EventHandler`] is what *you* write: it hears what happened on which [`ConnectionId`], and
//!   its hooks can pause either direction of any connection.
//! * [`SocketsThreads`] is the guard of the running socket thread.
//! * [`SendQueue`], [`ConnectionTable`] and [`Deadlines`] are optional helpers: a bounded queue of
//!   outgoing bytes for one connection, what you know of each connection by its id, and timers on
//!   the socket thread.
//!
//! # Example
//!
//! A server that sends back what it receives. (It keeps nothing that the kernel did not take at
//! once; the `echo` example shows how to.)
//!
//! ```
//! use std::{io, sync::Arc};
//! use sockman::{ConnectionId, EventHandler, NextRecv, Options, Service, SockMan};
//!
//! struct Echo;
//!
//! impl EventHandler for Echo {
//!     fn event_new_connection_accepted(
//!         &self, _: &SockMan, _: ConnectionId, _me: &Service, _them: &Service,
//!     ) -> bool {
//!         true
//!     }
//!     fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
//!         NextRecv::Proceed
//!     }
//!     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
//!         let _ = sockman.send_bytes(id, data, false);
//!     }
//!     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
//!         sockman.close_connection(id);
//!     }
//!     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
//!         sockman.close_connection(id);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sockman = SockMan::new(Arc::new(Echo), Options::default())?;
//! let bound = sockman.bind_and_start_listening(&"127.0.0.1:0".parse()?)?;
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
//! The promises that the documentation calls G1 to G14 (identity, registration first, one callback
//! at a time, close, bytes, hooks, no spin, fairness, promptness, no hidden memory, exhaustion,
//! panics, addresses, restart) are listed in `docs/guide.md`, each with its test in
//! `docs/testing.md`.
//!
//! # Platforms
//!
//! Unix. Proven on Linux (epoll); written for macOS and the BSDs (kqueue).

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod address;
mod dial;
mod engine;
mod error;
mod event_handler;
pub mod guide;
mod helpers;
mod options;
mod sockman;
mod stats;
pub mod sys;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::{
    address::*,
    dial::{
        ConnectError, ConnectOptions, ConnectPhase,
        i2p::{DestinationError, I2pOptions, I2pStatus, KeyFileError, SamError, SamResult},
        socks5::{Credentials, InvalidCredentials, Proxy, ProxyError, Socks5Reply},
    },
    engine::{
        connect::NewConnection,
        connection::{ConnectionId, ConnectionInfo, Direction},
        threads::SocketsThreads,
    },
    error::{BindError, JoinError, SendError, StartError},
    event_handler::{EventHandler, NextRecv},
    helpers::{ConnectionTable, Deadlines, PushError, SendQueue, SendQueueOptions},
    options::{Options, PanicPolicy, SELECT_TIMEOUT},
    sockman::{SockMan, WeakSockMan},
    stats::Stats,
    sys::{OsSockFactory, Poller, Readiness, Sock, SockFactory, Waker, interrupt::Interrupt},
};
