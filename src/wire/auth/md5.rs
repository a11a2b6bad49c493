//! The md5 challenge: `md5` and the hex of md5(hex of md5(password, user), salt).

use subtle::ConstantTimeEq;

use super::{AuthError, read_password, send};
use crate::config::{Password, Secret};
use crate::wire::answer;
use crate::wire::stream::Stream;

/// `secret` is the password, or the inner hash as `md5` and its hex; without one the client fails.
pub(super) async fn exchange(
    stream: &mut Stream,
    name: &str,
    secret: Option<&Secret>,
) -> Result<(), AuthError> {
    let salt: [u8; 4] = rand::random();
    let mut out = Vec::new();
    answer::authentication_md5(&mut out, salt);
    send(stream, &out).await?;
    let answered = read_password(stream).await?;

    // For a stranger too, so that both take the same time.
    let made_up = Secret(String::new());
    let expected = md5_response(secret.unwrap_or(&made_up), name, salt);
    let equal = bool::from(expected.as_bytes().ct_eq(&answered));
    match equal && secret.is_some() {
        true => Ok(()),
        false => Err(AuthError::Failed(name.to_owned())),
    }
}

/// The right answer to the challenge. The secret is the password, or the inner hash as `md5` and its hex.
pub fn md5_response(secret: &Secret, name: &str, salt: [u8; 4]) -> String {
    match Password::of(&secret.0) {
        Password::Md5(Secret(hash)) => {
            let salted = [&hash.as_bytes()["md5".len()..], &salt].concat();
            postgres_protocol::password::md5(&salted, "")
        }
        _ => {
            postgres_protocol::authentication::md5_hash(name.as_bytes(), secret.0.as_bytes(), salt)
        }
    }
}
