//! What a session has SET, so that any connection can be brought to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

use crate::wire::answer;

/// Undoes SET SESSION CHARACTERISTICS AS TRANSACTION, which has no RESET of its own.
const RESET_CHARACTERISTICS: &str = "RESET default_transaction_isolation;RESET default_transaction_read_only;RESET default_transaction_deferrable;";

/// Whose rights a session has, in the order in which they are taken on.
const AUTHORITY: [&str; 2] = ["session_authorization", "role"];

/// The settings a session differs in from a fresh connection: name (folded) and value as SQL, ready to follow `SET name = `.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Rc<BTreeMap<Box<str>, Box<str>>>);

impl Settings {
    /// The same snapshot, known without comparing the entries.
    pub fn is_same(&self, other: &Settings) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    pub fn set(&mut self, name: &str, value: &str) {
        Rc::make_mut(&mut self.0).insert(Box::from(name), Box::from(value));
    }

    pub fn reset(&mut self, name: &str) {
        if self.0.contains_key(name) {
            Rc::make_mut(&mut self.0).remove(name);
        }
    }

    pub fn reset_all(&mut self) {
        // RESET ALL leaves the role alone, as in Postgres.
        let kept = ["role", "session_authorization"]
            .into_iter()
            .filter_map(|name| self.0.get_key_value(name));
        self.0 = Rc::new(
            kept.map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        );
    }

    /// Adds those of `others` that are not set.
    pub fn add(&mut self, others: &Settings) {
        for (name, value) in others
            .0
            .iter()
            .filter(|(name, _)| !self.0.contains_key(*name))
            .collect::<Vec<_>>()
        {
            self.set(name, value);
        }
    }

    /// The statements that bring a connection from `self` to `wanted`; `None` when nothing is to be done.
    ///
    /// All else is set with the rights of the connection's own user, who may set whatever this session could: so the role and the session
    /// authorization are given back first, and taken on last. A new session authorization ends the role.
    pub fn statements_to(&self, wanted: &Settings) -> Option<String> {
        if self.is_same(wanted) || self.0 == wanted.0 {
            return None;
        }
        let mut sql = String::new();
        for name in AUTHORITY.iter().filter(|name| self.get(name).is_some()) {
            sql.push_str(match *name {
                "role" => "RESET ROLE;",
                _ => "RESET SESSION AUTHORIZATION;",
            });
        }
        let is_authority = |name: &str| AUTHORITY.contains(&name);
        for name in self.0.keys().filter(|name| !wanted.0.contains_key(*name)) {
            match &**name {
                name if is_authority(name) => {}
                "session_characteristics" => sql.push_str(RESET_CHARACTERISTICS),
                name => {
                    write!(sql, "RESET {};", quoted(name)).expect("writing to a string cannot fail")
                }
            }
        }
        let changed = wanted
            .0
            .iter()
            .filter(|(name, value)| !is_authority(name) && self.0.get(*name) != Some(value));
        for (name, value) in changed {
            sql.push_str(&statement(name, value));
            sql.push(';');
        }
        for name in AUTHORITY {
            if let Some(set) = wanted.statement_for(name) {
                sql.push_str(&set);
                sql.push(';');
            }
        }
        Some(sql)
    }

    /// The statement that sets what is set here under this name.
    pub fn statement_for(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| statement(name, value))
    }
}

/// SET, as a server understands it.
pub fn statement(name: &str, value: &str) -> String {
    match name {
        "session_authorization" => format!("SET SESSION AUTHORIZATION {value}"),
        "role" => format!("SET ROLE {value}"),
        "timezone" => format!("SET TIME ZONE {value}"),
        name => format!("SET {} = {value}", quoted(name)),
    }
}

/// A setting's name, each part quoted: `"search_path"`, `"app"."tenant"`.
fn quoted(name: &str) -> String {
    let parts: Vec<String> = name
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    parts.join(".")
}

/// The values a server reports by ParameterStatus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    values: Rc<BTreeMap<Box<str>, Box<str>>>,
    reading: Reading,
}

