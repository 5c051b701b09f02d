//! A client that does the same in every run: all connections send one message each, and then all
//! replies are read.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub const CONNECTIONS: usize = 64;
const MESSAGE: [u8; 64] = [b'm'; 64];
/// Beneath callgrind a server is fifty times slower; one that takes longer than this is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// Every so many connections one is served, so that those before it were accepted: a backlog that
/// overflows costs a second.
const SERVED: usize = 64;

/// Connected, and each was served once.
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

    /// Each connection sends, and gets back, so many messages.
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
                return Err(io::Error::other("the echo differs from what was sent"));
            }
        }
        Ok(())
    }
}
