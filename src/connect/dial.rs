//! A whole attempt: the socket's own connect, and behind it, if there is a proxy, what is to be
//! negotiated with that; under one deadline.
//!
//! [`Dial::step`] is plain: given a socket and the time, it says what to wait for. Two drivers step
//! it: `blocking`, on the caller's thread, and `attempt`, on the socket thread.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    ConnectOptions, Destination, Proxy,
    direct::DirectConnect,
    error::{ConnectError, ConnectPhase, ProxyError},
    socks5::{Failure, LONGEST_READ, MAX_NAME_BYTES, Socks5, Want},
};
use crate::{NetAddr, Service, sock::Sock};

/// Bitcoin Core's `DEFAULT_CONNECT_TIMEOUT`, five seconds.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// A circuit to an onion service takes Tor 5 to 20 seconds, and more when its network is busy.
const DEFAULT_PROXY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Dial {
    to: Destination,
    /// What the socket itself connects to: the destination, or the proxy.
    endpoint: Service,
    direct: DirectConnect,
    via: Option<Via>,
    began: Instant,
    /// `None`: beyond what the clock can tell.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Via {
    proxy: Proxy,
    socks5: Socks5,
    is_reached: bool,
}

/// What a step comes to.
#[derive(Debug)]
pub(crate) enum Step {
    Connected,
    /// Step again when something happens on the socket, or at the deadline.
    WaitForSocket,
    /// Step again at this time.
    WaitUntil(Instant),
}

impl Dial {
    /// Begins nothing yet. The time runs from `now`.
    ///
    /// # Errors
    ///
    /// The destination cannot be reached this way.
    pub(crate) fn new(
        to: &Destination,
        options: &ConnectOptions,
        now: Instant,
    ) -> Result<Dial, ConnectError> {
        let (endpoint, via) = match &options.proxy {
            None => (dialled(to)?.clone(), None),
            Some(proxy) => (proxy.endpoint().clone(), Some(Via::new(to, proxy)?)),
        };
        let default = if via.is_some() { DEFAULT_PROXY_TIMEOUT } else { DEFAULT_TIMEOUT };
        let deadline = now.checked_add(options.timeout.unwrap_or(default));
        let direct = DirectConnect::new(now);
        Ok(Dial { to: to.clone(), endpoint, direct, via, began: now, deadline })
    }

    pub(crate) fn to(&self) -> &Destination {
        &self.to
    }

