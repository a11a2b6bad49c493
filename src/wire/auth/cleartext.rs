//! The password itself, as the method `password` wants it: for connections that are encrypted anyway.

use subtle::ConstantTimeEq;

use super::secrets::{AuthSecrets, Stored};
use super::{AuthError, Challenge, Verifier, read_password, send};
use crate::config::Secret;
use crate::wire::answer;
use crate::wire::stream::Stream;

/// Gives the password when it is the right one.
///
/// It is hashed as SCRAM does whatever is stored, so that all users take the same time.
pub(super) async fn exchange(
    stream: &mut Stream,
    challenge: &Challenge<'_>,
    secrets: &AuthSecrets,
) -> Result<Secret, AuthError> {
    let mut out = Vec::new();
    answer::authentication_cleartext_password(&mut out);
    send(stream, &out).await?;
    let typed = read_password(stream).await?;
    let failed = || AuthError::Failed(challenge.name.to_owned());
    let typed = Secret(String::from_utf8(typed).map_err(|_| failed())?);
    if typed.0.is_empty() {
        return Err(AuthError::EmptyPassword);
    }
    let stored = challenge.stored.and_then(Stored::verifier).cloned();
    let verifier = stored.unwrap_or_else(|| secrets.made_up(challenge.name, challenge.likeness));
    let by_hash = match challenge.stored {
        Some(Stored::Md5(Secret(hash))) => {
            let own = postgres_protocol::password::md5(typed.0.as_bytes(), challenge.name);
            bool::from(own.as_bytes().ct_eq(hash.as_bytes()))
        }
        _ => false,
    };
    // It is never closed.
    let turn = secrets
        .hashing
        .acquire()
        .await
        .map_err(|_| AuthError::Ending)?;
    let by_verifier = opens(verifier, typed.clone()).await?;
    drop(turn);
    match by_hash || by_verifier {
        true => Ok(typed),
        false => Err(failed()),
    }
}

/// Thousands of hashes on purpose. Other connections live on this thread.
async fn opens(verifier: Verifier, password: Secret) -> Result<bool, AuthError> {
    tokio::task::spawn_blocking(move || verifier.opens(&password))
        .await
        .map_err(|_| AuthError::Ending)
}
