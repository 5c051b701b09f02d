//! What can go wrong with a connection attempt, and whose fault it is.
//!
//! Plain values: no thread, no lock. Each message says what was tried, where, and what to do.

use std::{error::Error, fmt, io, time::Duration};

use super::Destination;
use crate::{KeyFileError, SamError, SamResult, Service};

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

/// What is wrong with a SOCKS5 proxy. In [`ConnectError::ProxyFailed`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// It cannot be connected to.
    Unreachable {
        /// What the operating system said.
        source: io::Error,
    },
    /// It broke off: it closed the connection before its reply was complete.
    BrokeOff {
        /// What was being waited for.
        phase: ConnectPhase,
        /// What the operating system said. `None`: the proxy closed in order.
        source: Option<io::Error>,
    },
    /// It does not speak SOCKS5: an answer begins with another byte than 5. Another kind of server
    /// probably listens there.
    NotSocks5 {
        /// The byte.
        found: u8,
    },
    /// It accepts none of the ways to authenticate that were offered: "none", and user name with
    /// password if credentials are set.
    NoAcceptableMethod,
    /// It demands a way to authenticate that was not offered.
    MethodNotOffered {
        /// Its number (RFC 1928, section 3): 1 is GSSAPI, 2 is user name and password.
        method: u8,
    },
    /// Its answer to the credentials is of another version than RFC 1929's 1.
    AuthenticationVersion {
        /// The byte.
        found: u8,
    },
    /// It refuses the user name or the password.
    CredentialsRejected {
        /// Its status; only 0 would have been a success.
        status: u8,
    },
    /// The reserved byte of its reply is not 0.
    ReservedByte {
        /// The byte.
        found: u8,
    },
    /// The bound address in its reply is of a type that there is none of.
    AddressType {
        /// The byte.
        found: u8,
    },
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Unreachable { source } => {
                write!(f, "it cannot be reached: {source}; is it running, and is that its address?")
            }
            ProxyError::BrokeOff { phase, source } => {
                write!(f, "it broke off")?;
                if let Some(source) = source {
                    write!(f, " ({source})")?;
                }
                write!(f, " before its answer was complete: {phase}")
            }
            ProxyError::NotSocks5 { found } => write!(
                f,
                "it does not speak SOCKS5: its answer begins with byte {found:#04x} instead of \
                 0x05; another kind of server probably listens there"
            ),
            ProxyError::NoAcceptableMethod => f.write_str(
                "it accepts no way to authenticate that was offered; it probably wants a user \
                 name and password",
            ),
            ProxyError::MethodNotOffered { method: 2 } => {
                f.write_str("it demands a user name and password, and none are set")
            }
            ProxyError::MethodNotOffered { method: 1 } => {
                f.write_str("it demands GSSAPI to authenticate, which is not supported")
            }
            ProxyError::MethodNotOffered { method } => {
                write!(f, "it demands a way to authenticate that was not offered: {method:#04x}")
            }
            ProxyError::AuthenticationVersion { found } => write!(
                f,
                "its answer to the credentials is malformed: it begins with byte {found:#04x} \
                 instead of 0x01"
            ),
            ProxyError::CredentialsRejected { status } => {
                write!(f, "it refuses the user name or the password (status {status:#04x})")
            }
            ProxyError::ReservedByte { found } => {
                write!(f, "its reply is malformed: the reserved byte is {found:#04x}")
            }
            ProxyError::AddressType { found } => {
                write!(f, "its reply is malformed: there is no address type {found:#04x}")
            }
        }
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ProxyError::Unreachable { source } => Some(source),
            ProxyError::BrokeOff { source: Some(source), .. } => Some(source),
            _ => None,
        }
    }
}

/// Why a SOCKS5 proxy could not connect to the destination. In [`ConnectError::ProxyReplied`].
///
/// Sources: [RFC 1928], section 6, and [Tor's extensions], which Tor gives only on a `SocksPort`
/// with the flag `ExtendedErrors`.
///
/// [RFC 1928]: https://www.rfc-editor.org/rfc/rfc1928#section-6
/// [Tor's extensions]: https://spec.torproject.org/socks-extensions.html
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Socks5Reply {
    /// 0x01. From Tor without `ExtendedErrors`, also a malformed onion address.
    GeneralFailure,
    /// 0x02. The proxy's rules do not allow it.
    NotAllowed,
    /// 0x03
    NetworkUnreachable,
    /// 0x04. Also: the name does not exist. From Tor without `ExtendedErrors`, also an onion service
    /// that does not exist or is down.
    HostUnreachable,
    /// 0x05
    ConnectionRefused,
    /// 0x06. From Tor: no circuit was ready in time.
    TtlExpired,
    /// 0x07. The proxy does not know CONNECT.
    CommandNotSupported,
    /// 0x08. The proxy does not take names.
    AddressTypeNotSupported,
    /// 0xF0. The onion service's descriptor was not found: it does not exist, or is down.
    OnionServiceNotFound,
    /// 0xF1. The onion service's descriptor is invalid.
    OnionServiceInvalid,
    /// 0xF2. None of the onion service's introduction points answers: it is probably down.
    OnionServiceIntroFailed,
    /// 0xF3. The onion service did not come to the rendezvous.
    OnionServiceRendFailed,
    /// 0xF4. The onion service wants its clients to be authorised.
    OnionServiceMissingClientAuth,
    /// 0xF5. The onion service does not know this client's key.
    OnionServiceWrongClientAuth,
    /// 0xF6. Not a valid onion address.
    OnionServiceBadAddress,
    /// 0xF7. The introduction to the onion service timed out.
    OnionServiceIntroTimedOut,
    /// Any other code.
    Unassigned(u8),
}

