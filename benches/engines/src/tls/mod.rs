//! TLS 1.3 with rustls: a server on `sockman` or on tokio, and the clients that load it.
mod check;
mod config;
mod load;
mod sockman;
mod tokio;

pub use check::check;
pub use load::{Bulk, Echoes};

use std::{error::Error, sync::Arc};

use crate::cases::{Case, Peer};

/// The bytes that a checked server confirms with one byte each time. See [`check`].
const CONFIRMED: u64 = 1 << 20;

/// What a server does.
#[derive(Debug, Clone, Copy)]
struct Task {
    case: Case,
    /// Whether it checks what it discards, and confirms each [`CONFIRMED`] bytes.
    is_checked: bool,
}

pub fn serve(case: Case, peer: Peer, is_checked: bool) -> Result<(), Box<dyn Error>> {
    let (config, certificate) = config::server()?;
    let (task, config) = (Task { case, is_checked }, Arc::new(config));
    match peer {
        Peer::Sockman => sockman::serve(task, config, &certificate),
        Peer::Tokio | Peer::TokioDefault => tokio::serve(task, config, &certificate, None),
        Peer::TokioBuffered => {
            tokio::serve(task, config, &certificate, Some(tokio::RECEIVE_BUFFER))
        }
    }
}
