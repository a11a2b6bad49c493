//! What the receiving shard has written of the stream: how far it is applied, and what the comparison found.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::{PgLsn, ToSql};

use crate::moving::shards::{Connection, Shards};
use crate::resharding::job::{Route, ShardName};
use crate::wire::replication::Lsn;

use super::VerifyError;

const LOOK: Duration = Duration::from_millis(10);

/// The stream's row on the receiving shard, as long as its driver has the lease.
pub(super) struct Receipt {
    connection: Connection,
    shard: ShardName,
    number: i64,
    source: String,
    token: i64,
}

/// Whether the stream has come to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Yes,
    NotInTime,
}

impl Receipt {
    pub(super) async fn open(
        shards: &Shards,
        stream: &Route,
        number: i64,
        token: i64,
    ) -> Result<Receipt, VerifyError> {
        let shard = stream.to.clone();
        let connection = shards.open(&shard).await;
        let receipt = Receipt {
            connection: connection.map_err(|e| VerifyError::of(&shard, e))?,
            shard,
            number,
            source: stream.from.0.to_string(),
            token,
        };
        receipt.applied().await?;
        Ok(receipt)
    }

    /// Waits until everything that the source had committed up to there is applied.
    pub(super) async fn reached(
        &self,
        place: Lsn,
        limit: Duration,
    ) -> Result<Reached, VerifyError> {
        let deadline = Instant::now() + limit;
        while self.applied().await? < place {
            if Instant::now() >= deadline {
                return Ok(Reached::NotInTime);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Reached::Yes)
    }

    /// Notes what the comparison found.
    pub(super) async fn note(&self, round: u32, differences: u64) -> Result<(), VerifyError> {
        let text = "UPDATE trunkline.reshard_streams SET verified_round = $4, differences = $5
            WHERE number = $1 AND source = $2 AND driver = $3";
        let round = i64::from(round);
        let differences = i64::try_from(differences).unwrap_or(i64::MAX);
        let [number, source, token] = self.row();
        let written = self
            .connection
            .execute(text, &[number, source, token, &round, &differences])
            .await;
        match written.map_err(|e| self.failed(e))? {
            0 => Err(VerifyError::LeaseLost),
            _ => Ok(()),
        }
    }

    async fn applied(&self) -> Result<Lsn, VerifyError> {
        let text = "SELECT applied FROM trunkline.reshard_streams
            WHERE number = $1 AND source = $2 AND driver = $3";
        let found = self.connection.query_opt(text, &self.row()).await;
        let found = found.map_err(|e| self.failed(e))?;
        let place: PgLsn = found.ok_or(VerifyError::LeaseLost)?.get(0);
        Ok(Lsn(place.into()))
    }

    /// The stream's row is found by these, and only as long as the lease is.
    fn row(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.number, &self.source, &self.token]
    }

    fn failed(&self, error: tokio_postgres::Error) -> VerifyError {
        VerifyError::of(&self.shard, error)
    }
}
