//! An HTTPS server on sockman, with rustls through `sockman-rustls`. It serves any
//! [`HttpService`](sockman_http_rpc::HttpService), such as the JSON-RPC of `http_rpc` or of the
//! node.
//!
//! * [`HttpsServer`] is the server.
//! * [`AnyServer`] is a server that speaks TLS if it is given a certificate.
//! * [`tls`] makes the configuration of rustls from PEM files.
//! * [`demo`] holds the service of the program `https`.

mod any;
mod client;
pub mod demo;
mod events;
mod handler;
mod server;
pub mod tls;

pub use any::AnyServer;
pub use server::{Config, HttpsServer, ServerError};
