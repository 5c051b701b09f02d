//! The state of one connection. The library keeps it, and only the socket thread touches it.
//!
//! The socket thread reads requests, and a worker answers each of them. A connection has at most
//! one request in flight, so answers leave in order, and a client cannot make the server store many
//! requests. While a request is in flight, the server keeps at most [`MAX_AHEAD`] bytes and one more
//! receive buffer of what the client sends ahead. It reads on only to notice a client that is gone.
//!
//! A worker sends its answer itself, and leaves what comes next in the [`Flight`]. The socket thread
//! looks there in each turn of the connection. Usually the next turn is that of the client's next
//! request, so the answer costs no wake. If the socket thread has to go on without one, it says so
//! in the flight, and the worker wakes it.
//!
//! The end of the client's stream does not say that the client is gone: it may have closed one
//! direction and wait for its answer. The server then sends the first bytes of the answer, which are
//! the same for every answer. A client that is gone responds with a reset.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    helpers::{PushError, SendQueueLimits},
    stateful::Link,
};

use super::{
    parser::RequestParser,
    response::{Afterwards, BEGINNING, Encoded},
};

/// The bytes that a client may send ahead of the answer that it waits for. At this number the server
/// stops to receive, and then notices only a reset.
const MAX_AHEAD: usize = 16 * 1024;
/// The lowest rate of a body in bytes a second. Without this limit, a client that sends a byte now
/// and then would keep its place without end.
const MIN_BODY_RATE: usize = 1024;
/// The library's default receive buffer.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// The queue is above its high mark from the first unsent byte until it is empty, so no request is
/// read while an answer waits for the client. Only one answer is queued at a time, so the queue
/// needs no limit of its own.
pub(super) const LIMITS: SendQueueLimits = match SendQueueLimits::new(0, 1, usize::MAX) {
    Ok(limits) => limits,
    #[allow(clippy::panic, reason = "evaluated when compiled")]
    Err(_) => panic!("low mark < high mark <= limit"),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The client takes the last answer and sends a request.
    Reading,
    /// A worker answers the request.
    Answering,
    /// An event stream sends.
    Streaming,
    /// The last answer is in the send queue.
    Closing,
    /// The connection ends. The library does the rest.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    pub(crate) parser: RequestParser,
    pub(crate) got_eof: bool,
    /// The body that is arriving.
    pub(crate) body: Option<ArrivingBody>,
    /// When the client was last active.
    pub(crate) quiet_since: Instant,
    /// When the connection's timer ends, as last set.
    pub(crate) timer_ends: Instant,
    pub(crate) flight: Arc<Flight>,
}

/// The answer to the request in flight, which a worker and the socket thread send.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// One of [`NOTHING`], [`AWAITED`] and [`SENT`]. The socket thread reads it in each turn, without
    /// the lock.
    signal: AtomicU8,
    /// The lock is held while a part of the answer is put into the send queue, so that the parts
    /// keep their order.
    progress: Mutex<Progress>,
}

/// The answer has not been sent.
const NOTHING: u8 = 0;
/// The answer has not been sent, and the socket thread goes on after it even without a new event.
const AWAITED: u8 = 1;
/// The answer has been sent. The socket thread takes this.
const SENT: u8 = 2;

#[derive(Debug, Default)]
struct Progress {
    /// The [`BEGINNING`] has been sent.
    has_begun: bool,
    /// The answer has been sent at this time.
    sent: Option<(Afterwards, Instant)>,
}

impl Flight {
    /// Sends an answer, or the rest of it if its beginning has been sent. Returns whether the caller
    /// has to wake the connection.
    ///
    /// # Errors
    ///
    /// The connection is closed or broken.
    pub(crate) fn send(
        &self,
        answer: &Encoded,
        push: impl FnOnce(&[u8]) -> Result<(), PushError>,
    ) -> Result<bool, PushError> {
        {
            let mut progress = self.progress.lock();
            let begun = if mem::take(&mut progress.has_begun) { BEGINNING } else { b"" };
            push(answer.bytes.strip_prefix(begun).unwrap_or(&answer.bytes))?;
            progress.sent = Some((answer.afterwards, Instant::now()));
        }
        let is_awaited = self.signal.swap(SENT, Ordering::SeqCst) == AWAITED;
        Ok(is_awaited || answer.afterwards == Afterwards::Close)
    }

    /// Returns whether the answer has been sent. If it has not and `is_awaited` is set, the worker
    /// will wake the connection.
    fn is_sent(&self, is_awaited: bool) -> bool {
        let order = Ordering::SeqCst;
        let before = if is_awaited {
            self.signal.compare_exchange(NOTHING, AWAITED, order, order).unwrap_or_else(|is| is)
        } else {
            self.signal.load(order)
        };
        before == SENT
    }
}

#[derive(Debug)]
pub(crate) struct ArrivingBody {
    pub(crate) since: Instant,
    pub(crate) received: usize,
    /// The last receive was full, so more bytes may wait in the kernel.
    pub(crate) more_waits: bool,
}

