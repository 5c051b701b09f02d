//! The socket thread without a thread: its passes are run by whoever tests, one by one or until
//! nothing is left to do.
//!
//! Runs on the caller's thread, which counts as the socket thread for as long as a pass takes.

use std::time::Duration;

use super::Network;
use crate::{
    engine::threads::Parked,
    error::{JoinError, StartError},
    sockman::SockMan,
};

/// Beyond these many passes at one moment nothing but a loop that spins explains them.
const TOO_MANY_PASSES: usize = 100_000;

/// The socket thread of a [`SockMan`] that stands on a [`Network`], driven by hand. While it exists,
/// the `SockMan` counts as started.
///
/// ```
/// # use std::{io, sync::Arc};
/// # use sockman::{ConnectionId, EventHandler, NextRecv, Options, Service, SockMan, testing::{Network, SocketThreadByHand}};
/// # struct Echo;
/// # impl EventHandler for Echo {
/// #     fn event_new_connection_accepted(&self, _: &SockMan, _: ConnectionId, _: &Service, _: &Service) -> bool { true }
/// #     fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv { NextRecv::Proceed }
/// #     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) { let _ = sockman.send_bytes(id, data); }
/// #     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) { sockman.close_connection(id); }
/// #     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) { sockman.close_connection(id); }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = Network::new();
/// let options = Options::default().sock_factory(network.factory());
/// let sockman = SockMan::new(Arc::new(Echo), options)?;
/// let here = sockman.bind_and_start_listening("10.0.0.1:8333")?;
/// let mut thread = SocketThreadByHand::start(&sockman, &network)?;
///
/// let peer = network.connect(&here)?;
/// peer.send(b"ping")?;
/// thread.run_until_idle()?;
/// assert_eq!(peer.receive().0, b"ping");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it ends the thread"]
pub struct SocketThreadByHand {
    network: Network,
    /// Always there, but while it is dropped.
    parked: Option<Parked>,
}

impl SocketThreadByHand {
    /// As [`SockMan::start_sockets_threads`], without a thread.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start(sockman: &SockMan, network: &Network) -> Result<SocketThreadByHand, StartError> {
        let parked = Parked::start(sockman)?;
        Ok(SocketThreadByHand { network: network.clone(), parked: Some(parked) })
    }

    /// One pass. The clock moves if there is nothing to do until something is. `false` if the
    /// interrupt is set, and no pass was run.
    ///
    /// # Errors
    ///
    /// [`JoinError`], as [`SocketsThreads::join`](crate::SocketsThreads::join) would return it; the
    /// interrupt is set then.
    pub fn pass(&mut self) -> Result<bool, JoinError> {
        self.parked.as_mut().map_or(Ok(false), Parked::pass)
    }

    /// One pass, as [`pass`](SocketThreadByHand::pass), in which the clock moves no further than by
    /// `time`. With a `time` of zero the clock stands still.
    ///
    /// # Errors
    ///
    /// As [`pass`](SocketThreadByHand::pass).
    pub fn pass_within(&mut self, time: Duration) -> Result<bool, JoinError> {
        self.network.hold_clock(Some(time));
        let passed = self.pass();
        self.network.hold_clock(None);
        passed
    }

    /// Passes until nothing is left to do *now*: the clock stands still. Says how many it took.
    ///
    /// # Errors
    ///
    /// As [`pass`](SocketThreadByHand::pass).
    ///
    /// # Panics
    ///
    /// If a hundred thousand passes do not get there: something spins.
    pub fn run_until_idle(&mut self) -> Result<usize, JoinError> {
        self.run_for(Duration::ZERO)
    }

    /// Passes until `time` has gone by, in the network's time, and nothing is left to do then. Says
    /// how many it took: some twenty a second with the default sweep, if nothing happens.
    ///
    /// # Errors
    ///
    /// As [`pass`](SocketThreadByHand::pass).
    ///
    /// # Panics
    ///
    /// If the clock stands still for a hundred thousand passes: something spins.
    pub fn run_for(&mut self, time: Duration) -> Result<usize, JoinError> {
        let until = self.network.elapsed() + time;
        self.network.hold_clock(Some(time));
        let result = self.run_until(until);
        self.network.hold_clock(None);
        result
    }

    fn run_until(&mut self, until: Duration) -> Result<usize, JoinError> {
        let (mut passes, mut at_one_moment) = (0, 0);
        loop {
            let before = self.network.elapsed();
            if !self.pass()? {
                return Ok(passes);
            }
            passes += 1;
            let now = self.network.elapsed();
            at_one_moment = if now == before { at_one_moment + 1 } else { 0 };
            assert!(at_one_moment < TOO_MANY_PASSES, "the loop spins");
            if now >= until && self.is_idle() {
                return Ok(passes);
            }
        }
    }

    /// Did the last pass find nothing to do, and leave nothing?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.parked.as_ref().is_none_or(Parked::is_idle)
    }

    /// As an interrupt, and [`SocketsThreads::join`](crate::SocketsThreads::join) after it. Dropping
    /// does the same.
    pub fn stop(self) {}
}

impl Drop for SocketThreadByHand {
    fn drop(&mut self) {
        if let Some(parked) = self.parked.take() {
            parked.stop();
        }
    }
}
