//! Which rows of a table are a shard's own, said in its text: while rows move, a shard also has some that another one owns.
//!
//! One condition on one relation is enough. What is spread has an *anchor* (`colocated.rs`): a relation that is in each row of the outermost joins, whose
//! key every other sharded relation is proven to have in all rows that matter. Which rows are foreign depends on the key alone, so when the
//! anchor's foreign rows are left out, no other relation's foreign row can matter. The anchor is in each row of the joins, so WHERE is the place.
//!
//! The condition itself is not in the plan: it is looked up for each shard in the moment in which the shard is asked (`Catalog::foreign_keys`). So a plan
//! that was made before rows began to move leaves them out, too; and while none move, the text is the client's own.

use std::mem::size_of;
use std::ops::Range;

use crate::catalog::{Catalog, DistributionId, quoted_name};
use crate::plan::scope::{Meaning, Scope};
use crate::sharding::ShardId;
use crate::sql::facts::Source;
use crate::sql::select::Select;

use super::edit::{Edit, Piece};

/// The key of a relation, as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnKey {
    pub distribution: DistributionId,
    /// Qualified, and quoted as in SQL.
    columns: Box<[String]>,
}

/// A shard's own rows of a relation, in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRows {
    pub key: OwnKey,
    pub place: Place,
}

/// Where it is said; places in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is no WHERE; it would stand behind this.
    Behind(usize),
    /// The condition of WHERE.
    Where(Range<usize>),
    /// Instead of a table, with its list of columns if there is one, stands a query of these columns of it.
    Table {
        whole: Range<usize>,
        name: Range<usize>,
        columns: Box<str>,
    },
    /// Instead of the table that MERGE reads from stands a query of it, with the table's alias behind it.
    Source {
        name: Range<usize>,
        /// Quoted as in SQL, when none is written.
        alias: Option<Box<str>>,
    },
}

impl OwnKey {
    /// Of a relation of a block; `None`: it is no sharded table, or its name there is not only its own.
    pub fn of(scope: &Scope<'_>, block: usize, relation: usize) -> Option<OwnKey> {
        let Meaning::Sharded { distribution, key } = scope.known(block, relation).meaning else {
            return None;
        };
        let relations = &scope.facts.blocks[block].relations;
        let Source::Table(_) = relations[relation].source else {
            return None;
        };
        let alias = &relations[relation].alias;
        let others = relations.iter().filter(|other| other.alias == *alias);
        (others.count() == 1).then(|| OwnKey::named(distribution, alias, key))
    }

    pub fn named(distribution: DistributionId, alias: &str, key: &[Box<str>]) -> OwnKey {
        let alias = quoted_name(alias);
        let columns = key.iter().map(|column| quoted_name(column));
        OwnKey {
            distribution,
            columns: columns.map(|column| format!("{alias}.{column}")).collect(),
        }
    }

    /// What is true of a shard's own rows; `None`: it has no others. A row with NULL in its key is nobody else's.
    pub fn condition(&self, catalog: &Catalog, shard: ShardId) -> Option<String> {
        let foreign = catalog.foreign_keys(self.distribution, shard)?;
        Some(format!("({}) IS NOT TRUE", foreign.on(&self.columns)))
    }

    pub fn bytes(&self) -> usize {
        let columns = self.columns.iter();
        columns
            .map(|column| size_of::<String>() + column.len())
            .sum()
    }
}

impl OwnRows {
    /// Of the relation that an outermost SELECT hangs on.
    pub fn of_select(
        select: &Select<'_>,
        scope: &Scope<'_>,
        block: usize,
        relation: usize,
    ) -> Option<OwnRows> {
        Some(OwnRows {
            key: OwnKey::of(scope, block, relation)?,
            place: match (&select.selection, &select.from) {
                (Some(condition), _) => Place::Where(select.bytes(condition)),
                (None, Some(from)) => Place::Behind(select.bytes(from).end),
                (None, None) => return None,
            },
        })
    }

    /// From the client's text to a shard's, in order.
    pub fn edits(&self, catalog: &Catalog, shard: ShardId) -> Vec<Edit> {
        let Some(condition) = self.key.condition(catalog, shard) else {
            return Vec::new();
        };
        match &self.place {
            Place::Behind(at) => vec![Edit::insert(*at, format!(" WHERE {condition}"))],
            Place::Where(written) => vec![
                Edit::insert(written.start, format!("{condition} AND (")),
                Edit::insert(written.end, ")"),
            ],
            Place::Table {
                whole,
                name,
                columns,
            } => vec![Edit::pieces(
                whole.clone(),
                vec![
                    Piece::Text(format!("(SELECT {columns} FROM ").into()),
                    Piece::Copy(name.clone()),
                    Piece::Text(format!(" WHERE {condition})").into()),
                ],
            )],
            Place::Source { name, alias } => {
                let alias = alias.as_ref().map(|alias| format!(" AS {alias}"));
                let alias = alias.unwrap_or_default();
                vec![Edit::pieces(
                    name.clone(),
                    vec![
                        Piece::Text("(SELECT * FROM ".into()),
                        Piece::Copy(name.clone()),
                        Piece::Text(format!(" WHERE {condition}){alias}").into()),
                    ],
                )]
            }
        }
    }

    /// Where it is said first.
    pub fn start(&self) -> usize {
        match &self.place {
            Place::Behind(at) => *at,
            Place::Where(written) => written.start,
            Place::Table { whole, .. } => whole.start,
            Place::Source { name, .. } => name.start,
        }
    }

    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        let moved = |range: &mut Range<usize>| *range = to(range.start)..to(range.end);
        match &mut self.place {
            Place::Behind(at) => *at = to(*at),
            Place::Where(written) => moved(written),
            Place::Table { whole, name, .. } => {
                moved(whole);
                moved(name);
            }
            Place::Source { name, .. } => moved(name),
        }
    }

    /// Its size in memory beyond itself, near enough for a limit.
    pub fn bytes(&self) -> usize {
        let place = match &self.place {
            Place::Table { columns, .. } => columns.len(),
            Place::Source { alias, .. } => alias.as_ref().map_or(0, |alias| alias.len()),
            Place::Behind(_) | Place::Where(_) => 0,
        };
        self.key.bytes() + place
    }
}

/// All edits of a shard's text: those that are the same on every shard, and what leaves out the rows of others.
pub fn with_own_rows(
    edits: &[Edit],
    own: Option<&OwnRows>,
    catalog: &Catalog,
    shard: ShardId,
) -> Vec<Edit> {
    let own = own.map(|own| own.edits(catalog, shard));
    let mut all: Vec<Edit> = edits
        .iter()
        .cloned()
        .chain(own.unwrap_or_default())
        .collect();
    // What is put in at a place stands before what replaces the text from there on.
    all.sort_by_key(|edit| (edit.range.start, edit.range.end));
    all
}
