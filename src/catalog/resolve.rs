//! A name, as a statement writes it, to the relation it means.

use super::{Catalog, QualifiedName, Relation, SchemaState, SearchPath, SpreadView};

/// What a name means along a search path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolved<'a> {
    /// The relation, and the schema it was found in.
    Found {
        schema: &'a str,
        relation: &'a Relation,
    },
    /// `pg_temp.name`: a temporary table of the session, if it exists.
    Temporary,
    /// No schema that is looked in has it. While the servers' definitions have not been read it may still exist.
    Unknown,
}

const SYSTEM: &str = "pg_catalog";

impl Catalog {
    /// Looks a folded name up as `RangeVarGetRelid` does in `namespace.c`: a schema that is written decides alone; otherwise
    /// `pg_catalog` comes first unless the path names it, then the schemas of the path in their order.
    ///
    /// A session's own temporary tables, which hide all others, are not known here.
    pub fn resolve<'a>(
        &'a self,
        path: &'a SearchPath,
        schema: Option<&'a str>,
        name: &str,
    ) -> Resolved<'a> {
        match schema {
            Some(schema) if is_temporary(schema) => Resolved::Temporary,
            // The system's schemas hold nothing that differs between shards; a wrong name there is the server's to refuse.
            Some(schema @ (SYSTEM | "information_schema")) => Resolved::Found {
                schema,
                relation: &Relation::System,
            },
            Some(schema) => self.find(schema, name).unwrap_or(Resolved::Unknown),
            None => self.along(path, name),
        }
    }

    /// The view of rows of several shards that a name means.
    pub fn spread_view(
        &self,
        path: &SearchPath,
        schema: Option<&str>,
        name: &str,
    ) -> Option<&SpreadView> {
        if self.views.is_empty() {
            return None;
        }
        match self.resolve(path, schema, name) {
            Resolved::Found { schema, .. } => self.views.get(&(schema.into(), name.into())),
            Resolved::Temporary | Resolved::Unknown => None,
        }
    }

    /// The sequence that a name means along a search path; what is no sequence but hides one is an error of the server's.
    pub fn sequence(
        &self,
        path: &SearchPath,
        schema: Option<&str>,
        name: &str,
    ) -> Option<QualifiedName> {
        let in_schema = |schema: &str| (Box::from(schema), Box::from(name));
        let is_known = |name: &QualifiedName| self.known_sequences.contains(name);
        if let Some(schema) = schema {
            return Some(in_schema(schema)).filter(is_known);
        }
        let places = path.0.iter().map(|schema| in_schema(schema));
        let mut taken = places.filter(|name| is_known(name) || self.relations.contains_key(name));
        taken.next().filter(is_known)
    }

    fn along<'a>(&'a self, path: &'a SearchPath, name: &str) -> Resolved<'a> {
        let names_system = path.0.iter().any(|schema| &**schema == SYSTEM);
        let implied = (!names_system).then_some(SYSTEM);
        let written = path
            .0
            .iter()
            .map(|schema| &**schema)
            .filter(|schema| !is_temporary(schema));
        implied
            .into_iter()
            .chain(written)
            .find_map(|schema| self.find(schema, name))
            .unwrap_or(Resolved::Unknown)
    }

    fn find<'a>(&'a self, schema: &'a str, name: &str) -> Option<Resolved<'a>> {
        match self.relations.get(&(schema.into(), name.into())) {
            Some(relation) => Some(Resolved::Found { schema, relation }),
            // Every relation of pg_catalog is named so; which of them exist is known once the definitions have been read.
            None if schema == SYSTEM
                && self.schema == SchemaState::Unread
                && name.starts_with("pg_") =>
            {
                Some(Resolved::Found {
                    schema,
                    relation: &Relation::System,
                })
            }
            None => None,
        }
    }
}

/// `pg_temp`, or the schema behind it (`pg_temp_3`).
fn is_temporary(schema: &str) -> bool {
    schema == "pg_temp" || schema.starts_with("pg_temp_")
}
