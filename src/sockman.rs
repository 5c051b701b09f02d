//! `SockMan`: the public methods, and the state that they share with the threads.
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
    error::{BindError, SendError, StartError},
    event_handler::EventHandler,
    options::Options,
    stats::Stats,
    sys::Sock,
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
    /// Makes one. No thread is started and nothing is bound.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for options that make no sense; otherwise what the
    /// operating system says when it gives no poller (out of descriptors).
    pub fn new(handler: Arc<dyn EventHandler>, options: Options) -> io::Result<SockMan> {
        Ok(SockMan { shared: Arc::new(Shared::new(handler, options)?) })
    }

    /// Binds to `to`, starts to listen, and returns the address really bound, which differs from
    /// `to` for port 0.
    ///
    /// Any number of listeners, at any time: before the threads start, clients wait in the
    /// kernel's backlog. IP sockets are bound with `SO_REUSEADDR`, IPv6 ones for IPv6 alone, so
    /// that `0.0.0.0` and `[::]` may listen on one port side by side. A unix-domain path that
    /// exists is never removed here; one that this call makes is removed by
    /// [`stop_listening`](SockMan::stop_listening).
    ///
    /// The socket thread takes it into its poll set. If the poller refuses that (the system's
    /// limit of watches is reached), an error is logged, clients wait in the backlog, and it is
    /// tried again, as after any lack of resources: after 100 ms, then ever less often, at most a
    /// second apart.
    ///
    /// # Errors
    ///
    /// [`BindError`]; nothing is left behind.
    pub fn bind_and_start_listening(&self, to: &Service) -> Result<Service, BindError> {
        Ok(self.shared.add_listener(Listener::bind(&self.shared.options, to)?))
    }

    /// Takes over a listening stream socket (TCP or unix-domain) that somebody else bound, as
    /// systemd hands over, and returns its address. It is made non-blocking, close-on-exec and
    /// without Nagle's delay. Its path, if it has one, stays when it is closed.
    ///
    /// # Errors
    ///
    /// [`BindError::NotAListener`]; the descriptor is closed.
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
    pub fn start_sockets_threads(&self) -> Result<SocketsThreads, StartError> {
        threads::start(self)
    }

    /// Connects to `to`, and blocks the caller until that succeeded, failed, timed out or was
    /// interrupted. The connection is not polled, and no callback names it, before
    /// [`NewConnection::activate`]: register its id first.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]. From a callback, [`ConnectError::OnSocketThread`].
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::{ConnectOptions, Destination};
    ///
    /// let to: Destination = "127.0.0.1:8333".parse()?;
    /// let connection = sockman.connect(&to, &ConnectOptions::default())?;
    /// println!("connection {} from {}", connection.id(), connection.me());
    /// // Put connection.id() into your own table here. Then:
    /// connection.activate();
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(
        &self,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<NewConnection, ConnectError> {
        connect::connect(self, to, options)
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
    pub fn connect_and_make_id(
        &self,
        to: &Destination,
        options: &ConnectOptions,
        register: impl FnOnce(ConnectionId, &Service),
    ) -> Result<ConnectionId, ConnectError> {
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
    /// [`ConnectError::TooManyConnections`]; the socket is closed.
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
    ///     let id = sockman.start_connect(&address.parse()?, &ConnectOptions::default())?;
    ///     println!("connecting to {address} as connection {id}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_connect(
        &self,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<ConnectionId, ConnectError> {
        connect::start_connect(self, to, options)
    }

    /// Sends what the kernel takes of `data` at once, and says how many bytes that was. `Ok(0)`
    /// means that it takes none now; then, or when less was taken than given, queue the rest and
    /// send it in [`event_ready_to_send`](EventHandler::event_ready_to_send).
    ///
    /// From another thread than the socket thread, call [`wake`](SockMan::wake) *after* queueing
    /// the rest: the moment at which there is room again may have gone by in between.
    /// [`SendQueue`](crate::SendQueue) does all this.
    ///
    /// `will_send_more`: more follows at once, so the kernel may hold back a packet that is not
    /// full (`MSG_MORE` on Linux, nothing elsewhere). Empty `data` makes no system call.
    ///
    /// # Errors
    ///
    /// [`SendError::UnknownConnection`] for an id that is closed or never was;
    /// [`SendError::Socket`] if the socket is broken. The connection is not closed for you.
    pub fn send_bytes(
        &self,
        id: ConnectionId,
        data: &[u8],
        will_send_more: bool,
    ) -> Result<usize, SendError> {
        self.send(id, data.len(), |sock| sock.send(data, will_send_more))
    }

    /// [`send_bytes`](SockMan::send_bytes) for data in several pieces, in one system call. At most
    /// as many pieces as the system takes (1024 on Linux) are sent at once.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](SockMan::send_bytes).
    pub fn send_vectored(
        &self,
        id: ConnectionId,
        data: &[IoSlice<'_>],
        will_send_more: bool,
    ) -> Result<usize, SendError> {
        let data = data.get(..MAX_PIECES).unwrap_or(data);
        let length = data.iter().map(|piece| piece.len()).sum();
        self.send(id, length, |sock| sock.send_vectored(data, will_send_more))
    }

    /// Half-closes: the peer reads the end of the stream, and may go on sending. What the kernel
    /// took before is sent first; what is still queued in your own program is not known here.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](SockMan::send_bytes).
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
    /// listeners and what [`start_connect`](SockMan::start_connect) began stay; [`SocketsThreads::join`] waits for the end and clears the interrupt again.
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
