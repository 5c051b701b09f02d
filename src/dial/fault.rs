//! Which party is at fault when a connect fails: the meaning of each `errno` of `socket(2)` and
//! `connect(2)`.
//!
//! Pure functions and a plain value, usable on any thread, without a lock.

use std::io::{self, ErrorKind};

use crate::{
    address::Service,
    sys::{errors, passing::passes},
};

/// Which party is at fault for a failed connect, and thus what a program should try next. Returned
/// by [`ConnectError::fault`](crate::error::ConnectError::fault).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectFault {
    /// The destination, or the way to it. Connects to other destinations can succeed now, and a
    /// later connect to this one may succeed. This host may lack what only such destinations need,
    /// for example an IPv6 address.
    Destination,
    /// This host or this process, for now: it has no free descriptor, no memory, no network, or no
    /// place for another connection. Connects to other destinations fail for the same reason. An
    /// error of the operating system that the library does not know counts as this fault.
    Host,
    /// The proxy, or the SAM bridge with the I2P router behind it. Connects to other destinations
    /// fail through it, too.
    Proxy,
    /// The call. The same call fails each time, because the destination lacks something (a proxy, a
    /// zone) or the calling thread may not connect. Connects to other destinations can succeed. A
    /// connect that the program interrupted also has this fault.
    Caller,
}

/// Returns whether the operating system does not support the family of an address.
pub(crate) fn is_of_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            errors::EAFNOSUPPORT
                | errors::EPFNOSUPPORT
                | errors::EPROTONOSUPPORT
                | errors::ESOCKTNOSUPPORT
        )
    )
}

/// Returns the fault for an error of `connect(2)`, of the pending error of a connecting socket, or
/// of another system call that a connect makes.
pub(crate) fn of_system_call(step: &str, error: &io::Error) -> ConnectFault {
    let is_destination = match step {
        "connect" => concerns_destination(error),
        // The manual page of socket(2) has EINVAL for a family that is not available.
        "socket" => is_of_family(error) || error.raw_os_error() == Some(errors::EINVAL),
        _ => false,
    };
    if is_destination { ConnectFault::Destination } else { ConnectFault::Host }
}

/// Returns the fault for an option of a socket, or a source address, that could not be set. What
/// passes, and an interface or address that may come back, is the host's fault.
pub(crate) fn of_socket_option(error: &io::Error) -> ConnectFault {
    let may_change = matches!(
        error.raw_os_error(),
        Some(errors::EADDRINUSE | errors::EADDRNOTAVAIL | errors::ENODEV | errors::ENXIO)
    );
    if may_change || passes(error) { ConnectFault::Host } else { ConnectFault::Caller }
}

/// Returns whether an error of `connect(2)` concerns the address that was dialled. Lists of errors:
/// the manual pages connect(2), ip(7), ipv6(7), tcp(7), unix(7), path_resolution(7); the errors
/// that Linux makes from ICMP messages; POSIX.
fn concerns_destination(error: &io::Error) -> bool {
    let Some(errno) = error.raw_os_error() else {
        return matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::TimedOut
                | ErrorKind::AddrNotAvailable
                | ErrorKind::PermissionDenied
                | ErrorKind::InvalidInput
                | ErrorKind::NotFound
                | ErrorKind::NotADirectory
                | ErrorKind::Unsupported
        );
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if errno == errors::ENONET {
        return true;
    }
    is_of_family(error)
        || matches!(
            errno,
            // The destination's answers, and those of routers on the way.
            errors::ECONNREFUSED
                | errors::ECONNRESET
                | errors::ECONNABORTED
                | errors::EPIPE
                | errors::ETIMEDOUT
                | errors::EHOSTUNREACH
                | errors::EHOSTDOWN
                | errors::ENETUNREACH
                | errors::ENOPROTOOPT
                | errors::EPROTO
                | errors::EMSGSIZE
                | errors::EOPNOTSUPP
                // A firewall of this host, a broadcast address, the permissions of a path.
                | errors::EACCES
                | errors::EPERM
                // No local address or port leads to the destination.
                | errors::EADDRNOTAVAIL
                // The address itself: its zone, its interface, its length.
                | errors::EINVAL
                | errors::ENXIO
                | errors::ENODEV
                | errors::EDESTADDRREQ
                // A unix-domain path.
                | errors::ENOENT
                | errors::ENOTDIR
                | errors::ELOOP
                | errors::ENAMETOOLONG
                | errors::EPROTOTYPE
        )
}

/// Returns whether `error` says that the link-local address `to` has no zone.
pub(crate) fn lacks_zone(to: &Service, error: &io::Error) -> bool {
    to.lacks_zone() && matches!(error.raw_os_error(), Some(errors::EINVAL | errors::EADDRNOTAVAIL))
}

/// What a link-local address without a zone lacks, for messages.
pub(crate) const ZONE_HINT: &str = "a link-local address must have a zone, the index of the \
     interface to use, as in [fe80::1%2]:8333";

/// Returns the error of a `connect(2)` to a proxy or bridge, in words if the address lacks a zone.
#[cfg(any(feature = "socks5", feature = "i2p"))]
pub(crate) fn of_endpoint(endpoint: &Service, error: io::Error) -> io::Error {
    if lacks_zone(endpoint, &error) {
        return io::Error::new(error.kind(), format!("{ZONE_HINT}: {error}"));
    }
    error
}
