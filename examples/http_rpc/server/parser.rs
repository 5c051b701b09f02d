//! Cuts the byte stream of one connection into requests (RFC 9112).
//!
//! No sockets, no threads: bytes in; whole requests out, or what to answer to nonsense. `httparse`
//! reads the head; what decides where a request ends stands here, and is strict, since two programs
//! that disagree about it can be made to see different requests in the same bytes (request
//! smuggling).

use super::{
    chunked::{ChunkedBody, ChunkedError},
    response::Response,
};

/// Request line and headers together, as in Bitcoin Core.
pub(crate) const MAX_HEAD: usize = 8 * 1024;
/// More than any client sends within that.
const MAX_HEADERS: usize = 100;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// What is kept of a request's head. The other headers are of no interest here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// The path, without host and query.
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) authorization: Option<Vec<u8>>,
    pub(crate) is_http_1_0: bool,
    /// The client wants to use the connection again.
    pub(crate) keep_alive: bool,
    /// It waits for `100 Continue` before it sends the body.
    expects_continue: bool,
    framing: Framing,
}

/// How the end of the body is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    None,
    Length(u64),
    Chunked,
}

/// A whole request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

/// A request that is not served.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) response: Response,
    /// The answer has no body.
    pub(crate) to_head: bool,
}

impl From<Response> for Refused {
    fn from(response: Response) -> Refused {
        Refused { response, to_head: false }
    }
}

#[derive(Debug)]
enum State {
    /// So many bytes of what has arrived hold no end of a head.
    Head {
        searched: usize,
    },
    Length {
        head: Head,
        body: Vec<u8>,
        length: usize,
    },
    Chunked {
        head: Head,
        body: ChunkedBody,
    },
}

#[derive(Debug)]
pub(crate) struct RequestParser {
    max_body: usize,
    /// Arrived, and not yet part of a request. Bounded: nothing is received while it holds a whole
    /// request, and its head is limited.
    unparsed: Vec<u8>,
    state: State,
    must_continue: bool,
}

impl RequestParser {
    pub(crate) fn new(max_body: usize) -> RequestParser {
        let state = State::Head { searched: 0 };
        RequestParser { max_body, unparsed: Vec::new(), state, must_continue: false }
    }

    pub(crate) fn receive(&mut self, data: &[u8]) {
        self.unparsed.extend_from_slice(data);
    }

    /// Bytes have arrived that belong to no request yet handed out.
    pub(crate) fn has_leftover(&self) -> bool {
        !self.unparsed.is_empty()
    }

    /// Part of a request is there.
    pub(crate) fn is_within_request(&self) -> bool {
        self.has_leftover() || !matches!(self.state, State::Head { .. })
    }

    pub(crate) fn is_within_body(&self) -> bool {
        !matches!(self.state, State::Head { .. })
    }

    /// Once per request that asks for it: `100 Continue` is to be sent, since its body is wanted.
    pub(crate) fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.must_continue)
    }

    /// The next whole request, if it has arrived. `admit` sees its head before any of the body is
    /// waited for.
    ///
    /// # Errors
    ///
    /// What to answer. Where the next request begins is not known, so the connection has to end
    /// with that answer.
    pub(crate) fn next(
        &mut self,
        admit: impl FnOnce(&Head) -> Result<(), Response>,
    ) -> Result<Option<Request>, Refused> {
        if let State::Head { searched } = self.state {
            let Some(head) = self.head(searched)? else { return Ok(None) };
            let to_head = head.method == "HEAD";
            admit(&head).map_err(|response| Refused { response, to_head })?;
            self.state = self.body_of(head)?;
        }
        Ok(self.body()?)
    }

    fn head(&mut self, searched: usize) -> Result<Option<Head>, Response> {
        // Some clients of old sent an empty line behind a body; the standard says to ignore it.
        while self.unparsed.starts_with(b"\r\n") {
            self.unparsed.drain(..2);
        }
        let from = searched.min(self.unparsed.len()).saturating_sub(END_OF_HEAD.len() - 1);
        let window = self.unparsed.get(from..).unwrap_or_default();
        let end = window
            .windows(END_OF_HEAD.len())
            .position(|bytes| bytes == END_OF_HEAD)
            .map(|position| from + position + END_OF_HEAD.len());
        let Some(end) = end.filter(|end| *end <= MAX_HEAD) else {
            if self.unparsed.len() > MAX_HEAD {
                return Err(Response::text(431, "The headers are too long."));
            }
            self.state = State::Head { searched: self.unparsed.len() };
            return Ok(None);
        };
        let head = parse_head(self.unparsed.get(..end).unwrap_or_default())?;
        self.unparsed.drain(..end);
        Ok(Some(head))
    }

    fn body_of(&mut self, head: Head) -> Result<State, Response> {
        self.must_continue = head.expects_continue && !head.is_http_1_0 && self.unparsed.is_empty();
        match head.framing {
            Framing::None => Ok(State::Length { head, body: Vec::new(), length: 0 }),
            Framing::Length(length) => match usize::try_from(length) {
                // Memory grows with what arrives, not with what is announced.
                Ok(length) if length <= self.max_body => {
                    Ok(State::Length { head, body: Vec::new(), length })
                }
                _ => Err(self.too_large()),
            },
            Framing::Chunked => Ok(State::Chunked { head, body: ChunkedBody::new(self.max_body) }),
        }
    }

    fn too_large(&self) -> Response {
        Response::text(413, &format!("The body is longer than {} bytes.", self.max_body))
    }

    fn body(&mut self) -> Result<Option<Request>, Response> {
        let is_complete = match &mut self.state {
            State::Head { .. } => return Ok(None),
            State::Length { body, length, .. } => {
                let missing = (*length - body.len()).min(self.unparsed.len());
                body.extend(self.unparsed.drain(..missing));
                body.len() == *length
            }
            State::Chunked { body, .. } => match body.receive(&self.unparsed) {
                Ok(used) => {
                    self.unparsed.drain(..used);
                    body.is_complete()
                }
                Err(ChunkedError::TooLarge) => return Err(self.too_large()),
                Err(ChunkedError::Malformed) => return Err(bad("The chunks are malformed.")),
            },
        };
        if !is_complete {
            return Ok(None);
        }
        self.must_continue = false;
        match std::mem::replace(&mut self.state, State::Head { searched: 0 }) {
            State::Length { head, body, .. } => Ok(Some(Request { head, body })),
            State::Chunked { head, body } => Ok(Some(Request { head, body: body.into_bytes() })),
            State::Head { .. } => Ok(None),
        }
    }
}