/// Whether SQL under these settings means what the reader of SQL takes it for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    AsExpected,
    Otherwise,
}

impl Reading {
    fn under(values: &BTreeMap<Box<str>, Box<str>>) -> Reading {
        let strings = values
            .get("standard_conforming_strings")
            .is_none_or(|value| **value == *"on");
        let encoding = values
            .get("client_encoding")
            .is_none_or(|value| value.eq_ignore_ascii_case("utf8"));
        if strings && encoding {
            Reading::AsExpected
        } else {
            Reading::Otherwise
        }
    }
}

impl Reported {
    pub fn is_same(&self, other: &Reported) -> bool {
        Rc::ptr_eq(&self.values, &other.values)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| &**value)
    }

    pub fn set(&mut self, name: &str, value: &str) {
        let value = shown(name, value);
        if self.get(name) != Some(value) {
            Rc::make_mut(&mut self.values).insert(Box::from(name), Box::from(value));
            self.reading = Reading::under(&self.values);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Appends a ParameterStatus for what is reported here and otherwise in `known`.
    pub fn tell(&self, known: &Reported, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            if known.get(name) != Some(value) {
                answer::parameter_status(out, name, value);
            }
        }
    }

    /// Takes over what a server reports; equal reports become one copy, so that they are the same the next time.
    pub fn adopt(&mut self, server: &mut Reported) {
        if self.values == server.values {
            server.values = Rc::clone(&self.values);
        } else {
            *self = server.clone();
        }
    }

    /// SQL under these settings means what the reader of SQL takes it for: `standard_conforming_strings` is on and the
    /// client writes UTF-8.
    pub fn reads_as_expected(&self) -> bool {
        self.reading == Reading::AsExpected
    }
}

/// Clients do not see which of the shard's nodes answers them.
fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    match name {
        "in_hot_standby" => "off",
        _ => value,
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Reported {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(entries: T) -> Self {
        let entries = entries
            .into_iter()
            .map(|(name, value)| (Box::from(name), Box::from(shown(name, value))));
        let values = entries.collect();
        Reported {
            reading: Reading::under(&values),
            values: Rc::new(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_brought_from_one_set_to_another() {
        let mut has = Settings::default();
        has.set("work_mem", "'64kB'");
        has.set("datestyle", "iso");
        let mut wanted = Settings::default();
        wanted.set("work_mem", "'1MB'");
        wanted.set("app.tenant", "'x'");
        wanted.set("role", "reader");
        assert_eq!(
            has.statements_to(&wanted).as_deref(),
            Some(
                "RESET \"datestyle\";SET \"app\".\"tenant\" = 'x';SET \"work_mem\" = '1MB';SET ROLE reader;"
            )
        );
        assert_eq!(has.statements_to(&has.clone()), None);
    }

    #[test]
    fn rights_are_given_back_before_anything_is_set_and_taken_on_last() {
        let mut has = Settings::default();
        has.set("role", "reader");
        has.set("lo_compat_privileges", "on");
        assert_eq!(
            has.statements_to(&Settings::default()).as_deref(),
            Some("RESET ROLE;RESET \"lo_compat_privileges\";")
        );
    }

    #[test]
    fn another_session_authorization_needs_the_role_again() {
        let mut has = Settings::default();
        has.set("session_authorization", "one");
        has.set("role", "reader");
        let mut wanted = has.clone();
        wanted.set("session_authorization", "two");
        assert_eq!(
            has.statements_to(&wanted).as_deref(),
            Some(
                "RESET SESSION AUTHORIZATION;RESET ROLE;SET SESSION AUTHORIZATION two;SET ROLE reader;"
            )
        );
    }

    #[test]
    fn reset_all_leaves_the_role() {
        let mut settings = Settings::default();
        settings.set("role", "reader");
        settings.set("work_mem", "'1MB'");
        settings.reset_all();
        assert_eq!(
            (settings.get("role"), settings.get("work_mem")),
            (Some("reader"), None)
        );
    }
}
