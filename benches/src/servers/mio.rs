//! Raw mio, written for edge-triggered epoll: a slab, one registration for each connection, and
//! remembered readiness, so that no system call only returns "would block".
use std::{
    collections::VecDeque,
    error::Error,
    io::{self, Read, Write},
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use slab::Slab;

use super::{
    Contract, RECEIVE_BUFFER, STOP_READING_ABOVE, Task, announce, leftovers::Leftovers, listen,
};

/// The most events that one poll reports.
const EVENTS: usize = 1024;
const LISTENER: Token = Token(usize::MAX);

pub(super) fn serve(task: Task) -> Result<(), Box<dyn Error>> {
    let mut listener = TcpListener::from_std(listen()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    announce(listener.local_addr()?)?;
    let mut server = Server {
        contract: task.contract,
        connections: Slab::new(),
        unfinished: VecDeque::new(),
        buffer: vec![0; RECEIVE_BUFFER],
        zeroes: vec![0; task.send_size],
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        let timeout = (!server.unfinished.is_empty()).then_some(Duration::ZERO);
        match poll.poll(&mut events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        // Connections with unfinished work come before new events, because they have waited longer.
        for _ in 0..server.unfinished.len() {
            if let Some(key) = server.unfinished.pop_front() {
                server.take_turn(key);
            }
        }
        for event in &events {
            if event.token() == LISTENER {
                server.accept_all(&listener, &poll)?;
                continue;
            }
            let Token(key) = event.token();
            let Some(connection) = server.connections.get_mut(key) else { continue };
            connection.readable |= event.is_readable() || event.is_error();
            connection.writable |= event.is_writable();
            connection.hung_up |= event.is_read_closed() || event.is_error();
            if !connection.is_listed {
                server.take_turn(key);
            }
        }
    }
}

struct Server {
    contract: Contract,
    connections: Slab<Connection>,
    /// Connections whose turn ended before the kernel returned "would block", for fairness.
    unfinished: VecDeque<usize>,
    buffer: Vec<u8>,
    zeroes: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// The last known readiness.
    readable: bool,
    writable: bool,
    /// EOF or an error follows the data, so a short read does not mean "empty" any more.
    hung_up: bool,
    finished: bool,
    is_listed: bool,
    leftovers: Leftovers,
}

/// The result of a turn that did not break the connection.
#[derive(PartialEq, Eq)]
enum Outcome {
    Waits,
    HasMore,
    Done,
}

impl Server {
    fn accept_all(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            };
            stream.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(entry.key()), interest)?;
            entry.insert(Connection {
                stream,
                readable: false,
                writable: false,
                hung_up: false,
                finished: false,
                is_listed: false,
                leftovers: Leftovers::default(),
            });
        }
    }

    fn take_turn(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.is_listed = false;
        let outcome = match self.contract {
            Contract::Source => connection.send_zeroes(&self.zeroes, &mut self.buffer),
            contract => connection.receive_and_send(contract, &mut self.buffer),
        };
        match outcome {
            Ok(Outcome::Waits) => {}
            Ok(Outcome::HasMore) => {
                connection.is_listed = true;
                self.unfinished.push_back(key);
            }
            // The drop closes the connection, which also deregisters it.
            Ok(Outcome::Done) | Err(_) => drop(self.connections.remove(key)),
        }
    }
}

impl Connection {
    fn receive_and_send(&mut self, contract: Contract, buffer: &mut [u8]) -> io::Result<Outcome> {
        if self.writable && !self.leftovers.is_empty() {
            let sent = self.send(None)?;
            self.leftovers.advance(sent);
        }
        if self.wants_to_read() {
            let received = self.receive(buffer)?;
            if contract == Contract::Echo && received > 0 {
                self.echo(&buffer[..received])?;
            }
        }
        if self.finished && self.leftovers.is_empty() {
            return Ok(Outcome::Done);
        }
        let can_send = self.writable && !self.leftovers.is_empty();
        Ok(if can_send || self.wants_to_read() { Outcome::HasMore } else { Outcome::Waits })
    }

    fn send_zeroes(&mut self, zeroes: &[u8], buffer: &mut [u8]) -> io::Result<Outcome> {
        if self.wants_to_read() {
            self.receive(buffer)?;
        }
        if self.finished {
            return Ok(Outcome::Done);
        }
        if self.writable {
            self.send(Some(zeroes))?;
        }
        Ok(if self.writable { Outcome::HasMore } else { Outcome::Waits })
    }

    fn wants_to_read(&self) -> bool {
        self.readable && !self.finished && self.leftovers.len() <= STOP_READING_ABOVE
    }

    fn echo(&mut self, data: &[u8]) -> io::Result<()> {
        // The first send tries before an event has reported the connection as writable.
        let sent = if self.leftovers.is_empty() { self.send(Some(data))? } else { 0 };
        if sent < data.len() {
            self.leftovers.keep(&data[sent..]);
        }
        Ok(())
    }

    /// Sends the leftovers or other data once, and returns how many bytes the kernel accepted.
    fn send(&mut self, other: Option<&[u8]>) -> io::Result<usize> {
        let data = other.unwrap_or(self.leftovers.as_slice());
        match (&self.stream).write(data) {
            Ok(sent) => {
                // A short send means "full": an event reports when there is room again.
                self.writable = sent == data.len();
                Ok(sent)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.stream).read(buffer) {
            Ok(0) => {
                self.finished = true;
                Ok(0)
            }
            Ok(received) => {
                // A short read means "empty": an event reports the next data.
                self.readable = received == buffer.len() || self.hung_up;
                Ok(received)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }
}
