//! One line from a SAM bridge, parsed into two words and `KEY=value` pairs.
//!
//! A reply is a plain value, usable on any thread, without a lock. The bridge is not trusted, so
//! every sequence of bytes either parses or is an error. The bridge knows the private keys, so no
//! text of a reply is shown anywhere. Source: [SAM 3.1].
//!
//! [SAM 3.1]: https://geti2p.net/en/docs/api/samv3

use std::fmt;

use super::error::SamResult;

/// A parsed line, without its end.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// `HELLO REPLY`, `STREAM STATUS`, …
    verbs: [String; 2],
    pairs: Vec<(String, String)>,
}

impl Reply {
    /// Parses a line. Returns `None` if the line is malformed: it is not text, or has fewer than two
    /// words.
    pub(crate) fn parse(line: &[u8]) -> Option<Reply> {
        // Some bridges may end their lines with CRLF, as other protocols do.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).ok().filter(|text| !text.contains('\0'))?;
        let mut words = Words { rest: text };
        let mut verb = || match words.next_word() {
            Some((word, None)) if !word.is_empty() => Some(word),
            _ => None,
        };
        let verbs = match (verb(), verb()) {
            (Some(first), Some(second)) => [first, second],
            _ => return None,
        };
        let mut pairs = Vec::new();
        while let Some((key, value)) = words.next_word() {
            // A word without a value has no known meaning.
            if let Some(value) = value {
                pairs.push((key, value));
            }
        }
        Some(Reply { verbs, pairs })
    }

    pub(crate) fn is(&self, first: &str, second: &str) -> bool {
        self.verbs[0] == first && self.verbs[1] == second
    }

    /// Returns the value of the first pair with this key.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// Returns the result that the line reports, if it reports one.
    pub(crate) fn result(&self) -> Option<SamResult> {
        self.value("RESULT").map(SamResult::from_text)
    }
}

/// The `Debug` text omits all words of the bridge, because each may be a part of a key.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} pairs)", self.pairs.len())
    }
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    /// Returns the next word, and the value behind its first `=`. The value may be quoted. In a
    /// quoted value, spaces are part of it, and a backslash takes the next character as it is.
    fn next_word(&mut self) -> Option<(String, Option<String>)> {
        self.rest = self.rest.trim_start_matches(' ');
        if self.rest.is_empty() {
            return None;
        }
        let mut key = String::new();
        let mut value: Option<String> = None;
        let mut is_quoted = false;
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                ' ' if !is_quoted => {
                    end = at;
                    break;
                }
                '=' if value.is_none() => value = Some(String::new()),
                '"' if value.is_some() => is_quoted = !is_quoted,
                '\\' if is_quoted => {
                    if let Some((_, escaped)) = characters.next() {
                        value.get_or_insert_default().push(escaped);
                    }
                }
                other => value.as_mut().unwrap_or(&mut key).push(other),
            }
        }
        self.rest = &self.rest[end..];
        Some((key, value))
    }
}
