//! The load generator: one thread, edge-triggered epoll (by mio), on a core of its own.
//!
//! It does for each message what it cannot avoid, one send and one receive, and nothing else that
//! is not a few nanoseconds: so it must not be what limits a run. How one sees that it does not:
//! the processor time of its thread is measured as the server's is, and both shares are printed
//! and kept ([`Shares`](crate::report::Shares)). A server that has 0.99 of its core is the
//! bottleneck itself; where the load has, the rate is the generator's, and the server's CPU for
//! each message is the figure to compare. For bulk data the load never sleeps, so only the server's
//! share says something.
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Poll, net::TcpStream};
use socket2::{Domain, Socket, Type};

mod accepts;
mod hold;
mod ping_pong;
mod streams;
mod verify;

pub use accepts::Accepts;
pub use hold::{Holder, hold};
pub use ping_pong::PingPong;
pub use streams::{Download, Upload};
pub use verify::verify;

/// Readiness told by one poll.
const EVENTS: usize = 1024;
/// ns: a round trip that takes longer is noted as this.
const LONGEST: u64 = 60_000_000_000;
/// So that a figure of a histogram is right to 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Something that keeps a server busy.
pub trait Load {
    /// Goes on where it left off, until that time; adds to the tally what it did.
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()>;
}

/// What was done in a slice of time.
#[derive(Debug)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
    pub connections: u64,
    /// ns
    pub round_trips: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally { messages: 0, bytes: 0, connections: 0, round_trips: new_histogram() }
    }
}

pub fn new_histogram() -> Histogram<u64> {
    // Only refused if the digits are above 5, or the highest value is below twice the lowest.
    #[allow(clippy::expect_used, reason = "the bounds are constants")]
    Histogram::new_with_bounds(1, LONGEST, SIGNIFICANT_DIGITS).expect("valid bounds")
}

/// A connection to the server that ends by a reset: so no port of ours waits for a minute until
/// it can be used again, and a run can open as many as it likes.
fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    // Over loopback the kernel answers at once; a server need not have accepted it.
    socket.connect(&to.into())?;
    Ok(socket)
}

fn connect_stream(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into()))
}

/// Waits for readiness, until then at the latest. False: that time has come.
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
