//! Unix-domain addresses (a path, an abstract name, or unnamed) and the escapes in their text. The
//! addresses are plain values, usable on any thread, without a lock.

use std::fmt::{self, Write};
use std::path::Path;
use std::sync::Arc;

use socket2::SockAddr;

use self::system::{bytes_of, path_of, sock_addr_of};
use super::NoSockAddr;
use super::error::{InvalidAddrError, ParseAddrErrorKind as Kind};
use super::hidden::is_hidden;

/// The beginning of the text of every unix-domain address.
pub(super) const UNIX_PREFIX: &str = "unix:";

/// What differs between the systems: the bytes of a path, and the kernel's form of an address.
#[cfg(not(windows))]
mod system {
    use std::{ffi::OsStr, mem::offset_of, os::unix::ffi::OsStrExt, path::Path};

    use socket2::SockAddr;

    use super::UnixAddr;

    pub(super) const MAX_BYTES: usize =
        size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

    pub(super) fn bytes_of(path: &Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    pub(super) fn path_of(bytes: &[u8]) -> Option<&Path> {
        Some(Path::new(OsStr::from_bytes(bytes)))
    }

    pub(super) fn sock_addr_of(name: &[u8]) -> Option<SockAddr> {
        SockAddr::unix(OsStr::from_bytes(name)).ok()
    }

    /// Converts the kernel's form.
    pub(super) fn from_sock_addr(from: &SockAddr) -> Option<UnixAddr> {
        if from.is_unnamed() {
            return Some(UnixAddr::unnamed());
        }
        if let Some(name) = from.as_abstract_namespace() {
            return UnixAddr::from_abstract_name(name).ok();
        }
        // Some platforms count the zeroes after the path as part of the path.
        let bytes = bytes_of(from.as_pathname()?);
        let path = bytes.split(|byte| *byte == 0).next()?;
        UnixAddr::from_path(OsStr::from_bytes(path)).ok()
    }
}

/// The library has no unix-domain sockets on Windows. There, the addresses are values that it parses
/// and prints, and that test doubles use.
#[cfg(windows)]
mod system {
    use std::{path::Path, str};

    use socket2::SockAddr;

    use super::UnixAddr;

    pub(super) const MAX_BYTES: usize = 108;

    pub(super) fn bytes_of(path: &Path) -> &[u8] {
        path.as_os_str().as_encoded_bytes()
    }

    /// Returns `None` if the path is not UTF-8.
    pub(super) fn path_of(bytes: &[u8]) -> Option<&Path> {
        str::from_utf8(bytes).ok().map(Path::new)
    }

    pub(super) fn sock_addr_of(name: &[u8]) -> Option<SockAddr> {
        SockAddr::unix(path_of(name)?).ok()
    }

    pub(super) fn from_sock_addr(_: &SockAddr) -> Option<UnixAddr> {
        None
    }
}

/// Marks an abstract name in the text, after the prefix, as in `ss` and `lsof`.
const ABSTRACT_MARK: u8 = b'@';

/// A unix-domain address, see [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html): a path
/// in the file system, an abstract name (Linux), or unnamed (the address of a client that did not
/// bind).
///
/// The text begins with `unix:`. A backslash is printed as `\\`. The following are printed as
/// `\xNN` per byte, because names come from peers and end up in logs: a byte that is not UTF-8, a
/// character that does not show or that Unicode does not define (the compiler's version of
/// Unicode), and an `@` that begins a path.
///
/// # Examples
///
/// ```
/// use sockman::address::UnixAddr;
///
/// assert_eq!(UnixAddr::from_path("/run/a.sock")?.to_string(), "unix:/run/a.sock");
/// assert_eq!(UnixAddr::from_path("tab\there")?.to_string(), r"unix:tab\x09here");
/// assert_eq!(UnixAddr::from_abstract_name("a")?.to_string(), "unix:@a");
/// assert_eq!(UnixAddr::unnamed().to_string(), "unix:");
/// # Ok::<(), sockman::error::InvalidAddrError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixAddr {
    /// The bytes of the address, as in `sun_path`. An abstract name has a NUL in front. A path has
    /// no NUL and no terminator. Invariant: the address has 1 to [`UnixAddr::MAX_BYTES`] bytes.
    name: Option<Arc<[u8]>>,
}

impl UnixAddr {
    /// The size of `sun_path`: 108 on Linux and Windows, 104 on macOS and the BSDs.
    ///
    /// A path of exactly this length has no terminator. Such a path is a valid value, because Linux
    /// lets peers have it. The library cannot bind or connect to such a path.
    pub const MAX_BYTES: usize = system::MAX_BYTES;

