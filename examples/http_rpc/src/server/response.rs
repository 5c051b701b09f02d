//! Answers and their encoding. This module uses no sockets and no locks.

use std::time::SystemTime;

/// An answer with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// The headers besides those that every answer has.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// The first bytes of every answer.
pub(crate) const BEGINNING: &[u8] = b"HTTP/1.1 ";

/// What the connection does after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// The client may send the next request.
    KeepAlive,
    Close,
    /// An event stream has begun, which the end of the connection ends.
    Stream,
}

/// The bytes of an answer.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) afterwards: Afterwards,
}

impl Response {
    /// Returns an answer with this body.
    pub fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response { status, content_type, headers: Vec::new(), body }
    }

    /// Returns a plain-text answer, mostly a sentence about an error.
    pub fn text(status: u16, text: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
    }

    pub(crate) fn json(status: u16, mut text: Vec<u8>) -> Response {
        // Bitcoin Core's answers end with a line feed.
        text.push(b'\n');
        Response::new(status, "application/json", text)
    }

    pub(crate) fn empty(status: u16) -> Response {
        Response::new(status, "", Vec::new())
    }

    /// Adds a header to those that every answer has.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Response {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Returns the bytes of the answer, for a server of another crate. With `keep_alive`, the client
    /// may send another request. With `to_head`, it is the answer to a HEAD request and has no body.
    pub fn to_bytes(&self, keep_alive: bool, to_head: bool) -> Vec<u8> {
        let afterwards = if keep_alive { Afterwards::KeepAlive } else { Afterwards::Close };
        self.encode(afterwards, to_head).bytes
    }

    /// Returns head and body in one piece, for one send. With `to_head`, it is the answer to a HEAD
    /// request and has no body.
    pub(crate) fn encode(&self, afterwards: Afterwards, to_head: bool) -> Encoded {
        let mut bytes = head(self.status, self.content_type, afterwards);
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        // RFC 9110, section 8.6: a 204 response has no Content-Length.
        if self.status != 204 {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        if !to_head {
            bytes.extend_from_slice(&self.body);
        }
        Encoded { bytes, afterwards }
    }
}

/// Returns the beginning of an answer's head. The caller appends the final empty line.
pub(crate) fn head(status: u16, content_type: &str, afterwards: Afterwards) -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut head = format!("HTTP/1.1 {status} {}\r\nDate: {date}\r\n", reason(status));
    if !content_type.is_empty() {
        head += "Content-Type: ";
        head += content_type;
        head += "\r\n";
    }
    head += match afterwards {
        Afterwards::Close | Afterwards::Stream => "Connection: close\r\n",
        // HTTP/1.1 keeps connections by default. A client of HTTP/1.0 needs this header.
        Afterwards::KeepAlive => "Connection: keep-alive\r\n",
    };
    head.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
