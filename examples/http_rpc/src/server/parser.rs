//! A parser that divides the byte stream of one connection into requests (RFC 9112).
//!
//! It takes bytes, and returns whole requests or the answer to a fault. It uses no sockets and no
//! threads. `httparse` reads the head. The rules for the end of a request stand here, and they are
//! strict: two programs that disagree about the end of a request can be made to see different
//! requests in the same bytes (request smuggling).

use std::fmt;

use super::{
    chunked::{ChunkedBody, ChunkedError},
    grammar,
    response::Response,
};

/// The limit for the request line and the headers together, in bytes. Bitcoin Core has the same
/// limit.
pub const MAX_HEAD: usize = 8 * 1024;
/// The most headers of a request. Honest clients send fewer headers.
const MAX_HEADERS: usize = 100;
/// The most empty lines before a request. Some old clients sent an empty line after a body. RFC
/// 9112, section 2.2, requires servers to ignore it.
const MAX_EMPTY_LINES: usize = 4;
const SCHEME: &str = "http://";
const END_OF_LINE: &[u8] = b"\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// The most bytes of buffer that an idle client keeps allocated.
const KEPT_CAPACITY: usize = 4 * 1024;

/// The head of a request. Headers that the server does not use are not stored.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The method, as the client wrote it.
    pub method: String,
    /// The path, without host and query.
    pub path: String,
    /// The host and the port that the request is for: the value of the Host header, or the host of
    /// a target such as `http://host/path`.
    pub host: Option<String>,
    /// The value of the Authorization header.
    pub authorization: Option<Credentials>,
    /// The value of the Origin header: the site whose page made the request.
    pub origin: Option<String>,
    /// The value of the Sec-Fetch-Site header. Browsers say in it whether another site made the
    /// request, also where they send no Origin.
    pub fetch_site: Option<String>,
    /// The value of the Sec-Fetch-Dest header, which is `document` if the user follows a link.
    pub fetch_dest: Option<String>,
    /// The client speaks HTTP/1.0.
    pub is_http_1_0: bool,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
    /// The client sent `Connection: close`, which overrides `keep-alive`.
    says_close: bool,
    /// The client waits for `100 Continue` before it sends the body.
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

/// The value of an Authorization header. Its `Debug` output hides the value.
#[derive(Clone)]
pub struct Credentials(Vec<u8>);

impl Credentials {
    /// Returns the value of the header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// A whole request.
pub struct Request {
    /// The part before the body.
    pub head: Head,
    /// The decoded body. Empty if the request has none.
    pub body: Vec<u8>,
}

/// Shows only the length of the body, which may hold secrets such as the passphrase of a wallet.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.body.len();
        f.debug_struct("Request")
            .field("head", &self.head)
            .field("body", &format_args!("{length} bytes"))
            .finish()
    }
}

/// The refusal of a request, with its answer. The beginning of the next request is unknown, so the
/// connection ends after this answer.
#[derive(Debug)]
pub struct Refused {
    /// The answer.
    pub response: Response,
    /// The request is a HEAD, so its answer has no body. `false` if the head could not be parsed.
    pub to_head: bool,
}

enum State {
    Head {
        /// The number of received bytes that were searched for the end of the head.
        searched: usize,
        /// The number of empty lines before the head.
        empty_lines: usize,
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
    /// Further bytes are discarded: they could be mistaken for a request.
    Refused,
}

impl State {
    const BETWEEN_REQUESTS: State = State::Head { searched: 0, empty_lines: 0 };
}

/// The parser of one connection.
pub struct RequestParser {
    max_body: usize,
    /// Bounded as long as the caller receives nothing while a whole request may be in it: body
    /// bytes are moved out of it, and a head is limited.
    unparsed: Unparsed,
    state: State,
    must_continue: bool,
}

/// Shows only the number of received bytes, which may hold credentials.
impl fmt::Debug for RequestParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestParser")
            .field("unparsed", &format_args!("{} bytes", self.unparsed.bytes().len()))
            .field("is_within_body", &self.is_within_body())
            .finish_non_exhaustive()
    }
}

impl RequestParser {
    /// Returns a parser that refuses bodies of more than `max_body` bytes.
    pub fn new(max_body: usize) -> RequestParser {
        RequestParser {
            max_body,
            unparsed: Unparsed::default(),
            state: State::BETWEEN_REQUESTS,
            must_continue: false,
        }
    }

    /// Takes received bytes.
    pub fn receive(&mut self, data: &[u8]) {
        if !matches!(self.state, State::Refused) {
            self.unparsed.receive(data);
        }
    }

