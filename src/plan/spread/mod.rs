//! Statements whose rows are on several shards: how the shards' work adds up to what one Postgres with all rows would give.
//!
//! Pure, like the rest of the room: facts and catalog in, a [`Spread`] or a refusal out. Nothing is spread on a guess: what cannot be proven
//! to add up is refused. A statement that lives on one shard never comes here.
//!
//! `edit.rs` makes shards' texts from the client's own bytes; a syntax tree is never printed.

pub mod copy;
pub mod edit;
pub mod gather;

use std::rc::Rc;

use crate::catalog::{Catalog, SearchPath};
use crate::sql::Statement;

use super::refusal::Refusal;

use copy::{Copied, CopyIn, CopyOut};
pub use edit::Edit;
pub use gather::Gather;

/// What several shards do for one statement. It is done on all shards, or on those that the statement's keys name.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// On one of them, over rows that the others send.
    Gather(Gather),
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
    let gathered = gather::gather(text, statement, catalog, search_path, refusal)?;
    Ok(Rc::new(Spread::Gather(gathered)))
}

impl Spread {
    /// What is done, for people: lines of a label and its text. `text` is the one that the places of the plan are of.
    pub fn describe(&self, text: &str, catalog: &Catalog) -> String {
        match self {
            Spread::Gather(gather) => gather.describe(text, catalog),
            Spread::CopyIn(_) => "goes    row by row to the shards of their keys".to_owned(),
            Spread::CopyOut(_) => "goes    to all shards, one after the other".to_owned(),
        }
    }

    /// Brings all places in the text to other offsets: of the normal form, for the plan cache.
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        match self {
            Spread::Gather(gather) => gather.move_places(to),
            Spread::CopyIn(_) | Spread::CopyOut(_) => {}
        }
    }

    /// Its size in memory beyond itself, near enough for a limit.
    pub fn bytes(&self) -> usize {
        match self {
            Spread::Gather(gather) => gather.bytes(),
            Spread::CopyIn(copy) => copy.table.len() + 64,
            Spread::CopyOut(_) => 64,
        }
    }
}
