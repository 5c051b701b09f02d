//! The options of one connect. The options are plain data, usable on any thread, without a lock.

use std::{
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

#[cfg(feature = "socks5")]
use super::socks5::Proxy;
use crate::{
    address::{Destination, Service},
    sys::{SocketOptions, interrupt::Interrupt},
};

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
    pub(crate) socket: SocketOptions,
    /// The source addresses, one for each family.
    pub(crate) bind_v4: Option<SocketAddrV4>,
    pub(crate) bind_v6: Option<SocketAddrV6>,
    pub(crate) alternatives: Vec<Destination>,
    pub(crate) attempt_delay: Option<Duration>,
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

    /// Sets the options of the socket, for example its keepalive. Default: the system's.
    ///
    /// Through a proxy, the options apply to the socket to the proxy.
    pub fn socket_options(mut self, options: SocketOptions) -> ConnectOptions {
        self.socket = options;
        self
    }

    /// Sets the source address of the connect. With a port of 0, the kernel chooses the port.
    /// Default: the kernel chooses both.
    ///
    /// One call sets the address for IPv4, another call the address for IPv6. A connect to an
    /// address of the family that has no source address fails if the other family has one: no
    /// connect leaves from an address that the caller did not name. Without any call, connects to
    /// both families succeed. The source address does not apply to unix-domain addresses.
    ///
    /// Through a proxy, the source address applies to the connect to the proxy, and the proxy's own
    /// connect leaves from an address that the proxy chooses. The same is true for a SAM bridge. A
    /// proxy on `127.0.0.1` needs no source address.
    ///
    /// [`SocketOptions::interface`] binds to an interface instead of an address.
    ///
    /// The kernel gives each port of one source address to one connection at a time, so about
    /// 28,000 connections (Linux, `ip_local_port_range`) can have the same source address, even to
    /// different destinations. With `IP_BIND_ADDRESS_NO_PORT`, set through
    /// [`SocketOptions::custom`], Linux drops this limit.
    ///
    /// # Errors
    ///
    /// The connect fails with
    /// [`ConnectErrorKind::SourceAddress`](crate::error::ConnectErrorKind::SourceAddress) if the
    /// address is not an address of this machine, if the port is in use, or if the address has
    /// another family than the destination.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use sockman::ConnectOptions;
    ///
    /// let from: Ipv4Addr = "192.0.2.7".parse()?;
    /// let options = ConnectOptions::default().bind((from, 0));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn bind(mut self, from: impl Into<SocketAddr>) -> ConnectOptions {
        match from.into() {
            SocketAddr::V4(from) => self.bind_v4 = Some(from),
            SocketAddr::V6(from) => self.bind_v6 = Some(from),
        }
        self
    }

    /// Sets further addresses of the destination: the connect succeeds if one of the addresses can
    /// be reached. Default: none.
    ///
    /// The attempts begin one after the other (RFC 8305, "Happy Eyeballs"): first the address that
    /// was passed to the connect, then the alternatives in their order. Each begins when the one
    /// before has failed, or after [`attempt_delay`](ConnectOptions::attempt_delay). The first that
    /// succeeds wins, and the others are dropped. The caller orders the addresses, best with IPv6
    /// and IPv4 in turns. An address that occurs twice is tried once. The other options, such as the
    /// proxy, apply to each attempt.
    ///
    /// All attempts together are one connect: one id, one place of the
    /// [`Options::max_connections`](crate::Options::max_connections), one
    /// [`timeout`](ConnectOptions::timeout), one outcome. Each attempt under way has a descriptor.
    /// [`NewConnection::them`](crate::NewConnection::them), and the destination that
    /// [`event_connect_completed`](crate::EventHandler::event_connect_completed) reports, is the
    /// address that was reached, or after a failure the first one.
    ///
    /// # Errors
    ///
    /// If all attempts fail, the connect fails with
    /// [`ConnectErrorKind::AllFailed`](crate::error::ConnectErrorKind::AllFailed), which has the
    /// errors of all attempts.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::net::ToSocketAddrs;
    /// use sockman::ConnectOptions;
    ///
    /// let mut addresses = "node.example.org:8333".to_socket_addrs()?;
    /// let first = addresses.next().ok_or("the name has no address")?;
    /// let options = ConnectOptions::default().alternatives(addresses);
    /// let connection = sockman.connect(first, &options)?;
    /// println!("connected to {}", connection.them());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("happy eyeballs", "RFC 8305"))]
    pub fn alternatives<A: Into<Destination>>(
        mut self,
        addresses: impl IntoIterator<Item = A>,
    ) -> ConnectOptions {
        self.alternatives = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long a connect to several addresses waits for one attempt before it begins the next
    /// one. Default: 250 ms. A shorter delay than 10 ms counts as 10 ms. Both values are those of
    /// RFC 8305, section 8 ("Connection Attempt Delay"). Without
    /// [`alternatives`](ConnectOptions::alternatives), the delay has no effect.
    pub fn attempt_delay(mut self, delay: Duration) -> ConnectOptions {
        self.attempt_delay = Some(delay);
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
