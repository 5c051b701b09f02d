//! An address on this machine that never answers: a listener that has all the connections it may
//! keep, and accepts none. The kernel drops what else comes.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

/// The least the kernel takes; one more than that fits.
const BACKLOG: i32 = 0;
/// Over loopback, an answer that is not there by then does not come.
const ANSWER: Duration = Duration::from_millis(30);
/// By far more than a backlog of 0 holds.
const MOST: usize = 16;

pub struct BlackHole {
    listener: TcpListener,
    _kept: Vec<TcpStream>,
}

impl BlackHole {
    pub fn new() -> io::Result<BlackHole> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let mut kept = Vec::new();
        while kept.len() < MOST {
            match TcpStream::connect_timeout(&address, ANSWER) {
                Ok(stream) => kept.push(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Ok(BlackHole { listener, _kept: kept });
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("a listener whose backlog is full still answers"))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
