//! The way through a SOCKS5 proxy: the negotiation, over the socket that reaches the proxy.
//!
//! Plain: a step goes as far as the socket lets it. Whatever thread drives the dial steps it.

use std::io;

use super::{
    Proxy, ProxyError,
    machine::{Failure, LONGEST_READ, MAX_NAME_BYTES, Socks5, Want},
};
use crate::{
    address::{Destination, NetAddr, Service},
    dial::{ConnectError, ConnectPhase, Step},
    sys::Sock,
};

#[derive(Debug)]
pub(crate) struct Via {
    socks5: Socks5,
    is_reached: bool,
}

impl Via {
    pub(crate) fn new(to: &Destination, proxy: &Proxy) -> Result<Via, ConnectError> {
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
        Ok(Via { socks5, is_reached: false })
    }

    pub(crate) fn phase(&self) -> ConnectPhase {
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
    pub(crate) fn negotiate(&mut self, sock: &dyn Sock) -> Result<Step, Failure> {
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

/// An address as a proxy is asked for it.
fn text_for_proxy(service: &Service, to: &Destination) -> Result<String, ConnectError> {
    match service.addr() {
        // Its text has a prefix that is this library's own.
        NetAddr::Cjdns(addr) => Ok(addr.ip().to_string()),
        NetAddr::Unix(_) => Err(ConnectError::InvalidDestination { to: to.clone() }),
        addr => Ok(addr.to_string()),
    }
}
