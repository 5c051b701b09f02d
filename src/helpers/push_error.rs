//! The error of a push, and what a queue remembers of a failed send: plain values.

use std::{error::Error, fmt, io};

#[cfg(doc)]
use super::{SendBudget, SendQueue};
use crate::error::SendError;

/// The error returned by the methods that push or enqueue, of [`SendQueue`],
/// [`Link`](crate::stateful::Link) and [`Remote`](crate::stateful::Remote).
///
/// No byte of the data was queued. With `Full` and `Send`, no byte was sent either. With
/// `OverBudget`, a push may have sent a part.
#[derive(Debug)]
#[non_exhaustive]
pub enum PushError {
    /// The push would have made the queue longer than its limit. The peer reads too slowly.
    Full {
        /// The limit of the queue in bytes.
        limit: usize,
    },
    /// The queue needs more memory than the [`SendBudget`] has left, which it shares with other
    /// queues. Close the connection: its peer reads too slowly.
    OverBudget {
        /// The limit of the budget in bytes.
        limit: usize,
        /// How many bytes of the data were sent. If not 0, the rest cannot follow any more, and the
        /// queue refuses all further pushes.
        sent: usize,
    },
    /// The connection is closed or broken.
    Send(SendError),
}

impl From<PushError> for io::Error {
    fn from(error: PushError) -> io::Error {
        match error {
            PushError::Full { .. } | PushError::OverBudget { .. } => io::Error::other(error),
            PushError::Send(error) => error.into(),
        }
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Full { limit } => {
                write!(
                    f,
                    "cannot queue the data: the send queue would exceed its limit of {limit} \
                     bytes; close the connection, or push again after the peer has read"
                )
            }
            PushError::OverBudget { limit, sent } => {
                write!(
                    f,
                    "cannot queue the data, of which {sent} bytes were sent: the send queues would \
                     exceed their common budget of {limit} bytes; close the connection"
                )
            }
            PushError::Send(source) => source.fmt(f),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PushError::Full { .. } | PushError::OverBudget { .. } => None,
            PushError::Send(source) => source.source(),
        }
    }
}

/// The error of a send that found the socket broken. An [`io::Error`] cannot be cloned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failure {
    Os(i32),
    Other(io::ErrorKind),
}

impl Failure {
    pub(super) fn of(error: &SendError) -> Option<Failure> {
        match error {
            SendError::Socket { source, .. } => Some(match source.raw_os_error() {
                Some(code) => Failure::Os(code),
                None => Failure::Other(source.kind()),
            }),
            // Each push asks anew whether the connection is closed.
            _ => None,
        }
    }

    pub(super) fn error(self) -> io::Error {
        match self {
            Failure::Os(code) => io::Error::from_raw_os_error(code),
            Failure::Other(kind) => kind.into(),
        }
    }
}
