//! The SOCKS5 proxy that a connection is made through, and what it is told of who we are.
//!
//! Plain values, but for one counter of the process, from which isolated streams take their
//! credentials. Any thread; no lock.

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

/// A SOCKS5 proxy: Tor, or any other. Bitcoin Core's `Proxy`.
///
/// It is given the destination as text, names and addresses alike, and resolves names itself.
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
    /// Others for each connection.
    UniquePerConnection,
}

impl Proxy {
    /// The proxy that listens at `endpoint`: a TCP address, or a unix-domain path. It is offered to
    /// do without authentication, unless one of the other methods is called. An endpoint that cannot
    /// be dialled fails the connect with [`ProxyError::Unreachable`].
    pub fn socks5(endpoint: impl Into<Service>) -> Proxy {
        Proxy { endpoint: endpoint.into(), authentication: Authentication::None }
    }

    /// Offers these credentials (RFC 1929), beside doing without. The last call of this and of
    /// [`tor_stream_isolation`](Proxy::tor_stream_isolation) holds.
    pub fn credentials(mut self, credentials: Credentials) -> Proxy {
        self.authentication = Authentication::Given(credentials);
        self
    }

    /// Gives each connection a user name and password of its own: Tor then uses another circuit for
    /// each (`IsolateSOCKSAuth`, which is on by default), so that an exit cannot tell that two
    /// connections come from one node. They are a prefix, random for each process, and a counter.
    /// Other proxies that check credentials will refuse these.
    #[doc(alias = "m_tor_stream_isolation")]
    pub fn tor_stream_isolation(mut self) -> Proxy {
        self.authentication = Authentication::UniquePerConnection;
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &Service {
        &self.endpoint
    }

    /// The credentials of the next connection.
    pub(crate) fn next_credentials(&self) -> io::Result<Option<Credentials>> {
        match &self.authentication {
            Authentication::None => Ok(None),
            Authentication::Given(credentials) => Ok(Some(credentials.clone())),
            Authentication::UniquePerConnection => isolated().map(Some),
        }
    }
}

/// Parses the address that a SOCKS5 proxy listens at, as [`Proxy::socks5`] takes it.
impl FromStr for Proxy {
    type Err = ParseAddrError;

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

/// A user name and a password (RFC 1929). Never logged: `Debug` shows that they are there, and
/// nothing of them.
#[doc(alias = "ProxyCredentials")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    username: Arc<str>,
    password: Arc<str>,
}

impl Credentials {
    /// Both of 1 to 255 bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidCredentials`], which says which of them is empty or too long.
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

/// A user name or password that SOCKS5 has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCredentials {
    part: &'static str,
    length: usize,
}

impl fmt::Display for InvalidCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} has {} bytes: SOCKS5 has room for 1 to 255", self.part, self.length)
    }
}

impl Error for InvalidCredentials {}

/// Random bytes in front of the counter: what an earlier process used must not be used again, for
/// Tor may outlive it.
const PREFIX_BYTES: usize = 8;

/// Credentials that no other connection has. As in Core, the same text is both.
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
    let text: Arc<str> = format!("{prefix}-{number}").into();
    Ok(Credentials { username: Arc::clone(&text), password: text })
}
