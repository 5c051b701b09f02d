//! Socket options, and what each system makes of them.
//!
//! The functions run on any thread and take no lock.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use crate::sys::SocketOption;

/// Sets the option on the socket.
///
/// # Errors
///
/// [`io::ErrorKind::Unsupported`] if the system does not have the option; otherwise the error of
/// `setsockopt(2)`.
pub(super) fn set_option(socket: &SockRef<'_>, option: &SocketOption<'_>) -> io::Result<()> {
    match *option {
        SocketOption::Keepalive { idle, interval, count } => {
            set_keepalive(socket, idle, interval, count)
        }
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes),
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(bytes),
        SocketOption::Dscp(value) => set_dscp(socket, value),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        SocketOption::UserTimeout(time) => socket.set_tcp_user_timeout(Some(time)),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        SocketOption::NotsentLowat(bytes) => socket.set_tcp_notsent_lowat(bytes),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        SocketOption::Interface(name) => socket.bind_device(Some(name.as_bytes())),
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        SocketOption::UserTimeout(_)
        | SocketOption::NotsentLowat(_)
        | SocketOption::Interface(_) => Err(io::ErrorKind::Unsupported.into()),
        SocketOption::Custom(set) => set(socket.as_fd()),
    }
}

/// Sets `SO_REUSEPORT`. Illumos and Solaris do not have it.
pub(super) fn set_reuse_port(socket: &SockRef<'_>) -> io::Result<()> {
    #[cfg(not(any(target_os = "illumos", target_os = "solaris")))]
    return socket.set_reuse_port(true);
    #[cfg(any(target_os = "illumos", target_os = "solaris"))]
    {
        let _ = socket;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Sets the keepalive. Socket2 ignores what OpenBSD does not have.
fn set_keepalive(
    socket: &SockRef<'_>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
) -> io::Result<()> {
    if cfg!(target_os = "openbsd") && (idle.is_some() || interval.is_some() || count.is_some()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut keepalive = TcpKeepalive::new();
    if let Some(idle) = idle {
        keepalive = keepalive.with_time(idle);
    }
    #[cfg(not(target_os = "openbsd"))]
    {
        if let Some(interval) = interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = count {
            keepalive = keepalive.with_retries(count);
        }
    }
    socket.set_tcp_keepalive(&keepalive)
}

/// Sets the DSCP value. The two low bits belong to the kernel (ECN).
fn set_dscp(socket: &SockRef<'_>, value: u8) -> io::Result<()> {
    let traffic_class = u32::from(value) << 2;
    if socket.local_addr()?.is_ipv6() {
        socket.set_tclass_v6(traffic_class)
    } else {
        socket.set_tos_v4(traffic_class)
    }
}
