//! The password of the day: a file that whoever may read it can call this program with. Bitcoin
//! Core's `.cookie`.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use data_encoding::{BASE64, HEXLOWER};
use subtle::ConstantTimeEq;

/// Bitcoin Core's command-line client reads the user's name out of the file, whatever it is.
const USER: &str = "__cookie__";
/// Of random bytes: 256 bits, so guessing is hopeless at any speed.
const LENGTH: usize = 32;
/// For the owner alone.
const MODE: u32 = 0o600;

/// What whoever calls has to know.
pub struct Cookie {
    text: String,
    /// What has to stand behind `Basic `.
    credentials: String,
}

/// Without the secret.
impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(..)")
    }
}

impl Cookie {
    /// A new one, for as long as the program runs.
    ///
    /// # Errors
    ///
    /// There are no random bytes.
    pub fn generate() -> io::Result<Cookie> {
        let mut secret = [0; LENGTH];
        getrandom::fill(&mut secret)?;
        let text = format!("{USER}:{}", HEXLOWER.encode(&secret));
        let credentials = BASE64.encode(text.as_bytes());
        Ok(Cookie { text, credentials })
    }

    /// Writes it to a file, which goes when the value returned is dropped.
    ///
    /// When the server listens, and not before: a program that finds the address in use must not
    /// replace the cookie of the one that has it. A file that is there then is from a server that
    /// did not end in order.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub fn write(&self, path: &Path) -> io::Result<CookieFile> {
        // Under another name first: whoever looks finds the whole cookie, or none.
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(format!(".{}.tmp", process::id()));
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        let written = file.write_all(self.text.as_bytes());
        if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(CookieFile { path: path.to_owned(), text: self.text.clone() })
    }

    /// Whether these are the credentials: in a time that does not depend on how much of them is
    /// right.
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

/// Without the secret.
impl fmt::Debug for CookieFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for CookieFile {
    fn drop(&mut self) {
        // Unless it is another server's by now.
        if !fs::read(&self.path).is_ok_and(|text| text == self.text.as_bytes()) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
