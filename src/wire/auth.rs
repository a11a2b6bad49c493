//! A client proves who it is: trust, md5 or SCRAM-SHA-256.
//!
//! A user that does not exist is taken through the same exchange as one that does, with a salt that stays the same from try
//! to try, and fails at the same place with the same words: who may log in cannot be found out by asking.
//! Sources: RFC 5802, RFC 7677, <https://www.postgresql.org/docs/current/sasl-authentication.html>, Postgres `auth-scram.c`.

use std::collections::{BTreeMap, HashMap};
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, gen_salted_password};
use pgwire::error::PgWireError;
use ring::hmac;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{self, Report, Severity};
use super::message::Cursor;
use super::stream::Stream;
use super::tls::ClientEncryption;
use crate::config::{Auth, Secret, User};

/// Longest message that is read before the client has proven who it is.
const MAX_MESSAGE: usize = 65_535;
/// As many as Postgres puts into a verifier.
const SALT_LENGTH: usize = 16;
/// Of SHA-256, and so of StoredKey and ServerKey.
const KEY_LENGTH: usize = 32;

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why a client is not let in. It has been told so, where it could be.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A wrong password or an unknown user; the client cannot tell which.
    #[error("password authentication failed for user \"{0}\"")]
    Failed(String),
    #[error("expected password response, got message type {0}")]
    MessageType(u8),
    #[error("invalid message length")]
    Length,
    #[error("invalid password packet size")]
    PasswordPacket,
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error("malformed SCRAM message")]
    Scram,
    /// psql does this to ask its user for the password first.
    #[error("the client closed the connection during authentication")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AuthError {
    fn report<'a>(&self, message: &'a str) -> Option<Report<'a>> {
        let sqlstate = match self {
            AuthError::Failed(_) => "28P01",
            AuthError::MessageType(_)
            | AuthError::Length
            | AuthError::PasswordPacket
            | AuthError::Mechanism
            | AuthError::Scram => "08P01",
            AuthError::Closed | AuthError::Io(_) => return None,
        };
        Some(Report::new(Severity::Fatal, sqlstate, message))
    }
}

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
}

/// What the users of one configuration are checked against. Built once per configuration.
pub struct AuthSecrets {
    key: hmac::Key,
    verifiers: HashMap<String, Verifier>,
    unknown: UnknownUser,
    /// Without and, where a certificate allows it, with channel binding.
    scram: ScramServerAuth,
    scram_plus: Option<ScramServerAuth>,
}

/// What a server keeps in `pg_authid` instead of a password.
#[derive(Clone)]
struct Verifier {
    salt: Vec<u8>,
    iterations: usize,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

/// How a user that does not exist is asked for its password: as most of those that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnknownUser {
    Scram { iterations: usize },
    Md5,
}

impl AuthSecrets {
    /// Derives a verifier from each plain password (about a millisecond each), so that a login costs a few hashes only.
    pub fn new(secret: &ProcessSecret, users: &[User], encryption: &ClientEncryption) -> Result<Self, BadVerifier> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let mut verifiers = HashMap::new();
        for user in users {
            let verifier = match &user.auth {
                Auth::Trust | Auth::Md5(_) => continue,
                Auth::ScramPassword(Secret(password)) => Verifier::derive(password, made_up_salt(&key, &user.name)),
                Auth::ScramVerifier(Secret(text)) => {
                    Verifier::parse(text).ok_or_else(|| BadVerifier { user: user.name.clone() })?
                }
            };
            verifiers.insert(user.name.clone(), verifier);
        }
        let unknown = UnknownUser::like(users, &verifiers);
        let scram_plus = encryption.certificate_pem().and_then(|pem| {
            let mut scram = ScramServerAuth::new();
            // A certificate whose signature names no hash has no channel binding; plain SCRAM is offered then.
            scram.configure_certificate(pem).ok().map(|()| scram)
        });
        Ok(AuthSecrets { key, verifiers, unknown, scram: ScramServerAuth::new(), scram_plus })
    }

    /// The user's verifier, or one that no password opens. Made up for every name, so that both take the same time.
    fn verifier(&self, name: &str) -> Verifier {
        let iterations = match self.unknown {
            UnknownUser::Scram { iterations } => iterations,
            UnknownUser::Md5 => SCRAM_ITERATIONS,
        };
        let made_up = Verifier {
            salt: made_up_salt(&self.key, name),
            iterations,
            stored_key: rand::random::<[u8; KEY_LENGTH]>().to_vec(),
            server_key: rand::random::<[u8; KEY_LENGTH]>().to_vec(),
        };
        self.verifiers.get(name).cloned().unwrap_or(made_up)
    }
}

