//! The state that all handles and threads of one `SockMan` share.
//!
//! Each lock in [`Shared`] is held for a moment, and none while a callback runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connection::ConnectionId,
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

/// What all handles and threads share.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn EventHandler>,
    pub(crate) options: Options,
    pub(crate) connections: ConnectionMap,
    /// What connections count their time from.
    pub(crate) created: Instant,
    pub(crate) inbox: Inbox,
    pub(crate) counters: Counters,
    pub(crate) i2p: Option<Arc<I2p>>,
    /// The `SockMan`'s own; the shared one, if any, is in the options.
    pub(crate) interrupt: Interrupt,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// The socket thread's state while it does not run. Held for a moment; of the other locks only
    /// the inbox's and the interrupts' are taken under it (an attempt that goes takes its waker out
    /// of its own interrupt, under the inbox's lock, too).
    pub(crate) run: Mutex<Run>,
}

impl Shared {
    /// # Errors
    ///
    /// An option is out of its range, or the operating system gives no poller.
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

    /// Closes a connection, if this call is the one to do so.
    pub(crate) fn close(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.close(id) else { return false };
        if threads::is_socket_thread_of(self) {
            self.inbox.push(Mark::Closed(connection));
        } else {
            match &mut *self.run.lock() {
                // The thread lets go of its slot, and with that of the descriptor; and listeners
                // that wait at the connection limit go on. Under the lock: a thread that ends
                // takes care of the marks that it did not take.
                Run::Running => self.inbox.push(Mark::Closed(connection)),
                Run::Stopped(socket_thread) => socket_thread.forget(&self.inbox, &connection),
            }
        }
        self.connections.close_told();
        true
    }

    pub(crate) fn release_place(&self) {
        if self.connections.release() {
            // Listeners may wait for it.
            self.inbox.notify();
        }
    }

    /// A connect that the socket thread drove succeeded: from here on its id can be sent to.
    /// `false` if it was closed meanwhile.
    pub(crate) fn connected(&self, id: ConnectionId, now: Instant) -> bool {
        self.connections.connected(id, self.age(now))
    }

    /// A connect that the socket thread drove failed, which gives its place back. `false` if it
    /// was closed meanwhile.
    pub(crate) fn failed_to_connect(&self, id: ConnectionId) -> bool {
        let failed = self.connections.failed_to_connect(id);
        if failed {
            self.release_place();
        }
        failed
    }

    /// What connections count their time in.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created)
    }

    /// The interrupts that end the threads and every blocking connect.
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
        self.inbox.push(Mark::ListenerAdded(listener));
        address
    }

    /// Takes all listeners out of the list, which stops none of them.
    pub(crate) fn take_listeners(&self) -> Vec<Arc<Listener>> {
        std::mem::take(&mut *self.listeners.lock())
    }

    pub(crate) fn listener_count(&self) -> usize {
        self.listeners.lock().len()
    }
}
