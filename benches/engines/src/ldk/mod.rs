//! LDK: a node answers messages, on `sockman` or on tokio. The peers that send them are nodes on
//! plain sockets, the same for each server.
mod load;
mod node;
mod sockman;
mod tokio;

pub use load::Nodes;

use std::error::Error;

use crate::cases::Peer;

pub fn serve(peer: Peer) -> Result<(), Box<dyn Error>> {
    match peer {
        Peer::Sockman => sockman::serve(),
        Peer::TokioDefault => tokio::serve(&mut ::tokio::runtime::Builder::new_multi_thread()),
        Peer::Tokio | Peer::TokioBuffered => {
            tokio::serve(&mut ::tokio::runtime::Builder::new_current_thread())
        }
    }
}
