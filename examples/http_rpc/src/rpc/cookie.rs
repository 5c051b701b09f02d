//! The cookie: a random password in a file, as Bitcoin Core's `.cookie`. A client that can read
//! the file can call the methods.

use std::{
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use data_encoding::{BASE64, HEXLOWER};
use sockman_programs::private_files;
use subtle::ConstantTimeEq;

/// Bitcoin Core's user name. Its command-line client accepts any name that the file holds.
const USER: &str = "__cookie__";
/// The number of random bytes. 256 bits cannot be guessed.
const LENGTH: usize = 32;

/// The user name and the password that a client needs.
pub struct Cookie {
    text: String,
    /// The part of the Authorization header after `Basic `.
    credentials: String,
}

/// Omits the secret.
impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(..)")
    }
}

impl Cookie {
    /// Returns a new random cookie.
    ///
    /// # Errors
    ///
    /// The system returned no random bytes.
    pub fn generate() -> io::Result<Cookie> {
        let mut secret = [0; LENGTH];
        getrandom::fill(&mut secret)?;
        let text = format!("{USER}:{}", HEXLOWER.encode(&secret));
        let credentials = BASE64.encode(text.as_bytes());
        Ok(Cookie { text, credentials })
    }

    /// Writes the cookie to a file. Dropping the returned value removes the file.
    ///
    /// Call this after the server has started to listen. A program that finds its address in use
    /// must not replace the cookie of the server that uses the address. If the file already exists
    /// at that point, it comes from a server that did not stop in order, and it is replaced.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub fn write(&self, path: &Path) -> io::Result<CookieFile> {
        // The file is written under another name first, so that a reader never finds half a cookie.
        // The name is random, not the process id: two containers that share a directory can have
        // the same process id, and one would remove the file that the other writes.
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(format!(".{}.tmp", HEXLOWER.encode(&random)));
        let temporary = PathBuf::from(temporary);
        let mut file = private_files::create(&temporary)?;
        let written = file.write_all(self.text.as_bytes());
        if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(CookieFile { path: path.to_owned(), text: self.text.clone() })
    }

    /// Returns whether an Authorization header holds the right credentials. The comparison takes
    /// constant time.
    pub fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let scheme = |bytes: &[u8]| bytes.eq_ignore_ascii_case(b"Basic ");
        let Some((basic, given)) = authorization.and_then(|value| value.split_at_checked(6)) else {
            return false;
        };
        scheme(basic) && given.trim_ascii().ct_eq(self.credentials.as_bytes()).into()
    }
}

/// The file that a [`Cookie`] was written to. Dropping this removes it.
pub struct CookieFile {
    path: PathBuf,
    text: String,
}

/// Omits the secret.
impl fmt::Debug for CookieFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for CookieFile {
    fn drop(&mut self) {
        // Another server may have replaced the file.
        if !fs::read(&self.path).is_ok_and(|text| text == self.text.as_bytes()) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove the cookie file {}: {error}", self.path.display());
        }
    }
}
