//! Parses text into addresses. Pure functions, usable on any thread, without a lock.
//!
//! Text comes from configuration files, from people and from proxies. Parsing is therefore total:
//! every input gives either a value or an error that names the wrong part, in linear time.

use std::net::Ipv6Addr;
use std::str::FromStr;

use super::Destination;
use super::error::{ParseAddrError, ParseAddrErrorKind as Kind};
#[cfg(feature = "i2p")]
use super::i2p::I2pHash;
#[cfg(feature = "socks5")]
use super::onion::OnionV3;
use super::unix::{UNIX_PREFIX, UnixAddr};
use super::{NetAddr, Service};

/// The length of a host name is one byte in SOCKS5 (RFC 1928).
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// The end of every onion address (RFC 7686).
pub(super) const ONION_SUFFIX: &str = ".onion";

/// The end of an I2P address that is a hash. The end of an I2P name is different.
pub(super) const I2P_SUFFIX: &str = ".b32.i2p";

/// Distinguishes a CJDNS address from plain IPv6 with the same bytes.
pub(super) const CJDNS_PREFIX: &str = "cjdns:";

impl FromStr for Service {
    type Err = ParseAddrError;

    /// Parses an address with its port, in the forms listed at [`Service`].
    ///
    /// # Errors
    ///
    /// [`ParseAddrError`], which shows the text and says which part is wrong and why.
    fn from_str(text: &str) -> Result<Service, ParseAddrError> {
        parse_service(text).map_err(|kind| ParseAddrError::new(text, kind))
    }
}

impl FromStr for NetAddr {
    type Err = ParseAddrError;

    /// Parses an address without a port, in the forms listed at [`Service`]. Brackets around an
    /// IPv6 address are allowed.
    ///
    /// # Errors
    ///
    /// [`ParseAddrError`], which shows the text and says which part is wrong and why.
    fn from_str(text: &str) -> Result<NetAddr, ParseAddrError> {
        parse_net_addr(text).map_err(|kind| ParseAddrError::new(text, kind))
    }
}

impl FromStr for Destination {
    type Err = ParseAddrError;

    /// Parses an address with its port, or a host name with its port.
    ///
    /// # Errors
    ///
    /// [`ParseAddrError`], which shows the text and says which part is wrong and why.
    fn from_str(text: &str) -> Result<Destination, ParseAddrError> {
        match parse_service(text) {
            Ok(service) => Ok(Destination::Service(service)),
            Err(Kind::HostName) => parse_name(text),
            Err(kind) => Err(kind),
        }
        .map_err(|kind| ParseAddrError::new(text, kind))
    }
}

/// Implements `TryFrom` text for each type that parses, so that text is accepted wherever an
/// address is.
macro_rules! try_from_text {
    ($($address:ty),*) => {$(
        impl TryFrom<&str> for $address {
            type Error = ParseAddrError;

            fn try_from(text: &str) -> Result<$address, ParseAddrError> {
                text.parse()
            }
        }

        impl TryFrom<&String> for $address {
            type Error = ParseAddrError;

            fn try_from(text: &String) -> Result<$address, ParseAddrError> {
                text.parse()
            }
        }

        impl TryFrom<String> for $address {
            type Error = ParseAddrError;

            fn try_from(text: String) -> Result<$address, ParseAddrError> {
                text.parse()
            }
        }
    )*};
}

try_from_text!(Service, NetAddr, Destination);

/// Parses a host name with a port. The caller has found that the text is no address.
fn parse_name(text: &str) -> Result<Destination, Kind> {
    let (host, after) = text.split_at(text.rfind(':').unwrap_or(text.len()));
    if host.len() > MAX_NAME_BYTES {
        return Err(Kind::NameTooLong);
    }
    Ok(Destination::Name { host: host.to_owned(), port: parse_port_behind(after)? })
}

fn parse_service(text: &str) -> Result<Service, Kind> {
    if let Some(rest) = text.strip_prefix(UNIX_PREFIX) {
        return Ok(Service::new(NetAddr::Unix(UnixAddr::parse_rest(rest)?), 0));
    }
    if let Some(rest) = text.strip_prefix(CJDNS_PREFIX) {
        let (inside, after) = split_brackets(rest)?.ok_or(Kind::Brackets)?;
        return Ok(Service::new(parse_cjdns(inside)?, parse_port_behind(after)?));
    }
    if let Some((inside, after)) = split_brackets(text)? {
        return Ok(Service::new(parse_ipv6(inside)?, parse_port_behind(after)?));
    }
    let (host, after) = text.split_at(text.rfind(':').unwrap_or(text.len()));
    if host.contains(':') {
        return Err(kind_of_many_colons(text));
    }
    // The host is parsed first, so that the error for "example.com" says that the text is a name,
    // and not that the port is missing.
    let addr = parse_host(host)?;
    Ok(Service::new(addr, parse_port_behind(after)?))
}

fn parse_net_addr(text: &str) -> Result<NetAddr, Kind> {
    if let Some(rest) = text.strip_prefix(UNIX_PREFIX) {
        return Ok(NetAddr::Unix(UnixAddr::parse_rest(rest)?));
    }
    if let Some(rest) = text.strip_prefix(CJDNS_PREFIX) {
        return parse_cjdns(strip_brackets(rest)?);
    }
    let bare = strip_brackets(text)?;
    if bare.len() < text.len() {
        return parse_ipv6(bare);
    }
    match bare.bytes().filter(|byte| *byte == b':').take(2).count() {
        0 => parse_host(bare),
        1 => {
            let host = bare.split(':').next().unwrap_or_default();
            parse_host(host).and(Err(Kind::UnexpectedPort))
        }
        _ if bare.contains('/') => Err(Kind::Unrecognized),
        _ => parse_ipv6(bare),
    }
}

