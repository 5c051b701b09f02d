//! From text to addresses.
//!
//! Text comes from configuration files, from people and from proxies, so parsing is total: any
//! input gives a value or an error that names the part that is wrong, in linear time.

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

/// SOCKS5 (RFC 1928) gives the length of a name one byte.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// What all onion addresses end in, RFC 7686.
pub(super) const ONION_SUFFIX: &str = ".onion";

/// What the I2P addresses end in that are a hash and not a name.
pub(super) const I2P_SUFFIX: &str = ".b32.i2p";

/// What tells a CJDNS address from the same bytes as plain IPv6.
pub(super) const CJDNS_PREFIX: &str = "cjdns:";

impl FromStr for Service {
    type Err = ParseAddrError;

    /// Parses an address with its port, in the forms listed at [`Service`].
    ///
    /// # Errors
    ///
    /// [`ParseAddrError`] shows the text and says which part is wrong and why.
    fn from_str(text: &str) -> Result<Service, ParseAddrError> {
        parse_service(text).map_err(|kind| ParseAddrError::new(text, kind))
    }
}

impl FromStr for NetAddr {
    type Err = ParseAddrError;

    /// Parses an address without a port; around an IPv6 address brackets are allowed.
    ///
    /// # Errors
    ///
    /// [`ParseAddrError`] shows the text and says which part is wrong and why.
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
    /// [`ParseAddrError`] shows the text and says which part is wrong and why.
    fn from_str(text: &str) -> Result<Destination, ParseAddrError> {
        match parse_service(text) {
            Ok(service) => Ok(Destination::Service(service)),
            Err(Kind::HostName) => parse_name(text),
            Err(kind) => Err(kind),
        }
        .map_err(|kind| ParseAddrError::new(text, kind))
    }
}

/// Text is taken wherever an address is: `TryFrom` for each type that parses.
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

/// Text that was found to be a host name.
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
    // The host first: that "example.com" is a name matters more than that it lacks a port.
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

/// A host with nothing around it: all but IPv6, CJDNS and unix-domain.
fn parse_host(host: &str) -> Result<NetAddr, Kind> {
    if host.is_empty() {
        return Err(Kind::Empty);
    }
    if let Some(label) = strip_suffix_ignore_case(host, ONION_SUFFIX) {
        return parse_onion(label);
    }
    if let Some(label) = strip_suffix_ignore_case(host, I2P_SUFFIX) {
        return parse_i2p(label);
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return host.parse().map(NetAddr::Ipv4).map_err(|_| Kind::Ipv4);
    }
    if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return Err(Kind::HostName);
    }
    Err(Kind::Unrecognized)
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

/// `after` is what follows the host: nothing, or a colon and the port.
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
    // Digits only, so nothing but the range is left to go wrong.
    port.parse().map_err(|_| Kind::PortTooLarge)
}

/// `[a]b` becomes `(a, b)`; without an opening bracket there is nothing to split.
fn split_brackets(text: &str) -> Result<Option<(&str, &str)>, Kind> {
    match text.strip_prefix('[') {
        None => Ok(None),
        Some(opened) => opened.split_once(']').ok_or(Kind::Brackets).map(Some),
    }
}

/// `[a]` becomes `a`, and `a` stays.
fn strip_brackets(text: &str) -> Result<&str, Kind> {
    match split_brackets(text)? {
        None => Ok(text),
        Some((inside, "")) => Ok(inside),
        Some((_, after)) if after.starts_with(':') => Err(Kind::UnexpectedPort),
        Some(_) => Err(Kind::Brackets),
    }
}

/// More than one colon and no opening bracket: most likely IPv6, or else a URL.
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