impl Connection {
    pub(crate) fn new(max_body: usize, timer_ends: Instant) -> Connection {
        Connection {
            phase: Phase::Reading,
            parser: RequestParser::new(max_body),
            got_eof: false,
            body: None,
            quiet_since: Instant::now(),
            timer_ends,
            flight: Arc::default(),
        }
    }

    pub(crate) fn is_active(&mut self) {
        self.quiet_since = Instant::now();
    }

    /// Closes the connection at once.
    pub(crate) fn close(&mut self, link: Link<'_, Connection>) {
        self.phase = Phase::Ended;
        link.close();
    }

    /// Keeps received bytes for the parser.
    pub(crate) fn receive(&mut self, data: &[u8]) {
        if let Some(body) = &mut self.body {
            body.received += data.len();
            body.more_waits = data.len() >= RECEIVE_BUFFER;
            self.is_active();
        }
        self.parser.receive(data);
    }

    /// Notes that a body is arriving.
    pub(crate) fn begin_body(&mut self) {
        if self.body.is_none() {
            // A complete head counts as activity. A part of one does not, or a client that sends a
            // byte now and then would never time out.
            self.is_active();
            self.body =
                Some(ArrivingBody { since: self.quiet_since, received: 0, more_waits: false });
        }
    }

    /// Returns whether the client has sent something after its request, or has ended its stream.
    pub(crate) fn has_more(&self) -> bool {
        self.got_eof || self.parser.unparsed() > 0
    }

    /// Returns whether a worker answers and the client has sent so much ahead that nothing more is
    /// received.
    pub(crate) fn is_held_back(&self) -> bool {
        self.phase == Phase::Answering && !self.got_eof && self.parser.unparsed() >= MAX_AHEAD
    }

    /// Returns whether more may be received from the client.
    pub(crate) fn may_receive(&self, link: Link<'_, Connection>) -> bool {
        match self.phase {
            Phase::Reading => !link.queue().is_above_high_mark(),
            // After the end of the stream, a reset can still be reported.
            Phase::Answering => !self.is_held_back(),
            Phase::Streaming | Phase::Ended => true,
            Phase::Closing => false,
        }
    }

    /// Sends the beginning of the answer to the request in flight, if nothing of it has been sent. A
    /// client that has closed both directions responds with a reset.
    pub(crate) fn begin_answer(&self, link: Link<'_, Connection>) {
        let mut progress = self.flight.progress.lock();
        if progress.sent.is_none() && !mem::replace(&mut progress.has_begun, true) {
            // If this send fails, the next callback reports the error.
            let _ = link.push(BEGINNING);
        }
    }

    /// Sends an answer that no worker gives.
    pub(crate) fn send_answer(&mut self, link: Link<'_, Connection>, answer: &Encoded) {
        match self.flight.send(answer, |bytes| link.push(bytes)) {
            Ok(_) => {
                self.take_sent(false);
            }
            Err(_) => self.close(link),
        }
    }

    /// Begins the next phase if the answer has been sent. If it has not and `is_awaited` is set, the
    /// worker will wake the connection. Returns whether the phase has changed.
    pub(crate) fn take_sent(&mut self, is_awaited: bool) -> bool {
        if !self.flight.is_sent(is_awaited) {
            return false;
        }
        self.flight.signal.store(NOTHING, Ordering::SeqCst);
        let Some((afterwards, at)) = self.flight.progress.lock().sent.take() else { return false };
        self.quiet_since = at;
        self.phase = match afterwards {
            Afterwards::KeepAlive => Phase::Reading,
            Afterwards::Close => Phase::Closing,
            Afterwards::Stream => Phase::Streaming,
        };
        true
    }

    /// Returns the time at which the client times out if it sends nothing more.
    pub(crate) fn patience_ends(&self, limit: Duration) -> Instant {
        let ends = self.quiet_since + limit;
        match &self.body {
            None => ends,
            // The rate of a body counts only when everything that waits was received.
            Some(body) if body.more_waits => ends,
            Some(body) => {
                let for_bytes = Duration::from_secs((body.received / MIN_BODY_RATE) as u64);
                ends.min(body.since + limit + for_bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_must_arrive_without_a_pause_and_at_a_minimum_rate() {
        let (limit, now) = (Duration::from_secs(30), Instant::now());
        let mut connection = Connection::new(0, now);
        connection.quiet_since = now;
        assert_eq!(connection.patience_ends(limit), now + limit);
        // A byte arrived just now, but few bytes arrived in a long time.
        let since = now - Duration::from_secs(20);
        let mut ends = |received, since, more_waits| {
            connection.body = Some(ArrivingBody { since, received, more_waits });
            connection.patience_ends(limit)
        };
        assert_eq!(ends(0, since, false), since + limit);
        assert_eq!(ends(5 * MIN_BODY_RATE, since, false), since + limit + Duration::from_secs(5));
        // Many bytes arrived. With many bytes, only the time of the last byte counts.
        assert_eq!(ends(usize::MAX, since, false), now + limit);
        // More bytes wait, so the rate is not known.
        assert_eq!(ends(0, since, true), now + limit);
    }
}
