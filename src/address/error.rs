//! The errors about addresses: about their text, and about the parts that they are built from.
//! Plain values, usable on any thread.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::Ipv6Addr;

/// The error of parsing an address. Shows the text and says which part is wrong and why.
///
/// The text may come from an untrusted source. In the message, it is therefore cut, and its control
/// characters are escaped.
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
    /// Invariant: escaped and cut, see [`excerpt`].
    text: String,
    kind: ParseAddrErrorKind,
}

impl ParseAddrError {
    pub(super) fn new(text: &str, kind: ParseAddrErrorKind) -> ParseAddrError {
        ParseAddrError { text: excerpt(text), kind }
    }

    /// Returns what is wrong, to match on.
    pub fn kind(&self) -> ParseAddrErrorKind {
        self.kind
    }
}

impl fmt::Display for ParseAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot parse address '{}': {}", self.text, self.kind)
    }
}

// No `source`: the message already ends with the message of the kind.
impl Error for ParseAddrError {}

impl From<ParseAddrError> for io::Error {
    fn from(error: ParseAddrError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Required for values that need no conversion.
impl From<Infallible> for ParseAddrError {
    fn from(never: Infallible) -> ParseAddrError {
        match never {}
    }
}

/// Which part of the text of an address is wrong, and why.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseAddrErrorKind {
    /// The text of the address is empty.
    Empty,
    /// The text is a host name. Only addresses are accepted here, and no name is looked up.
    HostName,
    /// The text is a host name of more than 255 bytes, the limit of a proxy.
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
    /// The brackets around IPv6 are missing, are not closed, or are followed by something other than
    /// a port.
    Brackets,
    /// There is a port, but an address without a port was expected.
    UnexpectedPort,
    /// There is no port.
    MissingPort,
    /// There is a colon, but no port after it.
    EmptyPort,
    /// The port has a character that is not a decimal digit.
    PortNotDecimal,
    /// The port has a leading zero. (The port `0` is allowed.)
    PortLeadingZero,
    /// The port is larger than 65535.
    PortTooLarge,
    /// An onion address of version 2, which Tor has not supported since 2021.
    OnionV2,
    /// An onion address that does not have 56 characters.
    OnionLength {
        /// The number of characters before `.onion`.
        found: usize,
    },
    /// An onion address with a character that is not base32.
    OnionSymbol {
        /// The first such character.
        found: char,
        /// Its position, counted from 1.
        at: usize,
    },
    /// An onion address of an unknown version.
    OnionVersion {
        /// The version in the address.
        found: u8,
    },
    /// An onion address with a wrong checksum.
    OnionChecksum,
    /// An I2P address that does not have 52 characters.
    I2pLength {
        /// The number of characters before `.b32.i2p`.
        found: usize,
    },
    /// An I2P address with a character that is not base32.
    I2pSymbol {
        /// The first such character.
        found: char,
        /// Its position, counted from 1.
        at: usize,
    },
    /// An I2P address whose last character has bits beyond the hash.
    I2pTrailingBits,
    /// A unix-domain name with a backslash that begins neither `\\` nor `\xNN`.
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
                "this is a name, not an address, and names are not looked up here; \
                 give an address, or a Destination with a proxy that resolves the name",
            ),
            Kind::NameTooLong => f.write_str("the host name is longer than 255 bytes"),
            Kind::MissingFeature { feature } => {
                write!(f, "addresses of this network need the feature `{feature}` of sockman")
            }
            Kind::Unrecognized => f.write_str(
                "this is not an address; write 1.2.3.4:port, [IPv6]:port, cjdns:[IPv6]:port, \
                 <56 characters>.onion:port, <52 characters>.b32.i2p:port or unix:/path",
            ),
            Kind::Ipv4 => f.write_str(
                "the IPv4 address is not four decimal numbers from 0 to 255 with dots between \
                 and no leading zeros",
            ),
            Kind::Ipv6 => f.write_str("the IPv6 address is malformed"),
            Kind::Scope => f.write_str(
                "the IPv6 scope behind '%' is not a decimal interface number \
                 (interface names are not looked up)",
            ),
            Kind::Brackets => f.write_str(
                "the brackets are missing or out of place; \
                 an IPv6 address with a port is written [address]:port",
            ),
            Kind::UnexpectedPort => {
                f.write_str("there is a port, but an address without one is expected here")
            }
            Kind::MissingPort => {
                f.write_str("the port is missing; write a colon and the port behind the address")
            }
            Kind::EmptyPort => f.write_str("there is no port behind the colon"),
            Kind::PortNotDecimal => f.write_str("the port has a character that is not a digit"),
            Kind::PortLeadingZero => f.write_str("the port has a leading zero"),
            Kind::PortTooLarge => f.write_str("the port is larger than 65535"),
            Kind::OnionV2 => f.write_str(
                "this is an onion address of version 2, which is no longer supported; \
                 ask for the service's version 3 address of 56 characters",
            ),
            Kind::OnionLength { found } => {
                write!(f, "the onion address has {found} characters before .onion, not 56")
            }
            Kind::OnionSymbol { found, at } => {
                write!(f, "the onion address has {}", NotBase32(*found, *at))
            }
            Kind::OnionVersion { found } => {
                write!(f, "the onion address is of version {found}, only 3 is supported")
            }
            Kind::OnionChecksum => {
                f.write_str("the checksum of the onion address is wrong; is it mistyped?")
            }
            Kind::I2pLength { found } => {
                write!(f, "the I2P address has {found} characters before .b32.i2p, not 52")
            }
            Kind::I2pSymbol { found, at } => {
                write!(f, "the I2P address has {}", NotBase32(*found, *at))
            }
            Kind::I2pTrailingBits => f.write_str(
                "the last character of the I2P address has bits set beyond the hash; \
                 is it mistyped?",
            ),
            Kind::UnixEscape => {
                f.write_str(r"a backslash in a unix-domain name is written \\, a byte \xNN")
            }
            Kind::Invalid(invalid) => write!(f, "{invalid}"),
        }
    }
}

/// The error of building an address from parts that are not valid.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAddrError {
    /// A CJDNS address outside of `fc00::/8`.
    NotCjdns {
        /// The address given.
        addr: Ipv6Addr,
    },
    /// An empty unix-domain path.
    UnixPathEmpty,
    /// A unix-domain path with a NUL. The kernel would cut the path there.
    UnixPathHasNul,
    /// A unix-domain path or abstract name that does not fit `sockaddr_un`.
    UnixTooLong {
        /// Its length in bytes. For an abstract name, this includes the NUL in front of it.
        len: usize,
        /// The limit: [`UnixAddr::MAX_BYTES`](crate::address::UnixAddr::MAX_BYTES).
        max: usize,
    },
}

impl fmt::Display for InvalidAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidAddrError::NotCjdns { addr } => {
                write!(f, "{addr} is not a CJDNS address, it is outside of fc00::/8")
            }
            InvalidAddrError::UnixPathEmpty => f.write_str("the unix-domain path is empty"),
            InvalidAddrError::UnixPathHasNul => {
                f.write_str("the unix-domain path has a NUL byte in it")
            }
            InvalidAddrError::UnixTooLong { len, max } => {
                write!(f, "the unix-domain name has {len} bytes, at most {max} fit")
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
        write!(f, "'{}' as character {at}, which is not one of a-z, 2-7", found.escape_default())
    }
}

/// The most characters of untrusted text in a message. That many fit a line of a log, and every
/// address fits but those of unix-domain sockets.
const EXCERPT_CHARS: usize = 100;

/// Replaces the text that was cut.
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
