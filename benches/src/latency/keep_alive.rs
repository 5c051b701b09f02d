//! Requests on connections that stay open, answered from the callback or by a worker thread.
//!
//! The worker runs on the core of the I/O thread, as in a program that has this core for itself:
//! with one connection nothing of the two overlaps, and a hand-over within a core needs no
//! interrupt of another one. What it costs on the other core, where the client is, is told too.

use std::{
    error::Error,
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    Plan,
    cores::{self, Cores},
    load,
    rounds::{self, Contestant, Slice},
    server::{Options, Peer, ReplyBy},
};
use crate::report::Report;

const REQUEST: [u8; 100] = [b'r'; 100];
const MANY: usize = 16;
/// For warming up: not counted.
const FIRST_REQUESTS: usize = 2;

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
        ("reply from a worker on the client's core", ReplyBy::Worker, Some(cores.other)),
    ];
    for (connections, suffix) in [(1, ""), (MANY, ", 16 connections")] {
        let mut contestants = Vec::new();
        for (way, reply_by, worker_core) in ways {
            let scenario = format!("keep-alive/{way}{suffix}");
            if !only(&scenario) {
                continue;
            }
            for peer in Peer::ALL {
                let (scenario, time) = (scenario.clone(), plan.keep_alive);
                let options = Options { reply_by, worker_core };
                contestants.push(Contestant {
                    peer: peer.name(),
                    what: scenario.clone(),
                    slice: Box::new(move || {
                        let latencies =
                            cores::on_a_thread(|| slice(peer, options, cores, connections, time))?;
                        let rate = Some(latencies.len() as f64 / time.as_secs_f64());
                        Ok(vec![Slice { rate, ..Slice::new(&scenario, latencies) }])
                    }),
                });
            }
        }
        rounds::run(plan.rounds, contestants, only, report)?;
    }
    Ok(())
}

fn slice(
    peer: Peer,
    options: Options,
    cores: Cores,
    connections: usize,
    time: Duration,
) -> io::Result<Vec<Duration>> {
    cores::pin(cores.io)?;
    let mut server = peer.server(options)?;
    server.start()?;
    cores::pin(cores.other)?;
    let latencies = match connections {
        1 => ask_on_one(server.address(), time)?,
        _ => ask_on_many(server.address(), connections, time)?,
    };
    server.stop()?;
    Ok(latencies)
}

fn ask_on_one(to: SocketAddr, time: Duration) -> io::Result<Vec<Duration>> {
    let stream = load::connect(to)?;
    let mut bytes = REQUEST;
    for _ in 0..FIRST_REQUESTS {
        load::exchange(&stream, &mut bytes)?;
    }
    let mut latencies = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < time {
        let asked = Instant::now();
        load::exchange(&stream, &mut bytes)?;
        latencies.push(asked.elapsed());
    }
    Ok(latencies)
}

struct Client {
    stream: TcpStream,
    asked: Instant,
    /// Bytes of the reply that have come.
    got: usize,
}

impl Client {
    fn ask(&mut self) -> io::Result<()> {
        self.asked = Instant::now();
        self.got = 0;
        // A buffer that holds nothing else has room for a hundred bytes.
        self.stream.write_all(&REQUEST)
    }
}

/// Each connection asks again as soon as it has its reply.
fn ask_on_many(to: SocketAddr, connections: usize, time: Duration) -> io::Result<Vec<Duration>> {
    let mut poll = Poll::new()?;
    let mut clients = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = load::connect(to)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        clients.push(Client { stream, asked: Instant::now(), got: 0 });
    }
    for client in &mut clients {
        client.ask()?;
    }
    let (mut events, mut buffer) = (Events::with_capacity(connections), [0; REQUEST.len()]);
    let mut latencies = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < time {
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
            // One reply at most is on its way: all of it read, no edge is missed.
            if client.got == REQUEST.len() {
                latencies.push(client.asked.elapsed());
                client.ask()?;
            }
        }
    }
    Ok(latencies)
}
