//! The errors of a SOCKS5 proxy, and the reasons that the proxy gives when it could not connect.
//!
//! The errors are plain values, usable on any thread, without a lock.

use std::{error::Error, fmt, io};

use crate::{dial::ConnectPhase, sys::sources::write_sources};

/// What is wrong with a SOCKS5 proxy. Part of
/// [`ConnectErrorKind::ProxyFailed`](crate::error::ConnectErrorKind::ProxyFailed). Sources: RFC
/// 1928 and RFC 1929.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// The proxy cannot be reached.
    Unreachable {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The proxy closed the connection before its reply was complete.
    BrokeOff {
        /// What the connect was waiting for.
        phase: ConnectPhase,
        /// The error of the operating system, or `None` if the proxy closed the connection in
        /// order.
        source: Option<io::Error>,
    },
    /// The proxy does not speak SOCKS5: its reply begins with a byte other than 5. Probably another
    /// kind of server listens on the proxy's address.
    NotSocks5 {
        /// The byte that the proxy sent instead.
        found: u8,
    },
    /// The proxy accepts none of the offered authentication methods. The library offers "no
    /// authentication", and user name with password if credentials are set.
    NoAcceptableMethod,
    /// The proxy requires an authentication method that was not offered.
    MethodNotOffered {
        /// The method's number (RFC 1928, section 3): 1 is GSSAPI, 2 is user name and password.
        method: u8,
    },
    /// The proxy's reply to the credentials has a version other than 1, the version of RFC 1929.
    AuthenticationVersion {
        /// The byte that the proxy sent instead.
        found: u8,
    },
    /// The proxy rejects the user name or the password.
    CredentialsRejected {
        /// The status that the proxy sent. Only 0 means success.
        status: u8,
    },
    /// The reserved byte of the proxy's reply is not 0.
    ReservedByte {
        /// The byte that the proxy sent instead.
        found: u8,
    },
    /// The bound address in the proxy's reply has a type that does not exist.
    AddressType {
        /// The byte that the proxy sent instead.
        found: u8,
    },
}

impl ProxyError {
    fn write_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Unreachable { .. } => f.write_str(
                "the proxy cannot be reached; check that it runs and listens on this address",
            ),
            ProxyError::BrokeOff { phase, source: None } => {
                write!(f, "the proxy closed the connection before its reply was complete: {phase}")
            }
            ProxyError::BrokeOff { phase, source: Some(_) } => {
                write!(f, "the connection failed before the proxy's reply was complete: {phase}")
            }
            ProxyError::NotSocks5 { found } => write!(
                f,
                "the proxy does not speak SOCKS5: its reply begins with byte {found:#04x} instead \
                 of 0x05; check that a SOCKS5 proxy listens on this address"
            ),
            ProxyError::NoAcceptableMethod => f.write_str(
                "the proxy accepts none of the offered authentication methods; if it requires a \
                 user name and a password, set Proxy::credentials",
            ),
            ProxyError::MethodNotOffered { method: 2 } => {
                f.write_str("the proxy requires a user name and a password; set Proxy::credentials")
            }
            ProxyError::MethodNotOffered { method: 1 } => f.write_str(
                "the proxy requires GSSAPI authentication, which sockman does not support",
            ),
            ProxyError::MethodNotOffered { method } => write!(
                f,
                "the proxy requires an authentication method that was not offered: {method:#04x}"
            ),
            ProxyError::AuthenticationVersion { found } => write!(
                f,
                "the proxy's reply to the credentials is malformed: it begins with byte \
                 {found:#04x} instead of 0x01"
            ),
            ProxyError::CredentialsRejected { status } => {
                write!(f, "the proxy rejects the user name or the password: status {status:#04x}")
            }
            ProxyError::ReservedByte { found } => {
                write!(f, "the proxy's reply is malformed: the reserved byte is {found:#04x}")
            }
            ProxyError::AddressType { found } => {
                write!(f, "the proxy's reply is malformed: address type {found:#04x} is unknown")
            }
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_message(f)?;
        write_sources(f, self)
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

/// The reason why a SOCKS5 proxy could not connect to the destination. Part of
/// [`ConnectErrorKind::ProxyReplied`](crate::error::ConnectErrorKind::ProxyReplied).
///
/// Sources: [RFC 1928], section 6, and [Tor's extensions]. Tor sends its extensions only on a
/// `SocksPort` with the flag `ExtendedErrors`.
///
/// [RFC 1928]: https://www.rfc-editor.org/rfc/rfc1928#section-6
/// [Tor's extensions]: https://spec.torproject.org/socks-extensions.html
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Socks5Reply {
    /// 0x01. The proxy gives no reason. Tor without `ExtendedErrors` also sends this reply for a
    /// malformed onion address.
    GeneralFailure,
    /// 0x02. The proxy's rules do not allow the connection.
    NotAllowed,
    /// 0x03. The network is unreachable.
    NetworkUnreachable,
    /// 0x04. The host is unreachable, or its name does not exist. Tor without `ExtendedErrors` also
    /// sends this reply for an onion service that does not exist or is down.
    HostUnreachable,
    /// 0x05. The destination refused the connection.
    ConnectionRefused,
    /// 0x06. The time to live expired. Tor sends this reply if no circuit was ready in time.
    TtlExpired,
    /// 0x07. The proxy does not support CONNECT.
    CommandNotSupported,
    /// 0x08. The proxy does not support names as addresses.
    AddressTypeNotSupported,
    /// 0xF0. The onion service's descriptor was not found: the service does not exist, or is down.
    OnionServiceNotFound,
    /// 0xF1. The onion service's descriptor is invalid.
    OnionServiceInvalid,
    /// 0xF2. None of the onion service's introduction points answers: the service is probably down.
    OnionServiceIntroFailed,
    /// 0xF3. The onion service did not come to the rendezvous.
    OnionServiceRendFailed,
    /// 0xF4. The onion service requires client authorisation.
    OnionServiceMissingClientAuth,
    /// 0xF5. The onion service does not know this client's key.
    OnionServiceWrongClientAuth,
    /// 0xF6. The onion address is not valid.
    OnionServiceBadAddress,
    /// 0xF7. The introduction to the onion service timed out.
    OnionServiceIntroTimedOut,
    /// Any other code.
    Unassigned(u8),
}

impl Socks5Reply {
    /// Returns the reply for a code, or `None` for 0, which means success.
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