    /// Returns whether there are bytes that are not part of a returned request. After
    /// [`next`](Self::next) has returned a request, they may hold a part of the next one, a whole
    /// one or several. After `next` has returned `None`, they are the beginning of a head.
    pub(crate) fn has_leftover(&self) -> bool {
        !self.unparsed.bytes().is_empty()
    }

    /// Returns the number of received bytes that are not part of a request or of its body.
    pub(crate) fn unparsed(&self) -> usize {
        self.unparsed.bytes().len()
    }

    /// Returns whether part of a request has arrived.
    pub fn is_within_request(&self) -> bool {
        self.has_leftover() || self.is_within_body()
    }

    /// Returns whether a head has arrived, and its body is not complete.
    pub(crate) fn is_within_body(&self) -> bool {
        matches!(self.state, State::Length { .. } | State::Chunked { .. })
    }

    /// Returns whether `100 Continue` must be sent for the current request. Returns `true` once for
    /// each request that expects it.
    pub fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.must_continue)
    }

    /// Returns the next whole request, or `None` if it has not arrived. `admit` is called with the
    /// head before the body is awaited.
    ///
    /// # Errors
    ///
    /// Returns the answer to a refused request. After that, `next` returns no more requests.
    pub fn next(
        &mut self,
        admit: impl FnOnce(&Head) -> Result<(), Response>,
    ) -> Result<Option<Request>, Refused> {
        let next = self.head_and_body(admit);
        if next.is_err() {
            self.state = State::Refused;
            self.unparsed = Unparsed::default();
            self.must_continue = false;
        }
        next
    }

    fn head_and_body(
        &mut self,
        admit: impl FnOnce(&Head) -> Result<(), Response>,
    ) -> Result<Option<Request>, Refused> {
        if let State::Head { searched, empty_lines } = self.state {
            let head = self.head(searched, empty_lines);
            let head = head.map_err(|response| Refused { response, to_head: false })?;
            let Some(head) = head else { return Ok(None) };
            let to_head = head.method == "HEAD";
            let state = admit(&head).and_then(|()| self.body_of(head));
            self.state = state.map_err(|response| Refused { response, to_head })?;
        }
        self.body()
    }

    fn head(&mut self, searched: usize, empty_lines: usize) -> Result<Option<Head>, Response> {
        let empty_lines = empty_lines + self.skip_empty_lines();
        if empty_lines > MAX_EMPTY_LINES {
            return Err(bad("Too many empty lines precede the request."));
        }
        let unparsed = self.unparsed.bytes();
        let window = unparsed.get(..MAX_HEAD).unwrap_or(unparsed);
        let from = searched.saturating_sub(END_OF_HEAD.len() - 1);
        let end = window
            .get(from..)
            .unwrap_or_default()
            .windows(END_OF_HEAD.len())
            .position(|bytes| bytes == END_OF_HEAD)
            .map(|position| from + position + END_OF_HEAD.len());
        let Some(end) = end else {
            if window.len() == MAX_HEAD {
                return Err(Response::text(431, "The headers are too long."));
            }
            self.state = State::Head { searched: window.len(), empty_lines };
            return Ok(None);
        };
        let head = parse_head(window.get(..end).unwrap_or_default())?;
        self.unparsed.consume(end);
        Ok(Some(head))
    }

    /// Skips empty lines and returns their number. The count is at most one more than the limit.
    fn skip_empty_lines(&mut self) -> usize {
        let lines = self.unparsed.bytes().chunks(END_OF_LINE.len());
        let count = lines.take(MAX_EMPTY_LINES + 1).take_while(|line| *line == END_OF_LINE).count();
        self.unparsed.consume(count * END_OF_LINE.len());
        count
    }

    fn body_of(&mut self, head: Head) -> Result<State, Response> {
        self.must_continue = head.expects_continue && !head.is_http_1_0 && !self.has_leftover();
        match head.framing {
            Framing::None => Ok(State::Length { head, body: Vec::new(), length: 0 }),
            Framing::Length(length) => match usize::try_from(length) {
                // The body is not allocated in advance: memory grows with the received bytes only.
                Ok(length) if length <= self.max_body => {
                    Ok(State::Length { head, body: Vec::new(), length })
                }
                _ => Err(too_large(self.max_body)),
            },
            Framing::Chunked => Ok(State::Chunked { head, body: ChunkedBody::new(self.max_body) }),
        }
    }

    fn body(&mut self) -> Result<Option<Request>, Refused> {
        let unparsed = self.unparsed.bytes();
        let (used, is_complete) = match &mut self.state {
            State::Head { .. } | State::Refused => return Ok(None),
            State::Length { body, length, .. } => {
                let missing = *length - body.len();
                let arrived = unparsed.get(..missing).unwrap_or(unparsed);
                body.extend_from_slice(arrived);
                (arrived.len(), body.len() == *length)
            }
            State::Chunked { head, body } => {
                let used = body.receive(unparsed).map_err(|error| Refused {
                    response: match error {
                        ChunkedError::TooLarge => too_large(self.max_body),
                        ChunkedError::Malformed => bad("The chunks are malformed."),
                    },
                    to_head: head.method == "HEAD",
                })?;
                (used, body.is_complete())
            }
        };
        self.unparsed.consume(used);
        if !is_complete {
            return Ok(None);
        }
        self.must_continue = false;
        match std::mem::replace(&mut self.state, State::BETWEEN_REQUESTS) {
            State::Length { head, body, .. } => Ok(Some(Request { head, body })),
            State::Chunked { head, body } => Ok(Some(Request { head, body: body.into_bytes() })),
            State::Head { .. } | State::Refused => Ok(None),
        }
    }
}

