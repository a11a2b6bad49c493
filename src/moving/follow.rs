//! Changes of one source, from its slot to the shards that receive them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::resharding::job::ShardName;
use crate::store::Token;
use crate::wire::replication::Lsn;

use super::claim::FlowError;
use super::progress::Tally;
use super::scope::Scope;
use super::seam::Seam;
use super::shards::Shards;

/// What is followed.
#[derive(Clone, Debug)]
pub struct Follow {
    pub scope: Arc<Scope>,
    pub source: ShardName,
    pub slot: Box<str>,
    pub publication: Box<str>,
    /// Of the driver's lease.
    pub token: Token,
    /// Every shard that receives from this source, in either direction of the plan. The seam is the one that is given to
    /// [`copy`](super::copy::copy) for the same way.
    pub targets: BTreeMap<ShardName, Arc<Seam>>,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Of the source's log.
    pub received: Lsn,
    pub targets: BTreeMap<ShardName, Reached>,
}

/// How far a receiving shard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub applied: Lsn,
    /// Less than a megabyte of log, or less than some 200 ms, is left to apply.
    pub caught_up: bool,
}

/// Follows until something ends it; to drop the future ends it as well, anywhere. Claims the streams for `token` first.
pub async fn follow(
    _task: Follow,
    _shards: Shards,
    _tally: Arc<Tally>,
    _seen: watch::Sender<Followed>,
) -> Result<(), FlowError> {
    Err(FlowError::again("not there yet"))
}
