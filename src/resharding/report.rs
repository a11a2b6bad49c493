//! What operators are told of plans. Pure data: the driver of plans fills it, the admin database and the command line show it.

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
