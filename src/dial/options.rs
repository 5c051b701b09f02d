//! The options of one connect. The options are plain data, usable on any thread, without a lock.

use std::time::Duration;

#[cfg(feature = "socks5")]
use super::socks5::Proxy;
use crate::{address::Service, sys::interrupt::Interrupt};

/// Options for [`SockMan::connect`](crate::SockMan::connect) and
/// [`SockMan::start_connect`](crate::SockMan::start_connect).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use sockman::ConnectOptions;
///
/// // A peer that the operator configured by hand:
/// let options = ConnectOptions::default().timeout(Duration::from_secs(20)).is_important(true);
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
    /// Sets the SOCKS5 proxy to connect through. By default there is no proxy, and the address is
    /// dialled directly. Feature `socks5`.
    ///
    /// The proxy receives every destination as text and resolves host names itself. The library
    /// resolves no names. With a proxy, [`NewConnection::me`](crate::NewConnection::me) is this
    /// side's address of the socket to the proxy. The time that the proxy's own connect takes
    /// counts against [`timeout`](ConnectOptions::timeout). With a proxy, I2P addresses go to the
    /// proxy too, and not to the SAM bridge of the options.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::{ConnectOptions, proxy::Proxy};
    ///
    /// let tor: Proxy = "127.0.0.1:9050".parse()?;
    /// let options = ConnectOptions::default().proxy(tor.tor_stream_isolation());
    /// let connection = sockman.connect("node.example.org:8333", &options)?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "ConnectThroughProxy")]
    #[cfg(feature = "socks5")]
    pub fn proxy(mut self, proxy: Proxy) -> ConnectOptions {
        self.proxy = Some(proxy);
        self
    }

    /// Sets how long the whole connect may take. One deadline covers the connect to the proxy, the
    /// negotiation with the proxy, and the proxy's own connect. Default: 5 seconds directly, as in
    /// Core; 60 seconds through a proxy, because Tor needs 5 to 20 seconds for a circuit to an
    /// onion service; and 120 seconds through I2P.
    ///
    /// At the limit the connect fails with
    /// [`ConnectErrorKind::TimedOut`](crate::error::ConnectErrorKind::TimedOut), which says what
    /// the connect was waiting for. With a timeout of zero, only a connect that completes
    /// immediately succeeds.
    #[doc(alias = "nConnectTimeout")]
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Sets whether a failure is worth the operator's attention, as with a peer that was configured
    /// by hand. Such a failure is logged at `info` instead of `debug`. Default: no. An embedder
    /// that logs the error itself does not need this option. Core's name: `manual_connection`.
    #[doc(alias = "manual_connection")]
    pub fn is_important(mut self, is_important: bool) -> ConnectOptions {
        self.is_important = is_important;
        self
    }

    /// Sets an interrupt that ends this connect alone. Another thread sets the interrupt. Default:
    /// none. When the interrupt is set, the connect fails with
    /// [`ConnectErrorKind::Interrupted`](crate::error::ConnectErrorKind::Interrupted).
    ///
    /// The interrupts of the `SockMan` also end a blocking `connect`. The interrupts of the
    /// `SockMan` do not end an attempt that `start_connect` began.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::{ConnectOptions, Interrupt};
    ///
    /// let cancel = Interrupt::new();
    /// let options = ConnectOptions::default().cancel(cancel.clone());
    /// let id = sockman.start_connect("192.0.2.1:8333", &options)?;
    /// // Later, on any thread. `event_connect_completed` then reports the end of the attempt.
    /// cancel.interrupt();
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(mut self, interrupt: Interrupt) -> ConnectOptions {
        self.cancel = Some(interrupt);
        self
    }

    /// Returns the address that the proxy listens on, or `None` if no proxy is set.
    pub(crate) fn proxy_endpoint(&self) -> Option<&Service> {
        #[cfg(feature = "socks5")]
        if let Some(proxy) = &self.proxy {
            return Some(proxy.endpoint());
        }
        None
    }
}
