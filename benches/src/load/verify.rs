//! That an echo is one: before anything is measured, a pattern has to come back as it was sent.
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use super::connect;

/// More than a receive buffer, so that a server that loses its place is found out.
const BYTES: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Warms the server up, too: its buffers are in memory afterwards.
pub fn verify(echo: SocketAddr) -> io::Result<()> {
    let stream: TcpStream = connect(echo)?.into();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // 251 is prime: the pattern does not repeat with any buffer's size.
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let mut received = vec![0; BYTES];
    thread::scope(|scope| {
        let writer = scope.spawn(|| (&stream).write_all(&sent));
        (&stream).read_exact(&mut received)?;
        writer.join().map_err(|_| io::Error::other("the thread that sends panicked"))?
    })?;
    if sent == received { Ok(()) } else { Err(io::Error::other("the echo is not what was sent")) }
}
