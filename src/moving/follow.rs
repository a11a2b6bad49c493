//! Changes of one source, from its slot to the shards that receive them.
//!
//! One task reads the stream and places each change; for each receiving shard another one applies ([`apply`](super::apply)). Between them is a queue
//! with a limit in bytes. The source is told to forget what all receiving shards have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::backend::replication::{
    ChangeStream, Event, Limits, Logical, PublicationName, SlotName, StreamRequest,
};
use crate::resharding::job::{Route, ShardName};
use crate::sharding::ShardId;
use crate::store::Token;
use crate::wire::replication::{
    Emission, Lsn, Message, OwnedRelation, RelationId, Row, Value, Xid,
};

use super::apply::{Applier, Ended, MOST_BYTES, Piece};
use super::batch::{Change, What};
use super::claim::{Claim, FlowError};
use super::place::{Layout, PlaceError};
use super::progress::Tally;
use super::scope::Scope;
use super::seam::Seam;
use super::shards::{Connection, Shards};
use super::table;
use super::values::{Field, Values};

/// Bytes of changes that wait for one receiving shard, but for one row.
const QUEUE: usize = 16 * 1024 * 1024;
/// Bytes and changes that are given to a receiving shard together.
const PIECE_BYTES: usize = 128 * 1024;
const PIECE_CHANGES: usize = 512;
/// How often is looked after what waits for no change.
const TICK: Duration = Duration::from_millis(25);
/// How often the source is told what it may forget.
const REPORT: Duration = Duration::from_secs(1);
/// How often the end of the source's log is asked for.
const LOOK: Duration = Duration::from_millis(200);
/// Log that is as good as none.
const LITTLE: u64 = 1024 * 1024;
/// How long a slot may stay in use by an earlier connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// By the first message of a transaction that nobody follows.
const MOVED: &str = super::remove::MOVED_PREFIX;
const FENCE: &str = super::ledger::FENCE_PREFIX;
const MARK: &str = super::ledger::MARK_PREFIX;

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

impl Followed {
    /// All that receive are.
    pub fn is_caught_up(&self) -> bool {
        self.targets.values().all(|target| target.caught_up)
    }
}

/// How far a receiving shard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub applied: Lsn,
    /// Less than a megabyte of log is left; or what was in it some 200 ms ago has been read, and no more than a batch waits.
    pub caught_up: bool,
}

/// Follows until something ends it; to drop the future ends it as well, anywhere. Claims the streams for `token` first.
pub async fn follow(
    task: Follow,
    shards: Shards,
    tally: Arc<Tally>,
    seen: watch::Sender<Followed>,
) -> Result<(), FlowError> {
    let slot = SlotName::new(&*task.slot).map_err(FlowError::trouble)?;
    let publication = PublicationName::new(&*task.publication).map_err(FlowError::trouble)?;
    let mut tasks = JoinSet::new();
    let mut targets = Vec::new();
    for (shard, seam) in &task.targets {
        let claim = Claim::new(task.scope.number, &task.source, shard, task.token);
        let applier = Applier::begin(
            Arc::clone(&task.scope),
            claim,
            task.source.clone(),
            Arc::clone(seam),
            shards.clone(),
            Arc::clone(&tally),
        );
        let applier = applier.await?;
        let (pieces, receiver) = mpsc::unbounded_channel();
        targets.push(Target {
            shard: shard.clone(),
            id: id_of(&task.scope, shard)?,
            seam: Arc::clone(seam),
            from: applier.applied(),
            room: Arc::new(Semaphore::new(QUEUE)),
            pieces,
            changes: Vec::new(),
            bytes: 0,
            said: applier.applied(),
        });
        tasks.spawn(applier.run(receiver));
    }
    let sql = shards.open(&task.source).await?;
    let stream = start(&shards, &sql, &task.source, slot, publication, &targets).await?;
    let end = watch::Sender::new(Lsn(0));
    let log_end = end.subscribe();
    let clock = shards.open(&task.source).await?;
    tasks.spawn(async move { Err(watch_end(clock, end).await) });
    let reader = Reader {
        source: id_of(&task.scope, &task.source)?,
        source_name: task.source,
        scope: task.scope,
        sql,
        layouts: HashMap::new(),
        transaction: None,
        end: Lsn(0),
        targets,
    };
    let watcher = Watcher {
        seen,
        tally,
        log_end,
        earlier_end: Lsn(0),
        looked: Instant::now(),
        reported: Instant::now(),
    };
    reader.read(stream, tasks, watcher).await
}

