//! The inbox: the requests of other threads and of callbacks to the socket thread (marks), and the
//! handshake that lets the socket thread sleep without missing a mark.
//!
//! The inbox owns the list of marks and the mutex around the list. The mutex is held for a push or
//! a swap. While no thread runs, dropping the marks of closed connections also holds the mutex. Any
//! thread pushes marks. Only the socket thread takes marks.

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

/// A mark: one request to the socket thread.
#[derive(Debug)]
pub(crate) enum Mark {
    /// Add the connection to the poll set.
    Activated(Arc<Connection>),
    /// Drive the attempt.
    Connecting(Box<Attempt>),
    /// End the attempt, because its own interrupt was set. The mark must not keep the socket open,
    /// because it may arrive after the attempt is over, when no thread runs to take it.
    ConnectCancelled(Weak<Connection>),
    /// Ask the connection's hooks again.
    Woken(Arc<Connection>),
    /// Let the connection try again later, because a send or a receive failed with this errno,
    /// which passes. The mark must not keep the socket open, because the connection may be closed
    /// when no thread runs to take the mark.
    Lacking(Weak<Connection>, i32),
    /// Release the connection, so that its descriptor is closed.
    Closed(Arc<Connection>),
    /// Add the listener to the poll set.
    ListenerAdded(Arc<Listener>),
    /// Release the listeners that were stopped.
    ListenersStopped,
}

pub(crate) struct Inbox {
    marks: Mutex<Vec<Mark>>,
    /// Whether marks or a request for a pass wait. The flag is set after the mark is in the list.
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

    /// Makes the socket thread run a pass soon. A thread that is awake checks the inbox before it
    /// sleeps, so the call does not write to the waker of such a thread.
    pub(crate) fn notify(&self) {
        // This code is the counterpart of `prepare_to_sleep`, which stores `sleeping` and then
        // loads `pending`. Both pairs of store and load are sequentially consistent, so at least
        // one of the two threads sees the other's store.
        self.pending.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            if let Err(error) = self.waker.wake() {
                log::error!(target: "sockman::net", "cannot wake the socket thread: {error}");
            }
        }
    }

    /// Announces that the socket thread is about to sleep. Returns `false` if a mark or a request
    /// for a pass already waits. In that case the thread must not sleep. Only the socket thread
    /// calls this method.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.sleeping.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Announces that the socket thread is awake again. Only the socket thread calls this method.
    pub(crate) fn woke(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Returns whether marks or a request for a pass wait.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Swaps the marks into `into`, which must be empty. Returns `false` if nothing waited. Only
    /// the socket thread calls this method. The call allocates nothing, because the two vectors
    /// alternate.
    pub(crate) fn take(&self, into: &mut Vec<Mark>) -> bool {
        // `pending` is cleared before the marks are taken. A mark that is pushed between the two
        // operations is taken and leaves `pending` set. The cost is at most one pass without marks.
        if !self.is_pending() || !self.pending.swap(false, Ordering::SeqCst) {
            return false;
        }
        std::mem::swap(&mut *self.marks.lock(), into);
        true
    }

    /// Drops the marks of closed connections and stopped listeners, because a mark keeps its
    /// descriptor open. The caller ensures that no thread runs.
    pub(crate) fn forget_closed(&self) {
        self.marks.lock().retain(|mark| match mark {
            Mark::Activated(connection) | Mark::Woken(connection) => !connection.is_closed(),
            Mark::ConnectCancelled(connection) | Mark::Lacking(connection, _) => {
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
