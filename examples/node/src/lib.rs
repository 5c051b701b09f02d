//! A small Bitcoin node on top of `SockMan`: handshake, pings, addresses, headers.
//!
//! | module | what it is | in Bitcoin Core |
//! |---|---|---|
//! | `connman` | the [`Handler`](sockman::stateful::Handler): limits, time-outs, dialling | `CConnman` on `net` |
//! | `transport` | turns bytes into whole messages, plain or encrypted | `V1Transport`, `V2Transport` |
//! | `decoding` | decodes messages, with missing newer fields | `NetMsg`, `ProcessMessage` |
//! | `processing` | the message handler | `PeerManager` on `msghand` |
//! | `serving`, `blocks` | headers, blocks and filters for peers, and where they come from | `ProcessGetData`, `BlockManager`, `BlockFilterIndex` |
//! | `targets` | the addresses to dial | `ThreadOpenAddedConnections` on `addcon` |
//! | `peer` | the state of a peer: for the socket thread alone, and for all | `CNode`, `Peer` |
//! | `chain`, `addresses` | the state of the node | `CChain`, `AddrMan` |
//! | `node`, `control` | start and stop of a node; queries and commands from other threads | |
//!
//! The socket thread receives bytes, frames them, and puts whole messages into the peer's inbox.
//! The message handler takes one message per peer in turn, and pushes its answers into the peer's
//! send queue. Inbox and send queue are bounded. While the inbox is full, or the send queue is
//! above its high mark, the socket thread does not read from that peer. The message handler wakes
//! the connection when the inbox has room again; the send queue does so at its low mark.
//!
//! The library is the whole node. The program `node` (`src/bin/node/`) starts it, prints events,
//! and adds JSON-RPC and a web page.

mod addresses;
mod allowance;
mod blocks;
mod chain;
mod connman;
mod control;
mod decoding;
mod node;
mod peer;
mod processing;
mod routable;
mod serving;
mod targets;
pub mod testing;
mod transport;

pub use allowance::Allowance;
pub use blocks::{BlockStore, BlockStoreError, Problem};
pub use chain::{Chain, ChainError};
pub use control::Control;
pub use node::{Config, Event, Node, NodeError, PeerInfo};
pub use peer::PeerVersion;
pub use processing::{PROTOCOL_VERSION, USER_AGENT};
pub use routable::is_routable;
pub use transport::{SessionId, TransportType};
