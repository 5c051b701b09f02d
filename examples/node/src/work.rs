//! The message handler's list of peers with messages that wait.
//!
//! Written by the socket thread, read by the message handler; its one mutex is held for a moment.

use std::{collections::VecDeque, time::Instant};

use parking_lot::{Condvar, Mutex};
use sockman::ConnectionId;

#[derive(Debug, Default)]
pub(crate) struct WorkList {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct List {
    /// In turn: after one message a peer goes to the end, so that none keeps the others waiting.
    peers: VecDeque<ConnectionId>,
    is_closed: bool,
    /// The timer is to run whatever the time.
    timer_requested: bool,
}

/// What the message handler is to do.
#[derive(Debug)]
pub(crate) enum Work {
    Process(ConnectionId),
    /// The time that it gave has come.
    Timer,
    End,
}

impl WorkList {
    /// Puts a peer at the end. Each is listed once: see [`Inbox`](super::peer::Inbox).
    pub(crate) fn add(&self, id: ConnectionId) {
        self.list.lock().peers.push_back(id);
        self.changed.notify_one();
    }

    /// Ends the message handler, whatever is still to be done.
    pub(crate) fn close(&self) {
        self.list.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Has the timer run now.
    pub(crate) fn run_timer(&self) {
        self.list.lock().timer_requested = true;
        self.changed.notify_one();
    }

    /// Waits for work, until `timer`.
    pub(crate) fn next(&self, timer: Instant) -> Work {
        let mut list = self.list.lock();
        loop {
            if list.is_closed {
                return Work::End;
            }
            // Before the peers: there may always be one.
            if std::mem::take(&mut list.timer_requested) || Instant::now() >= timer {
                return Work::Timer;
            }
            if let Some(id) = list.peers.pop_front() {
                return Work::Process(id);
            }
            self.changed.wait_until(&mut list, timer);
        }
    }
}
