//! Hostile connections: the process `attack ADDRESS NAME`, which the suite starts beside one benign
//! client ([`Benign`](super::Benign)).
//!
//! The process shares the core of the load with the benign client. Its scheduling policy is
//! `SCHED_IDLE`, so the kernel gives the core to the benign client when that client becomes ready.
use std::{
    env,
    error::Error,
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, Socket, Type};

use super::EVENTS;
use crate::server_process::{Times, at_idle_priority};

/// The hostile connections of an attack.
const CROWD: usize = 1000;
/// The hostile connections of the smaller attack with bulk data.
const FEW: usize = 100;
/// The size of one write of bulk data, bytes.
const PIECE: usize = 64 * 1024;
/// The most bytes of the echo that one receive discards.
const DISCARDED: usize = 1024 * 1024;
/// Connections per second that are opened and reset.
const RESETS: f64 = 16_000.0;
/// Bytes per second of all connections together, except in a flood. A server has time to spare.
const SINGLE_BYTES: f64 = 100_000.0;
/// The most time that an attack of constant rate catches up, seconds. What is later is left out.
const CATCH_UP: f64 = 0.01;
/// The wait between two groups of an attack of constant rate, and the longest wait for an event.
const TICK: Duration = Duration::from_millis(1);
/// The receive buffer of a peer that never reads, bytes. The kernel doubles it.
const SMALL_WINDOW: usize = 4 * 1024;
/// The kernel's buffers of a connection with bulk data, bytes. With its default buffers, 1,000 such
/// connections exceed the kernel's memory for TCP (`net.ipv4.tcp_mem`): then the kernel drops
/// segments, and the figures show its retransmissions instead of the server.
const BULK_BUFFER: usize = 64 * 1024;
/// The segment size of an Ethernet, bytes. The kernel sizes the send buffer of a peer that does not
/// read by this number, and loopback's segments have 64 KiB.
const SEGMENT: u32 = 1448;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Connections that send nothing.
    Idle,
    /// Each connection sends a byte 100 times per second, and discards the echo.
    SingleBytes,
    /// The same, as often as one core can send.
    Flood,
    /// Like single bytes, but with `MSG_OOB`.
    OutOfBand,
    /// Connections that are reset at once.
    Resets,
    /// Each of 100 connections writes 64 KiB as often as it can, and discards the echo.
    BulkOfFew,
    /// The same with 1,000 connections.
    Bulk,
    /// Each connection writes as much as it can and reads nothing.
    ZeroWindows,
}

/// What the figure of an attack's force counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    None,
    Messages,
    Connections,
    Bytes,
}

impl Attack {
    pub const ALL: [Attack; 8] = [
        Attack::Idle,
        Attack::SingleBytes,
        Attack::Flood,
        Attack::OutOfBand,
        Attack::Resets,
        Attack::BulkOfFew,
        Attack::Bulk,
        Attack::ZeroWindows,
    ];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Idle => "idle",
            Attack::SingleBytes => "single bytes",
            Attack::Flood => "single bytes, flood",
            Attack::OutOfBand => "out-of-band bytes",
            Attack::Resets => "resets",
            Attack::BulkOfFew => "bulk from 100",
            Attack::Bulk => "bulk from 1,000",
            Attack::ZeroWindows => "zero windows",
        }
    }

    /// Returns the number of connections that stay open.
    pub fn connections(self) -> usize {
        match self {
            Attack::Resets => 0,
            Attack::BulkOfFew => FEW,
            _ => CROWD,
        }
    }

    pub fn force(self) -> Force {
        match self {
            Attack::Idle => Force::None,
            Attack::SingleBytes | Attack::Flood | Attack::OutOfBand => Force::Messages,
            Attack::Resets => Force::Connections,
            Attack::BulkOfFew | Attack::Bulk | Attack::ZeroWindows => Force::Bytes,
        }
    }

    /// Returns the number of writes or connections per second, if the attack has a constant rate.
    fn rate(self) -> Option<f64> {
        match self {
            Attack::SingleBytes | Attack::OutOfBand => Some(SINGLE_BYTES),
            Attack::Resets => Some(RESETS),
            _ => None,
        }
    }

    fn piece(self) -> usize {
        if self.force() == Force::Messages { 1 } else { PIECE }
    }

    fn flags(self) -> MsgFlags {
        let urgent = if self == Attack::OutOfBand { MsgFlags::MSG_OOB } else { MsgFlags::empty() };
        urgent | MsgFlags::MSG_NOSIGNAL
    }

    fn reads(self) -> bool {
        self != Attack::ZeroWindows
    }
}

