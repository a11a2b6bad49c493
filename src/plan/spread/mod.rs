//! Statements whose rows are on several shards: how the shards' work adds up to what one Postgres with all rows would give.
//!
//! Pure, like the rest of the room: facts and catalog in, a [`Spread`] or a refusal out. Nothing is spread on a guess: what cannot be proven
//! to add up is refused. A statement that lives on one shard never comes here.
//!
//! `edit.rs` makes shards' texts from the client's own bytes; a syntax tree is never printed. `colocated.rs` proves that a row of a result
//! comes from one shard's rows, `scatter.rs` and `outermost.rs` say what the shards are asked and how their rows are merged. `rows.rs`,
//! `write.rs`, `merge.rs`, `everywhere.rs` and `once.rs` are for what changes rows, `own_rows.rs` and `moving.rs` for when rows move,
//! `definitions.rs` and `listed.rs` for definitions, `placed.rs` for tables that a comment gives a place, `numbered.rs` for what needs numbers first.

mod changes;
mod colocated;
pub mod copy;
pub mod counts;
pub mod declared;
pub mod definitions;
pub mod delivery;
pub mod edit;
pub mod everywhere;
pub mod explained;
pub mod gather;
pub mod listed;
mod merge;
pub mod moves;
pub mod moving;
pub mod numbered;
pub mod once;
mod outermost;
pub mod own_rows;
pub mod placed;
pub mod rows;
pub mod scatter;
pub mod write;

use std::ops::Range;
use std::rc::Rc;

use crate::catalog::{Catalog, SearchPath};
use crate::sharding::ShardId;
use crate::sql::class::Class;
use crate::sql::{Body, Statement, select};

use super::checking::Checkable;
use super::refusal::{Reason, Refusal};

use changes::Asked;
use copy::{Copied, CopyIn, CopyOut};
use declared::Declared;
use definitions::Place;
pub use delivery::Delivery;
pub use edit::Edit;
pub use everywhere::Everywhere;
use explained::Explained;
pub use gather::Gather;
pub use listed::Listed;
pub use moves::Move;
pub use numbered::Numbered;
use once::Once;
use own_rows::OwnRows;
pub use placed::Placed;
pub use rows::Rows;
pub use scatter::Scatter;
pub use write::Write;

/// What several shards do for one statement. It is done on all shards, or on those that the statement's keys name.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// SELECT whose shards' rows add up. Otherwise: when the types of its columns cannot be compared exactly, which only a server knows.
    Scatter {
        scatter: Scatter,
        otherwise: Result<Box<Gather>, Refusal>,
    },
    /// The same on every shard, which all give the same answer.
    Everywhere(Everywhere),
    /// Each row of an INSERT on its own shard.
    Rows(Rows),
    /// Every shard changes its own rows.
    Write(Write),
    /// UPDATE that gives rows another key.
    Move(Move),
    /// INSERT ... SELECT of rows from other shards.
    Delivery(Box<Delivery>),
    /// LOCK TABLE.
    Listed(Listed),
    /// Rows of a reference table that one shard computes.
    Once(Box<Once>),
    /// DECLARE of a cursor over the first or the last of these.
    Declare(Declared),
    /// FETCH, MOVE and CLOSE of such a cursor.
    Cursor,
    /// PREPARE of any of these: EXECUTE plans it by itself. These servers can say what is wrong with it.
    Prepared(Checkable),
    /// EXPLAIN of any of these.
    Explain(Explained),
    /// COPY FROM STDIN, row by row to the shards of their keys.
    CopyIn(CopyIn),
    /// COPY TO STDOUT: what all shards have.
    CopyOut(CopyOut),
    /// On one of them, over rows that the others send.
    Gather(Gather),
    /// Numbers are written into it first, and it is planned anew.
    Numbered(Numbered),
    /// The table's place is recorded first, and it is planned anew.
    Placed(Placed),
}

/// How a statement is done on several shards. `refusal` says why it cannot be done on one, and is given back when it cannot be spread
/// either, unless there is a better reason. `text` is the whole message's, which the statement's range cuts; ranges of edits are places in it.
pub fn spread(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
    refusal: Refusal,
) -> Result<Rc<Spread>, Refusal> {
    let spread = at_rest(text, statement, catalog, search_path, refusal)?;
    match catalog.foreign.is_empty() {
        true => Ok(spread),
        false => moving::among(spread, statement, catalog, search_path),
    }
}

