//! The public methods of [`SockMan`]. Those that connect, that end connections, and that take over and
//! hand out streams, and the weak handle [`WeakSockMan`], have files of their own.
//!
//! Both types own a reference to the [`Shared`] state and nothing else. The methods run on the
//! caller's thread. Each lock in [`Shared`] is held for a moment. No lock is held while the
//! embedder's code runs.

mod connecting;
mod ending;
mod handover;
mod weak;

use std::{fmt, io::IoSlice, mem, sync::Arc};

pub use self::weak::WeakSockMan;
use crate::{
    address::Service,
    engine::{
        connection::{Connection, ConnectionId, ConnectionInfo},
        inbox::Mark,
        listener::Listener,
        shared::Shared,
        threads::{self, Run, SocketsThreads},
    },
    error::{BindError, CreateError, RunError, SendError, StartError},
    event_handler::EventHandler,
    options::Options,
    stats::Stats,
    sys::{More, OwnedSocket, SocketOptions},
};

/// The socket manager: binds, listens, accepts, connects, sends and closes. A clone is another
/// handle to the same `SockMan`.
///
/// Every method may be called from every thread and from every callback. Only these block:
/// [`connect`](SockMan::connect), [`connect_and_make_id`](SockMan::connect_and_make_id),
/// [`run_sockets_thread`](SockMan::run_sockets_thread) and
/// [`run_sockets_thread_with`](SockMan::run_sockets_thread_with), which return an error on the socket
/// thread, and on another thread [`into_stream`](SockMan::into_stream), for as long as the callbacks under
/// way take.
///
/// When the last handle is dropped and no thread runs, all connections and listeners are closed.
/// Running threads hold a handle themselves. The [`SocketsThreads`] guard ends the threads.
pub struct SockMan {
    shared: Arc<Shared>,
    /// In the handle that a callback for a connection gets: the connection. A send on it needs no
    /// look-up.
    current: Option<Arc<Connection>>,
}

impl Clone for SockMan {
    fn clone(&self) -> SockMan {
        // A clone may outlive the callback, and would keep the descriptor open.
        SockMan::of(Arc::clone(&self.shared))
    }
}

impl SockMan {
    /// Creates a `SockMan`. The call starts no thread and binds nothing.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if an option is out of its range, or if the operating system provides no
    /// poller.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{io, sync::Arc};
    /// # use sockman::{ConnectionId, EventHandler, Options, Service, SockMan};
    /// # struct Handler;
    /// # impl EventHandler for Handler {
    /// #     fn event_new_connection_accepted(&self, _: &SockMan, _: ConnectionId, _: &Service, _: &Service) -> bool { true }
    /// #     fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    /// #     fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) { sockman.close_connection(id); }
    /// #     fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) { sockman.close_connection(id); }
    /// # }
    /// // `Handler` implements `EventHandler`.
    /// let sockman = SockMan::new(Arc::new(Handler), Options::default().max_connections(125))?;
    /// assert_eq!(sockman.stats().connections, 0);
    ///
    /// let options = Options::default().accept_batch(0);
    /// let error = SockMan::new(Arc::new(Handler), options).unwrap_err();
    /// assert_eq!(error.to_string(), "Options::accept_batch must be at least 1");
    /// # Ok::<(), sockman::error::CreateError>(())
    /// ```
    pub fn new(handler: Arc<dyn EventHandler>, options: Options) -> Result<SockMan, CreateError> {
        Ok(SockMan::of(Arc::new(Shared::new(handler, options)?)))
    }

