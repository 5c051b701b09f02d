//! The errors of a SAM bridge, of the router behind it, and of a key file.
//!
//! The errors are plain values, usable on any thread, without a lock. No error contains a key. The
//! bridge knows the keys and could send a key back in any form, so no error contains text of the
//! bridge.

use std::{error::Error, fmt, io, path::PathBuf};

use crate::sys::sources::write_sources;

/// The result that a SAM bridge reports (`RESULT=`). Source: [SAM 3.1].
///
/// [SAM 3.1]: https://geti2p.net/en/docs/api/samv3
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SamResult {
    /// `OK`: success.
    Ok,
    /// `CANT_REACH_PEER`: the peer exists and cannot be reached.
    CantReachPeer,
    /// `DUPLICATED_DEST`: another session of the router has this key.
    DuplicatedDest,
    /// `DUPLICATED_ID`: another session of the router has this name.
    DuplicatedId,
    /// `I2P_ERROR`: any other failure, the end of the session included.
    I2pError,
    /// `INVALID_KEY`: the destination is not valid. Some routers also send it for a destination
    /// that they do not know.
    InvalidKey,
    /// `INVALID_ID`: no session of this name exists, or it has ended.
    InvalidId,
    /// `KEY_NOT_FOUND`: the name is not known.
    KeyNotFound,
    /// `PEER_NOT_FOUND`: the router does not find the peer.
    PeerNotFound,
    /// `TIMEOUT`: the peer did not answer in time.
    Timeout,
    /// `NOVERSION`: the bridge does not speak SAM 3.1.
    NoVersion,
    /// Any other result. Its text is not kept, because it could contain a private key.
    Other,
}

impl SamResult {
    pub(crate) fn from_text(text: &str) -> SamResult {
        match text {
            "OK" => SamResult::Ok,
            "CANT_REACH_PEER" => SamResult::CantReachPeer,
            "DUPLICATED_DEST" => SamResult::DuplicatedDest,
            // The router emissary writes this result without the second D.
            "DUPLICATED_ID" | "DUPLICATE_ID" => SamResult::DuplicatedId,
            "I2P_ERROR" => SamResult::I2pError,
            "INVALID_KEY" => SamResult::InvalidKey,
            "INVALID_ID" => SamResult::InvalidId,
            "KEY_NOT_FOUND" => SamResult::KeyNotFound,
            "PEER_NOT_FOUND" => SamResult::PeerNotFound,
            "TIMEOUT" => SamResult::Timeout,
            "NOVERSION" => SamResult::NoVersion,
            _ => SamResult::Other,
        }
    }
}

impl fmt::Display for SamResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SamResult::Ok => "OK",
            SamResult::CantReachPeer => "CANT_REACH_PEER",
            SamResult::DuplicatedDest => "DUPLICATED_DEST",
            SamResult::DuplicatedId => "DUPLICATED_ID",
            SamResult::I2pError => "I2P_ERROR",
            SamResult::InvalidKey => "INVALID_KEY",
            SamResult::InvalidId => "INVALID_ID",
            SamResult::KeyNotFound => "KEY_NOT_FOUND",
            SamResult::PeerNotFound => "PEER_NOT_FOUND",
            SamResult::Timeout => "TIMEOUT",
            SamResult::NoVersion => "NOVERSION",
            SamResult::Other => "an unknown result",
        })
    }
}

