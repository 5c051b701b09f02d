//! What can be wrong with a SAM bridge, with the router behind it, and with a key file.
//!
//! Plain values. Keys are in none of them.

use std::{error::Error, fmt, io, path::PathBuf};

use crate::sys::sources::write_sources;

/// What a SAM bridge says of success or failure (`RESULT=`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SamResult {
    /// `OK`
    Ok,
    /// `CANT_REACH_PEER`
    CantReachPeer,
    /// `DUPLICATED_DEST`: another session of the router has this key.
    DuplicatedDest,
    /// `DUPLICATED_ID`
    DuplicatedId,
    /// `I2P_ERROR`: anything else, the end of the session included.
    I2pError,
    /// `INVALID_KEY`: the destination is not one; from some routers, also one that is not known.
    InvalidKey,
    /// `INVALID_ID`: there is no session of this name (any more).
    InvalidId,
    /// `KEY_NOT_FOUND`: the name is not known.
    KeyNotFound,
    /// `PEER_NOT_FOUND`
    PeerNotFound,
    /// `TIMEOUT`
    Timeout,
    /// `NOVERSION`: the bridge does not speak SAM 3.1.
    NoVersion,
    /// Any other, cut and escaped.
    Other(String),
}

impl SamResult {
    pub(crate) fn from_text(text: &str) -> SamResult {
        match text {
            "OK" => SamResult::Ok,
            "CANT_REACH_PEER" => SamResult::CantReachPeer,
            "DUPLICATED_DEST" => SamResult::DuplicatedDest,
            // emissary writes it without the second D.
            "DUPLICATED_ID" | "DUPLICATE_ID" => SamResult::DuplicatedId,
            "I2P_ERROR" => SamResult::I2pError,
            "INVALID_KEY" => SamResult::InvalidKey,
            "INVALID_ID" => SamResult::InvalidId,
            "KEY_NOT_FOUND" => SamResult::KeyNotFound,
            "PEER_NOT_FOUND" => SamResult::PeerNotFound,
            "TIMEOUT" => SamResult::Timeout,
            "NOVERSION" => SamResult::NoVersion,
            other => SamResult::Other(super::reply::shown(other.as_bytes())),
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
            SamResult::Other(text) => text,
        })
    }
}

/// What is wrong with a SAM bridge, or with what is asked of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum SamError {
    /// It cannot be connected to.
    Unreachable {
        /// What the operating system said.
        source: io::Error,
    },
    /// It closed the connection before its reply was complete.
    BrokeOff {
        /// What it had been asked.
        request: &'static str,
        /// What the operating system said. `None`: it closed in order.
        source: Option<io::Error>,
    },
    /// Its reply has no end within 64 KiB.
    LineTooLong {
        /// What it had been asked.
        request: &'static str,
    },
    /// Its reply is not one.
    Malformed {
        /// The reply, cut and escaped, without what could be a key.
        line: String,
    },
    /// Its reply is one to another request, or lacks what it should say.
    UnexpectedReply {
        /// What it had been asked.
        request: &'static str,
    },
    /// It says no.
    Refused {
        /// What it had been asked.
        request: &'static str,
        /// What it says.
        result: SamResult,
        /// What it says besides, cut and escaped.
        message: Option<String>,
    },
    /// A key or a destination that it gave is damaged.
    Destination(DestinationError),
}

impl SamError {
    /// Whether the session is gone, so that the next try needs another.
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
            SamError::Malformed { line } => {
                write!(f, "the SAM bridge's reply is malformed: {line}")
            }
            SamError::UnexpectedReply { request } => {
                write!(f, "the SAM bridge's reply does not belong to {request}")
            }
            SamError::Refused { request, result, message } => {
                write!(f, "the SAM bridge refused {request}: {result}")?;
                message.as_ref().map_or(Ok(()), |message| write!(f, ": {message}"))
            }
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

/// Why a destination, or a private key, is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DestinationError {
    /// Not in I2P's base64.
    NotBase64,
    /// Too short for its fixed part: two keys and the head of a certificate.
    TooShort {
        /// How many bytes it has; 387 are the least.
        found: usize,
    },
    /// Shorter than its certificate says.
    CertificateTooLong {
        /// How long the certificate is by its own word.
        certificate: usize,
        /// How many bytes there should be, then.
        expected: usize,
        /// How many there are.
        found: usize,
    },
}

impl fmt::Display for DestinationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DestinationError::NotBase64 => f.write_str("the key is not in I2P's base64"),
            DestinationError::TooShort { found } => write!(
                f,
                "the key is too short to have the length of its certificate: {found} < 387 bytes"
            ),
            DestinationError::CertificateTooLong { certificate, expected, found } => write!(
                f,
                "the length of its certificate ({certificate}) says that the key has {expected} \
                 bytes, and it has {found}"
            ),
        }
    }
}

impl Error for DestinationError {}

/// Why a file with a private key cannot be used. The file is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It exists, and cannot be read; or it cannot be made.
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is in it is no private key.
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: DestinationError,
    },
    /// It is longer than any private key.
    TooLong {
        /// Which.
        path: PathBuf,
    },
}

impl KeyFileError {
    fn write_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Io { path, step, .. } => {
                write!(f, "I2P private key {}: {step} failed", path.display())
            }
            KeyFileError::Damaged { path, .. } => write!(
                f,
                "I2P private key {} is damaged; the file was not changed: restore it from a copy, \
                 or move it away to get a new address",
                path.display()
            ),
            KeyFileError::TooLong { path } => {
                write!(f, "I2P private key {} is too long to be a key", path.display())
            }
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
