//! `SockMan`: the public methods. The state behind them is the engine's `shared`.
//!
//! Runs on the caller's thread. Each lock in [`Shared`] is held for a moment, and none while
//! calling out.

use std::{
    fmt,
    io::{self, IoSlice},
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectOptions},
    engine::{
        connect::{self, NewConnection},
        connection::{ConnectionId, ConnectionInfo},
        inbox::Mark,
        listener::Listener,
        shared::Shared,
        threads::{self, Run, SocketsThreads},
    },
    error::{BindError, CreateError, SendError, StartError},
    event_handler::EventHandler,
    options::Options,
    stats::Stats,
    sys::{More, Sock},
};

/// The socket manager. A clone is another handle to the same one; every method may be called from
/// every thread, and from every callback.
///
/// When the last handle goes and no thread runs, everything is closed. While the threads run they
/// hold one themselves: it is the [`SocketsThreads`] guard that ends them.
#[derive(Clone)]
pub struct SockMan {
    shared: Arc<Shared>,
}

/// A handle that keeps nothing alive: for handlers that want to keep one.
#[derive(Clone, Debug, Default)]
pub struct WeakSockMan {
    shared: Weak<Shared>,
}

impl SockMan {
    /// Creates a `SockMan`. No thread is started and nothing is bound.
    ///
    /// # Errors
    ///
    /// [`CreateError`]: an option is out of its range, or the operating system gives no poller.
    pub fn new(handler: Arc<dyn EventHandler>, options: Options) -> Result<SockMan, CreateError> {
        Ok(SockMan { shared: Arc::new(Shared::new(handler, options)?) })
    }

    /// Binds to `to`, starts to listen, and returns the address that was bound. It differs from `to`
    /// if the port was 0.
    ///
    /// `to` is a [`Service`], a `SocketAddr`, or text such as `"127.0.0.1:8333"`.
    ///
    /// There may be any number of listeners, added at any time. Before the threads start, clients
    /// wait in the kernel's backlog. IP sockets are bound with `SO_REUSEADDR`, and IPv6 sockets for
    /// IPv6 alone, so `0.0.0.0` and `[::]` may listen on one port side by side. A unix-domain path
    /// that exists is never removed here. A path that this call creates is removed by
    /// [`stop_listening`](SockMan::stop_listening).
    ///
    /// If the poller refuses to watch the listener (the system's limit of watches is reached), an
    /// error is logged, clients wait in the backlog, and the socket thread tries again after 100 ms,
    /// then less often, at most a second apart.
    ///
    /// # Errors
    ///
    /// [`BindError`]. Nothing is left behind.
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// let bound = sockman.bind_and_start_listening("127.0.0.1:0")?;
    /// println!("listening on {bound}");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "BindAndStartListening")]
    pub fn bind_and_start_listening<E>(
        &self,
        to: impl TryInto<Service, Error = E>,
    ) -> Result<Service, BindError>
    where
        BindError: From<E>,
    {
        let to = to.try_into()?;
        Ok(self.shared.add_listener(Listener::bind(&self.shared.options, &to)?))
    }

