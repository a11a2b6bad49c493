//! `[auth]`: the password file, the rules, and the query for users that are in neither.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::section::{Entry, Section, Source};
use super::userlist::{self, Listed};
use super::{
    AuthQuery, Authentication, CertificateDemand, ClientTls, Line, Listen, Method, Password, Rules,
    User, secret,
};

/// As `pg_authid` has it; a password past its date, or of a role that may not log in, is none.
const DEFAULT_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
     FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

/// Most users that are remembered.
const MOST_REMEMBERED: usize = 1_000_000;

/// Where passwords come from that are not beside their users, and who says how users log in.
#[derive(Default)]
pub(super) struct Sources {
    pub authentication: Authentication,
    /// The password file, as messages show it.
    pub users_file: String,
    pub listed: HashMap<String, Listed>,
    /// Users may do without a password here: rules or a query are given, be they sound or not.
    pub may_be_elsewhere: bool,
}

pub(super) fn read(mut section: Section<'_>) -> Sources {
    let mut sources = Sources {
        may_be_elsewhere: ["users_file", "hba_file", "query"]
            .iter()
            .any(|key| section.has(key)),
        ..Sources::default()
    };
    if let Some((file, text)) = section.read("users_file", |entry| text_of(&entry, Readers::Us)) {
        sources.listed = listed(section.source, &file, &text);
        sources.authentication.users_file = Some(file.clone());
        sources.users_file = file;
    }
    if let Some((file, text)) = section.read("hba_file", |entry| text_of(&entry, Readers::Anybody))
    {
        sources.authentication.hba_file = Some(file.clone());
        match Rules::parse(&text) {
            Ok(rules) => sources.authentication.rules = Some(rules),
            Err(mistakes) => {
                for (line, said) in mistakes {
                    section.source.note_in(&file, line, "", said);
                }
            }
        }
    }
    if section.has("query") {
        let query = query(section.section("query"));
        sources.authentication.query = query;
    } else {
        section.take("query");
    }
    section.done();
    sources
}

/// Who should be able to read a file.
#[derive(Clone, Copy, PartialEq)]
enum Readers {
    Anybody,
    Us,
}

/// The name of a file, as messages show it, and what is in it.
fn text_of(entry: &Entry<'_>, readers: Readers) -> Option<(String, String)> {
    let path = entry.source.resolve(entry.text("the path of a file")?);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            if readers == Readers::Us {
                secret::warn_if_public(entry, &path);
            }
            Some((shown(&path), text))
        }
        Err(error) => {
            entry.note(format!(
                "{:?} cannot be read ({error}); give the path of a file",
                path.display().to_string()
            ));
            None
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn listed(source: &Source<'_>, file: &str, text: &str) -> HashMap<String, Listed> {
    let mut known: HashMap<String, Listed> = HashMap::new();
    let entries = userlist::parse(text).unwrap_or_else(|mistakes| {
        for (line, said) in mistakes {
            source.note_in(file, line, "", said);
        }
        Vec::new()
    });
    for entry in entries {
        if let Some(said) = secret::listed_mistake(&entry) {
            source.note_in(file, entry.line, &entry.name, said);
        } else if let Some(Line(line)) = known.get(&entry.name).map(|known| known.line) {
            let said = format!("is on line {line} already; take one away");
            source.note_in(file, entry.line, &entry.name, said);
        } else {
            known.insert(entry.name.clone(), entry);
        }
    }
    known
}

fn query(mut section: Section<'_>) -> Option<AuthQuery> {
    let seconds = Duration::from_secs;
    let user = section.required("user", "the role that may read passwords", |entry| {
        entry.name()
    });
    let password = section.read("password", |entry| secret::password_for_servers(&entry));
    let database = section.read("database", |entry| entry.name());
    let sql = section.read("sql", |entry| {
        const ALLOWED: &str = "a SELECT of a name and a password in which $1 is the user's name";
        let sql = entry.text(ALLOWED)?;
        if !sql.contains("$1") || sql.contains('\0') {
            entry.wrong("a query for one user", ALLOWED);
            return None;
        }
        Some(sql.to_owned())
    });
    let mut time = |key, default| {
        let read = section.read(key, |entry| {
            entry.duration(Duration::from_millis(1)..=seconds(86_400))
        });
        read.unwrap_or(default)
    };
    let timeout = time("timeout", seconds(5));
    let cache_time = time("cache_time", seconds(60));
    let failure_time = time("failure_time", seconds(5));
    if failure_time > cache_time {
        section.note_key("failure_time", "is more than cache_time; give less");
    }
    let cache_size = section.read("cache_size", |entry| entry.whole(1..=MOST_REMEMBERED));
    section.done();
    Some(AuthQuery {
        user: user?,
        password,
        database,
        sql: sql.unwrap_or_else(|| DEFAULT_QUERY.to_owned()),
        timeout,
        cache_time,
        failure_time,
        cache_size: cache_size.unwrap_or(10_000),
    })
}

/// Users of the password file that are not in this one, in the order of their lines.
pub(super) fn users_only_listed(sources: Sources, users: &mut Vec<User>) -> Authentication {
    let mut rest: Vec<Listed> = {
        let known: std::collections::HashSet<&str> =
            users.iter().map(|user| user.name.as_str()).collect();
        let unknown = |listed: &Listed| !known.contains(listed.name.as_str());
        sources.listed.into_values().filter(unknown).collect()
    };
    rest.sort_by_key(|listed| listed.line.0);
    users.extend(rest.into_iter().map(|listed| {
        let password = Password::of(&listed.password);
        let server_password = secret::plain(&password);
        User {
            server_password,
            // Messages about users are about this file, where these are not.
            ..User::named(&listed.name, Line(0), password)
        }
    }));
    sources.authentication
}

/// Certificates can be asked for only when it is known who issues them.
pub(super) fn certificates_can_be_verified(
    root: &Section<'_>,
    listen: &Listen,
    authentication: &Authentication,
    users: &[User],
) {
    let offered = match &listen.tls {
        ClientTls::Disable => None,
        ClientTls::Prefer(offer) | ClientTls::Require(offer) => offer.client_authorities.as_ref(),
    };
    if offered.is_some() {
        return;
    }
    const SAID: &str = "asks for a client's certificate; give listen.tls.client_authorities, so that it can be verified";
    let rules = authentication.rules.iter().flat_map(Rules::iter);
    for rule in rules.filter(|rule| rule.certificate != CertificateDemand::Nothing) {
        let line = root.peek("auth").line_of("hba_file");
        root.source.note(
            line,
            "auth.hba_file",
            format!("line {} {SAID}", rule.line.0),
        );
    }
    for user in users
        .iter()
        .filter(|user| user.auth == Some(Method::Certificate))
    {
        let key = format!("users.{}.auth", user.name);
        root.source.note(user.line, &key, SAID);
    }
}