/// A buffer that is filled at its end and consumed from its beginning.
#[derive(Default)]
struct Unparsed {
    buffer: Vec<u8>,
    /// The number of consumed bytes at the beginning.
    consumed: usize,
}

impl Unparsed {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.consumed..).unwrap_or_default()
    }

    fn receive(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    fn consume(&mut self, length: usize) {
        self.consumed += length;
        // The rest is not moved on each call: of a thousand requests that arrive together, each one
        // would move all those behind it. This way no more bytes are moved than were consumed.
        if self.consumed > 0 && self.consumed >= self.bytes().len() {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            self.buffer.shrink_to(KEPT_CAPACITY);
        }
    }
}

fn too_large(max_body: usize) -> Response {
    Response::text(413, &format!("The body is longer than {max_body} bytes."))
}

fn bad(reason: &str) -> Response {
    Response::text(400, reason)
}

fn parse_head(bytes: &[u8]) -> Result<Head, Response> {
    // `httparse` accepts a lone line feed as the end of a line. Other parsers do not.
    let lone = |(at, byte): (usize, &u8)| {
        *byte == b'\n' && at.checked_sub(1).and_then(|at| bytes.get(at)) != Some(&b'\r')
    };
    if bytes.iter().enumerate().any(lone) {
        return Err(bad("A line of the head ends without a carriage return."));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("The head is incomplete.")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Response::text(431, "The request has too many headers."));
        }
        Err(httparse::Error::Version) => {
            return Err(Response::text(
                505,
                "The version is not supported. Use HTTP/1.0 or HTTP/1.1.",
            ));
        }
        Err(error) => return Err(bad(&format!("The head is malformed: {error}."))),
    }
    let is_http_1_0 = request.version == Some(0);
    let method = request.method.unwrap_or_default();
    let target = target(method, request.path.unwrap_or_default())
        .ok_or_else(|| bad("The target of the request is malformed."))?;
    let mut head = Head {
        method: method.to_owned(),
        path: target.path.to_owned(),
        keep_alive: !is_http_1_0,
        is_http_1_0,
        ..Head::default()
    };
    for header in request.headers.iter() {
        head.take_header(header.name, header.value)?;
    }
    head.keep_alive &= !head.says_close;
    if !is_http_1_0 && head.host.is_none() {
        return Err(bad("The Host header is missing."));
    }
    // RFC 9112, section 3.2.2: the host of the target replaces the Host header.
    if let Some(host) = target.host {
        head.host = Some(host.to_owned());
    }
    Ok(head)
}

/// The parts of the target of a request that the server uses.
struct Target<'a> {
    /// Only in a target such as `http://host/path`.
    host: Option<&'a str>,
    path: &'a str,
}

/// Parses `/path?query`, `http://host/path?query`, or the `*` of OPTIONS (RFC 9112, section 3.2).
/// Returns `None` if the target follows none of these forms.
fn target<'a>(method: &str, target: &'a str) -> Option<Target<'a>> {
    if target == "*" {
        return (method == "OPTIONS").then_some(Target { host: None, path: target });
    }
    // The query is removed first, because it may hold slashes.
    let (rest, query) = target.split_once('?').unwrap_or((target, ""));
    let (host, path) = match rest.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(host), if path.is_empty() { "/" } else { path })
        }
        _ => (None, rest),
    };
    let is_valid = path.starts_with('/')
        && grammar::is_path(path)
        && grammar::is_query(query)
        && host.is_none_or(grammar::is_host_and_port);
    is_valid.then_some(Target { host, path })
}

