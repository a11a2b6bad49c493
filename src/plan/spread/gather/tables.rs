//! The tables of a statement, each once, and where their rows are.

use std::collections::HashSet;

use crate::catalog::{Catalog, Column, Placement, Relation, Resolved, SearchPath};
use crate::plan::data::proven_keys;
use crate::plan::proof::Prover;
use crate::plan::scope::Scope;
use crate::plan::words::ParameterPlaces;
use crate::plan::{KeySet, KeyTuple, Typing};
use crate::sharding::ShardId;
use crate::sql::facts::{Access, Facts, Name, Source};

use super::views::Seen;
use super::{Origin, keys_of};

/// One table of the catalog, with the places where the statement reads it: block and relation.
pub struct Table<'a> {
    pub schema: &'a str,
    pub name: &'a str,
    pub placement: &'a Placement,
    pub columns: Option<&'a [Column]>,
    pub places: Vec<(usize, usize)>,
    /// What the statement calls it, place by place, and views.
    pub aliases: Vec<&'a str>,
    pub readers: Readers,
}

/// Who reads a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// The statement, in the places that it names.
    Statement,
    /// A view, too, or only a view: what the statement says of the table's rows does not hold for all of them.
    View,
}

/// All relations that the statement reads.
pub struct Tables<'a> {
    pub tables: Vec<Table<'a>>,
    /// The names of relations of the system's schemas.
    pub system: Vec<&'a Name>,
}

impl<'a> Tables<'a> {
    /// Also of the views that it reads. `None` when one of them is not a known table, one of these views or of the system's: a temporary table,
    /// a name not known.
    pub fn of(
        facts: &'a Facts,
        views: &'a [Seen<'a>],
        catalog: &'a Catalog,
        search_path: &'a SearchPath,
    ) -> Option<Tables<'a>> {
        let mut found = Tables {
            tables: Vec::new(),
            system: Vec::new(),
        };
        for (block, content) in facts.blocks.iter().enumerate() {
            for (relation, content) in content.relations.iter().enumerate() {
                // Its target is none of what a query reads.
                if content.access == Access::Write {
                    continue;
                }
                if let Source::Table(name) = &content.source {
                    let resolved = catalog.resolve(search_path, name.schema.as_deref(), &name.name);
                    found.add(name, resolved, Some((block, relation)), &content.alias)?;
                }
            }
        }
        for relation in views.iter().flat_map(Seen::relations) {
            if let Source::Table(name) = &relation.source {
                // `pg_catalog` goes without saying.
                let schema = name.schema.as_deref().unwrap_or("pg_catalog");
                let resolved = catalog.resolve(search_path, Some(schema), &name.name);
                found.add(name, resolved, None, &relation.alias)?;
            }
        }
        Some(found)
    }

    fn add(
        &mut self,
        name: &'a Name,
        resolved: Resolved<'a>,
        place: Option<(usize, usize)>,
        alias: &'a str,
    ) -> Option<()> {
        let Resolved::Found { schema, relation } = resolved else {
            return None;
        };
        match relation {
            Relation::System => self.system.push(name),
            Relation::Table { placement, columns } => {
                let same =
                    |table: &&mut Table<'_>| table.schema == schema && *table.name == *name.name;
                let readers = match place {
                    Some(_) => Readers::Statement,
                    None => Readers::View,
                };
                match self.tables.iter_mut().find(same) {
                    Some(table) => {
                        table.places.extend(place);
                        table.aliases.push(alias);
                        if readers == Readers::View {
                            table.readers = readers;
                        }
                    }
                    None => self.tables.push(Table {
                        schema,
                        name: &name.name,
                        placement,
                        columns: columns.as_deref(),
                        places: place.into_iter().collect(),
                        aliases: vec![alias],
                        readers,
                    }),
                }
            }
            // It is among the views.
            Relation::ShardedView => {}
            Relation::Refused(_) => return None,
        }
        Some(())
    }

    /// The one that is configured, or else the shard with the single tables, so that most of them need not travel.
    pub fn shard(&self, catalog: &Catalog) -> ShardId {
        if let Some(configured) = catalog.gather {
            return configured;
        }
        let mut singles = self
            .tables
            .iter()
            .filter_map(|table| match table.placement {
                Placement::Single(shard) => Some(*shard),
                Placement::Sharded { .. } | Placement::Reference => None,
            });
        match singles.next() {
            Some(first) if !singles.any(|other| other == catalog.home) => first,
            _ => catalog.home,
        }
    }

    /// Those whose rows are not all on the shard.
    pub fn fetched(&self, shard: ShardId) -> Vec<&Table<'a>> {
        self.tables
            .iter()
            .filter(|table| !table.is_on(shard))
            .collect()
    }

    pub fn in_place(&self, shard: ShardId) -> super::InPlace {
        if self.tables.iter().any(|table| table.is_on(shard)) {
            super::InPlace::Tables
        } else {
            super::InPlace::Nothing
        }
    }
}

impl Table<'_> {
    /// The columns by which it is sharded, if it is.
    pub fn shard_key(&self) -> &[Box<str>] {
        match self.placement {
            Placement::Sharded { key, .. } => key,
            Placement::Reference | Placement::Single(_) => &[],
        }
    }

    fn is_on(&self, shard: ShardId) -> bool {
        match self.placement {
            Placement::Sharded { .. } => false,
            Placement::Reference => true,
            Placement::Single(other) => *other == shard,
        }
    }
}

/// What is needed to prove which shards hold the rows of a table that matter.
pub struct Sources<'a> {
    scope: Scope<'a>,
    places: ParameterPlaces,
    doubtful: bool,
}

impl<'a> Sources<'a> {
    pub fn new(
        text: &str,
        facts: &'a Facts,
        catalog: &'a Catalog,
        search_path: &'a SearchPath,
    ) -> Sources<'a> {
        let scope = Scope::new(facts, catalog, search_path);
        let places = ParameterPlaces::of(text, &scope, &[]);
        Sources {
            scope,
            places,
            // A key may hide behind another column's name.
            doubtful: !facts.doubts.is_empty(),
        }
    }

    pub fn origin(&self, table: &Table<'_>) -> Origin {
        match table.placement {
            Placement::Single(shard) => Origin::One(*shard),
            Placement::Reference => Origin::Every,
            Placement::Sharded { distribution, key } => match self.keys(table, key) {
                Some(tuples) if !self.doubtful && table.readers == Readers::Statement => {
                    Origin::Keys(keys_of(KeySet {
                        distribution: *distribution,
                        tuples,
                    }))
                }
                _ => Origin::Every,
            },
        }
    }

    /// The keys of all rows that matter, wherever the statement reads the table.
    fn keys<'s>(&'s self, table: &Table<'_>, key: &'s [Box<str>]) -> Option<Vec<KeyTuple>> {
        let mut prover = Prover::new(&self.scope, &self.places).ok()?;
        let mut all = Vec::new();
        let mut present = HashSet::new();
        for place in &table.places {
            let tuples = proven_keys(&mut prover, *place, key).ok()??;
            all.extend(
                tuples
                    .into_iter()
                    .filter(|tuple| present.insert(tuple.clone())),
            );
        }
        let mut operands = all.iter().flat_map(|tuple| &tuple.0);
        operands
            .all(|key| key.typing == Typing::Certain)
            .then_some(all)
    }
}
