//! Socket options, and what Windows makes of them.
//!
//! The functions run on any thread and take no lock.

use std::{io, os::windows::io::AsSocket, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use crate::sys::SocketOption;

/// Sets the option on the socket.
///
/// # Errors
///
/// [`io::ErrorKind::Unsupported`] if Windows does not have the option; otherwise the error of
/// `setsockopt`.
pub(super) fn set_option(socket: &SockRef<'_>, option: &SocketOption<'_>) -> io::Result<()> {
    match *option {
        SocketOption::Keepalive { idle, interval, count } => {
            set_keepalive(socket, idle, interval, count)
        }
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes),
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(bytes),
        // Windows takes IP_TOS and ignores it: there, policies set the DSCP value.
        SocketOption::Dscp(_)
        | SocketOption::UserTimeout(_)
        | SocketOption::NotsentLowat(_)
        | SocketOption::Interface(_) => Err(io::ErrorKind::Unsupported.into()),
        SocketOption::Custom(set) => set(socket.as_socket()),
    }
}

/// The time without data before the first probe, if the embedder sets none: the default of Windows.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// The time between two probes, if the embedder sets none: the default of Windows.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sets the keepalive. The call of Windows sets both times, and zero is not its default. The count
/// needs Windows 10, version 1703.
fn set_keepalive(
    socket: &SockRef<'_>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
) -> io::Result<()> {
    let mut keepalive = TcpKeepalive::new()
        .with_time(idle.unwrap_or(IDLE))
        .with_interval(interval.unwrap_or(INTERVAL));
    if let Some(count) = count {
        keepalive = keepalive.with_retries(count);
    }
    socket.set_tcp_keepalive(&keepalive)
}
