//! Actions, run. What is short is done here, on all shards at the same time; what takes long is a task; what is a record in the control store is written
//! in the same transaction as the job. Nothing is remembered: what is not seen done is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::driver::Project;
use super::ledger::OnShard;
use super::objects;
use super::observe::{View, patience};
use super::records::{self, GateRecord, Known};
use super::scope::Scope;
use super::shards::ShardError;
use super::tasks::{Tasks, Work, follow_work};
use crate::resharding::job::{Action, Job, MapEpoch, MovingKeys, Phase, ShardName, Side, Term};
use crate::store::{Expected, Transaction};

/// How long a fence waits for writers of moving keys that nobody knows of, each time it is tried.
const FENCE_WAIT: Duration = Duration::from_millis(50);
/// How long orders to a shard may take while nobody waits: they are given while applications use its tables.
const PATIENCE: Duration = Duration::from_secs(30);

/// What actions are run with.
pub struct Act<'a> {
    pub project: &'a Project,
    pub known: &'a Known,
    pub job: &'a Job,
    pub scope: &'a Scope,
}

/// Something short that is done on one shard.
enum Order {
    MakePublication(Box<str>),
    Guard(MovingKeys, Term),
    Fence(MovingKeys, Term),
    EndStrangers,
    Unguard(MovingKeys, Term),
    Close(Term),
    DropPublication(Box<str>),
}

