//! The options of a [`SockMan`](crate::SockMan) and of a connect. Each option states its unit, its
//! default, and what happens at the limit.
//!
//! Options are plain data, usable on any thread, without a lock. Setters take any value.
//! [`SockMan::new`](crate::SockMan::new) returns [`InvalidOption`] for a value that is out of its
//! range.

use std::{sync::Arc, time::Duration};

pub use crate::dial::ConnectOptions;
#[doc(inline)]
pub use crate::sys::{More, SocketOptions};

#[cfg(feature = "i2p")]
use crate::dial::i2p::I2pOptions;
use crate::{
    dial::{I2p, InvalidOption},
    sys::{OsSockFactory, SockFactory, interrupt::Interrupt},
};

/// The default of [`Options::sweep`]: 50 ms, as Bitcoin Core's `SELECT_TIMEOUT_MILLISECONDS`.
#[doc(alias = "SELECT_TIMEOUT_MILLISECONDS")]
pub const SELECT_TIMEOUT: Duration = Duration::from_millis(50);

/// 64 KiB. Reads of 16 KiB cost a fifth more processor time per byte than reads of 64 KiB. Larger
/// reads are not faster.
const DEFAULT_RECEIVE_BUFFER: usize = 64 * 1024;

/// The shortest sweep is 1 ms, because pollers count in milliseconds.
const SHORTEST_SWEEP: Duration = Duration::from_millis(1);

/// The largest receive buffer is 1 GiB, far more than a receive fills. The limit makes a mistyped
/// size an error instead of an allocation.
const LARGEST_RECEIVE_BUFFER: usize = 1 << 30;

/// The default batch is large enough to accept a burst in a few passes. The batch is small enough
/// that established connections do not wait for the burst, because an accept costs about as much as
/// ten small receives.
const DEFAULT_ACCEPT_BATCH: usize = 64;

/// Bitcoin Core's name for the socket thread.
const DEFAULT_THREAD_NAME: &str = "net";

/// What the library does when a callback panics. The policy requires `panic = "unwind"`, which is
/// Rust's default. [`Options::panic_policy`] sets the policy.
///
/// # Examples
///
/// ```
/// use sockman::{Options, options::PanicPolicy};
///
/// let options = Options::default().panic_policy(PanicPolicy::CloseConnection);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PanicPolicy {
    /// The library logs the panic, sets the interrupt and ends the threads.
    /// [`SocketsThreads::join`](crate::SocketsThreads::join) returns the panic. This policy is the
    /// default, because a handler that panicked may have left its own state half changed.
    #[default]
    Stop,
    /// The library logs the panic, closes the connection whose callback panicked, and calls
    /// [`EventHandler::event_closed_after_panic`](crate::EventHandler::event_closed_after_panic),
    /// and then [`EventHandler::event_closed`](crate::EventHandler::event_closed). All other
    /// connections stay open. A panic in a callback without an id still ends the threads, and so does
    /// one in the closure of
    /// [`run_sockets_thread_with`](crate::SockMan::run_sockets_thread_with).
    CloseConnection,
}

/// Options for [`SockMan::new`](crate::SockMan::new), which checks the ranges of the options.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use sockman::Options;
///
/// let options = Options::default().max_connections(125).sweep(Some(Duration::from_millis(100)));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Options {
    pub(crate) max_connections: usize,
    pub(crate) accept_batch: usize,
    pub(crate) sweep: Option<Duration>,
    pub(crate) receive_buffer: usize,
    pub(crate) reuse_port: bool,
    pub(crate) panic_policy: PanicPolicy,
    pub(crate) thread_name: String,
    pub(crate) interrupt: Option<Interrupt>,
    #[cfg(feature = "i2p")]
    pub(crate) i2p: Option<I2pOptions>,
    pub(crate) sock_factory: Arc<dyn SockFactory>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_connections: usize::MAX,
            accept_batch: DEFAULT_ACCEPT_BATCH,
            sweep: Some(SELECT_TIMEOUT),
            receive_buffer: DEFAULT_RECEIVE_BUFFER,
            reuse_port: false,
            panic_policy: PanicPolicy::default(),
            thread_name: DEFAULT_THREAD_NAME.to_owned(),
            interrupt: None,
            #[cfg(feature = "i2p")]
            i2p: None,
            sock_factory: Arc::new(OsSockFactory::default()),
        }
    }
}

