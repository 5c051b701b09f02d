//! What the parser of the HTTP server makes of a stream of bytes, which may come in any pieces.
//!
//! The tests `http_parser` and `http_hostile` and the fuzz target `http` share it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::http::{
    parser::{Head, Refused, Request, RequestParser},
    response::Response,
};

/// What a stream comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub requests: Vec<Parsed>,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub method: String,
    pub path: String,
    pub host: Option<String>,
    pub keep_alive: bool,
    pub body: Vec<u8>,
}

/// How it goes on behind the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// There is nothing of a request.
    Idle,
    WithinHead,
    WithinBody,
    Refused {
        status: u16,
        to_head: bool,
    },
}

impl Outcome {
    /// What a server answers, whose service takes everything. It closes after the last of them, if
    /// it is a refusal or the client wishes it.
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

/// Takes all that there is behind each piece.
pub fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max_body: usize) -> Outcome {
    let mut parser = RequestParser::new(max_body);
    let (mut requests, mut refused) = (Vec::new(), None);
    for piece in pieces {
        parser.receive(piece);
        loop {
            let next = parser.next(admit);
            assert!(refused.is_none() || matches!(next, Ok(None)), "more, behind a refusal");
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
