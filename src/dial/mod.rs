//! A connect from beginning to end, under one deadline: directly, through a SOCKS5 proxy, or
//! through I2P's SAM bridge.
//!
//! [`Dial::step`] takes a socket and the time, proceeds as far as it can, and returns what to wait
//! for. Two drivers call this function: `blocking` on the caller's thread, and the engine's
//! attempts on the socket thread. Only I2P's sessions take locks in a step. This layer does not
//! name the engine.

mod blocking;
mod direct;
mod error;
mod fault;
#[cfg(feature = "i2p")]
pub(crate) mod i2p;
mod invalid_option;
#[cfg(any(feature = "socks5", feature = "i2p"))]
mod machine;
mod options;
mod race;
#[cfg(feature = "socks5")]
pub(crate) mod socks5;
mod step;

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(feature = "i2p")]
pub(crate) use self::i2p::I2p;
#[cfg(feature = "i2p")]
use self::i2p::{HeldSession, I2pDial};
#[cfg(feature = "socks5")]
use self::socks5::ProxyDial;
pub(crate) use self::{
    blocking::connect as connect_blocking,
    direct::DirectConnect,
    fault::{ZONE_HINT, is_of_family, lacks_zone},
    step::{Awaits, Step},
};
pub use self::{
    error::{ConnectError, ConnectErrorKind, ConnectPhase},
    fault::ConnectFault,
    invalid_option::InvalidOption,
    options::ConnectOptions,
};
use self::{race::Race, step::WaitsOn};
use crate::{
    address::{Destination, NetAddr, Service},
    sys::{OptionError, Poller, Readiness, Sock, SockFactory, SocketOptions, errors},
};

/// Without the feature `i2p`, no value of this type exists.
#[cfg(not(feature = "i2p"))]
#[derive(Debug)]
pub(crate) enum I2p {}

/// The default timeout of a direct connect is Bitcoin Core's `DEFAULT_CONNECT_TIMEOUT`, five
/// seconds.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tor needs 5 to 20 seconds for a circuit to an onion service, and more when its network is busy.
#[cfg(feature = "socks5")]
const DEFAULT_PROXY_TIMEOUT: Duration = Duration::from_secs(60);
/// A router needs up to half a minute for a session, and up to half a minute more for a connect in
/// that session.
#[cfg(feature = "i2p")]
const DEFAULT_I2P_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Dial {
    to: Destination,
    route: Route,
    began: Instant,
    socket: SocketOptions,
    source: Source,
    /// Which socket was registered with the poller last.
    watched: Option<WaitsOn>,
    /// The events that bring the next step.
    awaits: Awaits,
    /// `None` if the deadline is beyond the range of the clock.
    deadline: Option<Instant>,
}

/// The way to the destination.
#[derive(Debug)]
struct Route {
    /// The address that the socket itself connects to: the destination, the proxy, or the SAM
    /// bridge.
    endpoint: Service,
    way: Way,
    default_timeout: Duration,
}

#[derive(Debug)]
enum Way {
    Direct(DirectConnect),
    /// Several addresses. The other fields of the dial are those of the race.
    Race(Box<Race>),
    #[cfg(feature = "socks5")]
    Proxy(Box<ProxyDial>),
    #[cfg(feature = "i2p")]
    I2p(Box<I2pDial>),
}

impl Route {
    fn new(
        to: &Destination,
        options: &ConnectOptions,
        i2p: Option<&Arc<I2p>>,
        now: Instant,
    ) -> Result<Route, ConnectError> {
        #[cfg(feature = "socks5")]
        if let Some(proxy) = &options.proxy {
            return Ok(Route {
                endpoint: proxy.endpoint().clone(),
                way: Way::Proxy(Box::new(ProxyDial::new(to, proxy, now)?)),
                default_timeout: DEFAULT_PROXY_TIMEOUT,
            });
        }
        #[cfg(feature = "i2p")]
        if let Some(i2p) = i2p {
            if let Some(dial) = I2pDial::new(i2p, to)? {
                return Ok(Route {
                    endpoint: i2p.sam().clone(),
                    way: Way::I2p(Box::new(dial)),
                    default_timeout: DEFAULT_I2P_TIMEOUT,
                });
            }
        }
        let _ = (options, i2p);
        Ok(Route {
            endpoint: dialled_directly(to)?.clone(),
            way: Way::Direct(DirectConnect::new(now)),
            default_timeout: DEFAULT_TIMEOUT,
        })
    }
}

