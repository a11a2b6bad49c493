//! The rows of one way, in chunks.

use std::sync::Arc;

use crate::resharding::job::Route;
use crate::store::Token;

use super::claim::FlowError;
use super::pace::Pace;
use super::progress::Tally;
use super::scope::Scope;
use super::seam::Seam;
use super::shards::Shards;

/// What is copied.
#[derive(Clone, Debug)]
pub struct CopyWay {
    pub scope: Arc<Scope>,
    pub route: Route,
    /// Of the driver's lease.
    pub token: Token,
    /// Chunks at a time.
    pub workers: usize,
    /// The one that the follower of `route.from` has for `route.to`. It must be followed meanwhile: the end of the copy waits for it.
    pub seam: Arc<Seam>,
    /// Shared by all ways from the source.
    pub pace: Arc<Pace>,
}

/// Copies what is not there yet, and notes `copied` in the stream's row when all is there and applied so far that the receiving shard has the rows of
/// one moment. To drop the future ends it, anywhere.
pub async fn copy(_task: CopyWay, _shards: Shards, _tally: Arc<Tally>) -> Result<(), FlowError> {
    Err(FlowError::again("not there yet"))
}
