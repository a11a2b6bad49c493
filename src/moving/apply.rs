//! Changes of one source on one receiving shard, each batch in a transaction that says how far it goes.
//!
//! A batch comes to one statement for each table and kind of change, whatever the number of rows. Where such a statement meets a row that is in the way
//! (values that change places in a unique index), the changes are made one by one, as the source made them.
//!
//! While rows are still copied, a row that is in the way can also be one of the future: a chunk is newer than the changes that are applied. Then both rows
//! change again behind this place (in the source they never had the value together), so the change is left out and its row is *owed* until then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Statement};

use crate::resharding::job::{Route, ShardName};
use crate::wire::replication::Lsn;

use super::batch::{Batch, Change, Net, What};
use super::claim::{Claim, FlowError};
use super::place::Layout;
use super::progress::Tally;
use super::scope::Scope;
use super::seam::Seam;
use super::shards::{Connection, Shards};
use super::statements::{self, Mask};
use super::table::{self, Shape};
use super::tombstones::{KeyText, Rows, Snapshot, Tombstones};
use super::values::{Field, Values};

/// Most changes of a batch, and most bytes of it beyond one row.
const MOST_CHANGES: usize = 5000;
pub(super) const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Changes that are sent one by one together. (Up to 30 futures are begun in their order by `join_all`.)
const RUN: usize = 30;
/// From one batch to the next where few changes come, or none and only the place is written down: each costs the receiving server a write to its disk, and
/// its clients want that disk too. So many changes do not wait, nor does what somebody waits for.
const LEISURE: Duration = Duration::from_millis(500);
const MANY_CHANGES: usize = 2000;
/// How long a transaction of the source's log may stay unseen there, and how often is looked.
const UNSEEN: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(2);

/// What the reader of a source says to those who apply.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of the transaction that is being read.
    Changes(Vec<Change>, OwnedSemaphorePermit),
    /// Every transaction that ended at or before it has been said.
    Place { end: Lsn, last: Ended },
}

/// What was in a transaction that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// The term of a fence.
    pub fence: Option<i64>,
    /// Somebody waits until it is applied: whoever made the fence, or compares rows.
    pub is_awaited: bool,
}

/// Sees that the driver and the plan are the ones in force, and writes down how far this transaction goes. Whoever copies waits until it ends.
const HOLD: &str = "WITH open AS (SELECT FROM trunkline.reshard_ledger WHERE number = $1 AND NOT closed FOR SHARE)
    UPDATE trunkline.reshard_streams SET applied = $4::text::pg_lsn, fence_applied = coalesce($5, fence_applied)
    WHERE number = $1 AND source = $2 AND driver = $3 AND EXISTS (SELECT FROM open)";

/// Rows are found by their keys, whatever the planner thinks of arrays, and nobody waits for a plan of each batch.
const SETTINGS: &str = "SET session_replication_role = replica; SET plan_cache_mode = force_generic_plan; SET jit = off;
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// One who applies.
pub(super) struct Applier {
    pub claim: Claim,
    pub source: ShardName,
    pub scope: Arc<Scope>,
    pub seam: Arc<Seam>,
    pub tally: Arc<Tally>,
    pub shards: Shards,
    connection: Connection,
    hold: Statement,
    /// To the source, for values that the stream did not send.
    lookup: Option<Connection>,
    tables: HashMap<usize, Table>,
    /// The search path: schemas of the types of keys.
    path: String,
    /// As it is written down.
    applied: Lsn,
    /// When the last batch was begun.
    begun: Instant,
    route: Route,
    /// Whether the target may have a part of the first transaction that comes, of an earlier run.
    first: bool,
}

/// A table on the receiving shard.
struct Table {
    layout: Arc<Layout>,
    put: Statement,
    delete: Statement,
    /// By what is known.
    update: HashMap<Mask, Statement>,
    /// Columns beside those that rows are found by whose values only an INSERT can give.
    fixed: Vec<usize>,
}

/// Why a transaction was not made.
enum Failure {
    /// A row is in the way.
    InTheWay(Obstacle),
    Flow(FlowError),
}

