//! The errors of handing connected streams over, in both directions.

use std::{error::Error, fmt, io};

use crate::{
    engine::connection::ConnectionId,
    sys::{OwnedSocket, sources::write_sources},
};

/// The error returned by [`SockMan::add_connection`](crate::SockMan::add_connection).
///
/// [`kind`](AddConnectionError::kind) returns the reason, and
/// [`into_stream`](AddConnectionError::into_stream) the stream. Dropping the error closes the
/// stream, as does the conversion into an [`io::Error`].
pub struct AddConnectionError {
    inner: Box<Inner>,
}

struct Inner {
    stream: OwnedSocket,
    kind: AddConnectionErrorKind,
}

/// Why a stream could not be added. Returned by [`AddConnectionError::kind`].
#[derive(Debug)]
#[non_exhaustive]
pub enum AddConnectionErrorKind {
    /// The descriptor is not a connected TCP or unix-domain stream socket. It is a file, a pipe, a
    /// listener, a datagram socket, a socket that is not connected yet, or a TCP socket whose peer
    /// has reset the connection.
    NotAConnection {
        /// The error of the operating system, or what the socket is.
        source: io::Error,
    },
    /// [`Options::max_connections`](crate::Options::max_connections) is reached.
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
}

use AddConnectionErrorKind as Kind;

impl AddConnectionError {
    pub(crate) fn new(stream: OwnedSocket, kind: AddConnectionErrorKind) -> AddConnectionError {
        AddConnectionError { inner: Box::new(Inner { stream, kind }) }
    }

    /// Returns why the stream could not be added.
    #[must_use]
    pub fn kind(&self) -> &AddConnectionErrorKind {
        &self.inner.kind
    }

    /// Returns the stream. It may be non-blocking and close-on-exec now.
    #[must_use]
    pub fn into_stream(self) -> OwnedSocket {
        self.inner.stream
    }
}

impl From<AddConnectionError> for io::Error {
    fn from(error: AddConnectionError) -> io::Error {
        let kind = match error.kind() {
            Kind::NotAConnection { source } => source.kind(),
            Kind::TooManyConnections { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Debug for AddConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddConnectionError").field("kind", self.kind()).finish_non_exhaustive()
    }
}

impl fmt::Display for AddConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Kind::NotAConnection { .. } => f.write_str(
                "cannot add the stream: it is not a connected TCP or unix-domain stream socket",
            ),
            Kind::TooManyConnections { limit } => write!(
                f,
                "cannot add the stream: the limit of {limit} connections is reached; close one \
                 first, or raise Options::max_connections"
            ),
        }?;
        write_sources(f, self)
    }
}

impl Error for AddConnectionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.kind() {
            Kind::NotAConnection { source } => Some(source),
            Kind::TooManyConnections { .. } => None,
        }
    }
}

/// The error returned by [`SockMan::into_stream`](crate::SockMan::into_stream). After each of these
/// errors except [`UnknownConnection`](IntoStreamError::UnknownConnection), the connection goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum IntoStreamError {
    /// The connection is closed, never existed, has no outcome yet, or belongs to another
    /// `SockMan`.
    UnknownConnection(ConnectionId),
    /// The connection cannot leave the `SockMan`. A connection that was dialled through I2P ends with
    /// its session, which stays. A socket of an embedder's own
    /// [`SockFactory`](crate::sys::SockFactory) may not be able to leave.
    Unsupported(ConnectionId),
    /// The connection finishes: [`finish_connection`](crate::SockMan::finish_connection) or
    /// [`drain_and_stop`](crate::SockMan::drain_and_stop) was called, and bytes of the peer may be
    /// discarded already.
    Finishing(ConnectionId),
    /// The call was made on the I2P-accept thread, which must not wait for the socket thread.
    OnI2pAcceptThread(ConnectionId),
    /// The operating system did not duplicate the descriptor. The process has probably reached its
    /// limit of descriptors.
    Duplicate {
        /// The connection.
        id: ConnectionId,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl From<IntoStreamError> for io::Error {
    fn from(error: IntoStreamError) -> io::Error {
        let kind = match &error {
            IntoStreamError::UnknownConnection(_) => io::ErrorKind::NotConnected,
            IntoStreamError::Unsupported(_) => io::ErrorKind::Unsupported,
            IntoStreamError::Finishing(_) => io::ErrorKind::InvalidInput,
            IntoStreamError::OnI2pAcceptThread(_) => io::ErrorKind::Deadlock,
            IntoStreamError::Duplicate { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for IntoStreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot hand out connection ")?;
        match self {
            IntoStreamError::UnknownConnection(id) => write!(
                f,
                "{id}: it is closed or still connecting, or does not belong to this SockMan"
            ),
            IntoStreamError::Unsupported(id) => write!(
                f,
                "{id}: a connection that was dialled through I2P, or whose socket cannot be \
                     duplicated, cannot leave the SockMan"
            ),
            IntoStreamError::Finishing(id) => {
                write!(f, "{id}: it finishes, and bytes of the peer may be discarded already")
            }
            IntoStreamError::OnI2pAcceptThread(id) => {
                write!(f, "{id} on the I2P-accept thread; call into_stream on another thread")
            }
            IntoStreamError::Duplicate { id, .. } => write!(
                f,
                "{id}: its descriptor cannot be duplicated; raise the limit of descriptors"
            ),
        }?;
        write_sources(f, self)
    }
}

impl Error for IntoStreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            IntoStreamError::Duplicate { source, .. } => Some(source),
            _ => None,
        }
    }
}