fn id_of(scope: &Scope, shard: &ShardName) -> Result<ShardId, FlowError> {
    let place = scope.shards.iter().position(|one| *one == shard.0);
    let id = place.and_then(|place| u16::try_from(place).ok());
    id.map(ShardId)
        .ok_or_else(|| FlowError::trouble(format!("the configuration has no shard {}", shard.0)))
}

/// Ends who still reads the slot: it was claimed, so that is an earlier driver, or an earlier connection of this one.
const END_READER: &str =
    "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
    WHERE slot_name = $1 AND active_pid IS NOT NULL";

async fn start(
    shards: &Shards,
    sql: &Connection,
    source: &ShardName,
    slot: SlotName,
    publication: PublicationName,
    targets: &[Target],
) -> Result<ChangeStream, FlowError> {
    let request = StreamRequest {
        messages: Logical::Sent,
        ..StreamRequest::new(slot.clone(), Lsn(0), publication)
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut connection = shards.open_replication(source).await?;
        let state = connection.slot(&slot).await?;
        let confirmed = state.and_then(|state| state.confirmed);
        for target in targets {
            // Nothing was forgotten by the source that is not on the receiving shard, unless that has lost something.
            if target.from > Lsn(0) && confirmed.is_some_and(|confirmed| confirmed > target.from) {
                return Err(FlowError::trouble(format!(
                    "{} has changes of {} up to {} only, and the log of {} was let go up to {}: it has lost a part of its own log",
                    target.shard.0,
                    source.0,
                    target.from,
                    source.0,
                    confirmed.unwrap_or_default()
                )));
            }
        }
        match connection.start(&request, Limits::default()).await {
            Err(error) if error.sqlstate() == Some("55006") && Instant::now() < deadline => {
                sql.execute(END_READER, &[&slot.as_str()]).await?;
                sleep(TICK).await;
            }
            started => return Ok(started?),
        }
    }
}

/// Asks for the end of the log, again and again.
async fn watch_end(connection: Connection, end: watch::Sender<Lsn>) -> FlowError {
    loop {
        let row = match connection
            .query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[])
            .await
        {
            Ok(row) => row,
            Err(error) => return error.into(),
        };
        match row.get::<_, &str>(0).parse() {
            Ok(place) => end.send_replace(place),
            Err(error) => return FlowError::again(error),
        };
        sleep(LOOK).await;
    }
}

/// A receiving shard, as the reader knows it.
struct Target {
    shard: ShardName,
    id: ShardId,
    seam: Arc<Seam>,
    /// What ended at or before is there.
    from: Lsn,
    room: Arc<Semaphore>,
    pieces: mpsc::UnboundedSender<Piece>,
    /// To be sent.
    changes: Vec<Change>,
    bytes: usize,
    /// The last place that was told.
    said: Lsn,
}

impl Target {
    /// Waits for room.
    async fn send(&mut self) -> Result<(), FlowError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes).min(QUEUE);
        let changes = std::mem::take(&mut self.changes);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        let room = room.map_err(FlowError::again)?;
        self.tell(Piece::Changes(changes, room))
    }

    fn tell(&self, piece: Piece) -> Result<(), FlowError> {
        // Its end is told by its task.
        self.pieces
            .send(piece)
            .map_err(|_| FlowError::again("a receiving shard is not written to any more"))
    }
}

/// The transaction that is being read.
struct Transaction {
    xid: Xid,
    /// Whether it is left out; `None`: nothing of it has come.
    marked: Option<bool>,
    /// The end cannot be before it.
    commit: Lsn,
    end: Ended,
}

/// Places changes.
struct Reader {
    scope: Arc<Scope>,
    source: ShardId,
    source_name: ShardName,
    sql: Connection,
    /// `None`: of no table that moves.
    layouts: HashMap<RelationId, Option<(OwnedRelation, Arc<Layout>)>>,
    transaction: Option<Transaction>,
    /// Everything before has been read.
    end: Lsn,
    targets: Vec<Target>,
}