fn bad(reason: &str) -> Response {
    Response::text(400, reason)
}

fn parse_head(bytes: &[u8]) -> Result<Head, Response> {
    // `httparse` takes a lone line feed for a line's end, which others do not.
    let lone = |(at, byte): (usize, &u8)| {
        *byte == b'\n' && at.checked_sub(1).and_then(|at| bytes.get(at)) != Some(&b'\r')
    };
    if bytes.iter().enumerate().any(lone) {
        return Err(bad("A line ends without a carriage return."));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("The head ends too early.")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Response::text(431, "There are too many headers."));
        }
        Err(httparse::Error::Version) => {
            return Err(Response::text(505, "HTTP/1.0 and HTTP/1.1 are spoken here."));
        }
        Err(error) => return Err(bad(&format!("The head is malformed: {error}."))),
    }
    let is_http_1_0 = request.version == Some(0);
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: path(request.path.unwrap_or_default())?,
        keep_alive: !is_http_1_0,
        is_http_1_0,
        ..Head::default()
    };
    for header in request.headers.iter() {
        head.take_header(header.name, header.value)?;
    }
    if !is_http_1_0 && head.host.is_none() {
        return Err(bad("There is no Host header."));
    }
    Ok(head)
}

/// Of `/path?query` or `http://host/path?query`.
fn path(target: &str) -> Result<String, Response> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| rest.split_at(slash).1),
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if path.starts_with('/') || path == "*" {
        Ok(path.to_owned())
    } else {
        Err(bad("The target of the request is malformed."))
    }
}

impl Head {
    fn take_header(&mut self, name: &str, value: &[u8]) -> Result<(), Response> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("content-length") {
            // Also two equal ones, and also beside Transfer-Encoding: nobody honest sends that.
            if self.framing != Framing::None {
                return Err(bad("The length of the body is given twice."));
            }
            let length =
                content_length(value).ok_or_else(|| bad("Content-Length is no number."))?;
            self.framing = Framing::Length(length);
        } else if is("transfer-encoding") {
            if self.framing != Framing::None {
                return Err(bad("The length of the body is given twice."));
            }
            if self.is_http_1_0 {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding."));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Response::text(501, "The only Transfer-Encoding here is chunked."));
            }
            self.framing = Framing::Chunked;
        } else if is("host") {
            let host = String::from_utf8_lossy(value).into_owned();
            if self.host.replace(host).is_some() {
                return Err(bad("There are two Host headers."));
            }
        } else if is("authorization") {
            if self.authorization.replace(value.to_owned()).is_some() {
                return Err(bad("There are two Authorization headers."));
            }
        } else if is("connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.keep_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") && self.is_http_1_0 {
                    self.keep_alive = true;
                }
            }
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Response::text(417, "What is expected is not known here."));
            }
            self.expects_continue = true;
        }
        Ok(())
    }
}

/// Digits and nothing else: no sign, no list.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}
