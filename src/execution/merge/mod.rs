//! One result out of several shards' rows: concatenated, merged in order, or folded group by group.
//!
//! Sans-io: rows go in as the bodies of DataRow messages, whole messages of the client's columns come out. Whatever is compared or added
//! here is exact by the types that the shards described; where it is not, [`Merger::new`] says [`Unsuitable`] before any row was asked for.
//! Memory: nothing for a concatenation, one row a shard for a sort, the groups (bounded) for a fold.
//!
//! `key.rs` turns values into bytes that compare as Postgres compares the values: read it next. Then `sort.rs` and `fold.rs`.

mod fold;
mod key;
mod numeric;
mod row;
mod sort;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::plan::spread::scatter::{Counts, Hidden, Merge, Scatter};

use super::columns::Column;
use fold::Folding;
use row::Row;
use sort::Sorting;

/// The most bytes that groups may take.
pub const MOST_GROUPS: usize = 64 << 20;

/// The types of the columns do not allow an exact merge; the text names the column and its type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unsuitable(pub String);

/// Why a merge cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MergeError {
    #[error("a shard's row does not fit its description: {0}")]
    Malformed(&'static str),
    #[error("bigint out of range")]
    BigintOutOfRange,
    #[error("value overflows numeric format")]
    NumericOverflow,
    #[error(
        "the groups of the query take more than {} MB in memory",
        MOST_GROUPS >> 20
    )]
    TooManyGroups,
}

impl MergeError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            MergeError::Malformed(_) => "08P01",
            MergeError::BigintOutOfRange | MergeError::NumericOverflow => "22003",
            MergeError::TooManyGroups => "53400",
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            MergeError::TooManyGroups => {
                "Group by the shard key too, so that the groups stay on their shards, or restrict the query to fewer groups."
            }
            MergeError::Malformed(_)
            | MergeError::BigintOutOfRange
            | MergeError::NumericOverflow => "",
        }
    }
}

/// Merges the rows of one execution.
pub struct Merger {
    kind: Kind,
    formats: Vec<u16>,
    visible: usize,
    columns: usize,
    window: Window,
}

enum Kind {
    Concat,
    Sort(Box<Sorting>),
    Fold(Box<Folding>),
}

/// In what order shards may be asked for their rows, where they are asked for some at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One shard after the other.
    OneByOne,
    /// A row of each has to be there before one is shown.
    Together,
    /// All rows of all shards have to be there before one is shown.
    Whole,
}

/// What LIMIT and OFFSET leave to be shown.
#[derive(Clone, Copy, Debug)]
struct Window {
    skip: u64,
    left: Option<u64>,
    shown: u64,
}

impl Window {
    /// Whether the next row is shown; counts it.
    fn admits(&mut self) -> bool {
        if self.is_full() {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        self.shown += 1;
        true
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }
}

impl Merger {
    /// `columns` are those of the shards' text, hidden ones at the end. `client_formats` is as in Bind: none, one, or one a visible column.
    pub fn new(
        scatter: &Scatter,
        columns: &[Column],
        client_formats: &[u16],
        counts: Counts,
        shards: usize,
    ) -> Result<Merger, Unsuitable> {
        let visible = match scatter.hidden {
            Hidden::Columns(hidden) => columns.len().checked_sub(hidden),
            Hidden::Again => columns.len().is_multiple_of(2).then_some(columns.len() / 2),
        };
        let visible = visible.ok_or_else(|| {
            Unsuitable("a shard describes fewer columns than it was asked for".into())
        })?;
        let client_format = |place: usize| match client_formats {
            [] => Ok(0),
            [all] => Ok(*all),
            each if each.len() == visible => Ok(each[place]),
            each => Err(Unsuitable(format!(
                "bind message has {} result formats but query has {visible} columns",
                each.len()
            ))),
        };
        let mut formats = Vec::with_capacity(columns.len());
        for place in 0..visible {
            formats.push(client_format(place)?);
        }
        formats.resize(columns.len(), 1);
        let kind = match &scatter.merge {
            Merge::Concat => Kind::Concat,
            Merge::Sort(keys) => Kind::Sort(Box::new(Sorting::new(
                keys,
                &columns[visible..],
                visible,
                shards,
            )?)),
            Merge::Fold(fold) => {
                let folding = Folding::new(fold, columns, &formats[..visible], shards)?;
                folding.ask_for(&mut formats);
                Kind::Fold(Box::new(folding))
            }
        };
        Ok(Merger {
            kind,
            formats,
            visible,
            columns: columns.len(),
            window: Window {
                skip: counts.offset,
                left: counts.limit,
                shown: 0,
            },
        })
    }

    /// The format of each of the shards' columns.
    pub fn formats(&self) -> Vec<u16> {
        self.formats.clone()
    }

    pub fn pace(&self) -> Pace {
        match &self.kind {
            Kind::Concat => Pace::OneByOne,
            Kind::Sort(_) => Pace::Together,
            Kind::Fold(_) => Pace::Whole,
        }
    }

    /// How many of the shards' columns the client sees.
    pub fn visible(&self) -> usize {
        self.visible
    }

    /// Whether it takes a row of that shard now.
    pub fn wants(&self, shard: usize) -> bool {
        match &self.kind {
            Kind::Concat => !self.window.is_full(),
            Kind::Sort(sorting) => !self.window.is_full() && sorting.wants(shard),
            Kind::Fold(_) => true,
        }
    }

    /// Takes the body of a DataRow message of a shard that [`Merger::wants`] one. Appends whole messages to `out`.
    pub fn row(&mut self, shard: usize, body: &[u8], out: &mut Vec<u8>) -> Result<(), MergeError> {
        match &mut self.kind {
            Kind::Concat => {
                if self.visible == self.columns {
                    Row::check(body, self.columns)?;
                    if self.window.admits() {
                        row::message(self.visible, &body[2..], out);
                    }
                } else if self.window.admits() {
                    let end = Row::read(body, self.columns)?.end_of(self.visible)?;
                    row::message(self.visible, &body[2..end], out);
                }
                Ok(())
            }
            Kind::Sort(sorting) => {
                sorting.take(shard, Row::read(body, self.columns)?)?;
                sorting.show(&mut self.window, out);
                Ok(())
            }
            Kind::Fold(folding) => folding.take(Row::read(body, self.columns)?),
        }
    }

    /// The shard has no more rows. Appends whole messages to `out`.
    pub fn ended(&mut self, shard: usize, out: &mut Vec<u8>) -> Result<(), MergeError> {
        match &mut self.kind {
            Kind::Concat => Ok(()),
            Kind::Sort(sorting) => {
                sorting.end(shard);
                sorting.show(&mut self.window, out);
                Ok(())
            }
            Kind::Fold(folding) => folding.end(shard, &mut self.window, out),
        }
    }

    /// How many more rows it takes before LIMIT is reached; `None`: there is no LIMIT.
    pub fn left(&self) -> Option<u64> {
        let left = self.window.left?;
        Some(left.saturating_add(self.window.skip))
    }

    /// LIMIT is reached: no further row is shown, whatever comes.
    pub fn is_satisfied(&self) -> bool {
        self.window.is_full()
    }

    /// Rows shown so far.
    pub fn rows(&self) -> u64 {
        self.window.shown
    }
}
