//! The compared servers: `serve PEER CONTRACT`, which the suite runs as a new process for each
//! measurement.
//!
//! All servers keep the same contract:
//!
//! - One thread does the I/O, on one core.
//! - `TCP_NODELAY` is set, and the backlog is 4096.
//! - All connections share one receive buffer of 64 KiB.
//! - An `echo` keeps the bytes that its peer does not accept, and stops reading from a peer with
//!   more than 1 MiB of kept bytes. A `sink` discards what it reads. A `source` sends zeroes
//!   without end. A [`chat`] sends each line of a connection to all others.
//! - A connection gets at most one receive buffer before the next connection, if the library allows
//!   it.
//! - A connection is closed after an error, or after EOF when its kept bytes are sent.
//!
//! If a library cannot keep a part of the contract, the peer's own file documents that.
use std::{
    env,
    error::Error,
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process,
    str::FromStr,
    thread,
};

use ::sockman::Options;
use socket2::{Domain, Socket, Type};

mod chat;
mod examples;
mod leftovers;
mod message_io;
mod mio;
mod sockman;
mod tokio;

pub use examples::echo as run_echo_example;

/// The backlog of a listener, in connections. The kernel may lower this number to
/// net.core.somaxconn, for all peers alike.
pub const BACKLOG: i32 = 4096;
/// The address of the listeners to which no client connects.
const NOT_CALLED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Bytes.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// About the number of bytes that the full socket of one connection holds.
const LARGE_BUFFER: usize = 1024 * 1024;
/// Bytes of leftovers of one connection.
const STOP_READING_ABOVE: usize = 1024 * 1024;
/// The default size of one send of a `source`, bytes.
pub const SEND_SIZE: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    EpollC,
    Mio,
    Tokio,
    MessageIo,
    PollC,
    Sockman,
    /// `sockman` without a sweep. The handler wakes a connection when the answer of a hook changes,
    /// so the server needs no sweep.
    SockmanNoSweep,
    /// Two `SockMan`s in one process that share a port.
    SockmanTwice,
    /// `sockman` with a receive buffer of 1 MiB.
    SockmanLargeBuffer,
    /// The first program of README.md.
    SockmanFirst,
    /// `examples/echo.rs`, the first program with back-pressure.
    SockmanEcho,
    /// A chat on tokio without a channel.
    TokioDirect,
}

impl Peer {
    pub const ALL: [Peer; 12] = [
        Peer::EpollC,
        Peer::Mio,
        Peer::Tokio,
        Peer::MessageIo,
        Peer::PollC,
        Peer::Sockman,
        Peer::SockmanNoSweep,
        Peer::SockmanTwice,
        Peer::SockmanLargeBuffer,
        Peer::SockmanFirst,
        Peer::SockmanEcho,
        Peer::TokioDirect,
    ];

    /// Returns the name on the command line.
    pub fn command_name(self) -> &'static str {
        match self {
            Peer::EpollC => "epoll-c",
            Peer::Mio => "mio",
            Peer::Tokio => "tokio",
            Peer::MessageIo => "message-io",
            Peer::PollC => "poll-c",
            Peer::Sockman => "sockman",
            Peer::SockmanNoSweep => "sockman-no-sweep",
            Peer::SockmanTwice => "sockman-twice",
            Peer::SockmanLargeBuffer => "sockman-large-buffer",
            Peer::SockmanFirst => "sockman-first",
            Peer::SockmanEcho => "sockman-echo",
            Peer::TokioDirect => "tokio-direct",
        }
    }

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Peer::EpollC => crate::report::LIMIT,
            Peer::PollC => "poll C",
            Peer::SockmanTwice => "sockman, two of it",
            Peer::SockmanLargeBuffer => "sockman, 1 MiB buffer",
            Peer::SockmanFirst => crate::report::FIRST_PROGRAM,
            Peer::SockmanEcho => "sockman, echo example",
            Peer::TokioDirect => "tokio, direct sends",
            Peer::Sockman => crate::report::SOCKMAN,
            other => other.command_name(),
        }
    }

    /// Returns whether the peer has a server with this contract.
    pub fn keeps(self, contract: Contract) -> bool {
        match self {
            Peer::Sockman | Peer::Tokio => true,
            Peer::TokioDirect => contract == Contract::Chat,
            Peer::SockmanFirst | Peer::SockmanTwice => contract == Contract::Echo,
            _ => contract != Contract::Chat,
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Peer, String> {
        let found = Peer::ALL.into_iter().find(|peer| peer.command_name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Peer::ALL.iter().map(|peer| peer.command_name()).collect();
            format!("unknown peer {name:?}; the peers are {}", known.join(", "))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    Echo,
    Sink,
    Source,
    /// Each line of a connection goes to all other connections.
    Chat,
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contract::Echo => "echo",
            Contract::Sink => "sink",
            Contract::Source => "source",
            Contract::Chat => "chat",
        })
    }
}

