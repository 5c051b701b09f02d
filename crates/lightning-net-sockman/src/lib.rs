//! Connects LDK's [`PeerManager`] to its peers, with one socket thread and no async runtime.
//!
//! A [`Driver`] is what `lightning-net-tokio` is to a program with tokio: it accepts, connects,
//! receives and sends for a [`PeerManager`], over the socket manager [`sockman`]. The
//! [README](https://github.com/sockman-rs/sockman/tree/main/crates/lightning-net-sockman) has a
//! first program, and a table for programs that come from `lightning-net-tokio`.
//!
//! # What a program does
//!
//! 1. It creates a [`PeerManager`] whose descriptor is [`SocketDescriptor`], and a [`Driver`].
//! 2. It listens and starts the thread: [`Driver::sockman`] has the methods.
//! 3. It connects: [`Driver::connect_outbound`] and its relatives.
//! 4. It calls [`PeerManager::timer_tick_occurred`] about every ten seconds, and
//!    [`Driver::notify`] after it has given a message handler something to send.
//!
//! # Threads
//!
//! The socket thread makes all calls to the [`PeerManager`] that belong to one connection, so they
//! come one after the other, as LDK requires. LDK calls message handlers on the thread that calls
//! the [`PeerManager`]: the socket thread, or the program's thread if the program itself calls
//! `process_events`, `timer_tick_occurred` or `disconnect_all_peers`. With connections accepted
//! from I2P, the first of these calls comes from the I2P-accept thread. All methods of [`Driver`]
//! may be called from any thread, and from LDK's message handlers, under LDK's locks. The methods
//! that wait say so.
//!
//! # LDK's contract
//!
//! | LDK's documentation of [`SocketDescriptor`][trait] and [`PeerManager`] says | The driver |
//! |---|---|
//! | `send_data` may come from any thread, under the manager's locks | queues, under one lock of its own, and makes no system call but a wake |
//! | after a partial `send_data`, [`write_buffer_space_avail`][room] must follow when there is room | calls it, on the socket thread, when at most half of the queue is left |
//! | without `continue_read`, [`read_event`][read] should not be called | does not receive. The kernel's buffer fills, and TCP slows the peer down |
//! | the manager must not be re-entered from a descriptor | calls no manager in a descriptor |
//! | calls for one connection come one after the other | makes them all on the socket thread |
//! | `data` of `read_event` should have about 4 KiB | receives 4 KiB at most |
//! | [`process_events`][events] should follow `read_event` | calls it once in a pass of its loop, if a call to the manager came before |
//! | after an `Err`, disconnect, and make no further call for the descriptor | ends the connection, and makes none |
//! | after `disconnect_socket`, `socket_disconnected` need not be called | does not call it. What is queued, such as LDK's error message, is sent first, for at most three seconds |
//! | [`socket_disconnected`][gone] must be called for every other end | calls it once: after the peer's end, an error, or a close by the program |
//! | equal descriptors must not be in use at once | compares ids, which are unique in the process and never reused |
//!
//! # Memory
//!
//! A connection has a queue of at most 128 KiB, allocated as needed. What does not fit stays with
//! LDK, which stops reading from a peer that does not read.
//!
//! # Panics
//!
//! A panic of a message handler may poison the locks of the [`PeerManager`], which then panics in
//! every call. The default [`PanicPolicy::Stop`](sockman::options::PanicPolicy::Stop) ends the
//! threads and reports the panic; keep it.
//!
//! [`PeerManager`]: lightning::ln::peer_handler::PeerManager
//! [`PeerManager::timer_tick_occurred`]: lightning::ln::peer_handler::PeerManager::timer_tick_occurred
//! [trait]: lightning::ln::peer_handler::SocketDescriptor
//! [room]: lightning::ln::peer_handler::PeerManager::write_buffer_space_avail
//! [read]: lightning::ln::peer_handler::PeerManager::read_event
//! [events]: lightning::ln::peer_handler::PeerManager::process_events
//! [gone]: lightning::ln::peer_handler::PeerManager::socket_disconnected

mod address;
mod connection;
mod descriptor;
mod driver;
mod handler;
mod manager;
#[cfg(test)]
mod tests;

pub use self::{
    connection::Connection,
    descriptor::SocketDescriptor,
    driver::{Driver, WeakDriver},
};

/// The README's program is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
