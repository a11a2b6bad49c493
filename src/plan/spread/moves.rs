//! UPDATE that assigns the shard key: rows move. They are deleted where they are, with what they become as the rows of RETURNING, and inserted
//! where their new key belongs.
//!
//! Postgres itself computes what a row becomes, in the very DELETE that locks it. All rows get one key, a literal or parameter, so that no row can come
//! to stand where another of the statement was: deleting first cannot hide what a unique index would have complained of. A table on which a
//! DELETE and an INSERT do something else than an UPDATE (triggers, foreign keys that refer to it, row security) keeps its rows.

use std::ops::Range;

use crate::catalog::{Catalog, ColumnDefault, Placement, Relation, Resolved};
use crate::plan::bind::each_key;
use crate::plan::proof::{Proof, Prover, key_operand};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Meaning, Node};
use crate::plan::words::ParameterPlaces;
use crate::plan::{Arity, KeyOperand, KeySet, KeyTuple, Target, Values, Verb};
use crate::sharding::{KeyValue, ShardId};
use crate::sql::facts::{Assignment, Operand};
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::normalise::Literal;
use crate::sql::places::{UpdateParts, update_parts};

use super::changes::{Asked, Others, Verbatim};
use super::edit::{self, Edit, Piece};
use super::own_rows::OwnKey;

/// Rows that get another key.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The keys that rows may have now, always a `Target::Keys`; `None`: any.
    from: Option<Target>,
    /// The key that they get.
    to: Target,
    /// How they move, unless they turn out to stay.
    pub way: Result<Way, Refusal>,
}

/// The statement in two parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Gives the rows as they become.
    delete: Edit,
    /// Stores one, whose values are the parameters.
    insert: Edit,
    /// Which rows a shard leaves out while some move, and where among the pieces of the DELETE its condition stands or would stand.
    own: OwnKey,
    condition: Range<usize>,
}

/// Where rows are and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// They keep their key.
    Stay(ShardId),
    Move {
        /// In their order.
        from: Vec<ShardId>,
        to: ShardId,
    },
}

/// `None`: it is no such statement.
pub fn moved(asked: &Asked<'_>) -> Option<Result<Move, Refusal>> {
    let [assignment] = &asked.facts.assignments[..] else {
        return None;
    };
    if asked.verbatim() != Verbatim::Update
        || asked.refusal.id != Reason::KeyUpdate.kind().id
        || asked.target() != Some(&assignment.table)
    {
        return None;
    }
    Some(plan(asked, assignment))
}

fn plan(asked: &Asked<'_>, assignment: &Assignment) -> Result<Move, Refusal> {
    let name = &assignment.table;
    let Meaning::Sharded { distribution, key } = asked.meaning(name) else {
        return Err(asked.refusal.clone());
    };
    if asked
        .catalog
        .spread_view(asked.search_path, name.schema.as_deref(), &name.name)
        .is_some()
    {
        return Err(refused(&name.name, "it is assigned by way of a view"));
    }
    asked.others(Others::SharedOnly)?;
    let text = &asked.text[asked.statement.range.clone()];
    let places = ParameterPlaces::of(text, &asked.scope, &[]);
    let mut prover = Prover::new(&asked.scope, &places)?;
    let now: Option<Vec<Vec<KeyOperand>>> = key
        .iter()
        .map(|column| {
            let node = Node::Column {
                block: 0,
                relation: 0,
                column,
            };
            match prover.column(node) {
                Proof::Values(values) => Some(values),
                Proof::Null | Proof::Nothing => None,
            }
        })
        .collect();
    let target = |tuples: Vec<KeyTuple>| Target::Keys {
        sets: vec![KeySet {
            distribution,
            tuples,
        }],
        also: None,
        verb: Verb::Update,
    };
    let mut becomes = Vec::with_capacity(key.len());
    for (place, column) in key.iter().enumerate() {
        let assigned = assignment.columns.iter().position(|known| known == column);
        let value = match (assigned, &now) {
            (Some(assigned), _) => asked.assigned(assignment, assigned, &places),
            // It stays as the conditions have it.
            (None, Some(now)) => match &now[place][..] {
                [only] if only.arity == Arity::One => Some(only.clone()),
                _ => None,
            },
            (None, None) => None,
        };
        becomes.push(value.ok_or_else(|| {
            refused(
                &name.name,
                &format!("\"{column}\" does not become one literal or parameter in all rows"),
            )
        })?);
    }
    if becomes.iter().any(|key| key.operand == Operand::Null) {
        let message = format!(
            "a key column of sharded table \"{}\" would be NULL",
            name.name
        );
        return Err(Refusal::new(Reason::NullKey, message));
    }
    let may_stay = now
        .iter()
        .all(|now| now.iter().all(|column| column.len() == 1))
        && now.is_some();
    let from = match now {
        Some(now) => Some(target(crate::plan::data::combinations(now)?)),
        None => None,
    };
    let way = way(asked, assignment, key);
    match way {
        Err(refusal) if !may_stay => Err(refusal),
        way => Ok(Move {
            from,
            to: target(vec![KeyTuple(becomes)]),
            way,
        }),
    }
}