/// A row that is in the way of another one.
enum Obstacle {
    /// The server says so.
    Met(Error),
    /// It has the same key, which says nothing about the shard, and another shard key.
    OfAnotherShardKey(Box<str>),
}

impl Obstacle {
    /// As what it ends the plan, where it is of no later moment.
    fn judged(self, what: Option<&str>) -> FlowError {
        match self {
            Obstacle::Met(error) => judged(error, what),
            Obstacle::OfAnotherShardKey(text) => FlowError::Trouble(text),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match is_in_the_way(&error) {
            true => Failure::InTheWay(Obstacle::Met(error)),
            false => Failure::Flow(judged(error, None)),
        }
    }
}

impl From<FlowError> for Failure {
    fn from(error: FlowError) -> Failure {
        Failure::Flow(error)
    }
}

/// A unique or an exclusion constraint; or two rows of a statement whose keys are written differently and equal.
pub(super) fn is_in_the_way(error: &Error) -> bool {
    let code = error.code().map(|code| code.code());
    matches!(code, Some("23505" | "23P01" | "21000"))
}

/// What a server's refusal means for the plan.
pub(super) fn judged(error: Error, what: Option<&str>) -> FlowError {
    let Some(said) = error.as_db_error() else {
        return error.into();
    };
    let code = said.code().code();
    let stops = ["0A", "21", "22", "23", "2F", "38", "42", "44", "54", "P0"]
        .iter()
        .any(|class| code.starts_with(class));
    if !stops {
        return error.into();
    }
    let detail = said.detail().map_or(String::new(), |d| format!("; {d}"));
    let table = match (what, said.table()) {
        (Some(what), _) => format!("{what}: "),
        (None, Some(table)) => format!("table {table}: "),
        (None, None) => String::new(),
    };
    FlowError::trouble(format!("{table}{}{detail} ({code})", said.message()))
}

/// What has come and is not applied.
struct Waiting {
    batch: Batch,
    permits: Vec<OwnedSemaphorePermit>,
    /// Reached when the batch is applied.
    end: Lsn,
    fence: Option<i64>,
    is_awaited: bool,
    /// The end of a transaction is not here yet.
    inside: bool,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.batch.len() >= MOST_CHANGES || self.batch.bytes() >= MOST_BYTES
    }
}

impl Applier {
    /// Claims the stream and makes ready. The place that is reached is in the seam from its return on.
    pub async fn begin(
        scope: Arc<Scope>,
        claim: Claim,
        source: ShardName,
        seam: Arc<Seam>,
        shards: Shards,
        tally: Arc<Tally>,
    ) -> Result<Applier, FlowError> {
        let connection = shards.open(&claim.shard).await?;
        let claimed = claim.take(&connection).await?;
        connection
            .batch_execute(SETTINGS)
            .await
            .map_err(|error| judged(error, Some("replicated rows cannot be written")))?;
        let hold = connection.prepare(HOLD).await?;
        let route = Route {
            from: source.clone(),
            to: claim.shard.clone(),
        };
        let copied = claimed.copied || !scope.moves_on(&route);
        if copied {
            seam.tombstones.write().await.rows = Rows::Exact;
        }
        seam.note_applied(claimed.applied);
        Ok(Applier {
            claim,
            source,
            scope,
            seam,
            tally,
            shards,
            connection,
            hold,
            lookup: None,
            tables: HashMap::new(),
            path: "pg_catalog".to_owned(),
            applied: claimed.applied,
            begun: Instant::now(),
            route,
            first: true,
        })
    }

    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// Applies what comes, until nothing can come any more.
    pub async fn run(
        mut self,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
    ) -> Result<(), FlowError> {
        let mut waiting = Waiting {
            batch: Batch::default(),
            permits: Vec::new(),
            end: self.applied,
            fence: None,
            is_awaited: false,
            inside: false,
        };
        loop {
            let piece = match self.due(&waiting) {
                Some(due) => timeout_at(due, pieces.recv()).await,
                None => Ok(pieces.recv().await),
            };
            match piece {
                Ok(None) => return Ok(()),
                Ok(Some(piece)) => self.take(piece, &mut waiting).await?,
                Err(_) => {}
            }
            while !waiting.is_full()
                && !waiting.is_awaited
                && let Ok(piece) = pieces.try_recv()
            {
                self.take(piece, &mut waiting).await?;
            }
            let is_due = { self.due(&waiting) }.is_some_and(|due| Instant::now() >= due);
            if waiting.is_full() || is_due {
                self.flush(&mut waiting).await?;
            }
        }
    }