/// What a message asks for beyond what was done with it.
enum Next {
    Nothing,
    /// Pieces have become large.
    Send,
    /// A transaction has ended.
    End(Ended),
    Describe(OwnedRelation),
}

impl Reader {
    async fn read(
        mut self,
        mut stream: ChangeStream,
        mut tasks: JoinSet<Result<(), FlowError>>,
        mut watcher: Watcher,
    ) -> Result<(), FlowError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                biased;
                Some(ended) = tasks.join_next() => return ended_by(ended),
                _ = ticks.tick() => {
                    self.tell_place(Ended::default())?;
                    watcher.look(&self, &mut stream).await?;
                    continue;
                }
                event = stream.next() => match event? {
                    None => return Err(FlowError::again("the source has ended the stream")),
                    Some(Event::Keepalive { end, .. }) => {
                        if self.transaction.is_none() {
                            self.end = self.end.max(end);
                        }
                        Next::Nothing
                    }
                    Some(Event::Change { message, .. }) => self.take(message)?,
                },
            };
            match next {
                Next::Nothing => {}
                Next::Describe(relation) => {
                    let described = self.describe(relation);
                    stream.during(described).await?;
                }
                Next::Send | Next::End(_) => {
                    let sending = async {
                        for target in &mut self.targets {
                            tokio::select! {
                                biased;
                                Some(ended) = tasks.join_next() => return ended_by(ended),
                                sent = target.send() => sent?,
                            }
                        }
                        Ok(())
                    };
                    stream.during(sending).await?;
                    if let Next::End(last) = next {
                        self.tell_place(last)?;
                    }
                }
            }
        }
    }

    fn take(&mut self, message: Message<'_>) -> Result<Next, FlowError> {
        match message {
            Message::Begin { commit, xid, .. } => {
                self.transaction = Some(Transaction {
                    xid,
                    marked: None,
                    commit,
                    end: Ended::default(),
                });
            }
            Message::Commit { end, .. } => {
                self.end = self.end.max(end);
                let transaction = self.transaction.take();
                return Ok(Next::End(
                    transaction.map_or_else(Ended::default, |one| one.end),
                ));
            }
            Message::Message {
                emission: Emission::Transactional,
                prefix,
                content,
                ..
            } => self.message(prefix, content)?,
            Message::Relation { relation, .. } => {
                let moved = { self.scope.tables.iter() }
                    .any(|one| *one.schema == *relation.schema && *one.name == *relation.name);
                if moved {
                    return Ok(Next::Describe(relation.to_owned()));
                }
                self.layouts.insert(relation.id, None);
            }
            Message::Insert { relation, row, .. } => self.change(relation, None, Some(row))?,
            Message::Update {
                relation, old, new, ..
            } => self.change(relation, old.map(|old| old.row()), Some(new))?,
            Message::Delete { relation, old, .. } => {
                self.change(relation, Some(old.row()), None)?;
            }
            Message::Truncate { relations, .. } if self.is_followed() => {
                for id in relations.iter() {
                    if let Some(Some((_, layout))) = self.layouts.get(&id) {
                        return Err(FlowError::trouble(format!(
                            "{} was truncated on {}, which removes rows without a word about each",
                            layout.name, self.source_name.0
                        )));
                    }
                }
            }
            _ => {}
        }
        let is_large =
            |target: &Target| target.bytes >= PIECE_BYTES || target.changes.len() >= PIECE_CHANGES;
        Ok(match self.targets.iter().any(is_large) {
            true => Next::Send,
            false => Next::Nothing,
        })
    }

    fn message(&mut self, prefix: &str, content: &[u8]) -> Result<(), FlowError> {
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        let marked = *transaction.marked.get_or_insert(prefix == MOVED);
        let of_plan = |number: &str| number.parse() == Ok(self.scope.number);
        match (prefix, std::str::from_utf8(content)) {
            _ if marked => {}
            (FENCE, content) => {
                let fence = content.ok().and_then(|content| content.split_once(':'));
                let strange = || FlowError::again("a fence that cannot be read");
                let (number, term) = fence.ok_or_else(strange)?;
                if of_plan(number) {
                    transaction.end.fence = Some(term.parse().map_err(|_| strange())?);
                    transaction.end.is_awaited = true;
                }
            }
            (MARK, Ok(number)) if of_plan(number) => transaction.end.is_awaited = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether the changes of this transaction are followed.
    fn is_followed(&mut self) -> bool {
        match &mut self.transaction {
            Some(transaction) => !*transaction.marked.get_or_insert(false),
            None => false,
        }
    }

    fn change(
        &mut self,
        relation: RelationId,
        old: Option<Row<'_>>,
        new: Option<Row<'_>>,
    ) -> Result<(), FlowError> {
        if !self.is_followed() {
            return Ok(());
        }
        let Some(transaction) = &self.transaction else {
            return Ok(());
        };
        let (xid, commit) = (transaction.xid, transaction.commit);
        let layout = match self.layouts.get(&relation) {
            Some(Some((_, layout))) => Arc::clone(layout),
            Some(None) => return Ok(()),
            None => {
                return Err(FlowError::again(
                    "a change of a table that was not described",
                ));
            }
        };
        let placed = placed(&self.scope, self.source, &layout, old, new);
        for (shard, key, what) in placed.map_err(|error| match error {
            Unplaced::Place(error) => FlowError::trouble(error.to_string()),
            Unplaced::Strange => FlowError::again("a row that cannot be read"),
        })? {
            let target = { self.targets.iter_mut() }.find(|target| target.id == shard);
            // A shard that does not receive from here, or that has it: what ends at a place was committed before it.
            let Some(target) = target.filter(|target| commit >= target.from) else {
                continue;
            };
            let change = Change {
                layout: Arc::clone(&layout),
                xid,
                key,
                what,
            };
            target.bytes += change.size();
            target.changes.push(change);
        }
        Ok(())
    }

    /// Tells how far all was said, and what was in the transaction that has just ended. Those that have nothing of it are told with the next tick.
    fn tell_place(&mut self, last: Ended) -> Result<(), FlowError> {
        if self.transaction.is_some() {
            return Ok(());
        }
        for target in &mut self.targets {
            if last.is_awaited || self.end > target.said {
                target.said = self.end;
                let end = self.end;
                target.tell(Piece::Place { end, last })?;
            }
        }
        Ok(())
    }

    /// Reads how a table of the stream looks.
    async fn describe(&mut self, relation: OwnedRelation) -> Result<(), FlowError> {
        if let Some(Some((known, _))) = self.layouts.get(&relation.id)
            && *known == relation
        {
            return Ok(());
        }
        let table = { self.scope.tables.iter() }
            .position(|one| *one.schema == *relation.schema && *one.name == *relation.name);
        let Some(table) = table else {
            return Ok(());
        };
        let moved = &self.scope.tables[table];
        let gone = || {
            FlowError::trouble(format!(
                "{} is not on {} any more",
                moved.quoted(),
                self.source_name.0
            ))
        };
        let shape = table::read(&self.sql, &moved.schema, &moved.name).await?;
        let shape = shape.ok_or_else(gone)?;
        let oids: Vec<u32> = relation.columns.iter().map(|one| one.type_oid).collect();
        let modifiers: Vec<i32> = relation.columns.iter().map(|one| one.modifier).collect();
        let rows = self
            .sql
            .query(
                "SELECT pg_catalog.format_type(t.oid, t.modifier) FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS t(oid, modifier, place) ORDER BY place",
                &[&oids, &modifiers],
            )
            .await?;
        let names = rows
            .iter()
            .map(|row| row.get::<_, &str>(0).into())
            .collect();
        let layout = Layout::new(&self.scope, table, &shape, &relation, names)
            .map_err(|error| FlowError::trouble(error.to_string()))?;
        let id = relation.id;
        self.layouts.insert(id, Some((relation, Arc::new(layout))));
        Ok(())
    }
}

fn ended_by(ended: Result<Result<(), FlowError>, tokio::task::JoinError>) -> Result<(), FlowError> {
    match ended {
        Ok(Ok(())) => Err(FlowError::again(
            "a receiving shard is not written to any more",
        )),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(FlowError::again(error)),
    }
}

/// Why a change has no place.
enum Unplaced {
    Place(PlaceError),
    Strange,
}

impl From<PlaceError> for Unplaced {
    fn from(error: PlaceError) -> Unplaced {
        Unplaced::Place(error)
    }
}

/// What a change of the source is on which shards: at most a deletion and a row.
fn placed(
    scope: &Scope,
    source: ShardId,
    layout: &Layout,
    old: Option<Row<'_>>,
    new: Option<Row<'_>>,
) -> Result<impl Iterator<Item = (ShardId, Values, What)>, Unplaced> {
    let width = layout.columns.len();
    let old = old.map(|old| fields(old, width)).transpose()?;
    let mut new = new.map(|new| fields(new, width)).transpose()?;
    if let (Some(old), Some(new)) = (&old, &mut new) {
        // An old value that was sent, of a column that the statement did not touch. (NULL says nothing: it may be outside of what is sent.)
        for (new, old) in new.iter_mut().zip(old) {
            if let (Field::Unchanged, Field::Text(_)) = (&new, old) {
                *new = *old;
            }
        }
    }
    // Of a row that goes nowhere the key does not matter.
    let place = |fields: &Vec<Field<'_>>| match layout.other_end(scope, source, fields)? {
        Some(end) => Ok::<_, PlaceError>(Some((end, layout.key_of(fields)?))),
        None => Ok(None),
    };
    let was = old.as_ref().map(place).transpose()?.flatten();
    let is = new.as_ref().map(place).transpose()?.flatten();
    // Without an old row it has not changed its key.
    let deleted = was
        .filter(|was| is.as_ref() != Some(was))
        .map(|(end, key)| (end, key, What::Delete));
    let put = is
        .zip(new)
        .map(|((end, key), new)| (end, key, What::Put(Values::of(&new))));
    Ok(deleted.into_iter().chain(put))
}

