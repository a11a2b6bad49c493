//! UPDATE and DELETE of a sharded table on several shards: every shard changes its own rows, by the client's own text.
//!
//! That adds up when whether a row is changed, and to what, depends on nothing but the row and what every shard has.

use crate::plan::refusal::Refusal;
use crate::plan::scope::Meaning;

use super::changes::{Asked, Others, Verbatim};

/// The client's text goes to every shard concerned; counts add up, and so do the rows of RETURNING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write;

impl Write {
    pub(super) fn describe(self) -> String {
        "goes    to every shard that its keys leave, each changes its own rows".to_owned()
    }
}

/// `None`: it is no such statement.
pub fn write(asked: &Asked<'_>) -> Option<Result<Write, Refusal>> {
    if !matches!(asked.verbatim(), Verbatim::Update | Verbatim::Delete)
        || !asked.facts.inserts.is_empty()
    {
        return None;
    }
    match asked.meaning(asked.target()?) {
        Meaning::Sharded { .. } => {}
        _ => return None,
    }
    // Anything else that is wrong with it does not get better on several shards.
    if !asked.refusal.is_of_several_shards() {
        return Some(Err(asked.refusal.clone()));
    }
    Some(asked.others(Others::SharedOnly).map(|()| Write))
}
