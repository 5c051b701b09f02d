//! The options of a [`SockMan`](crate::SockMan) and of a connect: each with unit, default, and what
//! happens at the limit.
//!
//! Setters take any value. [`SockMan::new`](crate::SockMan::new) returns
//! [`InvalidOption`] for a value that is out of its range.

use std::{sync::Arc, time::Duration};

pub use crate::dial::ConnectOptions;
#[doc(inline)]
pub use crate::sys::More;

#[cfg(feature = "i2p")]
use crate::dial::i2p::I2pOptions;
use crate::{
    dial::{I2p, InvalidOption},
    sys::{OsSockFactory, SockFactory, interrupt::Interrupt},
};

/// The default of [`Options::sweep`]: 50 ms, as Bitcoin Core's `SELECT_TIMEOUT_MILLISECONDS`.
#[doc(alias = "SELECT_TIMEOUT_MILLISECONDS")]
pub const SELECT_TIMEOUT: Duration = Duration::from_millis(50);

/// Reads of 16 KiB cost a fifth more processor time per byte than reads of 64 KiB; larger ones
/// gain nothing.
const DEFAULT_RECEIVE_BUFFER: usize = 64 * 1024;

/// The pollers count in milliseconds.
const SHORTEST_SWEEP: Duration = Duration::from_millis(1);

/// Far beyond what a receive fills; a slip of the pen is told instead of allocated.
const LARGEST_RECEIVE_BUFFER: usize = 1 << 30;

/// Enough to empty a burst in a few passes, few enough that established connections do not wait
/// for it: an accept costs about as much as ten small receives.
const DEFAULT_ACCEPT_BATCH: usize = 64;

/// Bitcoin Core's name for this thread.
const DEFAULT_THREAD_NAME: &str = "net";

/// What happens when a callback panics. Needs `panic = "unwind"`, Rust's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PanicPolicy {
    /// Log it, set the interrupt, end the threads;
    /// [`SocketsThreads::join`](crate::SocketsThreads::join) returns it. The default: a handler
    /// that panicked may have left its own state half changed.
    #[default]
    Stop,
    /// Log it, close the connection that was being called, and tell
    /// [`EventHandler::event_closed_after_panic`](crate::EventHandler::event_closed_after_panic);
    /// everything else goes on. A panic in a callback without an id still stops.
    CloseConnection,
}

