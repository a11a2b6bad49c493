//! What stands against a plan, asked of every shard before anything is done.

mod problem;

pub use problem::{Problem, Weight};

use super::scope::Scope;
use super::shards::{ShardError, Shards};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The plan cannot begin.
    pub problems: Vec<Problem>,
    /// Good to know; nothing stands against the plan.
    pub notes: Vec<Problem>,
}

/// Everything that stands against the plan, on every shard of it.
pub async fn check(shards: &Shards, scope: &Scope) -> Result<Vec<Problem>, ShardError> {
    Ok(examine(shards, scope).await?.problems)
}

/// As [`check`], with what is only good to know.
pub async fn examine(_shards: &Shards, _scope: &Scope) -> Result<Findings, ShardError> {
    Ok(Findings::default())
}
