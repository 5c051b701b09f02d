//! A whole attempt: the socket's own connect, and behind it, if there is a proxy, what is to be
//! negotiated with that; under one deadline.
//!
//! [`Dial::step`] is plain: given a socket and the time, it says what to wait for. Two drivers step
//! it: `blocking`, on the caller's thread, and `attempt`, on the socket thread.

mod blocking;
mod direct;
mod error;
pub(crate) mod i2p;
mod options;
pub(crate) mod socks5;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::{blocking::connect as connect_blocking, direct::DirectConnect};
pub use self::{
    error::{ConnectError, ConnectPhase},
    options::ConnectOptions,
};
use self::{
    i2p::{HeldSession, I2P_PORT, I2p, I2pDial},
    socks5::{Failure, ProxyError, Via},
};
use crate::{
    address::{Destination, I2pHash, NetAddr, Service},
    sys::Sock,
};

/// Bitcoin Core's `DEFAULT_CONNECT_TIMEOUT`, five seconds.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// A circuit to an onion service takes Tor 5 to 20 seconds, and more when its network is busy.
const DEFAULT_PROXY_TIMEOUT: Duration = Duration::from_secs(60);
/// A session takes a router up to half a minute, and a connect in it as long again.
const DEFAULT_I2P_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Dial {
    to: Destination,
    /// What the socket itself connects to: the destination, or the proxy.
    endpoint: Service,
    way: Way,
    began: Instant,
    /// `None`: beyond what the clock can tell.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum Way {
    Direct(DirectConnect),
    Proxy(DirectConnect, Via),
    I2p(Box<I2pDial>),
}

/// Which of an attempt's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsOn {
    /// The one that becomes the connection's.
    Stream,
    /// An I2P session's.
    Control,
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
        i2p: Option<&Arc<I2p>>,
        now: Instant,
    ) -> Result<Dial, ConnectError> {
        let direct = DirectConnect::new(now);
        let (endpoint, way, default) = match (&options.proxy, i2p, i2p_address(to)) {
            (Some(proxy), ..) => {
                let way = Way::Proxy(direct, Via::new(to, proxy)?);
                (proxy.endpoint().clone(), way, DEFAULT_PROXY_TIMEOUT)
            }
            (None, Some(i2p), Some((address, port))) => {
                if port != I2P_PORT {
                    return Err(ConnectError::I2pPort { to: to.clone() });
                }
                let way = Way::I2p(Box::new(I2pDial::new(i2p, address)));
                (i2p.sam().clone(), way, DEFAULT_I2P_TIMEOUT)
            }
            (None, ..) => (dialled(to)?.clone(), Way::Direct(direct), DEFAULT_TIMEOUT),
        };
        let deadline = now.checked_add(options.timeout.unwrap_or(default));
        Ok(Dial { to: to.clone(), endpoint, way, began: now, deadline })
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

    /// The socket to be stepped with, once it is there: an I2P stream's keeps its session, too.
    pub(crate) fn wrap(&self, sock: Box<dyn Sock>) -> Box<dyn Sock> {
        match &self.way {
            Way::I2p(dial) => Box::new(HeldSession::new(sock, dial.held())),
            Way::Direct(_) | Way::Proxy(..) => sock,
        }
    }

    /// What is to be waited on: that socket, or another one of the attempt's own.
    pub(crate) fn waits_on<'a>(&'a self, sock: &'a dyn Sock) -> (WaitsOn, &'a dyn Sock) {
        match &self.way {
            Way::I2p(dial) => dial
                .control()
                .map_or((WaitsOn::Stream, sock), |control| (WaitsOn::Control, control)),
            Way::Direct(_) | Way::Proxy(..) => (WaitsOn::Stream, sock),
        }
    }

    /// This side's address, if it is not the socket's own.
    pub(crate) fn me(&self) -> Option<&Service> {
        match &self.way {
            Way::I2p(dial) => dial.me(),
            Way::Direct(_) | Way::Proxy(..) => None,
        }
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
            let is_direct = matches!(self.way, Way::Direct(_));
            let proxy = (!is_direct).then(|| self.endpoint.clone());
            let to = self.to.clone();
            return Err(ConnectError::TimedOut { to, proxy, phase: self.phase(), after });
        }
        Ok(step)
    }

    fn phase(&self) -> ConnectPhase {
        match &self.way {
            Way::Direct(_) => ConnectPhase::Connect,
            Way::Proxy(_, via) => via.phase(),
            Way::I2p(dial) => dial.phase(),
        }
    }

    fn advance(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, ConnectError> {
        let (direct, via) = match &mut self.way {
            Way::Direct(direct) => {
                let step = direct.step(sock, &self.endpoint, now);
                return step.map_err(|error| ConnectError::new(&self.to, "connect", error));
            }
            Way::I2p(dial) => return dial.step(sock, &self.to, now),
            Way::Proxy(direct, via) => (direct, via),
        };
        let outcome = match direct.step(sock, &self.endpoint, now) {
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

fn i2p_address(to: &Destination) -> Option<(&I2pHash, u16)> {
    let service = to.service()?;
    match service.addr() {
        NetAddr::I2p(address) => Some((address, service.port())),
        _ => None,
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