/// A row's columns as texts.
fn fields(row: Row<'_>, width: usize) -> Result<Vec<Field<'_>>, Unplaced> {
    if row.len() != width {
        return Err(Unplaced::Strange);
    }
    { row.values() }
        .map(|value| match value {
            Value::Null => Ok(Field::Null),
            Value::Unchanged => Ok(Field::Unchanged),
            Value::Text(text) => std::str::from_utf8(text)
                .map(Field::Text)
                .map_err(|_| Unplaced::Strange),
            Value::Binary(_) => Err(Unplaced::Strange),
        })
        .collect()
}

/// Tells the source and the driver how far it has come.
struct Watcher {
    seen: watch::Sender<Followed>,
    tally: Arc<Tally>,
    log_end: watch::Receiver<Lsn>,
    /// The end of the log some 200 ms ago.
    earlier_end: Lsn,
    looked: Instant,
    reported: Instant,
}

impl Watcher {
    async fn look(&mut self, reader: &Reader, stream: &mut ChangeStream) -> Result<(), FlowError> {
        let end = *self.log_end.borrow();
        let earlier = self.earlier_end;
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.earlier_end = end;
        }
        let mut followed = Followed {
            received: stream.received(),
            targets: BTreeMap::new(),
        };
        for target in &reader.targets {
            let applied = target.seam.applied();
            let behind = end.0.saturating_sub(applied.0);
            let is_read = earlier > Lsn(0) && reader.end >= earlier;
            let waits = QUEUE - target.room.available_permits();
            let caught_up = end > Lsn(0) && (behind < LITTLE || is_read && waits <= MOST_BYTES);
            let reached = Reached { applied, caught_up };
            followed.targets.insert(target.shard.clone(), reached);
            let route = Route {
                from: reader.source_name.clone(),
                to: target.shard.clone(),
            };
            self.tally
                .stream(&route, |stream| stream.behind = Some(behind));
        }
        let least = followed.targets.values().map(|one| one.applied).min();
        if let Some(least) = least.map(|least| least.min(stream.received()))
            && least > stream.confirmed()
        {
            stream.confirm(least)?;
            if self.reported.elapsed() >= REPORT {
                self.reported = Instant::now();
                stream.report().await?;
            }
        }
        self.seen.send_if_modified(|seen| {
            let changed = *seen != followed;
            *seen = followed;
            changed
        });
        Ok(())
    }
}
