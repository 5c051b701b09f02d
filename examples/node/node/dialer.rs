//! Opens the outbound connections and keeps them: Bitcoin Core's `ThreadOpenConnections`.
//!
//! A thread of its own, since `SockMan::connect` blocks; one address after the other. The
//! interrupt ends a connect under way as well as the waiting in between.

use std::sync::Arc;

use sockman::{ConnectError, ConnectOptions, ConnectionId, Destination, Direction, SockMan};

use super::{Event, connman::Connman, processing::version_message};

pub(crate) struct Dialer {
    pub(crate) connman: Arc<Connman>,
    pub(crate) sockman: SockMan,
}

impl Dialer {
    /// The thread.
    pub(crate) fn run(&self) {
        let config = &self.connman.config;
        loop {
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
            if !config.interrupt.sleep_for(config.redial) {
                return;
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
        // The peer is in the table, and our `version` on its way, before the first callback.
        let connection = self.sockman.connect(to, &ConnectOptions::default())?;
        let (id, them) = (connection.id(), connection.them());
        let peer = self.connman.add_peer(id, Direction::Outbound, them, Some(target));
        let version = version_message(&self.connman, &peer);
        self.connman.push_messages(&self.sockman, &peer, [version]);
        Ok(connection.activate())
    }
}
