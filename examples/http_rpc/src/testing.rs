//! A model for tests: the requests that the HTTP server's parser finds in a stream of bytes, which
//! may come in any pieces.
//!
//! The tests `parser` and `hostile` and the fuzz target `http` share it.

use crate::{
    Response,
    parser::{Head, Refused, Request, RequestParser},
};

/// The result of parsing a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The whole requests, in order.
    pub requests: Vec<Parsed>,
    /// The state after the whole requests.
    pub end: End,
}

/// The parts of a request that tests compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The method, as the client wrote it.
    pub method: String,
    /// The path, without host and query.
    pub path: String,
    /// The value of the Host header.
    pub host: Option<String>,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
    /// The decoded body.
    pub body: Vec<u8>,
}

/// The state after the whole requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No part of a request has arrived.
    Idle,
    /// A head has begun.
    WithinHead,
    /// A head is complete, and its body is not.
    WithinBody,
    /// The next request is refused.
    Refused {
        /// The status of the answer.
        status: u16,
        /// The answer is to a HEAD request.
        to_head: bool,
    },
}

impl Outcome {
    /// Returns the statuses of the answers of a server whose service accepts every request. The
    /// server closes after a refusal, and after a request that asks for it.
    pub fn statuses(&self) -> Vec<u16> {
        let kept = self.requests.iter().take_while(|request| request.keep_alive).count();
        if kept < self.requests.len() {
            return vec![200; kept + 1];
        }
        let mut statuses = vec![200; kept];
        if let End::Refused { status, .. } = self.end {
            statuses.push(status);
        }
        statuses
    }
}

fn admit(head: &Head) -> Result<(), Response> {
    match &*head.path {
        "/secret" => Err(Response::text(401, "no")),
        _ => Ok(()),
    }
}

/// Parses `pieces`. Takes all complete requests after each piece.
pub fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max_body: usize) -> Outcome {
    let mut parser = RequestParser::new(max_body);
    let (mut requests, mut refused) = (Vec::new(), None);
    for piece in pieces {
        parser.receive(piece);
        loop {
            let next = parser.next(admit);
            assert!(
                refused.is_none() || matches!(next, Ok(None)),
                "the parser returned something after a refusal"
            );
            match next {
                Ok(Some(request)) => requests.push(Parsed::from(request)),
                Ok(None) => break,
                Err(Refused { response, to_head }) => {
                    refused = Some(End::Refused { status: response.status, to_head });
                }
            }
        }
    }
    let end = match refused {
        Some(refused) => refused,
        None if parser.is_within_body() => End::WithinBody,
        None if parser.is_within_request() => End::WithinHead,
        None => End::Idle,
    };
    Outcome { requests, end }
}

impl From<Request> for Parsed {
    fn from(request: Request) -> Parsed {
        let Request { head, body } = request;
        let Head { method, path, host, keep_alive, .. } = head;
        Parsed { method, path, host, keep_alive, body }
    }
}
