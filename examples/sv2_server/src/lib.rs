//! A Stratum V2 server in the shape of a Template Provider, on sockman: it pushes templates to
//! everybody who asked for them.
//!
//! | module | what it is |
//! |---|---|
//! | `server` | the [`EventHandler`](sockman::EventHandler) |
//! | `session` | one client's conversation, without sockets |
//! | `templates`, `keys` | what is given out, and who gives it out |
//! | `listener` | where clients come in |
//!
//! Templates come by a timer. While one has not left for a client, the next is not queued behind
//! it: when it has, the client gets the newest. Who lets too many go by is let go of; so is, in the
//! end, a client that vanished without a word. (Whoever has asked for templates need not say
//! anything more, so silence means nothing.)

mod keys;
mod listener;
mod server;
mod session;
mod templates;

pub use keys::AuthorityKeys;
pub use server::{Config, Event, Server};
