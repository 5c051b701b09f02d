//! The program's output: events as lines, peers as a table.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
    time::Duration,
};

use sockman::stats::Direction;
use sockman_node::{Event, PeerInfo};

/// The width at which the table cuts user agents.
const AGENT_WIDTH: usize = 28;

/// Prints a line on standard output. Ignores errors, because a reader such as `head` may close the
/// output.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line on standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "node: {line}");
}

/// What may write a line about an event to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The operator, or a peer that the operator named. The time between two dials bounds the lines.
    Operator,
    /// A peer that has completed a handshake. An allowance bounds the lines.
    Peer,
    /// Anybody who can connect. The lines are written at level `debug` only.
    Anybody,
}

/// Returns the cause of an event.
pub(crate) fn cause(event: &Event) -> Cause {
    match event {
        Event::Connected { direction: Direction::Outbound, .. }
        | Event::Disconnected { direction: Direction::Outbound, .. }
        | Event::ConnectFailed { .. }
        | Event::StopRequested
        | Event::I2p { .. } => Cause::Operator,
        Event::Handshake { .. }
        | Event::Disconnected { was_established: true, .. }
        | Event::Pong { .. }
        | Event::Addresses { .. }
        | Event::Headers { .. } => Cause::Peer,
        Event::Connected { .. }
        | Event::Disconnected { .. }
        | Event::Refused { .. }
        | Event::Pinged { .. } => Cause::Anybody,
    }
}

/// Returns the line for an event, or `None` for frequent events, which are not printed.
pub(crate) fn event(event: &Event) -> Option<String> {
    Some(match event {
        Event::Connected { id, direction: Direction::Inbound, them } => {
            format!("peer {id}: accepted a connection from {them}")
        }
        Event::Connected { id, direction: Direction::Outbound, them } => {
            format!("peer {id}: connected to {them}")
        }
        Event::Refused { them, limit } => {
            format!(
                "refused a connection from {them}: the limit of {limit} inbound peers is reached"
            )
        }
        Event::ConnectFailed { error } => error.clone(),
        Event::Handshake { id, took, version } => format!(
            "peer {id}: handshake with {} done, protocol {}, height {} ({} after connecting)",
            version.agent,
            version.protocol,
            version.start_height,
            duration(*took)
        ),
        Event::Pong { id, round_trip } => format!("peer {id}: ping took {}", duration(*round_trip)),
        Event::Addresses { id, new, known } => {
            format!("peer {id}: sent addresses, {new} new, {known} known in total")
        }
        Event::Headers { id, new, height, tip, more_to_come } => format!(
            "peer {id}: sent valid headers, {new} new, height now {height}{}",
            if *more_to_come { ", requesting more".to_owned() } else { format!(", tip {tip}") }
        ),
        Event::Disconnected { id, reason, .. } => format!("peer {id}: disconnected: {reason}"),
        Event::StopRequested => "an RPC call stops the node".to_owned(),
        Event::I2p { address: Some(address), listening: true } => {
            format!("listening on {address}")
        }
        Event::I2p { address: Some(address), listening: false } => {
            format!("no longer listening on {address}")
        }
        Event::I2p { address: None, .. } => {
            "cannot listen on I2P yet, and tries again; RUST_LOG=sockman=warn shows the reason"
                .to_owned()
        }
        Event::Pinged { id } => {
            log::debug!("peer {id}: answered its ping");
            return None;
        }
    })
}

/// Returns the table of peers with aligned columns and a line of headings.
pub(crate) fn table(peers: &[PeerInfo]) -> String {
    let headings =
        ["id", "direction", "network", "address", "via", "agent", "ping", "in", "out", "queued"];
    let mut rows = vec![headings.map(str::to_owned)];
    rows.extend(peers.iter().map(row));
    let mut widths = [0; 10];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers are aligned right, words left. Writing to a string does not fail.
            let _ = match column {
                0 | 6.. => write!(text, "{cell:>width$}   "),
                _ => write!(text, "{cell:<width$}   "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

fn row(peer: &PeerInfo) -> [String; 10] {
    let agent = peer.version.as_ref().map_or("(handshake)", |version| &version.agent);
    [
        peer.id.to_string(),
        peer.direction.to_string(),
        peer.address.service().map_or("name".to_owned(), |to| to.addr().network().to_string()),
        peer.address.to_string(),
        peer.transport.as_str().to_owned(),
        agent.chars().take(AGENT_WIDTH).collect(),
        peer.round_trip.map_or("-".to_owned(), duration),
        bytes(peer.bytes_in),
        bytes(peer.bytes_out),
        bytes((peer.unprocessed + peer.unsent) as u64),
    ]
}

/// Formats a duration in microseconds, milliseconds or seconds, depending on its length.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.001 {
        format!("{:.0} us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
