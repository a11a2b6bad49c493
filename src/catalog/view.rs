//! Places views by what they read, and keeps the definitions of those that read rows of several shards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::assemble::plain;
use super::schema::{Barrier, Definition, Functions, Kind, Rights, Rules, Schema, View};
use super::{Column, Placement, QualifiedName, Relation};
use crate::sharding::ShardId;

/// A view, not a materialised one, that reads rows of several shards.
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadView {
    /// Its query, with a schema before every name outside `pg_catalog`.
    pub query: Box<str>,
    /// The tables and views that it reads directly.
    pub reads: Vec<QualifiedName>,
    pub columns: Arc<[Column]>,
    pub rights: Rights,
    pub barrier: Barrier,
    pub writes: Writes,
}

/// What UPDATE and DELETE of a view come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Something that is not known: its rules or triggers decide, or it is not known what it is made of.
    Elsewhere,
    /// What they come to on the one table it reads, if the server allows them.
    AsToTable,
}

/// Those of the views that several shards have rows for. What writing to them comes to is not looked at here, only where it surely is not known.
pub(super) fn spread(
    relations: &HashMap<QualifiedName, Relation>,
    schema: &Schema,
) -> HashMap<QualifiedName, SpreadView> {
    let sharded = schema
        .relations
        .iter()
        .filter(|(name, _)| relations.get(*name) == Some(&Relation::ShardedView));
    let views = sharded.filter_map(|(name, definition)| match &definition.kind {
        Kind::View(view) if view.functions == Functions::Known => {
            let ruled = view.rules == Rules::Some || schema.details.triggered.contains(name);
            let spread = SpreadView {
                query: view.query.clone(),
                reads: view.relations.clone(),
                columns: plain(&definition.columns).unwrap_or_default(),
                rights: view.rights,
                barrier: view.barrier,
                writes: if ruled {
                    Writes::Elsewhere
                } else {
                    Writes::AsToTable
                },
            };
            Some((name.clone(), spread))
        }
        _ => None,
    });
    views.collect()
}

/// Every view of the schema; `tables` are placed already.
pub(super) fn place(
    tables: &HashMap<QualifiedName, Relation>,
    schema: &Schema,
    home: ShardId,
) -> HashMap<QualifiedName, Relation> {
    let mut views = Views {
        tables,
        schema,
        home,
        placed: HashMap::new(),
        open: HashSet::new(),
    };
    for (name, definition) in &schema.relations {
        views.relation(name, definition);
    }
    views.placed
}

/// Where the rows are that something reads, from the least to the most far-reaching.
#[derive(Clone, Debug, PartialEq)]
enum Reach {
    /// Only tables of the system, or none.
    Nothing,
    /// Only reference tables.
    Reference,
    /// One shard has all of them.
    One(ShardId),
    Many,
    Refused(Arc<str>),
}

impl Reach {
    /// Where the rows of both are.
    fn and(self, other: Reach) -> Reach {
        match (self, other) {
            (Reach::Refused(why), _) | (_, Reach::Refused(why)) => Reach::Refused(why),
            (Reach::Many, _) | (_, Reach::Many) => Reach::Many,
            (Reach::One(shard), Reach::One(other)) if shard != other => Reach::Many,
            (Reach::One(shard), _) | (_, Reach::One(shard)) => Reach::One(shard),
            (Reach::Reference, _) | (_, Reach::Reference) => Reach::Reference,
            (Reach::Nothing, Reach::Nothing) => Reach::Nothing,
        }
    }

    fn of(relation: &Relation) -> Reach {
        match relation {
            Relation::Table {
                placement: Placement::Sharded { .. },
                ..
            }
            | Relation::ShardedView => Reach::Many,
            Relation::Table {
                placement: Placement::Reference,
                ..
            } => Reach::Reference,
            Relation::Table {
                placement: Placement::Single(shard),
                ..
            } => Reach::One(*shard),
            Relation::Refused(why) => Reach::Refused(why.clone()),
            Relation::System => Reach::Nothing,
        }
    }
}

struct Views<'a> {
    tables: &'a HashMap<QualifiedName, Relation>,
    schema: &'a Schema,
    home: ShardId,
    placed: HashMap<QualifiedName, Relation>,
    /// Views being placed: rules can be made to form a circle.
    open: HashSet<QualifiedName>,
}

impl Views<'_> {
    /// The reach of a relation; a view is placed on the way.
    fn relation(&mut self, name: &QualifiedName, definition: &Definition) -> Reach {
        let (Kind::View(view) | Kind::Materialised(view)) = &definition.kind else {
            return self.tables.get(name).map_or(Reach::Many, Reach::of);
        };
        if let Some(placed) = self.placed.get(name) {
            return Reach::of(placed);
        }
        if !self.open.insert(name.clone()) {
            return Reach::Many;
        }
        let reach = match (&definition.kind, self.reads(view)) {
            // Each shard stores the rows of its own last refresh.
            (Kind::Materialised(_), Reach::Reference) => Reach::Many,
            (_, reach) => reach,
        };
        let placement = match reach {
            Reach::Nothing => Ok(Placement::Single(self.home)),
            Reach::Reference => Ok(Placement::Reference),
            Reach::One(shard) => Ok(Placement::Single(shard)),
            Reach::Many => Err(Relation::ShardedView),
            Reach::Refused(why) => Err(Relation::Refused(
                format!("view {}.{}: {why}", name.0, name.1).into(),
            )),
        };
        let relation = match placement {
            Ok(placement) => Relation::Table {
                placement,
                columns: plain(&definition.columns),
            },
            Err(relation) => relation,
        };
        self.open.remove(name);
        let reach = Reach::of(&relation);
        self.placed.insert(name.clone(), relation);
        reach
    }

    fn reads(&mut self, view: &View) -> Reach {
        let functions = match view.functions {
            Functions::Known => Reach::Nothing,
            Functions::Opaque => Reach::Many,
        };
        let schema = self.schema;
        view.relations.iter().fold(functions, |reach, name| {
            // A relation that vanished between two readings cannot be judged.
            let read = schema
                .relations
                .get(name)
                .map_or(Reach::Many, |definition| self.relation(name, definition));
            reach.and(read)
        })
    }
}
