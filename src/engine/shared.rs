//! The state that all handles and threads of one `SockMan` share.
//!
//! Any thread may use the state. Each lock in [`Shared`] is held for a moment. No lock is held
//! while a callback runs.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    attempt::Attempt,
    connection::{Connection, ConnectionId},
    counters::Counters,
    inbox::{Inbox, Mark},
    listener::Listener,
    map::ConnectionMap,
    socket_thread::SocketThread,
    threads::{self, Run},
};
use crate::{
    address::Service,
    dial::I2p,
    error::CreateError,
    event_handler::EventHandler,
    options::Options,
    sys::{
        interrupt::{Interrupt, Watches},
        sync::Mutex,
    },
};

/// The state that all handles and threads share.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn EventHandler>,
    pub(crate) options: Options,
    pub(crate) connections: ConnectionMap,
    /// The time at which the `SockMan` was created. Connections store times relative to this time.
    pub(crate) created: Instant,
    pub(crate) inbox: Inbox,
    pub(crate) counters: Counters,
    pub(crate) i2p: Option<Arc<I2p>>,
    /// The `SockMan`'s own interrupt. The embedder's interrupt, if there is one, is in the options.
    pub(crate) interrupt: Interrupt,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// The socket thread's state while the thread does not run. The lock is held for a moment. The
    /// inbox's lock and those of the interrupts are taken under this lock. An attempt may be
    /// dropped under this lock, or under the inbox's lock as well, and the drop removes the
    /// attempt's waker from its interrupt. An I2P attempt that was making the persistent session
    /// also takes that session's lock.
    pub(crate) run: Mutex<Run>,
}

impl Shared {
    /// Makes the state, with the poller of the socket thread.
    ///
    /// # Errors
    ///
    /// The call fails if an option is out of range, or if the operating system provides no poller.
    pub(crate) fn new(
        handler: Arc<dyn EventHandler>,
        options: Options,
    ) -> Result<Shared, CreateError> {
        options.validate()?;
        let poller = options.sock_factory.create_poller().map_err(CreateError::Poller)?;
        let socket_thread = SocketThread::new(&options, poller);
        Ok(Shared {
            handler,
            i2p: options.create_i2p(),
            connections: ConnectionMap::new(options.max_connections),
            created: options.sock_factory.now(),
            inbox: Inbox::new(socket_thread.waker()),
            counters: Counters::default(),
            interrupt: Interrupt::new(),
            listeners: Mutex::new(Vec::new()),
            run: Mutex::new(Run::Stopped(Box::new(socket_thread))),
            options,
        })
    }

    /// Closes a connection. Returns `true` if this call closed the connection. If several threads
    /// race, exactly one of them gets `true`.
    pub(crate) fn close(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.close(id) else { return false };
        if threads::is_socket_thread_of(self) {
            self.inbox.push(Mark::Closed(connection));
        } else {
            match &mut *self.run.lock() {
                // The thread takes the mark and frees the slot with its descriptor. The thread's
                // pass also resumes listeners that wait at the connection limit. The mark is pushed
                // under the lock, because a thread that ends handles the remaining marks under the
                // same lock.
                Run::Running => self.inbox.push(Mark::Closed(connection)),
                Run::Stopped(socket_thread) => socket_thread.forget(&self.inbox, &connection),
            }
        }
        self.connections.close_told();
        true
    }

    /// Hands an attempt to the socket thread.
    pub(crate) fn drive(&self, attempt: Box<Attempt>) {
        if threads::is_socket_thread_of(self) {
            return self.inbox.push(Mark::Connecting(attempt));
        }
        match &mut *self.run.lock() {
            // The mark is pushed under the lock, as in `close`.
            Run::Running => self.inbox.push(Mark::Connecting(attempt)),
            // A mark would keep the attempt's descriptor open, and a close would have to search for
            // the mark.
            Run::Stopped(socket_thread) => socket_thread.drive(attempt),
        }
    }

    /// Lets a direction of the connection try again later, after a failure that passes.
    pub(crate) fn lacks(&self, connection: &Arc<Connection>, direction: u8, error: &io::Error) {
        if connection.mark_lacking(direction) {
            let code = error.raw_os_error().unwrap_or(libc::ENOMEM);
            self.inbox.push(Mark::Lacking(Arc::downgrade(connection), code));
        }
    }

    /// Gives a reserved place back.
    pub(crate) fn release_place(&self) {
        if self.connections.release() {
            // Listeners may wait for the place.
            self.inbox.notify();
        }
    }

    /// Registers the success of a connect that the socket thread drove. The id can then be sent to.
    /// Returns `false` if the connect was closed meanwhile.
    pub(crate) fn connected(&self, id: ConnectionId, now: Instant) -> bool {
        self.connections.connected(id, self.age(now))
    }

    /// Registers the failure of a connect that the socket thread drove, and gives its place back.
    /// Returns `false` if the connect was closed meanwhile.
    pub(crate) fn failed_to_connect(&self, id: ConnectionId) -> bool {
        let failed = self.connections.failed_to_connect(id);
        if failed {
            self.release_place();
        }
        failed
    }

    /// Returns the time from `created` to `now`, the form in which connections store times.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created)
    }

    /// Returns the interrupts that end the threads and every blocking connect.
    pub(crate) fn interrupts(&self) -> impl Iterator<Item = &Interrupt> {
        std::iter::once(&self.interrupt).chain(&self.options.interrupt)
    }

    pub(crate) fn watches(&self) -> Watches {
        Watches::new(self.interrupts())
    }

    pub(crate) fn add_listener(&self, listener: Listener) -> Service {
        let listener = Arc::new(listener);
        let address = listener.address().clone();
        log::debug!(target: "sockman::net", "listening on {address}");
        self.listeners.lock().push(Arc::clone(&listener));
        self.inbox.push(Mark::ListenerAdded(Arc::downgrade(&listener)));
        address
    }

    /// Takes all listeners out of the list, without stopping them.
    pub(crate) fn take_listeners(&self) -> Vec<Arc<Listener>> {
        std::mem::take(&mut *self.listeners.lock())
    }

    pub(crate) fn listener_count(&self) -> usize {
        self.listeners.lock().len()
    }
}
