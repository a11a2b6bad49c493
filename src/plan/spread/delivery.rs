//! INSERT ... SELECT whose rows belong elsewhere than what they are made from.
//!
//! The query is gathered, on a connection beside those that store. What it gives is stored there in an empty copy of the table first, so that
//! Postgres itself makes the columns' types of its values, and goes from there to the shards of the rows' keys by COPY. Columns that the
//! statement leaves out get their defaults where the rows arrive; but for numbers of sequences, which the copy of the table takes for each row on
//! the home shard.
//!
//! COPY stores rows as INSERT does, but knows neither ON CONFLICT nor RETURNING, and does nothing where row security is: there each shard gets
//! its rows with an INSERT (`inserting.rs`).

mod inserting;

use std::ops::Range;

use crate::catalog::quoted_name as quoted;
use crate::catalog::{
    Catalog, Column, ColumnDefault, Placement, QualifiedName, Relation, Resolved, Sequences,
};
use crate::plan::functions::may_write;
use crate::plan::insert::Inserted;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::words::ParameterPlaces;
use crate::sharding::{KeyType, ShardId};
use crate::sql::copy::CsvNull;
use crate::sql::facts::{Insert, InsertSource};
use crate::sql::normalise::{Literal, from_normal};
use crate::sql::places::insert_parts;

use super::changes::{Asked, Verbatim};
use super::copy::{CopyKey, ValueOf};
use super::edit::Edit;
use super::gather::{self, CopyFormat, Gather, Needs, Query, travels_in_binary};
use inserting::Inserting;

/// The copy of the table: no name that a client's table may have is like it.
const STAND_IN: &str = "pg_temp.\"trunkline rows\"";

/// Rows from where they are gathered to where they belong.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its text stores the query's rows where they are gathered.
    pub gather: Gather,
    pub schema: Box<str>,
    pub table: Box<str>,
    pub to: Destination,
    way: Way,
    /// The query in the text: it says how many columns there are.
    query: Range<usize>,
    /// Those that rows are given for, or all, of which the query gives the first ones.
    columns: Given,
    /// Those that the list leaves to sequences, in the order of the table; behind the columns that the query gives.
    pub left: Vec<Left>,
}

/// A column that gets a number of the home shard's sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    column: (Box<str>, u32),
    pub sequence: QualifiedName,
}

#[derive(Clone, Debug, PartialEq)]
enum Given {
    Listed(Vec<(Box<str>, u32)>),
    First(Vec<(Box<str>, u32)>),
}

/// How rows are stored.
#[derive(Clone, Debug, PartialEq)]
enum Way {
    Copy,
    Insert(Inserting),
}

/// Where rows are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// On the shards of their keys.
    Keys(CopyKey),
    Shard(ShardId),
}

/// A delivery of as many columns as its query has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub format: CopyFormat,
    /// What makes an empty copy of the table, where the rows are gathered.
    pub create: Vec<String>,
    /// Whether the key is missing in a row; one row with one column, if so. Empty: no row has a key.
    pub without_key: String,
    pub copy_out: String,
    pub copy_in: String,
    /// How the rows are stored when it is not by COPY.
    pub insert: Option<LoadInsert>,
}

/// Rows that are stored by INSERT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadInsert {
    /// The table, and the columns that rows are given for.
    pub table: String,
    pub columns: Vec<Box<str>>,
}

/// `None`: it is no such statement.
pub fn delivered(asked: &Asked<'_>) -> Option<Result<Delivery, Refusal>> {
    let [insert] = &asked.facts.inserts[..] else {
        return None;
    };
    if !matches!(insert.source, InsertSource::Select(_)) || asked.verbatim() != Verbatim::Insert {
        return None;
    }
    let is_about_shards = asked.refusal.is_of_several_shards()
        || [
            Reason::InsertKeyNotKnown,
            Reason::JoinNotColocated,
            Reason::InsertSelectNotColocated,
            Reason::ViewOverSharded,
            Reason::NaturalJoin,
            Reason::SequenceDefault,
        ]
        .iter()
        .any(|reason| reason.kind().id == asked.refusal.id);
    if !is_about_shards {
        return None;
    }
    plan(asked).transpose()
}

