//! Passwords: written in the file, taken from the environment, or read from a file of their own. Never shown in a message.

use std::path::Path;

use toml::de::DeValue;

use super::section::{Entry, Section};
use super::{Auth, Secret};

const FORMS: &str = "a string in quotes, { env = \"NAME\" } or { file = \"path\" }";
const VERIFIER: &str = "SCRAM-SHA-256$";

/// A password in one of its three forms.
pub(super) fn secret(entry: &Entry<'_>) -> Option<Secret> {
    let text = match entry.value {
        DeValue::String(text) => Some(text.as_ref().to_owned()),
        DeValue::Table(_) => from_elsewhere(entry),
        // The value itself stays out of the message: it may be a password without its quotes.
        other => {
            entry.note(format!("is of type {}; give {FORMS}", other.type_str()));
            None
        }
    }?;
    if text.is_empty() || text.contains('\0') {
        entry.note(format!("is empty or holds a zero byte; give {FORMS}"));
        return None;
    }
    Some(Secret(text))
}

fn from_elsewhere(entry: &Entry<'_>) -> Option<String> {
    let mut section = entry.section()?;
    let env = section.take("env");
    let file = section.take("file");
    section.done();
    match (env, file) {
        (Some(env), None) => from_environment(&env),
        (None, Some(file)) => from_file(&file),
        (Some(_), Some(_)) | (None, None) => {
            entry.note(format!("needs either env or file; give {FORMS}"));
            None
        }
    }
}

fn from_environment(entry: &Entry<'_>) -> Option<String> {
    let name = entry.text("the name of an environment variable")?;
    let value = entry.source.env(name);
    if value.is_none() {
        entry.note(format!(
            "the environment variable {name:?} is not set; set it before the start, or name another one"
        ));
    }
    value
}

fn from_file(entry: &Entry<'_>) -> Option<String> {
    let path = entry.source.resolve(entry.text("the path of a file")?);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            warn_if_public(entry, &path);
            // Editors and `echo` end the line; no one means the line end to be part of the password.
            Some(
                text.strip_suffix('\n')
                    .map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t))
                    .to_owned(),
            )
        }
        Err(error) => {
            entry.note(format!(
                "{:?} cannot be read ({error}); give the path of a file that holds the password",
                path.display().to_string()
            ));
            None
        }
    }
}

fn warn_if_public(entry: &Entry<'_>, path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let everyone_reads =
        std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0);
    if everyone_reads {
        entry.source.warn(
            entry.line,
            &entry.path,
            format!(
                "{:?} can be read by every user of this machine; chmod o-r it",
                path.display().to_string()
            ),
        );
    }
}

/// What the file asks of a client that logs in.
#[derive(Clone, Copy)]
enum Method {
    Scram,
    Md5,
    Trust,
}

/// What a stored secret is.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Plain,
    Md5,
    Verifier,
}

fn form(secret: &Secret) -> Form {
    let text = secret.0.as_str();
    let md5 = text.strip_prefix("md5").is_some_and(|hash| {
        hash.len() == 32
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    match text.starts_with(VERIFIER) {
        true => Form::Verifier,
        false if md5 => Form::Md5,
        false => Form::Plain,
    }
}

/// How a user logs in, and the password for servers (their own one, else the client's when that is known in plain text).
pub(super) fn credentials(section: &mut Section<'_>) -> (Option<Auth>, Option<Secret>) {
    let password = section.take("password");
    let given = password.is_some();
    let password = password.and_then(|entry| secret(&entry));
    let method = section
        .read("auth", |entry| {
            entry.choice(&[
                ("scram-sha-256", Method::Scram),
                ("md5", Method::Md5),
                ("trust", Method::Trust),
            ])
        })
        .unwrap_or(Method::Scram);
    let own = section.read("server_password", |entry| {
        let secret = secret(&entry)?;
        if form(&secret) != Form::Plain {
            entry.note("is a hash; give the password itself, which is what servers ask for");
            return None;
        }
        Some(secret)
    });
    let plain = password
        .clone()
        .filter(|secret| form(secret) == Form::Plain);
    (auth(section, method, password, given), own.or(plain))
}

fn auth(
    section: &Section<'_>,
    method: Method,
    password: Option<Secret>,
    given: bool,
) -> Option<Auth> {
    let password = match (method, password) {
        (Method::Trust, _) => return Some(Auth::Trust),
        (_, Some(password)) => password,
        // A wrong one has been noted.
        (_, None) if given => return None,
        (_, None) => {
            section.note_key(
                "password",
                format!("is missing; give {FORMS}, or set auth = \"trust\""),
            );
            return None;
        }
    };
    match (method, form(&password)) {
        (Method::Trust, _) => Some(Auth::Trust),
        (Method::Scram, Form::Plain) => Some(Auth::ScramPassword(password)),
        (Method::Scram, Form::Verifier) if is_verifier(&password.0) => {
            Some(Auth::ScramVerifier(password))
        }
        (Method::Scram, Form::Verifier) => {
            section.note_key(
                "password",
                "is not a whole SCRAM verifier; give SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> \
                 as pg_authid.rolpassword has it",
            );
            None
        }
        (Method::Scram, Form::Md5) => {
            section.note_key(
                "password",
                "is an md5 hash, with which scram-sha-256 cannot be done; give the password or a SCRAM verifier, \
                 or set auth = \"md5\"",
            );
            None
        }
        (Method::Md5, Form::Plain | Form::Md5) => Some(Auth::Md5(password)),
        (Method::Md5, Form::Verifier) => {
            section.note_key(
                "password",
                "is a SCRAM verifier, with which md5 cannot be done; give the password or its md5 hash, \
                 or set auth = \"scram-sha-256\"",
            );
            None
        }
    }
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last three in base64; a key has 32 bytes.
fn is_verifier(text: &str) -> bool {
    let base64 = |part: &str| {
        let digits = part.trim_end_matches('=');
        !digits.is_empty()
            && part.len().is_multiple_of(4)
            && part.len() - digits.len() <= 2
            && digits
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    };
    let key = |part: &str| part.len() == 44 && part.ends_with('=') && base64(part);
    let parts = || {
        let (head, keys) = text.strip_prefix(VERIFIER)?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let iterations: u32 = iterations.parse().ok()?;
        Some(iterations > 0 && base64(salt) && key(stored) && key(server))
    };
    parts().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifiers() {
        let key = "uW1d9yLGyQvUXx1eRPkVHsYf3ZdTqFXlmnRx2tFxQaE=";
        assert!(is_verifier(&format!(
            "SCRAM-SHA-256$4096:c2FsdHNhbHQ=${key}:{key}"
        )));
        assert!(!is_verifier(&format!(
            "SCRAM-SHA-256$0:c2FsdHNhbHQ=${key}:{key}"
        )));
        assert!(!is_verifier(&format!(
            "SCRAM-SHA-256$4096:c2FsdHNhbHQ${key}:{key}"
        )));
        assert!(!is_verifier(&format!(
            "SCRAM-SHA-256$4096:c2FsdHNhbHQ=${key}"
        )));
        assert!(!is_verifier(&format!(
            "SCRAM-SHA-256$4096:c2FsdHNhbHQ=${key}:short="
        )));
    }
}
