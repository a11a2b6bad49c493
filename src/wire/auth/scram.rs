//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::error::PgWireError;

use super::secrets::{AuthSecrets, Likeness};
use super::verifier::{ScramKeys, Verifier};
use super::{AuthError, read_response, send};
use crate::wire::answer;
use crate::wire::message::Cursor;
use crate::wire::stream::Stream;

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Gives the client's keys, which its proof has shown. Without a verifier the client fails.
pub(super) async fn exchange(
    stream: &mut Stream,
    name: &str,
    verifier: Option<&Verifier>,
    likeness: Likeness,
    secrets: &AuthSecrets,
) -> Result<Option<ScramKeys>, AuthError> {
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
        (Binding::Used, Some(_)) if client_first.first() != Some(&b'p') => {
            return Err(AuthError::Scram);
        }
        (Binding::Unused, _) if client_first.first() == Some(&b'p') => {
            return Err(AuthError::Scram);
        }
        _ => {}
    }
    let state = plus.unwrap_or(&secrets.scram);
    // Made up for every name, so that both take the same time.
    let made_up = secrets.made_up(name, likeness);
    let verifier = verifier.cloned().unwrap_or(made_up);
    let (server_first, state) = state
        .on_client_first_message_with_secret(client_first, verifier.clone().into_secret())
        .map_err(|_| AuthError::Scram)?;
    out.clear();
    answer::authentication_sasl_continue(&mut out, server_first.as_bytes());
    send(stream, &out).await?;

    let client_final = read_response(stream).await?;
    // Its last comparison is of SHA-256(client's key) with StoredKey. It is not constant in time, but what is hashed is
    // the proof mixed with an HMAC under StoredKey, so a client cannot steer the bytes that are compared.
    let server_final =
        state
            .on_client_final_message(&client_final)
            .map_err(|error| match error {
                PgWireError::InvalidPassword(_) => AuthError::Failed(name.to_owned()),
                _ => AuthError::Scram,
            })?;
    out.clear();
    answer::authentication_sasl_final(&mut out, server_final.as_bytes());
    send(stream, &out).await?;
    Ok(keys(&verifier, client_first, &server_first, &client_final))
}

/// The client's keys, out of what was said.
fn keys(
    verifier: &Verifier,
    client_first: &[u8],
    server_first: &str,
    client_final: &[u8],
) -> Option<ScramKeys> {
    // The header in front says whether the client binds: two fields, each with its comma.
    let client_first = str::from_utf8(client_first).ok()?;
    let (_, bare) = client_first.split_once(',')?.1.split_once(',')?;
    let client_final = str::from_utf8(client_final).ok()?;
    let (without_proof, proof) = client_final.rsplit_once(",p=")?;
    let proof = STANDARD.decode(proof).ok()?;
    verifier.keys_of(&proof, &format!("{bare},{server_first},{without_proof}"))
}

/// Whether the client ties the exchange to the TLS connection it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Used,
    Unused,
}

/// SASLInitialResponse: the mechanism's name, a length, and so many bytes.
pub(super) fn initial_response(body: &[u8]) -> Result<(Binding, &[u8]), AuthError> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.string().map_err(|_| AuthError::Scram)?;
    let binding = match mechanism {
        name if name == SCRAM.as_bytes() => Binding::Unused,
        name if name == SCRAM_PLUS.as_bytes() => Binding::Used,
        _ => return Err(AuthError::Mechanism),
    };
    // -1, no response yet, is allowed by SASL in general but makes no sense in SCRAM, where the client begins.
    let length = cursor
        .int32()
        .ok()
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(AuthError::Scram)?;
    let response = cursor.take(length).map_err(|_| AuthError::Scram)?;
    cursor.end().map_err(|_| AuthError::Scram)?;
    Ok((binding, response))
}
