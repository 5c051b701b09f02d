//! A Stratum V2 server in the shape of a Template Provider, on sockman. It pushes templates to
//! every client that subscribed.
//!
//! | module | what it holds |
//! |---|---|
//! | `server` | the [`Handler`](sockman::stateful::Handler) |
//! | `session` | the protocol state of one client, without sockets |
//! | `templates`, `keys` | the templates, and the authority's key |
//!
//! A timer makes a new template. While a client has not taken one template, the next is not queued
//! for it. When the client has taken that template, the client gets the newest one. A client that
//! misses too many templates is disconnected. A client that vanishes without a FIN also misses
//! templates and is disconnected after some time. Its silence alone shows nothing, because a
//! subscribed client need not send anything more.

mod keys;
mod server;
mod session;
mod templates;

pub use keys::AuthorityKeys;
pub use server::{Config, Event, Server};
