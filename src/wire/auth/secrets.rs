//! What is known of users' passwords, ready for logins.

use std::collections::{BTreeMap, HashMap};

use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramServerAuth};
use ring::hmac;
use tokio::sync::Semaphore;

use super::Credential;
use super::verifier::{KEY_LENGTH, Verifier};
use crate::config::{Method, Password, Secret, User};
use crate::wire::tls::ClientEncryption;

/// As many as Postgres puts into a verifier.
const SALT_LENGTH: usize = 16;

/// Most passwords that are hashed at the same time for clients who have not logged in yet: nobody can keep all processors busy with that.
const HASHED_AT_ONCE: usize = 2;

/// The configured verifier of a user cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user \"{user}\": the SCRAM verifier must be SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, with base64 fields and keys of 32 bytes"
)]
pub struct BadVerifier {
    pub user: String,
}

/// A random secret that lasts as long as the process, so that made-up salts do not change between tries and reloads.
#[derive(Clone)]
pub struct ProcessSecret([u8; 32]);

impl ProcessSecret {
    pub fn random() -> Self {
        ProcessSecret(rand::random())
    }

    #[cfg(test)]
    pub(super) fn fixed() -> Self {
        ProcessSecret([7; 32])
    }

    /// The salt of a user for whom none is stored.
    fn salt(&self, name: &str) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::sign(&key, name.as_bytes()).as_ref()[..SALT_LENGTH].to_vec()
    }
}

/// What is known of one user's password.
#[derive(Clone)]
pub enum Stored {
    /// The user exists, and no password opens.
    Nothing,
    /// With its verifier, so that a login costs a few hashes only.
    Plain {
        password: Secret,
        verifier: Verifier,
    },
    /// `md5` and 32 hexadecimal digits.
    Md5(Secret),
    Scram(Verifier),
}

/// How a user that does not exist is asked for its password: as those are that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    Scram { iterations: usize },
    Md5,
}

impl Stored {
    /// Derives a verifier from a plain password, which takes about a millisecond.
    pub fn new(
        secret: &ProcessSecret,
        name: &str,
        password: &Password,
    ) -> Result<Self, BadVerifier> {
        Ok(match password {
            Password::Absent => Stored::Nothing,
            Password::Plain(password) => Stored::Plain {
                verifier: Verifier::derive(&password.0, secret.salt(name)),
                password: password.clone(),
            },
            Password::Md5(hash) => Stored::Md5(hash.clone()),
            Password::Verifier(Secret(text)) => {
                Stored::Scram(Verifier::parse(text).ok_or_else(|| BadVerifier {
                    user: name.to_owned(),
                })?)
            }
        })
    }

    pub(super) fn verifier(&self) -> Option<&Verifier> {
        match self {
            Stored::Plain { verifier, .. } | Stored::Scram(verifier) => Some(verifier),
            Stored::Nothing | Stored::Md5(_) => None,
        }
    }

    /// What servers can be shown, as far as it is known without the client's help.
    pub(super) fn credential(&self) -> Option<Credential> {
        match self {
            Stored::Plain { password, .. } => Some(Credential::Password(password.clone())),
            Stored::Md5(hash) => Some(Credential::Md5(hash.clone())),
            Stored::Nothing | Stored::Scram(_) => None,
        }
    }

    /// The method that suits it, where no rule says one.
    pub fn method(&self) -> Method {
        match self {
            Stored::Md5(_) => Method::Md5,
            Stored::Nothing | Stored::Plain { .. } | Stored::Scram(_) => Method::Scram,
        }
    }

    /// How users like this one are asked.
    pub fn likeness(&self) -> Option<Likeness> {
        match self {
            Stored::Md5(_) => Some(Likeness::Md5),
            _ => self.verifier().map(|verifier| Likeness::Scram {
                iterations: verifier.iterations,
            }),
        }
    }
}

impl Likeness {
    /// As [`Stored::method`].
    pub fn method(self) -> Method {
        match self {
            Likeness::Md5 => Method::Md5,
            Likeness::Scram { .. } => Method::Scram,
        }
    }