    /// Returns the nearest kind of [`io::Error`].
    pub(crate) fn io_kind(self) -> io::ErrorKind {
        match self {
            Socks5Reply::NotAllowed => io::ErrorKind::PermissionDenied,
            Socks5Reply::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            Socks5Reply::HostUnreachable => io::ErrorKind::HostUnreachable,
            Socks5Reply::ConnectionRefused => io::ErrorKind::ConnectionRefused,
            Socks5Reply::TtlExpired => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        }
    }

    /// Returns the byte that the proxy sent.
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
            Socks5Reply::GeneralFailure => "the proxy gives no reason",
            Socks5Reply::NotAllowed => "the proxy's rules do not allow the connection",
            Socks5Reply::NetworkUnreachable => "the network is unreachable",
            Socks5Reply::HostUnreachable => "the host is unreachable, or its name does not exist",
            Socks5Reply::ConnectionRefused => "the destination refused the connection",
            Socks5Reply::TtlExpired => "the proxy found no route in time",
            Socks5Reply::CommandNotSupported => "the proxy does not support CONNECT",
            Socks5Reply::AddressTypeNotSupported => "the proxy does not support names as addresses",
            Socks5Reply::OnionServiceNotFound => {
                "the onion service was not found: it does not exist, or is down"
            }
            Socks5Reply::OnionServiceInvalid => "the onion service's descriptor is invalid",
            Socks5Reply::OnionServiceIntroFailed => {
                "none of the onion service's introduction points answers: it is probably down"
            }
            Socks5Reply::OnionServiceRendFailed => {
                "the onion service did not come to the rendezvous"
            }
            Socks5Reply::OnionServiceMissingClientAuth => {
                "the onion service requires client authorisation, and the proxy has no key for it"
            }
            Socks5Reply::OnionServiceWrongClientAuth => {
                "the onion service does not accept this client's key"
            }
            Socks5Reply::OnionServiceBadAddress => "the onion address is not valid",
            Socks5Reply::OnionServiceIntroTimedOut => {
                "the introduction to the onion service timed out"
            }
            Socks5Reply::Unassigned(_) => "the proxy's reply is not defined by any specification",
        })?;
        write!(f, " (SOCKS5 reply {:#04x})", self.code())
    }
}

impl Error for Socks5Reply {}
