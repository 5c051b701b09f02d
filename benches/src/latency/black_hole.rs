//! An address on this machine that never answers: a listener with a full backlog that never
//! accepts. The kernel drops all further connects.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

/// The least backlog of the kernel, which holds one connection more than its number.
const BACKLOG: i32 = 0;
/// A connect over loopback that is not answered by then is never answered.
const ANSWER: Duration = Duration::from_millis(30);
/// Far more connections than a backlog of 0 holds.
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
        Err(io::Error::other("a listener with a full backlog still answers"))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
