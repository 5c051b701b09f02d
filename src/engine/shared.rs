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
    map::{Closed, ConnectionMap, How, Left, Over},
    socket_thread::SocketThread,
    state::{Arriving, State},
    threads::{self, Run},
};
use crate::{
    address::Service,
    dial::I2p,
    error::{CreateError, SendError},
    event_handler::EventHandler,
    options::Options,
    sys::{
        errors,
        interrupt::{Interrupt, Watches},
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
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
    /// Whether the handler keeps a state for each connection.
    keeps_states: bool,
    /// The states of connections without a slot. The lock is taken after `run` and the inbox's.
    arriving: Arriving,
    pub(crate) counters: Counters,
    pub(crate) i2p: Option<Arc<I2p>>,
    /// The `SockMan`'s own interrupt. The embedder's interrupt, if there is one, is in the options.
    pub(crate) interrupt: Interrupt,
    listeners: Mutex<Vec<Arc<Listener>>>,
    is_draining: AtomicBool,
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
            keeps_states: handler.state_type().is_some(),
            arriving: Arriving::default(),
            handler,
            i2p: options.create_i2p(),
            connections: ConnectionMap::new(options.max_connections),
            created: options.sock_factory.now(),
            inbox: Inbox::new(socket_thread.waker()),
            counters: Counters::default(),
            interrupt: Interrupt::new(),
            listeners: Mutex::new(Vec::new()),
            is_draining: AtomicBool::new(false),
            run: Mutex::new(Run::Stopped(Box::new(socket_thread))),
            options,
        })
    }

    /// Closes a connection. Returns `true` if this call closed the connection. If several threads
    /// race, exactly one of them gets `true`.
    pub(crate) fn close(&self, id: ConnectionId) -> bool {
        self.close_as(id, How::InOrder)
    }

    /// Does what [`close`](Shared::close) does. `how` says what the peer sees.
    pub(crate) fn close_as(&self, id: ConnectionId, how: How) -> bool {
        let Some(Left { closed, value }) = self.connections.close(id, how) else { return false };
        self.ended(closed);
        // The embedder's code runs here, so no lock is held.
        drop(value);
        true
    }

    /// Makes the socket thread release a connection that has left the map, and report its end if it
    /// was announced.
    pub(crate) fn ended(&self, closed: Closed) {
        if threads::is_socket_thread_of(self) {
            self.inbox.push(Mark::Closed(closed));
        } else {
            match &mut *self.run.lock() {
                // The thread takes the mark and frees the slot with its descriptor. The thread's
                // pass also resumes listeners that wait at the connection limit. The mark is pushed
                // under the lock, because a thread that ends handles the remaining marks under the
                // same lock.
                Run::Running { .. } => self.inbox.push(Mark::Closed(closed)),
                Run::Stopped(socket_thread) => socket_thread.forget(self, &closed),
            }
        }
        self.connections.close_told();
        if self.is_draining() {
            // The socket thread may have taken the mark before the close was counted.
            self.inbox.notify();
        }
    }

    /// Notes that the embedder knows the connection and keeps it. The end of the connection is
    /// reported from now on. Returns `false` if the connection is closed already. Further calls
    /// for the same connection have no effect.
    pub(crate) fn announced(&self, connection: &Connection) -> bool {
        if self.is_draining() {
            connection.set_finishing();
        }
        if connection.set_announced() {
            self.inbox.push(Mark::Ended(connection.id));
        }
        !connection.is_closed()
    }

    /// Keeps the state of a connection without a slot. The caller announces the connection later.
    pub(crate) fn keep_state(&self, id: ConnectionId, state: Option<State>) {
        if let Some(state) = state {
            self.arriving.insert(id, state);
        }
    }

    /// Returns whether the handler keeps a state for each connection.
    #[inline]
    pub(crate) fn keeps_states(&self) -> bool {
        self.keeps_states
    }

    /// Takes the state of a connection that has no slot.
    pub(crate) fn take_state(&self, id: ConnectionId) -> Option<State> {
        if self.keeps_states { self.arriving.take(id) } else { None }
    }

    /// Makes the socket thread ask the hooks of the connection again.
    pub(crate) fn wake(&self, connection: &Arc<Connection>) {
        if connection.mark_woken() {
            self.inbox.push(Mark::Woken(Arc::downgrade(connection)));
        }
    }

    /// Half-closes a connection. A connection that finishes then has nothing left to send. Windows
    /// has no event for that, so the first call gives the connection a turn.
    pub(crate) fn shutdown_write(&self, connection: &Arc<Connection>) -> Result<(), SendError> {
        if connection.shutdown_write()? && connection.is_finishing() {
            self.wake(connection);
        }
        Ok(())
    }

    /// Begins the orderly end of a connection. Returns `true` if this call began the end.
    pub(crate) fn finish(&self, id: ConnectionId, linger: Duration) -> bool {
        let Some(connection) = self.connections.find(id) else { return false };
        if !connection.set_finishing() {
            return false;
        }
        let until = self.options.sock_factory.now().checked_add(linger);
        let finishing = Box::new((Arc::downgrade(&connection), until));
        self.inbox.push(Mark::Finishing(finishing));
        true
    }

    /// Begins the orderly end of all connections.
    pub(crate) fn drain(&self, deadline: Duration) {
        let until = self.options.sock_factory.now().checked_add(deadline);
        // A connection that is added meanwhile is seen by `finish_all`, or its announcement sees
        // the flag.
        self.is_draining.store(true, Ordering::SeqCst);
        self.connections.finish_all();
        self.inbox.push(Mark::Draining(Box::new(until)));
    }

    /// Returns whether `drain_and_stop` was called, and the threads have not ended since.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Sets the interrupt, because all connections have ended. Returns `false`, and sets no
    /// interrupt, if a connection was added meanwhile. The drain then goes on.
    pub(crate) fn drained(&self) -> bool {
        self.is_draining.store(false, Ordering::SeqCst);
        // A connection whose announcement saw the flag is in the map, because it is announced
        // later than it is added. Later announcements do not see the flag.
        if self.connections.has_open() {
            self.is_draining.store(true, Ordering::SeqCst);
            // As in `drain`, for an announcement that did not see the flag.
            self.connections.finish_all();
            return false;
        }
        self.interrupt.interrupt();
        true
    }

    /// Hands an attempt to the socket thread.
    pub(crate) fn drive(&self, attempt: Box<Attempt>) {
        if threads::is_socket_thread_of(self) {
            return self.inbox.push(Mark::Connecting(attempt));
        }
        match &mut *self.run.lock() {
            // The mark is pushed under the lock, as in `close`.
            Run::Running { .. } => self.inbox.push(Mark::Connecting(attempt)),
            // A mark would keep the attempt's descriptor open, and a close would have to search for
            // the mark.
            Run::Stopped(socket_thread) => socket_thread.drive(attempt),
        }
    }

    /// Lets a direction of the connection try again later, after a failure that passes.
    pub(crate) fn lacks(&self, connection: &Arc<Connection>, direction: u8, error: &io::Error) {
        if connection.mark_lacking(direction) {
            let code = error.raw_os_error().unwrap_or(errors::ENOMEM);
            self.inbox.push(Mark::Lacking(Arc::downgrade(connection), code));
        }
    }

    /// Gives a reserved place back.
    pub(crate) fn release_place(&self) {
        if self.connections.release() || self.is_draining() {
            // Listeners may wait for the place, or the end of the threads for the last one.
            self.inbox.notify();
        }
    }

    /// Registers the success of a connect that the socket thread drove. The id can then be sent to.
    /// Returns `None` if the connect was closed meanwhile.
    pub(crate) fn connected(&self, id: ConnectionId, now: Instant) -> Option<Over> {
        self.connections.connected(id, self.age(now))
    }

    /// Registers the failure of a connect that the socket thread drove, and gives its place back.
    /// Returns `None` if the connect was closed meanwhile.
    pub(crate) fn failed_to_connect(&self, id: ConnectionId) -> Option<Over> {
        let failed = self.connections.failed_to_connect(id)?;
        self.release_place();
        Some(failed)
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

    /// Stops one listener.
    pub(crate) fn stop_listener(&self, listener: &Arc<Listener>) {
        self.listeners.lock().retain(|kept| !Arc::ptr_eq(kept, listener));
        listener.stop();
    }

    /// Takes all listeners out of the list, without stopping them.
    pub(crate) fn take_listeners(&self) -> Vec<Arc<Listener>> {
        std::mem::take(&mut *self.listeners.lock())
    }

    pub(crate) fn listener_count(&self) -> usize {
        self.listeners.lock().len()
    }
}
