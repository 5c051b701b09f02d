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
    /// The first value of each of [`KEYS`].
    pairs: Vec<(&'static str, String)>,
}

/// The keys whose values matter.
const KEYS: [&str; 4] = ["RESULT", "PRIV", "DESTINATION", "VALUE"];

impl Reply {
    /// Parses a line. Returns `None` if the line is malformed: it is not text, or has fewer than two
    /// words.
    pub(crate) fn parse(line: &[u8]) -> Option<Reply> {
        // Some bridges may end their lines with CRLF, as other protocols do.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).ok().filter(|text| !text.contains('\0'))?;
        let mut words = Words { rest: text };
        let mut verb = || match words.next_word() {
            Some((word, None)) if !word.is_empty() => Some(word.to_owned()),
            _ => None,
        };
        let (Some(first), Some(second)) = (verb(), verb()) else { return None };
        let mut reply = Reply { verbs: [first, second], pairs: Vec::new() };
        while let Some((key, value)) = words.next_word() {
            // A word without a value, or with another key, has no meaning here. A line may have
            // tens of thousands of them.
            if let Some(value) = value {
                if let Some(key) = KEYS.iter().find(|known| **known == key) {
                    if reply.value(key).is_none() {
                        reply.pairs.push((key, value.text()));
                    }
                }
            }
        }
        Some(reply)
    }

    pub(crate) fn is(&self, first: &str, second: &str) -> bool {
        self.verbs[0] == first && self.verbs[1] == second
    }

    /// Returns the value of the first pair with this key.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(found, _)| *found == key).map(|(_, value)| value.as_str())
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

/// The text of a value, with its quotes and escapes.
struct Quoted<'a>(&'a str);

impl<'a> Words<'a> {
    /// Returns the next word, and the value behind its first `=`. The value may be quoted. In a
    /// quoted value, spaces are part of it, and a backslash takes the next character as it is.
    fn next_word(&mut self) -> Option<(&'a str, Option<Quoted<'a>>)> {
        let word = self.rest.trim_start_matches(' ');
        if word.is_empty() {
            self.rest = word;
            return None;
        }
        let (key, after) = word.split_at(word.find([' ', '=']).unwrap_or(word.len()));
        let Some(value) = after.strip_prefix('=') else {
            self.rest = after;
            return Some((key, None));
        };
        let (value, rest) = value.split_at(end_of_value(value));
        self.rest = rest;
        Some((key, Some(Quoted(value))))
    }
}

/// Returns the length of the value at the start of `text`: up to the first space that is not
/// quoted.
fn end_of_value(text: &str) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = text.bytes().position(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'"' => is_quoted = !is_quoted,
            b'\\' => is_escaped = is_quoted,
            b' ' if !is_quoted => return true,
            _ => {}
        }
        false
    });
    end.unwrap_or(text.len())
}

impl Quoted<'_> {
    /// Returns the value without its quotes and escapes.
    fn text(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        let (mut is_quoted, mut is_escaped) = (false, false);
        for character in self.0.chars() {
            match character {
                other if is_escaped => {
                    text.push(other);
                    is_escaped = false;
                }
                '"' => is_quoted = !is_quoted,
                '\\' if is_quoted => is_escaped = true,
                other => text.push(other),
            }
        }
        text
    }
}
