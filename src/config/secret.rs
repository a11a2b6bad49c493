//! Passwords: written in the file, taken from the environment, or read from a file of their own. Never shown in a message.

use std::path::Path;

use toml::de::DeValue;

use super::authentication::Sources;
use super::section::{Entry, Section};
use super::userlist::Listed;
use super::{Method, Password, Secret};

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

pub(super) fn warn_if_public(entry: &Entry<'_>, path: &Path) {
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

impl Password {
    /// What a stored text is, as `pg_authid.rolpassword` and password files have it.
    pub fn of(text: &str) -> Password {
        let secret = || Secret(text.to_owned());
        // Postgres (`get_password_type`) knows its hashes so.
        let md5 = text.strip_prefix("md5").is_some_and(|hash| {
            hash.len() == 32
                && hash
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        match text {
            "" => Password::Absent,
            _ if text.starts_with(VERIFIER) => Password::Verifier(secret()),
            _ if md5 => Password::Md5(secret()),
            _ => Password::Plain(secret()),
        }
    }
}

/// A password that is known itself.
pub(super) fn plain(password: &Password) -> Option<Secret> {
    match password {
        Password::Plain(secret) => Some(secret.clone()),
        Password::Absent | Password::Md5(_) | Password::Verifier(_) => None,
    }
}

/// A secret that servers are shown as it is.
pub(super) fn password_for_servers(entry: &Entry<'_>) -> Option<Secret> {
    let secret = secret(entry)?;
    if plain(&Password::of(&secret.0)).is_none() {
        entry.note("is a hash; give the password itself, which is what servers ask for");
        return None;
    }
    Some(secret)
}

/// What is wrong with a line of the password file.
pub(super) fn listed_mistake(listed: &Listed) -> Option<&'static str> {
    match Password::of(&listed.password) {
        _ if listed.name.is_empty() || listed.name.contains('\0') => Some("is not a name"),
        Password::Verifier(Secret(text)) if !is_verifier(&text) => Some(
            "is not a whole SCRAM verifier; give SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> \
             as pg_authid.rolpassword has it",
        ),
        _ if listed.password.contains('\0') => Some("has a password with a zero byte"),
        _ => None,
    }
}

/// How a user logs in, and the password for servers.
pub(super) struct Credentials {
    pub password: Password,
    pub auth: Option<Method>,
    /// Their own one, else the client's when that is known in plain text.
    pub server_password: Option<Secret>,
}

/// Those of one user; `listed` is the user's line in the password file.
pub(super) fn credentials(
    section: &mut Section<'_>,
    sources: &Sources,
    listed: Option<&Listed>,
) -> Option<Credentials> {
    let password = section.take("password");
    let given = password.is_some();
    let password = password.and_then(|entry| secret(&entry));
    let auth = section.take("auth");
    if sources.authentication.rules.is_some() && auth.is_some() {
        section.note_key(
            "auth",
            "cannot stand beside auth.hba_file, whose rules say how users log in; take one of them away",
        );
    }
    let auth = auth.and_then(|entry| {
        entry.choice(&[
            ("scram-sha-256", Method::Scram),
            ("md5", Method::Md5),
            ("trust", Method::Trust),
            ("cert", Method::Certificate),
        ])
    });
    let own = section.read("server_password", |entry| password_for_servers(&entry));
    let password = match (given, password, listed) {
        (true, _, Some(listed)) => {
            section.note_key(
                "password",
                format!(
                    "is given on line {} of {} too; take one of them away",
                    listed.line.0, sources.users_file
                ),
            );
            return None;
        }
        (_, Some(secret), None) => Password::of(&secret.0),
        (false, _, Some(listed)) => Password::of(&listed.password),
        // A wrong one has been noted.
        (true, None, None) => return None,
        (false, None, None) => Password::Absent,
    };
    let auth = match (sources.authentication.rules.is_some(), auth, given) {
        (true, _, _) => None,
        // What stands here is meant for the better method.
        (false, None, true) => Some(Method::Scram),
        (false, auth, _) => auth,
    };
    fit_together(section, sources, &password, auth)?;
    let server_password = own.or_else(|| plain(&password));
    Some(Credentials {
        password,
        auth,
        server_password,
    })
}

/// Notes a password with which the method cannot be done.
fn fit_together(
    section: &Section<'_>,
    sources: &Sources,
    password: &Password,
    auth: Option<Method>,
) -> Option<()> {
    let said = match (auth, password) {
        (Some(Method::Trust | Method::Certificate), _) => return Some(()),
        (_, Password::Absent) if sources.may_be_elsewhere => return Some(()),
        (_, Password::Absent) => {
            format!("is missing; give {FORMS}, or set auth = \"trust\"")
        }
        (_, Password::Verifier(Secret(text))) if !is_verifier(text) => {
            "is not a whole SCRAM verifier; give SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> \
             as pg_authid.rolpassword has it"
                .to_owned()
        }
        (Some(Method::Scram), Password::Md5(_)) => {
            "is an md5 hash, with which scram-sha-256 cannot be done; give the password or a SCRAM verifier, \
             or set auth = \"md5\""
                .to_owned()
        }
        (Some(Method::Md5), Password::Verifier(_)) => {
            "is a SCRAM verifier, with which md5 cannot be done; give the password or its md5 hash, \
             or set auth = \"scram-sha-256\""
                .to_owned()
        }
        _ => return Some(()),
    };
    section.note_key("password", said);
    None
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