fn plan(asked: &Asked<'_>) -> Result<Option<Delivery>, Refusal> {
    let [insert] = &asked.facts.inserts[..] else {
        return Ok(None);
    };
    let name = &insert.table;
    let resolved = (asked.catalog).resolve(asked.search_path, name.schema.as_deref(), &name.name);
    let Resolved::Found {
        schema,
        relation:
            Relation::Table {
                placement,
                columns: Some(columns),
            },
    } = resolved
    else {
        return Ok(None);
    };
    let qualified = (Box::from(schema), name.name.clone());
    if asked.catalog.views.contains_key(&qualified) {
        return Ok(None);
    }
    if asked.target() != Some(name) || !gather::leaves_nothing(asked.facts) {
        return Ok(None);
    }
    let refuse = |why: &str| {
        Err(Refusal::new(
            Reason::InsertSelectNotColocated,
            format!(
                "rows from other shards cannot be brought to table \"{}\": {why}",
                name.name
            ),
        ))
    };
    let range = asked.statement.range.clone();
    let Some(parts) = insert_parts(asked.text, range.clone()) else {
        return refuse(
            "the statement has OVERRIDING USER VALUE, or is not a plain INSERT ... SELECT",
        );
    };
    let is_secured = asked.catalog.details.secured.contains(&qualified);
    let way = match parts.tail.is_some() || is_secured {
        false => Way::Copy,
        true => match Inserting::of(asked, &parts) {
            Ok(inserting) => Way::Insert(inserting),
            Err(why) => return refuse(why),
        },
    };
    let mut left = Vec::new();
    let to = match placement {
        Placement::Reference => return Ok(None),
        Placement::Single(shard) => Destination::Shard(*shard),
        Placement::Sharded { distribution, key } => {
            let places = ParameterPlaces::of(&asked.text[range.clone()], &asked.scope, &[]);
            let target = asked.known(name);
            let inserted = Inserted {
                insert,
                target,
                key,
                scope: &asked.scope,
                places: &places,
            };
            left = left_to_sequences(insert, columns, asked.catalog);
            if left.is_empty() {
                inserted.leaves_nothing_to_a_sequence()?;
            }
            let listed = insert.columns.as_ref().map_or(0, Vec::len);
            let column = |column: &str| -> Result<(ValueOf, KeyType), Refusal> {
                let number = left.iter().position(|left| *left.column.0 == *column);
                let place = match number {
                    Some(number) => listed + number,
                    None => inserted.place(column)?,
                };
                Ok((
                    ValueOf::Row(place, CsvNull::Unquoted),
                    inserted.column_type(column)?,
                ))
            };
            Destination::Keys(CopyKey {
                distribution: *distribution,
                columns: key
                    .iter()
                    .map(|name| column(name))
                    .collect::<Result<_, _>>()?,
            })
        }
    };
    let typed = |column: &Column| (column.name.clone(), column.type_oid);
    let columns = match &insert.columns {
        None => Given::First(columns.iter().map(typed).collect()),
        Some(listed) => {
            let find = |name: &str| columns.iter().find(|column| *column.name == *name);
            match listed.iter().map(|name| find(name).map(typed)).collect() {
                Some(listed) => Given::Listed(listed),
                // The server says which there is not.
                None => return Err(asked.refusal.clone()),
            }
        }
    };
    let mut gather = gather::query(
        Query {
            text: asked.text,
            whole: range,
            query: parts.query.clone(),
            facts: asked.facts,
            needs: Needs::Anyway,
        },
        asked.catalog,
        asked.search_path,
        asked.refusal.clone(),
    )?;
    if !left.is_empty() && !takes_numbers(&gather, asked) {
        return Err(asked.refusal.clone());
    }
    gather.edits.insert(0, Edit::replace(parts.table, STAND_IN));
    if let Some(tail) = parts.tail {
        let rest = parts.query.end..tail.end;
        gather.edits.push(Edit::replace(rest, ""));
    }
    Ok(Some(Delivery {
        gather,
        schema: schema.into(),
        table: name.name.clone(),
        to,
        way,
        query: parts.query,
        columns,
        left,
    }))
}

/// The columns that a list leaves to sequences whose numbers can be taken; none, where one cannot.
fn left_to_sequences(insert: &Insert, columns: &[Column], catalog: &Catalog) -> Vec<Left> {
    let (Some(listed), Sequences::Home) = (&insert.columns, catalog.sequences) else {
        return Vec::new();
    };
    let from_sequence = columns.iter().filter(|column| {
        column.default == ColumnDefault::Sequence && !listed.contains(&column.name)
    });
    let left = from_sequence.map(|column| {
        Some(Left {
            column: (column.name.clone(), column.type_oid),
            sequence: column.numbers.as_ref()?.sequence.clone(),
        })
    });
    left.collect::<Option<_>>().unwrap_or_default()
}

/// Whether the query may run in a transaction that is not READ ONLY, as one is where numbers are taken, and beside the sequences.
fn takes_numbers(gather: &Gather, asked: &Asked<'_>) -> bool {
    let mut functions = asked.facts.functions.iter();
    gather.shard == asked.catalog.home
        && gather.views.is_empty()
        && !functions.any(|function| may_write(&function.name, asked.catalog))
}

impl Left {
    /// Makes the column of the stand-in take numbers.
    fn number(&self) -> String {
        let (schema, name) = &self.sequence;
        let sequence = format!("{}.{}", quoted(schema), quoted(name)).replace('\'', "''");
        format!(
            "ALTER TABLE {STAND_IN} ALTER COLUMN {} SET DEFAULT pg_catalog.nextval('{sequence}'::pg_catalog.regclass)",
            quoted(&self.column.0)
        )
    }

