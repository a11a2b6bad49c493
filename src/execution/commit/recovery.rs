//! Finishing transactions whose owner is gone, be it this proxy or any other: a look at every shard at an interval, and what sessions ask for.
//!
//! Nothing is kept: what is prepared is asked of the shards each time, and what became of it of its decision shard (`decision.rs`). Several proxies may
//! do the same at once; for each transaction one of them is first, and the others find that it is done.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::decision::{self, Verdict, shard_named, within};
use super::id::{Gid, TransactionId};
use super::install::Trouble;
use super::ledger::{Entry, Ledger, Place, State};
use super::removal;
use super::statements::{self, Finished, Prepared};
use super::{Outcome, Unresolved};
use crate::sharding::ShardId;
use crate::topology::{NodeError, Topology};

/// A transaction prepared for less than this is left to its owner. Only spares work: it would be safe to ask at once.
const RIPE: Duration = Duration::from_secs(1);

/// Most transactions of sessions that are worked on at once, and most that wait. Those beyond are found by looking at the shards.
const MOST_AT_WORK: usize = 32;
const MOST_WAITING: usize = 10_000;

/// From one attempt to find out for a session to the next; doubled each time, up to the interval of recovery.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How often old rows are removed.
const REMOVAL: Duration = Duration::from_secs(60);

/// Finishes transactions. One for the process.
pub struct Recovery {
    topology: Arc<Topology>,
    ledger: Mutex<Ledger>,
    at_work: Semaphore,
}

impl Recovery {
    pub fn new(topology: Arc<Topology>) -> Recovery {
        Recovery {
            topology,
            ledger: Mutex::default(),
            at_work: Semaphore::new(MOST_AT_WORK),
        }
    }