impl Options {
    /// Sets how many connections may exist at once: inbound and outbound together, connects under
    /// way included. Default: no limit other than the process's limit of descriptors.
    ///
    /// At the limit, listeners stop accepting, and clients wait in the kernel's backlog.
    /// [`SockMan::connect`](crate::SockMan::connect) and
    /// [`SockMan::start_connect`](crate::SockMan::start_connect) fail with
    /// [`ConnectErrorKind::TooManyConnections`]. Listeners resume by themselves, and connects
    /// succeed again, when a connection closes.
    ///
    /// Do not combine this limit with [`reuse_port`](Options::reuse_port), unless clients may wait
    /// at one `SockMan` while another has room.
    ///
    /// [`ConnectErrorKind::TooManyConnections`]: crate::error::ConnectErrorKind::TooManyConnections
    pub fn max_connections(mut self, connections: usize) -> Options {
        self.max_connections = connections;
        self
    }

    /// Sets how many connections one listener accepts in one pass. The same limit applies to the
    /// connects begun with [`SockMan::start_connect`](crate::SockMan::start_connect) that advance
    /// in one pass. Default: 64.
    ///
    /// The remaining connections follow in the next passes, after the turns of the established
    /// connections.
    ///
    /// Range: at least 1, checked by [`SockMan::new`](crate::SockMan::new).
    pub fn accept_batch(mut self, connections: usize) -> Options {
        self.accept_batch = connections;
        self
    }

    /// Sets how often the hooks of *every* connection are asked, whether or not something happened
    /// on the connection. Default: every 50 ms ([`SELECT_TIMEOUT`]).
    ///
    /// The sweep gives
    /// [`event_io_loop_completed_for_one`](crate::EventHandler::event_io_loop_completed_for_one)
    /// its period. The sweep serves handlers that never call
    /// [`SockMan::wake`](crate::SockMan::wake). The sweep costs about 5 ns per connection.
    ///
    /// With `None` there is no sweep. Without a sweep, only events and wakes give a connection a
    /// turn. Only events, wakes and deadlines run the loop, and an idle process does not wake up at
    /// all.
    ///
    /// Range: at least 1 ms, because a shorter period would be a busy loop; checked by
    /// [`SockMan::new`](crate::SockMan::new).
    pub fn sweep(mut self, period: Option<Duration>) -> Options {
        self.sweep = period;
        self
    }

    /// Sets the size of the socket thread's one receive buffer, in bytes. One
    /// [`event_got_data`](crate::EventHandler::event_got_data) delivers at most that many bytes.
    /// Default: 64 KiB.
    ///
    /// For bulk uploads on several connections at once, 1 MiB takes less processor time per byte.
    ///
    /// Range: 1 byte to 1 GiB, checked by [`SockMan::new`](crate::SockMan::new).
    pub fn receive_buffer(mut self, bytes: usize) -> Options {
        self.receive_buffer = bytes;
        self
    }

    /// Sets whether several `SockMan`s may listen on one address (`SO_REUSEPORT`). Default: no. The
    /// `SockMan`s may belong to this process or to other processes of the same user. Use this
    /// option when one socket thread is not enough.
    ///
    /// Each of the `SockMan`s needs the option, including the first one to bind. For port 0, the
    /// others bind to the port that the first one got.
    ///
    /// Linux distributes new connections over the listeners by a hash of both addresses. A
    /// connection stays with the listener that received it. When a listener closes, the kernel
    /// resets the connections in its backlog. Other systems have the option but do not distribute
    /// connections with it.
    ///
    /// The kernel does not know the limit of connections: a `SockMan` at its
    /// [`max_connections`](Options::max_connections) still gets its share of new connections, and
    /// these wait although another `SockMan` has room. For a limit, leave `max_connections` unset
    /// (or set it as a last resort, well above the limit). Count over all `SockMan`s, and return
    /// `false` from
    /// [`event_new_connection_accepted`](crate::EventHandler::event_new_connection_accepted) at the
    /// limit, which closes the connection at once. The guide's chapter on operation has the rule.
    ///
    /// The option has no effect on unix-domain sockets or on sockets passed to
    /// [`SockMan::start_listening_on`].
    ///
    /// [`SockMan::start_listening_on`]: crate::SockMan::start_listening_on
    pub fn reuse_port(mut self, reuse_port: bool) -> Options {
        self.reuse_port = reuse_port;
        self
    }

