//! The errors: plain values.

use std::{error::Error, fmt, io};

/// Why a connection has failed, or never became secure. The handler gets it in
/// [`handshake_failed`](crate::TlsHandler::handshake_failed) or
/// [`failed`](crate::TlsHandler::failed).
///
/// # Examples
///
/// ```
/// use sockman_rustls::TlsError;
///
/// /// Returns whether an operator should read about this error.
/// fn is_worth_a_line(error: &TlsError) -> bool {
///     match error {
///         // The bytes that came before may be a part of a message.
///         TlsError::Truncated => true,
///         TlsError::Protocol(rustls::Error::AlertReceived(_)) => true,
///         _ => false,
///     }
/// }
/// # assert!(is_worth_a_line(&TlsError::Truncated));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer broke the protocol, sent an alert, or has no acceptable certificate, version,
    /// cipher suite or application protocol. The peer gets the alert that rustls chooses.
    Protocol(rustls::Error),
    /// The peer ended its stream without a `close_notify`. Bytes at the end may be missing, because
    /// anybody on the way can end a stream of TCP.
    Truncated,
    /// The handshake was not complete in time:
    /// [`TlsSettings::handshake_timeout`](crate::TlsSettings::handshake_timeout).
    HandshakeTimeout,
    /// The socket failed, for example with a reset.
    Socket(io::Error),
    /// The program, or the library in a drain, ended the connection before the handshake was
    /// complete.
    Closed,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Protocol(error) => write!(f, "TLS failed: {error}"),
            TlsError::Truncated => f.write_str(
                "the peer ended its stream without a close_notify, so its last bytes may be missing",
            ),
            TlsError::HandshakeTimeout => f.write_str("the TLS handshake was not complete in time"),
            TlsError::Socket(error) => write!(f, "the socket failed: {error}"),
            TlsError::Closed => {
                f.write_str("the connection was closed before its TLS handshake was complete")
            }
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TlsError::Protocol(error) => Some(error),
            TlsError::Socket(error) => Some(error),
            _ => None,
        }
    }
}

/// The error returned by [`TlsLink::write`](crate::TlsLink::write).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The connection has failed, or it finishes and its `close_notify` is queued. No byte can
    /// follow.
    Ended,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Ended => {
                f.write_str("cannot write: this side of the connection has ended its stream")
            }
        }
    }
}

impl Error for WriteError {}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, error)
    }
}

/// The error returned by [`Tls::server`](crate::Tls::server).
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration accepts early data (0-RTT), which this crate does not deliver: anybody can
    /// send such data again. Set `max_early_data_size` to 0, its default.
    EarlyData,
    /// rustls cannot make connections with the configuration.
    Rustls(rustls::Error),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::EarlyData => f.write_str(
                "the server's configuration accepts early data, which is not supported; set \
                 max_early_data_size to 0",
            ),
            ConfigError::Rustls(error) => {
                write!(f, "rustls refuses the server's configuration: {error}")
            }
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ConfigError::EarlyData => None,
            ConfigError::Rustls(error) => Some(error),
        }
    }
}
