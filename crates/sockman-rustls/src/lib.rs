//! TLS for [`sockman`], with [`rustls`]: servers and clients on one socket thread, without an async
//! runtime. The
//! [README](https://github.com/sockman-rs/sockman/tree/main/crates/sockman-rustls) has a first
//! program.
//!
//! # What a program does
//!
//! 1. It implements [`TlsHandler`], the trait of sockman's [`stateful::Handler`] for decrypted
//!    bytes, and makes a [`Tls`] of it.
//! 2. It passes the [`Tls`] to [`SockMan::with_state`](sockman::SockMan::with_state), and listens,
//!    starts and ends the `SockMan` as any other.
//! 3. In the callbacks, it writes through a [`TlsLink`]; on other threads, through a [`TlsRemote`].
//! 4. To connect, it passes a [`Dial`] to
//!    [`start_connect_with`](sockman::SockMan::start_connect_with).
//!
//! # Threads
//!
//! The socket thread encrypts and decrypts, and makes the signature of each full handshake, during
//! which the other connections wait. A key of ECDSA signs many times faster than one of RSA. Several
//! `SockMan`s use more cores.
//!
//! # The end of a connection
//!
//! | What happens | What this crate does | Callbacks |
//! |---|---|---|
//! | the program finishes the connection, or drains the `SockMan` | sends what was written, a `close_notify` and the end of the stream; discards what comes; closes at the peer's end, or when the time is over | `closed` |
//! | the peer sends a `close_notify` | delivers what came before; by default, finishes | `got_end`, `closed` |
//! | the peer's stream ends without one | sends what was written, and finishes | `failed` with [`TlsError::Truncated`], `closed` |
//! | the peer breaks the protocol, or sends an alert | sends the alert of rustls, and finishes | `failed` with [`TlsError::Protocol`], `closed` |
//! | the socket breaks | closes | `failed` with [`TlsError::Socket`], `closed` |
//! | the program closes the connection | closes without a `close_notify` | `closed` |
//!
//! Before the handshake is complete, [`handshake_failed`](TlsHandler::handshake_failed) is the one
//! callback for each of them.
//!
//! # Memory and copies
//!
//! A received byte is copied once on its way to rustls, and the handler gets a reference to the
//! decrypted bytes. A sent byte is not copied: rustls encrypts from the handler's slice into its own
//! records, and the kernel takes these. A connection holds at most
//! [`send_buffer`](TlsSettings::send_buffer) bytes that the kernel has not taken, and of the
//! received bytes a part of one record or of one handshake message (64 KiB at most). While a write
//! waits for room, the connection is not read, and TCP slows the peer down.
//!
//! # What is not there
//!
//! * Early data (0-RTT): anybody can send it again.
//! * A choice of the configuration after the client's first message. A
//!   [`ResolvesServerCert`](rustls::server::ResolvesServerCert) chooses the certificate.
//! * A `close_notify` of this side after which it still receives. A debug build of rustls 0.23
//!   panics if it has to send an alert after its `close_notify`, so a peer could stop the program.
//! * Blocking connects.
//!
//! [`stateful::Handler`]: sockman::stateful::Handler

mod dial;
mod error;
mod handler;
mod link;
mod session;
mod settings;
mod tls;
mod wire;

pub use self::{
    dial::Dial,
    error::{ConfigError, TlsError, WriteError},
    handler::TlsHandler,
    link::{TlsLink, TlsRemote},
    session::Session,
    settings::TlsSettings,
    tls::Tls,
};

/// The README's program is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
