//! Drives the socket thread by hand, without a real thread. The test runs its passes one by one, or
//! until nothing is left to do.
//!
//! A pass runs on the caller's thread, which counts as the socket thread during the pass. A pass
//! takes the locks that a pass of the real thread takes.

use std::time::Duration;

use super::Network;
use crate::{
    engine::threads::Parked,
    error::{JoinError, StartError},
    sockman::SockMan,
};

/// The most passes at one moment of the clock. Only a loop that spins needs more passes.
const TOO_MANY_PASSES: usize = 100_000;

/// The socket thread of a [`SockMan`] on a [`Network`], driven by hand. While this value exists,
/// the `SockMan` counts as started. The value holds a handle to the `SockMan`, so call
/// [`stop`](SocketThreadByHand::stop) before a check for leaks.
///
/// Between two passes, no turn is under way, so [`SockMan::into_stream`] does not wait, whichever
/// thread calls it.
///
/// # Examples
///
/// ```
/// use std::{io, sync::Arc};
///
/// use sockman::testing::{Network, SocketThreadByHand};
/// use sockman::{ConnectionId, EventHandler, Options, Service, SockMan};
///
/// struct Echo;
///
/// impl EventHandler for Echo {
///     fn event_new_connection_accepted(
///         &self, _: &SockMan, _: ConnectionId, _me: &Service, _them: &Service,
///     ) -> bool {
///         true
///     }
///     fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
///         let _ = sockman.send_bytes(id, data);
///     }
///     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
///         sockman.close_connection(id);
///     }
///     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
///         sockman.close_connection(id);
///     }
/// }
///
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
#[must_use = "dropping the value ends the thread"]
pub struct SocketThreadByHand {
    network: Network,
    /// The state, which is `None` only during the drop.
    parked: Option<Parked>,
}

impl SocketThreadByHand {
    /// Starts the `SockMan` as [`SockMan::start_sockets_threads`] does, but without a thread.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`SockMan::start_sockets_threads`].
    pub fn start(sockman: &SockMan, network: &Network) -> Result<SocketThreadByHand, StartError> {
        let parked = Parked::start(sockman)?;
        Ok(SocketThreadByHand { network: network.clone(), parked: Some(parked) })
    }

    /// Runs one pass. If there is nothing to do, the pass moves the clock until there is something
    /// to do. Returns `false` without a pass if the interrupt is set.
    ///
    /// # Errors
    ///
    /// Returns the error that [`SocketsThreads::join`](crate::SocketsThreads::join) would return.
    /// After an error, the interrupt is set.
    pub fn pass(&mut self) -> Result<bool, JoinError> {
        self.parked.as_mut().map_or(Ok(false), Parked::pass)
    }

    /// Runs one pass, as [`pass`](SocketThreadByHand::pass), and moves the clock by at most `time`.
    /// With a `time` of zero the clock stands still.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`pass`](SocketThreadByHand::pass).
    pub fn pass_within(&mut self, time: Duration) -> Result<bool, JoinError> {
        self.network.hold_clock(Some(time));
        let passed = self.pass();
        self.network.hold_clock(None);
        passed
    }

    /// Runs passes until nothing is left to do at the current time of the clock, which stands
    /// still. Returns the number of passes.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`pass`](SocketThreadByHand::pass).
    ///
    /// # Panics
    ///
    /// Panics if something is still left to do after a hundred thousand passes, because the loop
    /// spins.
    pub fn run_until_idle(&mut self) -> Result<usize, JoinError> {
        self.run_for(Duration::ZERO)
    }

    /// Runs passes until `time` has passed on the network's clock and nothing is left to do.
    /// Returns the number of passes: about twenty a second with the default sweep, if nothing
    /// happens.
    ///
    /// What is due at exactly the end of `time` belongs to the run, deadlines of the handler
    /// ([`next_deadline`](crate::EventHandler::next_deadline)) included.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`pass`](SocketThreadByHand::pass).
    ///
    /// # Panics
    ///
    /// Panics if the clock stands still for a hundred thousand passes, because the loop spins.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(mut thread: sockman::testing::SocketThreadByHand) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// // Lets a time-out of 30 s end. The test itself takes microseconds.
    /// let passes = thread.run_for(Duration::from_secs(31))?;
    /// assert!(passes < 1000, "the loop must not spin");
    /// # Ok(())
    /// # }
    /// ```
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
            assert!(
                at_one_moment < TOO_MANY_PASSES,
                "the loop spins: {at_one_moment} passes while the clock of the network stood still"
            );
            if now >= until && self.is_idle() {
                return Ok(passes);
            }
        }
    }

    /// Returns whether the last pass had nothing to do and left nothing to do. Deadlines count when
    /// they have passed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.parked.as_ref().is_none_or(Parked::is_idle)
    }

    /// Ends the socket thread, as an interrupt and a
    /// [`SocketsThreads::join`](crate::SocketsThreads::join) do. Dropping the `SocketThreadByHand`
    /// has the same effect.
    pub fn stop(self) {}
}

impl Drop for SocketThreadByHand {
    fn drop(&mut self) {
        if let Some(parked) = self.parked.take() {
            parked.stop();
        }
    }
}
