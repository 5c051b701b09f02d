//! A connect through a SOCKS5 proxy: the connect to the proxy, and then the negotiation.
//!
//! A step proceeds as far as it can without waiting. The step runs on the thread that drives the
//! connect, and takes no lock.

use std::{io, time::Instant};

use super::{
    Proxy, ProxyError,
    machine::{Failure, Socks5},
};
use crate::{
    address::{Destination, MAX_NAME_BYTES, NetAddr, Service},
    dial::{
        ConnectError, ConnectErrorKind, ConnectFault, ConnectPhase, DirectConnect, Step,
        fault::{is_of_family, of_endpoint, of_system_call},
        machine::drive,
    },
    sys::Sock,
};

#[derive(Debug)]
pub(crate) struct ProxyDial {
    direct: DirectConnect,
    socks5: Socks5,
    is_reached: bool,
}

impl ProxyDial {
    pub(crate) fn new(
        to: &Destination,
        proxy: &Proxy,
        now: Instant,
    ) -> Result<ProxyDial, ConnectError> {
        let fail = |kind| ConnectError::new(to, kind);
        let (host, port) = match to {
            Destination::Name { host, port } => {
                if !(1..=MAX_NAME_BYTES).contains(&host.len()) || host.contains('\0') {
                    return Err(fail(ConnectErrorKind::InvalidName));
                }
                (host.clone(), *port)
            }
            Destination::Service(service) => {
                let text = text_for_proxy(service)
                    .ok_or_else(|| fail(ConnectErrorKind::InvalidDestination))?;
                (text, service.port())
            }
        };
        // The address is checked here, because a failure of the socket would count as the fault of
        // this machine.
        proxy.endpoint().to_sock_addr().map_err(|error| {
            let error = ProxyError::Unreachable { source: error.into() };
            fail(ConnectErrorKind::ProxyFailed { proxy: proxy.endpoint().clone(), error })
        })?;
        let credentials =
            proxy.next_credentials().map_err(|source| ConnectError::os(to, "getrandom", source))?;
        let socks5 = Socks5::new(&host, port, credentials);
        Ok(ProxyDial { direct: DirectConnect::new(now), socks5, is_reached: false })
    }

    pub(crate) fn phase(&self) -> ConnectPhase {
        if self.is_reached { self.socks5.phase() } else { ConnectPhase::ReachProxy }
    }

    /// Returns the error for a system call that failed before the connect to the proxy, or beside
    /// it. `step` names the call.
    pub(crate) fn failed_before(
        to: &Destination,
        proxy: &Service,
        step: &'static str,
        source: io::Error,
    ) -> ConnectError {
        // The family is the one of the proxy's address.
        if step == "socket" && is_of_family(&source) {
            let error = ProxyError::Unreachable { source };
            let kind = ConnectErrorKind::ProxyFailed { proxy: proxy.clone(), error };
            return ConnectError::new(to, kind);
        }
        ConnectError::os(to, step, source)
    }

    /// Takes the next step.
    ///
    /// # Errors
    ///
    /// The connect failed.
    pub(crate) fn step(
        &mut self,
        sock: &dyn Sock,
        to: &Destination,
        proxy: &Service,
        now: Instant,
    ) -> Result<Step, ConnectError> {
        let outcome = match self.direct.step(sock, proxy, now) {
            // A lack of this host is no fault of the proxy.
            Err(source) if of_system_call("connect", &source) == ConnectFault::Host => {
                return Err(ConnectError::of_connect(to, source));
            }
            Err(source) => {
                Err(ProxyError::Unreachable { source: of_endpoint(proxy, source) }.into())
            }
            Ok(Step::Connected) => {
                self.is_reached = true;
                drive(&mut self.socks5, sock, now)
            }
            Ok(step) => return Ok(step),
        };
        outcome.map_err(|failure| {
            let proxy = proxy.clone();
            ConnectError::new(
                to,
                match failure {
                    Failure::Proxy(error) => ConnectErrorKind::ProxyFailed { proxy, error },
                    Failure::Destination(reply) => ConnectErrorKind::ProxyReplied { proxy, reply },
                },
            )
        })
    }
}

/// Returns the text that the request to a proxy contains for this address. Returns `None` if a
/// proxy cannot reach the address.
fn text_for_proxy(service: &Service) -> Option<String> {
    match service.addr() {
        // The text of a CJDNS address has a prefix that only this library uses.
        NetAddr::Cjdns(addr) => Some(addr.ip().to_string()),
        NetAddr::Unix(_) => None,
        addr => Some(addr.to_string()),
    }
}