    pub(super) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// What was last seen.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Looks at every shard at the configured interval, the first time at once, and does what sessions ask for. Never ends by itself.
    pub async fn run(self: Arc<Self>, mut asked: mpsc::UnboundedReceiver<Unresolved>) {
        let mut looking: JoinSet<Place> = JoinSet::new();
        let mut busy: HashSet<Place> = HashSet::new();
        let mut serving = JoinSet::new();
        let mut removing = JoinSet::new();
        let mut removal = tokio::time::interval_at(Instant::now() + REMOVAL, REMOVAL);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                Some(unresolved) = asked.recv() => {
                    if serving.len() < MOST_WAITING {
                        serving.spawn(Arc::clone(&self).serve(unresolved));
                    }
                }
                Some(_) = serving.join_next() => {}
                Some(looked) = looking.join_next() => match looked {
                    Ok(place) => _ = busy.remove(&place),
                    // Which one panicked is not told. A second look at the same time does no harm.
                    Err(error) => {
                        tracing::error!(%error, "a look for prepared transactions");
                        busy.clear();
                    }
                },
                Some(_) = removing.join_next() => {}
                _ = removal.tick(), if removing.is_empty() => {
                    let topology = Arc::clone(&self.topology);
                    removing.spawn(async move { removal::remove_old(&topology).await });
                }
                () = tokio::time::sleep_until(next) => {
                    for place in self.places() {
                        // A shard that is slow to answer does not hold up the others.
                        if busy.insert(place.clone()) {
                            looking.spawn(Arc::clone(&self).look(place));
                        }
                    }
                    next = Instant::now() + self.topology.config().transactions.recovery_interval;
                }
            }
        }
    }

    /// Every database on every shard.
    pub(super) fn places(&self) -> Vec<Place> {
        let config = self.topology.config();
        let of_database = |database: &crate::config::Database| {
            let place = |shard: &crate::config::Shard| Place {
                database: Box::from(&*database.name),
                shard: Box::from(&*shard.name),
            };
            config.shards.iter().map(place).collect::<Vec<_>>()
        };
        let places: Vec<Place> = config.databases.iter().flat_map(of_database).collect();
        let configured: HashSet<&Place> = places.iter().collect();
        self.ledger().keep(|place| configured.contains(place));
        places
    }

    /// One look at one place: finishes what it can.
    async fn look(self: Arc<Self>, place: Place) -> Place {
        let news = match self.prepared(&place).await {
            Ok(prepared) => {
                let entries = self.deal_with(&place, prepared).await;
                self.ledger().look(place.clone(), entries)
            }
            Err(trouble) => self
                .ledger()
                .unreachable(place.clone(), &trouble.to_string()),
        };
        for Entry { gid, state, .. } in &news {
            if let State::InDoubt { reason, .. } = state {
                let Place { database, shard } = &place;
                tracing::warn!(%database, %shard, gid, reason, "a prepared transaction is in doubt");
            }
        }
        place
    }

    /// What is prepared at a place.
    pub(super) async fn prepared(&self, place: &Place) -> Result<Vec<Prepared>, Trouble> {
        within(async {
            let shard = self.shard(place)?;
            let primary = self.topology.primary(&place.database, shard).await?;
            let prepared = statements::prepared(&primary).await?;
            primary.release();
            Ok(prepared)
        })
        .await
    }

    fn shard(&self, place: &Place) -> Result<ShardId, Trouble> {
        let shard = shard_named(&self.topology.config(), &place.shard);
        shard.ok_or_else(|| Trouble::NoShard(place.shard.clone()))
    }

    /// Finishes what is decided or can be aborted; gives what is left.
    async fn deal_with(&self, place: &Place, prepared: Vec<Prepared>) -> Vec<Entry> {
        let (mut left, mut by_decider) = (Vec::new(), BTreeMap::<Box<str>, Vec<_>>::new());
        for prepared in prepared {
            match Gid::parse(&prepared.gid) {
                _ if prepared.age < RIPE => left.push(Entry::new(prepared, State::Prepared)),
                Ok(gid) => {
                    let of_decider = by_decider.entry(gid.decision_shard).or_default();
                    of_decider.push((gid.id, prepared));
                }
                Err(not_ours) => {
                    let (outcome, reason) = (None, not_ours.to_string());
                    left.push(Entry::new(prepared, State::InDoubt { outcome, reason }));
                }
            }
        }
        let mut decided = Vec::new();
        for (decision_shard, waiting) in by_decider {
            let ids: Vec<TransactionId> = waiting.iter().map(|(id, _)| *id).collect();
            let verdicts =
                decision::verdicts(&self.topology, &place.database, &decision_shard, &ids).await;
            for (id, prepared) in waiting {
                match verdicts.get(&id) {
                    Some(Verdict::Decided(outcome)) => decided.push((prepared, *outcome)),
                    Some(Verdict::Unknown(doubt)) => {
                        let (outcome, reason) = (None, doubt.to_string());
                        left.push(Entry::new(prepared, State::InDoubt { outcome, reason }));
                    }
                    Some(Verdict::Open) | None => left.push(Entry::new(prepared, State::Prepared)),
                }
            }
        }
        for (prepared, outcome, result) in self.finish(place, decided).await {
            match result {
                Ok(Finished::Now | Finished::Before) => {}
                Ok(Finished::Soon) => left.push(Entry::new(prepared, State::Prepared)),
                Err(reason) => {
                    let outcome = Some(outcome);
                    left.push(Entry::new(prepared, State::InDoubt { outcome, reason }));
                }
            }
        }
        left.sort_by(|a, b| (a.prepared, &a.gid).cmp(&(b.prepared, &b.gid)));
        left
    }

    /// Tells a shard what has been decided; gives what became of each.
    pub(super) async fn finish(
        &self,
        place: &Place,
        decided: Vec<(Prepared, Outcome)>,
    ) -> Vec<(Prepared, Outcome, Result<Finished, String>)> {
        let mut results = Vec::new();
        for (prepared, outcome) in decided {
            let result = self.finish_one(place, &prepared, outcome).await;
            results.push((prepared, outcome, result));
        }
        results
    }

    async fn finish_one(
        &self,
        place: &Place,
        prepared: &Prepared,
        outcome: Outcome,
    ) -> Result<Finished, String> {
        let finished = within(async {
            let shard = self.shard(place)?;
            let primary = self.topology.primary(&place.database, shard).await?;
            match statements::finish(&primary, prepared, outcome).await {
                Ok(finished) => {
                    primary.release();
                    Ok(finished)
                }
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                    drop(primary);
                    let finished = self.finish_as_owner(place, shard, prepared, outcome).await;
                    finished.unwrap_or(Err(error.into()))
                }
                Err(error) => Err(error.into()),
            }
        });
        match finished.await {
            Ok(finished) => {
                if finished == Finished::Now {
                    self.ledger().finished(place, &prepared.gid, outcome);
                    let (Place { database, shard }, outcome) = (place, outcome.as_str());
                    tracing::info!(%database, %shard, gid = prepared.gid, outcome, "a prepared transaction was finished for its owner");
                }
                Ok(finished)
            }
            Err(Trouble::Postgres(error)) => Err(NodeError::described(&error)),
            Err(trouble) => Err(trouble.to_string()),
        }
    }

    /// `None`: its owner is not a role whose password is known here.
    async fn finish_as_owner(
        &self,
        place: &Place,
        shard: ShardId,
        prepared: &Prepared,
        outcome: Outcome,
    ) -> Option<Result<Finished, Trouble>> {
        let owner = prepared.owner.as_deref()?;
        let primary = self
            .topology
            .primary_as(owner, &place.database, shard)
            .await?;
        let finish = async {
            let primary = primary?;
            Ok(statements::finish(&primary, prepared, outcome).await?)
        };
        Some(finish.await)
    }

    /// Does for a session what it could not: finds out what became of its transaction, and finishes it. As long as somebody waits for it; then the
    /// looks at the shards go on with it.
    async fn serve(self: Arc<Self>, mut unresolved: Unresolved) {
        let config = self.topology.config();
        let name = |shard: ShardId| config.shards.get(shard.index()).map(|shard| &*shard.name);
        let Some(decision_shard) = name(unresolved.decision_shard) else {
            return;
        };
        let place = |shard: &str| Place {
            database: unresolved.database.clone(),
            shard: Box::from(shard),
        };
        let mut prepared: Vec<(Place, Gid)> = Vec::new();
        for (shard, gid) in &unresolved.prepared {
            prepared.extend(name(*shard).map(|shard| (place(shard), gid.clone())));
        }
        let patience = Instant::now() + config.transactions.prepare_timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let Ok(permit) = self.at_work.acquire().await else {
                return;
            };
            let verdict = self
                .verdict(&unresolved.database, decision_shard, unresolved.id)
                .await;
            if let Verdict::Decided(outcome) = verdict {
                if let Some(decided) = unresolved.decided.take() {
                    // Who waited may have gone.
                    let _ = decided.send(outcome);
                }
                prepared = self.finish_named(prepared, outcome).await;
            }
            drop(permit);
            if prepared.is_empty() && matches!(verdict, Verdict::Decided(_)) {
                if let Some(finished) = unresolved.finished.take() {
                    let _ = finished.send(());
                }
                return;
            }
            if Instant::now() >= patience {
                unresolved.decided = None;
            }
            let waits_to_know = unresolved
                .decided
                .as_ref()
                .is_some_and(|to| !to.is_closed());
            let waits_for_end = unresolved
                .finished
                .as_ref()
                .is_some_and(|to| !to.is_closed());
            if !waits_to_know && !waits_for_end {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(config.transactions.recovery_interval);
        }
    }

    pub(super) async fn verdict(
        &self,
        database: &str,
        decision_shard: &str,
        id: TransactionId,
    ) -> Verdict {
        let verdicts = decision::verdicts(&self.topology, database, decision_shard, &[id]).await;
        verdicts.get(&id).cloned().unwrap_or(Verdict::Open)
    }

    /// On all shards at the same time. Gives what could not be finished.
    async fn finish_named(&self, named: Vec<(Place, Gid)>, outcome: Outcome) -> Vec<(Place, Gid)> {
        let finishing = named.into_iter().map(|(place, gid)| async move {
            let name = gid.to_string();
            let found = within(async {
                let shard = self.shard(&place)?;
                let primary = self.topology.primary(&place.database, shard).await?;
                let found = statements::find_prepared(&primary, &name).await?;
                primary.release();
                Ok(found)
            });
            match found.await {
                Ok(None) => None,
                Ok(Some(prepared)) => {
                    let result = self.finish_one(&place, &prepared, outcome).await;
                    match result {
                        Ok(Finished::Now | Finished::Before) => None,
                        Ok(Finished::Soon) | Err(_) => Some((place, gid)),
                    }
                }
                Err(trouble) => {
                    let mut ledger = self.ledger();
                    ledger.suspect(place.clone(), &gid, &trouble.to_string());
                    Some((place, gid))
                }
            }
        });
        join_all(finishing).await.into_iter().flatten().collect()
    }
}
