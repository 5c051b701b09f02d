//! One connection: where it is between two requests, and what of it is still to be sent.
//!
//! The socket thread reads requests; the worker that has one answers it. So that answers leave in
//! order and a client cannot make this server hoard its requests, there is one request in flight:
//! while it is, nothing is read. [`Phase`] says whose turn it is.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use sockman::{ConnectionId, SendQueue, SendQueueOptions, Service, SockMan};

use super::parser::RequestParser;

/// Whose turn it is. Only who has the turn sets the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The client's: to send a request, after it has taken the last answer. The socket thread
    /// moves on from here.
    Reading,
    /// A worker's: to answer. It moves on.
    Answering,
    /// An event stream has the connection until its end.
    Streaming,
    /// The last answer is on its way; then this side of the connection is closed.
    Closing,
    /// This side is closed; what still comes is thrown away until the client closes too. Closing
    /// at once would reset the connection if it had sent more, and the reset could overtake the
    /// answer.
    Lingering,
}

impl Phase {
    fn from_u8(value: u8) -> Phase {
        match value {
            0 => Phase::Reading,
            1 => Phase::Answering,
            2 => Phase::Streaming,
            3 => Phase::Closing,
            _ => Phase::Lingering,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) them: Service,
    pub(crate) send: SendQueue,
    phase: AtomicU8,
    /// The hook said no during `Answering`: bytes may be waiting whose event has gone by.
    turned_away: AtomicBool,
    /// The socket thread is to look at this connection after the answer, though nothing new comes:
    /// there are bytes that it has received already, or the client has closed its side.
    must_revisit: AtomicBool,
    /// Since when the client has been doing nothing.
    quiet_since: Mutex<Instant>,
    /// The socket thread's. (The lock is never contended for.)
    pub(crate) reading: Mutex<Reading>,
}

#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) parser: RequestParser,
    pub(crate) got_eof: bool,
    /// Bytes thrown away while lingering.
    pub(crate) discarded: usize,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, them: &Service, max_body: usize) -> Connection {
        // From the first unsent byte on the queue is above its high mark, until it is empty: no
        // request is read while an answer is not being taken. Only one answer at a time is queued,
        // so the limit is the answer's own size.
        let marks = SendQueueOptions::default().high_mark(1).low_mark(0).limit(usize::MAX);
        Connection {
            id,
            them: them.clone(),
            send: SendQueue::new(id, marks),
            phase: AtomicU8::new(Phase::Reading as u8),
            turned_away: AtomicBool::new(false),
            must_revisit: AtomicBool::new(false),
            quiet_since: Mutex::new(Instant::now()),
            reading: Mutex::new(Reading {
                parser: RequestParser::new(max_body),
                got_eof: false,
                discarded: 0,
            }),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::SeqCst))
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Of several threads that see the last byte leave, one goes on to linger.
    pub(crate) fn begin_lingering(&self) -> bool {
        let (closing, lingering) = (Phase::Closing as u8, Phase::Lingering as u8);
        self.phase.compare_exchange(closing, lingering, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// For `should_try_to_recv`.
    pub(crate) fn may_receive(&self) -> bool {
        match self.phase() {
            Phase::Reading => !self.send.is_above_high_mark(),
            Phase::Streaming | Phase::Lingering => true,
            Phase::Closing => false,
            Phase::Answering => {
                // The worker stores the phase and then looks at the note; here the note is stored
                // and then the phase looked at: one of the two notices.
                self.turned_away.store(true, Ordering::SeqCst);
                self.phase() == Phase::Reading
            }
        }
    }

    /// Socket thread, before the request is handed over: what `resume` has to know.
    pub(crate) fn note_for_resume(&self, must_revisit: bool) {
        self.must_revisit.store(must_revisit, Ordering::SeqCst);
    }

    /// It is the client's turn again. The socket thread is woken only if it may have something to
    /// do: mostly the next request is still to come, and its event will wake it.
    pub(crate) fn resume(&self, sockman: &SockMan) {
        self.set_phase(Phase::Reading);
        let was_turned_away = self.turned_away.swap(false, Ordering::SeqCst);
        if was_turned_away || self.must_revisit.swap(false, Ordering::SeqCst) {
            sockman.wake(self.id);
        }
    }

    pub(crate) fn quiet_since(&self) -> Instant {
        *self.quiet_since.lock()
    }

    pub(crate) fn is_active(&self) {
        *self.quiet_since.lock() = Instant::now();
    }
}