    /// The most frequent one, because any other would give the stranger away.
    fn of(users: impl Iterator<Item = Option<Likeness>>) -> Self {
        let (mut md5, mut scram, mut counts) = (0usize, 0usize, BTreeMap::new());
        for likeness in users.flatten() {
            match likeness {
                Likeness::Md5 => md5 += 1,
                Likeness::Scram { iterations } => {
                    scram += 1;
                    *counts.entry(iterations).or_insert(0usize) += 1;
                }
            }
        }
        let most_frequent = counts.into_iter().max_by_key(|&(_, count)| count);
        match md5 > scram {
            true => Likeness::Md5,
            false => Likeness::Scram {
                iterations: most_frequent.map_or(SCRAM_ITERATIONS, |(iterations, _)| iterations),
            },
        }
    }
}

/// What the users of one configuration are checked against. Built once per configuration.
pub struct AuthSecrets {
    secret: ProcessSecret,
    /// With the user's place in the configuration.
    users: HashMap<String, (usize, Stored)>,
    stranger: Likeness,
    /// Without and, where a certificate allows it, with channel binding.
    pub(super) scram: ScramServerAuth,
    pub(super) scram_plus: Option<ScramServerAuth>,
    pub(super) hashing: Semaphore,
}

impl AuthSecrets {
    /// Derives a verifier from each plain password (about a millisecond each) that was not among those `before`. Blocks.
    pub fn new(
        secret: &ProcessSecret,
        users: &[User],
        encryption: &ClientEncryption,
        before: Option<&AuthSecrets>,
    ) -> Result<Self, BadVerifier> {
        let mut known = HashMap::with_capacity(users.len());
        for (place, user) in users.iter().enumerate() {
            let stored = match before.and_then(|before| before.derived(user)) {
                Some(stored) => stored.clone(),
                None => Stored::new(secret, &user.name, &user.password)?,
            };
            known.insert(user.name.clone(), (place, stored));
        }
        // A user asked by md5 although the password itself is known counts as such.
        let asked = users.iter().map(|user| {
            let (_, stored) = known.get(&user.name)?;
            match user.auth {
                Some(Method::Md5) => Some(Likeness::Md5),
                Some(Method::Trust | Method::Certificate) => None,
                _ => stored.likeness(),
            }
        });
        let stranger = Likeness::of(asked);
        let scram_plus = encryption.certificate_pem().and_then(|pem| {
            let mut scram = ScramServerAuth::new();
            // A certificate whose signature names no hash has no channel binding; plain SCRAM is offered then.
            scram.configure_certificate(pem).ok().map(|()| scram)
        });
        Ok(AuthSecrets {
            secret: secret.clone(),
            users: known,
            stranger,
            scram: ScramServerAuth::new(),
            scram_plus,
            hashing: Semaphore::new(HASHED_AT_ONCE),
        })
    }

    /// What was derived from the same password before.
    fn derived(&self, user: &User) -> Option<&Stored> {
        let (_, stored) = self.users.get(&user.name)?;
        match (stored, &user.password) {
            (Stored::Plain { password, .. }, Password::Plain(same)) if password == same => {
                Some(stored)
            }
            _ => None,
        }
    }

    /// A configured user: its place in the configuration, and what is stored of it.
    pub fn find(&self, name: &str) -> Option<(usize, &Stored)> {
        let (place, stored) = self.users.get(name)?;
        Some((*place, stored))
    }

    /// How users that do not exist are asked.
    pub fn stranger(&self) -> Likeness {
        self.stranger
    }

    /// A verifier that no password opens. Made up from the name, so that it does not change from try to try.
    pub(super) fn made_up(&self, name: &str, likeness: Likeness) -> Verifier {
        let iterations = match likeness {
            Likeness::Scram { iterations } => iterations,
            Likeness::Md5 => SCRAM_ITERATIONS,
        };
        Verifier {
            salt: self.secret.salt(name),
            iterations,
            stored_key: rand::random::<[u8; KEY_LENGTH]>(),
            server_key: rand::random::<[u8; KEY_LENGTH]>(),
        }
    }
}
