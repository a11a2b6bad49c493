//! Both sides compared exactly, while applications write.
//!
//! Chunk by chunk in the order of the key, both servers compute the number of rows and two sums of hashes over them. Where these are equal, the
//! chunk is. Where they are not, most likely changes are on their way: the keys whose rows look different become *suspects*, and
//! [`suspects`] judges each of them exactly, without watermarks and without stopping anybody. So one comparison has no false alarm, and misses
//! nothing but what two hashes of 64 bits miss.
//!
//! Rows are compared by the text of all their columns, generated ones included, under settings in which texts can be read back exactly.
//!
//! [`table`] goes through one table, [`rows`] is a table on one server, [`text`] has the SQL, [`receipt`] is the stream's row on the receiving shard.

mod receipt;
mod rows;
mod suspects;
mod table;
mod text;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use crate::resharding::job::{Route, ShardName, Side};

use super::progress::Tally;
use super::scope::{MovedTable, Scope};
use super::shards::{ShardError, Shards};
use super::table::{Shape, read};

use receipt::Receipt;
use rows::RowsAt;
use suspects::Pair;
use table::Comparison;
use text::{Texts, column};

/// Most differences that are described; all are counted.
pub const MOST_SAMPLES: usize = 20;

/// Tables that are compared at the same time.
const AT_ONCE: usize = 2;

/// What is to be compared.
pub struct Verify {
    pub shards: Shards,
    pub scope: Arc<Scope>,
    /// From the owner of the rows to the shard that gets its changes.
    pub stream: Route,
    /// Whose map is in force. The rows compared are those that `stream.from` owns under it: of the moves `from -> to` under the old map, of the
    /// moves `to -> from` under the new one. (Where a plan moves keys both ways between two shards, the other stream compares the others.)
    pub owner: Side,
    pub round: u32,
    /// The token of the lease of who compares, as `trunkline.reshard_streams` has it.
    pub token: i64,
    pub tally: Arc<Tally>,
    pub run: watch::Receiver<Run>,
    pub limits: Limits,
}

/// Whether the comparison goes on; looked at between chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Going,
    Paused,
}

/// How long and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of the owner's table in a chunk; fewer where they are slow.
    pub chunk_rows: u32,
    /// For what was committed to be applied on the other side.
    pub lag: Duration,
    /// For writers that are about to end, before a difference is believed.
    pub settle: Duration,
    /// So often rows that keep changing are looked at before they are held.
    pub tries: u32,
    /// For the lock on rows to be held.
    pub lock: Duration,
    /// For their changes to be applied, while they are held.
    pub hold: Duration,
    /// For what is left at the end of a table.
    pub undecided: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            chunk_rows: 20_000,
            lag: Duration::from_secs(120),
            settle: Duration::from_secs(5),
            tries: 3,
            lock: Duration::from_millis(200),
            hold: Duration::from_secs(1),
            undecided: Duration::from_secs(60),
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Of the owner.
    pub rows: u64,
    pub differences: u64,
    /// The first of them, in words.
    pub samples: Vec<Box<str>>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("shard {shard}: {error}")]
    Shard {
        shard: ShardName,
        #[source]
        error: Box<ShardError>,
    },
    #[error("shard {shard} has no table {table}")]
    Absent { shard: ShardName, table: Box<str> },
    #[error("table {table} has no key by which rows are found")]
    NoKey { table: Box<str> },
    #[error("column {column} of {table} is not the same on {owner} and {receiver}")]
    Columns {
        table: Box<str>,
        column: Box<str>,
        owner: ShardName,
        receiver: ShardName,
    },
    #[error("changes made on the owning shard were not applied on the other within {waited:?}")]
    Lagging { waited: Duration },
    #[error("another proxy has taken over the plan")]
    LeaseLost,
    /// They changed all the time, or somebody who wrote to the table did not end.
    #[error(
        "{rows} rows of {table} could not be compared within {waited:?}, one is {key}: they change all the time, or a transaction that writes to the table does not end"
    )]
    Undecided {
        table: Box<str>,
        key: Box<str>,
        rows: usize,
        waited: Duration,
    },
}

