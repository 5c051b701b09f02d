//! The inbox: the requests of other threads and of callbacks to the socket thread (marks), and the
//! handshake that lets the socket thread sleep without missing a mark.
//!
//! The inbox owns the list of marks and the mutex around the list. The mutex is held for a push or
//! a swap. While no thread runs, dropping the marks of closed connections also holds the mutex. Any
//! thread pushes marks. Only the socket thread takes marks.
//!
//! Marks that may wait while no thread runs keep no descriptor open: a mark that is pushed just
//! after a close finds nothing later.

use std::{
    fmt, mem,
    sync::{Arc, Weak},
    time::Instant,
};

use super::{
    attempt::Attempt,
    connection::{Connection, ConnectionId},
    handover::Fence,
    listener::Listener,
    map::Closed,
    state::Visit,
};
use crate::{
    sys::Waker,
    sys::sync::Mutex,
    sys::sync::atomic::{AtomicBool, Ordering},
};

/// A mark: one request to the socket thread.
#[derive(Debug)]
pub(crate) enum Mark {
    /// Add the connection to the poll set.
    Activated(Weak<Connection>),
    /// Drive the attempt. While no thread runs, no such mark waits: see
    /// [`Shared::drive`](super::shared::Shared::drive).
    Connecting(Box<Attempt>),
    /// End the attempt, because its own interrupt was set.
    ConnectCancelled(Weak<Connection>),
    /// Ask the connection's hooks again.
    Woken(Weak<Connection>),
    /// Let the connection try again later, because a send or a receive failed with this errno,
    /// which passes.
    Lacking(Weak<Connection>, i32),
    /// Release the connection, so that its descriptor is closed. Report its end if it was
    /// announced. While no thread runs, no such mark waits.
    Closed(Closed),
    /// Report the end of the connection, which is released already.
    Ended(ConnectionId),
    /// Finish the connection. If there is a time, the connection is closed then at the latest.
    Finishing(Box<(Weak<Connection>, Option<Instant>)>),
    /// Finish all connections, until this time at the latest, and then set the interrupt.
    Draining(Box<Option<Instant>>),
    /// Tell a waiting thread that the turns that had begun have ended, and that earlier marks were
    /// taken.
    Fence(Fence),
    /// Run the closure on the state of the connection.
    Visit(Box<Visit>),
    /// Add the listener to the poll set.
    ListenerAdded(Weak<Listener>),
    /// Release the listeners that were stopped.
    ListenersStopped,
}

#[derive(Default)]
struct Marks {
    list: Vec<Mark>,
    /// How many connections and listeners were closed since the list was last searched for their
    /// marks. Counts only while no thread runs.
    closed: usize,
    /// How many marks the searches have looked at.
    #[cfg(test)]
    looked_at: usize,
}

pub(crate) struct Inbox {
    marks: Mutex<Marks>,
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
            marks: Mutex::default(),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker,
        }
    }

    /// Adds a mark and makes the socket thread run a pass soon.
    pub(crate) fn push(&self, mark: Mark) {
        self.marks.lock().list.push(mark);
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
        mem::swap(&mut self.marks.lock().list, into);
        true
    }

    /// Takes the attempts out of the inbox and drops the marks of everything that is closed. The
    /// caller ensures that no thread runs.
    #[allow(clippy::vec_box, reason = "the marks hold the attempts in boxes")]
    pub(crate) fn settle(&self) -> Vec<Box<Attempt>> {
        let mut marks = self.marks.lock();
        let mut attempts = Vec::new();
        let is_attempt = |mark: &mut Mark| matches!(mark, Mark::Connecting(_));
        if marks.list.iter_mut().any(is_attempt) {
            for mark in mem::take(&mut marks.list) {
                match mark {
                    Mark::Connecting(attempt) => attempts.push(attempt),
                    mark => marks.list.push(mark),
                }
            }
        }
        marks.forget_closed();
        attempts
    }

    /// Counts connections and listeners that were closed, and drops the marks of what is closed
    /// when they may be half of all marks. A close thus costs the same time however many marks
    /// wait. The caller ensures that no thread runs.
    pub(crate) fn closed(&self, count: usize) {
        let mut marks = self.marks.lock();
        marks.closed += count;
        if marks.closed >= marks.list.len() / 2 {
            marks.forget_closed();
        }
    }

    /// Ends the waits for the turns under way. The caller ensures that no turn is under way.
    #[cfg(feature = "testing")]
    pub(crate) fn drop_fences(&self) {
        self.marks.lock().list.retain(|mark| !matches!(mark, Mark::Fence(_)));
    }

    /// Returns how many marks wait, and how many marks the searches have looked at.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn waiting_and_looked_at(&self) -> (usize, usize) {
        let marks = self.marks.lock();
        (marks.list.len(), marks.looked_at)
    }
}

impl Marks {
    fn forget_closed(&mut self) {
        self.closed = 0;
        #[cfg(test)]
        (self.looked_at += self.list.len());
        self.list.retain_mut(|mark| match mark {
            // The end is reported after the next start.
            Mark::Closed(Closed { connection, is_announced: true }) => {
                *mark = Mark::Ended(connection.id);
                true
            }
            // A closure may own values whose destructor is the embedder's code, so no closure is
            // dropped under the lock.
            Mark::Visit(_) | Mark::Ended(_) | Mark::Draining(_) => true,
            Mark::Finishing(finishing) => {
                finishing.0.upgrade().is_some_and(|connection| !connection.is_closed())
            }
            Mark::Activated(connection)
            | Mark::Woken(connection)
            | Mark::ConnectCancelled(connection)
            | Mark::Lacking(connection, _) => {
                connection.upgrade().is_some_and(|connection| !connection.is_closed())
            }
            // No such mark waits while no thread runs.
            Mark::Connecting(_) => true,
            Mark::ListenerAdded(listener) => {
                listener.upgrade().is_some_and(|listener| !listener.is_stopped())
            }
            Mark::Closed(_) | Mark::Fence(_) | Mark::ListenersStopped => false,
        });
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("pending", &self.is_pending()).finish_non_exhaustive()
    }
}