impl Socks5Reply {
    /// `None` for 0, which is no failure.
    pub(crate) fn from_code(code: u8) -> Option<Socks5Reply> {
        Some(match code {
            0x00 => return None,
            0x01 => Socks5Reply::GeneralFailure,
            0x02 => Socks5Reply::NotAllowed,
            0x03 => Socks5Reply::NetworkUnreachable,
            0x04 => Socks5Reply::HostUnreachable,
            0x05 => Socks5Reply::ConnectionRefused,
            0x06 => Socks5Reply::TtlExpired,
            0x07 => Socks5Reply::CommandNotSupported,
            0x08 => Socks5Reply::AddressTypeNotSupported,
            0xf0 => Socks5Reply::OnionServiceNotFound,
            0xf1 => Socks5Reply::OnionServiceInvalid,
            0xf2 => Socks5Reply::OnionServiceIntroFailed,
            0xf3 => Socks5Reply::OnionServiceRendFailed,
            0xf4 => Socks5Reply::OnionServiceMissingClientAuth,
            0xf5 => Socks5Reply::OnionServiceWrongClientAuth,
            0xf6 => Socks5Reply::OnionServiceBadAddress,
            0xf7 => Socks5Reply::OnionServiceIntroTimedOut,
            code => Socks5Reply::Unassigned(code),
        })
    }

    /// The byte that the proxy sent.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Socks5Reply::GeneralFailure => 0x01,
            Socks5Reply::NotAllowed => 0x02,
            Socks5Reply::NetworkUnreachable => 0x03,
            Socks5Reply::HostUnreachable => 0x04,
            Socks5Reply::ConnectionRefused => 0x05,
            Socks5Reply::TtlExpired => 0x06,
            Socks5Reply::CommandNotSupported => 0x07,
            Socks5Reply::AddressTypeNotSupported => 0x08,
            Socks5Reply::OnionServiceNotFound => 0xf0,
            Socks5Reply::OnionServiceInvalid => 0xf1,
            Socks5Reply::OnionServiceIntroFailed => 0xf2,
            Socks5Reply::OnionServiceRendFailed => 0xf3,
            Socks5Reply::OnionServiceMissingClientAuth => 0xf4,
            Socks5Reply::OnionServiceWrongClientAuth => 0xf5,
            Socks5Reply::OnionServiceBadAddress => 0xf6,
            Socks5Reply::OnionServiceIntroTimedOut => 0xf7,
            Socks5Reply::Unassigned(code) => code,
        }
    }
}

impl fmt::Display for Socks5Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Socks5Reply::GeneralFailure => "it failed, and does not say why",
            Socks5Reply::NotAllowed => "its rules do not allow it",
            Socks5Reply::NetworkUnreachable => "the network is unreachable",
            Socks5Reply::HostUnreachable => "the host is unreachable, or its name does not exist",
            Socks5Reply::ConnectionRefused => "the connection was refused: nobody listens there",
            Socks5Reply::TtlExpired => "it found no way there in time",
            Socks5Reply::CommandNotSupported => "it does not support making connections",
            Socks5Reply::AddressTypeNotSupported => "it does not support names as addresses",
            Socks5Reply::OnionServiceNotFound => {
                "the onion service was not found: it does not exist, or is down"
            }
            Socks5Reply::OnionServiceInvalid => "the onion service's descriptor is invalid",
            Socks5Reply::OnionServiceIntroFailed => {
                "the onion service cannot be introduced to: it is probably down"
            }
            Socks5Reply::OnionServiceRendFailed => {
                "the onion service did not come to the rendezvous"
            }
            Socks5Reply::OnionServiceMissingClientAuth => {
                "the onion service wants its clients to be authorised, and there is no key for it"
            }
            Socks5Reply::OnionServiceWrongClientAuth => {
                "the onion service does not accept this client's key"
            }
            Socks5Reply::OnionServiceBadAddress => "the onion address is not valid",
            Socks5Reply::OnionServiceIntroTimedOut => {
                "the introduction to the onion service timed out"
            }
            Socks5Reply::Unassigned(_) => "it failed with a reply that no specification knows",
        })?;
        write!(f, " (SOCKS5 reply {:#04x})", self.code())
    }
}

impl Error for Socks5Reply {}
