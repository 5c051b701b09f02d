//! The authority's key, which clients know the server by: a new one, or the one that a file keeps.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use bitcoin::{
    base58,
    secp256k1::{Keypair, Secp256k1, SecretKey},
};

/// In front of a public key in text, says the standard: version 1. A secret key has none.
const PREFIX: [u8; 2] = [1, 0];
/// A file with a key has some fifty bytes.
const LONGEST_FILE: u64 = 1024;
/// For the owner alone.
const MODE: u32 = 0o600;
/// By the group, or by everybody.
const READABLE_BY_OTHERS: u32 = 0o044;

/// The authority's keys, the secret one and the public one.
#[derive(Clone)]
pub struct AuthorityKeys {
    pair: Keypair,
}

/// Without the secret.
impl fmt::Debug for AuthorityKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKeys(..)")
    }
}

impl AuthorityKeys {
    /// A new one, for as long as the program runs.
    ///
    /// # Errors
    ///
    /// There are no random bytes.
    pub fn generate() -> io::Result<AuthorityKeys> {
        let mut bytes = [0; 32];
        loop {
            getrandom::fill(&mut bytes)?;
            // All but one in 2^128 numbers are keys.
            if let Some(keys) = AuthorityKeys::from_secret(&bytes) {
                return Ok(keys);
            }
        }
    }

    /// The one in this file, which is made, with a new key, if there is none. Of several starts
    /// that make it at once, one succeeds, and all have its key.
    ///
    /// # Errors
    ///
    /// The file cannot be read or made, or there is no key in it. One that exists is left as it is:
    /// clients know the key that was in it, and nobody could tell them of another.
    pub fn of_file(path: &Path) -> io::Result<AuthorityKeys> {
        match File::open(path) {
            Ok(file) => {
                if file.metadata()?.permissions().mode() & READABLE_BY_OTHERS != 0 {
                    let path = path.display();
                    log::warn!("others than its owner can read the key file {path}: chmod 600 it");
                }
                AuthorityKeys::read(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = AuthorityKeys::generate()?;
                match keys.write_new(path) {
                    // Another start was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        AuthorityKeys::read(File::open(path)?)
                    }
                    written => written.map(|()| keys),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the public key, as a client's handshake needs it.
    pub fn public(&self) -> [u8; 32] {
        self.pair.x_only_public_key().0.serialize()
    }

    pub(crate) fn secret(&self) -> [u8; 32] {
        self.pair.secret_bytes()
    }

    /// The public key as clients are told it.
    pub fn to_text(&self) -> String {
        base58::encode_check(&[&PREFIX[..], &self.public()].concat())
    }

    fn from_secret(bytes: &[u8]) -> Option<AuthorityKeys> {
        let secret = SecretKey::from_slice(bytes).ok()?;
        Some(AuthorityKeys { pair: Keypair::from_secret_key(&Secp256k1::new(), &secret) })
    }

    /// As the reference implementation has it in its configuration: base58 with a checksum, so that
    /// damage is noticed.
    fn read(file: File) -> io::Result<AuthorityKeys> {
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
        String::from_utf8(bytes)
            .ok()
            .filter(|text| text.len() as u64 <= LONGEST_FILE)
            .and_then(|text| base58::decode_check(text.trim()).ok())
            .and_then(|secret| AuthorityKeys::from_secret(&secret))
            // Without what base58 has to say: there may be parts of a key in it.
            .ok_or_else(|| {
                let what = "it is not a secret key in base58 with a checksum; it was left as it is";
                io::Error::new(io::ErrorKind::InvalidData, what)
            })
    }

    /// Whole or not at all, and never in the place of another: written under another name, synced,
    /// and then given its own.
    fn write_new(&self, path: &Path) -> io::Result<()> {
        // At random: two containers that share a directory can have the same process id, and one
        // would give its name to what the other is writing.
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let mut temporary = OsString::from(path);
        temporary.push(format!(".{:016x}.new", u64::from_ne_bytes(random)));
        let temporary = Path::new(&temporary);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(MODE).open(temporary)?;
        let written = writeln!(file, "{}", base58::encode_check(&self.secret()))
            .and_then(|()| file.sync_all())
            // A link and not a rename, which would replace a file that came into being meanwhile.
            .and_then(|()| fs::hard_link(temporary, path));
        let removed = fs::remove_file(temporary);
        written?;
        removed?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}
