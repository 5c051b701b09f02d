//! The engine: the shared state, the socket thread and its pass, and the I2P-accept thread.
//!
//! `shared` is what all threads see: `map`, `connection`, `listener`, `inbox`, `counters`. The
//! socket thread alone owns `socket_thread`, which runs one pass after the other over `poll_set`,
//! `slot`, `due`, `accepting` and `connecting`. `connect` and `attempt` begin connects on the
//! caller's thread, `announce` tells the embedder of what came of them, `i2p_accept` is the
//! I2P-accept thread, and `threads` starts and joins both.
//!
//! What a sweep or a message runs through carries `#[inline]`: the files are compiled apart, and
//! without it a sweep costs half as many instructions again.

pub(crate) mod accepting;
mod announce;
pub(crate) mod attempt;
pub(crate) mod connect;
pub(crate) mod connecting;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod counters;
mod due;
#[cfg(feature = "i2p")]
mod i2p_accept;
mod id;
pub(crate) mod inbox;
pub(crate) mod listener;
pub(crate) mod map;
#[cfg(test)]
mod pass_tests;
pub(crate) mod poll_set;
pub(crate) mod shared;
pub(crate) mod slab;
pub(crate) mod slot;
pub(crate) mod socket_thread;
pub(crate) mod threads;