/// The same while no rows move.
fn at_rest(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
    refusal: Refusal,
) -> Result<Rc<Spread>, Refusal> {
    if let Some(numbered) = numbered::numbered(text, statement, catalog, search_path) {
        return Ok(Rc::new(Spread::Numbered(numbered)));
    }
    // Whoever names a shard wants that one.
    if statement.hint.is_some() {
        return Err(refusal);
    }
    if let Some(explained) = explained::explained(text, statement, catalog, search_path, &refusal) {
        return explained.map(|explained| Rc::new(Spread::Explain(explained)));
    }
    if let Some(declared) = declared::declared(text, statement, catalog, search_path, &refusal) {
        return declared.map(|declared| Rc::new(Spread::Declare(declared)));
    }
    if let Class::Prepare { query, .. } = &statement.class {
        let inner = Statement {
            range: query.clone(),
            class: Class::Data,
            ..statement.clone()
        };
        let inner = spread(text, &inner, catalog, search_path, refusal.clone())?;
        return match &*inner {
            Spread::Numbered(_) => Err(refusal),
            _ => Ok(Rc::new(Spread::Prepared(inner.checkable()))),
        };
    }
    if statement.class == Class::Lock {
        let tables = listed::locked(text, statement, catalog, search_path)?;
        return Ok(Rc::new(Spread::Listed(tables)));
    }
    match definitions::place(text, statement, catalog, search_path) {
        Some(Ok(Place::All(everywhere))) => return Ok(Rc::new(Spread::Everywhere(everywhere))),
        Some(Ok(Place::Each(tables))) => return Ok(Rc::new(Spread::Listed(tables))),
        Some(Ok(Place::One(_))) => return Err(refusal),
        Some(Err(refusal)) => return Err(refusal),
        None => {}
    }
    if let Body::Facts(facts) = &statement.body {
        let asked = Asked::new(text, statement, facts, catalog, search_path, &refusal);
        if let Some(changes) = changing(&asked) {
            return changes.map(Rc::new);
        }
    }
    if let Some(copied) = copy::copied(text, statement, catalog, search_path)? {
        return Ok(Rc::new(match copied {
            Copied::In(copy) => Spread::CopyIn(copy),
            Copied::Out(copy) => Spread::CopyOut(copy),
        }));
    }
    // What else is refused is refused whatever the shards could do.
    let is_about_shards = [Reason::MultiShardSelect, Reason::JoinNotColocated]
        .iter()
        .any(|reason| reason.kind().id == refusal.id);
    let scatter = is_about_shards
        .then(|| scatter::scatter(text, statement, catalog, search_path))
        .flatten();
    let gathered = gather::gather(text, statement, catalog, search_path, refusal);
    Ok(Rc::new(match scatter {
        Some(scatter) => Spread::Scatter {
            scatter,
            otherwise: gathered.map(Box::new),
        },
        None => Spread::Gather(gathered?),
    }))
}

/// All shards, in their order.
pub fn all_shards(catalog: &Catalog) -> Vec<ShardId> {
    (0..catalog.shards.len())
        .filter_map(|shard| u16::try_from(shard).ok())
        .map(ShardId)
        .collect()
}

/// Whether how a statement is spread depends on the values of literals in it: those of GROUP BY and ORDER BY may be numbers of columns, and
/// are compared with those of the select list.
pub fn goes_by_literals(text: &str, statement: Range<usize>) -> bool {
    if names_sequence(text, statement.clone()) {
        return true;
    }
    let Some(select) = select::read(text, statement) else {
        return false;
    };
    let orders = select.order_by.iter().map(|item| &item.expression);
    let mut compared = select.group_by.iter().chain(orders);
    compared.any(|expression| select.has_literal(expression))
}

/// Whether another literal may name a sequence that is known.
fn names_sequence(text: &str, statement: Range<usize>) -> bool {
    let words = crate::sql::words(&text[statement]);
    words.is_ok_and(|words| {
        words
            .iter()
            .any(|word| matches!(&**word, "nextval" | "currval"))
    })
}

/// A statement that changes rows; `None`: it is none.
fn changing(asked: &Asked<'_>) -> Option<Result<Spread, Refusal>> {
    if asked.statement.class != crate::sql::class::Class::Data {
        return None;
    }
    copies(asked)
        .or_else(|| rows::rows(asked).map(|done| done.map(Spread::Rows)))
        .or_else(|| insert_select(asked))
        .or_else(|| moves::moved(asked).map(|done| done.map(Spread::Move)))
        .or_else(|| write::write(asked).map(|done| done.map(Spread::Write)))
        .or_else(|| merge::merged(asked).map(|done| done.map(Spread::Write)))
}

