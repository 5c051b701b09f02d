//! One line from a SAM bridge, parsed into two words and `KEY=value` pairs.
//!
//! A reply is a plain value, usable on any thread, without a lock. The bridge is not trusted, so
//! every sequence of bytes either parses or is an error. Source: [SAM 3.1].
//!
//! [SAM 3.1]: https://geti2p.net/en/docs/api/samv3

use std::fmt;

use super::error::{SamError, SamResult};

/// The most bytes of a line that an error shows.
const SHOWN: usize = 100;

/// A parsed line, without its end.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// `HELLO REPLY`, `STREAM STATUS`, …
    verbs: [String; 2],
    pairs: Vec<(String, String)>,
}

impl Reply {
    /// Parses a line.
    ///
    /// # Errors
    ///
    /// [`SamError::Malformed`]: the line is not text, or has fewer than two words.
    pub(crate) fn parse(line: &[u8]) -> Result<Reply, SamError> {
        let malformed = || SamError::Malformed { line: shown(line) };
        // Some bridges may end their lines with CRLF, as other protocols do.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|_| malformed())?;
        if text.contains('\0') {
            return Err(malformed());
        }
        let mut words = Words { rest: text };
        let mut verb = || match words.next_word() {
            Some((word, None)) if !word.is_empty() => Some(word),
            _ => None,
        };
        let verbs = match (verb(), verb()) {
            (Some(first), Some(second)) => [first, second],
            _ => return Err(malformed()),
        };
        let mut pairs = Vec::new();
        while let Some((key, value)) = words.next_word() {
            // A word without a value has no known meaning.
            if let Some(value) = value {
                pairs.push((key, value));
            }
        }
        Ok(Reply { verbs, pairs })
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

    /// Returns the message of the bridge, cut and escaped.
    pub(crate) fn message(&self) -> Option<String> {
        self.value("MESSAGE").map(|message| shown(message.as_bytes()))
    }
}

/// Shows only the names of the values, because values may be keys.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.pairs.iter().map(|(key, _)| key.as_str()).collect();
        write!(f, "Reply({} {}, {keys:?})", self.verbs[0], self.verbs[1])
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

/// Returns the line for a person to read: escaped, cut, and without what could be a key. A word
/// longer than [`LONGEST_WORD_SHOWN`] is not shown, because it could be a key.
pub(crate) fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut shown = String::new();
    for word in text.split(' ') {
        let is_long = word.len() > LONGEST_WORD_SHOWN;
        let word = if is_long { "…" } else { word };
        if !shown.is_empty() {
            shown.push(' ');
        }
        shown.extend(word.chars().flat_map(char::escape_debug));
        if shown.len() > SHOWN {
            let cut = (0..=SHOWN).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
            shown.truncate(cut);
            shown.push('…');
            break;
        }
    }
    shown
}

/// The longest word that is shown, in bytes. An address is 60 characters long, and the shortest key
/// is 516.
const LONGEST_WORD_SHOWN: usize = 80;
