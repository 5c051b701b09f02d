//! A small Bitcoin node on top of `SockMan`: handshake, pings, addresses, headers.
//!
//! | module | what it is | in Bitcoin Core |
//! |---|---|---|
//! | `connman` | the [`EventHandler`](sockman::EventHandler): table of peers, limits, time-outs | `CConnman` on `net` |
//! | `transport` | bytes to whole messages, plain or encrypted | `V1Transport`, `V2Transport` |
//! | `work` | which peers have messages waiting | `m_msgproc_wake` |
//! | `processing` | the message handler | `PeerManager` on `msghand` |
//! | `dialer`, `targets` | outbound connections | `ThreadOpenConnections` on `opencon` |
//! | `peer`, `chain`, `addresses` | the state | `CNode` and `Peer`, `CChain`, `AddrMan` |
//! | `node`, `control` | starting and ending a node, and what can be asked of it | |
//!
//! Bytes come in on the socket thread, which frames them and puts whole messages into the peer's
//! inbox. The message handler takes them out, one per peer in turn, and pushes its answers into
//! the peer's send queue. Both ends are bounded: a full inbox, or a send queue above its high
//! mark, stops the socket thread from reading that peer, until the one that worked it off wakes
//! the connection.
//!
//! The library is the whole node. The program `node` (`src/bin/node/`) starts it, prints, and adds
//! JSON-RPC and a page.

mod addresses;
mod chain;
mod connman;
mod control;
mod dialer;
mod node;
mod peer;
mod processing;
mod targets;
pub mod testing;
mod transport;
mod work;

pub use chain::{Chain, ChainError};
pub use control::Control;
pub use node::{Config, Event, Node, NodeError, PeerInfo};
pub use peer::PeerVersion;
pub use processing::{PROTOCOL_VERSION, USER_AGENT};
pub use transport::{SessionId, TransportType};
