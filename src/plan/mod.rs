//! What will be done for a statement: facts and catalog in, [`Plan`] or [`Refusal`] out. Pure; cached by text, search path and epoch.
//!
//! This room never connects to anything. It decides once per shape of text; `bind.rs` finds the shard for given values.
//! Read `planner.rs` for the cascade, `refusal.rs` for what is refused and why, `cache.rs` for the hot path.

use crate::catalog::DistributionId;
use crate::sharding::{KeyType, ShardId};
use crate::sql::class::Class;
use crate::sql::facts::{Leaves, Operand};
use std::ops::Range;

/// The plans of one message's text.
#[derive(Debug)]
pub struct Planned {
    pub statements: Vec<PlannedStatement>,
}

#[derive(Debug)]
pub struct PlannedStatement {
    /// Its bytes in the text.
    pub range: Range<usize>,
    pub class: Class,
    pub plan: Result<Plan, Refusal>,
    pub leaves: Vec<Leaves>,
}

/// What will be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// The session answers or remembers; no table is concerned (transaction control, SET, hints ...).
    Session,
    /// The statement goes unchanged to one shard.
    Relay(Target),
}

/// Which shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Every shard gives the same answer (system tables, reference tables): the open transaction's, else the home shard.
    Any,
    Shard(ShardId),
    /// Found from values at bind time; all of them must live on one shard, and on `also` when that is given
    /// (a single table is read in the same statement).
    Keys {
        distribution: DistributionId,
        tuples: Vec<KeyTuple>,
        also: Option<ShardId>,
    },
}

/// One value (or, with an array operand, one list of values) for each key column.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyTuple(pub Vec<KeyOperand>);

#[derive(Clone, Debug, PartialEq)]
pub struct KeyOperand {
    /// `Literal` or `Param`, nothing else.
    pub operand: Operand,
    pub column_type: KeyType,
    pub arity: Arity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    One,
    /// The operand is an array; each element is a key.
    Array,
}

/// A statement that is not done, and why. Its id is stable and documented.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Like `multi_shard_select`.
    pub id: &'static str,
    /// Five characters; 0A000 where no Postgres code says it better.
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: &'static str,
    /// 0-based byte offset in the message's text, when a place can be named.
    pub position: Option<usize>,
}
