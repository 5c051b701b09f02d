//! The message handler's list of peers that have waiting messages.
//!
//! The socket thread and the message handler add peers, and the message handler removes them. The
//! one mutex is held briefly.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use parking_lot::{Condvar, Mutex};

use crate::peer::Peer;

#[derive(Default)]
pub(crate) struct WorkList {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Default)]
struct List {
    /// After one message a peer goes to the end, so that no peer keeps the others waiting.
    peers: VecDeque<Arc<Peer>>,
    is_closed: bool,
    /// The timer runs next, whatever the time is.
    timer_requested: bool,
}

/// The next work of the message handler.
pub(crate) enum Work {
    Process(Arc<Peer>),
    /// The timer is due or requested.
    Timer,
    End,
}

impl WorkList {
    /// Appends a peer. [`Inbox`](super::peer::Inbox) ensures that a peer is listed at most once.
    pub(crate) fn add(&self, peer: &Arc<Peer>) {
        self.list.lock().peers.push_back(Arc::clone(peer));
        self.changed.notify_one();
    }

    /// Ends the message handler, even if work is left.
    pub(crate) fn close(&self) {
        self.list.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Lets the timer run now.
    pub(crate) fn run_timer(&self) {
        self.list.lock().timer_requested = true;
        self.changed.notify_one();
    }

    /// Waits for work, at most until `timer`.
    pub(crate) fn next(&self, timer: Instant) -> Work {
        let mut list = self.list.lock();
        loop {
            if list.is_closed {
                return Work::End;
            }
            // The timer comes before the peers, because the list of peers may never become empty.
            if std::mem::take(&mut list.timer_requested) || Instant::now() >= timer {
                return Work::Timer;
            }
            if let Some(peer) = list.peers.pop_front() {
                return Work::Process(peer);
            }
            self.changed.wait_until(&mut list, timer);
        }
    }
}
