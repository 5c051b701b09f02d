//! Verifies an echo server before it is measured: a pattern has to come back unchanged.
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use super::connect;

/// The pattern is longer than a receive buffer, so that a wrong order of buffers is noticed.
const BYTES: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Fails if the echo differs. The check also prepares the server: the server's buffers are in
/// memory afterwards.
pub fn verify(echo: SocketAddr) -> io::Result<()> {
    let stream: TcpStream = connect(echo)?.into();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // 251 is prime, so the pattern does not repeat with the size of any buffer.
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let mut received = vec![0; BYTES];
    thread::scope(|scope| {
        let writer = scope.spawn(|| (&stream).write_all(&sent));
        (&stream).read_exact(&mut received)?;
        writer.join().map_err(|_| io::Error::other("the sending thread panicked"))?
    })?;
    if sent == received {
        Ok(())
    } else {
        Err(io::Error::other("the echo differs from the data that was sent"))
    }
}