    /// When what waits is to be applied. `None`: not before more has come.
    fn due(&self, waiting: &Waiting) -> Option<Instant> {
        let at_once = waiting.is_awaited || waiting.batch.len() >= MANY_CHANGES;
        let is_something = !waiting.batch.is_empty() || waiting.end > self.applied;
        match waiting.inside {
            false if at_once => Some(self.begun),
            false if is_something => Some(self.begun + LEISURE),
            _ => None,
        }
    }

    async fn take(&mut self, piece: Piece, waiting: &mut Waiting) -> Result<(), FlowError> {
        match piece {
            Piece::Changes(changes, permit) => {
                waiting.inside = true;
                for change in changes {
                    if !waiting.batch.suits(&change) {
                        self.flush(waiting).await?;
                    }
                    waiting.batch.push(change);
                }
                waiting.permits.push(permit);
            }
            Piece::Place { end, last } => {
                waiting.inside = false;
                waiting.end = waiting.end.max(end);
                waiting.fence = last.fence.or(waiting.fence);
                waiting.is_awaited |= last.is_awaited;
            }
        }
        Ok(())
    }

    /// Applies what waits.
    async fn flush(&mut self, waiting: &mut Waiting) -> Result<(), FlowError> {
        self.begun = Instant::now();
        let (end, fence) = (waiting.end, waiting.fence.take());
        waiting.is_awaited = false;
        let changes = waiting.batch.len() as u64;
        for change in waiting.batch.changes() {
            self.meet(&change.layout).await?;
        }
        let seam = Arc::clone(&self.seam);
        let mut tombstones = seam.tombstones.write().await;
        // Before it is done: a chunk that is written later must know.
        for net in waiting.batch.net() {
            for change in net.deleted {
                tombstones.note(change.layout.table, key_text(&change.key), change.xid);
            }
        }
        match self.at_once(&waiting.batch, end, fence).await {
            Ok(()) if tombstones.owes_anything() => {
                for net in waiting.batch.net() {
                    for change in net.deleted.iter().chain(&net.whole).chain(&net.partial) {
                        tombstones.settle(change.layout.table, key_text(&change.key));
                    }
                }
            }
            Ok(()) => {}
            Err(Failure::Flow(error)) => return Err(error),
            Err(Failure::InTheWay(_)) => {
                self.connection.batch_execute("ROLLBACK").await?;
                let rows = match self.first {
                    true => Rows::Catching,
                    false => tombstones.rows,
                };
                self.one_by_one(&waiting.batch, end, fence, rows, &tombstones)
                    .await?;
            }
        }
        if !waiting.inside && !waiting.batch.is_empty() {
            self.first = false;
        }
        if tombstones.rows == Rows::Exact
            && !self.first
            && let Some(why) = tombstones.owed()
        {
            return Err(FlowError::trouble(why));
        }
        drop(tombstones);
        self.applied = end;
        self.seam.note_applied(end);
        waiting.batch.clear();
        waiting.permits.clear();
        if changes > 0 {
            self.tally
                .stream(&self.route, |stream| stream.changes += changes);
        }
        Ok(())
    }

    /// The net effect in one transaction.
    async fn at_once(
        &mut self,
        batch: &Batch,
        end: Lsn,
        fence: Option<i64>,
    ) -> Result<(), Failure> {
        self.open(end, fence).await?;
        for net in batch.net() {
            self.apply(&net).await?;
        }
        self.connection.batch_execute("COMMIT").await?;
        Ok(())
    }

