//! Opens the outbound connections, as Bitcoin Core's `ThreadOpenConnections` does.
//!
//! The dialer has its own thread, because `SockMan::connect` blocks, and dials one address at a
//! time. The interrupt ends a connect in progress. Closing the [list](super::targets) ends a wait
//! for the next address.

use std::sync::Arc;

use sockman::{
    ConnectOptions, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, ConnectFault},
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
    /// Runs the thread until the list of targets is closed or the interrupt is set.
    pub(crate) fn run(&self) {
        while let Some(attempt) = self.connman.targets.next(|| self.connman.is_network_active()) {
            match self.open_connection(&attempt) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ConnectErrorKind::Interrupted) => return,
                Err(error) => {
                    let ended = match error.fault() {
                        ConnectFault::Host => Ended::ByThisHost,
                        ConnectFault::Caller => Ended::ForGood,
                        _ => Ended::ForNow,
                    };
                    self.connman.targets.ended(attempt.number, ended);
                    self.connman.tell(Event::ConnectFailed { error: format!("{error:#}") });
                }
            }
        }
    }

    fn open_connection(&self, attempt: &Attempt) -> Result<(), ConnectError> {
        let connection = self.sockman.connect(&attempt.to, &self.options(&attempt.to))?;
        let start = if attempt.with_v2 { Start::DialV2 } else { Start::DialV1 };
        // Before the first callback, the peer is entered into the table and `version` is sent.
        let (id, them) = (connection.id(), connection.them());
        let (direction, number) = (Direction::Outbound, Some(attempt.number));
        let peer = self.connman.add_peer(id, direction, them, number, start);
        // If the network was switched off during the connect, `set_network_active` did not find
        // this peer in the table.
        if !self.connman.is_network_active() {
            self.connman.disconnect(&self.sockman, id, "the network is switched off");
            return Ok(());
        }
        if !peer.greeting.is_empty() {
            // If this fails, the first callback fails too and reports the error.
            let _ = peer.send.push(&self.sockman, &peer.greeting);
        }
        let version = version_message(&self.connman, &peer);
        self.connman.push_messages(&self.sockman, &peer, [version]);
        connection.activate();
        Ok(())
    }

    /// Returns the options for dialling `to`. If the configuration lacks a way to `to`, the options
    /// have no proxy, and the connect fails.
    fn options(&self, to: &Destination) -> ConnectOptions {
        // The operator gave this address, so a failure is worth a line in the log.
        let options = ConnectOptions::default().is_important(true);
        match self.connman.config.proxy_for(to) {
            Ok(Some(proxy)) => options.proxy(proxy.clone()),
            Ok(None) | Err(_) => options,
        }
    }
}
