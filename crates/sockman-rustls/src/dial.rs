//! [`Dial`], the client side of a connection that does not exist yet: a plain value.

use std::{fmt, sync::Arc};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use crate::TlsError;

/// What a connect brings along, so that the connection becomes a TLS client. Pass it to
/// [`SockMan::start_connect_with`](sockman::SockMan::start_connect_with), on a `SockMan` whose
/// handler is a [`Tls`](crate::Tls).
///
/// # Examples
///
/// ```
/// # use std::{error::Error, sync::Arc};
/// use rustls::{ClientConfig, pki_types::ServerName};
/// use sockman::{ConnectOptions, ConnectionId, SockMan};
/// use sockman_rustls::Dial;
///
/// fn dial(sockman: &SockMan, config: &Arc<ClientConfig>) -> Result<ConnectionId, Box<dyn Error>> {
///     let dial = Dial::new(Arc::clone(config), ServerName::try_from("example.org")?)?;
///     let options = ConnectOptions::default();
///     Ok(sockman.start_connect_with("192.0.2.1:443", &options, dial).map_err(|failed| failed.error)?)
/// }
/// ```
pub struct Dial {
    pub(crate) tls: ClientConnection,
}

impl Dial {
    /// Prepares a handshake. `name` is the name that the server's certificate has to have.
    ///
    /// # Errors
    ///
    /// [`TlsError::Protocol`] if rustls cannot make a connection with `config`.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Dial, TlsError> {
        let tls = ClientConnection::new(config, name).map_err(TlsError::Protocol)?;
        Ok(Dial { tls })
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").finish_non_exhaustive()
    }
}