    async fn open(&self, end: Lsn, fence: Option<i64>) -> Result<(), FlowError> {
        self.connection
            .batch_execute(&begin(self.claim.number))
            .await?;
        let (claim, end) = (&self.claim, end.to_string());
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&claim.number, &&*claim.source, &claim.token, &end, &fence];
        match self.connection.execute(&self.hold, &parameters).await? {
            1 => Ok(()),
            _ => Err(claim.lost()),
        }
    }

    async fn apply(&mut self, net: &Net<'_>) -> Result<(), Failure> {
        let table = &self.tables[&net.layout.table];
        if !net.deleted.is_empty() {
            let keys: Vec<_> = net.deleted.iter().map(|change| &change.key).collect();
            self.execute(&table.delete, &keys).await?;
        }
        if !net.whole.is_empty() {
            let rows: Vec<_> = net.whole.iter().filter_map(|change| row(change)).collect();
            self.put(table, &rows).await?;
        }
        if !net.partial.is_empty() {
            self.complete(net).await?;
        }
        Ok(())
    }

    async fn put(&self, table: &Table, rows: &[&Values]) -> Result<(), Failure> {
        let put = self.execute(&table.put, rows).await?;
        if table.layout.key_may_repeat() && put < rows.len() as u64 {
            let text = format!(
                "{} on {} has a row with the key of another one that moves there, and another shard key: keys must differ on all shards",
                table.layout.name, self.claim.shard.0
            );
            return Err(Failure::InTheWay(Obstacle::OfAnotherShardKey(text.into())));
        }
        Ok(())
    }

    /// Runs a statement that takes an array for each column of rows.
    async fn execute(&self, statement: &Statement, rows: &[&Values]) -> Result<u64, Error> {
        let arrays = arrays(rows, None);
        let parameters: Vec<_> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        self.connection.execute(statement, &parameters).await
    }

    /// Rows of which some values were not sent: they are on the receiving shard, or else on the source.
    async fn complete(&mut self, net: &Net<'_>) -> Result<(), Failure> {
        let mut masks: HashMap<Mask, Vec<&Change>> = HashMap::new();
        for change in &net.partial {
            let Some(row) = row(change) else { continue };
            let mask = row.fields().map(|field| field != Field::Unchanged);
            masks.entry(mask.collect()).or_default().push(change);
        }
        for (mask, changes) in masks {
            let missing = self.update(net.layout, &mask, &changes).await?;
            if missing.is_empty() {
                continue;
            }
            let found = self.fetch(net.layout, &mask, &missing).await?;
            if !found.is_empty() {
                let table = &self.tables[&net.layout.table];
                self.put(table, &found.iter().collect::<Vec<_>>()).await?;
            }
        }
        Ok(())
    }

    /// Writes what is known; those are left whose rows are not there.
    async fn update<'a>(
        &mut self,
        layout: &Arc<Layout>,
        mask: &Mask,
        changes: &[&'a Change],
    ) -> Result<Vec<&'a Change>, Error> {
        let table = self.tables.get_mut(&layout.table).expect("was met");
        if !table.update.contains_key(mask) {
            let text = statements::update(layout, mask, &table.fixed);
            let statement = self.connection.prepare(&text).await?;
            table.update.insert(mask.clone(), statement);
        }
        let rows: Vec<_> = changes.iter().filter_map(|change| row(change)).collect();
        let arrays = arrays(&rows, Some(&statements::known(mask)));
        let parameters: Vec<_> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        let done = self
            .connection
            .query(&table.update[mask], &parameters)
            .await?;
        let mut missing = vec![true; changes.len()];
        for row in done {
            let place: i64 = row.get(0);
            if let Some(missing) = usize::try_from(place - 1)
                .ok()
                .and_then(|n| missing.get_mut(n))
            {
                *missing = false;
            }
        }
        let missing = { changes.iter().zip(missing) }.filter(|(_, missing)| *missing);
        Ok(missing.map(|(change, _)| *change).collect())
    }

    /// The rows, with what they lack as the source has it now: what has changed since comes again. Without those that are gone meanwhile.
    async fn fetch(
        &mut self,
        layout: &Layout,
        mask: &Mask,
        changes: &[&Change],
    ) -> Result<Vec<Values>, FlowError> {
        let lookup = match self.lookup.take() {
            Some(lookup) => self.lookup.insert(lookup),
            None => self.lookup.insert(self.shards.open(&self.source).await?),
        };
        wait_until_seen(lookup, &self.source, changes).await?;
        lookup
            .batch_execute(&format!("SET search_path = {}", self.path))
            .await?;
        let keys: Vec<_> = changes.iter().map(|change| &change.key).collect();
        let arrays = arrays(&keys, None);
        let parameters: Vec<_> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        let rows = lookup
            .query(&statements::fetch(layout, mask), &parameters)
            .await
            .map_err(|error| judged(error, Some(&layout.name)))?;
        let found = rows.iter().filter_map(|answer| {
            let place = usize::try_from(answer.get::<_, i64>(0) - 1).ok()?;
            let known = row(changes.get(place)?)?;
            let mut next = 1..;
            let fields: Vec<Field<'_>> = known
                .fields()
                .map(|field| match field {
                    Field::Unchanged => {
                        let column = next.next().expect("it has no end");
                        { answer.get::<_, Option<&str>>(column) }.map_or(Field::Null, Field::Text)
                    }
                    field => field,
                })
                .collect();
            Some(Values::of(&fields))
        });
        Ok(found.collect())
    }

    /// The changes as the source made them, in one transaction.
    async fn one_by_one(
        &mut self,
        batch: &Batch,
        end: Lsn,
        fence: Option<i64>,
        rows: Rows,
        tombstones: &Tombstones,
    ) -> Result<(), FlowError> {
        self.open(end, fence).await?;
        self.connection
            .batch_execute("SET CONSTRAINTS ALL DEFERRED")
            .await?;
        let mut rest = batch.changes();
        while let Some(first) = rest.first() {
            let simple = { rest.iter() }.take_while(|change| !change.lacks_values());
            let run = &rest[..simple.take(RUN).count()];
            if run.is_empty() {
                // Nothing can be in its way that it does not find there itself.
                let net = Net {
                    layout: &first.layout,
                    deleted: Vec::new(),
                    whole: Vec::new(),
                    partial: vec![first],
                };
                self.connection.batch_execute("SAVEPOINT one").await?;
                let done = self.apply(&net).await;
                self.settle(done, first, rows, tombstones).await?;
                rest = &rest[1..];
                continue;
            }
            self.connection.batch_execute("SAVEPOINT one").await?;
            match self.in_order(run).await {
                Ok(()) => {
                    self.settle(Ok(()), first, rows, tombstones).await?;
                    for change in run {
                        tombstones.settle(change.layout.table, key_text(&change.key));
                    }
                    rest = &rest[run.len()..];
                }
                Err((failed, failure)) => {
                    if failed > 0 && matches!(failure, Failure::InTheWay(_)) {
                        // Those before it were undone with it.
                        self.connection
                            .batch_execute("ROLLBACK TO SAVEPOINT one")
                            .await?;
                        if let Err((_, failure)) = self.in_order(&run[..failed]).await {
                            return Err(match failure {
                                Failure::Flow(error) => error,
                                Failure::InTheWay(obstacle) => {
                                    FlowError::again(obstacle.judged(None))
                                }
                            });
                        }
                        self.connection
                            .batch_execute("RELEASE SAVEPOINT one; SAVEPOINT one")
                            .await?;
                        for change in &run[..failed] {
                            tombstones.settle(change.layout.table, key_text(&change.key));
                        }
                    }
                    self.settle(Err(failure), &run[failed], rows, tombstones)
                        .await?;
                    rest = &rest[failed + 1..];
                }
            }
        }
        let done = self.connection.batch_execute("COMMIT").await;
        done.map_err(|error| judged(error, None))
    }

    /// Changes with all their values, each in a statement, sent together. Else which of them failed.
    async fn in_order(&self, changes: &[Change]) -> Result<(), (usize, Failure)> {
        let made = changes.iter().map(async |change| {
            let table = &self.tables[&change.layout.table];
            match &change.what {
                What::Delete => {
                    self.execute(&table.delete, &[&change.key]).await?;
                    Ok(())
                }
                What::Put(row) => self.put(table, &[row]).await,
            }
        });
        let made: Vec<Result<(), Failure>> = join_all(made).await;
        let failed = made.into_iter().enumerate();
        { failed }
            .find_map(|(place, made)| Some((place, made.err()?)))
            .map_or(Ok(()), Err)
    }

    /// Ends the savepoint of a change. Of one that something is in the way of the row is left out, as long as rows may be of later moments.
    async fn settle(
        &self,
        made: Result<(), Failure>,
        change: &Change,
        rows: Rows,
        tombstones: &Tombstones,
    ) -> Result<(), FlowError> {
        match made {
            Ok(()) => tombstones.settle(change.layout.table, key_text(&change.key)),
            Err(Failure::Flow(error)) => return Err(error),
            Err(Failure::InTheWay(obstacle)) if rows == Rows::Exact => {
                return Err(obstacle.judged(Some(&self.named(change))));
            }
            Err(Failure::InTheWay(obstacle)) => {
                self.connection
                    .batch_execute("ROLLBACK TO SAVEPOINT one")
                    .await?;
                let table = &self.tables[&change.layout.table];
                self.execute(&table.delete, &[&change.key]).await?;
                let why = obstacle.judged(Some(&self.named(change))).to_string();
                tombstones.owe(change.layout.table, key_text(&change.key), why.into());
            }
        }
        let released = self.connection.batch_execute("RELEASE SAVEPOINT one");
        Ok(released.await?)
    }

    /// A row for people.
    fn named(&self, change: &Change) -> String {
        let key = key_text(&change.key).join(", ");
        format!(
            "row ({key}) of {} on {}",
            change.layout.name, self.claim.shard.0
        )
    }

    /// Sees that a table of the stream is the one on the receiving shard.
    async fn meet(&mut self, layout: &Arc<Layout>) -> Result<(), FlowError> {
        let known = self.tables.get(&layout.table);
        if known.is_some_and(|known| Arc::ptr_eq(&known.layout, layout)) {
            return Ok(());
        }
        let moved = &self.scope.tables[layout.table];
        let connection = &self.connection;
        connection
            .batch_execute("SET search_path = pg_catalog")
            .await?;
        let shape = table::read(connection, &moved.schema, &moved.name).await?;
        let shape = shape.ok_or_else(|| self.differs(layout, "it is not there"))?;
        if let Some(difference) = difference(layout, &shape) {
            return Err(self.differs(layout, &difference));
        }
        // What is prepared already is planned anew under another path, so it only grows.
        for schema in key_schemas(connection, layout).await? {
            if !self.path.split(", ").any(|known| known == schema) {
                self.path.push_str(", ");
                self.path.push_str(&schema);
            }
        }
        connection
            .batch_execute(&format!("SET search_path = {}", self.path))
            .await?;
        let rows = connection.query(FIXED, &[&shape.oid]).await?;
        let fixed: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let named = |place: &usize| fixed.contains(&&*layout.columns[*place].name);
        let fixed: Vec<usize> = { (0..layout.columns.len()).filter(named) }
            .filter(|place| !layout.found_by.contains(place))
            .collect();
        let refused = |error| judged(error, Some(&layout.name));
        let put = statements::put(layout, &fixed);
        let put = connection.prepare(&put).await.map_err(refused)?;
        let delete = connection.prepare(&statements::delete(layout)).await;
        let table = Table {
            layout: Arc::clone(layout),
            put,
            delete: delete.map_err(refused)?,
            update: HashMap::new(),
            fixed,
        };
        self.tables.insert(layout.table, table);
        Ok(())
    }

    fn differs(&self, layout: &Layout, how: &str) -> FlowError {
        FlowError::trouble(format!(
            "{} on {} is not as on {}: {how}; make them the same, then RESUME",
            layout.name, self.claim.shard.0, self.source.0
        ))
    }
}