    /// Takes over a listening stream socket (TCP or unix-domain) that somebody else bound, as
    /// systemd hands over, and returns its address. It is made non-blocking, close-on-exec and
    /// without Nagle's delay. Its path, if it has one, stays when it is closed.
    ///
    /// # Errors
    ///
    /// [`BindErrorKind::NotAListener`](crate::error::BindErrorKind::NotAListener); the descriptor is closed.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let bound = sockman.start_listening_on(listener)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_listening_on(&self, listener: impl Into<OwnedFd>) -> Result<Service, BindError> {
        let factory = &*self.shared.options.sock_factory;
        Ok(self.shared.add_listener(Listener::adopt(factory, listener.into())?))
    }

    /// Stops and closes all listeners, and removes the unix-domain paths that they made. One that
    /// was adopted is only let go of: a copy of it in another process goes on listening. Accepted
    /// connections stay. From another thread than the socket thread, at most the one
    /// [`event_new_connection_accepted`](EventHandler::event_new_connection_accepted) that was
    /// under way may still begin or end.
    #[doc(alias = "StopListening")]
    pub fn stop_listening(&self) {
        let stopped = self.shared.take_listeners();
        if stopped.is_empty() {
            return;
        }
        for listener in &stopped {
            listener.stop();
            log::debug!(target: "sockman::net", "stopped listening on {}", listener.address());
        }
        drop(stopped);
        if threads::is_socket_thread_of(&self.shared) {
            self.shared.inbox.push(Mark::ListenersStopped);
            return;
        }
        match &mut *self.shared.run.lock() {
            Run::Running => self.shared.inbox.push(Mark::ListenersStopped),
            Run::Stopped(socket_thread) => socket_thread.remove_closed(&self.shared.inbox),
        }
    }

    /// Starts the socket thread. It runs until interrupted; keep the guard.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing was started.
    #[doc(alias = "StartSocketsThreads")]
    pub fn start_sockets_threads(&self) -> Result<SocketsThreads, StartError> {
        threads::start(self)
    }

    /// Connects to `to`, and blocks the caller until that succeeded, failed, timed out or was
    /// interrupted. The connection is not polled, and no callback names it, before
    /// [`NewConnection::activate`]: register its id first.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]. From a callback on the socket thread,
    /// [`ConnectErrorKind::OnSocketThread`](crate::error::ConnectErrorKind::OnSocketThread).
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// let connection = sockman.connect("127.0.0.1:8333", &ConnectOptions::default())?;
    /// println!("connection {} from {}", connection.id(), connection.me());
    /// // Put connection.id() into your own table here. Then:
    /// connection.activate();
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect<E>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
    ) -> Result<NewConnection, ConnectError>
    where
        ConnectError: From<E>,
    {
        connect::connect(self, &to.try_into()?, options)
    }

    /// [`connect`](SockMan::connect), then `register` with the id and this side's address, then
    /// [`activate`](NewConnection::activate): Core's `ConnectAndMakeId` in one call, with the
    /// registration in its right place.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; then `register` was not called.
    ///
    /// # Panics
    ///
    /// If `register` does; the connection is then closed and never named.
    #[doc(alias = "ConnectAndMakeId")]
    pub fn connect_and_make_id<E>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
        register: impl FnOnce(ConnectionId, &Service),
    ) -> Result<ConnectionId, ConnectError>
    where
        ConnectError: From<E>,
    {
        let connection = self.connect(to, options)?;
        let id = connection.id();
        register(id, connection.me());
        connection.activate();
        Ok(id)
    }

    /// Makes a connection of a socket that somebody else connected, such as a test's double. Core's
    /// `TestOnlyAddExistentConnection`; feature `testing`. It is polled from
    /// [`NewConnection::activate`] on, as what [`connect`](SockMan::connect) returns.
    ///
    /// # Errors
    ///
    /// [`ConnectErrorKind::TooManyConnections`](crate::error::ConnectErrorKind::TooManyConnections); the socket is closed.
    #[doc(alias = "TestOnlyAddExistentConnection")]
    #[cfg(feature = "testing")]
    pub fn add_existing_connection(
        &self,
        sock: Box<dyn Sock>,
        me: &Service,
        them: &Service,
    ) -> Result<NewConnection, ConnectError> {
        connect::add_existing(self, sock, me, them)
    }

    /// Begins to connect to `to` and returns at once, with the id that the connection will have; the
    /// socket thread does the rest. For thousands of connects at once, each of which would block a
    /// thread with [`connect`](SockMan::connect); and for connects from callbacks.
    ///
    /// The outcome is told, once, by
    /// [`event_connect_completed`](EventHandler::event_connect_completed): within
    /// [`ConnectOptions::timeout`], or at once when [`ConnectOptions::cancel`] is set. No other
    /// callback names the id before that. It may be told before this call has returned: a table of
    /// attempts by id is filled under a lock that is held across this call and taken in the
    /// callback. Until then the id can be closed, which ends the attempt without a word, and
    /// cannot be sent to.
    ///
    /// With no thread running the attempt goes on as far as the kernel brings it, and its outcome
    /// waits for the next start: an interrupt ends the threads and not the attempt.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] for what is wrong at once; then `event_connect_completed` is not called.
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// for address in ["192.0.2.1:8333", "192.0.2.2:8333"] {
    ///     let id = sockman.start_connect(address, &ConnectOptions::default())?;
    ///     println!("connecting to {address} as connection {id}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_connect<E>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
    ) -> Result<ConnectionId, ConnectError>
    where
        ConnectError: From<E>,
    {
        connect::start_connect(self, &to.try_into()?, options)
    }

    /// Sends as much of `data` as the kernel takes at once, and returns how many bytes that was.
    ///
    /// `Ok(0)` means that the kernel takes none now. Queue what was not taken, and send it in
    /// [`event_ready_to_send`](EventHandler::event_ready_to_send). Empty `data` makes no system
    /// call.
    ///
    /// On a thread other than the socket thread, call [`wake`](SockMan::wake) *after* queueing the
    /// rest: the kernel may report new room before the rest is queued.
    /// [`SendQueue`](crate::SendQueue) does all this.
    ///
    /// # Errors
    ///
    /// [`SendError::UnknownConnection`] if the id is closed, never existed, or belongs to another
    /// `SockMan`; [`SendError::Socket`] if the socket is broken. The library does not close the
    /// connection.
    #[doc(alias = "SendBytes")]
    pub fn send_bytes(&self, id: ConnectionId, data: &[u8]) -> Result<usize, SendError> {
        self.send(id, data.len(), |sock| sock.send(data, More::No))
    }

    /// Sends several pieces in one system call; otherwise as [`send_bytes`](SockMan::send_bytes).
    ///
    /// The system takes a limited number of pieces at once (1024 on Linux). The rest counts as not
    /// taken.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](SockMan::send_bytes).
    pub fn send_vectored(
        &self,
        id: ConnectionId,
        pieces: &[IoSlice<'_>],
    ) -> Result<usize, SendError> {
        self.send_with(id, pieces, More::No)
    }

    /// As [`send_vectored`](SockMan::send_vectored), for a caller that knows whether more data follows
    /// at once. Core's `will_send_more`.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](SockMan::send_bytes).
    #[doc(alias = "will_send_more")]
    pub fn send_with(
        &self,
        id: ConnectionId,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        if let [piece] = pieces {
            // `send(2)` costs less than `sendmsg(2)`.
            return self.send(id, piece.len(), |sock| sock.send(piece, more));
        }
        let pieces = pieces.get(..MAX_PIECES).unwrap_or(pieces);
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.send(id, length, |sock| sock.send_vectored(pieces, more))
    }

    /// Half-closes: the peer reads the end of the stream, and may go on sending. What the kernel
    /// took before is sent first; what is still queued in your own program is not known here.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](SockMan::send_bytes).
    #[doc(alias = "ShutdownSend")]
    pub fn shutdown_write(&self, id: ConnectionId) -> Result<(), SendError> {
        match self.shared.connections.find(id) {
            Some(connection) => connection.shutdown_write(),
            None => Err(SendError::UnknownConnection(id)),
        }
    }

    /// Closes a connection. `true` for the one call that did it, `false` if the id is closed or
    /// never was. The peer sees it at once.
    ///
    /// From the socket thread, no further callback names the id. From another thread, at most the
    /// one callback under way may still begin or end.
    #[doc(alias = "CloseConnection")]
    pub fn close_connection(&self, id: ConnectionId) -> bool {
        self.shared.close(id)
    }

    /// Has this connection's hooks asked again at once, on the socket thread: call it when
    /// something was queued for it, or when its answer to
    /// [`should_try_to_recv`](EventHandler::should_try_to_recv) changed. Many wakes before that
    /// are one. A wake of a connection that is not activated yet is kept; of one that is closed,
    /// nothing.
    pub fn wake(&self, id: ConnectionId) {
        let Some(connection) = self.shared.connections.find(id) else { return };
        if connection.mark_woken() {
            self.shared.inbox.push(Mark::Woken(connection));
        }
    }

    /// Has the loop run a pass at once:
    /// [`event_io_loop_completed_for_all`](EventHandler::event_io_loop_completed_for_all) is
    /// called and [`next_deadline`](EventHandler::next_deadline) is asked again.
    pub fn notify(&self) {
        self.shared.inbox.notify();
    }

    /// A handle that keeps nothing alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakSockMan {
        WeakSockMan { shared: Arc::downgrade(&self.shared) }
    }

    /// Ends the threads and every blocking connect under way, in milliseconds. Connections,
    /// listeners and what [`start_connect`](SockMan::start_connect) began stay;
    /// [`SocketsThreads::join`] waits for the end and clears the interrupt again.
    #[doc(alias = "interruptNet")]
    pub fn interrupt(&self) {
        self.shared.interrupt.interrupt();
    }

    /// Clears the `SockMan`'s own interrupt while no thread runs, so that the threads can be
    /// started: for one that was interrupted before its start. ([`SocketsThreads::join`] does this
    /// by itself.) While threads run it does nothing and returns `false`. An interrupt given with
    /// [`Options::interrupt`] is its owner's to reset.
    pub fn reset_interrupt(&self) -> bool {
        match &*self.shared.run.lock() {
            Run::Running => false,
            Run::Stopped(_) => {
                self.shared.interrupt.reset();
                true
            }
        }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        shared.counters.snapshot(&shared.connections, shared.listener_count())
    }

    /// What is known of a connection now. `None` if it is closed or never was.
    #[must_use]
    pub fn connection_info(&self, id: ConnectionId) -> Option<ConnectionInfo> {
        self.shared.connections.find(id).map(|connection| connection.info(self.shared.created))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn send(
        &self,
        id: ConnectionId,
        length: usize,
        send: impl FnMut(&dyn Sock) -> io::Result<usize>,
    ) -> Result<usize, SendError> {
        let Some(connection) = self.shared.connections.find(id) else {
            return Err(SendError::UnknownConnection(id));
        };
        if length == 0 {
            return Ok(0);
        }
        connection.send(length, threads::is_socket_thread_of(&self.shared), send)
    }
}

impl fmt::Debug for SockMan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SockMan").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl WeakSockMan {
    /// The `SockMan`, if it still exists.
    #[must_use]
    pub fn upgrade(&self) -> Option<SockMan> {
        self.shared.upgrade().map(|shared| SockMan { shared })
    }
}

/// Linux's `UIO_MAXIOV`, and everybody else's `IOV_MAX`: with more, `sendmsg` fails.
const MAX_PIECES: usize = 1024;
