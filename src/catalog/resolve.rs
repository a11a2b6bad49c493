//! A name, as a statement writes it, to the relation it means.

use super::Relation;

/// What a name means along a search path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolved<'a> {
    /// The relation, and the schema it was found in.
    Found {
        schema: &'a str,
        relation: &'a Relation,
    },
    /// In `pg_catalog` or `information_schema`.
    System,
    /// `pg_temp.name`: a temporary table of the session, if it exists.
    Temporary,
    /// No schema of the path has it (or the definitions have not been read, and it is not configured).
    Unknown,
}
