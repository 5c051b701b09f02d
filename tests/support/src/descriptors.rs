//! This process's own descriptors: which one belongs to a connection of the library, and is it
//! still open. Linux.

#![cfg(target_os = "linux")]
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, net::SocketAddr, os::fd::RawFd};

use nix::sys::socket::{MsgFlags, SockaddrStorage, getpeername, getsockname, recv};

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(std::net::SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| std::net::SocketAddrV6::from(*v6).into())
}

/// The descriptor of the TCP socket with these ends; `None` for `remote`: of the listener.
pub fn of(local: SocketAddr, remote: Option<SocketAddr>) -> RawFd {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .find(|descriptor: &RawFd| {
            let name = getsockname::<SockaddrStorage>(*descriptor);
            let peer = getpeername::<SockaddrStorage>(*descriptor);
            name.is_ok_and(|name| address(&name) == Some(local))
                && peer.ok().and_then(|peer| address(&peer)) == remote
        })
        .unwrap_or_else(|| panic!("no socket {local} {remote:?}"))
}

/// What is behind a descriptor, by a name that is not used again soon.
pub fn target(descriptor: RawFd) -> String {
    fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap().to_str().unwrap().to_owned()
}

/// The descriptor behind which this is.
pub fn with_target(target: &str) -> Option<RawFd> {
    fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let points_to = fs::read_link(entry.path()).ok()?;
        (points_to.to_str() == Some(target)).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// How many bytes the kernel has for this socket, up to `most`.
pub fn bytes_waiting(descriptor: RawFd, most: usize) -> usize {
    let mut buffer = vec![0; most];
    recv(descriptor, &mut buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).unwrap_or(0)
}