impl Act<'_> {
    /// Whether anything short was done, so that there is something new to be seen.
    pub async fn run(&self, actions: &[Action], view: &mut View, tasks: &mut Tasks) -> bool {
        let mut work = BTreeSet::new();
        let mut follow: BTreeMap<ShardName, BTreeSet<ShardName>> = BTreeMap::new();
        let mut orders: BTreeMap<ShardName, Vec<Order>> = BTreeMap::new();
        let mut order =
            |shard: ShardName, order: Order| orders.entry(shard).or_default().push(order);
        for action in actions.iter().cloned() {
            match action {
                Action::Check { round } => drop(work.insert(Work::Check { round })),
                Action::Open { shard, term } => drop(work.insert(Work::Open { shard, term })),
                Action::MakeSlot { shard, name } => {
                    work.insert(Work::MakeSlot { shard, name });
                }
                Action::Copy { route, .. } => drop(work.insert(Work::Copy { route })),
                Action::BuildIndexes { shard } => drop(work.insert(Work::BuildIndexes { shard })),
                Action::Follow { stream } => {
                    follow.entry(stream.from).or_default().insert(stream.to);
                }
                Action::Verify { stream, round } => {
                    let owner = self.job.owner;
                    work.insert(Work::Verify {
                        stream,
                        owner,
                        round,
                    });
                }
                Action::DropSlot { shard, name } => {
                    work.insert(Work::DropSlot { shard, name });
                }
                Action::RemoveRows { shard, keys, .. } => {
                    work.insert(Work::RemoveRows { shard, keys });
                }
                Action::MakePublication { shard, name } => {
                    order(shard, Order::MakePublication(name));
                }
                Action::Guard { shard, keys, term } => order(shard, Order::Guard(keys, term)),
                Action::Fence { shard, keys, term } => order(shard, Order::Fence(keys, term)),
                Action::EndStrangers { shard } => order(shard, Order::EndStrangers),
                Action::Unguard { shard, keys, term } => order(shard, Order::Unguard(keys, term)),
                Action::Close { shard, term } => order(shard, Order::Close(term)),
                Action::DropPublication { shard, name } => {
                    order(shard, Order::DropPublication(name));
                }
                // Written by whoever saves the job.
                Action::Gate { .. } | Action::Release { .. } | Action::Commit { .. } => {}
            }
        }
        work.extend(follow.into_iter().filter_map(|(source, targets)| {
            let objects = self.job.objects.get(&source)?;
            Some(follow_work(&source, objects, targets))
        }));
        tasks.want(&work, self.job.throttle);
        let limit = match self.job.phase {
            Phase::Turning(_) => patience(self.job),
            _ => PATIENCE,
        };
        let given = orders.into_iter().map(|(shard, orders)| {
            let connection = view.connection(&shard);
            async move {
                let done = match connection {
                    Some(client) => timeout(limit, self.give_all(&client, &shard, &orders)).await,
                    None => Ok(false),
                };
                (shard, done)
            }
        });
        let mut any = false;
        for (shard, done) in join_all(given).await {
            match done {
                Ok(done) => any |= done,
                // What is late is refused by its term, or is what is wanted still.
                Err(_) => view.lose(&shard, &format!("an order is not obeyed within {limit:?}")),
            }
        }
        any
    }

    async fn give_all(&self, client: &Client, shard: &ShardName, orders: &[Order]) -> bool {
        let ledger = OnShard {
            client,
            scope: self.scope,
            shard,
        };
        let mut done = false;
        for order in orders {
            match give(&ledger, order).await {
                Ok(()) => done = true,
                Err(error) => {
                    tracing::info!(%shard, %error, "an order was not obeyed");
                    break;
                }
            }
        }
        done
    }

    /// The actions that are records in the control store, put into a transaction; `None`: there are none, or they are written already.
    pub fn write(&self, actions: &[Action], transaction: Transaction) -> Option<Transaction> {
        let mut written = None;
        for action in actions {
            let before = written.clone().unwrap_or_else(|| transaction.clone());
            let after = match *action {
                Action::Gate { term, .. } => self.set_gate(term, true, self.job.epoch, before),
                Action::Release { term, epoch } => self.set_gate(term, false, epoch, before),
                Action::Commit {
                    expected,
                    epoch,
                    to,
                } => self.commit(expected, epoch, to, before),
                _ => None,
            };
            written = after.or(written);
        }
        written
    }

    /// Unless the gate is so already, or has obeyed a later order.
    fn set_gate(
        &self,
        term: Term,
        closed: bool,
        epoch: MapEpoch,
        transaction: Transaction,
    ) -> Option<Transaction> {
        let Project { database, plan, .. } = self.project;
        let gate = GateRecord {
            number: self.job.plan.number,
            term,
            closed,
            epoch,
        };
        let before = self.known.gates.get(plan);
        let before = before.filter(|before| before.number == gate.number);
        if before.is_some_and(|before| before.term > term || *before == gate) {
            return None;
        }
        let key = records::gate_key(database, plan);
        let version = self.known.gate_versions.get(plan).copied();
        let transaction = transaction.expect(key.clone(), Expected::from(version));
        Some(transaction.put(key, records::encode(&gate)))
    }

    /// The point of no return.
    fn commit(
        &self,
        expected: MapEpoch,
        epoch: MapEpoch,
        to: Side,
        transaction: Transaction,
    ) -> Option<Transaction> {
        let mut map = self.known.map.clone();
        if map.epoch != expected.0 {
            return None;
        }
        map.epoch = epoch.0;
        for change in &self.job.plan.maps {
            let wanted = match to {
                Side::Old => &change.before,
                Side::New => &change.after,
            };
            let distribution = change.distribution.clone();
            map.distributions.insert(distribution, wanted.clone());
        }
        let key = records::map_key(&self.project.database);
        let transaction = transaction.expect(key.clone(), Expected::from(self.known.map_version));
        Some(transaction.put(key, records::encode(&map)))
    }
}

async fn give(ledger: &OnShard<'_>, order: &Order) -> Result<(), ShardError> {
    match order {
        Order::MakePublication(name) => ledger.make_publication(name).await,
        Order::Guard(keys, term) => ledger.guard(*keys, *term).await,
        Order::Fence(keys, term) => ledger.fence(*keys, *term, FENCE_WAIT).await.map(drop),
        Order::EndStrangers => {
            ledger.end_strangers(MovingKeys::Leaving).await?;
            ledger.end_strangers(MovingKeys::Arriving).await.map(drop)
        }
        Order::Unguard(keys, term) => ledger.unguard(*keys, *term).await,
        Order::Close(term) => ledger.close(*term).await,
        Order::DropPublication(name) => objects::drop_publication(ledger.client, name).await,
    }
}
