//! The authority's key, which clients know the server by.

use std::io;

use bitcoin::{
    base58,
    secp256k1::{Keypair, Secp256k1, SecretKey},
};

/// In front of a key in text, says the standard: version 1.
const PREFIX: [u8; 2] = [1, 0];

#[derive(Clone)]
pub(crate) struct AuthorityKeys {
    pair: Keypair,
}

impl AuthorityKeys {
    /// A new one, for as long as the program runs.
    ///
    /// # Errors
    ///
    /// There are no random bytes.
    pub(crate) fn generate() -> io::Result<AuthorityKeys> {
        let mut bytes = [0; 32];
        loop {
            getrandom::fill(&mut bytes)?;
            // All but one in 2^128 numbers are keys.
            if let Ok(secret) = SecretKey::from_slice(&bytes) {
                return Ok(AuthorityKeys {
                    pair: Keypair::from_secret_key(&Secp256k1::new(), &secret),
                });
            }
        }
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.pair.x_only_public_key().0.serialize()
    }

    pub(super) fn secret(&self) -> [u8; 32] {
        self.pair.secret_bytes()
    }

    /// The public key as clients are told it.
    pub(crate) fn to_text(&self) -> String {
        base58::encode_check(&[&PREFIX[..], &self.public()].concat())
    }
}
