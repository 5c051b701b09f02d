//! Runs [nakamoto](https://docs.rs/nakamoto-client), the Bitcoin light client, over the socket
//! manager [`sockman`].
//!
//! [`Reactor`] implements the trait [`nakamoto_net::Reactor`], as the crate `nakamoto-net-poll` does.
//! `nakamoto_client::Client<nakamoto_net_sockman::Reactor>` is the light client on it. The
//! [README](https://github.com/sockman-rs/sockman/tree/main/crates/nakamoto-net-sockman) has a first
//! program.
//!
//! # Threads
//!
//! The thread that calls [`run`](nakamoto_net::Reactor::run) is the socket thread and calls the
//! service. There is no other thread. Any thread may use a [`Waker`].
//!
//! # Nakamoto's contract
//!
//! | The documentation of [`Service`](nakamoto_net::Service), [`StateMachine`][machine] and [`Io`](nakamoto_net::Io) says | The reactor |
//! |---|---|
//! | `initialize` is called once, before any event | calls it after it has bound all addresses |
//! | `tick` updates the clock | calls it before all other calls of a pass. The time never goes back, also if the system's clock is set back |
//! | `attempted` comes before `connected` | calls it when the service asks for the connect, also if the connect fails at once |
//! | `connected` | calls it once for each connection, with its local address |
//! | `disconnected`, with a reason | calls it once for each peer that was attempted or connected. A request of the service has the service's reason, and the call comes at once |
//! | `DialError` | the connect failed at once, for example for want of a route or of a descriptor |
//! | `ConnectionError` | a connect that was under way failed, or a connection ended. Nakamoto's peer manager wants this reason for both, and its own reactor reports it for both |
//! | `Write` to a peer that is gone | drops the bytes |
//! | `Write` to a peer that is connecting | keeps the bytes until it is connected |
//! | `Connect` to a peer that is known | does nothing |
//! | a peer is a socket address | closes an inbound connection from an address that already names a peer, before the service hears of it |
//! | `SetTimer` | calls `timer_expired` once for all timers that have ended; a timer is never early, and late by at most a 64th of its delay and 2 ms |
//! | a command, a shutdown, and then [`Waker::wake`](nakamoto_net::Waker::wake) | takes all commands, then looks for the shutdown |
//!
//! After each call, the requests of the service are carried out. So the service hears nothing more of
//! a peer that it has disconnected, and data that arrived before a timer ended comes before
//! `timer_expired`.
//!
//! # Memory and slow peers
//!
//! Nakamoto writes without asking, so the reactor has to bound what is queued. From one million
//! queued bytes on, the peer is not read from. A peer for which a message does not fit within eight
//! million bytes, or within 64 million bytes for all peers together, is disconnected with a
//! `ConnectionError`. A message longer than eight million bytes is refused in the same way.
//!
//! What was received waits for at most one pass: 64 KiB for each connection.
//!
//! # What nakamoto leaves no room for
//!
//! * A peer is a [`SocketAddr`](std::net::SocketAddr), so there are no onion services and no I2P. A
//!   proxy can be set with [`Reactor::with_options`].
//! * `nakamoto_client::Client` creates its reactor itself, with the defaults. Only a program that calls
//!   [`run`](nakamoto_net::Reactor::run) itself can set options.
//! * A service cannot be told that a peer has room again. It can only be disconnected from the peer.
//!
//! [machine]: nakamoto_net::StateMachine

mod bridge;
mod clock;
mod reactor;
mod session;
mod timers;
mod waker;

pub use self::{reactor::Reactor, waker::Waker};

/// The README's program is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
