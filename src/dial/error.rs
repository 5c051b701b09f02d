//! What can go wrong with a connection attempt, and whose fault it is.
//!
//! Plain values: no thread, no lock. Each message says what was tried, where, and what to do.

use std::{error::Error, fmt, io, time::Duration};

use super::{
    i2p::{KeyFileError, SamError, SamResult},
    socks5::{ProxyError, Socks5Reply},
};
use crate::address::{Destination, Service};

/// Why a connection attempt failed. Its id, if one was taken, is never named.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// Onion addresses and names need a proxy, I2P addresses a SAM bridge; CJDNS and the rest are
    /// dialled directly. Names are never resolved here.
    NeedsProxy {
        /// Where to.
        to: Destination,
    },
    /// [`Options::max_connections`](crate::Options::max_connections) is reached.
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// [`SockMan::connect`](crate::SockMan::connect) was called from a callback: the socket thread
    /// would stand still until the peer answers.
    /// [`SockMan::start_connect`](crate::SockMan::start_connect) may be called there.
    OnSocketThread,
    /// The attempt was not over within [`ConnectOptions::timeout`](crate::ConnectOptions::timeout).
    TimedOut {
        /// Where to.
        to: Destination,
        /// Through which proxy or SAM bridge, if through one.
        proxy: Option<Service>,
        /// What was being waited for.
        phase: ConnectPhase,
        /// After how long.
        after: Duration,
    },
    /// The interrupt was set: the `SockMan`'s, the shared one, or the attempt's own. (An attempt
    /// begun with `start_connect` is ended by its own only; the others keep it from beginning.)
    Interrupted,
    /// The destination refused: nobody listens there.
    Refused {
        /// Where to.
        to: Destination,
        /// What the operating system said.
        source: io::Error,
    },
    /// No way to the destination (no route, host or network unreachable).
    Unreachable {
        /// Where to.
        to: Destination,
        /// What the operating system said.
        source: io::Error,
    },
    /// The address cannot be dialled: the unnamed unix address; or, through a proxy, any
    /// unix-domain address, for it is another machine's there.
    InvalidDestination {
        /// Where to.
        to: Destination,
    },
    /// The host name cannot be asked of a proxy: it is empty, longer than the 255 bytes that SOCKS5
    /// has room for, or has a NUL byte in it, at which many a proxy would cut it off.
    InvalidName {
        /// Where to.
        to: Destination,
    },
    /// The proxy is at fault, and the destination was not heard of.
    ProxyFailed {
        /// Where to.
        to: Destination,
        /// The proxy.
        proxy: Service,
        /// What is wrong with it.
        error: ProxyError,
    },
    /// The proxy works, and could not connect to the destination.
    ProxyReplied {
        /// Where to.
        to: Destination,
        /// The proxy.
        proxy: Service,
        /// Why not.
        reply: Socks5Reply,
    },
    /// An I2P address with another port than 0: SAM 3.1 has no ports, so nobody could be told apart by
    /// one.
    I2pPort {
        /// Where to.
        to: Destination,
    },
    /// The SAM bridge, or the I2P router behind it, is at fault, and the peer was not heard of.
    SamFailed {
        /// Where to.
        to: Destination,
        /// The bridge.
        sam: Service,
        /// What is wrong with it.
        error: Box<SamError>,
    },
    /// The I2P router works, and could not connect to the peer.
    I2pPeer {
        /// Where to.
        to: Destination,
        /// The bridge.
        sam: Service,
        /// Why not.
        result: SamResult,
        /// What the router says besides, cut and escaped.
        message: Option<String>,
    },
    /// The file with the private key of the I2P session cannot be used.
    I2pKeyFile {
        /// Where to.
        to: Destination,
        /// Why not.
        error: KeyFileError,
    },
    /// Any other failure of the system call named `step`.
    Os {
        /// Where to.
        to: Destination,
        /// The call that failed: `socket`, `connect`, …
        step: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether the proxy is at fault: it cannot be reached, does not speak SOCKS5 as it should, does
    /// not let us in, or did not get so far as to be asked for the destination in time. Then other
    /// destinations will fail, too. Core's `proxy_connection_failed`.
    #[must_use]
    pub fn is_proxy_fault(&self) -> bool {
        match self {
            ConnectError::ProxyFailed { .. } | ConnectError::SamFailed { .. } => true,
            ConnectError::TimedOut { phase, .. } => matches!(
                phase,
                ConnectPhase::ReachProxy
                    | ConnectPhase::NegotiateWithProxy
                    | ConnectPhase::I2pSession
            ),
            _ => false,
        }
    }

    /// The system call named `step` failed, on the way to `to` itself.
    pub(crate) fn new(to: &Destination, step: &'static str, source: io::Error) -> ConnectError {
        let to = to.clone();
        match source.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused { to, source },
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                ConnectError::Unreachable { to, source }
            }
            _ => ConnectError::Os { to, step, source },
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::NeedsProxy { to } => write!(
                f,
                "cannot connect to {to}: names, onion and I2P addresses are reached through a \
                 proxy, and none is set"
            ),
            ConnectError::TooManyConnections { limit } => {
                write!(f, "cannot connect: the limit of {limit} connections is reached")
            }
            ConnectError::OnSocketThread => f.write_str(
                "connect was called from a callback: it would block the socket thread; call \
                 start_connect there, or connect from a thread of your own",
            ),
            ConnectError::TimedOut { to, proxy, phase, after } => {
                write!(f, "cannot connect to {to}")?;
                if let Some(proxy) = proxy {
                    write!(f, " through the proxy {proxy}")?;
                }
                write!(f, ": {phase} within {after:?}")
            }
            ConnectError::Interrupted => f.write_str("the connection attempt was interrupted"),
            ConnectError::Refused { to, source } => {
                write!(f, "cannot connect to {to}: {source}; nobody listens there")
            }
            ConnectError::Unreachable { to, source } => {
                write!(f, "cannot connect to {to}: {source}")
            }
            ConnectError::InvalidDestination { to } => {
                write!(f, "cannot connect to {to}: not an address that can be dialled that way")
            }
            ConnectError::InvalidName { to } => write!(
                f,
                "cannot connect to {to}: a host name has 1 to 255 bytes, and none of them is NUL"
            ),
            ConnectError::ProxyFailed { to, proxy, error } => {
                write!(f, "cannot connect to {to} through the proxy {proxy}: {error}")
            }
            ConnectError::ProxyReplied { to, proxy, reply } => {
                write!(f, "the proxy {proxy} cannot connect to {to}: {reply}")
            }
            ConnectError::I2pPort { to } => {
                write!(f, "cannot connect to {to}: I2P addresses have port 0")
            }
            ConnectError::SamFailed { to, sam, error } => {
                write!(f, "cannot connect to {to} through the SAM bridge {sam}: {error}")
            }
            ConnectError::I2pPeer { to, sam, result, message } => {
                write!(f, "the I2P router at {sam} cannot connect to {to}: {result}")?;
                message.as_ref().map_or(Ok(()), |message| write!(f, ": {message}"))
            }
            ConnectError::I2pKeyFile { to, error } => write!(f, "cannot connect to {to}: {error}"),
            ConnectError::Os { to, step, source } => {
                write!(f, "cannot connect to {to}: {step} failed: {source}")
            }
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ConnectError::Refused { source, .. }
            | ConnectError::Unreachable { source, .. }
            | ConnectError::Os { source, .. } => Some(source),
            ConnectError::ProxyFailed { error, .. } => Some(error),
            ConnectError::ProxyReplied { reply, .. } => Some(reply),
            ConnectError::SamFailed { error, .. } => Some(&**error),
            ConnectError::I2pKeyFile { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What an attempt is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectPhase {
    /// The destination is to accept the connection. Without a proxy.
    Connect,
    /// The proxy is to accept the connection.
    ReachProxy,
    /// The proxy is to say that it speaks SOCKS5, and to take the credentials.
    NegotiateWithProxy,
    /// The proxy has been asked for the destination, and is to connect to it.
    ProxyConnect,
    /// The I2P router is to make a session, which takes it half a minute.
    I2pSession,
    /// The I2P router is to connect to the peer.
    I2pConnect,
}

/// What did not happen.
impl fmt::Display for ConnectPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectPhase::Connect => "no answer",
            ConnectPhase::ReachProxy => "the proxy did not accept the connection",
            ConnectPhase::NegotiateWithProxy => "the proxy did not finish the SOCKS5 negotiation",
            ConnectPhase::ProxyConnect => "the proxy did not reach it",
            ConnectPhase::I2pSession => "the I2P router made no session",
            ConnectPhase::I2pConnect => "the I2P router did not reach it",
        })
    }
}
