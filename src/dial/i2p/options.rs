//! The options of I2P. The options are plain data, usable on any thread, without a lock.

use std::path::PathBuf;

use super::dialogue::Tunnels;
use crate::{address::Service, dial::InvalidOption};

/// The default name of the I2P-accept thread, as in Core.
const DEFAULT_THREAD_NAME: &str = "i2paccept";

/// The tunnels of a persistent session in each direction, as in Core. Many connections share these
/// tunnels.
const PERSISTENT_QUANTITY: u8 = 3;
/// The tunnels of a transient session in each direction, as in Core. A transient session serves a
/// single connection.
const TRANSIENT_QUANTITY: u8 = 1;
/// The limit of I2CP's option `inbound.quantity`.
const MOST_TUNNELS: u8 = 16;
/// The limit of I2CP's option `inbound.length`.
const LONGEST_TUNNEL: u8 = 7;

/// Options for I2P through a router's SAM bridge (SAM 3.1). Given to
/// [`Options::i2p`](crate::Options::i2p).
///
/// # Examples
///
/// ```
/// use sockman::{Options, Service, i2p::I2pOptions};
///
/// let i2p = I2pOptions::new("127.0.0.1:7656".parse::<Service>()?)
///     .key_file("/var/lib/node/i2p_private_key")
///     .accept_incoming(true);
/// let options = Options::default().i2p(i2p);
/// # Ok::<(), sockman::address::ParseAddrError>(())
/// ```
#[doc(alias("Session", "sam_proxy"))]
#[derive(Debug, Clone)]
#[must_use]
pub struct I2pOptions {
    pub(crate) sam: Service,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) accepts: bool,
    pub(crate) thread_name: String,
    quantity: Option<(u8, u8)>,
    length: Option<(u8, u8)>,
}

impl I2pOptions {
    /// Creates the options for the bridge that listens on `sam`: a TCP address (7656 is the usual
    /// port), or a unix-domain path. Without further options, each outbound connection has a
    /// transient session and thus an address of its own. Such a `SockMan` accepts no connections
    /// from I2P. [`SockMan::new`](crate::SockMan::new) refuses an address of another kind.
    pub fn new(sam: impl Into<Service>) -> I2pOptions {
        I2pOptions {
            sam: sam.into(),
            key_file: None,
            accepts: false,
            thread_name: DEFAULT_THREAD_NAME.to_owned(),
            quantity: None,
            length: None,
        }
    }

    /// Sets the file with the private key of a persistent session. With a key file, one persistent
    /// session serves every connection, in both directions, under one address. Default: none.
    ///
    /// A file that does not exist is created together with the session, with mode 0600. On Windows,
    /// the file has the access rights of its folder. A file that
    /// cannot be read, or is damaged, is an error and is left unchanged.
    #[doc(alias = "private_key_file")]
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> I2pOptions {
        self.key_file = Some(path.into());
        self
    }

    /// Sets whether a second thread, the I2P-accept thread, accepts connections to the persistent
    /// session. Default: no. [`SockMan::new`](crate::SockMan::new) refuses this option without a
    /// [`key_file`](I2pOptions::key_file).
    pub fn accept_incoming(mut self, accepts: bool) -> I2pOptions {
        self.accepts = accepts;
        self
    }

    /// Sets the name of the accepting thread. Default: `i2paccept`. Linux shows the first 15 bytes.
    /// [`SockMan::new`](crate::SockMan::new) refuses a name with a NUL byte.
    #[doc(alias = "accept_thread_name")]
    pub fn thread_name(mut self, name: impl Into<String>) -> I2pOptions {
        self.thread_name = name.into();
        self
    }

    /// Sets how many tunnels a session has in each direction (I2CP's `inbound.quantity` and
    /// `outbound.quantity`). Default, as in Core: 3 for a persistent session, 1 for a transient
    /// one. Range: 1 to 16, checked by [`SockMan::new`](crate::SockMan::new).
    pub fn tunnel_quantity(mut self, inbound: u8, outbound: u8) -> I2pOptions {
        self.quantity = Some((inbound, outbound));
        self
    }

    /// Sets how many routers a tunnel leads through, in each direction (I2CP's `inbound.length` and
    /// `outbound.length`). Default: the router's own, usually 3. A length of 0 gives no anonymity
    /// and is for tests. Range: 0 to 7, checked by [`SockMan::new`](crate::SockMan::new).
    pub fn tunnel_length(mut self, inbound: u8, outbound: u8) -> I2pOptions {
        self.length = Some((inbound, outbound));
        self
    }

    pub(crate) fn tunnels(&self, is_persistent: bool) -> Tunnels {
        let default = if is_persistent { PERSISTENT_QUANTITY } else { TRANSIENT_QUANTITY };
        let (inbound, outbound) = self.quantity.unwrap_or((default, default));
        Tunnels {
            inbound_quantity: Some(inbound),
            outbound_quantity: Some(outbound),
            inbound_length: self.length.map(|(inbound, _)| inbound),
            outbound_length: self.length.map(|(_, outbound)| outbound),
        }
    }

    /// Checks the ranges of the options.
    ///
    /// # Errors
    ///
    /// Returns the first option that is out of its range.
    pub(crate) fn validate(&self) -> Result<(), InvalidOption> {
        let invalid = |option, requirement| Err(InvalidOption::new(option, requirement));
        if self.accepts && self.key_file.is_none() {
            return invalid(
                "I2pOptions::accept_incoming",
                "requires key_file: without a persistent key there is no address to connect to",
            );
        }
        if self.thread_name.contains('\0') {
            return invalid("I2pOptions::thread_name", "must not contain a NUL byte");
        }
        if self.sam.to_sock_addr().is_err() {
            return invalid("I2pOptions::new", "requires a TCP address or a unix-domain path");
        }
        let is_quantity = |tunnels| (1..=MOST_TUNNELS).contains(&tunnels);
        if self.quantity.is_some_and(|(i, o)| !is_quantity(i) || !is_quantity(o)) {
            return invalid("I2pOptions::tunnel_quantity", "must be from 1 to 16");
        }
        if self.length.is_some_and(|(i, o)| i.max(o) > LONGEST_TUNNEL) {
            return invalid("I2pOptions::tunnel_length", "must be from 0 to 7");
        }
        Ok(())
    }
}

/// The status that [`event_i2p_status`](crate::EventHandler::event_i2p_status) reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum I2pStatus {
    /// The router has begun to accept connections to this side's address.
    StartListening,
    /// The router does not accept connections. The library tries again until its threads end.
    StopListening,
}
