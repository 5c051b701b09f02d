//! The options of a [`SockMan`](crate::SockMan): each with unit, default, and what happens at the
//! limit. Plain data; no thread and no lock.

use std::{io, num::NonZeroUsize, sync::Arc, time::Duration};

use crate::{
    dial::i2p::I2pOptions,
    sys::{OsSockFactory, SockFactory, interrupt::Interrupt},
};

/// The default of [`Options::sweep`]: 50 ms, as Bitcoin Core's `SELECT_TIMEOUT_MILLISECONDS`.
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
    /// [`ConnectError::TooManyConnections`](crate::ConnectError::TooManyConnections). All resume
    /// by themselves.
    pub fn max_connections(mut self, connections: usize) -> Options {
        self.max_connections = connections;
        self
    }

    /// How many connections one listener accepts in one pass, and how many connects begun with
    /// [`SockMan::start_connect`](crate::SockMan::start_connect) are looked at in one. Default: 64.
    /// The rest follows in the next passes, after the established connections had their turn.
    pub fn accept_batch(mut self, connections: NonZeroUsize) -> Options {
        self.accept_batch = connections.get();
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
    /// Less than 1 ms is refused by [`SockMan::new`](crate::SockMan::new): it would be a busy
    /// loop.
    pub fn sweep(mut self, period: Option<Duration>) -> Options {
        self.sweep = period;
        self
    }

    /// The size in bytes of the socket thread's one receive buffer, and so the most that one
    /// [`event_got_data`](crate::EventHandler::event_got_data) delivers. Default: 64 KiB. For
    /// bulk uploads on several connections at once, 1 MiB takes less processor time for a byte. More
    /// than 1 GiB is refused by [`SockMan::new`](crate::SockMan::new).
    pub fn receive_buffer(mut self, bytes: NonZeroUsize) -> Options {
        self.receive_buffer = bytes.get();
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

    pub(crate) fn validate(&self) -> io::Result<()> {
        if self.sweep.is_some_and(|period| period < SHORTEST_SWEEP) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "Options::sweep below 1 ms would be a busy loop: give a longer period, or None \
                 for no sweep",
            ));
        }
        if self.receive_buffer > LARGEST_RECEIVE_BUFFER {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "Options::receive_buffer is larger than 1 GiB",
            ));
        }
        if self.thread_name.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "Options::thread_name contains a NUL byte",
            ));
        }
        self.i2p.as_ref().map_or(Ok(()), I2pOptions::validate)
    }
}
