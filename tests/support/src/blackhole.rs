//! Listeners that answer no connect, because their backlog is full.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};
#[cfg(unix)]
use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
};

#[cfg(unix)]
use sockman::Service;
use sockman::address::Destination;

#[cfg(unix)]
use super::tools::TempDir;

/// A TCP listener on loopback that answers no connect, because its backlog is full.
pub struct Blackhole {
    pub address: SocketAddr,
    pub listener: TcpListener,
    pub fillers: Vec<TcpStream>,
}

impl Blackhole {
    pub fn new() -> Blackhole {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            fillers.push(filler);
        }
        assert!(!fillers.is_empty());
        Blackhole { address, listener, fillers }
    }

    pub fn destination(&self) -> Destination {
        self.address.into()
    }
}

/// A unix-domain listener whose backlog is full.
#[cfg(unix)]
pub struct UnixBlackhole {
    pub path: PathBuf,
    pub listener: UnixListener,
    pub fillers: Vec<UnixStream>,
    _directory: TempDir,
}

#[cfg(unix)]
impl UnixBlackhole {
    pub fn new() -> UnixBlackhole {
        let directory = TempDir::new();
        let path = directory.path("full");
        let socket =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut fillers = Vec::new();
        loop {
            let filler =
                socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            if filler.connect(&socket2::SockAddr::unix(&path).unwrap()).is_err() {
                break;
            }
            fillers.push(UnixStream::from(std::os::fd::OwnedFd::from(filler)));
        }
        assert!(!fillers.is_empty());
        UnixBlackhole {
            path,
            listener: UnixListener::from(std::os::fd::OwnedFd::from(socket)),
            fillers,
            _directory: directory,
        }
    }

    pub fn destination(&self) -> Destination {
        Service::unix(&self.path).unwrap().into()
    }
}
