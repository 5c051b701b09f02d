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

/// Writes to one connection before the others have their turn.
const WRITES_A_TURN: usize = 4;
/// Bytes taken from the kernel at once.
const RECEIVE_SIZE: usize = 1024 * 1024;

/// A few connections, and which of them can be used as far as we know.
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

    /// Looks for readiness, and never sleeps for it: to wake us would be the server's work, and it
    /// costs more (on a virtual machine, several µs) than sending 64 KiB does. False: the time has
    /// come.
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

/// Writes as long as the server takes it, so that the kernel's buffers are full. There are two
/// regimes then, far apart. Who takes 64 KiB of each connection in turn keeps all of them full, and
/// pays for it: what it reads has left the cache, and each read that opens a window has the kernel
/// send the next segments then and there, on the reader's time. Who drains one connection before
/// the next pays less than half.
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

/// Takes what the server sends, and has the kernel throw it away: with `MSG_TRUNC`, TCP on Linux
/// copies nothing, so that this side has far less to do than the one that is measured.
pub struct Download {
    streams: Streams,
    /// Only its length matters.
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