impl Dial {
    /// Prepares a connect. The call does not begin the connect. The timeout counts from `now`.
    ///
    /// # Errors
    ///
    /// Fails if the destination cannot be reached with these options.
    pub(crate) fn new(
        to: &Destination,
        options: &ConnectOptions,
        i2p: Option<&Arc<I2p>>,
        now: Instant,
    ) -> Result<Dial, ConnectError> {
        let route = Route::new(to, options, i2p, now)?;
        let deadline = now.checked_add(options.timeout.unwrap_or(route.default_timeout));
        let (socket, source) = (options.socket.clone(), Source::of(options));
        Ok(Dial {
            to: to.clone(),
            route,
            began: now,
            socket,
            source,
            watched: None,
            awaits: Awaits::Any,
            deadline,
        })
    }

    /// Prepares a connect to `to` or to one of the alternatives of the options.
    ///
    /// # Errors
    ///
    /// Fails if none of them can be reached with these options.
    pub(crate) fn to_any(
        to: &Destination,
        options: &ConnectOptions,
        i2p: Option<&Arc<I2p>>,
        factory: &Arc<dyn SockFactory>,
        now: Instant,
    ) -> Result<Dial, ConnectError> {
        if options.alternatives.is_empty() {
            return Dial::new(to, options, i2p, now);
        }
        let race = Race::new(to, options, i2p, factory, now)?;
        let deadline = race.deadline();
        let route = Route {
            endpoint: Service::UNIX_UNNAMED,
            way: Way::Race(Box::new(race)),
            default_timeout: DEFAULT_TIMEOUT,
        };
        let (socket, source) = (SocketOptions::default(), Source::of(options));
        Ok(Dial {
            to: to.clone(),
            route,
            began: now,
            socket,
            source,
            watched: None,
            awaits: Awaits::Any,
            deadline,
        })
    }

    /// Returns the destination. Of several, returns the one that was reached, or else the first one.
    pub(crate) fn to(&self) -> &Destination {
        match &self.route.way {
            Way::Race(race) => race.reached().unwrap_or(&self.to),
            _ => &self.to,
        }
    }

    pub(crate) fn endpoint(&self) -> &Service {
        &self.route.endpoint
    }

