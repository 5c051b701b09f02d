//! The servers that are compared: `serve PEER CONTRACT`, which the suite runs as a process of its
//! own for each measurement.
//!
//! All keep the same contract. One thread does the I/O, on one core. `TCP_NODELAY` is set, the
//! backlog is 4096, and there is one receive buffer of 64 KiB for all connections. An `echo` keeps
//! what its peer does not take, and stops reading from a peer that has more than 1 MiB of that to
//! take; a `sink` discards what it reads; a `source` sends zeroes without end. Where the library
//! lets us, a connection gets one receive buffer at most before the others have their turn. A
//! connection is closed at EOF, once what was kept for it is sent, or at an error. Where a library
//! cannot keep a part of this, the peer's own file says so.
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

mod leftovers;
mod message_io;
mod mio;
mod sockman;
mod tokio;

/// Connections; the kernel may lower it to net.core.somaxconn, for all alike.
const BACKLOG: i32 = 4096;
/// Bytes.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Bytes: what one connection's full socket holds, or near it.
const LARGE_BUFFER: usize = 1024 * 1024;
/// Bytes of leftovers of one connection.
const STOP_READING_ABOVE: usize = 1024 * 1024;
/// Bytes that a `source` offers to the kernel at once, unless told otherwise.
pub const SEND_SIZE: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    EpollC,
    Mio,
    Tokio,
    MessageIo,
    PollC,
    Sockman,
    /// Every hook of its handler that changes wakes the connection, so it needs no sweep.
    SockmanNoSweep,
    /// Two `SockMan`s of one process, which share a port.
    SockmanTwice,
    /// It receives up to 1 MiB at once.
    SockmanLargeBuffer,
}

impl Peer {
    pub const ALL: [Peer; 9] = [
        Peer::EpollC,
        Peer::Mio,
        Peer::Tokio,
        Peer::MessageIo,
        Peer::PollC,
        Peer::Sockman,
        Peer::SockmanNoSweep,
        Peer::SockmanTwice,
        Peer::SockmanLargeBuffer,
    ];

    /// As the command line has it.
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
        }
    }

    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::EpollC => crate::report::LIMIT,
            Peer::PollC => "poll C",
            Peer::SockmanTwice => "sockman, two of it",
            Peer::SockmanLargeBuffer => "sockman, 1 MiB buffer",
            Peer::Sockman => crate::report::SOCKMAN,
            other => other.command_name(),
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Peer, String> {
        let found = Peer::ALL.into_iter().find(|peer| peer.command_name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Peer::ALL.iter().map(|peer| peer.command_name()).collect();
            format!("there is no peer {name:?}; there are {}", known.join(", "))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    Echo,
    Sink,
    Source,
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contract::Echo => "echo",
            Contract::Sink => "sink",
            Contract::Source => "source",
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
            _ => Err(format!("there is no contract {name:?}; there are echo, sink, source")),
        }
    }
}

/// What a server is to do.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    pub contract: Contract,
    pub send_size: usize,
    /// Rounds of arithmetic for each message that `sockman` echoes, some nanoseconds each: for
    /// scenarios in which the embedder's part is what takes long.
    pub work: u32,
}

/// Serves, in this process, until its standard input ends. It prints where it listens first.
pub fn serve(peer: Peer, task: Task, core: Option<usize>) -> Result<(), Box<dyn Error>> {
    match core {
        Some(core) => {
            crate::cores::pin(core).map_err(|e| format!("cannot run on core {core}: {e}"))?;
        }
        // The suite's own pin was inherited.
        None => crate::cores::unpin()?,
    }
    match peer {
        Peer::EpollC => become_program("epoll-c", task),
        Peer::PollC => become_program("poll-c", task),
        Peer::Mio => mio::serve(task),
        Peer::Tokio => tokio::serve(task),
        Peer::MessageIo => message_io::serve(task),
        Peer::Sockman => sockman::serve(task, Options::default()),
        Peer::SockmanNoSweep => sockman::serve(task, Options::default().sweep(None)),
        Peer::SockmanLargeBuffer => {
            sockman::serve(task, Options::default().receive_buffer(LARGE_BUFFER))
        }
        Peer::SockmanTwice => sockman::serve_twice(task),
    }
}

/// Replaces this process by one of the programs in C, which build.rs compiled.
fn become_program(name: &str, task: Task) -> Result<(), Box<dyn Error>> {
    let program = Path::new(env!("C_SERVERS")).join(name);
    let error = process::Command::new(&program)
        .args([task.contract.to_string(), task.send_size.to_string()])
        .exec();
    Err(format!("cannot run {}: {error}; build the benches again", program.display()).into())
}

/// A non-blocking listener on a free port of 127.0.0.1.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Tells the suite where, and has the process end with its standard input. To be called once
/// connections are accepted.
fn announce(bound: SocketAddr) -> io::Result<()> {
    thread::Builder::new().name("stdin".into()).spawn(|| {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        process::exit(0);
    })?;
    let mut out = io::stdout();
    writeln!(out, "listening on {bound}")?;
    out.flush()
}