    /// Sets what the library does when a callback panics. Default: [`PanicPolicy::Stop`].
    pub fn panic_policy(mut self, policy: PanicPolicy) -> Options {
        self.panic_policy = policy;
        self
    }

    /// Sets the name of the socket thread, for debuggers and `top`. Default: `net`, as in Core.
    /// Linux shows the first 15 bytes. [`SockMan::new`](crate::SockMan::new) refuses a name with a
    /// NUL byte.
    #[doc(alias = "socket_handler_thread_name")]
    pub fn thread_name(mut self, name: impl Into<String>) -> Options {
        self.thread_name = name.into();
        self
    }

    /// Sets an [`Interrupt`] that this `SockMan` obeys beside its own. One signal can then end
    /// several `SockMan`s and the embedder's own threads. Default: none. The library never sets or
    /// resets this interrupt.
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman::{Interrupt, Options};
    ///
    /// let stop = Interrupt::new();
    /// let (first, second) = (
    ///     Options::default().interrupt(stop.clone()),
    ///     Options::default().interrupt(stop.clone()),
    /// );
    /// // Ends the threads of both `SockMan`s:
    /// stop.interrupt();
    /// ```
    pub fn interrupt(mut self, interrupt: Interrupt) -> Options {
        self.interrupt = Some(interrupt);
        self
    }

    /// Sets the options for I2P through a router's SAM bridge. Default: none. Without these
    /// options, an I2P address requires a SOCKS5 proxy that reaches I2P. Feature `i2p`.
    #[cfg(feature = "i2p")]
    pub fn i2p(mut self, i2p: I2pOptions) -> Options {
        self.i2p = Some(i2p);
        self
    }

    /// Sets the source of sockets, pollers and the time. Default: the operating system
    /// ([`OsSockFactory`]). Test doubles implement [`SockFactory`].
    pub fn sock_factory(mut self, factory: Arc<dyn SockFactory>) -> Options {
        self.sock_factory = factory;
        self
    }

    /// Checks the ranges of all options.
    ///
    /// # Errors
    ///
    /// Returns the first option that is out of its range.
    pub(crate) fn validate(&self) -> Result<(), InvalidOption> {
        let invalid = |option, requirement| Err(InvalidOption::new(option, requirement));
        if self.accept_batch == 0 {
            return invalid("Options::accept_batch", "must be at least 1");
        }
        if self.sweep.is_some_and(|period| period < SHORTEST_SWEEP) {
            return invalid(
                "Options::sweep",
                "must be at least 1 ms, because a shorter period is a busy loop; None turns the \
                 sweep off",
            );
        }
        if !(1..=LARGEST_RECEIVE_BUFFER).contains(&self.receive_buffer) {
            return invalid("Options::receive_buffer", "must be from 1 byte to 1 GiB");
        }
        if self.thread_name.contains('\0') {
            return invalid("Options::thread_name", "must not contain a NUL byte");
        }
        #[cfg(feature = "i2p")]
        if let Some(i2p) = &self.i2p {
            i2p.validate()?;
        }
        Ok(())
    }

    /// Returns the I2P part of the shared state, or `None` without I2P options.
    #[cfg(feature = "i2p")]
    pub(crate) fn create_i2p(&self) -> Option<Arc<I2p>> {
        let i2p = self.i2p.clone()?;
        Some(Arc::new(I2p::new(i2p, Arc::clone(&self.sock_factory))))
    }

    #[cfg(not(feature = "i2p"))]
    pub(crate) fn create_i2p(&self) -> Option<Arc<I2p>> {
        None
    }
}
