//! Statements about publications, for whoever has a connection that SQL can be sent on. Pure.
//! A stream finds a publication in the catalogs as they were at each change, so it must be made before the slot.

use super::command::{PublicationName, identifier};

/// As what changes of a partition are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// As the partition's own.
    Leaves,
    /// As its root's, with the root's columns (`publish_via_partition_root`).
    Root,
}

/// CREATE PUBLICATION for these tables, each a schema and a name, and for every kind of change. Without tables it publishes nothing
/// but logical messages.
pub fn create(name: &PublicationName, tables: &[(&str, &str)], partitions: Partitions) -> String {
    let mut text = format!("CREATE PUBLICATION {}", identifier(name.as_str()));
    if !tables.is_empty() {
        let tables = tables
            .iter()
            .map(|(schema, table)| format!("{}.{}", identifier(schema), identifier(table)));
        text.push_str(" FOR TABLE ");
        text.push_str(&tables.collect::<Vec<_>>().join(", "));
    }
    if partitions == Partitions::Root {
        text.push_str(" WITH (publish_via_partition_root = true)");
    }
    text
}

/// DROP PUBLICATION; there may be none.
pub fn drop(name: &PublicationName) -> String {
    format!("DROP PUBLICATION IF EXISTS {}", identifier(name.as_str()))
}
