//! Test doubles, for embedders and for this crate: a network in memory with a clock of its own,
//! peers that the test controls by hand, sockets that follow a script, and the socket thread one
//! pass at a time. Feature `testing`.
//!
//! A test with these doubles takes microseconds: it has no port, no thread and no sleep. A test
//! with these doubles has the following parts:
//!
//! 1. a [`Network`], whose [`factory`](Network::factory) goes into
//!    [`Options::sock_factory`](crate::Options::sock_factory);
//! 2. a [`SocketThreadByHand`], which runs the `SockMan`'s passes when the test says so;
//! 3. [`Peer`]s, from [`Network::connect`], [`Network::listen`] or [`Network::pair`]; or sockets
//!    that follow a [`Script`], from [`Network::scripted`], passed to
//!    [`SockMan::add_existing_connection`](crate::SockMan::add_existing_connection);
//! 4. failures, from [`Network::fail_next`] and [`Peer::fail_next`]: each [`Call`] can be made to
//!    return each error of its man page;
//! 5. for a simulator, other threads: [`Network::set_interleave`] calls a function at system calls
//!    and before each sleep, and [`Network::as_another_thread`] acts as another thread in that
//!    function. [`Network::probe`] returns what a socket has left to receive and whether it has
//!    room to send.
//!
//! The doubles are made for one thread. With real threads, the clock would run as fast as the
//! processor allows, unless [`Network::set_blocking`] leaves the clock to the test.
//!
//! [`SocketThreadByHand`] has an example. The guide has a
//! [test of a handler](crate::guide::testing) with back-pressure, timers, a reset and a lack of
//! descriptors.

mod by_hand;
mod calls;
mod handover;
mod inside;
mod kernel;
mod network;
mod peer;
mod script;
mod seams;
mod stream;
mod winsock;

#[cfg(feature = "i2p")]
pub use self::inside::unused_sessions;
pub use self::{
    by_hand::SocketThreadByHand,
    calls::Call,
    inside::descriptor,
    network::{Interleave, Network, Point},
    peer::{Ended, Peer, PeerListener},
    script::Script,
    stream::Probe,
};
