//! Opens the outbound connections and keeps them: Bitcoin Core's `ThreadOpenConnections`.
//!
//! A thread of its own, since `SockMan::connect` blocks; one address after the other. The
//! interrupt ends a connect under way as well as the waiting in between.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
            let seen = self.requests();
            for (target, to) in self.due() {
                match self.open_connection(target, &to) {
                    Ok(_) => {}
                    Err(ConnectError::Interrupted) => return,
                    Err(error) => {
                        self.connman.tell(Event::ConnectFailed { error: error.to_string() });
                    }
                }
            }
            let mut left = config.redial;
            // A new target, and a peer that hung up on version 2, do not wait for their turn.
            while !left.is_zero() && self.requests() == seen {
                let now = left.min(LOOK_AROUND);
                if !config.interrupt.sleep_for(now) {
                    return;
                }
                left -= now;
            }
        }
    }

    /// Grows when somebody is to be dialled at once.
    fn requests(&self) -> usize {
        self.connman.targets.lock().len() + self.connman.redials.load(Ordering::Acquire)
    }

    /// Who is to be dialled now.
    fn due(&self) -> Vec<(usize, Destination)> {
        if !self.connman.network_active.load(Ordering::Acquire) {
            return Vec::new();
        }
        let v1_only = self.connman.v1_only.lock().clone();
        let connected = self.connman.peers();
        let is_connected =
            |target: usize| connected.iter().any(|peer| peer.dialled == Some(target));
        let mut targets = self.connman.targets.lock();
        let due = targets.iter_mut().enumerate().filter_map(|(number, target)| {
            let is_tried = match target.attempts {
                0 => false,
                1 => target.is_once && !v1_only.contains(&number),
                _ => target.is_once,
            };
            if target.is_removed || is_tried || is_connected(number) {
                return None;
            }
            target.attempts = target.attempts.saturating_add(1);
            Some((number, target.to.clone()))
        });
        due.collect()
    }

    fn open_connection(
        &self,
        target: usize,
        to: &Destination,
    ) -> Result<ConnectionId, ConnectError> {
        // For this once: it may have hung up for another reason.
        let is_v1_only = self.connman.v1_only.lock().remove(&target);
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