    /// Asks the stand-in for the number that was taken last; no row, if none was.
    pub fn last(&self) -> String {
        format!(
            "SELECT {} FROM {STAND_IN} ORDER BY ctid DESC LIMIT 1",
            quoted(&self.column.0)
        )
    }
}

impl Delivery {
    /// The query in the client's text.
    pub fn query<'t>(&self, text: &'t [u8], literals: &[Literal]) -> &'t [u8] {
        &text[from_normal(self.query.start, literals)..from_normal(self.query.end, literals)]
    }

    pub fn is_for_one(&self) -> bool {
        matches!(self.to, Destination::Shard(_))
    }

    /// What is done when the query has so many columns; `None`: it does not fit.
    pub fn load(&self, columns: usize) -> Option<Load> {
        let given = match &self.columns {
            Given::Listed(listed) if listed.len() == columns => listed,
            Given::First(all) => all.get(..columns)?,
            Given::Listed(_) => return None,
        };
        let numbered = self.left.iter().map(|left| &left.column);
        let given: Vec<&(Box<str>, u32)> = given.iter().chain(numbered).collect();
        let keys: &[(ValueOf, KeyType)] = match &self.to {
            Destination::Keys(key) => &key.columns,
            Destination::Shard(_) => &[],
        };
        let nulls: Option<Vec<String>> = keys
            .iter()
            .map(|(value, _)| match value {
                ValueOf::Row(place, _) => {
                    Some(format!("{} IS NULL", quoted(&given.get(*place)?.0)))
                }
                // Such statements are refused.
                ValueOf::Number(_) => None,
            })
            .collect();
        let nulls = nulls?;
        let names: Vec<String> = given.iter().map(|(name, _)| quoted(name)).collect();
        let names = names.join(", ");
        let table = format!("{}.{}", quoted(&self.schema), quoted(&self.table));
        let insert = match &self.way {
            Way::Copy => None,
            Way::Insert(_) => Some(LoadInsert {
                table: table.clone(),
                columns: given.iter().map(|(name, _)| name.clone()).collect(),
            }),
        };
        // Of other types it is asked before they are stored by INSERT.
        let format = match given.iter().all(|(_, oid)| travels_in_binary(*oid)) || insert.is_some()
        {
            true => CopyFormat::Binary,
            false => CopyFormat::Text,
        };
        Some(Load {
            format,
            create: std::iter::once(format!(
                "CREATE TEMPORARY TABLE {STAND_IN} ON COMMIT DROP AS SELECT {names} FROM {table} WITH NO DATA"
            ))
            .chain(self.left.iter().map(Left::number))
            .collect(),
            without_key: match &nulls[..] {
                [] => String::new(),
                nulls => format!(
                    "SELECT 'NULL' FROM {STAND_IN} WHERE {} LIMIT 1",
                    nulls.join(" OR ")
                ),
            },
            copy_out: format!(
                "COPY {STAND_IN} ({names}) TO STDOUT (FORMAT {})",
                format.name()
            ),
            copy_in: format!(
                "COPY {table} ({names}) FROM STDIN (FORMAT {})",
                format.name()
            ),
            insert,
        })
    }

    /// The INSERT that stores the rows which the parameter of this number has; `None`: they are stored by COPY.
    pub fn insert(
        &self,
        load: &LoadInsert,
        parameter: usize,
        text: &[u8],
        literals: &[Literal],
    ) -> Option<Vec<u8>> {
        let Way::Insert(inserting) = &self.way else {
            return None;
        };
        let columns: Vec<&str> = load.columns.iter().map(|name| &**name).collect();
        let numbered = !self.left.is_empty();
        Some(inserting.text(&load.table, &columns, parameter, (text, literals), numbered))
    }

    pub(super) fn describe(&self, text: &str, catalog: &crate::catalog::Catalog) -> String {
        let gathered = self.gather.describe(text, catalog);
        let to = match &self.to {
            Destination::Keys(_) => "the shards of the rows' keys".to_owned(),
            Destination::Shard(shard) => format!("shard {}", catalog.shards[shard.index()]),
        };
        let mut stored = format!("{gathered}\nstores  on {to}");
        for left in &self.left {
            let (schema, name) = &left.sequence;
            stored += &format!("\nnumbers of {schema}.{name}");
        }
        match &self.way {
            Way::Copy => stored,
            Way::Insert(inserting) => format!("{stored}\n{}", inserting.describe(text)),
        }
    }

    pub(super) fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        self.gather.move_places(to);
        self.query = to(self.query.start)..to(self.query.end);
        if let Way::Insert(inserting) = &mut self.way {
            inserting.move_places(to);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        /// A box with a name.
        const NAME: usize = 64;
        let (Given::Listed(columns) | Given::First(columns)) = &self.columns;
        self.gather.bytes() + (columns.len() + 4 * self.left.len() + 4) * NAME
    }
}