fn made_up_salt(key: &hmac::Key, name: &str) -> Vec<u8> {
    hmac::sign(key, name.as_bytes()).as_ref()[..SALT_LENGTH].to_vec()
}

impl UnknownUser {
    /// The most frequent iteration count, because any other would give the stranger away.
    fn like(users: &[User], verifiers: &HashMap<String, Verifier>) -> Self {
        let mut counts = BTreeMap::new();
        for verifier in verifiers.values() {
            *counts.entry(verifier.iterations).or_insert(0usize) += 1;
        }
        let md5 = users.iter().filter(|user| matches!(user.auth, Auth::Md5(_))).count();
        if md5 > verifiers.len() {
            return UnknownUser::Md5;
        }
        let most_frequent = counts.into_iter().max_by_key(|&(_, count)| count);
        UnknownUser::Scram { iterations: most_frequent.map_or(SCRAM_ITERATIONS, |(iterations, _)| iterations) }
    }
}

impl Verifier {
    /// Normalizes the password as Postgres does: SASLprep, or the bytes as they are where that fails.
    fn derive(password: &str, salt: Vec<u8>) -> Self {
        let salted = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
        match ScramSecret::verifier_from_salted_password(salt, salted, SCRAM_ITERATIONS) {
            ScramSecret::Verifier { salt, iterations, stored_key, server_key } => {
                Verifier { salt, iterations, stored_key, server_key }
            }
            ScramSecret::SaltedPassword { .. } => unreachable!("it was asked for a verifier"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (iterations_and_salt, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = iterations_and_salt.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let verifier = Verifier {
            // Clients read it as a positive 32-bit number.
            iterations: iterations.parse::<i32>().ok().filter(|&count| count > 0)?.try_into().ok()?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: STANDARD.decode(stored_key).ok()?,
            server_key: STANDARD.decode(server_key).ok()?,
        };
        let keys_fit = verifier.stored_key.len() == KEY_LENGTH && verifier.server_key.len() == KEY_LENGTH;
        (keys_fit && !verifier.salt.is_empty()).then_some(verifier)
    }

    fn into_secret(self) -> ScramSecret {
        ScramSecret::Verifier {
            salt: self.salt,
            iterations: self.iterations,
            stored_key: self.stored_key,
            server_key: self.server_key,
        }
    }
}

/// Lets the client prove that it is `name`; `user` is the configured user of that name, if there is one, and `secrets`
/// were built from the same configuration.
///
/// AuthenticationOk is left to the caller, who has more to send with it. On an error the client has been told; the
/// connection is of no further use. The caller bounds the time.
pub async fn authenticate(
    stream: &mut Stream,
    user: Option<&User>,
    name: &str,
    secrets: &AuthSecrets,
) -> Result<(), AuthError> {
    let outcome = match (user.map(|user| &user.auth), secrets.unknown) {
        (Some(Auth::Trust), _) => Ok(()),
        (Some(Auth::Md5(secret)), _) => md5(stream, name, Some(secret)).await,
        (None, UnknownUser::Md5) => md5(stream, name, None).await,
        (Some(Auth::ScramPassword(_) | Auth::ScramVerifier(_)), _) | (None, UnknownUser::Scram { .. }) => {
            scram(stream, name, secrets).await
        }
    };
    if let Err(error) = &outcome {
        let message = error.to_string();
        if let Some(report) = error.report(&message) {
            let mut out = Vec::new();
            answer::error_response(&mut out, &report);
            stream.refuse(&out).await;
        }
    }
    outcome
}

async fn md5(stream: &mut Stream, name: &str, secret: Option<&Secret>) -> Result<(), AuthError> {
    let salt: [u8; 4] = rand::random();
    let mut out = Vec::new();
    answer::authentication_md5(&mut out, salt);
    send(stream, &out).await?;

    let body = read_response(stream).await?;
    let mut cursor = Cursor::new(&body);
    let answered = cursor.string().map_err(|_| AuthError::PasswordPacket)?;
    cursor.end().map_err(|_| AuthError::PasswordPacket)?;

    // For a stranger too, so that both take the same time.
    let made_up = Secret(String::new());
    let expected = md5_response(secret.unwrap_or(&made_up), name, salt);
    let equal = bool::from(expected.as_bytes().ct_eq(answered));
    if equal && secret.is_some() { Ok(()) } else { Err(AuthError::Failed(name.to_owned())) }
}

/// `md5` and the hex of md5(hex of md5(password, user), salt). The secret is the password or the inner hash, as `md5` and its hex.
fn md5_response(Secret(secret): &Secret, name: &str, salt: [u8; 4]) -> String {
    match secret.strip_prefix("md5").filter(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(hex) => {
            let mut salted = hex.to_ascii_lowercase().into_bytes();
            salted.extend_from_slice(&salt);
            postgres_protocol::password::md5(&salted, "")
        }
        None => postgres_protocol::authentication::md5_hash(name.as_bytes(), secret.as_bytes(), salt),
    }
}

async fn scram(stream: &mut Stream, name: &str, secrets: &AuthSecrets) -> Result<(), AuthError> {
    let plus = secrets.scram_plus.as_ref().filter(|_| stream.is_tls());
    let mut out = Vec::new();
    match plus {
        Some(_) => answer::authentication_sasl(&mut out, &[SCRAM_PLUS, SCRAM]),
        None => answer::authentication_sasl(&mut out, &[SCRAM]),
    }
    send(stream, &out).await?;

    let body = read_response(stream).await?;
    let (binding, client_first) = initial_response(&body)?;
    match (binding, plus) {
        (Binding::Used, None) => return Err(AuthError::Mechanism),
        // The first letter says whether the client binds; it has to fit the mechanism it chose.
        (Binding::Used, Some(_)) if client_first.first() != Some(&b'p') => return Err(AuthError::Scram),
        (Binding::Unused, _) if client_first.first() == Some(&b'p') => return Err(AuthError::Scram),
        _ => {}
    }
    let state = plus.unwrap_or(&secrets.scram);
    let verifier = secrets.verifier(name).into_secret();
    let (server_first, state) =
        state.on_client_first_message_with_secret(client_first, verifier).map_err(|_| AuthError::Scram)?;
    out.clear();
    answer::authentication_sasl_continue(&mut out, server_first.as_bytes());
    send(stream, &out).await?;

    let client_final = read_response(stream).await?;
    // Its last comparison is of SHA-256(client's key) with StoredKey. It is not constant in time, but what is hashed is
    // the proof mixed with an HMAC under StoredKey, so a client cannot steer the bytes that are compared.
    let server_final = state.on_client_final_message(&client_final).map_err(|error| match error {
        PgWireError::InvalidPassword(_) => AuthError::Failed(name.to_owned()),
        _ => AuthError::Scram,
    })?;
    out.clear();
    answer::authentication_sasl_final(&mut out, server_final.as_bytes());
    send(stream, &out).await
}

/// Whether the client ties the exchange to the TLS connection it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binding {
    Used,
    Unused,
}

/// SASLInitialResponse: the mechanism's name, a length, and so many bytes.
fn initial_response(body: &[u8]) -> Result<(Binding, &[u8]), AuthError> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.string().map_err(|_| AuthError::Scram)?;
    let binding = match mechanism {
        name if name == SCRAM.as_bytes() => Binding::Unused,
        name if name == SCRAM_PLUS.as_bytes() => Binding::Used,
        _ => return Err(AuthError::Mechanism),
    };
    // -1, no response yet, is allowed by SASL in general but makes no sense in SCRAM, where the client begins.
    let length = cursor.int32().ok().and_then(|length| usize::try_from(length).ok()).ok_or(AuthError::Scram)?;
    let response = cursor.take(length).map_err(|_| AuthError::Scram)?;
    cursor.end().map_err(|_| AuthError::Scram)?;
    Ok((binding, response))
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<(), AuthError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

/// The body of the one message type that is allowed before authentication. Nothing is buffered before its length is known to be small.
async fn read_response(stream: &mut Stream) -> Result<Vec<u8>, AuthError> {
    let mut header = [0; 5];
    if stream.read(&mut header[..1]).await? == 0 {
        return Err(AuthError::Closed);
    }
    if header[0] != b'p' {
        return Err(AuthError::MessageType(header[0]));
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4)).ok_or(AuthError::Length)?;
    if length > MAX_MESSAGE {
        return Err(AuthError::Length);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}
