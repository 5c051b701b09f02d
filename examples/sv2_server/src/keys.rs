//! The authority's key, by which clients identify the server. The key is new, or it is read from a
//! file.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use bitcoin::{
    base58,
    secp256k1::{Keypair, Secp256k1, SecretKey},
};
use sockman_programs::private_files;

/// The prefix of a public key in text: version 1 of the Stratum V2 standard. The text of a secret
/// key has no prefix.
const PREFIX: [u8; 2] = [1, 0];
/// The largest key file that is read, in bytes. A file with a key has about fifty.
const LONGEST_FILE: u64 = 1024;

/// The authority's secret key and public key.
#[derive(Clone)]
pub struct AuthorityKeys {
    pair: Keypair,
}

/// Omits the secret.
impl fmt::Debug for AuthorityKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKeys(..)")
    }
}

impl AuthorityKeys {
    /// Returns new random keys.
    ///
    /// # Errors
    ///
    /// The system returned no random bytes.
    pub fn generate() -> io::Result<AuthorityKeys> {
        let mut bytes = [0; 32];
        loop {
            getrandom::fill(&mut bytes)?;
            // About one in 2^128 numbers is not a valid key.
            if let Some(keys) = AuthorityKeys::from_secret(&bytes) {
                return Ok(keys);
            }
        }
    }

    /// Returns the keys from a file. If the file does not exist, creates it with a new key. If
    /// several servers create it at the same time, one succeeds, and all use its key.
    ///
    /// # Errors
    ///
    /// The file could not be read or created, or it holds no key. An existing file is never
    /// changed: clients know the key that it held.
    pub fn of_file(path: &Path) -> io::Result<AuthorityKeys> {
        // The open of a FIFO without a writer would wait without end.
        let is_file = path.metadata().map(|metadata| metadata.is_file());
        if is_file.is_ok_and(|is_file| !is_file) {
            let what = "it is not a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        match File::open(path) {
            Ok(file) => {
                if private_files::is_readable_by_others(&file)? {
                    let path = path.display();
                    log::warn!("other users can read the key file {path}; run chmod 600 on it");
                }
                AuthorityKeys::read(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = AuthorityKeys::generate()?;
                match keys.write_new(path) {
                    // Another server has created the file meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        AuthorityKeys::read(File::open(path)?)
                    }
                    written => written.map(|()| keys),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the public key in the form that a client's handshake needs.
    pub fn public(&self) -> [u8; 32] {
        self.pair.x_only_public_key().0.serialize()
    }

    pub(crate) fn secret(&self) -> [u8; 32] {
        self.pair.secret_bytes()
    }

    /// Returns the public key as text, in the form that clients are configured with.
    pub fn to_text(&self) -> String {
        base58::encode_check(&[&PREFIX[..], &self.public()].concat())
    }

    fn from_secret(bytes: &[u8]) -> Option<AuthorityKeys> {
        let secret = SecretKey::from_slice(bytes).ok()?;
        Some(AuthorityKeys { pair: Keypair::from_secret_key(&Secp256k1::new(), &secret) })
    }

    /// Reads a secret key in the form of the reference implementation's configuration: base58 with
    /// a checksum, which reveals damage.
    fn read(file: File) -> io::Result<AuthorityKeys> {
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
        String::from_utf8(bytes)
            .ok()
            .filter(|text| text.len() as u64 <= LONGEST_FILE)
            .and_then(|text| base58::decode_check(text.trim()).ok())
            .and_then(|secret| AuthorityKeys::from_secret(&secret))
            // The error of base58 is dropped, because it may hold parts of a key.
            .ok_or_else(|| {
                let what = "the file holds no secret key in base58 with a checksum; it was left as \
                            it is";
                io::Error::new(io::ErrorKind::InvalidData, what)
            })
    }

    /// Creates the file whole or not at all, and never replaces one. The file is written under
    /// another name, synced, and then linked to its own name.
    fn write_new(&self, path: &Path) -> io::Result<()> {
        // The temporary name is random, not the process id: two containers that share a directory
        // can have the same process id, and one could link the file that the other still writes.
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let mut temporary = OsString::from(path);
        temporary.push(format!(".{:016x}.new", u64::from_ne_bytes(random)));
        let temporary = Path::new(&temporary);
        let mut file = private_files::create(temporary)?;
        let written = writeln!(file, "{}", base58::encode_check(&self.secret()))
            .and_then(|()| file.sync_all())
            // The file is linked, because a rename would replace a file that was created meanwhile.
            .and_then(|()| fs::hard_link(temporary, path));
        let removed = fs::remove_file(temporary);
        written?;
        removed?;
        private_files::sync_folder_of(path)
    }
}
