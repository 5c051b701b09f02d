//! Bulk data in one direction, over a few connections.
use std::{
    io::{self, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use nix::sys::socket::{MsgFlags, recv};

use super::{EVENTS, Load, Tally, closed_by_server, connect_stream};

/// The number of writes to one connection before the next connection is served.
const WRITES_A_TURN: usize = 4;
/// The most bytes that one receive takes from the kernel.
const RECEIVE_SIZE: usize = 1024 * 1024;

/// A few connections, and which of them were ready last.
struct Streams {
    poll: Poll,
    events: Events,
    streams: Vec<TcpStream>,
    ready: Vec<bool>,
}

impl Streams {
    fn new(to: SocketAddr, connections: usize, interest: Interest) -> io::Result<Streams> {
        let poll = Poll::new()?;
        let mut streams = Vec::with_capacity(connections);
        for token in 0..connections {
            let mut stream = connect_stream(to)?;
            poll.registry().register(&mut stream, Token(token), interest)?;
            streams.push(stream);
        }
        let events = Events::with_capacity(EVENTS);
        Ok(Streams { poll, events, streams, ready: vec![false; connections] })
    }

    /// Polls for readiness without sleeping: the server would pay for waking this thread, and that
    /// costs more (several µs on a virtual machine) than sending 64 KiB. Returns false if the time
    /// has come.
    fn refresh(&mut self, until: Instant) -> io::Result<bool> {
        if Instant::now() >= until {
            return Ok(false);
        }
        self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
        for event in &self.events {
            self.ready[event.token().0] = true;
        }
        Ok(true)
    }
}

/// Writes as fast as the server reads, so that the kernel's buffers are full. Servers then fall
/// into two regimes. A server that reads 64 KiB of each connection in turn keeps all buffers full.
/// The data that it reads has left the cache, and each read that opens a window makes the kernel
/// send the next segments at once, in the reader's time. A server that drains one connection before
/// the next one uses less than half of this time.
pub struct Upload {
    streams: Streams,
    data: Vec<u8>,
}

impl Upload {
    pub fn new(to: SocketAddr, connections: usize, write_size: usize) -> io::Result<Upload> {
        let streams = Streams::new(to, connections, Interest::WRITABLE)?;
        Ok(Upload { streams, data: vec![b'x'; write_size] })
    }
}

impl Load for Upload {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        while self.streams.refresh(until)? {
            let streams = &mut self.streams;
            for (stream, ready) in streams.streams.iter().zip(&mut streams.ready) {
                for _ in 0..WRITES_A_TURN {
                    if !*ready {
                        break;
                    }
                    match (&*stream).write(&self.data) {
                        Ok(sent) => tally.bytes += sent as u64,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => *ready = false,
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Receives the server's data and lets the kernel discard it: with `MSG_TRUNC`, TCP on Linux copies
/// nothing, so this side has far less work than the server.
pub struct Download {
    streams: Streams,
    /// Only its length matters: nothing is written to it.
    buffer: Vec<u8>,
}

impl Download {
    pub fn new(to: SocketAddr, connections: usize) -> io::Result<Download> {
        let streams = Streams::new(to, connections, Interest::READABLE)?;
        Ok(Download { streams, buffer: vec![0; RECEIVE_SIZE] })
    }
}

impl Load for Download {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        while self.streams.refresh(until)? {
            let streams = &mut self.streams;
            for (stream, ready) in streams.streams.iter().zip(&mut streams.ready) {
                if !*ready {
                    continue;
                }
                match recv(stream.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                    Ok(0) => return Err(closed_by_server()),
                    Ok(received) => {
                        tally.bytes += received as u64;
                        *ready = received == self.buffer.len();
                    }
                    Err(nix::Error::EAGAIN) => *ready = false,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }
}
