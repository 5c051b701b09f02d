//! Opens the outbound connections and keeps them: Bitcoin Core's `ThreadOpenConnections`.
//!
//! A thread of its own, since `SockMan::connect` blocks; one address after the other. The
//! interrupt ends a connect under way as well as the waiting in between.

use std::{sync::Arc, time::Duration};

use sockman::{
    ConnectError, ConnectOptions, ConnectionId, Destination, Direction, NetAddr, Service, SockMan,
};

use super::{Event, connman::Connman, processing::version_message, transport::Start};

/// So often it is looked whether somebody is to be dialled again at once.
const LOOK_AROUND: Duration = Duration::from_millis(100);

pub(crate) struct Dialer {
    pub(crate) connman: Arc<Connman>,
    pub(crate) sockman: SockMan,
}

impl Dialer {
    /// The thread.
    pub(crate) fn run(&self) {
        let config = &self.connman.config;
        loop {
            let hung_up = self.connman.v1_only.lock().len();
            for (target, to) in config.connect.iter().enumerate() {
                if self.is_connected(target) {
                    continue;
                }
                match self.open_connection(target, to) {
                    Ok(_) => {}
                    Err(ConnectError::Interrupted) => return,
                    Err(error) => {
                        self.connman.tell(Event::ConnectFailed { error: error.to_string() });
                    }
                }
            }
            let mut left = config.redial;
            // A peer that hung up on version 2 does not wait for its turn.
            while !left.is_zero() && self.connman.v1_only.lock().len() == hung_up {
                let now = left.min(LOOK_AROUND);
                if !config.interrupt.sleep_for(now) {
                    return;
                }
                left -= now;
            }
        }
    }

    fn is_connected(&self, target: usize) -> bool {
        self.connman.peers().iter().any(|peer| peer.dialled == Some(target))
    }

    fn open_connection(
        &self,
        target: usize,
        to: &Destination,
    ) -> Result<ConnectionId, ConnectError> {
        let is_v1_only = self.connman.v1_only.lock().contains(&target);
        let start = if self.connman.config.v2_transport && !is_v1_only {
            Start::DialV2
        } else {
            Start::DialV1
        };
        // The peer is in the table, and our `version` on its way, before the first callback.
        let connection = self.sockman.connect(to, &self.options(to))?;
        let (id, them) = (connection.id(), connection.them());
        let peer = self.connman.add_peer(id, Direction::Outbound, them, Some(target), start);
        if !peer.greeting.is_empty() {
            // If it fails, so does the first callback, which tells of it.
            let _ = peer.send.push(&self.sockman, &peer.greeting, false);
        }
        let version = version_message(&self.connman, &peer);
        self.connman.push_messages(&self.sockman, &peer, [version]);
        Ok(connection.activate())
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
