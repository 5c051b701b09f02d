//! Request and reply: each connection has a fixed number of messages under way, and sends the next
//! one when one has come back completely.
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::SocketAddr,
    time::Instant,
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{EVENTS, LONGEST, Load, Tally, closed_by_server, connect_stream, poll_until};

/// The most bytes that one read receives.
const BUFFER: usize = 64 * 1024;

pub struct PingPong {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    /// The size of a message, bytes.
    size: usize,
    /// The receive buffer of all connections.
    buffer: Vec<u8>,
    /// As many messages as one connection has under way.
    message: Vec<u8>,
    started: bool,
}

struct Client {
    stream: TcpStream,
    /// When each message under way was sent; `None` if that was in another slice of time.
    sent_at: VecDeque<Option<Instant>>,
    /// How many bytes of the oldest message have come back.
    received: usize,
    /// Bytes that the kernel has not accepted yet.
    unsent: usize,
}

impl PingPong {
    /// Opens the connections. Each has `depth` messages of `size` bytes under way.
    pub fn new(to: SocketAddr, connections: usize, size: usize, depth: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(connections);
        for token in 0..connections {
            let mut stream = connect_stream(to)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(token), interest)?;
            let sent_at = VecDeque::from(vec![None; depth]);
            clients.push(Client { stream, sent_at, received: 0, unsent: depth * size });
        }
        Ok(PingPong {
            poll,
            events: Events::with_capacity(EVENTS),
            clients,
            size,
            buffer: vec![0; BUFFER],
            message: vec![b'x'; depth * size],
            started: false,
        })
    }
}

impl Load for PingPong {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        for client in &mut self.clients {
            // The time between two slices does not belong to a round trip.
            client.sent_at.iter_mut().for_each(|at| *at = None);
            if !self.started {
                client.send(&self.message)?;
            }
        }
        self.started = true;
        while poll_until(&mut self.poll, &mut self.events, until)? {
            for event in &self.events {
                let Token(token) = event.token();
                let client = &mut self.clients[token];
                if event.is_readable() || event.is_error() {
                    client.receive(&mut self.buffer, self.size, tally)?;
                }
                if client.unsent > 0 {
                    client.send(&self.message)?;
                }
            }
        }
        Ok(())
    }
}

impl Client {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match (&self.stream).write(&message[..self.unsent]) {
            Ok(sent) => self.unsent -= sent,
            // An event reports when there is room.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Receives the available data, records the messages that are complete, and queues the same
    /// number of new messages.
    fn receive(&mut self, buffer: &mut [u8], size: usize, tally: &mut Tally) -> io::Result<()> {
        loop {
            let received = match (&self.stream).read(buffer) {
                Ok(0) => return Err(closed_by_server()),
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            self.received += received;
            if self.received >= size {
                self.note(size, tally);
            }
            // After a short read there is no more data for now: an event reports the next data.
            if received < buffer.len() {
                return Ok(());
            }
        }
    }

    fn note(&mut self, size: usize, tally: &mut Tally) {
        let now = Instant::now();
        while self.received >= size {
            self.received -= size;
            self.unsent += size;
            tally.messages += 1;
            if let Some(Some(sent_at)) = self.sent_at.pop_front() {
                let took = u64::try_from((now - sent_at).as_nanos()).unwrap_or(LONGEST);
                tally.round_trips.saturating_record(took);
            }
            self.sent_at.push_back(Some(now));
        }
    }
}
