//! The options of one connect. Plain data.

use std::time::Duration;

#[cfg(feature = "socks5")]
use super::socks5::Proxy;
use crate::{address::Service, sys::interrupt::Interrupt};

/// Options for [`SockMan::connect`](crate::SockMan::connect) and
/// [`SockMan::start_connect`](crate::SockMan::start_connect).
///
/// ```
/// use std::time::Duration;
/// let options = sockman::ConnectOptions::default().timeout(Duration::from_secs(20));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConnectOptions {
    #[cfg(feature = "socks5")]
    pub(crate) proxy: Option<Proxy>,
    /// `None`: the default, which depends on whether there is a proxy.
    pub(crate) timeout: Option<Duration>,
    pub(crate) is_important: bool,
    pub(crate) cancel: Option<Interrupt>,
}

impl ConnectOptions {
    /// The SOCKS5 proxy to go through. Default: none, the address is dialled directly.
    ///
    /// With a proxy, every destination is given to it as text, and it resolves the names: nothing is
    /// looked up here. [`NewConnection::me`](crate::NewConnection::me) is then this side's end of the socket to the proxy.
    /// The proxy's own time for its connect counts against [`timeout`](ConnectOptions::timeout).
    #[doc(alias = "ConnectThroughProxy")]
    #[cfg(feature = "socks5")]
    pub fn proxy(mut self, proxy: Proxy) -> ConnectOptions {
        self.proxy = Some(proxy);
        self
    }

    /// How long the whole attempt may take: one deadline over the connect to the proxy, the
    /// negotiation with it and its own connect. Default: 5 seconds, and 60 through a proxy (a
    /// circuit to an onion service takes Tor 5 to 20). At the limit it fails with
    /// [`ConnectErrorKind::TimedOut`](crate::error::ConnectErrorKind::TimedOut), which says what was being waited for. With a timeout of zero, only a
    /// connect that completes immediately succeeds.
    #[doc(alias = "nConnectTimeout")]
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Whether a failure is worth the operator's attention, as with a peer that was configured by
    /// hand: logged at `info` instead of `debug`. Default: no. Core's `manual_connection`.
    #[doc(alias = "manual_connection")]
    pub fn is_important(mut self, is_important: bool) -> ConnectOptions {
        self.is_important = is_important;
        self
    }

    /// An interrupt that ends this attempt alone, signalled from another thread. Default: none.
    /// The `SockMan`'s own interrupts end a blocking `connect` too; an attempt begun with
    /// `start_connect` outlives them.
    pub fn cancel(mut self, interrupt: Interrupt) -> ConnectOptions {
        self.cancel = Some(interrupt);
        self
    }

    /// Where the proxy listens, if the connect goes through one.
    pub(crate) fn proxy_endpoint(&self) -> Option<&Service> {
        #[cfg(feature = "socks5")]
        if let Some(proxy) = &self.proxy {
            return Some(proxy.endpoint());
        }
        None
    }
}