/// A change of reference tables.
fn copies(asked: &Asked<'_>) -> Option<Result<Spread, Refusal>> {
    let differs = [Reason::VolatileReferenceWrite, Reason::ReferenceWrite];
    Some(match everywhere::copies(asked)? {
        Err(refusal) if differs.iter().any(|reason| reason.kind().id == refusal.id) => {
            let once = once::once(asked).map(Box::new);
            once.map(Spread::Once).ok_or(refusal)
        }
        done => done.map(Spread::Everywhere),
    })
}

/// INSERT ... SELECT: each shard its own rows, or rows of others are brought.
fn insert_select(asked: &Asked<'_>) -> Option<Result<Spread, Refusal>> {
    match write::insert_select(asked) {
        Some(Ok(write)) => Some(Ok(Spread::Write(write))),
        refused => delivery::delivered(asked)
            .map(|done| done.map(|delivery| Spread::Delivery(Box::new(delivery))))
            .or(refused.map(|done| done.map(Spread::Write))),
    }
}

impl Spread {
    /// What is done, for people: lines of a label and its text. `text` is the one that the places of the plan are of.
    pub fn describe(&self, text: &str, catalog: &Catalog) -> String {
        match self {
            Spread::Scatter { scatter, .. } => scatter.describe(),
            Spread::Explain(explained) => explained.lines.join("\n"),
            Spread::Declare(declared) => declared.spread.describe(text, catalog),
            Spread::Listed(tables) => tables.describe(catalog),
            Spread::Once(once) => once.describe(),
            Spread::Cursor => "goes    to where the cursor is".to_owned(),
            Spread::Prepared(_) => {
                "goes    to the shards of its rows, when it is executed".to_owned()
            }
            Spread::Everywhere(everywhere) => everywhere.describe(),
            Spread::Rows(rows) => rows.describe(),
            Spread::Write(write) => write.describe(text, catalog),
            Spread::Move(moved) => moved.describe(text),
            Spread::Delivery(delivery) => delivery.describe(text, catalog),
            Spread::Gather(gather) => gather.describe(text, catalog),
            Spread::CopyIn(copy) if copy.key.is_none() => "goes    to every shard".to_owned(),
            Spread::CopyIn(_) => "goes    row by row to the shards that store them".to_owned(),
            Spread::CopyOut(_) => "goes    to every shard".to_owned(),
            Spread::Numbered(numbered) => numbered.describe(),
            Spread::Placed(placed) => placed.describe(),
        }
    }

    /// Brings all places in the text to other offsets: of the normal form, for the plan cache.
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        match self {
            Spread::Scatter { scatter, otherwise } => {
                scatter.move_places(to);
                if let Ok(gather) = otherwise {
                    gather.move_places(to);
                }
            }
            Spread::CopyIn(_)
            | Spread::Everywhere(_)
            | Spread::Once(_)
            | Spread::Cursor
            | Spread::Placed(_)
            | Spread::Prepared(_) => {}
            Spread::Listed(tables) => tables.move_places(to),
            Spread::Declare(declared) => declared.move_places(to),
            Spread::Explain(explained) => explained.move_places(to),
            Spread::Write(write) => write.move_places(to),
            Spread::CopyOut(CopyOut { own, .. }) => {
                if let Some(own) = own {
                    own.move_places(to);
                }
            }
            Spread::Rows(rows) => rows.move_places(to),
            Spread::Move(moved) => moved.move_places(to),
            Spread::Delivery(delivery) => delivery.move_places(to),
            Spread::Gather(gather) => gather.move_places(to),
            Spread::Numbered(numbered) => numbered.move_places(to),
        }
    }

    /// Its size in memory beyond itself, near enough for a limit.
    pub fn bytes(&self) -> usize {
        match self {
            Spread::Scatter { scatter, otherwise } => {
                let otherwise = otherwise.as_ref();
                scatter.bytes() + otherwise.map_or(0, |gather| size_of::<Gather>() + gather.bytes())
            }
            Spread::CopyIn(copy) => copy.table.len() + 64,
            Spread::CopyOut(CopyOut { own, .. }) => 64 + own.as_ref().map_or(0, OwnRows::bytes),
            Spread::Listed(tables) => tables.bytes(),
            Spread::Once(once) => once.bytes(),
            Spread::Declare(declared) => declared.bytes(),
            Spread::Cursor | Spread::Prepared(_) => 0,
            Spread::Gather(gather) => gather.bytes(),
            Spread::Explain(explained) => explained.bytes(),
            Spread::Everywhere(_) => 0,
            Spread::Write(write) => write.bytes(),
            Spread::Rows(rows) => rows.bytes(),
            Spread::Move(moved) => moved.bytes(),
            Spread::Numbered(numbered) => numbered.bytes(),
            Spread::Placed(placed) => placed.bytes(),
            Spread::Delivery(delivery) => size_of::<Delivery>() + delivery.bytes(),
        }
    }
}
