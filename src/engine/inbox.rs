//! The inbox: the requests of other threads and of callbacks to the socket thread (marks), and the
//! handshake that lets the socket thread sleep without missing a mark.
//!
//! Owns the list of marks and the mutex around it. The mutex is held for a push or a swap. While no
//! thread runs, it is also held while the marks of closed connections are dropped. Any thread
//! pushes marks. Only the socket thread takes them.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{attempt::Attempt, connection::Connection, listener::Listener};
use crate::{
    sys::Waker,
    sys::sync::Mutex,
    sys::sync::atomic::{AtomicBool, Ordering},
};

/// One request to the socket thread.
#[derive(Debug)]
pub(crate) enum Mark {
    /// Add the connection to the poll set.
    Activated(Arc<Connection>),
    /// Drive the attempt.
    Connecting(Box<Attempt>),
    /// End the attempt, because its own interrupt was set. This mark does not keep the socket open,
    /// because it may arrive when the attempt is over and no thread runs to take it.
    ConnectCancelled(Weak<Connection>),
    /// Ask the connection's hooks again.
    Woken(Arc<Connection>),
    /// Release the connection, so that its descriptor is closed.
    Closed(Arc<Connection>),
    /// Add the listener to the poll set.
    ListenerAdded(Arc<Listener>),
    /// Release the listeners that were stopped.
    ListenersStopped,
}

pub(crate) struct Inbox {
    marks: Mutex<Vec<Mark>>,
    /// Whether marks or a request for a pass wait. Set after the mark is in the list.
    pending: AtomicBool,
    /// Whether the socket thread is in the poller, or about to enter it. The pusher that clears
    /// this flag writes to the waker, so each sleep of the thread costs at most one write.
    sleeping: AtomicBool,
    waker: Arc<dyn Waker>,
}

impl Inbox {
    pub(crate) fn new(waker: Arc<dyn Waker>) -> Inbox {
        Inbox {
            marks: Mutex::new(Vec::new()),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker,
        }
    }

    /// Adds a mark and makes the socket thread run a pass soon.
    pub(crate) fn push(&self, mark: Mark) {
        self.marks.lock().push(mark);
        self.notify();
    }

    /// Makes the socket thread run a pass soon. A thread that is awake, as during its callbacks,
    /// checks the inbox before it sleeps, so the waker is not written to.
    pub(crate) fn notify(&self) {
        // The counterpart of `prepare_to_sleep`, which stores `sleeping` and then loads `pending`.
        // Of two sequentially consistent store-then-load pairs, at least one sees the other's
        // store.
        self.pending.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            if let Err(error) = self.waker.wake() {
                log::error!(target: "sockman::net", "cannot wake the socket thread: {error}");
            }
        }
    }

    /// Announces that the socket thread is about to sleep. Returns `false` if something already
    /// waits. The thread must not sleep then. For the socket thread alone.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.sleeping.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Announces that the socket thread is awake again. For the socket thread alone.
    pub(crate) fn woke(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Returns whether something waits.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Swaps the marks into `into`, which must be empty. Returns `false` if nothing waited. For the
    /// socket thread alone. Nothing is allocated: the two vectors alternate.
    pub(crate) fn take(&self, into: &mut Vec<Mark>) -> bool {
        // `pending` is cleared before the marks are taken. A mark that is pushed in between is
        // taken and leaves `pending` set, which costs one pass without marks at worst.
        if !self.is_pending() || !self.pending.swap(false, Ordering::SeqCst) {
            return false;
        }
        std::mem::swap(&mut *self.marks.lock(), into);
        true
    }

    /// Drops the marks of closed connections and stopped listeners, because a mark keeps its
    /// descriptor open. Called only while no thread runs.
    pub(crate) fn forget_closed(&self) {
        self.marks.lock().retain(|mark| match mark {
            Mark::Activated(connection) | Mark::Woken(connection) => !connection.is_closed(),
            Mark::ConnectCancelled(connection) => {
                connection.upgrade().is_some_and(|connection| !connection.is_closed())
            }
            Mark::Connecting(attempt) => !attempt.connection.is_closed(),
            Mark::ListenerAdded(listener) => !listener.is_stopped(),
            Mark::Closed(_) | Mark::ListenersStopped => false,
        });
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("pending", &self.is_pending()).finish_non_exhaustive()
    }
}
