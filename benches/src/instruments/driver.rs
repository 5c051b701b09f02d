//! A client that does the same work in every run: all connections send one message each, and then
//! the client reads all replies.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub const CONNECTIONS: usize = 64;
const MESSAGE: [u8; 64] = [b'm'; 64];
/// A server under callgrind is fifty times slower. A server that takes longer than this is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// After this many connections the client exchanges messages, so that the server has accepted them:
/// a backlog that overflows costs a second.
const SERVED: usize = 64;

/// Open connections, each of which has exchanged one message.
pub struct Driver {
    streams: Vec<TcpStream>,
}

impl Driver {
    pub fn connect(to: SocketAddr, connections: usize) -> io::Result<Driver> {
        let mut streams = Vec::with_capacity(connections);
        for number in 1..=connections {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STUCK))?;
            streams.push(stream);
            if number % SERVED == 0 || number == connections {
                Driver::exchange(&streams[(number - 1) / SERVED * SERVED..])?;
            }
        }
        Ok(Driver { streams })
    }

    /// Exchanges `count` messages on each connection.
    pub fn exchanges(self, count: usize) -> io::Result<Driver> {
        for _ in 0..count {
            Driver::exchange(&self.streams)?;
        }
        Ok(self)
    }

    fn exchange(streams: &[TcpStream]) -> io::Result<()> {
        for mut stream in streams {
            stream.write_all(&MESSAGE)?;
        }
        let mut reply = [0; MESSAGE.len()];
        for mut stream in streams {
            stream.read_exact(&mut reply)?;
            if reply != MESSAGE {
                return Err(io::Error::other("the echo differs from the message that was sent"));
            }
        }
        Ok(())
    }
}
