//! What other threads, and callbacks, ask of the socket thread, and the hand-shake that lets it
//! sleep without missing any of it.
//!
//! Owns the list of marks and one mutex around it, held for a push or a swap, and, while no thread
//! runs, to drop what was closed. Pushed to from every thread, taken by the socket thread alone.

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
    /// Take the connection into the poll set.
    Activated(Arc<Connection>),
    /// Drive the connect.
    Connecting(Box<Attempt>),
    /// The interrupt of one connect was set. Keeps nothing open, since it may come when the connect
    /// is over and no thread is there to take it.
    ConnectCancelled(Weak<Connection>),
    /// Ask the connection's hooks again.
    Woken(Arc<Connection>),
    /// Let go of the connection, so that its descriptor is closed.
    Closed(Arc<Connection>),
    /// Take the listener into the poll set.
    ListenerAdded(Arc<Listener>),
    /// Let go of the listeners that were stopped.
    ListenersStopped,
}

pub(crate) struct Inbox {
    marks: Mutex<Vec<Mark>>,
    /// Something waits: marks, or the wish for a pass. Set after the mark is in the list.
    pending: AtomicBool,
    /// The socket thread is in the poller, or about to be. Whoever takes it down writes to the
    /// waker, so there is at most one write for each time that the thread goes to sleep.
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

    pub(crate) fn push(&self, mark: Mark) {
        self.marks.lock().push(mark);
        self.notify();
    }

    /// Makes the socket thread run a pass soon. If it is awake, as it is during its callbacks, it
    /// looks before it sleeps, and no waker is written to.
    pub(crate) fn notify(&self) {
        // Against `prepare_to_sleep`, which stores `sleeping` and then loads `pending`: of two
        // sequentially consistent store-then-load pairs, at least one sees the other's store.
        self.pending.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            if let Err(error) = self.waker.wake() {
                log::error!(target: "sockman::net", "cannot wake the socket thread: {error}");
            }
        }
    }

    /// Socket thread: about to sleep. `false` if something waits already: do not.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.sleeping.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Socket thread: awake again.
    pub(crate) fn woke(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Socket thread: does something wait?
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Socket thread: swaps the marks into `into`, which is empty. Nothing is allocated: the two
    /// vectors take turns. `false` if nothing waited.
    pub(crate) fn take(&self, into: &mut Vec<Mark>) -> bool {
        // Before the marks: a mark pushed in between leaves `pending` set, at worst for nothing.
        if !self.is_pending() || !self.pending.swap(false, Ordering::SeqCst) {
            return false;
        }
        std::mem::swap(&mut *self.marks.lock(), into);
        true
    }

    /// With no thread running: drops the marks of what is closed or stopped, which would keep it
    /// open.
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
