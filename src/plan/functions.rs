//! Functions that bind a statement to a place: they read what the text does not name, or use what only the home shard keeps.

use crate::catalog::{Catalog, Sequences};
use crate::sql::facts::Facts;

use super::refusal::{Reason, Refusal};

/// Those of one statement, one of each kind.
#[derive(Clone, Copy, Default)]
pub struct Functions<'a> {
    /// May read any table.
    pub opaque: Option<&'a str>,
    /// Uses a sequence.
    pub sequence: Option<&'a str>,
    /// Uses what the home shard keeps for the whole cluster.
    pub home: Option<&'a str>,
}

/// Built-in functions that run the query, or read the table, that their text argument names.
const OPAQUE: [&str; 14] = [
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "cursor_to_xml",
    "ts_stat",
    "ts_rewrite",
    "crosstab",
];

pub const SEQUENCE: [&str; 4] = ["nextval", "setval", "currval", "lastval"];

impl<'a> Functions<'a> {
    pub fn of(facts: &'a Facts, catalog: &Catalog) -> Functions<'a> {
        let mut found = Functions::default();
        for function in &facts.functions {
            let name = &*function.name;
            if is_opaque(name, catalog) {
                found.opaque = Some(name);
            } else if SEQUENCE.contains(&name) {
                found.sequence = Some(name);
            } else if is_at_home(name) {
                found.home = Some(name);
            }
        }
        found
    }

    pub fn no_sequence_away_from_home(&self, catalog: &Catalog) -> Result<(), Refusal> {
        match (self.sequence, catalog.sequences) {
            (Some(function), Sequences::Home | Sequences::Refused) => Err(Refusal::new(
                Reason::Sequence,
                format!("{function}() in a statement that does not run on the home shard"),
            )),
            (_, Sequences::PerShard) | (None, _) => Ok(()),
        }
    }
}

/// May read or write any table.
pub fn is_opaque(name: &str, catalog: &Catalog) -> bool {
    OPAQUE.contains(&name) || catalog.opaque_functions.contains(name)
}

/// May change what the end of the transaction makes last. Sequences do not wait for it, and locks end with it or with the session.
pub fn may_write(name: &str, catalog: &Catalog) -> bool {
    is_opaque(name, catalog) || name == "pg_notify" || is_large_object(name)
}

/// Uses what only the home shard keeps, sequences included.
pub fn is_bound_to_home(name: &str) -> bool {
    SEQUENCE.contains(&name) || is_at_home(name)
}

fn is_at_home(name: &str) -> bool {
    name == "pg_notify" || is_advisory_lock(name) || is_large_object(name)
}

fn is_advisory_lock(name: &str) -> bool {
    name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_")
}

fn is_large_object(name: &str) -> bool {
    name.starts_with("lo_") || matches!(name, "loread" | "lowrite")
}

pub fn home_only(function: &str) -> Refusal {
    Refusal::new(
        Reason::HomeOnly,
        format!("{function}() belongs to the home shard, the statement's tables do not"),
    )
}
