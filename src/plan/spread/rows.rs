//! INSERT ... VALUES whose rows belong on several shards: each shard stores its own.
//!
//! A shard is sent the client's text without the rows of others. What else the statement has (ON CONFLICT, RETURNING, a query on reference
//! tables in a row) means on the shard what it means with all rows: a row can only conflict with rows of its own key.

use std::ops::Range;

use crate::catalog::Catalog;
use crate::plan::bind::each_key;
use crate::plan::data;
use crate::plan::insert::Inserted;
use crate::plan::proof::Prover;
use crate::plan::refusal::Refusal;
use crate::plan::scope::Meaning;
use crate::plan::words::ParameterPlaces;
use crate::plan::{KeySet, Target, Values, Verb};
use crate::sharding::ShardId;
use crate::sql::facts::InsertSource;
use crate::sql::normalise::{Literal, from_normal};
use crate::sql::places::value_rows;

use super::changes::{Asked, Others, Verbatim};

/// Rows by their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// One key for each row, in their order.
    keys: Target,
    /// Where each row stands in the text.
    places: Vec<Range<usize>>,
}

/// `None`: it is no such statement.
pub fn rows(asked: &Asked<'_>) -> Option<Result<Rows, Refusal>> {
    let [insert] = &asked.facts.inserts[..] else {
        return None;
    };
    let InsertSource::Values(values) = &insert.source else {
        return None;
    };
    let Meaning::Sharded { distribution, key } = asked.meaning(&insert.table) else {
        return None;
    };
    if asked.verbatim() != Verbatim::Insert || values.len() < 2 {
        return None;
    }
    Some(asked.others(Others::SharedOnly).and_then(|()| {
        let text = &asked.text[asked.statement.range.clone()];
        // What one shard cannot do for another reason, several cannot either.
        data::target(text, asked.facts, asked.catalog, asked.search_path)?;
        let inserted = [asked.known(&insert.table)];
        let places = ParameterPlaces::of(text, &asked.scope, &inserted);
        let mut prover = Prover::new(&asked.scope, &places)?;
        let tuples = Inserted {
            insert,
            target: inserted[0],
            key,
            scope: &asked.scope,
            places: &places,
        }
        .keys(&mut prover)?;
        let places = value_rows(asked.text, asked.statement.range.clone(), tuples.len())
            .ok_or_else(|| asked.refusal.clone())?;
        let keys = Target::Keys {
            sets: vec![KeySet {
                distribution,
                tuples,
            }],
            also: None,
            verb: Verb::Insert,
        };
        Ok(Rows { keys, places })
    }))
}

impl Rows {
    /// The shard of each row.
    pub fn shards(&self, catalog: &Catalog, values: &Values<'_>) -> Result<Vec<ShardId>, Refusal> {
        let mut shards = Vec::with_capacity(self.places.len());
        each_key(&self.keys, catalog, values, |_, _, location| {
            shards.push(location.shard);
            Ok(())
        })?;
        Ok(shards)
    }

    /// The statement at `whole` with some of its rows, at least one, which are in order.
    pub fn text(
        &self,
        kept: impl Iterator<Item = usize>,
        whole: Range<usize>,
        text: &[u8],
        literals: &[Literal],
    ) -> Vec<u8> {
        let place = |offset| from_normal(offset, literals);
        let (first, last) = (&self.places[0], &self.places[self.places.len() - 1]);
        let mut out = text[whole.start..place(first.start)].to_vec();
        for (number, row) in kept.enumerate() {
            if number > 0 {
                out.extend_from_slice(b", ");
            }
            let row = &self.places[row];
            out.extend_from_slice(&text[place(row.start)..place(row.end)]);
        }
        out.extend_from_slice(&text[place(last.end)..whole.end]);
        out
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "goes    row by row to the shards of its {} keys",
            self.places.len()
        )
    }

    pub(super) fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        for place in &mut self.places {
            *place = to(place.start)..to(place.end);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        /// A tuple with its operands.
        const ROW: usize = 160;
        self.places.capacity() * (size_of::<Range<usize>>() + ROW)
    }
}