    pub(crate) fn endpoint(&self) -> &Service {
        &self.endpoint
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The system call named `step` failed, which is nobody's fault but this machine's.
    pub(crate) fn failed(&self, step: &'static str, source: io::Error) -> ConnectError {
        ConnectError::Os { to: self.to.clone(), step, source }
    }

    /// The first step, whose time does not count yet.
    ///
    /// # Errors
    ///
    /// The attempt failed at once.
    pub(crate) fn begin(&mut self, sock: &dyn Sock, now: Instant) -> Result<(), ConnectError> {
        self.advance(sock, now).map(drop)
    }

    /// Goes on, always with the same socket. A step too early does no harm.
    ///
    /// # Errors
    ///
    /// The attempt failed, or is too late: there is nothing more to step.
    pub(crate) fn step(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, ConnectError> {
        let step = self.advance(sock, now)?;
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        if is_late && !matches!(step, Step::Connected) {
            let after = now.saturating_duration_since(self.began);
            let proxy = self.via.as_ref().map(|via| via.proxy.endpoint().clone());
            let to = self.to.clone();
            return Err(ConnectError::TimedOut { to, proxy, phase: self.phase(), after });
        }
        Ok(step)
    }

    fn phase(&self) -> ConnectPhase {
        match &self.via {
            None => ConnectPhase::Connect,
            Some(via) => via.phase(),
        }
    }

    fn advance(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, ConnectError> {
        let step = self.direct.step(sock, &self.endpoint, now);
        let Some(via) = &mut self.via else {
            return step.map_err(|error| ConnectError::new(&self.to, "connect", error));
        };
        let outcome = match step {
            Err(source) => Err(ProxyError::Unreachable { source }.into()),
            Ok(Step::Connected) => via.negotiate(sock),
            Ok(step) => return Ok(step),
        };
        let (to, proxy) = (|| self.to.clone(), || self.endpoint.clone());
        outcome.map_err(|failure| match failure {
            Failure::Proxy(error) => ConnectError::ProxyFailed { to: to(), proxy: proxy(), error },
            Failure::Destination(reply) => {
                ConnectError::ProxyReplied { to: to(), proxy: proxy(), reply }
            }
        })
    }
}

impl Via {
    fn new(to: &Destination, proxy: &Proxy) -> Result<Via, ConnectError> {
        let (host, port) = match to {
            Destination::Name { host, port } => {
                if !(1..=MAX_NAME_BYTES).contains(&host.len()) || host.contains('\0') {
                    return Err(ConnectError::InvalidName { to: to.clone() });
                }
                (host.clone(), *port)
            }
            Destination::Service(service) => (text_for_proxy(service, to)?, service.port()),
        };
        // Not left to the socket, whose failure would be this machine's fault.
        proxy.endpoint().to_sock_addr().map_err(|error| ConnectError::ProxyFailed {
            to: to.clone(),
            proxy: proxy.endpoint().clone(),
            error: ProxyError::Unreachable { source: error.into() },
        })?;
        let credentials = proxy.next_credentials().map_err(|source| ConnectError::Os {
            to: to.clone(),
            step: "getrandom",
            source,
        })?;
        let socks5 = Socks5::new(&host, port, credentials);
        Ok(Via { proxy: proxy.clone(), socks5, is_reached: false })
    }

    fn phase(&self) -> ConnectPhase {
        if !self.is_reached {
            ConnectPhase::ReachProxy
        } else if !self.socks5.has_asked() {
            ConnectPhase::NegotiateWithProxy
        } else {
            ConnectPhase::ProxyConnect
        }
    }

    /// As far as it goes without waiting. Every byte is asked for by name, so the proxy decides
    /// neither how long this takes nor what is left unread.
    fn negotiate(&mut self, sock: &dyn Sock) -> Result<Step, Failure> {
        self.is_reached = true;
        loop {
            let outcome = match self.socks5.wants() {
                Want::Nothing => return Ok(Step::Connected),
                Want::Send(bytes) => sock.send(bytes, false).map(|sent| {
                    self.socks5.sent(sent);
                    sent > 0
                }),
                Want::Receive(length) => {
                    let mut buffer = [0; LONGEST_READ];
                    match sock.recv(&mut buffer[..length]) {
                        Ok(0) => return Err(self.broke_off(None)),
                        Ok(received) => {
                            self.socks5.received(&buffer[..received])?;
                            Ok(true)
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            match outcome {
                Ok(true) => {}
                Ok(false) => return Ok(Step::WaitForSocket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Step::WaitForSocket);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broke_off(Some(error))),
            }
        }
    }

    fn broke_off(&self, source: Option<io::Error>) -> Failure {
        Failure::Proxy(ProxyError::BrokeOff { phase: self.phase(), source })
    }
}

/// The address to dial, if `to` is one that can be dialled without a proxy.
fn dialled(to: &Destination) -> Result<&Service, ConnectError> {
    let Destination::Service(service) = to else {
        return Err(ConnectError::NeedsProxy { to: to.clone() });
    };
    if matches!(service.addr(), NetAddr::TorV3(_) | NetAddr::I2p(_)) {
        return Err(ConnectError::NeedsProxy { to: to.clone() });
    }
    if service.to_sock_addr().is_err() {
        return Err(ConnectError::InvalidDestination { to: to.clone() });
    }
    Ok(service)
}

/// An address as a proxy is asked for it.
fn text_for_proxy(service: &Service, to: &Destination) -> Result<String, ConnectError> {
    match service.addr() {
        // Its text has a prefix that is this library's own.
        NetAddr::Cjdns(addr) => Ok(addr.ip().to_string()),
        NetAddr::Unix(_) => Err(ConnectError::InvalidDestination { to: to.clone() }),
        addr => Ok(addr.to_string()),
    }
}
