//! A Stratum V2 server in the shape of a Template Provider, on sockman. It pushes templates to
//! every client that subscribed.
//!
//! | module | what it holds |
//! |---|---|
//! | `server` | the [`EventHandler`](sockman::EventHandler) |
//! | `session` | the protocol state of one client, without sockets |
//! | `templates`, `keys` | the templates, and the authority's key |
//! | `listener` | listening with a small send buffer |
//!
//! A timer makes a new template. While a client has not taken one template, the next is not queued
//! for it. When the client has taken it, it gets the newest. A client that misses too many
//! templates is disconnected. So is, after some time, a client that vanished without a FIN: a
//! subscribed client need not send anything more, so its silence means nothing.

mod keys;
mod listener;
mod server;
mod session;
mod templates;

pub use keys::AuthorityKeys;
pub use server::{Config, Event, Server};
