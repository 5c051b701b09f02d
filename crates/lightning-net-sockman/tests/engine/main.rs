//! `lightning-net-sockman` with LDK's `PeerManager`: two drivers, two processes, the other side with
//! tokio, peers that stall, and peers that lie.

mod events;
mod faults;
mod handshake;
mod ldk;
mod plain_peer;
mod processes;
mod stall;
mod tokio_peer;
mod tor;