    /// Returns the address of a socket in the file system. A relative path stays relative.
    ///
    /// # Errors
    ///
    /// [`InvalidAddrError::UnixPathEmpty`], [`InvalidAddrError::UnixPathHasNul`], or
    /// [`InvalidAddrError::UnixTooLong`] if the path is longer than [`UnixAddr::MAX_BYTES`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<UnixAddr, InvalidAddrError> {
        UnixAddr::from_path_bytes(bytes_of(path.as_ref()))
    }

    fn from_path_bytes(path: &[u8]) -> Result<UnixAddr, InvalidAddrError> {
        if path.is_empty() {
            return Err(InvalidAddrError::UnixPathEmpty);
        }
        if path.contains(&0) {
            return Err(InvalidAddrError::UnixPathHasNul);
        }
        UnixAddr::from_sun_path(path)
    }

    /// Returns the address of a socket with an abstract name (a Linux extension). The name may be
    /// any bytes, and may be empty. The NUL that marks the name in `sun_path` is not part of
    /// `name`.
    ///
    /// # Errors
    ///
    /// [`InvalidAddrError::UnixTooLong`] if the name and that NUL are longer than
    /// [`UnixAddr::MAX_BYTES`].
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> Result<UnixAddr, InvalidAddrError> {
        UnixAddr::from_sun_path(&[b"\0", name.as_ref()].concat())
    }

    /// Returns the unnamed address, which is the address of a socket that was never bound.
    pub const fn unnamed() -> UnixAddr {
        UnixAddr { name: None }
    }

    /// Returns the path, or `None` if the address is not a path. On Windows, also returns `None` if
    /// the path is not UTF-8.
    pub fn as_path(&self) -> Option<&Path> {
        match self.name.as_deref()? {
            [0, ..] => None,
            path => path_of(path),
        }
    }

    /// Returns the abstract name without the NUL in front, or `None` if the address is not an
    /// abstract name.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        self.name.as_deref()?.strip_prefix(b"\0")
    }

    /// Returns whether this is the unnamed address.
    pub fn is_unnamed(&self) -> bool {
        self.name.is_none()
    }

    fn from_sun_path(name: &[u8]) -> Result<UnixAddr, InvalidAddrError> {
        let (len, max) = (name.len(), UnixAddr::MAX_BYTES);
        if len > max {
            return Err(InvalidAddrError::UnixTooLong { len, max });
        }
        Ok(UnixAddr { name: Some(name.into()) })
    }

    /// Returns the kernel's form, see [`Service::to_sock_addr`](crate::Service::to_sock_addr).
    pub(super) fn to_sock_addr(&self) -> Result<SockAddr, NoSockAddr> {
        let Some(name) = self.name.as_deref() else {
            return Err(NoSockAddr(
                "an unnamed unix-domain address cannot be bound or connected to",
            ));
        };
        if name.starts_with(b"\0") && !cfg!(any(target_os = "linux", target_os = "android")) {
            return Err(NoSockAddr("this platform has no abstract unix-domain names"));
        }
        sock_addr_of(name)
            .ok_or(NoSockAddr("the unix-domain path leaves no room for its terminator"))
    }

    /// Converts the kernel's form, see [`Service::from_sock_addr`](crate::Service::from_sock_addr).
    pub(super) fn from_sock_addr(from: &SockAddr) -> Option<UnixAddr> {
        system::from_sock_addr(from)
    }

    /// Parses the text after `unix:`.
    pub(super) fn parse_rest(text: &str) -> Result<UnixAddr, Kind> {
        let addr = match text.as_bytes() {
            [] => Ok(UnixAddr::unnamed()),
            [ABSTRACT_MARK, name @ ..] => UnixAddr::from_abstract_name(unescape(name)?),
            path => UnixAddr::from_path_bytes(&unescape(path)?),
        };
        addr.map_err(Kind::Invalid)
    }
}

impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UNIX_PREFIX)?;
        match self.name.as_deref() {
            None => Ok(()),
            Some([0, name @ ..]) => {
                f.write_char(char::from(ABSTRACT_MARK))?;
                write_escaped(f, name)
            }
            Some([ABSTRACT_MARK, path @ ..]) => {
                write_hex(f, &[ABSTRACT_MARK])?;
                write_escaped(f, path)
            }
            Some(path) => write_escaped(f, path),
        }
    }
}

impl fmt::Debug for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixAddr({self})")
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => f.write_str(r"\\")?,
                c if is_hidden(c) => {
                    write_hex(f, c.encode_utf8(&mut [0; 4]).as_bytes())?;
                }
                c => f.write_char(c)?,
            }
        }
        write_hex(f, chunk.invalid())?;
    }
    Ok(())
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, Kind> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Ok(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                rest
            }
            [b'\\', b'x', high, low, rest @ ..] => {
                let byte = hex_digit(*high).zip(hex_digit(*low));
                let (high, low) = byte.ok_or(Kind::UnixEscape)?;
                bytes.push(high << 4 | low);
                rest
            }
            [b'\\', ..] => return Err(Kind::UnixEscape),
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