/// Parses a host without brackets, prefix or port: every kind but IPv6, CJDNS and unix-domain.
fn parse_host(host: &str) -> Result<NetAddr, Kind> {
    if host.is_empty() {
        return Err(Kind::Empty);
    }
    // With one dot at the end, a name is the same name (RFC 1034). More dots make no name.
    let absolute = host.strip_suffix('.').unwrap_or(host);
    if let Some(label) = strip_suffix_ignore_case(absolute, ONION_SUFFIX) {
        return parse_onion(label);
    }
    if let Some(label) = strip_suffix_ignore_case(absolute, I2P_SUFFIX) {
        return parse_i2p(label);
    }
    if let Some(kind) = kind_of_special_name(host) {
        return Err(kind);
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return host.parse().map(NetAddr::Ipv4).map_err(|_| Kind::Ipv4);
    }
    if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return Err(Kind::HostName);
    }
    Err(Kind::Unrecognized)
}

/// Returns the error for a name that ends in `onion` or `i2p`, in any case and with any number of
/// dots at the end. Such a name must not reach a resolver, which would report it to others (RFC
/// 7686). The form `xn--onion-` is what IDNA's Punycode makes of `onion`.
fn kind_of_special_name(host: &str) -> Option<Kind> {
    let name = host.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    let last = last.strip_prefix("xn--").and_then(|coded| coded.strip_suffix('-')).unwrap_or(&last);
    match last {
        "onion" => Some(Kind::OnionName),
        "i2p" => Some(Kind::I2pName),
        _ => None,
    }
}

#[cfg(feature = "socks5")]
fn parse_onion(label: &str) -> Result<NetAddr, Kind> {
    OnionV3::parse_label(label).map(NetAddr::TorV3)
}

#[cfg(not(feature = "socks5"))]
fn parse_onion(_: &str) -> Result<NetAddr, Kind> {
    Err(Kind::MissingFeature { feature: "socks5" })
}

#[cfg(feature = "i2p")]
fn parse_i2p(label: &str) -> Result<NetAddr, Kind> {
    I2pHash::parse_label(label).map(NetAddr::I2p)
}

#[cfg(not(feature = "i2p"))]
fn parse_i2p(_: &str) -> Result<NetAddr, Kind> {
    Err(Kind::MissingFeature { feature: "i2p" })
}

fn parse_ipv6(text: &str) -> Result<NetAddr, Kind> {
    let (addr, scope_id) = match text.split_once('%') {
        Some((addr, scope)) => (addr, Some(scope)),
        None => (text, None),
    };
    let addr: Ipv6Addr = addr.parse().map_err(|_| Kind::Ipv6)?;
    let scope_id = scope_id.map_or(Ok(0), parse_scope)?;
    Ok(NetAddr::ipv6(addr, scope_id))
}

fn parse_cjdns(text: &str) -> Result<NetAddr, Kind> {
    let addr = text.parse().map_err(|_| Kind::Ipv6)?;
    NetAddr::cjdns(addr).map_err(Kind::Invalid)
}

fn parse_scope(text: &str) -> Result<u32, Kind> {
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    if !decimal || has_leading_zero(text) {
        return Err(Kind::Scope);
    }
    text.parse().map_err(|_| Kind::Scope)
}

/// Parses the port. `after` is the text after the host: nothing, or a colon and the port.
fn parse_port_behind(after: &str) -> Result<u16, Kind> {
    if after.is_empty() {
        return Err(Kind::MissingPort);
    }
    let port = after.strip_prefix(':').ok_or(Kind::Brackets)?;
    if port.is_empty() {
        return Err(Kind::EmptyPort);
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Kind::PortNotDecimal);
    }
    if has_leading_zero(port) {
        return Err(Kind::PortLeadingZero);
    }
    // The text has digits only, so the range is the only possible error.
    port.parse().map_err(|_| Kind::PortTooLarge)
}

/// Splits `[a]b` into `(a, b)`. Returns `None` for text without an opening bracket.
fn split_brackets(text: &str) -> Result<Option<(&str, &str)>, Kind> {
    match text.strip_prefix('[') {
        None => Ok(None),
        Some(opened) => opened.split_once(']').ok_or(Kind::Brackets).map(Some),
    }
}

/// Turns `[a]` into `a`, and leaves `a` unchanged.
fn strip_brackets(text: &str) -> Result<&str, Kind> {
    match split_brackets(text)? {
        None => Ok(text),
        Some((inside, "")) => Ok(inside),
        Some((_, after)) if after.starts_with(':') => Err(Kind::UnexpectedPort),
        Some(_) => Err(Kind::Brackets),
    }
}

/// Returns the error for text with several colons and no opening bracket: the text is probably
/// IPv6, or else a URL.
fn kind_of_many_colons(text: &str) -> Kind {
    if text.contains('/') { Kind::Unrecognized } else { Kind::Brackets }
}

fn has_leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0')
}

fn strip_suffix_ignore_case<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    tail.eq_ignore_ascii_case(suffix).then_some(head)
}
