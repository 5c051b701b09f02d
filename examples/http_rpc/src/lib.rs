//! An HTTP/1.1 server on sockman, and JSON-RPC on top of it. It does what Bitcoin Core does in
//! `httpserver.cpp` and `httprpc.cpp`, with `SockMan` in place of libevent.
//!
//! * [`Server`] is the HTTP server. It passes requests to an [`HttpService`].
//! * [`rpc`] implements JSON-RPC as an [`HttpService`] that calls [`Methods`](rpc::Methods).
//! * [`methods`] holds the methods of the program `http_rpc`.
//! * [`parser`] and [`chunked`] parse bytes into requests. They use no sockets.

pub mod methods;
pub mod rpc;
mod server;
pub mod testing;

pub use server::{
    Answer, Config, HttpService, Server, ServerError, ServiceTimers, Timers, chunked,
    events::{EventOutlet, EventStream, MAX_UNREAD, StreamClosed, log_unread},
    handler::is_allowed,
    parser,
    response::Response,
    workers::Workers,
};
