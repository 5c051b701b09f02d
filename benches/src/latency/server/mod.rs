//! The three servers whose latencies are compared. Each has one I/O thread, answers every request
//! with its own bytes, and takes bytes from other threads for the connection it accepted first.

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

    /// A server that listens and does not run yet.
    pub fn server(self, options: Options) -> io::Result<Box<dyn Server>> {
        Ok(match self {
            Peer::Sockman => Box::new(sockman::SockmanServer::new(options)?),
            Peer::Tokio => Box::new(tokio::TokioServer::new(options)?),
            Peer::PollLoop => Box::new(poll_loop::PollLoopServer::new(options)?),
        })
    }
}

/// Who sends the reply to a request. A request that a worker has is the only one of its connection:
/// nothing is read from it until the reply is there, as a server of HTTP without pipelining does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBy {
    /// The I/O thread, where it reads the request.
    Callback,
    /// A worker thread makes it and sends it.
    Worker,
    /// A worker thread makes it and queues it; the I/O thread sends it.
    Loop,
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub reply_by: ReplyBy,
    /// Where the worker moves to. `None`: it stays on the core of the I/O thread.
    pub worker_core: Option<usize>,
}

impl Options {
    pub const ECHO: Options = Options { reply_by: ReplyBy::Callback, worker_core: None };
}

pub trait Server: Send {
    fn address(&self) -> SocketAddr;

    /// Starts the I/O thread, on the core of the calling one.
    fn start(&mut self) -> io::Result<()>;

    /// Ends the I/O thread and the connects, and returns when they have ended. The connections stay
    /// open for the next start.
    fn stop(&mut self) -> io::Result<()>;

    /// Begins connects to an address that does not answer, and returns when they are under way.
    fn start_connects(&mut self, to: SocketAddr, count: usize) -> io::Result<()>;

    /// Has bytes sent by the I/O thread on the connection that was accepted first.
    fn queue(&self, bytes: &[u8]) -> io::Result<()>;

    /// When the I/O thread last came to send what was queued for it.
    fn came_to_send(&self) -> Instant;
}

/// How long a connect may take: Bitcoin Core's `DEFAULT_CONNECT_TIMEOUT`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the start of a blocking connect until its thread surely waits for the answer.
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
        // Half a millennium in nanoseconds fits.
        self.nanos.store(self.base.elapsed().as_nanos() as u64, Ordering::Release);
    }

    pub fn get(&self) -> Instant {
        self.base + Duration::from_nanos(self.nanos.load(Ordering::Acquire))
    }
}