/// The name on the command line: the words of [`Attack::name`] with hyphens.
impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace(' ', "-").replace(',', ""))
    }
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(name: &str) -> Result<Attack, String> {
        let found = Attack::ALL.into_iter().find(|attack| attack.to_string() == name);
        found.ok_or_else(|| {
            let known = Attack::ALL.map(|attack| attack.to_string()).join(", ");
            format!("unknown attack {name:?}; the attacks are {known}")
        })
    }
}

/// Runs `attack ADDRESS NAME`: opens the connections, prints `ready`, waits for a line, and attacks
/// until the end of standard input. Then the process prints what it counted and for how many
/// seconds.
pub fn attack(to: SocketAddr, attack: Attack) -> Result<(), Box<dyn Error>> {
    let mut crowd = Crowd::open(to, attack)?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&ended);
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        ends.store(true, Ordering::Relaxed);
    })?;
    let start = Instant::now();
    let rate = Rate { per_second: attack.rate(), start, left_out: 0.0 };
    let count = match attack {
        Attack::Resets => reset_connections(to, rate, &ended),
        _ => crowd.run(rate, &ended),
    }?;
    println!("{count} {}", start.elapsed().as_secs_f64());
    Ok(())
}

/// The rate of an attack since its start.
struct Rate {
    per_second: Option<f64>,
    start: Instant,
    left_out: f64,
}

impl Rate {
    /// Returns how much is due now, if `done` is done since the start.
    fn due(&mut self, done: u64) -> u64 {
        let Some(per_second) = self.per_second else { return u64::MAX };
        let late = self.start.elapsed().as_secs_f64() * per_second - self.left_out - done as f64;
        self.left_out += (late - per_second * CATCH_UP).max(0.0);
        late.min(per_second * CATCH_UP).max(0.0) as u64
    }
}

/// Opens and resets connections. Returns their number.
fn reset_connections(to: SocketAddr, mut rate: Rate, ended: &AtomicBool) -> io::Result<u64> {
    let mut count = 0;
    while !ended.load(Ordering::Relaxed) {
        for _ in 0..rate.due(count) {
            // The drop resets the connection.
            drop(begin(to, Attack::Resets)?);
            count += 1;
        }
        // The pause between two portions keeps the rate.
        thread::sleep(TICK);
    }
    Ok(count)
}

/// Starts a connect that does not block. Over loopback the kernel answers within the call, unless
/// the server's backlog is full.
fn begin(to: SocketAddr, attack: Attack) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    if attack.force() == Force::Bytes {
        socket.set_send_buffer_size(BULK_BUFFER)?;
        let received = if attack.reads() { BULK_BUFFER } else { SMALL_WINDOW };
        socket.set_recv_buffer_size(received)?;
        if !attack.reads() {
            socket.set_tcp_mss(SEGMENT)?;
        }
    }
    match socket.connect(&to.into()) {
        Err(e) if e.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(socket),
        other => other.map(|()| socket),
    }
}

/// The connections of an attack. One that the server closes is opened again.
struct Crowd {
    to: SocketAddr,
    attack: Attack,
    poll: Poll,
    events: Events,
    peers: Vec<Hostile>,
}

struct Hostile {
    stream: TcpStream,
    readable: bool,
    writable: bool,
}

impl Hostile {
    fn open(to: SocketAddr, attack: Attack, poll: &Poll, token: Token) -> io::Result<Hostile> {
        let mut stream = TcpStream::from_std(begin(to, attack)?.into());
        let interest = match (attack, attack.reads()) {
            // Such a connection notices only that the server closes it.
            (Attack::Idle, _) => Interest::READABLE,
            (_, true) => Interest::READABLE | Interest::WRITABLE,
            (_, false) => Interest::WRITABLE,
        };
        poll.registry().register(&mut stream, token, interest)?;
        Ok(Hostile { stream, readable: false, writable: false })
    }

