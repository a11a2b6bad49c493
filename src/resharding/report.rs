//! What operators are told of plans. Pure data: the driver of plans fills it, the admin database and the command line show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a statement about plans is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A text for people: what a plan moves, and what was found against it.
    Page(String),
    Status(Vec<PlanStatus>),
    Events(Vec<Happening>),
    /// The command was taken; what the plan does now.
    Taken {
        plan: Box<str>,
        phase: Box<str>,
    },
}

/// Why a statement was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub sqlstate: &'static str,
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

/// A plan as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanStatus {
    pub plan: Box<str>,
    pub database: Box<str>,
    /// As `copying`, or `cutting over: fencing`.
    pub phase: Box<str>,
    /// `going`, `paused`, or `stopped: ..`.
    pub pace: Box<str>,
    /// What was last given up or ended by itself.
    pub note: Option<Box<str>>,
    /// What CHECK has found.
    pub problems: Vec<Box<str>>,
    /// What CHECK has found that is only good to know.
    #[serde(default)]
    pub notes: Vec<Box<str>>,
    /// The proxy that drives it; `None`: nobody does.
    pub driver: Option<Box<str>>,
    /// Rows that differ, of the last comparison.
    pub differences: Option<u64>,
    pub progress: Progress,
}

/// How far rows and changes have come; as old as its last saving.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Why something is tried again that has not been done since.
    #[serde(default)]
    pub obstacle: Option<Box<str>>,
    pub tables: Vec<TableProgress>,
    pub streams: Vec<StreamProgress>,
}

/// The rows of one table on one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableProgress {
    pub table: Box<str>,
    pub from: Box<str>,
    pub to: Box<str>,
    pub copied_rows: u64,
    pub copied_bytes: u64,
    /// Rows that the plan moves here, as far as statistics tell.
    pub estimated_rows: Option<u64>,
    pub copied: bool,
    /// Rows compared in the comparison under way or the last one.
    pub compared_rows: u64,
    /// Rows that were removed where they are not wanted any more.
    pub removed_rows: u64,
}

/// The changes on one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamProgress {
    pub from: Box<str>,
    pub to: Box<str>,
    /// Rows changed on the receiving shard since this driver began.
    pub changes: u64,
    /// Bytes of log that are written and not yet applied.
    pub behind: Option<u64>,
    /// Bytes of log that the source keeps for the slot.
    pub retained: Option<u64>,
}

/// Something that happened to a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Milliseconds since 1970.
    pub at: u64,
    pub plan: Box<str>,
    /// The proxy that did or saw it.
    pub by: Box<str>,
    pub what: Box<str>,
}

/// What a plan has come to in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub copied_rows: u64,
    pub copied_bytes: u64,
    /// `None`: not of every table.
    pub estimated_rows: Option<u64>,
    pub compared_rows: u64,
    pub removed_rows: u64,
    pub percent: Option<u8>,
    /// Of the stream that has most to catch up.
    pub behind: Option<u64>,
    /// Of all sources.
    pub retained: Option<u64>,
}

impl Progress {
    pub fn totals(&self) -> Totals {
        let sum = |number: fn(&TableProgress) -> u64| self.tables.iter().map(number).sum::<u64>();
        let estimated = self.tables.iter().map(|table| table.estimated_rows);
        let estimated_rows = match self.tables.is_empty() {
            true => None,
            false => estimated.sum::<Option<u64>>(),
        };
        let copied_rows = sum(|table| table.copied_rows);
        let all_copied = !self.tables.is_empty() && self.tables.iter().all(|table| table.copied);
        let retained = self.retained();
        Totals {
            copied_rows,
            copied_bytes: sum(|table| table.copied_bytes),
            estimated_rows,
            compared_rows: sum(|table| table.compared_rows),
            removed_rows: sum(|table| table.removed_rows),
            percent: percent(copied_rows, estimated_rows, all_copied),
            behind: self.streams.iter().filter_map(|stream| stream.behind).max(),
            retained: (!retained.is_empty()).then(|| retained.values().sum()),
        }
    }

    /// Bytes of log that each source keeps: streams of one source share its slot.
    pub fn retained(&self) -> BTreeMap<&str, u64> {
        let mut sources: BTreeMap<&str, u64> = BTreeMap::new();
        for stream in &self.streams {
            if let Some(bytes) = stream.retained {
                let most = sources.entry(&stream.from).or_default();
                *most = bytes.max(*most);
            }
        }
        sources
    }
}

impl TableProgress {
    pub fn percent(&self) -> Option<u8> {
        percent(self.copied_rows, self.estimated_rows, self.copied)
    }
}

/// An estimate may be too small: 100 is said only of what is copied.
fn percent(copied: u64, estimated: Option<u64>, is_copied: bool) -> Option<u8> {
    if is_copied {
        return Some(100);
    }
    let part = u128::from(copied) * 100 / u128::from(estimated?.max(1));
    Some(u8::try_from(part).unwrap_or(99).min(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(copied_rows: u64, estimated_rows: Option<u64>, copied: bool) -> TableProgress {
        TableProgress {
            copied_rows,
            estimated_rows,
            copied,
            ..TableProgress::default()
        }
    }

    fn stream(from: &str, behind: Option<u64>, retained: Option<u64>) -> StreamProgress {
        StreamProgress {
            from: from.into(),
            behind,
            retained,
            ..StreamProgress::default()
        }
    }

    #[test]
    fn a_hundred_percent_is_all_of_it() {
        assert_eq!(table(0, Some(0), false).percent(), Some(0));
        assert_eq!(table(5, Some(10), false).percent(), Some(50));
        assert_eq!(table(12, Some(10), false).percent(), Some(99));
        assert_eq!(table(u64::MAX, Some(1), false).percent(), Some(99));
        assert_eq!(table(3, None, false).percent(), None);
        assert_eq!(table(3, None, true).percent(), Some(100));
    }

    #[test]
    fn totals_know_what_they_do_not_know() {
        let progress = |tables: Vec<TableProgress>| Progress {
            tables,
            ..Progress::default()
        };
        let one = progress(vec![table(5, Some(10), true), table(5, Some(30), false)]).totals();
        let sums = (one.copied_rows, one.estimated_rows, one.percent);
        assert_eq!(sums, (10, Some(40), Some(25)));
        let other = progress(vec![table(5, None, true), table(5, Some(30), false)]).totals();
        assert_eq!((other.estimated_rows, other.percent), (None, None));
        assert_eq!(progress(vec![]).totals(), Totals::default());
    }

    #[test]
    fn the_log_of_a_source_is_kept_once() {
        let progress = Progress {
            streams: vec![
                stream("a", Some(7), Some(100)),
                stream("a", Some(3), Some(90)),
                stream("b", None, Some(11)),
                stream("c", None, None),
            ],
            ..Progress::default()
        };
        assert_eq!(progress.retained(), BTreeMap::from([("a", 100), ("b", 11)]));
        let totals = progress.totals();
        assert_eq!((totals.behind, totals.retained), (Some(7), Some(111)));
    }
}
