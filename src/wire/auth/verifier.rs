//! What SCRAM keeps of a password, and what a proof shows of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, gen_salted_password};
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// Of SHA-256, and so of StoredKey and ServerKey.
pub(super) const KEY_LENGTH: usize = 32;

pub(super) type Key = [u8; KEY_LENGTH];

/// What a server keeps in `pg_authid` instead of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: usize,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// A verifier and the key that opens it: all that a login needs at a server that keeps the same verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) verifier: Verifier,
    pub(super) client_key: Key,
}

impl Verifier {
    /// Normalizes the password as Postgres does: SASLprep, or the bytes as they are where that fails. Takes about a millisecond.
    pub(super) fn derive(password: &str, salt: Vec<u8>) -> Self {
        Self::derive_as(password, salt, SCRAM_ITERATIONS)
    }

    fn derive_as(password: &str, salt: Vec<u8>, iterations: usize) -> Self {
        let salted = gen_salted_password(password, &salt, iterations);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        Verifier {
            salt,
            iterations,
            stored_key: sha256(sign(&key, b"Client Key")),
            server_key: sign(&key, b"Server Key"),
        }
    }

    /// As `pg_authid.rolpassword` has it.
    pub fn parse(text: &str) -> Option<Self> {
        let (iterations_and_salt, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = iterations_and_salt.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        let verifier = Verifier {
            // Clients read it as a positive 32-bit number.
            iterations: iterations
                .parse::<i32>()
                .ok()
                .filter(|&count| count > 0)?
                .try_into()
                .ok()?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        };
        (!verifier.salt.is_empty()).then_some(verifier)
    }

    /// Whether this is the password. Takes as long as its iterations do.
    pub(super) fn opens(&self, password: &Secret) -> bool {
        let made = Self::derive_as(&password.0, self.salt.clone(), self.iterations);
        bool::from(made.stored_key.ct_eq(&self.stored_key))
    }

    /// The client's key, out of the proof that it knows it: `proof` is that key, masked with the signature of what was said.
    pub(super) fn keys_of(&self, proof: &[u8], auth_message: &str) -> Option<ScramKeys> {
        let mask = signature(&self.stored_key, auth_message);
        let client_key = xor(proof.try_into().ok()?, mask);
        let fits = bool::from(sha256(client_key).ct_eq(&self.stored_key));
        fits.then(|| ScramKeys {
            verifier: self.clone(),
            client_key,
        })
    }

    pub(super) fn into_secret(self) -> ScramSecret {
        ScramSecret::Verifier {
            salt: self.salt,
            iterations: self.iterations,
            stored_key: self.stored_key.to_vec(),
            server_key: self.server_key.to_vec(),
        }
    }
}

pub(super) fn xor(mut one: Key, other: Key) -> Key {
    one.iter_mut()
        .zip(other)
        .for_each(|(one, other)| *one ^= other);
    one
}

/// HMAC-SHA-256 under a key of SCRAM.
pub(super) fn signature(key: &Key, message: &str) -> Key {
    sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes())
}

fn sign(key: &hmac::Key, message: &[u8]) -> Key {
    let signed = hmac::sign(key, message);
    signed.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

fn sha256(key: Key) -> Key {
    let digest = digest::digest(&digest::SHA256, &key);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}