/// The options of a [`SockMan`](crate::SockMan).
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
    /// How many connections may exist at once, inbound and outbound together, the connects under
    /// way included. Default: no limit but the process's descriptors.
    ///
    /// At the limit, listeners stop accepting and clients wait in the kernel's backlog;
    /// [`SockMan::connect`](crate::SockMan::connect) and `start_connect` fail with
    /// [`ConnectErrorKind::TooManyConnections`](crate::error::ConnectErrorKind::TooManyConnections). All resume
    /// by themselves.
    pub fn max_connections(mut self, connections: usize) -> Options {
        self.max_connections = connections;
        self
    }

    /// How many connections one listener accepts in one pass, and how many connects begun with
    /// [`SockMan::start_connect`](crate::SockMan::start_connect) are looked at in one. Default: 64.
    /// The rest follows in the next passes, after the established connections had their turn. Range:
    /// at least 1, checked by [`SockMan::new`](crate::SockMan::new).
    pub fn accept_batch(mut self, connections: usize) -> Options {
        self.accept_batch = connections;
        self
    }

    /// How often the hooks of *every* connection are asked, whether or not something happened on
    /// it. Default: every 50 ms ([`SELECT_TIMEOUT`]).
    ///
    /// The sweep gives
    /// [`event_io_loop_completed_for_one`](crate::EventHandler::event_io_loop_completed_for_one)
    /// its period and serves handlers that never call [`SockMan::wake`](crate::SockMan::wake). It
    /// costs some 5 ns per connection. With `None`, only events, wakes and deadlines bring a
    /// connection back, and an idle process does not wake up at all.
    ///
    /// Range: at least 1 ms, because less would be a busy loop; checked by
    /// [`SockMan::new`](crate::SockMan::new).
    pub fn sweep(mut self, period: Option<Duration>) -> Options {
        self.sweep = period;
        self
    }

    /// The size in bytes of the socket thread's one receive buffer, and so the most that one
    /// [`event_got_data`](crate::EventHandler::event_got_data) delivers. Default: 64 KiB. For
    /// bulk uploads on several connections at once, 1 MiB takes less processor time for a byte. Range:
    /// 1 byte to 1 GiB, checked by [`SockMan::new`](crate::SockMan::new).
    pub fn receive_buffer(mut self, bytes: usize) -> Options {
        self.receive_buffer = bytes;
        self
    }

    /// Whether several `SockMan`s, of this process or of others of the same user, may listen on one
    /// address: for those who outgrow one thread. Default: no. Each has to have the option, the
    /// first to bind included; for port 0, the others bind to the port that it was given.
    ///
    /// Linux spreads new connections over the listeners, by a hash of both addresses; a connection
    /// stays where it arrived, and what is in the backlog of a listener that closes is reset. Other
    /// systems know the option (`SO_REUSEPORT`) and do not spread by it. It says nothing for
    /// unix-domain sockets, nor for sockets that [`SockMan::start_listening_on`] is given.
    ///
    /// [`SockMan::start_listening_on`]: crate::SockMan::start_listening_on
    pub fn reuse_port(mut self, reuse_port: bool) -> Options {
        self.reuse_port = reuse_port;
        self
    }

    /// What happens when a callback panics. Default: [`PanicPolicy::Stop`].
    pub fn panic_policy(mut self, policy: PanicPolicy) -> Options {
        self.panic_policy = policy;
        self
    }

    /// The name of the socket thread, for debuggers and `top`. Default: `net`. Linux shows the
    /// first 15 bytes. A NUL in it is refused by [`SockMan::new`](crate::SockMan::new).
    #[doc(alias = "socket_handler_thread_name")]
    pub fn thread_name(mut self, name: impl Into<String>) -> Options {
        self.thread_name = name.into();
        self
    }

    /// An [`Interrupt`] that this `SockMan` obeys beside its own, so that one signal ends several
    /// of them and the embedder's own threads. Default: none. It is never set or reset by the
    /// library.
    pub fn interrupt(mut self, interrupt: Interrupt) -> Options {
        self.interrupt = Some(interrupt);
        self
    }

    /// I2P through a router's SAM bridge. Default: none, and I2P addresses need a proxy.
    #[cfg(feature = "i2p")]
    pub fn i2p(mut self, i2p: I2pOptions) -> Options {
        self.i2p = Some(i2p);
        self
    }

    /// Where sockets, the poller and the time come from. Default: the operating system
    /// ([`OsSockFactory`]). The seam for test doubles.
    pub fn sock_factory(mut self, factory: Arc<dyn SockFactory>) -> Options {
        self.sock_factory = factory;
        self
    }

    /// # Errors
    ///
    /// The first option that is out of its range.
    pub(crate) fn validate(&self) -> Result<(), InvalidOption> {
        let invalid = |option, requirement| Err(InvalidOption::new(option, requirement));
        if self.accept_batch == 0 {
            return invalid("Options::accept_batch", "must be at least 1");
        }
        if self.sweep.is_some_and(|period| period < SHORTEST_SWEEP) {
            return invalid(
                "Options::sweep",
                "must be at least 1 ms: less would be a busy loop; None turns the sweep off",
            );
        }
        if !(1..=LARGEST_RECEIVE_BUFFER).contains(&self.receive_buffer) {
            return invalid("Options::receive_buffer", "must be 1 byte to 1 GiB");
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

    /// The I2P part of the shared state, if there is to be one.
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