    /// Writes once if this is due, and reads once. Returns the number of written bytes, or an error
    /// if the server has closed the connection.
    fn take_turn(
        &mut self,
        attack: Attack,
        is_due: bool,
        data: &[u8],
        discarded: &mut [u8],
    ) -> io::Result<u64> {
        let fd = self.stream.as_raw_fd();
        let mut written = 0;
        if self.writable && is_due {
            match send(fd, data, attack.flags()) {
                Ok(sent) => {
                    written = sent as u64;
                    self.writable = sent == data.len();
                }
                Err(nix::Error::EAGAIN) => self.writable = false,
                Err(e) => return Err(e.into()),
            }
        }
        if self.readable && attack.reads() {
            // With MSG_TRUNC, TCP on Linux copies nothing.
            match recv(fd, discarded, MsgFlags::MSG_TRUNC) {
                Ok(0) => return Err(super::closed_by_server()),
                Ok(received) => self.readable = received == discarded.len(),
                Err(nix::Error::EAGAIN) => self.readable = false,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(written)
    }
}

impl Crowd {
    fn open(to: SocketAddr, attack: Attack) -> io::Result<Crowd> {
        let poll = Poll::new()?;
        let peers = (0..attack.connections())
            .map(|token| Hostile::open(to, attack, &poll, Token(token)))
            .collect::<io::Result<_>>()?;
        Ok(Crowd { to, attack, poll, events: Events::with_capacity(EVENTS), peers })
    }

    /// Attacks until the end. Returns the number of written bytes.
    fn run(&mut self, mut rate: Rate, ended: &AtomicBool) -> io::Result<u64> {
        let (data, mut discarded) = (vec![b'x'; self.attack.piece()], vec![0; DISCARDED]);
        let (mut count, mut wait) = (0, Duration::ZERO);
        // The connection that writes next.
        let mut next = 0;
        while !ended.load(Ordering::Relaxed) {
            match self.poll.poll(&mut self.events, Some(wait)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &self.events {
                let peer = &mut self.peers[event.token().0];
                peer.readable |= event.is_readable() || event.is_error();
                peer.writable |= event.is_writable() || event.is_error();
            }
            wait = TICK;
            let all = self.peers.len();
            let due = rate.due(count).min(all as u64) as usize;
            for token in (next..all).chain(0..next) {
                let is_due = (token + all - next) % all < due;
                let peer = &mut self.peers[token];
                let writes = peer.writable && is_due;
                if !peer.readable && !writes {
                    continue;
                }
                match peer.take_turn(self.attack, is_due, &data, &mut discarded) {
                    Ok(written) => count += written,
                    Err(_) => {
                        *peer = Hostile::open(self.to, self.attack, &self.poll, Token(token))?;
                    }
                }
                if peer.readable || (peer.writable && rate.per_second.is_none()) {
                    wait = Duration::ZERO;
                }
            }
            next = (next + due) % all;
        }
        Ok(count)
    }
}

/// A process that attacks, as the suite sees it. Dropping this value ends the process and its
/// connections.
#[derive(Debug)]
pub struct Attacker {
    child: Child,
    /// `None` after the end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Attacker {
    /// Starts the process, and returns when its connections are open.
    pub fn start(to: SocketAddr, attack: Attack) -> io::Result<Attacker> {
        let mut child = at_idle_priority(&env::current_exe()?)
            .args(["attack", &to.to_string(), &attack.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers
            .ok_or_else(|| io::Error::other("the process that attacks has no standard output"))?;
        let mut attacker = Attacker { child, requests, answers: BufReader::new(answers) };
        match attacker.answer()?.as_str() {
            "ready" => Ok(attacker),
            other => Err(io::Error::other(format!("the attack did not start: {other:?}"))),
        }
    }

    /// Returns the processor time and the waiting time of the process.
    pub fn times(&self) -> io::Result<Times> {
        Times::of(self.child.id())
    }

    pub fn begin(&self) -> io::Result<()> {
        self.requests.as_ref().map_or(Ok(()), |mut requests| writeln!(requests, "begin"))
    }

    /// Ends the attack. Returns its force per second: messages, connections or bytes.
    pub fn end(mut self) -> io::Result<f64> {
        drop(self.requests.take());
        let answer = self.answer()?;
        let words = answer.split_once(' ');
        let numbers = words.and_then(|(count, seconds)| {
            Some((count.parse::<f64>().ok()?, seconds.parse::<f64>().ok()?))
        });
        let (count, seconds) = numbers
            .ok_or_else(|| io::Error::other(format!("the attack ended early: {answer:?}")))?;
        Ok(count / seconds)
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.requests.take());
        // The process ends by itself at the end of its input.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_attack_on_the_command_line_names_it() {
        for attack in Attack::ALL {
            assert_eq!(attack.to_string().parse(), Ok(attack));
        }
        assert!("nothing".parse::<Attack>().is_err());
    }
}
