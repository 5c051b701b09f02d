//! The engine: the shared state, the socket thread and its pass, and the I2P-accept thread.
//!
//! All threads see `shared`, which contains `map`, `connection`, `listener`, `inbox` and
//! `counters`. The socket thread alone owns `socket_thread`, which runs its passes over `poll_set`,
//! `slot`, `due`, `accepting` and `connecting`. `connect` and `attempt` begin connects on the
//! caller's thread. `handover` takes connected streams over and hands them out. `announce` reports
//! new connections to the embedder. `state` keeps the embedder's state of each connection, and
//! `visits` runs the closures of other threads on it. `i2p_accept` is the I2P-accept thread.
//! `timer_limit` keeps timers behind data that waits. `threads` starts and joins both threads.
//!
//! The functions that run for every connection of a sweep, or for every message, carry `#[inline]`,
//! because the files are compiled as separate units. Without the attribute a sweep costs 50 % more
//! instructions.

pub(crate) mod accepting;
mod announce;
pub(crate) mod attempt;
pub(crate) mod connect;
pub(crate) mod connecting;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod counters;
mod due;
mod ending;
mod growth;
pub(crate) mod handover;
#[cfg(feature = "i2p")]
mod i2p_accept;
mod id;
pub(crate) mod inbox;
mod lacking;
pub(crate) mod listener;
mod listening;
pub(crate) mod map;
// They run over the doubles. The unpacked crate has these only with the feature.
#[cfg(test)]
#[cfg(feature = "testing")]
mod pass_tests;
pub(crate) mod poll_set;
mod queue;
pub(crate) mod run_error;
mod sending;
pub(crate) mod shared;
pub(crate) mod slab;
pub(crate) mod slot;
pub(crate) mod socket_thread;
pub(crate) mod state;
pub(crate) mod threads;
pub(crate) mod timer_limit;
mod visits;
