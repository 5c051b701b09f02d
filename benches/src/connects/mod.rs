//! Programs that start many connects at once: `connect PEER PORT…`, which the suite runs as a new
//! process for each measurement.
//!
//! Each line of standard input is a number. The program starts that many connects, to the ports of
//! 127.0.0.1 in turn, waits until all have succeeded, and prints `connected NUMBER`. The connections
//! stay open, have `TCP_NODELAY`, and are watched for data. One thread does the I/O. The program ends
//! at the end of its standard input.
use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use socket2::{Domain, Socket, Type};

use crate::{
    cores,
    server_process::Times,
    servers::{BACKLOG, Peer},
};

mod sockman;
mod tokio;

/// The peers that have such a program.
pub const PEERS: [Peer; 3] = [Peer::EpollC, Peer::Sockman, Peer::Tokio];
/// Connects before the measurement, after which the program's code is in memory.
const WARM_UP: usize = 64;

/// Runs such a program in this process.
pub fn run(peer: Peer, core: Option<usize>, ports: &[u16]) -> Result<(), Box<dyn Error>> {
    if let Some(core) = core {
        cores::pin(core)?;
    }
    match peer {
        Peer::EpollC => {
            let program = Path::new(env!("C_SERVERS")).join("connect-c");
            let error = Command::new(&program).args(ports.iter().map(u16::to_string)).exec();
            Err(format!("cannot run {}: {error}", program.display()).into())
        }
        Peer::Sockman => sockman::run(ports),
        Peer::Tokio => tokio::run(ports),
        other => Err(format!("{} has no program that connects", other.command_name()).into()),
    }
}

/// Returns the addresses for `count` connects, the ports in turn.
fn targets(ports: &[u16], count: usize) -> impl Iterator<Item = SocketAddr> + '_ {
    let addresses = ports.iter().map(|&port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    addresses.cycle().take(count)
}

/// Calls `connect_all` for each number in standard input.
fn serve_requests(
    mut connect_all: impl FnMut(usize) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    for line in io::stdin().lines() {
        let count = line?.trim().parse()?;
        connect_all(count)?;
        let mut out = io::stdout();
        writeln!(out, "connected {count}")?;
        out.flush()?;
    }
    Ok(())
}

/// The processor time of `count` connects, ns, all started at once.
///
/// No server accepts them: the kernel completes a connect while the backlog of the listener has
/// room. Enough listeners share the connects, and the time of the program contains no accept.
pub fn measure(peer: Peer, count: usize, core: usize) -> io::Result<Times> {
    let listeners = listeners(count + WARM_UP)?;
    let mut program = Program::start(peer, core, &listeners)?;
    program.connect(WARM_UP)?;
    let before = program.times()?;
    program.connect(count)?;
    Ok(program.times()?.since(before))
}

/// Returns listeners whose backlogs together have room for twice the connects.
fn listeners(connects: usize) -> io::Result<Vec<TcpListener>> {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn")?;
    let most = most.trim().parse::<i32>().map_err(io::Error::other)?;
    let backlog = most.min(BACKLOG);
    let room = usize::try_from(backlog).map_err(io::Error::other)?;
    let listen = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(backlog)?;
        Ok(TcpListener::from(socket))
    };
    (0..(connects * 2).div_ceil(room)).map(|_| listen()).collect()
}

/// A running program. Dropping this value ends the process.
struct Program {
    child: Child,
    /// `None` only during the drop.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Program {
    fn start(peer: Peer, core: usize, listeners: &[TcpListener]) -> io::Result<Program> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["connect", peer.command_name(), "--core", &core.to_string()]);
        for listener in listeners {
            command.arg(listener.local_addr()?.port().to_string());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Program { child, requests, answers: BufReader::new(answers) })
    }

    fn connect(&mut self, count: usize) -> io::Result<()> {
        let requests = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(requests, "{count}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.trim() == format!("connected {count}") {
            return Ok(());
        }
        Err(io::Error::other(format!("{count} connects did not succeed")))
    }

    fn times(&self) -> io::Result<Times> {
        Times::of(self.child.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.requests.take());
        // The process ends by itself at the end of its input.
        let _ = self.child.wait();
    }
}