    /// Binds to `to`, starts to listen, and returns the bound address. The bound address differs
    /// from `to` if the port was 0.
    ///
    /// `to` is a [`Service`], a `SocketAddr`, or text such as `"127.0.0.1:8333"`.
    ///
    /// A `SockMan` may have any number of listeners. Listeners may be added at any time. Before the
    /// threads start, clients wait in the kernel's backlog, which has the longest length that the
    /// kernel allows.
    ///
    /// IP sockets are bound with `SO_REUSEADDR`. IPv6 sockets are bound for IPv6 alone, so
    /// `0.0.0.0` and `[::]` may listen on one port side by side.
    ///
    /// The call never removes an existing unix-domain path.
    /// [`stop_listening`](SockMan::stop_listening) removes a path that this call created.
    ///
    /// The poller may refuse to watch the listener, for example because the system's limit of
    /// watches is reached. In this case the library logs an error, and clients wait in the backlog.
    /// The socket thread tries again after 100 ms, and then with waits that grow up to one second.
    ///
    /// # Errors
    ///
    /// [`BindError`]. A failed call leaves no socket and no socket file behind.
    ///
    /// # Examples
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
        self.bind_and_start_listening_with(to, &SocketOptions::default())
    }

    /// Works as [`bind_and_start_listening`](SockMan::bind_and_start_listening), with options of the
    /// listener's socket, for example the size of its buffers. The connections that the listener
    /// accepts have the same options.
    ///
    /// # Errors
    ///
    /// [`BindError`]. If an option cannot be set, the kind is
    /// [`BindErrorKind::SocketOption`](crate::error::BindErrorKind::SocketOption).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use sockman::options::SocketOptions;
    ///
    /// let socket = SocketOptions::default().keepalive_idle(Duration::from_secs(60));
    /// let bound = sockman.bind_and_start_listening_with("127.0.0.1:0", &socket)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind_and_start_listening_with<E>(
        &self,
        to: impl TryInto<Service, Error = E>,
        options: &SocketOptions,
    ) -> Result<Service, BindError>
    where
        BindError: From<E>,
    {
        let to = to.try_into()?;
        Ok(self.shared.add_listener(Listener::bind(&self.shared.options, &to, options)?))
    }

    /// Takes over a listening stream socket (TCP or unix-domain) that another program bound, for
    /// example systemd. Returns the socket's address.
    ///
    /// The socket is made non-blocking and close-on-exec, and Nagle's delay is turned off. If the
    /// socket has a path, the path stays when the socket is closed. Accepted connections inherit
    /// the options that the other program has set, except `SO_LINGER`: a lingering close would
    /// block the socket thread.
    ///
    /// Another process may hold the same socket, accept some of the clients, and clear
    /// `O_NONBLOCK`, which belongs to the socket. Before each accept, the socket thread checks that
    /// a client waits and sets `O_NONBLOCK` again. A wait in `accept` remains possible only if the
    /// other process clears `O_NONBLOCK` and takes the last client between these two system calls
    /// and the accept. Such a wait ends when the next client comes. The check needs one more
    /// descriptor for each adopted listener.
    ///
    /// # Errors
    ///
    /// * [`BindErrorKind::NotAListener`](crate::error::BindErrorKind::NotAListener): the descriptor
    ///   is something else.
    /// * [`BindErrorKind::Os`](crate::error::BindErrorKind::Os): the system failed for a reason
    ///   that says nothing about the descriptor, such as a lack of memory.
    ///
    /// If the call fails, the descriptor is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let bound = sockman.start_listening_on(listener)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_listening_on(
        &self,
        listener: impl Into<OwnedSocket>,
    ) -> Result<Service, BindError> {
        let factory = &*self.shared.options.sock_factory;
        Ok(self.shared.add_listener(Listener::adopt(factory, listener.into())?))
    }

    /// Stops and closes all listeners, and removes the unix-domain paths that they created.
    /// Accepted connections stay.
    ///
    /// An adopted listener is closed but not shut down, so a copy of it in another process
    /// continues to listen.
    ///
    /// After a call on the socket thread, no listener accepts. After a call on another thread, at
    /// most the one [`event_new_connection_accepted`](EventHandler::event_new_connection_accepted)
    /// that was under way may still begin or end.
    ///
    /// On Linux, the addresses are free when the call returns. On macOS, the BSDs and Windows, they
    /// are free when the socket thread, if one runs, has released the listeners: at the beginning of its
    /// next pass.
    #[doc(alias = "StopListening")]
    pub fn stop_listening(&self) {
        let stopped = self.shared.take_listeners();
        if stopped.is_empty() {
            return;
        }
        let stopped_count = stopped.len();
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
            Run::Running { .. } => self.shared.inbox.push(Mark::ListenersStopped),
            Run::Stopped(socket_thread) => {
                socket_thread.remove_stopped_listeners();
                self.shared.inbox.closed(stopped_count);
            }
        }
    }

    /// Starts the socket thread, and the I2P-accept thread if the options ask for it. The threads
    /// run until they are interrupted. Keep the guard: dropping it ends the threads.
    ///
    /// # Errors
    ///
    /// [`StartError`]. If the call fails, no thread was started. If only the I2P-accept thread
    /// cannot be started, the socket thread ends, and [`SocketsThreads::join`] returns the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// let threads = sockman.start_sockets_threads()?;
    /// // The handler receives events now. Later, from this or another thread:
    /// sockman.interrupt();
    /// threads.join()?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "StartSocketsThreads")]
    pub fn start_sockets_threads(&self) -> Result<SocketsThreads, StartError> {
        threads::start(self)
    }

    /// Runs the loop on the calling thread, until an interrupt is set. The call is
    /// [`start_sockets_threads`](SockMan::start_sockets_threads) and
    /// [`join`](SocketsThreads::join) in one, without a new thread. It suits programs with one
    /// thread, and tests.
    ///
    /// During the call, the calling thread is the socket thread: it makes the callbacks, and all
    /// guarantees hold. [`interrupt`](SockMan::interrupt), in a callback or on another thread, ends
    /// the call. Before the call returns, it resets the `SockMan`'s own interrupt, so the loop can
    /// be run again. Connections and listeners stay.
    ///
    /// The I2P-accept thread, if the options ask for it, is still a thread of its own. The call
    /// returns after that thread has ended.
    ///
    /// A panic of a callback that ends the loop
    /// ([`PanicPolicy::Stop`](crate::options::PanicPolicy::Stop)) does not unwind through this call.
    /// The call returns the panic, as `join` does, so that both ways to run have the same errors.
    /// [`RunError`] shows how to continue the panic.
    ///
    /// # Errors
    ///
    /// [`RunError`]: the loop runs already, an interrupt was set before, the call was made in a
    /// callback, a callback panicked, or a poller failed.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// // The last line of a program. A callback calls `interrupt` to end it.
    /// sockman.run_sockets_thread()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_sockets_thread(&self) -> Result<(), RunError> {
        threads::run_here(self, &mut |_| {})
    }

    /// Works as [`run_sockets_thread`](SockMan::run_sockets_thread), and calls `in_each_pass` in
    /// each pass, right after
    /// [`event_io_loop_completed_for_all`](EventHandler::event_io_loop_completed_for_all).
    ///
    /// Use this method for an engine that is not `Send`, or that borrows. A handler cannot hold such
    /// an engine, but the closure can: the closure stays on the calling thread, and may use the
    /// caller's variables. The handler puts what happens on the connections into a queue, and the
    /// closure hands it to the engine. The next pass follows the callbacks at once, so the queue is
    /// short.
    ///
    /// All that is said of `event_io_loop_completed_for_all` holds for the closure. It may call every
    /// method of the `SockMan`. A [`notify`](SockMan::notify) on another thread is followed by a
    /// call. The handler's [`next_deadline`](EventHandler::next_deadline) is asked before and after
    /// the call.
    ///
    /// # Errors
    ///
    /// As [`run_sockets_thread`](SockMan::run_sockets_thread). A panic of the closure ends the loop
    /// under every [`PanicPolicy`](crate::options::PanicPolicy), and is returned as a panic of a
    /// callback.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// let passes = Rc::new(Cell::new(0)); // Not `Send`.
    /// sockman.run_sockets_thread_with(|sockman| {
    ///     passes.set(passes.get() + 1);
    ///     if passes.get() == 100 {
    ///         sockman.interrupt();
    ///     }
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_sockets_thread_with(
        &self,
        mut in_each_pass: impl FnMut(&SockMan),
    ) -> Result<(), RunError> {
        threads::run_here(self, &mut in_each_pass)
    }

    /// Sends as much of `data` as the kernel takes at once, and returns the number of bytes sent.
    ///
    /// `Ok(0)` means that the kernel takes no bytes now. Queue the rest of `data`, and send it in
    /// [`event_ready_to_send`](EventHandler::event_ready_to_send). Empty `data` makes no system
    /// call.
    ///
    /// A send that lacks memory or buffers for the moment (`ENOBUFS`, `ENOMEM`) returns `Ok(0)`
    /// too. No event reports the end of such a lack, so the socket thread calls the hooks again
    /// after a pause of 10 ms. The pause doubles with each further failure, up to 200 ms. The
    /// library never reports such a lack as an error: a time-out ends a connection on which it
    /// lasts.
    ///
    /// On a thread other than the socket thread, call [`wake`](SockMan::wake) *after* queueing the
    /// rest, because the kernel may report new room before the rest is queued. A
    /// [`SendQueue`](crate::SendQueue) queues the rest and wakes at the right time.
    ///
    /// # Errors
    ///
    /// * [`SendError::UnknownConnection`] if the id is closed, never existed, or belongs to another
    ///   `SockMan`;
    /// * [`SendError::Socket`] if the socket is broken. The library does not close the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{ConnectionId, SockMan, error::SendError};
    /// # fn f(sockman: &SockMan, id: ConnectionId, queue: &mut Vec<u8>) -> Result<(), SendError> {
    /// let sent = sockman.send_bytes(id, queue)?;
    /// // The rest stays in the queue for `event_ready_to_send`.
    /// queue.drain(..sent);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "SendBytes")]
    #[inline]
    pub fn send_bytes(&self, id: ConnectionId, data: &[u8]) -> Result<usize, SendError> {
        match &self.current {
            Some(current) if current.id == id => self.shared.send_bytes(current, data),
            _ => self.send_elsewhere(id, data),
        }
    }

    /// Sends several pieces in one system call. In all else, this method works as
    /// [`send_bytes`](SockMan::send_bytes).
    ///
    /// The system takes a limited number of pieces at once (1024 on Linux). The pieces beyond this
    /// number count as not sent. Empty pieces do not count.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`send_bytes`](SockMan::send_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{ConnectionId, SockMan, error::SendError};
    /// use std::io::IoSlice;
    ///
    /// # fn f(sockman: &SockMan, id: ConnectionId, body: &[u8]) -> Result<(), SendError> {
    /// let head = (body.len() as u32).to_be_bytes();
    /// let sent = sockman.send_vectored(id, &[IoSlice::new(&head), IoSlice::new(body)])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_vectored(
        &self,
        id: ConnectionId,
        pieces: &[IoSlice<'_>],
    ) -> Result<usize, SendError> {
        self.send_with(id, pieces, More::No)
    }

    /// Works as [`send_vectored`](SockMan::send_vectored), for a caller that knows whether more
    /// data follows at once. Core's name for this choice is `will_send_more`.
    ///
    /// With [`More::Follows`], the kernel may hold back a packet that is not full (`MSG_MORE`).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`send_bytes`](SockMan::send_bytes).
    #[doc(alias = "will_send_more")]
    pub fn send_with(
        &self,
        id: ConnectionId,
        pieces: &[IoSlice<'_>],
        more: More,
    ) -> Result<usize, SendError> {
        self.with_connection(id, |connection| self.shared.send_with(connection, pieces, more))
    }

    /// Half-closes the connection. The peer reads the end of the stream and may go on sending.
    ///
    /// The bytes that the kernel has taken are sent first. Bytes that are still queued in the
    /// embedder's program can no longer be sent: half-close only when the queue is empty.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`send_bytes`](SockMan::send_bytes).
    #[doc(alias = "ShutdownSend")]
    pub fn shutdown_write(&self, id: ConnectionId) -> Result<(), SendError> {
        self.with_connection(id, |connection| self.shared.shutdown_write(connection))
    }

    /// Closes a connection. Returns `true` for the one call that closed the connection, and `false`
    /// if the id is already closed or never existed. The peer sees the close at once.
    ///
    /// After a close on the socket thread, only [`event_closed`](EventHandler::event_closed) names
    /// the id. After a close on another thread, at most the one callback under way may still begin
    /// or end before.
    ///
    /// The peer may lose the end of what was sent if received bytes were not read.
    /// [`finish_connection`](SockMan::finish_connection) prevents that.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{ConnectionId, SockMan};
    /// # fn f(sockman: &SockMan, id: ConnectionId) {
    /// if sockman.close_connection(id) {
    ///     println!("closed connection {id}");
    /// }
    /// assert!(!sockman.close_connection(id), "only one call closes it");
    /// # }
    /// ```
    #[doc(alias = "CloseConnection")]
    pub fn close_connection(&self, id: ConnectionId) -> bool {
        self.shared.close(id)
    }

    /// Makes the socket thread ask the hooks of this connection again at once.
    ///
    /// Call this method after queueing data for the connection, and when the answer of
    /// [`should_try_to_recv`](EventHandler::should_try_to_recv) has changed.
    ///
    /// Several wakes before the hooks are asked count as one. A wake of a connection that is not
    /// activated yet is kept. A wake of a closed connection does nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Mutex;
    /// # use sockman::{ConnectionId, SockMan};
    /// # fn f(sockman: &SockMan, id: ConnectionId, queue: &Mutex<Vec<u8>>, reply: &[u8]) {
    /// // On any thread: queue the bytes first, then wake. `should_try_to_send` looks at the queue.
    /// queue.lock().unwrap().extend_from_slice(reply);
    /// sockman.wake(id);
    /// # }
    /// ```
    pub fn wake(&self, id: ConnectionId) {
        // A wake of an unknown connection does nothing.
        let _ = self.with_connection(id, |connection| {
            if !connection.is_closed() {
                self.shared.wake(connection);
            }
            Ok(())
        });
    }

    /// Makes the socket thread run a pass at once:
    /// [`event_io_loop_completed_for_all`](EventHandler::event_io_loop_completed_for_all) is
    /// called, and [`next_deadline`](EventHandler::next_deadline) is asked again. Several calls
    /// before the pass count as one.
    pub fn notify(&self) {
        self.shared.inbox.notify();
    }

    /// Ends the threads and every blocking connect under way, within milliseconds.
    ///
    /// The interrupt does not close connections or listeners, and does not end connects that
    /// [`start_connect`](SockMan::start_connect) began. [`SocketsThreads::join`] waits for the
    /// threads to end and clears the interrupt. The method does not set an interrupt given with
    /// [`Options::interrupt`].
    #[doc(alias = "interruptNet")]
    pub fn interrupt(&self) {
        self.shared.interrupt.interrupt();
    }

    /// Clears the `SockMan`'s own interrupt, so that the threads can be started. Returns `true` if
    /// no thread runs. While threads run, the method clears nothing and returns `false`.
    ///
    /// Use this method for a `SockMan` that was interrupted before its start.
    /// ([`SocketsThreads::join`] clears the interrupt itself.) The owner of an interrupt given with
    /// [`Options::interrupt`] must reset that interrupt.
    pub fn reset_interrupt(&self) -> bool {
        match &*self.shared.run.lock() {
            Run::Running { .. } => false,
            Run::Stopped(_) => {
                self.shared.interrupt.reset();
                true
            }
        }
    }

    /// Returns how many connections and listeners exist, and what the `SockMan` has done so far.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) {
    /// let stats = sockman.stats();
    /// println!("{} connections, {} accepted so far", stats.connections, stats.accepted);
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        shared.counters.snapshot(&shared.connections, shared.listener_count())
    }

    /// Returns the ids of all connections, in ascending order. A connect without an outcome and a
    /// connection that is not activated have an id too. A closed connection has none. May be called
    /// from any thread.
    ///
    /// An embedder without a table of its own reaches all its connections with this method, for
    /// example with a [`wake`](SockMan::wake) when something changes that its hooks look at. The
    /// call takes the lock of the map and time for each connection, so it is for rare events.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) {
    /// for id in sockman.connection_ids() {
    ///     sockman.wake(id);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn connection_ids(&self) -> Vec<ConnectionId> {
        let mut ids = self.shared.connections.ids();
        ids.sort_unstable();
        ids
    }

    /// Returns the current state of a connection. Returns `None` if the id is closed, never
    /// existed, or belongs to a connect that has no outcome yet.
    ///
    /// The call makes no system call, unless the connection has hung up: then it may ask the kernel
    /// for the error (`SO_ERROR`). A callback still reports this error later.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan, id: sockman::ConnectionId) {
    /// if let Some(info) = sockman.connection_info(id) {
    ///     println!("{id} is connected to {}", info.them);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn connection_info(&self, id: ConnectionId) -> Option<ConnectionInfo> {
        self.shared.connections.find(id).map(|connection| connection.info(self.shared.created))
    }

    pub(crate) fn of(shared: Arc<Shared>) -> SockMan {
        SockMan { shared, current: None }
    }

    /// Makes this handle the one that callbacks for `current` get, or for no connection. Leaves what
    /// it was before in `current`.
    #[inline]
    pub(crate) fn swap_current(&mut self, current: &mut Option<Arc<Connection>>) {
        mem::swap(&mut self.current, current);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends on a connection that has no callback under way, or another one's.
    #[inline(never)]
    fn send_elsewhere(&self, id: ConnectionId, data: &[u8]) -> Result<usize, SendError> {
        self.with_connection(id, |connection| self.shared.send_bytes(connection, data))
    }

    fn with_connection<R>(
        &self,
        id: ConnectionId,
        call: impl FnOnce(&Arc<Connection>) -> Result<R, SendError>,
    ) -> Result<R, SendError> {
        // A closed connection is unknown. The call finds that out, as after a look-up.
        if let Some(current) = self.current.as_ref().filter(|current| current.id == id) {
            return call(current);
        }
        match self.shared.connections.find(id) {
            Some(connection) => call(&connection),
            None => Err(SendError::UnknownConnection(id)),
        }
    }
}

impl fmt::Debug for SockMan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SockMan").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
