//! The load generator: one thread with edge-triggered epoll (through mio) on its own core.
//!
//! For each message it makes one send and one receive, and adds only a few nanoseconds, because it
//! must not limit a run. The suite measures the processor time of its thread like the server's,
//! prints both shares and keeps them ([`Shares`](crate::report::Shares)). A server that uses 0.99
//! of its core is the bottleneck. If the load uses 0.99 of its core, the load limits the rate. The
//! figure to compare is then the server's CPU for each message. With bulk data the load never
//! sleeps, so only the server's share means something.
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Poll, net::TcpStream};
use socket2::{Domain, Socket, Type};

mod accepts;
mod attack;
mod benign;
mod chat;
mod hold;
mod ping_pong;
mod streams;
mod verify;

pub use accepts::Accepts;
pub use attack::{Attack, Attacker, Force, attack};
pub use benign::Benign;
pub use chat::Chat;
pub use hold::{Holders, hold};
pub use ping_pong::PingPong;
pub use streams::{Download, Upload};
pub use verify::verify;

/// The most events that one poll reports.
const EVENTS: usize = 1024;
/// The longest round trip that a histogram records, ns. A longer round trip counts as this long.
const LONGEST: u64 = 60_000_000_000;
/// With three digits, the values of a histogram are exact to 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// A load on a server.
pub trait Load {
    /// Continues the load until the given time, and adds the completed work to the tally.
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()>;
}

/// The work that was completed in a slice of time.
#[derive(Debug)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
    pub connections: u64,
    /// Round trips, ns.
    pub round_trips: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally { messages: 0, bytes: 0, connections: 0, round_trips: new_histogram() }
    }
}

pub fn new_histogram() -> Histogram<u64> {
    // The constructor refuses only more than 5 digits, or a highest value below twice the lowest.
    #[allow(clippy::expect_used, reason = "the bounds are constants")]
    Histogram::new_with_bounds(1, LONGEST, SIGNIFICANT_DIGITS).expect("valid bounds")
}

/// Connects to the server. The connection ends with a reset, so its port does not stay in TIME_WAIT
/// for a minute, and a run can open any number of connections.
fn connect(to: SocketAddr) -> io::Result<Socket> {
    connect_from(Ipv4Addr::UNSPECIFIED, to)
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if !from.is_unspecified() {
        socket.bind(&SocketAddr::from((from, 0)).into())?;
    }
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    // Over loopback the kernel answers at once, before the server accepts the connection.
    socket.connect(&to.into())?;
    Ok(socket)
}

fn connect_stream(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into()))
}

/// Waits for readiness, at most until the given time. Returns false if that time has come.
fn poll_until(poll: &mut Poll, events: &mut Events, until: Instant) -> io::Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    match poll.poll(events, Some(left)) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(true)
        }
        other => other.map(|()| true),
    }
}

fn closed_by_server() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection")
}