/// What is wrong with a SAM bridge, or with a request to it. Part of
/// [`ConnectErrorKind::SamFailed`](crate::error::ConnectErrorKind::SamFailed).
#[derive(Debug)]
#[non_exhaustive]
pub enum SamError {
    /// The bridge cannot be reached.
    Unreachable {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The bridge closed the connection, or did not reply in time, before its reply was complete.
    BrokeOff {
        /// The request that was sent to the bridge.
        request: &'static str,
        /// The error of the operating system, or `None` if the bridge closed the connection in
        /// order.
        source: Option<io::Error>,
    },
    /// The reply of the bridge has no end within 64 KiB.
    LineTooLong {
        /// The request that was sent to the bridge.
        request: &'static str,
    },
    /// The reply of the bridge is malformed.
    Malformed {
        /// The request that was sent to the bridge.
        request: &'static str,
    },
    /// The reply of the bridge belongs to another request, or lacks a value.
    UnexpectedReply {
        /// The request that was sent to the bridge.
        request: &'static str,
    },
    /// The bridge refused the request. The bridge's message is not kept, because it could contain a
    /// private key. The log of the router may say why.
    Refused {
        /// The request that was sent to the bridge.
        request: &'static str,
        /// The result that the bridge reported.
        result: SamResult,
    },
    /// The bridge returned a damaged key or destination.
    Destination(DestinationError),
}

impl SamError {
    /// Returns whether the session has ended, so that the next try needs another one.
    pub(crate) fn ends_session(&self) -> bool {
        matches!(self, SamError::Refused { result: SamResult::InvalidId | SamResult::I2pError, .. })
    }
}

impl From<DestinationError> for SamError {
    fn from(error: DestinationError) -> SamError {
        SamError::Destination(error)
    }
}

impl SamError {
    fn write_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SamError::Unreachable { .. } => f.write_str(
                "the SAM bridge cannot be reached; check that the router runs with SAM enabled",
            ),
            SamError::BrokeOff { request, source: None } => {
                write!(f, "the SAM bridge closed the connection before it replied to {request}")
            }
            SamError::BrokeOff { request, source: Some(_) } => {
                write!(f, "the SAM bridge gave no complete reply to {request}")
            }
            SamError::LineTooLong { request } => {
                write!(f, "the SAM bridge's reply to {request} is longer than 64 KiB")
            }
            SamError::Malformed { request } => {
                write!(f, "the SAM bridge's reply to {request} is malformed")
            }
            SamError::UnexpectedReply { request } => {
                write!(
                    f,
                    "the SAM bridge's reply to {request} belongs to another request, or lacks a \
                     value"
                )
            }
            SamError::Refused { request, result } => write!(
                f,
                "the SAM bridge refused {request}: {result}; the router's log may say why"
            ),
            SamError::Destination(_) => {
                f.write_str("the SAM bridge returned a damaged key or destination")
            }
        }
    }
}

impl fmt::Display for SamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_message(f)?;
        write_sources(f, self)
    }
}

impl Error for SamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SamError::Unreachable { source } | SamError::BrokeOff { source: Some(source), .. } => {
                Some(source)
            }
            SamError::Destination(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a destination or a private key is damaged. [`SamError::Destination`] and
/// [`KeyFileError::Damaged`] contain this reason. Source: [Common structures], "KeysAndCert".
///
/// [Common structures]: https://geti2p.net/spec/common-structures
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DestinationError {
    /// The text is not in I2P's base64.
    NotBase64,
    /// The data is too short for the fixed part: two keys and the head of a certificate.
    TooShort {
        /// The length of the data in bytes. The fixed part has 387 bytes.
        found: usize,
    },
    /// The data is shorter than its certificate says.
    CertificateTooLong {
        /// The length of the certificate in bytes, as the data states it.
        certificate: usize,
        /// The length of the data in bytes that such a certificate requires.
        expected: usize,
        /// The length of the data in bytes.
        found: usize,
    },
}

impl fmt::Display for DestinationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DestinationError::NotBase64 => f.write_str("the key is not in I2P's base64"),
            DestinationError::TooShort { found } => {
                write!(f, "the key has {found} bytes, but its fixed part alone requires 387")
            }
            DestinationError::CertificateTooLong { certificate, expected, found } => write!(
                f,
                "the key has {found} bytes, and its certificate of {certificate} bytes requires \
                 {expected}"
            ),
        }
    }
}

impl Error for DestinationError {}

/// Why the file with the private key of a persistent session cannot be used. The file is left
/// unchanged. Part of
/// [`ConnectErrorKind::I2pKeyFile`](crate::error::ConnectErrorKind::I2pKeyFile).
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file exists and cannot be read, or it cannot be created.
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The system call that failed: `open`, `read`, `write`, …
        step: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file contains no valid private key.
    Damaged {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the key.
        source: DestinationError,
    },
    /// The file is longer than any private key.
    TooLong {
        /// The path of the file.
        path: PathBuf,
    },
}

impl KeyFileError {
    fn write_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Io { path, step, .. } => {
                write!(f, "cannot use the I2P private key {}: {step} failed", path.display())
            }
            KeyFileError::Damaged { path, .. } => write!(
                f,
                "cannot use the I2P private key {}: the key is damaged, and the file was not \
                 changed; restore it from a copy, or move it away to get a new address",
                path.display()
            ),
            KeyFileError::TooLong { path } => write!(
                f,
                "cannot use the I2P private key {}: the file is too long to be a key, and was not \
                 changed; restore it from a copy, or move it away to get a new address",
                path.display()
            ),
        }
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_message(f)?;
        write_sources(f, self)
    }
}

impl Error for KeyFileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            KeyFileError::Io { source, .. } => Some(source),
            KeyFileError::Damaged { source, .. } => Some(source),
            KeyFileError::TooLong { .. } => None,
        }
    }
}
