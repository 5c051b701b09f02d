//! The errors of parsing an address, and of building an address from its parts. The errors are
//! plain values, usable on any thread, without a lock.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::Ipv6Addr;

/// The error of parsing an address. The message shows the text and says which part is wrong and
/// why.
///
/// The text may come from an untrusted source. The message therefore shows at most 100 characters
/// of it, as printable ASCII: all other characters are escaped.
///
/// # Examples
///
/// ```
/// use sockman::{Service, error::ParseAddrErrorKind};
///
/// let error = "1.2.3.4:65536".parse::<Service>().unwrap_err();
/// assert_eq!(error.kind(), ParseAddrErrorKind::PortTooLarge);
/// assert_eq!(
///     error.to_string(),
///     "cannot parse address '1.2.3.4:65536': the port is larger than 65535"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAddrError {
    /// Invariant: the text is escaped and cut, see [`excerpt`].
    text: String,
    kind: ParseAddrErrorKind,
}

impl ParseAddrError {
    pub(super) fn new(text: &str, kind: ParseAddrErrorKind) -> ParseAddrError {
        ParseAddrError { text: excerpt(text), kind }
    }

    /// Returns which part of the text is wrong, and why.
    pub fn kind(&self) -> ParseAddrErrorKind {
        self.kind
    }
}

impl fmt::Display for ParseAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot parse address '{}': {}", self.text, self.kind)
    }
}

// The error has no `source`, because its message already ends with the message of the kind.
impl Error for ParseAddrError {}

impl From<ParseAddrError> for io::Error {
    fn from(error: ParseAddrError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// A value that needs no conversion has this error type.
impl From<Infallible> for ParseAddrError {
    fn from(never: Infallible) -> ParseAddrError {
        match never {}
    }
}

/// Which part of the text of an address is wrong, and why. Returned by [`ParseAddrError::kind`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseAddrErrorKind {
    /// The text of the address is empty.
    Empty,
    /// The text is a host name. The parser accepts only addresses, because the library resolves no
    /// names.
    HostName,
    /// The text is a host name of more than 255 bytes, the limit of SOCKS5 (RFC 1928).
    NameTooLong,
    /// The text is an onion or an I2P address, and this build of `sockman` lacks the feature for
    /// it.
    MissingFeature {
        /// The missing feature: `socks5` or `i2p`.
        feature: &'static str,
    },
    /// The text does not resemble an address of any network.
    Unrecognized,
    /// The text is not dotted-quad IPv4.
    Ipv4,
    /// The text is not IPv6.
    Ipv6,
    /// The scope after `%` is not the number of an interface.
    Scope,
    /// The brackets around IPv6 are missing, are not closed, or are followed by something other
    /// than a port.
    Brackets,
    /// The text has a port, but an address without a port was expected.
    UnexpectedPort,
    /// The text has no port.
    MissingPort,
    /// The text has a colon, but no port after the colon.
    EmptyPort,
    /// The port has a character that is not a decimal digit.
    PortNotDecimal,
    /// The port has a leading zero. (The port `0` is allowed.)
    PortLeadingZero,
    /// The port is larger than 65535.
    PortTooLarge,
    /// The text is a name that ends in `onion`, and not an onion address. Such a name is never
    /// resolved (RFC 7686).
    OnionName,
    /// The onion address has version 2, which Tor has not supported since 2021.
    OnionV2,
    /// The onion address does not have 56 characters.
    OnionLength {
        /// The number of characters before `.onion`.
        found: usize,
    },
    /// The onion address has a character that is not base32.
    OnionSymbol {
        /// The first character that is not base32.
        found: char,
        /// The position of the character, counted from 1.
        at: usize,
    },
    /// The onion address has an unknown version.
    OnionVersion {
        /// The version that the address states.
        found: u8,
    },
    /// The onion address has a wrong checksum.
    OnionChecksum,
    /// The text is a name that ends in `i2p`, and not an I2P address. Such a name is never resolved,
    /// because other networks do not know it.
    I2pName,
    /// The I2P address does not have 52 characters.
    I2pLength {
        /// The number of characters before `.b32.i2p`.
        found: usize,
    },
    /// The I2P address has a character that is not base32.
    I2pSymbol {
        /// The first character that is not base32.
        found: char,
        /// The position of the character, counted from 1.
        at: usize,
    },
    /// The last character of the I2P address has bits beyond the hash.
    I2pTrailingBits,
    /// The unix-domain name has a backslash that begins neither `\\` nor `\xNN`.
    UnixEscape,
    /// The text is well formed, but the address is not valid.
    Invalid(InvalidAddrError),
}

impl fmt::Display for ParseAddrErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ParseAddrErrorKind as Kind;
        match self {
            Kind::Empty => f.write_str("the address is empty"),
            Kind::HostName => f.write_str(
                "this is a name, not an address, and sockman resolves no names; \
                 write an IP address, or connect to the name through a SOCKS5 proxy",
            ),
            Kind::NameTooLong => f.write_str("the host name is longer than 255 bytes"),
            Kind::MissingFeature { feature } => {
                write!(f, "addresses of this network require the feature `{feature}` of sockman")
            }
            Kind::Unrecognized => f.write_str(
                "this is not an address; write 1.2.3.4:port, [IPv6]:port, cjdns:[IPv6]:port, \
                 <56 characters>.onion:port, <52 characters>.b32.i2p:port or unix:/path, \
                 without a scheme such as socks5://",
            ),
            Kind::Ipv4 => f.write_str(
                "the IPv4 address is malformed; write four decimal numbers from 0 to 255, \
                 with dots between them and without leading zeros",
            ),
            Kind::Ipv6 => f.write_str("the IPv6 address is malformed"),
            Kind::Scope => f.write_str(
                "the IPv6 scope after '%' must be the number of an interface, in decimal \
                 and without leading zeros",
            ),
            Kind::Brackets => f.write_str(
                "the brackets are missing or out of place; \
                 an IPv6 address with a port is written [address]:port",
            ),
            Kind::UnexpectedPort => {
                f.write_str("an address without a port is expected here; remove the port")
            }
            Kind::MissingPort => {
                f.write_str("the port is missing; write a colon and the port after the address")
            }
            Kind::EmptyPort => {
                f.write_str("the port after the colon is missing; write a number from 0 to 65535")
            }
            Kind::PortNotDecimal => {
                f.write_str("the port has a character that is not a decimal digit")
            }
            Kind::PortLeadingZero => f.write_str("the port has a leading zero; remove it"),
            Kind::PortTooLarge => f.write_str("the port is larger than 65535"),
            Kind::OnionName => f.write_str(
                "this is not an onion address, and no name that ends in onion is resolved; \
                 write <56 characters>.onion",
            ),
            Kind::OnionV2 => f.write_str(
                "the onion address has version 2, which is no longer supported; \
                 use the service's version 3 address of 56 characters",
            ),
            Kind::OnionLength { found } => {
                write!(f, "the onion address has {found} characters before .onion instead of 56")
            }
            Kind::OnionSymbol { found, at } => {
                write!(f, "the onion address has {}", NotBase32(*found, *at))
            }
            Kind::OnionVersion { found } => {
                write!(f, "the onion address has version {found}; only version 3 is supported")
            }
            Kind::OnionChecksum => f.write_str(
                "the onion address has a wrong checksum; compare each character with the original",
            ),
            Kind::I2pName => f.write_str(
                "this is not an I2P address, and no name that ends in i2p is resolved; \
                 write <52 characters>.b32.i2p",
            ),
            Kind::I2pLength { found } => {
                write!(f, "the I2P address has {found} characters before .b32.i2p instead of 52")
            }
            Kind::I2pSymbol { found, at } => {
                write!(f, "the I2P address has {}", NotBase32(*found, *at))
            }
            Kind::I2pTrailingBits => f.write_str(
                "the last character of the I2P address has bits beyond the hash; \
                 compare each character with the original",
            ),
            Kind::UnixEscape => f.write_str(
                r"the unix-domain name has a wrong escape; write a backslash as \\, a byte as \xNN",
            ),
            Kind::Invalid(invalid) => write!(f, "{invalid}"),
        }
    }
}

