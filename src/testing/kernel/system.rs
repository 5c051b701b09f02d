//! The systems whose kernels the double can behave like, and where their rules differ.
//!
//! The module is pure data.

use crate::sys::errors;

/// A family of kernels.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::testing) enum System {
    /// Linux 6: epoll(7), tcp(7), unix(7), and the kernel's `net/ipv4/tcp.c` and
    /// `net/unix/af_unix.c`.
    #[default]
    Linux,
    /// FreeBSD 14, NetBSD 10 and OpenBSD 7, where they agree: kqueue(2), and FreeBSD's
    /// `sys/kern/uipc_socket.c`, `uipc_usrreq.c` and `sys/netinet/tcp_usrreq.c`.
    Bsd,
    /// macOS 15: kqueue(2), and XNU's `bsd/kern/uipc_socket.c`, `uipc_socket2.c`,
    /// `uipc_syscalls.c` and `kern_event.c`.
    Macos,
    /// Windows 10 and later: Microsoft's documentation of Winsock, and mio's poller on AFD.
    Windows,
}

impl System {
    /// Whether the poller is kqueue, with `EV_CLEAR` as mio uses it. kqueue has an entry for each
    /// direction of a socket.
    pub(in crate::testing) fn has_kqueue(self) -> bool {
        matches!(self, System::Bsd | System::Macos)
    }

    /// Whether the poller is mio's on AFD, and the calls are Winsock's.
    pub(in crate::testing) fn has_afd(self) -> bool {
        self == System::Windows
    }

    /// Whether the poller reports urgent data.
    pub(in crate::testing) fn reports_urgent_data(self) -> bool {
        self == System::Linux
    }

    /// Whether a receive or a send that ends early means that the next one would block, and whether
    /// the poller then reports the end of that.
    pub(in crate::testing) fn short_means_over(self) -> bool {
        self == System::Linux
    }

    /// Whether the system has unix-domain sockets. Windows has them, but neither Rust's standard
    /// library nor mio does there.
    pub(in crate::testing) fn has_unix_sockets(self) -> bool {
        self != System::Windows
    }

    /// Whether a receive returns the reset that came after the end of the stream, and a send leaves
    /// the error to the receive (`soreceive_generic`, `sosend_generic`). Linux keeps such a reset
    /// for `SO_ERROR`, as `EPIPE`.
    pub(in crate::testing) fn receive_returns_late_reset(self) -> bool {
        self.has_kqueue()
    }

    /// Whether a close with unread data resets the connection. The BSDs send a FIN, and a reset only
    /// for data that comes later (`tcp_disconnect`, `tcp_input`).
    pub(in crate::testing) fn close_resets_unread(self) -> bool {
        !self.has_kqueue()
    }

    /// The error of a connect to a unix-domain listener with a full backlog (`sonewconn` returns
    /// nothing, and `unp_connectat` then returns `ECONNREFUSED`).
    pub(in crate::testing) fn full_unix_backlog(self) -> i32 {
        if self == System::Linux { errors::EAGAIN } else { errors::ECONNREFUSED }
    }

    /// Whether `shutdown(2)` stops a listener. The BSDs and Windows return `ENOTCONN`.
    pub(in crate::testing) fn shuts_listeners_down(self) -> bool {
        self == System::Linux
    }

    /// Whether `shutdown(2)` refuses a direction that has ended already (XNU's `soshutdownlock`).
    pub(in crate::testing) fn refuses_second_shutdown(self) -> bool {
        self == System::Macos
    }

    /// Whether an accept without a free descriptor takes the client from the queue and drops it
    /// (XNU's `accept_nocancel`: `falloc` fails after the client has left the queue).
    pub(in crate::testing) fn drops_clients_without_descriptor(self) -> bool {
        self == System::Macos
    }

    /// The error of an accept of a client that reset before, or `None` if the accept succeeds. XNU
    /// returns a descriptor without an address, which the library's own sockets report as
    /// `ECONNABORTED`. Windows returns `WSAECONNRESET`, and Wine `WSAENOTCONN`.
    pub(in crate::testing) fn accept_of_reset_client(self) -> Option<i32> {
        match self {
            System::Linux => None,
            System::Bsd | System::Macos => Some(errors::ECONNABORTED),
            System::Windows => Some(errors::ECONNRESET),
        }
    }

    /// Whether an accept looks for a client before it allocates the descriptor. Only then does it
    /// fail for lack of one.
    pub(in crate::testing) fn accept_looks_first(self) -> bool {
        self == System::Windows
    }

    /// Whether the first send that meets a reset fails with `EPROTOTYPE` (XNU's `tcp_usr_send`, while
    /// the connection is taken down).
    pub(in crate::testing) fn send_returns_prototype(self) -> bool {
        self == System::Macos
    }

    /// The longest time-out in seconds that a poll accepts. XNU's `kevent` returns `EINVAL` beyond it
    /// (`itimerfix`), and the BSDs have similar limits.
    pub(in crate::testing) fn longest_poll_seconds(self) -> u64 {
        if self.has_kqueue() { 100_000_000 } else { u64::MAX }
    }
}

/// An entry in the ready list of a poller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::testing) enum Filter {
    /// epoll's entry for both directions.
    Both,
    /// kqueue's `EVFILT_READ`. With AFD, the change of the receiving direction.
    Read,
    /// kqueue's `EVFILT_WRITE`. With AFD, the change of the sending direction.
    Write,
}