    /// Returns when the dial has to be stepped at the latest: at its deadline, or before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.route.way {
            Way::Race(race) => self.deadline.into_iter().chain(race.timer()).min(),
            _ => self.deadline,
        }
    }

    /// Creates the socket to step with, and sets its options and its source address. The socket of
    /// an I2P stream keeps its session open.
    ///
    /// # Errors
    ///
    /// Fails if a system call fails, or if an option or the source address is not possible.
    pub(crate) fn create_sock(
        &self,
        factory: &dyn SockFactory,
    ) -> Result<Box<dyn Sock>, ConnectError> {
        if let Way::Race(race) = &self.route.way {
            return Ok(race.sock());
        }
        let (to, endpoint) = (&self.to, self.endpoint());
        let sock = factory.create_sock(endpoint).map_err(|error| self.failed("socket", error))?;
        let is_unix = endpoint.addr().is_unix();
        self.socket.apply(&*sock, is_unix).map_err(|OptionError { option, source }| {
            ConnectError::new(to, ConnectErrorKind::SocketOption { option, source })
        })?;
        if !is_unix {
            self.source.bind(&*sock, endpoint).map_err(|(from, source)| {
                ConnectError::new(to, ConnectErrorKind::SourceAddress { from, source })
            })?;
        }
        Ok(match &self.route.way {
            #[cfg(feature = "i2p")]
            Way::I2p(dial) => Box::new(HeldSession::new(sock, dial.held())),
            _ => sock,
        })
    }

    /// Returns the socket to wait on, which is `sock` or another socket that this connect has
    /// opened.
    fn waits_on<'a>(&'a self, sock: &'a dyn Sock) -> (WaitsOn, &'a dyn Sock) {
        match &self.route.way {
            #[cfg(feature = "i2p")]
            Way::I2p(dial) => {
                dial.control().map_or((WaitsOn::Stream, sock), |(number, control)| {
                    (WaitsOn::Control(number), control)
                })
            }
            _ => (WaitsOn::Stream, sock),
        }
    }

    /// Watches the sockets that the dial waits on, each once. After an error, the caller may call
    /// this method again.
    pub(crate) fn watch(
        &mut self,
        sock: &dyn Sock,
        poller: &dyn Poller,
        token: usize,
    ) -> io::Result<()> {
        if let Way::Race(race) = &mut self.route.way {
            return race.watch(poller, token);
        }
        // A dial waits on control sockets first, on each once. After it has waited on its own
        // socket, it never waits on a control socket again.
        let (which, waited_on) = self.waits_on(sock);
        if self.watched != Some(which) {
            poller.register(waited_on, token)?;
            self.watched = Some(which);
        }
        Ok(())
    }

    /// Notes an event of a socket that [`watch`](Dial::watch) watches. Returns whether the event
    /// brings the next step.
    pub(crate) fn heeds(&mut self, event: &Readiness) -> bool {
        match &mut self.route.way {
            Way::Race(race) => race.heeds(event),
            _ => self.awaits.heeds(event),
        }
    }

    /// Stops watching the socket of a dial that has succeeded.
    pub(crate) fn unwatch(&mut self, sock: &dyn Sock, poller: &dyn Poller) -> io::Result<()> {
        if let Way::Race(race) = &mut self.route.way {
            return race.unwatch(sock, poller);
        }
        if self.watched == Some(WaitsOn::Stream) {
            poller.deregister(sock)?;
            self.watched = None;
        }
        Ok(())
    }

    /// Returns this side's address, if it differs from the socket's own.
    pub(crate) fn me(&self) -> Option<&Service> {
        match &self.route.way {
            Way::Race(race) => race.me(),
            #[cfg(feature = "i2p")]
            Way::I2p(dial) => dial.me(),
            _ => None,
        }
    }

    /// Returns the error for a system call other than `connect(2)` that failed on this machine.
    /// `step` names the call.
    pub(crate) fn failed(&self, step: &'static str, source: io::Error) -> ConnectError {
        match &self.route.way {
            Way::Direct(_) | Way::Race(_) => ConnectError::os(&self.to, step, source),
            #[cfg(feature = "socks5")]
            Way::Proxy(_) => ProxyDial::failed_before(&self.to, &self.route.endpoint, step, source),
            #[cfg(feature = "i2p")]
            Way::I2p(dial) => dial.failed_before(&self.to, step, source),
        }
    }

    /// Takes the first step, which does not check the deadline.
    ///
    /// # Errors
    ///
    /// Fails if the connect failed at once.
    pub(crate) fn begin(&mut self, sock: &dyn Sock, now: Instant) -> Result<(), ConnectError> {
        self.advance(sock, now).map(drop)
    }

    /// Tells the dial the local address of its socket, after the dial has begun.
    pub(crate) fn set_local_address(&mut self, address: &Service) {
        if let Way::Direct(direct) = &mut self.route.way {
            direct.set_local_address(address);
        }
    }

    /// Takes the next step. The caller passes the same socket to each step. A step that comes too
    /// early does no harm.
    ///
    /// # Errors
    ///
    /// Fails if the connect failed or its deadline has passed. After a failure, the dial is over.
    pub(crate) fn step(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, ConnectError> {
        let step = self.advance(sock, now)?;
        self.awaits = match step {
            Step::WaitForSocket(awaits) => awaits,
            Step::Connected | Step::WaitUntil(_) => Awaits::Any,
        };
        // The attempts of a race have the same deadline, and their errors say that they timed out.
        let is_race = matches!(self.route.way, Way::Race(_));
        let is_late = !is_race && self.deadline.is_some_and(|deadline| now >= deadline);
        if is_late && !matches!(step, Step::Connected) {
            let after = now.saturating_duration_since(self.began);
            let is_direct = matches!(self.route.way, Way::Direct(_));
            let proxy = (!is_direct).then(|| self.route.endpoint.clone());
            let kind = ConnectErrorKind::TimedOut { proxy, phase: self.phase(), after };
            return Err(ConnectError::new(&self.to, kind));
        }
        Ok(step)
    }

    fn phase(&self) -> ConnectPhase {
        match &self.route.way {
            Way::Direct(_) | Way::Race(_) => ConnectPhase::Connect,
            #[cfg(feature = "socks5")]
            Way::Proxy(dial) => dial.phase(),
            #[cfg(feature = "i2p")]
            Way::I2p(dial) => dial.phase(),
        }
    }

    fn advance(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, ConnectError> {
        match &mut self.route.way {
            Way::Race(race) => race.step(&self.to, now),
            Way::Direct(direct) => direct
                .step(sock, &self.route.endpoint, now)
                .map_err(|error| ConnectError::of_connect(&self.to, error)),
            #[cfg(feature = "socks5")]
            Way::Proxy(dial) => dial.step(sock, &self.to, &self.route.endpoint, now),
            #[cfg(feature = "i2p")]
            Way::I2p(dial) => dial.step(sock, &self.to, now),
        }
    }
}

/// The source addresses of a connect, one for each family.
#[derive(Debug)]
struct Source {
    v4: Option<SocketAddrV4>,
    v6: Option<SocketAddrV6>,
}

impl Source {
    fn of(options: &ConnectOptions) -> Source {
        Source { v4: options.bind_v4, v6: options.bind_v6 }
    }

    /// Binds a socket that is about to connect to `endpoint`, an IP address. Returns the address
    /// that cannot be bound.
    fn bind(&self, sock: &dyn Sock, endpoint: &Service) -> Result<(), (SocketAddr, io::Error)> {
        let (v4, v6) = (self.v4.map(SocketAddr::V4), self.v6.map(SocketAddr::V6));
        let is_v4 = matches!(endpoint.addr(), NetAddr::Ipv4(_));
        let (from, of_other_family) = if is_v4 { (v4, v6) } else { (v6, v4) };
        if let Some(from) = from {
            return sock.bind(&from.into()).map_err(|error| (from, error));
        }
        match of_other_family {
            Some(from) => Err((from, io::Error::from_raw_os_error(errors::EAFNOSUPPORT))),
            None => Ok(()),
        }
    }
}

/// Returns the address to dial, if `to` can be dialled directly.
fn dialled_directly(to: &Destination) -> Result<&Service, ConnectError> {
    let needs_proxy = || ConnectError::new(to, ConnectErrorKind::NeedsProxy);
    let Destination::Service(service) = to else { return Err(needs_proxy()) };
    match service.addr() {
        #[cfg(feature = "socks5")]
        NetAddr::TorV3(_) => return Err(needs_proxy()),
        #[cfg(feature = "i2p")]
        NetAddr::I2p(_) => return Err(needs_proxy()),
        NetAddr::Ipv4(_) | NetAddr::Ipv6(_) | NetAddr::Cjdns(_) | NetAddr::Unix(_) => {}
    }
    if service.to_sock_addr().is_err() {
        return Err(ConnectError::new(to, ConnectErrorKind::InvalidDestination));
    }
    Ok(service)
}