impl Asked<'_> {
    /// The value that a key column gets.
    fn assigned(
        &self,
        assignment: &Assignment,
        place: usize,
        places: &ParameterPlaces,
    ) -> Option<KeyOperand> {
        let operand = &assignment.values[place];
        let target = self.scope.known(0, 0);
        let column_type = target.type_of(&assignment.columns[place], self.catalog)?;
        if *operand == Operand::Null {
            return Some(KeyOperand {
                operand: Operand::Null,
                column_type,
                arity: Arity::One,
                typing: crate::plan::Typing::Certain,
            });
        }
        key_operand(operand, column_type, Arity::One, places)
    }
}

fn refused(table: &str, why: &str) -> Refusal {
    Refusal::new(
        Reason::KeyUpdate,
        format!("rows of sharded table \"{table}\" cannot move to another shard: {why}"),
    )
}

/// The statement in two parts, if they come to the same.
fn way(asked: &Asked<'_>, assignment: &Assignment, key: &[Box<str>]) -> Result<Way, Refusal> {
    let name = &assignment.table;
    let refused = |why: &str| refused(&name.name, why);
    let resolved = (asked.catalog).resolve(asked.search_path, name.schema.as_deref(), &name.name);
    let Resolved::Found {
        schema,
        relation:
            Relation::Table {
                placement: Placement::Sharded { .. },
                columns: Some(columns),
            },
    } = resolved
    else {
        return Err(refused("its definition has not been read"));
    };
    let qualified = (Box::from(schema), name.name.clone());
    let details = &asked.catalog.details;
    if let Some(why) = details.tied.get(&qualified) {
        return Err(refused(why));
    }
    let distinct = details.distinct.get(&qualified);
    let is_distinct = |column: &str| {
        let is_it = |known: &Option<Box<str>>| known.as_deref().is_none_or(|known| known == column);
        !key.iter().any(|key| **key == *column)
            && distinct.is_some_and(|distinct| distinct.iter().any(is_it))
    };
    if let Some(column) = assignment.columns.iter().find(|column| is_distinct(column)) {
        return Err(refused(&format!(
            "a unique index may look at \"{column}\", which is assigned too"
        )));
    }
    if asked.facts.blocks.len() > 1 {
        return Err(refused("the statement has a subquery"));
    }
    let range = asked.statement.range.clone();
    let parts = update_parts(asked.text, range.clone())
        .ok_or_else(|| refused("the statement is not a plain UPDATE of one table"))?;
    if has_parameter(asked.text, parts.returning.clone()) {
        return Err(refused("RETURNING has a parameter"));
    }
    let stored: Vec<&str> = columns
        .iter()
        .filter(|column| column.default != ColumnDefault::Generated)
        .map(|column| &*column.name)
        .collect();
    let own = OwnKey::of(&asked.scope, 0, 0)
        .ok_or_else(|| refused("the statement is not a plain UPDATE of one table"))?;
    let (delete, condition) = delete(&parts, &stored);
    Ok(Way {
        delete: Edit::pieces(range.clone(), delete),
        insert: Edit::pieces(range, insert(&parts, &stored)),
        own,
        condition,
    })
}

fn has_parameter(text: &str, range: Option<Range<usize>>) -> bool {
    let Some(range) = range else { return false };
    let mut lexer = Lexer::new(&text.as_bytes()[range]);
    while let Ok(Some(lexeme)) = lexer.next() {
        if lexeme.kind == Kind::Param {
            return true;
        }
    }
    false
}

