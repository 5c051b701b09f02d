//! An HTTP/1.1 server on sockman, and JSON-RPC on top of it: what Bitcoin Core has in
//! `httpserver.cpp` and `httprpc.cpp`, with `SockMan` in place of libevent.
//!
//! * [`Server`] is the server. It answers through an [`HttpService`].
//! * [`rpc`] is JSON-RPC: an [`HttpService`] that calls [`Methods`](rpc::Methods).
//! * [`methods`] are the methods of the program `http_rpc`.
//! * [`parser`] and [`chunked`] turn bytes into requests, without sockets.

pub mod methods;
pub mod rpc;
mod server;
pub mod testing;

pub use server::{
    Answer, Config, HttpService, Server, ServerError, Timers, chunked,
    events::{EventStream, StreamClosed},
    parser,
    response::Response,
};
