//! The descriptors of this process: finds the one of a connection and whether it is still open
//! (both on Linux only), and reads or uses a descriptor by its number.

use std::{
    io::IoSlice,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recv, sendmsg};
#[cfg(target_os = "linux")]
use {
    nix::sys::socket::{
        SockaddrStorage, getpeername, getsockname, getsockopt,
        sockopt::{KeepAlive, RcvBuf, SndBuf, TcpKeepIdle, TcpNoDelay, TcpUserTimeout},
    },
    std::{fs, net::SocketAddr},
};

#[cfg(target_os = "linux")]
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(std::net::SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| std::net::SocketAddrV6::from(*v6).into())
}

/// Returns the descriptor of the TCP socket with these addresses. If `remote` is `None`, returns
/// the descriptor of the listener.
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
        .unwrap_or_else(|| panic!("this process has no TCP socket from {local} to {remote:?}"))
}

/// Returns the name of the file behind the descriptor. Unlike the descriptor's number, this name is
/// not reused soon.
#[cfg(target_os = "linux")]
pub fn target(descriptor: RawFd) -> String {
    fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap().to_str().unwrap().to_owned()
}

/// Returns the descriptor whose file has the name `target`.
#[cfg(target_os = "linux")]
pub fn with_target(target: &str) -> Option<RawFd> {
    fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let points_to = fs::read_link(entry.path()).ok()?;
        (points_to.to_str() == Some(target)).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// Returns the number of bytes that wait in the kernel for this socket, but at most `most`.
pub fn bytes_waiting(descriptor: RawFd, most: usize) -> usize {
    let mut buffer = vec![0; most];
    recv(descriptor, &mut buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).unwrap_or(0)
}

/// Returns whether Nagle's delay is off.
#[cfg(target_os = "linux")]
pub fn is_without_delay(descriptor: RawFd) -> bool {
    getsockopt(descriptor, TcpNoDelay).unwrap()
}

/// Returns the values of options that Linux copies from a listener to the sockets that it accepts:
/// both buffers, keep-alive with its idle time, and the user time-out.
#[cfg(target_os = "linux")]
pub fn inherited_options(descriptor: RawFd) -> (usize, usize, bool, u32, u32) {
    (
        getsockopt(descriptor, RcvBuf).unwrap(),
        getsockopt(descriptor, SndBuf).unwrap(),
        getsockopt(descriptor, KeepAlive).unwrap(),
        getsockopt(descriptor, TcpKeepIdle).unwrap(),
        getsockopt(descriptor, TcpUserTimeout).unwrap(),
    )
}

/// Sends all of `data` together with a copy of `descriptor`.
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

/// Returns the descriptor of the socket that is bound to this path, as of the listener that the
/// library keeps to itself.
#[cfg(target_os = "linux")]
pub fn of_path(path: &std::path::Path) -> RawFd {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .find(|descriptor: &RawFd| {
            getsockname::<UnixAddr>(*descriptor).is_ok_and(|name| name.path() == Some(path))
        })
        .expect("no socket is bound to the path")
}