fn text(text: impl Into<Box<str>>) -> Piece {
    Piece::Text(text.into())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `DELETE FROM t AS x WHERE .. RETURNING` what each column becomes; the pieces of them that are WHERE.
fn delete(parts: &UpdateParts, columns: &[&str]) -> (Vec<Piece>, Range<usize>) {
    let mut pieces = vec![text("DELETE FROM "), Piece::Copy(parts.name.clone())];
    if let Some(alias) = &parts.alias {
        pieces.extend([text(" AS "), Piece::Copy(alias.clone())]);
    }
    let start = pieces.len();
    if let Some(condition) = &parts.condition {
        pieces.extend([text(" WHERE "), Piece::Copy(condition.clone())]);
    }
    let condition = start..pieces.len();
    let mut word = " RETURNING ";
    for column in columns {
        pieces.push(text(word));
        let mut assigned = parts.assigned.iter();
        match assigned.find(|(assigned, _)| **assigned == **column) {
            Some((_, value)) => {
                pieces.extend([text("("), Piece::Copy(value.clone()), text(")")]);
            }
            None => pieces.push(text(quoted(column))),
        }
        word = ", ";
    }
    (pieces, condition)
}

/// `INSERT INTO t AS x (..) VALUES ($1, ..) RETURNING ..`
fn insert(parts: &UpdateParts, columns: &[&str]) -> Vec<Piece> {
    let mut pieces = vec![text("INSERT INTO "), Piece::Copy(parts.name.clone())];
    if let Some(alias) = &parts.alias {
        pieces.extend([text(" AS "), Piece::Copy(alias.clone())]);
    }
    let names: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let values: Vec<String> = (1..=columns.len())
        .map(|number| format!("${number}"))
        .collect();
    // An identity column keeps its number.
    pieces.push(text(format!(
        " ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        names.join(", "),
        values.join(", ")
    )));
    if let Some(returning) = &parts.returning {
        pieces.extend([text(" RETURNING "), Piece::Copy(returning.clone())]);
    }
    pieces
}

impl Move {
    /// `all`: the shards that may have rows of the table.
    pub fn course(
        &self,
        catalog: &Catalog,
        values: &Values<'_>,
        all: impl FnOnce() -> Vec<ShardId>,
    ) -> Result<Course, Refusal> {
        let keys = |target: &Target| {
            let mut keys: Vec<(Vec<KeyValue>, ShardId)> = Vec::new();
            each_key(target, catalog, values, |_, key, location| {
                keys.push((key.to_vec(), location.shard));
                Ok(())
            })
            .map(|()| keys)
        };
        let to = keys(&self.to)?;
        let Some((new, to)) = to.first() else {
            return Err(refused("", "its key is not known"));
        };
        let from = match &self.from {
            None => all(),
            Some(from) => {
                let from = keys(from)?;
                if let [(old, shard)] = &from[..]
                    && old == new
                {
                    return Ok(Course::Stay(*shard));
                }
                let mut shards: Vec<ShardId> = from.iter().map(|(_, shard)| *shard).collect();
                shards.sort_unstable();
                shards.dedup();
                shards
            }
        };
        Ok(Course::Move { from, to: *to })
    }

    pub(super) fn describe(&self, text: &str) -> String {
        let from = match &self.from {
            None => "every shard",
            Some(_) => "the shards of their keys",
        };
        let Ok(way) = &self.way else {
            return "goes    to the shard of its key, which it keeps".to_owned();
        };
        let shown = |part: Vec<u8>| String::from_utf8_lossy(&part).into_owned();
        format!(
            "goes    from {from} to the shard of the new key\ndelete  {}\ninsert  {}",
            shown(way.delete(text.as_bytes(), &[])),
            shown(way.insert(text.as_bytes(), &[]))
        )
    }

    pub(super) fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        if let Ok(way) = &mut self.way {
            way.delete.move_places(to);
            way.insert.move_places(to);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        /// Operands of a key.
        const KEY: usize = 256;
        let way = self.way.as_ref();
        let bytes = |way: &Way| way.delete.bytes() + way.insert.bytes() + way.own.bytes();
        way.map_or(0, bytes) + 2 * KEY
    }
}

impl Way {
    pub fn delete(&self, text: &[u8], literals: &[Literal]) -> Vec<u8> {
        let whole = self.delete.range.clone();
        edit::apply(std::slice::from_ref(&self.delete), whole, text, literals)
    }

    /// The same on a shard, which may have rows that another one owns.
    pub fn delete_own(
        &self,
        catalog: &Catalog,
        shard: ShardId,
        of: &[u8],
        literals: &[Literal],
    ) -> Vec<u8> {
        let Some(own) = self.own.condition(catalog, shard) else {
            return self.delete(of, literals);
        };
        let (before, rest) = self.delete.with.split_at(self.condition.start);
        let (written, behind) = rest.split_at(self.condition.len());
        let mut pieces = before.to_vec();
        pieces.push(text(format!(" WHERE {own}")));
        // Behind the word itself.
        if let Some((_, written)) = written.split_first() {
            pieces.push(text(" AND ("));
            pieces.extend_from_slice(written);
            pieces.push(text(")"));
        }
        pieces.extend_from_slice(behind);
        let whole = self.delete.range.clone();
        edit::apply(&[Edit::pieces(whole.clone(), pieces)], whole, of, literals)
    }

    pub fn insert(&self, text: &[u8], literals: &[Literal]) -> Vec<u8> {
        let whole = self.insert.range.clone();
        edit::apply(std::slice::from_ref(&self.insert), whole, text, literals)
    }
}
