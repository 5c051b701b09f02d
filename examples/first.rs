//! A server that sends back what it receives. It does not read from a peer that does not read, and
//! the peers that do not read may together use 32 megabytes.
#![allow(clippy::print_stdout, reason = "a program prints")]
use std::{error::Error, sync::Arc};

use sockman::stateful::{Handler, Link};
use sockman::{ConnectionId, Options, Service, SockMan, helpers::SendBudget};

struct Echo {
    budget: SendBudget,
}

/// What the library keeps for each connection.
#[derive(Default)]
struct Peer {
    bytes: usize,
}

impl Handler for Echo {
    type Connection = Peer;

    fn accepted(&self, _: Link<'_, Peer>, _me: &Service, _them: &Service) -> Option<Peer> {
        Some(Peer::default())
    }
    fn got_data(&self, link: Link<'_, Peer>, peer: &mut Peer, data: &[u8]) {
        peer.bytes += data.len();
        // Sends what the kernel takes now, and queues the rest.
        if link.push(data).is_err() {
            link.close(); // The connection is broken, or the budget is used up.
        }
    }
    fn closed(&self, _: &SockMan, id: ConnectionId, peer: Peer) {
        println!("connection {id} has sent {} bytes", peer.bytes);
    }
    fn send_budget(&self) -> Option<&SendBudget> {
        Some(&self.budget)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let echo = Echo { budget: SendBudget::new(32_000_000) };
    let sockman = SockMan::with_state(Arc::new(echo), Options::default())?;
    println!("listening on {}", sockman.bind_and_start_listening("127.0.0.1:7000")?);
    Ok(sockman.run_sockets_thread()?)
}
