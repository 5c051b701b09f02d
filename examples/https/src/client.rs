//! The state of one client. The library keeps it, and only the socket thread touches it.

use std::time::Instant;

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
    /// answers.
    pub(crate) until: Option<Instant>,
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
        }
    }

    pub(crate) fn begin_answer(&mut self, answer: Vec<u8>, keep_alive: bool) {
        self.phase = Phase::Sending;
        (self.answer, self.taken, self.keep_alive) = (answer, 0, keep_alive);
    }

    /// Encrypts what there is room for. Returns whether the answer is complete.
    pub(crate) fn go_on(&mut self, link: &mut TlsLink<'_, Client>) -> bool {
        let rest = self.answer.get(self.taken..).unwrap_or_default();
        // After an error, the connection ends by itself.
        self.taken += link.write(rest).unwrap_or(0);
        let is_complete = self.taken == self.answer.len();
        if is_complete {
            (self.answer, self.taken) = (Vec::new(), 0);
        }
        is_complete
    }
}
