//! One connection: where it is between two requests, and what of it is still to be sent.
//!
//! The socket thread reads requests; the worker that has one answers it. So that answers leave in
//! order and a client cannot make this server hoard its requests, there is one request in flight:
//! while it is, and while others that have arrived wait behind it, nothing is read.
//!
//! [`Phase`] says whose turn it is, and whoever has the turn passes it on. What makes that safe is
//! that the hook's "no" is noted in the same word: passing the turn on takes the note along, so
//! that either the hook sees the new phase, or the one who passes the turn on sees the note and
//! wakes the connection.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use sockman::{ConnectionId, SendQueue, Service, SockMan, helpers::SendQueueLimits};

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
    /// The last answer is on its way; whoever sees its last byte leave closes this side.
    Closing,
    /// This side is closed; what still comes is thrown away until the client closes too. Closing
    /// at once would reset the connection if it had sent more, and the reset could overtake the
    /// answer.
    Lingering,
}

impl Phase {
    fn of(turn: u8) -> Phase {
        match turn & !TURNED_AWAY {
            0 => Phase::Reading,
            1 => Phase::Answering,
            2 => Phase::Streaming,
            3 => Phase::Closing,
            _ => Phase::Lingering,
        }
    }
}

/// The hook has said no in this phase: bytes may be waiting whose event has gone by.
const TURNED_AWAY: u8 = 0x80;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) them: Service,
    pub(crate) send: SendQueue,
    /// A [`Phase`], and with it [`TURNED_AWAY`].
    turn: AtomicU8,
    /// Since when the client has been doing nothing.
    quiet_since: Mutex<Instant>,
    /// The socket thread's. (The lock is never contended for.)
    pub(crate) reading: Mutex<Reading>,
}

#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) parser: RequestParser,
    /// What has arrived may hold a whole request: nothing more is received before it is answered.
    pub(crate) has_unanswered: bool,
    pub(crate) got_eof: bool,
    /// The body that is arriving now.
    pub(crate) body: Option<ArrivingBody>,
    /// The timer for the end of the lingering runs.
    pub(crate) is_lingering: bool,
}

#[derive(Debug)]
pub(crate) struct ArrivingBody {
    pub(crate) since: Instant,
    pub(crate) received: usize,
}

/// The queue is above its high mark from the first unsent byte on, until it is empty: no request is
/// read while the client does not take an answer. One answer at a time is queued, so the limit is the
/// answer's own size.
const LIMITS: SendQueueLimits = match SendQueueLimits::new(0, 1, usize::MAX) {
    Ok(limits) => limits,
    #[allow(clippy::panic, reason = "evaluated when compiled")]
    Err(_) => panic!("low mark < high mark <= limit"),
};

impl Connection {
    pub(crate) fn new(id: ConnectionId, them: &Service, max_body: usize) -> Connection {
        Connection {
            id,
            them: them.clone(),
            send: SendQueue::new(id, LIMITS),
            turn: AtomicU8::new(Phase::Reading as u8),
            quiet_since: Mutex::new(Instant::now()),
            reading: Mutex::new(Reading {
                parser: RequestParser::new(max_body),
                has_unanswered: false,
                got_eof: false,
                body: None,
                is_lingering: false,
            }),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.turn.load(Ordering::SeqCst))
    }

    /// Passes the turn on. `true`: the hook has turned bytes away meanwhile, and whoever makes
    /// reading possible again has to wake the connection.
    pub(crate) fn pass_on(&self, next: Phase) -> bool {
        self.turn.swap(next as u8, Ordering::SeqCst) & TURNED_AWAY != 0
    }

    /// The same note, without passing the turn on.
    pub(crate) fn take_turned_away(&self) -> bool {
        self.turn.fetch_and(!TURNED_AWAY, Ordering::SeqCst) & TURNED_AWAY != 0
    }

    /// Of several threads that see the last byte leave, one goes on to linger.
    pub(crate) fn begin_lingering(&self) -> bool {
        let next = |turn| (Phase::of(turn) == Phase::Closing).then_some(Phase::Lingering as u8);
        self.turn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// For `should_try_to_recv`.
    pub(crate) fn may_receive(&self) -> bool {
        loop {
            let turn = self.turn.load(Ordering::SeqCst);
            let may_receive = match Phase::of(turn) {
                Phase::Reading => {
                    !self.send.is_above_high_mark() && !self.reading.lock().has_unanswered
                }
                Phase::Streaming | Phase::Lingering => true,
                Phase::Answering | Phase::Closing => false,
            };
            // The note counts only for the phase that was looked at.
            let note = || {
                let (with_note, order) = (turn | TURNED_AWAY, Ordering::SeqCst);
                self.turn.compare_exchange(turn, with_note, order, order).is_ok()
            };
            if may_receive || note() {
                return may_receive;
            }
        }
    }

    /// It is the client's turn again. The socket thread is woken only if it may have something to
    /// do: mostly the next request is still to come, and its event will wake it.
    pub(crate) fn resume(&self, sockman: &SockMan, must_revisit: bool) {
        if self.pass_on(Phase::Reading) || must_revisit {
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
