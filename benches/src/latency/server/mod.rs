//! The three servers whose latencies are compared. Each server has one I/O thread, answers every
//! request with the request's bytes, and sends bytes that other threads queue for the first
//! accepted connection.

mod poll_loop;
mod sockman;
mod tokio;

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::report;

pub use self::poll_loop::POLL_TIMEOUT;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Sockman,
    Tokio,
    PollLoop,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::Sockman, Peer::Tokio, Peer::PollLoop];

    pub fn name(self) -> &'static str {
        match self {
            Peer::Sockman => report::SOCKMAN,
            Peer::Tokio => "tokio",
            Peer::PollLoop => "poll(2) loop",
        }
    }

    /// Returns a server that listens but does not run yet.
    pub fn server(self, options: Options) -> io::Result<Box<dyn Server>> {
        Ok(match self {
            Peer::Sockman => Box::new(sockman::SockmanServer::new(options)?),
            Peer::Tokio => Box::new(tokio::TokioServer::new(options)?),
            Peer::PollLoop => Box::new(poll_loop::PollLoopServer::new(options)?),
        })
    }
}

/// The thread that sends the reply to a request. A connection has at most one request at the
/// worker: the server reads nothing from it until the reply exists, like an HTTP server without
/// pipelining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBy {
    /// The I/O thread sends the reply when it reads the request.
    Callback,
    /// A worker thread makes and sends the reply.
    Worker,
    /// A worker thread makes and queues the reply; the I/O thread sends it.
    Loop,
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub reply_by: ReplyBy,
    /// The core of the worker; `None` for the core of the I/O thread.
    pub worker_core: Option<usize>,
}

impl Options {
    pub const ECHO: Options = Options { reply_by: ReplyBy::Callback, worker_core: None };
}

pub trait Server: Send {
    fn address(&self) -> SocketAddr;

    /// Starts the I/O thread on the core of the calling thread.
    fn start(&mut self) -> io::Result<()>;

    /// Ends the I/O thread and the connects, and returns when they have ended. Connections stay
    /// open for the next start.
    fn stop(&mut self) -> io::Result<()>;

    /// Starts connects to an address that does not answer, and returns when they are under way.
    fn start_connects(&mut self, to: SocketAddr, count: usize) -> io::Result<()>;

    /// Queues bytes that the I/O thread sends on the first accepted connection.
    fn queue(&self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when the I/O thread last came to send queued bytes.
    fn came_to_send(&self) -> Instant;
}

/// The timeout of a connect, which equals Bitcoin Core's `DEFAULT_CONNECT_TIMEOUT`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time from the start of a blocking connect until its thread certainly waits for the answer.
const CONNECT_BEGINS: Duration = Duration::from_millis(2);

/// A time that one thread writes and another reads.
#[derive(Debug)]
pub struct Stamp {
    base: Instant,
    nanos: AtomicU64,
}

impl Stamp {
    pub fn new() -> Stamp {
        Stamp { base: Instant::now(), nanos: AtomicU64::new(0) }
    }

    pub fn set(&self) {
        // 64 bits hold more than 500 years in nanoseconds.
        self.nanos.store(self.base.elapsed().as_nanos() as u64, Ordering::Release);
    }

    pub fn get(&self) -> Instant {
        self.base + Duration::from_nanos(self.nanos.load(Ordering::Acquire))
    }
}
