//! Connections that carry one byte: connect, send the byte, receive its echo, reset.
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::Instant,
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{EVENTS, Load, Tally, closed_by_server, connect_stream, poll_until};

pub struct Accepts {
    to: SocketAddr,
    poll: Poll,
    events: Events,
    clients: Vec<TcpStream>,
}

impl Accepts {
    /// Opens `clients` connections and keeps that many open.
    pub fn new(to: SocketAddr, clients: usize) -> io::Result<Accepts> {
        let poll = Poll::new()?;
        let clients = (0..clients).map(|token| begin(to, &poll, Token(token)));
        let clients = clients.collect::<io::Result<_>>()?;
        Ok(Accepts { to, poll, events: Events::with_capacity(EVENTS), clients })
    }
}

impl Load for Accepts {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        while poll_until(&mut self.poll, &mut self.events, until)? {
            for event in &self.events {
                let client = &mut self.clients[event.token().0];
                let mut byte = [0];
                match client.read(&mut byte) {
                    Ok(0) => return Err(closed_by_server()),
                    Ok(_) => tally.connections += 1,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                }
                // The assignment drops the old connection, which resets it.
                *client = begin(self.to, &self.poll, event.token())?;
            }
        }
        Ok(())
    }
}

fn begin(to: SocketAddr, poll: &Poll, token: Token) -> io::Result<TcpStream> {
    let mut stream = connect_stream(to)?;
    stream.write_all(b"x")?;
    poll.registry().register(&mut stream, token, Interest::READABLE)?;
    Ok(stream)
}