impl FromStr for Contract {
    type Err = String;

    fn from_str(name: &str) -> Result<Contract, String> {
        match name {
            "echo" => Ok(Contract::Echo),
            "sink" => Ok(Contract::Sink),
            "source" => Ok(Contract::Source),
            "chat" => Ok(Contract::Chat),
            _ => Err(format!(
                "unknown contract {name:?}; the contracts are echo, sink, source and chat"
            )),
        }
    }
}

/// The work of a server.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    pub contract: Contract,
    pub send_size: usize,
    /// Rounds of arithmetic for each message that `sockman` echoes, about a nanosecond each, for
    /// scenarios in which the embedder's work takes most of the time.
    pub work: u32,
    /// The number of listeners to which no client connects, beside the server's own.
    pub more_listeners: usize,
}

impl Task {
    pub const fn of(contract: Contract) -> Task {
        Task { contract, send_size: SEND_SIZE, work: 0, more_listeners: 0 }
    }
}

/// Runs a server in this process until the end of standard input. The server first prints its
/// address.
pub fn serve(peer: Peer, task: Task, core: Option<usize>) -> Result<(), Box<dyn Error>> {
    if !peer.keeps(task.contract) {
        let peer = peer.command_name();
        return Err(format!("{peer} has no server with the contract {}", task.contract).into());
    }
    match core {
        Some(core) => {
            crate::cores::pin(core)
                .map_err(|e| format!("cannot pin the server to core {core}: {e}"))?;
        }
        // This process inherited the pin of the suite.
        None => crate::cores::unpin()?,
    }
    match peer {
        Peer::EpollC => become_program("epoll-c", task),
        Peer::PollC => become_program("poll-c", task),
        Peer::Mio => mio::serve(task),
        Peer::Tokio if task.contract == Contract::Chat => chat::tokio::serve(),
        Peer::Tokio => tokio::serve(task),
        Peer::TokioDirect => chat::tokio_direct::serve(),
        Peer::MessageIo => message_io::serve(task),
        Peer::Sockman => sockman::serve(task, Options::default()),
        Peer::SockmanNoSweep => sockman::serve(task, Options::default().sweep(None)),
        Peer::SockmanLargeBuffer => {
            sockman::serve(task, Options::default().receive_buffer(LARGE_BUFFER))
        }
        Peer::SockmanTwice => sockman::serve_twice(task),
        Peer::SockmanFirst => examples::first(),
        Peer::SockmanEcho => examples::become_echo(task),
    }
}

/// Replaces this process with one of the C programs that build.rs compiled.
fn become_program(name: &str, task: Task) -> Result<(), Box<dyn Error>> {
    let program = Path::new(env!("C_SERVERS")).join(name);
    let error = process::Command::new(&program)
        .args([task.contract.to_string(), task.send_size.to_string()])
        .exec();
    Err(format!("cannot run {}: {error}; build the benchmark suite again", program.display())
        .into())
}

/// Returns a non-blocking listener on a free port of 127.0.0.1.
fn listen() -> io::Result<TcpListener> {
    listen_at(Ipv4Addr::LOCALHOST)
}

fn listen_at(address: Ipv4Addr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Ends the process at the end of its standard input.
fn end_with_stdin() -> io::Result<()> {
    thread::Builder::new().name("stdin".into()).spawn(|| {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        process::exit(0);
    })?;
    Ok(())
}

/// Prints the address for the suite, and ends the process at the end of its standard input. Call
/// this when the server accepts connections.
fn announce(bound: SocketAddr) -> io::Result<()> {
    end_with_stdin()?;
    let mut out = io::stdout();
    writeln!(out, "listening on {bound}")?;
    out.flush()
}