impl Head {
    fn take_header(&mut self, name: &str, value: &[u8]) -> Result<(), Response> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("content-length") {
            // Two equal lengths, or a length beside Transfer-Encoding, are refused as well: honest
            // clients do not send them.
            if self.framing != Framing::None {
                return Err(bad("The length of the body is given twice."));
            }
            let length =
                content_length(value).ok_or_else(|| bad("The Content-Length is not a number."))?;
            self.framing = Framing::Length(length);
        } else if is("transfer-encoding") {
            if self.framing != Framing::None {
                return Err(bad("The length of the body is given twice."));
            }
            if self.is_http_1_0 {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding."));
            }
            // RFC 9112, section 6.3: without `chunked` at the end, the body has no end.
            let codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).rev();
            if codings.skip(1).any(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
                return Err(bad("The Transfer-Encoding has chunked before its end."));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                let reason = "The Transfer-Encoding is not supported. Use chunked.";
                return Err(Response::text(501, reason));
            }
            self.framing = Framing::Chunked;
        } else if is("host") {
            // An empty host is allowed: the client of a target without a host sends it.
            let host = std::str::from_utf8(value)
                .ok()
                .filter(|host| host.is_empty() || grammar::is_host_and_port(host))
                .ok_or_else(|| bad("The Host header is malformed."))?;
            if self.host.replace(host.to_owned()).is_some() {
                return Err(bad("The request has two Host headers."));
            }
        } else if is("origin") {
            only_one(&mut self.origin, value)?;
        } else if is("sec-fetch-site") {
            only_one(&mut self.fetch_site, value)?;
        } else if is("sec-fetch-dest") {
            only_one(&mut self.fetch_dest, value)?;
        } else if is("authorization") {
            if self.authorization.replace(Credentials(value.to_owned())).is_some() {
                return Err(bad("The request has two Authorization headers."));
            }
        } else if is("connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.says_close = true;
                } else if option.eq_ignore_ascii_case(b"keep-alive") && self.is_http_1_0 {
                    self.keep_alive = true;
                }
            }
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Response::text(417, "The only supported expectation is 100-continue."));
            }
            self.expects_continue = true;
        }
        Ok(())
    }
}

/// Stores the value of a header that may be sent once only.
fn only_one(place: &mut Option<String>, value: &[u8]) -> Result<(), Response> {
    match place.replace(String::from_utf8_lossy(value).into_owned()) {
        None => Ok(()),
        Some(_) => Err(bad("A header that may be sent once is sent twice.")),
    }
}

/// Parses a Content-Length, which holds only digits: no sign, no list.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The buffer moves no more bytes than were consumed. The test detects a move by the address of
    /// the bytes, not by the time it takes.
    #[test]
    fn the_buffer_moves_no_more_bytes_than_were_consumed() {
        for length in [1, 30, 7_000] {
            let (mut unparsed, mut moved, mut used) = (Unparsed::default(), 0, 0);
            unparsed.receive(&vec![7; 1_000_000]);
            while unparsed.bytes().len() > length {
                let behind = unparsed.bytes()[length..].as_ptr();
                unparsed.consume(length);
                used += length;
                if unparsed.bytes().as_ptr() != behind {
                    moved += unparsed.bytes().len();
                }
                assert!(moved <= used, "{moved} bytes moved for {used}");
            }
        }
    }

    #[test]
    fn an_idle_client_keeps_a_small_buffer() {
        const BODY: usize = 1_000_000;
        let get = b"GET / HTTP/1.0\r\n\r\n";
        let post = format!("POST / HTTP/1.0\r\nContent-Length: {BODY}\r\n\r\n");
        let mut parser = RequestParser::new(BODY);
        let streams = [get.repeat(50_000), [post.as_bytes(), &vec![b'x'; BODY], b"GET"].concat()];
        for stream in streams {
            parser.receive(&stream);
            while parser.next(|_| Ok(())).unwrap().is_some() {}
            assert!(parser.unparsed.buffer.capacity() <= KEPT_CAPACITY);
        }
    }

    #[test]
    fn a_body_takes_memory_only_for_received_bytes() {
        let mut parser = RequestParser::new(usize::MAX);
        let head = format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        parser.receive(head.as_bytes());
        for arrived in 1..10_000 {
            parser.receive(b"x");
            assert!(parser.next(|_| Ok(())).unwrap().is_none());
            let State::Length { body, .. } = &parser.state else { panic!("no body in progress") };
            assert_eq!(body.len(), arrived);
            assert!(body.capacity() <= 8 + 2 * arrived);
        }
    }
}
