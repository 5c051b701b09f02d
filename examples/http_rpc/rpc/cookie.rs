//! The password of the day: a file that whoever may read it can call this program with. Bitcoin
//! Core's `.cookie`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use data_encoding::{BASE64, HEXLOWER};
use subtle::ConstantTimeEq;

/// Bitcoin Core's command-line client reads the user's name out of the file, whatever it is.
const USER: &str = "__cookie__";
/// Of random bytes: 256 bits, so guessing is hopeless at any speed.
const LENGTH: usize = 32;
/// For the owner alone.
const MODE: u32 = 0o600;

/// Written when a server starts, removed when it ends.
#[derive(Debug)]
pub(crate) struct Cookie {
    path: PathBuf,
    /// What has to stand behind `Basic `.
    credentials: String,
}

impl Cookie {
    /// Makes a new one. A file that is there, from a server that did not end in order, is replaced.
    ///
    /// # Errors
    ///
    /// The file could not be written, or there are no random bytes.
    pub(crate) fn create(path: &Path) -> io::Result<Cookie> {
        let mut secret = [0; LENGTH];
        getrandom::fill(&mut secret)?;
        let cookie = format!("{USER}:{}", HEXLOWER.encode(&secret));
        // Under another name first: whoever looks finds the whole cookie, or none.
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        file.write_all(cookie.as_bytes())?;
        fs::rename(&temporary, path)?;
        Ok(Cookie { path: path.to_owned(), credentials: BASE64.encode(cookie.as_bytes()) })
    }

    /// Whether these are the credentials: in a time that does not depend on how much of them is
    /// right.
    pub(crate) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let scheme = |bytes: &[u8]| bytes.eq_ignore_ascii_case(b"Basic ");
        let Some((basic, given)) = authorization.and_then(|value| value.split_at_checked(6)) else {
            return false;
        };
        scheme(basic) && given.trim_ascii().ct_eq(self.credentials.as_bytes()).into()
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