impl VerifyError {
    fn of(shard: &ShardName, error: impl Into<ShardError>) -> VerifyError {
        VerifyError::Shard {
            shard: shard.clone(),
            error: Box::new(error.into()),
        }
    }
}

/// Compares what the stream's owner and receiver have, and notes the result on the receiving shard. Dropping the future ends it, with
/// nothing left behind on the servers.
pub async fn verify(task: Verify) -> Result<Compared, VerifyError> {
    let number = i64::try_from(task.scope.number).unwrap_or(i64::MAX);
    let receipt = Receipt::open(&task.shards, &task.stream, number, task.token).await?;
    let mut comparisons = Vec::new();
    for table in &task.scope.tables {
        comparisons.push(task.compare(table, &receipt));
    }
    let comparisons = stream::iter(comparisons).buffer_unordered(AT_ONCE);
    let all: Vec<Compared> = comparisons.try_collect().await?;
    let compared = all.into_iter().fold(Compared::default(), Compared::and);
    receipt.note(task.round, compared.differences).await?;
    Ok(compared)
}

impl Verify {
    async fn compare(
        &self,
        table: &MovedTable,
        receipt: &Receipt,
    ) -> Result<Compared, VerifyError> {
        let key: Vec<String> = table.key.iter().map(|name| column(name)).collect();
        let Some(condition) = self.scope.condition_of_route(table, &self.route(), &key) else {
            return Ok(Compared::default());
        };
        let name = table.quoted();
        let Route { from, to } = &self.stream;
        let (ours, theirs) = (self.shape(from, table).await?, self.shape(to, table).await?);
        if ours.key.is_empty() {
            return Err(VerifyError::NoKey { table: name.into() });
        }
        if let Some(column) = unlike(&ours, &theirs) {
            return Err(VerifyError::Columns {
                table: name.into(),
                column,
                owner: from.clone(),
                receiver: to.clone(),
            });
        }
        let texts = Texts::new(&name, &ours, condition);
        let pair = Pair {
            owner: RowsAt::open(&self.shards, from, ours.oid, texts.clone()).await?,
            receiver: RowsAt::open(&self.shards, to, theirs.oid, texts).await?,
            receipt,
            number: self.scope.number,
            limits: &self.limits,
        };
        self.tally
            .table(&name, &self.stream, |table| table.compared_rows = 0);
        let comparison = Comparison {
            pair,
            shards: &self.shards,
            table: &name,
            key_names: Texts::key_names(&ours),
            stream: &self.stream,
            tally: &self.tally,
            run: self.run.clone(),
            suspects: Vec::new(),
            compared: Compared::default(),
        };
        comparison.run().await
    }

    /// Of the moves whose rows the stream's source owns.
    fn route(&self) -> Route {
        let Route { from, to } = self.stream.clone();
        match self.owner {
            Side::Old => Route { from, to },
            Side::New => Route { from: to, to: from },
        }
    }

    async fn shape(&self, shard: &ShardName, table: &MovedTable) -> Result<Shape, VerifyError> {
        let read = async {
            let connection = self.shards.open(shard).await?;
            Ok::<_, ShardError>(read(&connection, &table.schema, &table.name).await?)
        };
        let shape = read.await.map_err(|e| VerifyError::of(shard, e))?;
        shape.ok_or_else(|| VerifyError::Absent {
            shard: shard.clone(),
            table: table.quoted().into(),
        })
    }
}

impl Compared {
    fn and(mut self, other: Compared) -> Compared {
        self.rows += other.rows;
        self.differences += other.differences;
        self.samples.extend(other.samples);
        self.samples.truncate(MOST_SAMPLES);
        self
    }
}

/// A column that one side has not, or not with the type of the other. Their order is no matter.
fn unlike(ours: &Shape, theirs: &Shape) -> Option<Box<str>> {
    let missing = |of: &Shape, among: &Shape| {
        let mut columns = of.columns.iter();
        let there = |name: &str, type_name: &str| {
            among
                .place(name)
                .is_some_and(|place| *among.columns[place].type_name == *type_name)
        };
        columns
            .find(|one| !there(&one.name, &one.type_name))
            .map(|one| one.name.clone())
    };
    missing(ours, theirs).or_else(|| missing(theirs, ours))
}
