//! The state of one connection: its phase, its parser and its send queue.
//!
//! The socket thread reads requests, and a worker answers each of them. A connection has at most
//! one request in flight, so answers leave in order, and a client cannot make the server store
//! many requests. While a request is in flight, the server keeps at most [`MAX_AHEAD`] bytes and one
//! more receive buffer of what the client sends ahead. It reads on only to notice a client that is
//! gone.
//!
//! The end of the client's stream does not say that the client is gone: it may have closed one
//! direction and wait for its answer. The server then sends the first bytes of the answer, which are
//! the same for every answer. A client that is gone responds with a reset.
//!
//! [`Phase`] says who owns the connection's next step. Only the owner sets the next phase. A "no"
//! of the receive hook is recorded as a bit in the same atomic as the phase. Setting the next
//! phase also takes that bit. So either the hook sees the new phase, or the thread that sets the
//! phase sees the bit and wakes the connection. Bytes that arrive while a worker answers set the bit,
//! too.

use std::{
    mem,
    sync::atomic::{AtomicU8, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use sockman::{
    ConnectionId, SendQueue, SockMan,
    helpers::{PushError, SendQueueLimits},
};

use super::{parser::RequestParser, response::BEGINNING};

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

/// The bit for "the receive hook has said no in this phase, or something has arrived in the phase
/// `Answering`". Bytes may wait in the kernel or in the parser, and no further event reports these
/// bytes.
const TURNED_AWAY: u8 = 0x80;

/// The bytes that a client may send ahead of the answer that it waits for. At this number the server
/// stops to receive, and then notices only a reset.
const MAX_AHEAD: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) send: SendQueue,
    /// A [`Phase`] and the bit [`TURNED_AWAY`].
    turn: AtomicU8,
    /// When the client was last active.
    quiet_since: Mutex<Instant>,
    /// How much of the current answer has been sent. The lock is held while a part of an answer is
    /// put into the send queue, so that the parts keep their order.
    answer: Mutex<AnswerState>,
    /// Only the socket thread takes this lock, so it is never contended.
    pub(crate) reading: Mutex<Reading>,
}

/// How much of the answer to the request in flight has been put into the send queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerState {
    /// All of it, or no request is in flight.
    Done,
    /// Nothing.
    Due,
    /// The [`BEGINNING`].
    Begun,
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

impl Reading {
    /// Returns whether the client has sent so much ahead that nothing more is received while a worker
    /// answers.
    pub(crate) fn is_far_ahead(&self) -> bool {
        !self.got_eof && self.parser.unparsed() >= MAX_AHEAD
    }
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
    pub(crate) fn new(id: ConnectionId, max_body: usize) -> Connection {
        Connection {
            id,
            send: SendQueue::new(id, LIMITS),
            turn: AtomicU8::new(Phase::Reading as u8),
            quiet_since: Mutex::new(Instant::now()),
            answer: Mutex::new(AnswerState::Done),
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
                // After the end of the stream, a reset can still be reported.
                Phase::Answering => !self.reading.lock().is_far_ahead(),
                Phase::Streaming | Phase::Lingering => true,
                Phase::Closing => false,
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

    /// Records that something has arrived while a worker answers. The worker then wakes the
    /// connection. Returns `false` in the other phases.
    pub(crate) fn note_arrival(&self) -> bool {
        let next = |turn| (Phase::of(turn) == Phase::Answering).then_some(turn | TURNED_AWAY);
        self.turn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// Returns whether a worker answers and the client has sent so much ahead that nothing more is
    /// received. Then the send hook has to notice a reset. Called on the socket thread.
    pub(crate) fn is_held_back(&self) -> bool {
        self.phase() == Phase::Answering && self.reading.lock().is_far_ahead()
    }

    /// Records that the next answer is due.
    pub(crate) fn expect_answer(&self) {
        *self.answer.lock() = AnswerState::Due;
    }

    /// Sends the beginning of the answer that is due, if nothing of it has been sent. A client that
    /// has closed both directions responds with a reset.
    pub(crate) fn begin_answer(&self, sockman: &SockMan) {
        let mut answer = self.answer.lock();
        if *answer == AnswerState::Due {
            *answer = AnswerState::Begun;
            // If this send fails, the next callback reports the error.
            let _ = self.send.push(sockman, BEGINNING);
        }
    }

    /// Sends an answer, or the rest of it if its beginning has been sent.
    ///
    /// # Errors
    ///
    /// The connection is closed or broken.
    pub(crate) fn send_answer(&self, sockman: &SockMan, bytes: &[u8]) -> Result<(), PushError> {
        let mut answer = self.answer.lock();
        let rest = match mem::replace(&mut *answer, AnswerState::Done) {
            AnswerState::Begun => bytes.strip_prefix(BEGINNING).unwrap_or(bytes),
            AnswerState::Due | AnswerState::Done => bytes,
        };
        self.send.push(sockman, rest)
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