/// Until the source shows what these changes have made of it. A commit is in the log before anyone can see it, and much earlier where it waits for a
/// synchronous standby; whoever looks before does not find the row by its key.
async fn wait_until_seen(
    lookup: &Connection,
    source: &ShardName,
    changes: &[&Change],
) -> Result<(), FlowError> {
    let deadline = Instant::now() + UNSEEN;
    loop {
        let row = lookup.query_one(NOW, &[]).await?;
        let now: Snapshot = row.get::<_, &str>(0).parse().map_err(FlowError::again)?;
        let Some(unseen) = changes.iter().find(|change| !now.sees_recent(change.xid)) else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            return Err(FlowError::again(format!(
                "transaction {} of {} is in its log, and could not be seen there for {UNSEEN:?}: it may wait for a synchronous standby",
                unseen.xid.0, source.0
            )));
        }
        sleep(LOOK).await;
    }
}

const NOW: &str = "SELECT pg_catalog.pg_current_snapshot()::text";

/// `GENERATED ALWAYS AS IDENTITY`: an UPDATE can set no value.
const FIXED: &str = "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attidentity = 'a' AND attnum > 0";

/// The beginning of a transaction that writes moved rows: marked, so that nobody follows it.
pub(super) fn begin(number: i64) -> String {
    format!(
        "BEGIN; SELECT pg_catalog.pg_logical_emit_message(true, '{}', '{number}')",
        super::remove::MOVED_PREFIX
    )
}

