//! The commit of a transaction that wrote on several shards: on all of them or on none, whoever dies meanwhile.
//!
//! Every shard that was written on gets a row with the transaction's id in `trunkline.commits`, as part of the transaction. One of them, the
//! *decision shard*, then waits with the transaction open; the others PREPARE it. Its plain COMMIT is the decision; COMMIT PREPARED follows on the rest.
//! Nothing about it is kept anywhere else: a prepared transaction's name ([`id::Gid`]) says where to look. The row is there: commit. It is not, and a row
//! of the outcome `abort` under the same id could be inserted: roll back. As long as the owner may still decide, its own uncommitted row makes that insertion wait.
//!
//! `id.rs` has the names, `words.rs` the statements; the owner is `session/commit.rs`. `install.rs` makes the table, `recovery.rs` finishes what owners
//! leave behind: `decision.rs` finds out what was decided, `statements.rs` is what shards are asked and told, `ledger.rs` what administrators see,
//! `by_hand.rs` what they say, `removal.rs` takes old rows away. `snapshots.rs` is for queries that must not see half a commit.

pub mod by_hand;
pub mod decision;
pub mod id;
pub mod install;
pub mod ledger;
pub mod readiness;
pub mod recovery;
pub mod removal;
pub mod snapshots;
pub mod statements;
pub mod words;

use tokio::sync::oneshot;

use self::id::{Gid, TransactionId};
use crate::sharding::ShardId;

/// What became of a transaction. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Aborted,
}

impl Outcome {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Committed => "commit",
            Outcome::Aborted => "abort",
        }
    }
}

/// A transaction whose owner has lost sight of it.
#[derive(Debug)]
pub struct Unresolved {
    pub database: Box<str>,
    pub id: TransactionId,
    pub decision_shard: ShardId,
    /// What may still be prepared, and where.
    pub prepared: Vec<(ShardId, Gid)>,
    /// Told as soon as it is certain; dropped when that cannot be found out now. A transaction that nobody has decided is aborted by the question.
    pub decided: Option<oneshot::Sender<Outcome>>,
    /// Told when nothing of it is prepared any more.
    pub finished: Option<oneshot::Sender<()>>,
}
