//! Users for tests, and a login that tells only whether it succeeded.

use super::{AuthError, AuthSecrets, Challenge, prove};
use crate::config::{Line, Method, Password, Secret, User};
use crate::wire::stream::Stream;

/// How a user of a test logs in.
#[derive(Clone, Debug)]
pub(crate) enum Auth {
    Trust,
    Md5(Secret),
    ScramPassword(Secret),
    ScramVerifier(Secret),
}

pub(crate) fn user(name: &str, auth: Auth) -> User {
    let (method, password) = match auth {
        Auth::Trust => (Method::Trust, Password::Absent),
        Auth::Md5(secret) => (Method::Md5, Password::of(&secret.0)),
        Auth::ScramPassword(secret) => (Method::Scram, Password::Plain(secret)),
        Auth::ScramVerifier(secret) => (Method::Scram, Password::Verifier(secret)),
    };
    User {
        auth: Some(method),
        ..User::named(name, Line(1), password)
    }
}

pub(crate) async fn authenticate(
    stream: &mut Stream,
    user: Option<&User>,
    name: &str,
    secrets: &AuthSecrets,
) -> Result<(), AuthError> {
    let likeness = secrets.stranger();
    let challenge = Challenge {
        method: user.and_then(|user| user.auth).unwrap_or(likeness.method()),
        name,
        stored: user
            .and_then(|user| secrets.find(&user.name))
            .map(|(_, stored)| stored),
        likeness,
    };
    prove(stream, challenge, secrets).await.map(|_| ())
}
