//! A layer over [`EventHandler`](crate::EventHandler) that keeps a value of the embedder for each
//! connection.
//!
//! An embedder implements [`Handler`] instead of [`EventHandler`](crate::EventHandler), and creates
//! the [`SockMan`](crate::SockMan) with [`SockMan::with_state`](crate::SockMan::with_state). The
//! callback that reports a new connection returns the value of the connection. Each later callback
//! gets `&mut` to the value, and a [`Link`] to the connection. [`Handler::closed`] gives the value
//! back. The embedder needs no table of connections and no lock around their values.
//!
//! The library also keeps a [`SendQueue`](crate::SendQueue) for each connection. By default, it
//! drains the queue, and does not read from a peer whose queue is above its high mark.
//!
//! Other threads use a [`Remote`]: it pushes, enqueues, wakes, closes, and runs closures on the
//! value.
//!
//! The guide's chapter [State](crate::guide::state) has a program.
//!
//! # Threads
//!
//! While a connection is polled, the socket thread alone owns its value, and takes no lock for it.

mod activate;
mod adapter;
mod handler;
mod link;
mod remote;
mod stream_parts;

pub use self::{
    activate::ActivateError,
    handler::Handler,
    link::Link,
    remote::{ConnectionClosed, Remote},
    stream_parts::StreamParts,
};
