//! The load on a TLS server: many clients on one thread, over epoll (through mio).
use std::{
    error::Error,
    io::{self, BufRead, ErrorKind, Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{ClientConfig, ClientConnection};

use super::config;
use crate::{
    cases::Case,
    load::{Load, PATIENCE, Tally},
    pattern,
    server_process::ServerProcess,
};

const EVENTS: usize = 1024;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The connections of the echo, and the bytes of a message.
const ECHOES: usize = 64;
const MESSAGE: usize = 64;
/// The connections with bulk data.
const STREAMS: usize = 4;
/// The receives or writes of one connection before the next connection has its turn.
const TURNS: usize = 4;

/// A client of one connection.
struct Client {
    tls: ClientConnection,
    stream: TcpStream,
    /// The bytes of the pattern that were sent, and that came.
    sent: u64,
    received: u64,
    is_readable: bool,
    is_writable: bool,
}

/// The clients of one load.
struct Clients {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

impl Clients {
    /// Connects, and completes the handshakes.
    fn connect(server: &ServerProcess, count: usize) -> Result<Clients, Box<dyn Error>> {
        let config = config::client(&server.identity)?;
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(count);
        for token in 0..count {
            let mut client = Client::connect(server, &config)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut client.stream, Token(token), interest)?;
            clients.push(client);
        }
        let events = Events::with_capacity(EVENTS);
        Ok(Clients { poll, events, clients, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Notes which clients are ready. Waits for `timeout` at most.
    fn refresh(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            let Token(token) = event.token();
            let client = &mut self.clients[token];
            client.is_readable |= event.is_readable() || event.is_error();
            client.is_writable |= event.is_writable();
        }
        Ok(())
    }
}

impl Client {
    /// Connects, and completes the handshake.
    fn connect(
        server: &ServerProcess,
        config: &Arc<ClientConfig>,
    ) -> Result<Client, Box<dyn Error>> {
        let mut tls = config::connection(config)?;
        let mut stream = std::net::TcpStream::connect(server.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut stream)?;
        }
        stream.set_nonblocking(true)?;
        Ok(Client {
            tls,
            stream: TcpStream::from_std(stream),
            sent: 0,
            received: 0,
            is_readable: true,
            is_writable: true,
        })
    }

    /// Encrypts up to `length` bytes of the pattern, as many as rustls has room for.
    fn write(&mut self, length: usize) -> io::Result<()> {
        self.sent += self.tls.writer().write(pattern::at(self.sent, length))? as u64;
        Ok(())
    }

    /// Sends what is encrypted.
    fn flush(&mut self) -> io::Result<()> {
        while self.is_writable && self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives once, and checks what came.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let length = match self.stream.read(buffer) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // After a short read there is nothing more for now: an event reports the next data.
        self.is_readable = length == buffer.len();
        let mut data = &buffer[..length];
        while !data.is_empty() {
            self.tls.read_tls(&mut data)?;
            self.tls.process_new_packets().map_err(io::Error::other)?;
            loop {
                let mut reader = self.tls.reader();
                let plain = match reader.fill_buf() {
                    Ok([]) => return Err(io::Error::other("the server ended a connection")),
                    Ok(plain) => plain,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                if !pattern::is_at(self.received, plain) {
                    return Err(io::Error::other("the server sent other bytes than it should"));
                }
                let length = plain.len();
                reader.consume(length);
                self.received += length as u64;
            }
        }
        Ok(())
    }
}

/// Each client has one message under way.
pub struct Echoes(Clients);

impl Echoes {
    pub fn connect(server: &ServerProcess) -> Result<Echoes, Box<dyn Error>> {
        Ok(Echoes(Clients::connect(server, ECHOES)?))
    }
}

impl Load for Echoes {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        let Echoes(all) = self;
        loop {
            for client in &mut all.clients {
                if client.is_readable {
                    client.receive(&mut all.buffer)?;
                }
                if client.sent == client.received {
                    tally.messages += u64::from(client.sent > 0);
                    client.write(MESSAGE)?;
                }
                client.flush()?;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            all.refresh(left)?;
        }
    }
}

/// Bulk data in one direction. This load never sleeps, so the server does not pay for waking it.
pub struct Bulk {
    clients: Clients,
    is_upload: bool,
}

impl Bulk {
    pub fn connect(server: &ServerProcess, case: Case) -> Result<Bulk, Box<dyn Error>> {
        let clients = Clients::connect(server, STREAMS)?;
        Ok(Bulk { clients, is_upload: case == Case::TlsUpload })
    }
}

impl Load for Bulk {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        let Bulk { clients: all, is_upload } = self;
        while Instant::now() < until {
            all.refresh(Duration::ZERO)?;
            for client in &mut all.clients {
                let before = (client.sent, client.received);
                for _ in 0..TURNS {
                    if *is_upload && client.is_writable {
                        client.write(pattern::LONGEST)?;
                        client.flush()?;
                    }
                    if client.is_readable {
                        client.receive(&mut all.buffer)?;
                    }
                }
                tally.bytes += client.sent - before.0 + client.received - before.1;
            }
        }
        Ok(())
    }
}
