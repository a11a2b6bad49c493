//! How much a plan moves, as far as statistics tell, before anything is copied.

use super::scope::Scope;
use super::shards::{ShardError, Shards};
use crate::resharding::job::Route;

/// The rows of one table that go one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// `schema.name`, quoted as in SQL.
    pub table: Box<str>,
    pub route: Route,
    pub rows: u64,
    /// Of the rows themselves, as they are stored now.
    pub bytes: u64,
    /// With indexes: what the receiving shard needs.
    pub bytes_with_indexes: u64,
}

/// Asks every shard that rows come from.
pub async fn estimate(_shards: &Shards, _scope: &Scope) -> Result<Vec<Estimate>, ShardError> {
    Ok(Vec::new())
}

/// The part of a plan's page that says how much is moved, and how long that takes at this rate (bytes in a second, from each source).
pub fn page(_estimates: &[Estimate], _rate: u64) -> String {
    String::new()
}
