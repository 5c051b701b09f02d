//! Servers with the contract `chat`: each complete line of a member goes to all other members.
//!
//! - The beginning of a line waits until the line is complete.
//! - Lines that arrive together are sent together, as one message.
//! - A member that leaves more than about 256 KiB of short lines unread is dropped.
//! - The text of a line is allocated once, and all members share it.
use std::sync::Arc;

pub(super) mod sockman;
pub(super) mod tokio;
pub(super) mod tokio_direct;

/// Bytes that one member may leave unread before it is dropped.
const MOST_UNREAD: usize = 256 * 1024;
/// The most bytes that a task of tokio receives at once.
const LONGEST_READ: usize = 4096;

/// Appends received bytes to the beginning of a line. Returns all complete lines, and keeps the
/// beginning of the next one.
fn complete_lines(beginning: &mut Vec<u8>, received: &[u8]) -> Option<Arc<[u8]>> {
    let Some(end) = received.iter().rposition(|&byte| byte == b'\n') else {
        beginning.extend_from_slice(received);
        return None;
    };
    let (lines, next) = received.split_at(end + 1);
    let text = if beginning.is_empty() {
        lines.into()
    } else {
        beginning.extend_from_slice(lines);
        beginning.as_slice().into()
    };
    beginning.clear();
    beginning.extend_from_slice(next);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_are_returned_and_the_rest_is_kept() {
        let mut beginning = Vec::new();
        assert_eq!(complete_lines(&mut beginning, b"on"), None);
        assert_eq!(
            complete_lines(&mut beginning, b"e\ntwo\nth").as_deref(),
            Some(&b"one\ntwo\n"[..])
        );
        assert_eq!(complete_lines(&mut beginning, b"ree\n").as_deref(), Some(&b"three\n"[..]));
        assert_eq!(complete_lines(&mut beginning, b"four\n").as_deref(), Some(&b"four\n"[..]));
        assert!(beginning.is_empty());
    }
}
