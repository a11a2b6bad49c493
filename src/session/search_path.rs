//! The schemas in which a session's unqualified names are looked up.

use std::rc::Rc;

use super::Session;
use super::parse_scope::Given;

/// What Postgres uses unless told otherwise.
const DEFAULT: &str = "\"$user\", public";

/// Reads a list of schemas as Postgres's `SplitIdentifierString` does; `"$user"` becomes the user's name.
pub fn parse(list: &str, user: &str) -> Vec<Box<str>> {
    let mut schemas = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(text) => quoted(text, '"'),
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim_end().to_ascii_lowercase(), &rest[end..])
            }
        };
        schemas.push(resolved(&name, user));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    schemas
}

/// The text up to the closing quote, doubled quotes made one, and what follows.
fn quoted(mut rest: &str, quote: char) -> (String, &str) {
    let mut name = String::new();
    while let Some(end) = rest.find(quote) {
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(after) => {
                name.push(quote);
                rest = after;
            }
            None => return (name, rest),
        }
    }
    name.push_str(rest);
    (name, "")
}

/// As SET takes it: each name quoted by itself, and no name at all as an empty one, which no schema has.
pub fn as_source(schemas: &[Box<str>]) -> String {
    if schemas.is_empty() {
        return "''".to_owned();
    }
    let quoted = schemas
        .iter()
        .map(|schema| format!("\"{}\"", schema.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(", ")
}

fn resolved(name: &str, user: &str) -> Box<str> {
    if name == "$user" {
        Box::from(user)
    } else {
        Box::from(name)
    }
}

/// The schemas of a path given as SQL, or of a fresh connection's.
pub fn effective(source: Option<&str>, server: Option<&str>, user: &str) -> Vec<Box<str>> {
    match source {
        None => parse(server.unwrap_or(DEFAULT), user),
        Some(source) => from_source(source, user),
    }
}

impl Session {
    fn given(&self) -> Given<'_> {
        Given {
            user: &self.user.server_user,
            server_search_path: self.server_search_path.as_deref(),
            settings: &self.settings,
            local: &self.local,
        }
    }

    /// The role that statements run as.
    pub(super) fn current_user(&self) -> Box<str> {
        self.given().current_user()
    }

    /// The path, and what else bears on the meaning of statements, after the session's settings have changed.
    pub(super) fn find_search_path(&mut self) {
        let scope = self.database.parse_scopes.borrow_mut().of(&self.given());
        if !Rc::ptr_eq(&self.scope, &scope) {
            self.search_path = scope.search_path.clone();
            self.scope = scope;
        }
    }
}

/// From the text behind `SET search_path =`: names and string literals between commas. A single literal holds one name, as in Postgres.
fn from_source(source: &str, user: &str) -> Vec<Box<str>> {
    let mut schemas = Vec::new();
    let mut rest = source.trim_start();
    while !rest.is_empty() {
        let (name, after) = match (rest.strip_prefix('\''), rest.strip_prefix('"')) {
            (Some(text), _) => quoted(text, '\''),
            (_, Some(text)) => quoted(text, '"'),
            _ => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim_end().to_ascii_lowercase(), &rest[end..])
            }
        };
        schemas.push(resolved(&name, user));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_postgres_reads_it() {
        let schemas = parse("\"$user\", public,Sales , \"Odd, \"\"name\"", "ann");
        assert_eq!(
            schemas.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["ann", "public", "sales", "Odd, \"name"]
        );
    }

    #[test]
    fn a_setting_is_read_from_its_source() {
        let schemas = from_source("'it''s', Public, \"X\"", "ann");
        assert_eq!(
            schemas.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["it's", "public", "X"]
        );
    }
}
