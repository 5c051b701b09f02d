//! The state of one connection: its phase, its parser and its send queue.
//!
//! The socket thread reads requests, and a worker answers each of them. A connection has at most
//! one request in flight, so answers leave in order, and a client cannot make the server store
//! many requests. Nothing is read while a request is in flight or further received requests wait.
//!
//! [`Phase`] says who owns the connection's next step. Only the owner sets the next phase. A "no"
//! of the receive hook is recorded as a bit in the same atomic as the phase. Setting the next
//! phase also takes that bit. So either the hook sees the new phase, or the thread that sets the
//! phase sees the bit and wakes the connection.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use sockman::{ConnectionId, SendQueue, Service, SockMan, helpers::SendQueueLimits};

use super::parser::RequestParser;

/// The phase of a connection. Only the thread that owns a phase sets the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The client takes the last answer and sends a request. The socket thread owns this phase.
    Reading,
    /// A worker answers the request. The worker owns this phase.
    Answering,
    /// An event stream owns the connection until the stream ends.
    Streaming,
    /// The last answer is in the send queue. The thread that sends its last byte closes this side.
    Closing,
    /// This side is closed. Received bytes are discarded until the client closes, too. Closing
    /// the connection immediately would reset it if the client had sent more, and the reset could
    /// overtake the answer.
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

/// The bit for "the receive hook has said no in this phase". Bytes may wait in the kernel, and no
/// further event reports these bytes.
const TURNED_AWAY: u8 = 0x80;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) them: Service,
    pub(crate) send: SendQueue,
    /// A [`Phase`] and the bit [`TURNED_AWAY`].
    turn: AtomicU8,
    /// When the client was last active.
    quiet_since: Mutex<Instant>,
    /// Only the socket thread takes this lock, so it is never contended.
    pub(crate) reading: Mutex<Reading>,
}

#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) parser: RequestParser,
    /// The received bytes may hold a whole request. No further bytes are received until all
    /// received requests are answered.
    pub(crate) has_unanswered: bool,
    pub(crate) got_eof: bool,
    /// The body that is arriving.
    pub(crate) body: Option<ArrivingBody>,
    /// When the connection's timer ends, as last set.
    pub(crate) timer_ends: Instant,
    /// The timer that ends the lingering is set.
    pub(crate) is_lingering: bool,
}

#[derive(Debug)]
pub(crate) struct ArrivingBody {
    pub(crate) since: Instant,
    pub(crate) received: usize,
    /// The last receive was full, so more bytes may wait in the kernel.
    pub(crate) more_waits: bool,
}

/// The queue is above its high mark from the first unsent byte until it is empty, so no request is
/// read while an answer waits for the client. Only one answer is queued at a time, so the queue
/// needs no limit of its own.
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
                timer_ends: Instant::now(),
                is_lingering: false,
            }),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.turn.load(Ordering::SeqCst))
    }

    /// Sets the next phase. Returns whether the hook has said no in the phase before. If it has,
    /// the thread that allows reading again must wake the connection.
    pub(crate) fn pass_on(&self, next: Phase) -> bool {
        self.turn.swap(next as u8, Ordering::SeqCst) & TURNED_AWAY != 0
    }

    /// Takes the bit [`TURNED_AWAY`] without a change of the phase.
    pub(crate) fn take_turned_away(&self) -> bool {
        self.turn.fetch_and(!TURNED_AWAY, Ordering::SeqCst) & TURNED_AWAY != 0
    }

    /// Moves from `Closing` to `Lingering`. If several threads race, exactly one receives `true`.
    pub(crate) fn begin_lingering(&self) -> bool {
        let next = |turn| (Phase::of(turn) == Phase::Closing).then_some(Phase::Lingering as u8);
        self.turn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// Returns the answer of `should_try_to_recv`.
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
            // The exchange fails if the phase has changed. The loop then checks the new phase.
            let note = || {
                let (with_note, order) = (turn | TURNED_AWAY, Ordering::SeqCst);
                self.turn.compare_exchange(turn, with_note, order, order).is_ok()
            };
            if may_receive || note() {
                return may_receive;
            }
        }
    }

    /// Sets the phase `Reading` and wakes the connection if the socket thread may have work.
    /// Usually the next request has not arrived yet, and its event will wake the socket thread.
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