/// What is not the same on the receiving shard.
pub(super) fn difference(layout: &Layout, shape: &Shape) -> Option<String> {
    for sent in &layout.columns {
        let there = shape.written().find(|(_, column)| column.name == sent.name);
        match there {
            None => return Some(format!("it has no column {}", sent.name)),
            Some((_, column)) if column.type_name != sent.type_name => {
                return Some(format!(
                    "column {} has type {} there, and {} on the source",
                    sent.name, column.type_name, sent.type_name
                ));
            }
            Some(_) => {}
        }
    }
    let more = shape.written().find(|(_, column)| {
        let same = |sent: &super::place::Sent| sent.name == column.name;
        !layout.columns.iter().any(same)
    });
    more.map(|(_, column)| format!("it has one more column, {}", column.name))
}

/// The schemas of the types of what rows are found by, where their operators are.
const KEY_SCHEMAS: &str = "WITH RECURSIVE typed AS (
      SELECT t.typnamespace, t.typbasetype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = $1::text::regclass AND a.attname = ANY ($2)
      UNION SELECT t.typnamespace, t.typbasetype FROM typed JOIN pg_catalog.pg_type t ON t.oid = typed.typbasetype)
    SELECT DISTINCT pg_catalog.quote_ident(n.nspname) FROM typed JOIN pg_catalog.pg_namespace n ON n.oid = typed.typnamespace
    WHERE n.nspname <> 'pg_catalog' ORDER BY 1";

