//! Begins the outbound connections, as Bitcoin Core's `ThreadOpenConnections` does.
//!
//! The dialer has its own thread, which waits until an address is due. It begins a connect to each
//! due address at once, so no address waits for another one that does not answer. The socket thread
//! completes the connects and reports them to [`Connman`]. Closing the [list](super::targets) ends
//! the wait for the next address.

use std::sync::Arc;

use sockman::{ConnectOptions, SockMan, address::Destination, error::ConnectErrorKind};

use crate::connman::Connman;

pub(crate) struct Dialer {
    pub(crate) connman: Arc<Connman>,
    pub(crate) sockman: SockMan,
}

impl Dialer {
    /// Runs the thread until the list of targets is closed or the interrupt is set.
    pub(crate) fn run(&self) {
        while let Some(attempt) = self.connman.targets.next(|| self.connman.is_network_active()) {
            let options = self.options(&attempt.to);
            // The lock is held across the call, because the outcome may be reported before it
            // returns.
            let mut dialling = self.connman.dialling.lock();
            match self.sockman.start_connect(&attempt.to, &options) {
                Ok(id) => drop(dialling.insert(id, attempt)),
                Err(error) => {
                    drop(dialling);
                    if matches!(error.kind(), ConnectErrorKind::Interrupted) {
                        return;
                    }
                    self.connman.connect_failed(&attempt, &error);
                }
            }
        }
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
