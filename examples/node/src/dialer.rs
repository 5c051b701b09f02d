//! Opens the outbound connections: Bitcoin Core's `ThreadOpenConnections`.
//!
//! A thread of its own, since `SockMan::connect` blocks; one address after the other. The
//! interrupt ends a connect under way, the end of the [list](super::targets) the waiting in
//! between.

use std::sync::Arc;

use sockman::{
    ConnectOptions, Service, SockMan,
    address::{Destination, NetAddr},
    error::{ConnectError, ConnectErrorKind},
    stats::Direction,
};

use crate::{
    Event,
    connman::Connman,
    processing::version_message,
    targets::{Attempt, Ended},
    transport::Start,
};

pub(crate) struct Dialer {
    pub(crate) connman: Arc<Connman>,
    pub(crate) sockman: SockMan,
}

impl Dialer {
    /// The thread.
    pub(crate) fn run(&self) {
        while let Some(attempt) = self.connman.targets.next(|| self.connman.is_network_active()) {
            match self.open_connection(&attempt) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ConnectErrorKind::Interrupted) => return,
                Err(error) => {
                    self.connman.targets.ended(attempt.number, Ended::ForNow);
                    self.connman.tell(Event::ConnectFailed { error: format!("{error:#}") });
                }
            }
        }
    }

    fn open_connection(&self, attempt: &Attempt) -> Result<(), ConnectError> {
        let connection = self.sockman.connect(&attempt.to, &self.options(&attempt.to))?;
        let start = if attempt.with_v2 { Start::DialV2 } else { Start::DialV1 };
        // The peer is in the table, and our `version` on its way, before the first callback.
        let (id, them) = (connection.id(), connection.them());
        let (direction, number) = (Direction::Outbound, Some(attempt.number));
        let peer = self.connman.add_peer(id, direction, them, number, start);
        // Switched off while this was connecting: whoever did that has not found it in the table.
        if !self.connman.is_network_active() {
            self.connman.disconnect(&self.sockman, id, "the network is switched off");
            return Ok(());
        }
        if !peer.greeting.is_empty() {
            // If it fails, so does the first callback, which tells of it.
            let _ = peer.send.push(&self.sockman, &peer.greeting);
        }
        let version = version_message(&self.connman, &peer);
        self.connman.push_messages(&self.sockman, &peer, [version]);
        connection.activate();
        Ok(())
    }

    /// Bitcoin Core's `-proxy` and `-onion`: onion services through the one that is for them, the
    /// rest of the network through the other. What is on this machine needs neither.
    fn options(&self, to: &Destination) -> ConnectOptions {
        // Somebody gave this address by hand: that it fails is worth a line in the log.
        let options = ConnectOptions::default().is_important(true);
        let config = &self.connman.config;
        let proxy = match to.service().map(Service::addr) {
            Some(NetAddr::Unix(_)) => None,
            Some(NetAddr::I2p(_)) if config.i2p.is_some() => None,
            Some(NetAddr::TorV3(_)) => config.onion_proxy.as_ref().or(config.proxy.as_ref()),
            _ => config.proxy.as_ref(),
        };
        match proxy {
            Some(proxy) => options.proxy(proxy.clone()),
            None => options,
        }
    }
}
