//! This process's own descriptors: which one belongs to a connection of the library, is it still
//! open (both on Linux alone), and what is asked or done by its number.

use std::{
    io::IoSlice,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{
    ControlMessage, MsgFlags, UnixAddr, getsockopt, recv, sendmsg, sockopt::TcpNoDelay,
};
#[cfg(target_os = "linux")]
use {
    nix::sys::socket::{SockaddrStorage, getpeername, getsockname},
    std::{fs, net::SocketAddr},
};

#[cfg(target_os = "linux")]
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(std::net::SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| std::net::SocketAddrV6::from(*v6).into())
}

/// The descriptor of the TCP socket with these ends; `None` for `remote`: of the listener.
#[cfg(target_os = "linux")]
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
#[cfg(target_os = "linux")]
pub fn target(descriptor: RawFd) -> String {
    fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap().to_str().unwrap().to_owned()
}

/// The descriptor behind which this is.
#[cfg(target_os = "linux")]
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

/// Whether Nagle's delay is off.
pub fn is_without_delay(descriptor: RawFd) -> bool {
    getsockopt(descriptor, TcpNoDelay).unwrap()
}

/// Sends all of `data`, with a copy of `descriptor` going along.
pub fn send_along(stream: &UnixStream, data: &[u8], descriptor: RawFd) {
    let sent = sendmsg::<UnixAddr>(
        stream.as_raw_fd(),
        &[IoSlice::new(data)],
        &[ControlMessage::ScmRights(&[descriptor])],
        MsgFlags::empty(),
        None,
    );
    assert_eq!(sent, Ok(data.len()));
}
