//! The grammar of hosts, paths and tokens (RFC 3986, RFC 9110). This module parses text and uses no
//! sockets.
//!
//! What is between these rules and what other programs accept could be taken for something else by
//! one of two programs, so it is refused.

use std::net::Ipv6Addr;

/// Returns whether a byte may be part of a token, such as the name of a header.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether the text is a host that is not empty, perhaps with a port, and nothing else: no
/// user, no blank. A colon without a port is allowed.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if is_ip_literal(address) => match port.strip_prefix(':') {
                Some(port) => return is_port(port),
                None => return port.is_empty(),
            },
            _ => return false,
        },
        None => text.split_once(':').unwrap_or((text, "")),
    };
    !host.is_empty() && is_made_of(host, is_name_byte) && is_port(port)
}

/// Returns whether the text, which is not empty, is a path.
pub(super) fn is_path(text: &str) -> bool {
    is_made_of(text, |byte| is_name_byte(byte) || b":@/".contains(&byte))
}

/// Returns whether the text is a query, which may be empty.
pub(super) fn is_query(text: &str) -> bool {
    is_made_of(text, |byte| is_name_byte(byte) || b":@/?".contains(&byte))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether the text is an IPv6 address without a zone, or an address of a future version.
fn is_ip_literal(text: &str) -> bool {
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            let is_version =
                !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_address = |byte| byte != b'%' && (is_name_byte(byte) || byte == b':');
            is_version && !address.is_empty() && address.bytes().all(is_address)
        });
    }
    text.parse::<Ipv6Addr>().is_ok()
}

/// Returns whether a byte may be part of a name (RFC 3986: unreserved, sub-delims, or the percent
/// sign of an escape).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

/// Returns whether all bytes are allowed, and two hexadecimal digits follow each percent sign.
fn is_made_of(text: &str, is_allowed: impl Fn(u8) -> bool) -> bool {
    let is_escape = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    text.bytes().all(is_allowed) && text.split('%').skip(1).all(is_escape)
}

/// Returns whether the text is the extensions of a chunk: none, or `;name` or `;name=value` several
/// times, where the value is a token or a quoted string (RFC 9112, section 7.1.1). Blanks are
/// allowed around the semicolon and the equals sign only.
pub(super) fn is_chunk_extensions(text: &[u8]) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(name) = skip_blanks(rest).strip_prefix(b";").map(skip_blanks) else {
            return false;
        };
        let Some(after_name) = skip_token(name) else { return false };
        rest = after_name;
        if let Some(value) = skip_blanks(rest).strip_prefix(b"=").map(skip_blanks) {
            let after_value = match value.strip_prefix(b"\"") {
                Some(quoted) => skip_quoted(quoted),
                None => skip_token(value),
            };
            let Some(after_value) = after_value else { return false };
            rest = after_value;
        }
    }
    true
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    text.get(blanks..).unwrap_or_default()
}

/// Returns what follows the token at the beginning, or `None` without a token.
fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().take_while(|byte| is_token_byte(**byte)).count();
    text.get(length..).filter(|_| length > 0)
}

/// Returns what follows the closing quote, or `None` without one. The caller has refused control
/// characters except the tab.
fn skip_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut bytes = text.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some(bytes.as_slice()),
            b'\\' => drop(bytes.next()?),
            _ => {}
        }
    }
}
