//! The system calls that the doubles replace, and the errors that their man pages list. The values
//! are plain data, usable on any thread, without a lock.

/// A system call that can be made to fail. See [`Network::fail_next`](super::Network::fail_next).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `socket(2)`: [`SockFactory::create_sock`](crate::sys::SockFactory::create_sock).
    Socket,
    /// `bind(2)`.
    Bind,
    /// `listen(2)`.
    Listen,
    /// `accept4(2)`.
    Accept,
    /// `connect(2)`.
    Connect,
    /// `recv(2)`.
    Recv,
    /// `send(2)` and `sendmsg(2)`.
    Send,
    /// `shutdown(2)`.
    Shutdown,
    /// `getsockopt(2)`, for `SO_ERROR`.
    TakeError,
    /// `setsockopt(2)`, for `SO_REUSEPORT`.
    SetReusePort,
    /// `setsockopt(2)`, for an option of [`SocketOptions`](crate::options::SocketOptions).
    SetOption,
    /// `getsockname(2)`.
    LocalAddress,
    /// `getpeername(2)`.
    PeerAddress,
    /// `epoll_create1(2)`: [`SockFactory::create_poller`](crate::sys::SockFactory::create_poller).
    CreatePoller,
    /// `epoll_ctl(2)`, `EPOLL_CTL_ADD`.
    Register,
    /// `epoll_ctl(2)`, `EPOLL_CTL_DEL`.
    Deregister,
    /// `epoll_wait(2)`.
    Poll,
}

impl Call {
    /// All system calls of this enum.
    pub const ALL: &[Call] = &[
        Call::Socket,
        Call::Bind,
        Call::Listen,
        Call::Accept,
        Call::Connect,
        Call::Recv,
        Call::Send,
        Call::Shutdown,
        Call::TakeError,
        Call::SetReusePort,
        Call::SetOption,
        Call::LocalAddress,
        Call::PeerAddress,
        Call::CreatePoller,
        Call::Register,
        Call::Deregister,
        Call::Poll,
    ];

    /// Returns the errors that the call's man page lists (Linux man-pages 6), as `errno` numbers.
    /// The errors include the network's own errors from `tcp(7)` and `ip(7)`. The errors do not
    /// include `EFAULT` and `ENOTSOCK`, which only memory unsafety and a wrong descriptor cause.
    #[must_use]
    pub fn errors(self) -> &'static [i32] {
        use crate::sys::errors::*;
        match self {
            Call::Socket => {
                &[EACCES, EAFNOSUPPORT, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT]
            }
            Call::Bind => &[
                EACCES,
                EADDRINUSE,
                EBADF,
                EINVAL,
                EADDRNOTAVAIL,
                ELOOP,
                ENAMETOOLONG,
                ENOENT,
                ENOMEM,
                ENOTDIR,
                EROFS,
            ],
            Call::Listen => &[EADDRINUSE, EBADF, EOPNOTSUPP],
            Call::Accept => &[
                EAGAIN,
                EBADF,
                ECONNABORTED,
                EINTR,
                EINVAL,
                EMFILE,
                ENFILE,
                ENOBUFS,
                ENOMEM,
                EOPNOTSUPP,
                EPERM,
                EPROTO,
                ENETDOWN,
                ENOPROTOOPT,
                EHOSTDOWN,
                #[cfg(any(target_os = "linux", target_os = "android"))]
                ENONET,
                EHOSTUNREACH,
                ENETUNREACH,
                ETIMEDOUT,
                #[cfg(any(target_os = "linux", target_os = "android"))]
                ENOSR,
                ESOCKTNOSUPPORT,
                EPROTONOSUPPORT,
            ],
            Call::Connect => &[
                EACCES,
                EPERM,
                EADDRINUSE,
                EADDRNOTAVAIL,
                EAFNOSUPPORT,
                EAGAIN,
                EALREADY,
                EBADF,
                ECONNREFUSED,
                EINTR,
                EISCONN,
                ENETUNREACH,
                EPROTOTYPE,
                ETIMEDOUT,
                EHOSTUNREACH,
                ENOBUFS,
                ENOENT,
            ],
            Call::Recv => &[
                EAGAIN,
                EBADF,
                ECONNREFUSED,
                EINTR,
                EINVAL,
                ENOMEM,
                ENOTCONN,
                ECONNRESET,
                ETIMEDOUT,
                EHOSTUNREACH,
                ENETDOWN,
                EPIPE,
            ],
            Call::Send => &[
                EACCES,
                EAGAIN,
                EALREADY,
                EBADF,
                ECONNRESET,
                EDESTADDRREQ,
                EINTR,
                EINVAL,
                EISCONN,
                EMSGSIZE,
                ENOBUFS,
                ENOMEM,
                ENOTCONN,
                EOPNOTSUPP,
                EPIPE,
                ETIMEDOUT,
                EHOSTUNREACH,
                ENETDOWN,
            ],
            Call::Shutdown => &[EBADF, EINVAL, ENOTCONN],
            Call::TakeError => &[EBADF, EINVAL, ENOPROTOOPT],
            Call::SetReusePort => &[EBADF, EINVAL, ENOPROTOOPT, EPERM],
            Call::SetOption => &[EBADF, EINVAL, ENODEV, ENOMEM, ENOPROTOOPT, EPERM],
            Call::LocalAddress => &[EBADF, EINVAL, ENOBUFS],
            Call::PeerAddress => &[EBADF, EINVAL, ENOBUFS, ENOTCONN],
            Call::CreatePoller => &[EMFILE, ENFILE, ENOMEM],
            Call::Register => &[EBADF, EEXIST, EINVAL, ELOOP, ENOMEM, ENOSPC, EPERM],
            Call::Deregister => &[EBADF, EINVAL, ENOENT],
            Call::Poll => &[EBADF, EINTR, EINVAL],
        }
    }
}
