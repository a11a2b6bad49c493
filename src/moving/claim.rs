//! Who may write on a receiving shard: the driver whose token its row of `trunkline.reshard_streams` has.

use tokio_postgres::Client;

use crate::backend::replication::ReplicationError;
use crate::resharding::job::ShardName;
use crate::store::Token;
use crate::topology::NodeError;
use crate::wire::replication::Lsn;

use super::shards::ShardError;

/// Why copying or following ended.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// People must look at it: the plan stops.
    #[error("{0}")]
    Trouble(Box<str>),
    /// A driver with a greater token writes there, or the plan's ledger there is closed. Nothing more is done.
    #[error("{shard} takes no more from this proxy: {why}")]
    Lost { shard: ShardName, why: &'static str },
    /// It can be begun again.
    #[error("{0}")]
    Again(Box<str>),
}

impl FlowError {
    pub(super) fn trouble(text: impl std::fmt::Display) -> FlowError {
        FlowError::Trouble(text.to_string().into())
    }

    pub(super) fn again(text: impl std::fmt::Display) -> FlowError {
        FlowError::Again(text.to_string().into())
    }
}

impl From<ShardError> for FlowError {
    fn from(error: ShardError) -> FlowError {
        FlowError::again(error)
    }
}

impl From<tokio_postgres::Error> for FlowError {
    fn from(error: tokio_postgres::Error) -> FlowError {
        FlowError::Again(NodeError::described(&error).into())
    }
}

impl From<ReplicationError> for FlowError {
    fn from(error: ReplicationError) -> FlowError {
        FlowError::again(error)
    }
}

/// A stream as the receiving shard knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub applied: Lsn,
    pub copied: bool,
}

/// Takes a stream over. Waits for a transaction of an earlier driver that is about to be committed; none commits later.
const CLAIM: &str = "INSERT INTO trunkline.reshard_streams AS s (number, source, driver) VALUES ($1, $2, $3)
    ON CONFLICT (number, source) DO UPDATE SET driver = excluded.driver WHERE s.driver <= excluded.driver
    RETURNING s.applied::text, s.copied";

const BEGIN_ANEW: &str = "UPDATE trunkline.reshard_streams SET applied = '0/0'
    WHERE number = $1 AND source = $2 AND driver <= $3 AND applied > '0/0'";

/// Of whoever writes: numbers as Postgres has them.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub number: i64,
    pub source: Box<str>,
    pub token: i64,
    pub shard: ShardName,
}

impl Claim {
    pub fn new(number: u64, source: &ShardName, target: &ShardName, token: Token) -> Claim {
        Claim {
            number: number.cast_signed(),
            source: source.0.clone(),
            token: token.0.cast_signed(),
            shard: target.clone(),
        }
    }

    /// On the receiving shard. From its return on no driver with a smaller token writes there.
    pub async fn take(&self, client: &Client) -> Result<Claimed, FlowError> {
        let row = client
            .query_opt(CLAIM, &[&self.number, &&*self.source, &self.token])
            .await?
            .ok_or_else(|| self.lost())?;
        let applied: &str = row.get(0);
        let applied = applied.parse().map_err(FlowError::again)?;
        Ok(Claimed {
            applied,
            copied: row.get(1),
        })
    }

    /// On the receiving shard: the slot that was followed is no more, and the next one begins with nothing. Nobody follows it now.
    pub async fn begin_anew(&self, client: &Client) -> Result<(), ShardError> {
        let done = client
            .execute(BEGIN_ANEW, &[&self.number, &&*self.source, &self.token])
            .await;
        match done {
            Ok(_) => Ok(()),
            // No plan was ever there.
            Err(error)
                if error
                    .code()
                    .is_some_and(|code| matches!(code.code(), "42P01" | "3F000")) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub fn lost(&self) -> FlowError {
        FlowError::Lost {
            shard: self.shard.clone(),
            why: "another driver has taken over, or the plan is closed there",
        }
    }
}
