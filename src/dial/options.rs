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
    /// `None` stands for the default, which depends on the way to the destination.
    pub(crate) timeout: Option<Duration>,
    pub(crate) is_important: bool,
    pub(crate) cancel: Option<Interrupt>,
}

impl ConnectOptions {
    /// Sets the SOCKS5 proxy to connect through. Default: none, the address is dialled directly.
    ///
    /// The proxy receives every destination as text and resolves names itself: the library looks
    /// nothing up. [`NewConnection::me`](crate::NewConnection::me) is then this side's end of the
    /// socket to the proxy. The time that the proxy's own connect takes counts against
    /// [`timeout`](ConnectOptions::timeout).
    #[doc(alias = "ConnectThroughProxy")]
    #[cfg(feature = "socks5")]
    pub fn proxy(mut self, proxy: Proxy) -> ConnectOptions {
        self.proxy = Some(proxy);
        self
    }

    /// Sets how long the whole connect may take. One deadline covers the connect to the proxy, the
    /// negotiation with it, and its own connect. Default: 5 seconds directly, 60 seconds through a
    /// proxy (Tor needs 5 to 20 seconds for a circuit to an onion service), and 120 seconds through
    /// I2P. At the limit the connect fails with
    /// [`ConnectErrorKind::TimedOut`](crate::error::ConnectErrorKind::TimedOut), which says what
    /// the connect was waiting for. With a timeout of zero, only a connect that completes
    /// immediately succeeds.
    #[doc(alias = "nConnectTimeout")]
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Sets whether a failure is worth the operator's attention, as with a peer that was configured
    /// by hand. Such a failure is logged at `info` instead of `debug`. Default: no. Core's
    /// `manual_connection`.
    #[doc(alias = "manual_connection")]
    pub fn is_important(mut self, is_important: bool) -> ConnectOptions {
        self.is_important = is_important;
        self
    }

    /// Sets an interrupt that ends this connect alone. It is signalled from another thread.
    /// Default: none. The `SockMan`'s own interrupts also end a blocking `connect`. They do not end
    /// an attempt that `start_connect` began.
    pub fn cancel(mut self, interrupt: Interrupt) -> ConnectOptions {
        self.cancel = Some(interrupt);
        self
    }

    /// Returns the address that the proxy listens at, if the connect goes through one.
    pub(crate) fn proxy_endpoint(&self) -> Option<&Service> {
        #[cfg(feature = "socks5")]
        if let Some(proxy) = &self.proxy {
            return Some(proxy.endpoint());
        }
        None
    }
}
