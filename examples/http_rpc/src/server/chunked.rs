//! A decoder for the chunked transfer coding (RFC 9112, section 7.1), which carries a body whose
//! length is not known in advance.
//!
//! It uses no sockets and no threads. Sizes, extensions and trailers are limited. A line must end
//! with CR LF, and the only control character allowed in it is a tab.

use std::fmt;

use super::grammar;

/// The longest line with a chunk's size in hexadecimal, with its extensions and its line end.
/// Honest clients send shorter lines.
const MAX_SIZE_LINE: usize = 256;
/// The most digits of a size, without leading zeros. A size with more digits exceeds every limit.
const MAX_SIZE_DIGITS: usize = 8;
/// The limit for all trailers together, with their line ends and the final empty line. Trailers
/// are ignored.
const MAX_TRAILERS: usize = 8 * 1024;
const END_OF_LINE: &[u8] = b"\r\n";

/// The error returned by [`ChunkedBody::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkedError {
    /// The body is longer than the limit.
    TooLarge,
    /// The bytes do not follow the coding.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data {
        missing: usize,
    },
    /// The line end after a chunk.
    DataEnd,
    /// The trailers may take `allowed` more bytes.
    Trailers {
        allowed: usize,
    },
    Complete,
}

impl State {
    /// Returns the longest line allowed in this state, with its end.
    fn max_line(self) -> usize {
        match self {
            State::Size => MAX_SIZE_LINE,
            State::DataEnd => END_OF_LINE.len(),
            State::Trailers { allowed } => allowed,
            State::Data { .. } | State::Complete => 0,
        }
    }
}

/// The decoder of one body.
pub struct ChunkedBody {
    state: State,
    max_body: usize,
    body: Vec<u8>,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
}

/// Shows only the length of the body, which may hold secrets.
impl fmt::Debug for ChunkedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkedBody")
            .field("state", &self.state)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

impl ChunkedBody {
    /// Returns a decoder for a body of at most `max_body` bytes.
    pub fn new(max_body: usize) -> ChunkedBody {
        ChunkedBody { state: State::Size, max_body, body: Vec::new(), line: Vec::new() }
    }

    /// Returns whether the end of the body has arrived.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Returns the bytes of the body that have arrived.
    pub fn into_bytes(self) -> Vec<u8> {
        self.body
    }

    /// Takes received bytes, at most up to the end of the body, and returns how many it took.
    ///
    /// # Errors
    ///
    /// Returns a [`ChunkedError`]. The body cannot be continued after it.
    pub fn receive(&mut self, data: &[u8]) -> Result<usize, ChunkedError> {
        let mut rest = data;
        while !rest.is_empty() && !self.is_complete() {
            let used = match self.state {
                State::Data { missing } => self.take_data(rest, missing),
                _ => self.take_line(rest)?,
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(data.len() - rest.len())
    }

    fn take_data(&mut self, arrived: &[u8], missing: usize) -> usize {
        let data = arrived.get(..missing).unwrap_or(arrived);
        self.body.extend_from_slice(data);
        let missing = missing - data.len();
        self.state = if missing == 0 { State::DataEnd } else { State::Data { missing } };
        data.len()
    }

    /// Takes a line, or the part of it that has arrived, and returns the number of bytes taken.
    fn take_line(&mut self, arrived: &[u8]) -> Result<usize, ChunkedError> {
        let allowed = self.state.max_line().saturating_sub(self.line.len());
        let window = arrived.get(..allowed).unwrap_or(arrived);
        let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
            if window.len() == allowed {
                return Err(ChunkedError::Malformed);
            }
            self.line.extend_from_slice(window);
            return Ok(window.len());
        };
        let (line, _) = window.split_at(end + 1);
        self.line.extend_from_slice(line);
        self.state = self.end_of_line()?;
        self.line.clear();
        Ok(line.len())
    }

    fn end_of_line(&self) -> Result<State, ChunkedError> {
        let line = self.line.strip_suffix(END_OF_LINE).ok_or(ChunkedError::Malformed)?;
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(ChunkedError::Malformed);
        }
        match self.state {
            State::Size => match size(line)? {
                0 => Ok(State::Trailers { allowed: MAX_TRAILERS }),
                size if size > self.max_body - self.body.len() => Err(ChunkedError::TooLarge),
                size => Ok(State::Data { missing: size }),
            },
            State::DataEnd if line.is_empty() => Ok(State::Size),
            State::Trailers { .. } if line.is_empty() => Ok(State::Complete),
            State::Trailers { allowed } if is_field(line) => {
                Ok(State::Trailers { allowed: allowed - self.line.len() })
            }
            _ => Err(ChunkedError::Malformed),
        }
    }
}

/// Parses `size` or `size;extensions`.
fn size(line: &[u8]) -> Result<usize, ChunkedError> {
    let length = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(length);
    let size = std::str::from_utf8(size).map_err(|_| ChunkedError::Malformed)?;
    if size.is_empty() || !grammar::is_chunk_extensions(extensions) {
        return Err(ChunkedError::Malformed);
    }
    let digits = size.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.len() > MAX_SIZE_DIGITS {
        return Err(ChunkedError::TooLarge);
    }
    usize::from_str_radix(digits, 16).map_err(|_| ChunkedError::Malformed)
}

/// Returns whether a line is a field: a name, a colon, and anything after it.
fn is_field(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    let name = colon.and_then(|colon| line.get(..colon)).unwrap_or_default();
    !name.is_empty() && name.iter().copied().all(grammar::is_token_byte)
}
