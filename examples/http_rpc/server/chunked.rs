//! The chunked transfer coding (RFC 9112, section 7.1): a body whose length is not known in
//! advance.
//!
//! No sockets, no threads. Sizes, extensions and trailers are limited, and every line ends with
//! both of its characters, or the body is malformed.

/// A size, in hexadecimal, with its extensions. Longer ones have no honest use.
const MAX_SIZE_LINE: usize = 256;
/// Sizes of more digits are above every limit.
const MAX_SIZE_DIGITS: usize = 8;
/// All trailers together; they are ignored.
const MAX_TRAILERS: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkedError {
    TooLarge,
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data {
        missing: usize,
    },
    /// The line end behind a chunk.
    DataEnd,
    Trailer,
    Complete,
}

#[derive(Debug)]
pub(crate) struct ChunkedBody {
    state: State,
    max_body: usize,
    body: Vec<u8>,
    /// A line that has not ended yet.
    line: Vec<u8>,
    trailers: usize,
}

impl ChunkedBody {
    pub(crate) fn new(max_body: usize) -> ChunkedBody {
        ChunkedBody {
            state: State::Size,
            max_body,
            body: Vec::new(),
            line: Vec::new(),
            trailers: 0,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.body
    }

    /// Takes bytes off the wire, up to the end of the body at most, and says how many.
    pub(crate) fn receive(&mut self, data: &[u8]) -> Result<usize, ChunkedError> {
        let mut rest = data;
        while let (Some((first, behind)), false) = (rest.split_first(), self.is_complete()) {
            if let State::Data { missing } = self.state {
                let (now, later) = rest.split_at(missing.min(rest.len()));
                self.body.extend_from_slice(now);
                rest = later;
                let missing = missing - now.len();
                self.state = if missing == 0 { State::DataEnd } else { State::Data { missing } };
                continue;
            }
            rest = behind;
            self.line.push(*first);
            if *first == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.state = self.end_of_line(&line)?;
            } else if self.line.len() > MAX_SIZE_LINE {
                return Err(ChunkedError::Malformed);
            }
        }
        Ok(data.len() - rest.len())
    }

    fn end_of_line(&mut self, line: &[u8]) -> Result<State, ChunkedError> {
        let line = line.strip_suffix(b"\r\n").ok_or(ChunkedError::Malformed)?;
        match self.state {
            State::Size => match size(line)? {
                0 => Ok(State::Trailer),
                size if size > self.max_body - self.body.len() => Err(ChunkedError::TooLarge),
                size => Ok(State::Data { missing: size }),
            },
            State::DataEnd if line.is_empty() => Ok(State::Size),
            State::Trailer if line.is_empty() => Ok(State::Complete),
            State::Trailer => {
                self.trailers += line.len();
                if self.trailers > MAX_TRAILERS {
                    return Err(ChunkedError::Malformed);
                }
                Ok(State::Trailer)
            }
            State::DataEnd | State::Data { .. } | State::Complete => Err(ChunkedError::Malformed),
        }
    }
}

fn size(line: &[u8]) -> Result<usize, ChunkedError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let digits = std::str::from_utf8(digits).map_err(|_| ChunkedError::Malformed)?;
    // `from_str_radix` would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ChunkedError::Malformed);
    }
    if digits.len() > MAX_SIZE_DIGITS {
        return Err(ChunkedError::TooLarge);
    }
    usize::from_str_radix(digits, 16).map_err(|_| ChunkedError::Malformed)
}
