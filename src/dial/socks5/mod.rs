//! The SOCKS5 proxy that a connect goes through, and the credentials that the proxy receives.
//!
//! The values are plain data, except for a random prefix and a counter, one of each per process.
//! Isolated streams take their credentials from the prefix and the counter. Any thread may use this
//! module, and it takes no lock.

mod dial;
mod error;
mod machine;

use std::{
    error::Error,
    fmt, io,
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use data_encoding::HEXLOWER;

pub(crate) use self::dial::ProxyDial;
pub use self::error::{ProxyError, Socks5Reply};
use crate::address::{MAX_NAME_BYTES, ParseAddrError, Service};

/// A SOCKS5 proxy (RFC 1928), which may be Tor or any other proxy. Bitcoin Core's `Proxy`.
///
/// The proxy receives the destination as text, host names and addresses alike, and resolves host
/// names itself. Pass the proxy to [`ConnectOptions::proxy`](crate::ConnectOptions::proxy).
///
/// # Examples
///
/// ```
/// use sockman::{ConnectOptions, proxy::Proxy};
///
/// let tor: Proxy = "127.0.0.1:9050".parse()?;
/// let options = ConnectOptions::default().proxy(tor.tor_stream_isolation());
/// # Ok::<(), sockman::address::ParseAddrError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Proxy {
    endpoint: Service,
    authentication: Authentication,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Authentication {
    None,
    Given(Credentials),
    /// Each connection gets different credentials.
    UniquePerConnection,
}

impl Proxy {
    /// Creates a proxy that listens on `endpoint`: a TCP address, or a unix-domain path. The
    /// library offers the proxy to work without authentication. With
    /// [`credentials`](Proxy::credentials) or
    /// [`tor_stream_isolation`](Proxy::tor_stream_isolation), it offers a user name and a password
    /// too. If the endpoint cannot be dialled, the connect fails with [`ProxyError::Unreachable`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman::{Service, proxy::Proxy};
    ///
    /// let tor = Proxy::socks5(Service::unix("/run/tor/socks")?);
    /// assert_eq!(tor.endpoint().to_string(), "unix:/run/tor/socks");
    /// # Ok::<(), sockman::error::InvalidAddrError>(())
    /// ```
    pub fn socks5(endpoint: impl Into<Service>) -> Proxy {
        Proxy { endpoint: endpoint.into(), authentication: Authentication::None }
    }

    /// Sets a user name and a password (RFC 1929). Default: none. The proxy may still choose to
    /// work without authentication. The last call of this method or of
    /// [`tor_stream_isolation`](Proxy::tor_stream_isolation) takes effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman::proxy::{Credentials, Proxy};
    ///
    /// let credentials = Credentials::new("node", "secret")?;
    /// let proxy = "127.0.0.1:1080".parse::<Proxy>()?.credentials(credentials);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn credentials(mut self, credentials: Credentials) -> Proxy {
        self.authentication = Authentication::Given(credentials);
        self
    }

    /// Gives each connection a user name and a password of its own. Default: off. With this
    /// setting, Tor uses a separate circuit for each connection (`IsolateSOCKSAuth`, which is on by
    /// default), so that an exit cannot see that two connections come from one node.
    ///
    /// The user name is `<torS0X>0`, which [Tor's extensions] define for isolation. Earlier versions
    /// of Tor isolate by it, too. The password consists of a prefix, which is random for each
    /// process, and a counter. A proxy other than Tor that checks credentials rejects them.
    ///
    /// [Tor's extensions]: https://spec.torproject.org/socks-extensions.html
    #[doc(alias = "m_tor_stream_isolation")]
    pub fn tor_stream_isolation(mut self) -> Proxy {
        self.authentication = Authentication::UniquePerConnection;
        self
    }

    /// Returns the address that the proxy listens on.
    #[must_use]
    pub fn endpoint(&self) -> &Service {
        &self.endpoint
    }

    /// Returns the credentials for the next connection.
    pub(crate) fn next_credentials(&self) -> io::Result<Option<Credentials>> {
        match &self.authentication {
            Authentication::None => Ok(None),
            Authentication::Given(credentials) => Ok(Some(credentials.clone())),
            Authentication::UniquePerConnection => isolated().map(Some),
        }
    }
}

impl FromStr for Proxy {
    type Err = ParseAddrError;

    /// Parses the address that a SOCKS5 proxy listens on, in the forms listed at [`Service`].
    ///
    /// # Errors
    ///
    /// [`ParseAddrError`], which shows the text and says which part is wrong and why.
    fn from_str(endpoint: &str) -> Result<Proxy, ParseAddrError> {
        Ok(Proxy::socks5(endpoint.parse::<Service>()?))
    }
}

impl TryFrom<&str> for Proxy {
    type Error = ParseAddrError;

    fn try_from(endpoint: &str) -> Result<Proxy, ParseAddrError> {
        endpoint.parse()
    }
}

/// A user name and a password (RFC 1929), for [`Proxy::credentials`]. Credentials are never logged,
/// and `Debug` prints no part of their text.
#[doc(alias = "ProxyCredentials")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    username: Arc<str>,
    password: Arc<str>,
}

impl Credentials {
    /// Creates credentials. The user name and the password have 1 to 255 bytes each.
    ///
    /// # Errors
    ///
    /// [`InvalidCredentials`], which says whether the user name or the password is empty or too
    /// long.
    pub fn new(
        username: impl Into<Arc<str>>,
        password: impl Into<Arc<str>>,
    ) -> Result<Credentials, InvalidCredentials> {
        let (username, password) = (username.into(), password.into());
        for (part, text) in [("user name", &username), ("password", &password)] {
            if !(1..=MAX_NAME_BYTES).contains(&text.len()) {
                return Err(InvalidCredentials { part, length: text.len() });
            }
        }
        Ok(Credentials { username, password })
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The error returned by [`Credentials::new`] for a user name or a password that does not fit into
/// SOCKS5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCredentials {
    part: &'static str,
    length: usize,
}

impl fmt::Display for InvalidCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} has {} bytes; SOCKS5 takes 1 to 255 bytes", self.part, self.length)
    }
}

impl Error for InvalidCredentials {}

/// The number of random bytes in front of the counter. The process must not use the credentials of
/// an earlier process again, because Tor may outlive that process.
const PREFIX_BYTES: usize = 8;

/// The user name that tells Tor that the password is an isolation parameter: the mark `<torS0X>`,
/// and the format `0`. Tor refuses the mark with another format or with text behind the format.
/// Source: Tor's proposal 351, in Tor since 0.4.9.1.
const ISOLATION_USERNAME: &str = "<torS0X>0";

/// Returns credentials that no other connection has. The password differs. (Core has unique text in
/// both, which Tor calls legacy isolation.)
fn isolated() -> io::Result<Credentials> {
    static PREFIX: OnceLock<String> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let prefix = match PREFIX.get() {
        Some(prefix) => prefix,
        None => {
            let mut random = [0; PREFIX_BYTES];
            getrandom::fill(&mut random).map_err(io::Error::from)?;
            PREFIX.get_or_init(|| HEXLOWER.encode(&random))
        }
    };
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let password = format!("{prefix}-{number}").into();
    Ok(Credentials { username: ISOLATION_USERNAME.into(), password })
}
