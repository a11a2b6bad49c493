//! Statements whose rows are on several shards: how the shards' work adds up to what one Postgres with all rows would give.
//!
//! Pure, like the rest of the room: facts and catalog in, a [`Spread`] or a refusal out. Nothing is spread on a guess: what cannot be proven
//! to add up is refused. A statement that lives on one shard never comes here.
//!
//! `edit.rs` makes shards' texts from the client's own bytes; a syntax tree is never printed. `colocated.rs` proves that a row of a result
//! comes from one shard's rows, `scatter.rs` and `outermost.rs` say what the shards are asked and how their rows are merged.

mod colocated;
pub mod copy;
pub mod counts;
pub mod edit;
mod outermost;
pub mod scatter;

use std::ops::Range;
use std::rc::Rc;

use crate::catalog::{Catalog, SearchPath};
use crate::sql::{Statement, select};

use super::refusal::{Reason, Refusal};

use copy::{Copied, CopyIn, CopyOut};
pub use edit::Edit;
pub use scatter::Scatter;

/// What several shards do for one statement. It is done on all shards, or on those that the statement's keys name.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// SELECT whose shards' rows add up.
    Scatter(Scatter),
    /// COPY FROM STDIN, row by row to the shards of their keys.
    CopyIn(CopyIn),
    /// COPY TO STDOUT: what all shards have.
    CopyOut(CopyOut),
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
    if is_about_shards
        && let Some(scatter) = scatter::scatter(text, statement, catalog, search_path)
    {
        return Ok(Rc::new(Spread::Scatter(scatter)));
    }
    Err(refusal)
}

/// Whether how a statement is spread depends on the values of literals in it: those of GROUP BY and ORDER BY may be numbers of columns, and
/// are compared with those of the select list.
pub fn goes_by_literals(text: &str, statement: Range<usize>) -> bool {
    let Some(select) = select::read(text, statement) else {
        return false;
    };
    let orders = select.order_by.iter().map(|item| &item.expression);
    let mut compared = select.group_by.iter().chain(orders);
    compared.any(|expression| select.has_literal(expression))
}

impl Spread {
    /// Brings all places in the text to other offsets: of the normal form, for the plan cache.
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        match self {
            Spread::Scatter(scatter) => scatter.move_places(to),
            Spread::CopyIn(_) | Spread::CopyOut(_) => {}
        }
    }

    /// Its size in memory beyond itself, near enough for a limit.
    pub fn bytes(&self) -> usize {
        match self {
            Spread::Scatter(scatter) => scatter.bytes(),
            Spread::CopyIn(copy) => copy.table.len() + 64,
            Spread::CopyOut(_) => 64,
        }
    }
}
