//! Requests on connections that stay open, answered from the callback or by a worker thread.
//!
//! The worker runs on the core of the I/O thread, as in a program that has one core: with one
//! connection the two never run at the same time, and a hand-over within a core needs no interrupt
//! of another core. One scenario has the worker on the other core, where the client runs.
//!
//! The first program of README.md has no worker, and its thread runs until its process ends. It is a
//! peer of the replies from the callback, in a process of its own on the core of the I/O thread.

use std::{
    error::Error,
    io::{self, Read, Write},
    mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    Plan, load,
    rounds::{self, Contestant, Slice},
    server::{Options, Peer, ReplyBy},
};
use crate::{
    cores::{self, Cores},
    report::Report,
    server_process::ServerProcess,
    servers::{self, Contract, Task},
};

const REQUEST: [u8; 100] = [b'r'; 100];
const MANY: usize = 16;
/// The warm-up is this fraction of a slice: both cores are awake after it.
const WARM_UP: u32 = 4;

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let ways = [
        ("reply from the callback", ReplyBy::Callback, None),
        ("reply from a worker", ReplyBy::Worker, None),
        ("reply from a worker, through the loop", ReplyBy::Loop, None),
        ("reply from a worker on the client's core", ReplyBy::Worker, Some(cores.load)),
    ];
    for (connections, suffix) in [(1, ""), (MANY, ", 16 connections")] {
        let mut contestants = Vec::new();
        for (way, reply_by, worker_core) in ways {
            let scenario = format!("keep-alive/{way}{suffix}");
            if !only(&scenario) {
                continue;
            }
            let time = plan.keep_alive;
            for peer in Peer::ALL {
                let options = Options { reply_by, worker_core };
                contestants.push(contestant(peer.name(), &scenario, move || {
                    slice(peer, options, cores, connections, time)
                }));
            }
            if reply_by == ReplyBy::Callback {
                contestants.push(contestant(servers::Peer::SockmanFirst.name(), &scenario, {
                    move || slice_of_first_program(cores, connections, time)
                }));
            }
        }
        rounds::run(plan.rounds, contestants, only, report)?;
    }
    Ok(())
}

/// Latencies, and the time in which they were measured.
type Timed = (Vec<Duration>, Duration);

fn contestant<'a>(
    peer: &'static str,
    scenario: &str,
    slice: impl Fn() -> io::Result<Timed> + Send + Sync + 'a,
) -> Contestant<'a> {
    let what = scenario.to_owned();
    let scenario = what.clone();
    let slice = Box::new(move || {
        let (latencies, took) = cores::on_a_thread(&slice)?;
        let rate = Some(latencies.len() as f64 / took.as_secs_f64());
        Ok(vec![Slice { rate, ..Slice::new(&scenario, latencies) }])
    });
    Contestant { peer, what, slice }
}

fn slice(
    peer: Peer,
    options: Options,
    cores: Cores,
    connections: usize,
    time: Duration,
) -> io::Result<Timed> {
    cores::pin(cores.server)?;
    let mut server = peer.server(options)?;
    server.start()?;
    cores::pin(cores.load)?;
    let timed = ask(server.address(), connections, time)?;
    server.stop()?;
    Ok(timed)
}

/// The first program echoes the request, which is as long as the reply of the other servers.
fn slice_of_first_program(cores: Cores, connections: usize, time: Duration) -> io::Result<Timed> {
    let task = Task::of(Contract::Echo);
    cores::pin(cores.load)?;
    let server = ServerProcess::start(servers::Peer::SockmanFirst, task, Some(cores.server))?;
    ask(server.address, connections, time)
}

fn ask(to: SocketAddr, connections: usize, time: Duration) -> io::Result<Timed> {
    match connections {
        1 => ask_on_one(to, time),
        _ => ask_on_many(to, connections, time),
    }
}

fn ask_on_one(to: SocketAddr, time: Duration) -> io::Result<Timed> {
    let stream = load::connect(to)?;
    let mut bytes = REQUEST;
    // The first request also waits for the accept.
    load::exchange(&stream, &mut bytes)?;
    let warm_up = Instant::now();
    while warm_up.elapsed() < time / WARM_UP {
        load::exchange(&stream, &mut bytes)?;
    }
    let mut latencies = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < time {
        let asked = Instant::now();
        load::exchange(&stream, &mut bytes)?;
        latencies.push(asked.elapsed());
    }
    Ok((latencies, begin.elapsed()))
}

struct Client {
    stream: TcpStream,
    asked: Instant,
    /// The received bytes of the reply.
    got: usize,
    had_reply: bool,
}

impl Client {
    fn ask(&mut self) -> io::Result<()> {
        self.asked = Instant::now();
        self.got = 0;
        // The socket's buffer is empty, so it has room for a hundred bytes.
        self.stream.write_all(&REQUEST)
    }
}

/// Sends requests on many connections. Each sends the next request when it has its reply.
fn ask_on_many(to: SocketAddr, connections: usize, time: Duration) -> io::Result<Timed> {
    let mut poll = Poll::new()?;
    let mut clients = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = load::connect(to)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        clients.push(Client { stream, asked: Instant::now(), got: 0, had_reply: false });
    }
    for client in &mut clients {
        client.ask()?;
    }
    let (mut events, mut buffer) = (Events::with_capacity(connections), [0; REQUEST.len()]);
    let mut latencies = Vec::new();
    // The measurement begins when each connection has had a reply, and so has been accepted.
    let (mut begin, mut without_reply) = (None, connections);
    let warm_up = Instant::now();
    while begin.is_none_or(|begin: Instant| begin.elapsed() < time) {
        poll.poll(&mut events, Some(load::STUCK))?;
        if events.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events {
            let client = &mut clients[event.token().0];
            match client.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => client.got += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // At most one reply is under way, so after reading all of it no edge is missed.
            if client.got < REQUEST.len() {
                continue;
            }
            if begin.is_some() {
                latencies.push(client.asked.elapsed());
            } else {
                without_reply -= usize::from(!mem::replace(&mut client.had_reply, true));
                let is_warm = without_reply == 0 && warm_up.elapsed() >= time / WARM_UP;
                begin = is_warm.then(Instant::now);
            }
            client.ask()?;
        }
    }
    let took = begin.map_or(Duration::ZERO, |begin| begin.elapsed());
    Ok((latencies, took))
}
