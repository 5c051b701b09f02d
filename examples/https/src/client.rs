//! The state of one client. The library keeps it, and only the socket thread touches it.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use sockman_http_rpc::parser::RequestParser;
use sockman_rustls::TlsLink;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The client sends a request.
    Reading,
    /// A worker answers the request. Nothing is read.
    Answering,
    /// The client takes the answer. Nothing is read.
    Sending,
    /// An event stream sends. The client is read, so that its end is noticed.
    Streaming,
}

pub(crate) struct Client {
    pub(crate) phase: Phase,
    pub(crate) parser: RequestParser,
    /// The answer, and how much of it was encrypted.
    answer: Vec<u8>,
    taken: usize,
    /// Whether another request may follow the answer.
    pub(crate) keep_alive: bool,
    /// The client has ended its stream.
    pub(crate) has_ended: bool,
    /// When the client has to have sent its request or taken its answer. `None` while a worker
    /// answers, and during an event stream.
    pub(crate) until: Option<Instant>,
    /// How many bytes of the event stream were not encrypted, those on their way to the socket
    /// thread included.
    unread: Arc<AtomicUsize>,
}

impl Client {
    pub(crate) fn new(max_body: usize) -> Client {
        Client {
            phase: Phase::Reading,
            parser: RequestParser::new(max_body),
            answer: Vec::new(),
            taken: 0,
            keep_alive: true,
            has_ended: false,
            until: None,
            unread: Arc::default(),
        }
    }

    pub(crate) fn begin_answer(&mut self, answer: Vec<u8>, keep_alive: bool) {
        self.phase = Phase::Sending;
        (self.answer, self.taken, self.keep_alive) = (answer, 0, keep_alive);
    }

    /// Begins an event stream, which is an answer that grows.
    pub(crate) fn begin_events(&mut self, head: Vec<u8>, unread: Arc<AtomicUsize>) {
        self.phase = Phase::Streaming;
        (self.answer, self.taken, self.unread) = (head, 0, unread);
        (self.keep_alive, self.until) = (false, None);
    }

    /// Adds bytes to the answer.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.answer.drain(..mem::take(&mut self.taken));
        self.answer.extend_from_slice(bytes);
    }

    /// Encrypts what there is room for. Returns whether the answer is complete.
    pub(crate) fn go_on(&mut self, link: &mut TlsLink<'_, Client>) -> bool {
        let rest = self.answer.get(self.taken..).unwrap_or_default();
        // After an error, the connection ends by itself.
        let taken = link.write(rest).unwrap_or(0);
        self.taken += taken;
        // The head of an event stream, and answers that are no stream, were not counted.
        let less = |unread: usize| Some(unread.saturating_sub(taken));
        let _ = self.unread.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        let is_complete = self.taken == self.answer.len();
        if is_complete {
            (self.answer, self.taken) = (Vec::new(), 0);
        }
        is_complete
    }
}