/// In whose search path the keys of a table are compared as its indexes do.
pub(super) async fn key_schemas(
    client: &tokio_postgres::Client,
    layout: &Layout,
) -> Result<Vec<String>, Error> {
    let names: Vec<&str> = { layout.found_by.iter() }
        .map(|place| &*layout.columns[*place].name)
        .collect();
    let rows = client.query(KEY_SCHEMAS, &[&&*layout.name, &names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn row(change: &Change) -> Option<&Values> {
    match &change.what {
        What::Delete => None,
        What::Put(row) => Some(row),
    }
}

/// A key as its texts.
pub(super) fn key_text(key: &Values) -> KeyText {
    { key.fields() }
        .map(|field| field.text().unwrap_or_default().into())
        .collect()
}

/// An array for each column, of these columns only.
fn arrays<'a>(rows: &[&'a Values], places: Option<&[usize]>) -> Vec<Vec<Option<&'a str>>> {
    let width = match (places, rows.first()) {
        (Some(places), _) => places.len(),
        (None, Some(row)) => row.fields().count(),
        (None, None) => 0,
    };
    let mut arrays: Vec<Vec<_>> = vec![Vec::with_capacity(rows.len()); width];
    for row in rows {
        match places {
            None => {
                for (array, field) in arrays.iter_mut().zip(row.fields()) {
                    array.push(field.text());
                }
            }
            Some(places) => {
                let fields: Vec<_> = row.fields().collect();
                for (array, place) in arrays.iter_mut().zip(places) {
                    array.push(fields[*place].text());
                }
            }
        }
    }
    arrays
}
