//! A client proves who it is: trust, md5, SCRAM-SHA-256 with and without channel binding, the password itself, a certificate.
//!
//! A user that does not exist is taken through the same exchange as one that does, with a salt that stays the same from try
//! to try, and fails at the same place with the same words: who may log in cannot be found out by asking.
//! Nothing here looks a user up: the caller knows the method and what is stored.
//!
//! Read `secrets.rs` for what is known of users, `scram.rs`, `md5.rs` and `cleartext.rs` for the exchanges, `verifier.rs` for what SCRAM
//! keeps, `prover.rs` for logging in to a server with what a client's login has shown.
//! Sources: RFC 5802, RFC 7677, <https://www.postgresql.org/docs/current/sasl-authentication.html>, Postgres `auth-scram.c`.

mod cleartext;
#[cfg(test)]
pub(crate) mod fixtures;
mod md5;
mod prover;
mod scram;
mod secrets;
#[cfg(test)]
mod tests;
mod verifier;

pub use md5::md5_response;
pub use prover::{Binding, Prover, ProverError};
pub use secrets::{AuthSecrets, BadVerifier, Likeness, ProcessSecret, Stored};
pub use verifier::{ScramKeys, Verifier};

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{self, Report, Severity};
use super::stream::Stream;
use crate::config::{Method, Secret};

/// Longest message that is read before the client has proven who it is.
const MAX_MESSAGE: usize = 65_535;

/// Why a client is not let in. It has been told so, where it could be.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A wrong password or an unknown user; the client cannot tell which.
    #[error("password authentication failed for user \"{0}\"")]
    Failed(String),
    /// Of a method that asks for no password.
    #[error("role \"{0}\" does not exist")]
    NoRole(String),
    #[error("expected password response, got message type {0}")]
    MessageType(u8),
    #[error("invalid message length")]
    Length,
    #[error("invalid password packet size")]
    PasswordPacket,
    #[error("empty password returned by client")]
    EmptyPassword,
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error("malformed SCRAM message")]
    Scram,
    /// The thread that hashes is gone: the process is ending.
    #[error("the proxy is shutting down")]
    Ending,
    /// psql does this to ask its user for the password first.
    #[error("the client closed the connection during authentication")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AuthError {
    fn report<'a>(&self, message: &'a str) -> Option<Report<'a>> {
        let sqlstate = match self {
            AuthError::Failed(_) | AuthError::EmptyPassword => "28P01",
            AuthError::NoRole(_) => "28000",
            AuthError::MessageType(_)
            | AuthError::Length
            | AuthError::PasswordPacket
            | AuthError::Mechanism
            | AuthError::Scram => "08P01",
            AuthError::Ending => "57P01",
            AuthError::Closed | AuthError::Io(_) => return None,
        };
        Some(Report::new(Severity::Fatal, sqlstate, message))
    }
}

/// What a role shows to a server that asks for its password.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password(Secret),
    /// `md5` and 32 hexadecimal digits: enough for a server that asks for md5.
    Md5(Secret),
    /// Enough for a server that keeps the same verifier.
    Scram(Arc<ScramKeys>),
}

/// Without what is secret.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Password(_) => "Password(..)",
            Credential::Md5(_) => "Md5(..)",
            Credential::Scram(_) => "Scram(..)",
        })
    }
}

/// What is asked of a client.
#[derive(Clone, Copy)]
pub struct Challenge<'a> {
    /// Its certificate has been looked at, and no rule rejects it.
    pub method: Method,
    pub name: &'a str,
    /// `None`: there is no such user.
    pub stored: Option<&'a Stored>,
    /// How a user that does not exist is asked.
    pub likeness: Likeness,
}

/// Lets the client prove that it is who it says; gives what it can be logged in to servers with, if its login has shown any of that.
///
/// AuthenticationOk is left to the caller, who has more to send with it. On an error the client has been told; the
/// connection is of no further use. The caller bounds the time.
pub async fn prove(
    stream: &mut Stream,
    challenge: Challenge<'_>,
    secrets: &AuthSecrets,
) -> Result<Option<Credential>, AuthError> {
    let name = challenge.name;
    let outcome = match exchange(&challenge) {
        Exchange::Nothing => match challenge.stored {
            Some(stored) => Ok(stored.credential()),
            None => Err(AuthError::NoRole(name.to_owned())),
        },
        Exchange::Md5(secret) => md5::exchange(stream, name, secret)
            .await
            .map(|()| challenge.stored.and_then(Stored::credential)),
        Exchange::Scram(verifier) => {
            let proven = scram::exchange(stream, name, verifier, challenge.likeness, secrets).await;
            let plain = challenge.stored.and_then(Stored::credential);
            proven.map(|keys| plain.or_else(|| keys.map(|keys| Credential::Scram(Arc::new(keys)))))
        }
        Exchange::Cleartext => cleartext::exchange(stream, &challenge, secrets)
            .await
            .map(|password| Some(Credential::Password(password))),
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

/// What is said between us and the client; without a secret the end is known beforehand.
enum Exchange<'a> {
    Nothing,
    Md5(Option<&'a Secret>),
    Scram(Option<&'a Verifier>),
    Cleartext,
}

fn exchange<'a>(challenge: &Challenge<'a>) -> Exchange<'a> {
    let verifier = challenge.stored.and_then(Stored::verifier);
    match (challenge.method, challenge.stored, challenge.likeness) {
        // A rule that rejects was heeded before; were it not, nobody gets in here.
        (Method::Reject, ..) => Exchange::Scram(None),
        (Method::Trust | Method::Certificate, ..) => Exchange::Nothing,
        (Method::Cleartext, ..) => Exchange::Cleartext,
        (Method::Scram, ..) => Exchange::Scram(verifier),
        (Method::Md5, Some(Stored::Md5(secret)), _) => Exchange::Md5(Some(secret)),
        (Method::Md5, Some(Stored::Plain { password, .. }), _) => Exchange::Md5(Some(password)),
        (Method::Md5, Some(Stored::Scram(verifier)), _) => Exchange::Scram(Some(verifier)),
        (Method::Md5, Some(Stored::Nothing) | None, Likeness::Md5) => Exchange::Md5(None),
        (Method::Md5, Some(Stored::Nothing) | None, Likeness::Scram { .. }) => {
            Exchange::Scram(None)
        }
    }
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
    let length = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4))
        .ok_or(AuthError::Length)?;
    if length > MAX_MESSAGE {
        return Err(AuthError::Length);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// A PasswordMessage: text and a zero byte.
async fn read_password(stream: &mut Stream) -> Result<Vec<u8>, AuthError> {
    let mut body = read_response(stream).await?;
    match body.iter().position(|&byte| byte == 0) {
        Some(end) if end + 1 == body.len() => {
            body.truncate(end);
            Ok(body)
        }
        _ => Err(AuthError::PasswordPacket),
    }
}