/// The error of building an address from parts that are not valid.
///
/// # Examples
///
/// ```
/// use sockman::{Service, error::InvalidAddrError};
///
/// assert_eq!(Service::unix(""), Err(InvalidAddrError::UnixPathEmpty));
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAddrError {
    /// The address is not a CJDNS address, because it is outside `fc00::/8`.
    NotCjdns {
        /// The address that was given.
        addr: Ipv6Addr,
    },
    /// The unix-domain path is empty.
    UnixPathEmpty,
    /// The unix-domain path contains a NUL byte. The kernel would cut the path at the NUL byte.
    UnixPathHasNul,
    /// The unix-domain path or abstract name does not fit `sockaddr_un`.
    UnixTooLong {
        /// The length in bytes. The length of an abstract name includes the NUL in front of the
        /// name.
        len: usize,
        /// The limit in bytes: [`UnixAddr::MAX_BYTES`](crate::address::UnixAddr::MAX_BYTES).
        max: usize,
    },
}

impl fmt::Display for InvalidAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidAddrError::NotCjdns { addr } => {
                write!(f, "{addr} is not a CJDNS address, because it is outside fc00::/8")
            }
            InvalidAddrError::UnixPathEmpty => f.write_str("the unix-domain path is empty"),
            InvalidAddrError::UnixPathHasNul => {
                f.write_str("the unix-domain path contains a NUL byte")
            }
            InvalidAddrError::UnixTooLong { len, max } => {
                write!(f, "the unix-domain name has {len} bytes; the limit is {max}")
            }
        }
    }
}

impl Error for InvalidAddrError {}

/// The end of the messages about base32.
struct NotBase32(char, usize);

impl fmt::Display for NotBase32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotBase32(found, at) = self;
        write!(
            f,
            "the character '{}' at position {at}; only a-z and 2-7 are valid",
            found.escape_default()
        )
    }
}

/// The most characters of untrusted text in a message. A line of a log has room for 100 characters.
/// Every address is shorter, except addresses of unix-domain sockets.
const EXCERPT_CHARS: usize = 100;

/// The mark that replaces the text that was cut off.
const ELLIPSIS: &str = "...";

/// Returns `text` as printable ASCII, escaped and cut to at most [`EXCERPT_CHARS`].
fn excerpt(text: &str) -> String {
    let mut escaped = String::new();
    let mut fits = 0;
    for c in text.chars() {
        escaped.extend(c.escape_default());
        if escaped.len() > EXCERPT_CHARS {
            escaped.truncate(fits);
            escaped.push_str(ELLIPSIS);
            break;
        }
        if escaped.len() <= EXCERPT_CHARS - ELLIPSIS.len() {
            fits = escaped.len();
        }
    }
    escaped
}
