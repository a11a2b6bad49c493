//! What a worker tells the control plane of itself: plain data for SHOW and for metrics.

use std::time::{Duration, Instant};

use super::card::State;
use super::latency::Counts;
use super::worker::{Paused, Worker};
use crate::backend::pool::{Census, IdleServer, Lending, Seat};
use crate::config::PoolMode;
use crate::plan::cache;
use crate::sharding::ShardId;

/// One worker, at one moment.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    pub worker: usize,
    pub at: Instant,
    pub clients: Vec<ClientReport>,
    pub pools: Vec<PoolReport>,
    pub databases: Vec<DatabaseReport>,
    /// Shared prepared statements held in memory.
    pub prepared_statements: usize,
}

#[derive(Clone, Debug)]
pub struct ClientReport {
    pub process_id: i32,
    pub user: Box<str>,
    pub database: Box<str>,
    pub address: Box<str>,
    pub tls: bool,
    pub application_name: Box<str>,
    pub state: State,
    pub connected: Duration,
    /// Since its last request began.
    pub requested: Duration,
    /// The process id of the server connection that works for it.
    pub server_process_id: Option<i32>,
    /// The shard of that connection, and host and port of its node.
    pub shard: Option<ShardId>,
    pub server: Option<Box<str>>,
    /// Why it keeps its server connections.
    pub pins: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub struct PoolReport {
    pub user: Box<str>,
    pub database: Box<str>,
    pub shard: ShardId,
    pub seat: Seat,
    /// Host and port.
    pub address: Box<str>,
    pub mode: PoolMode,
    pub size: usize,
    pub lending: Lending,
    pub census: Census,
    pub idle: Vec<IdleServer>,
}

/// Totals since the start.
#[derive(Clone, Debug)]
pub struct DatabaseReport {
    pub name: Box<str>,
    pub paused: Paused,
    pub transactions: u64,
    pub queries: u64,
    /// Those of them that replicas answered.
    pub replica_queries: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub transaction_microseconds: u64,
    pub query_microseconds: u64,
    pub wait_microseconds: u64,
    pub latency: Counts,
    pub assignments: u64,
    pub logins: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    pub errors: u64,
    pub refusals: u64,
    pub client_idle_timeouts: u64,
    pub idle_transaction_timeouts: u64,
    pub query_timeouts: u64,
    pub deadlocks: u64,
    pub plan_cache: cache::Counters,
}

impl WorkerReport {
    /// Of this thread, now.
    pub fn of(worker: &Worker) -> WorkerReport {
        let now = Instant::now();
        WorkerReport {
            worker: worker.index,
            at: now,
            clients: clients(worker, now),
            pools: pools(worker, now),
            databases: databases(worker),
            prepared_statements: worker.statements.borrow().len(),
        }
    }
}

fn clients(worker: &Worker, now: Instant) -> Vec<ClientReport> {
    let cards = worker.cards.all();
    let told = cards.iter().map(|card| ClientReport {
        process_id: card.process_id.get(),
        user: Box::from(&*card.user.name),
        database: card.database.clone(),
        address: card.address.clone(),
        tls: card.tls,
        application_name: card.application_name.borrow().clone(),
        state: card.state.get(),
        connected: now.duration_since(card.connected_at),
        requested: now.duration_since(card.requested_at.get()),
        server_process_id: card.running().map(|canceller| canceller.process_id),
        shard: card.running().and(card.shard.get()),
        server: card
            .running()
            .map(|canceller| canceller.address().to_string().into_boxed_str()),
        pins: card.pins.borrow().clone(),
    });
    told.collect()
}

fn pools(worker: &Worker, now: Instant) -> Vec<PoolReport> {
    let told = worker.pools().into_iter().map(|(key, pool)| {
        let spec = pool.spec();
        PoolReport {
            user: key.user,
            database: key.database,
            shard: key.shard,
            seat: key.seat,
            address: spec.target.address.to_string().into_boxed_str(),
            mode: spec.settings.mode,
            size: spec.share,
            lending: pool.lending(),
            census: pool.census(now),
            idle: pool.idle_servers(),
        }
    });
    told.collect()
}

fn databases(worker: &Worker) -> Vec<DatabaseReport> {
    let told = worker.databases().into_iter().map(|database| {
        let counters = &database.counters;
        DatabaseReport {
            name: database.name.clone(),
            paused: if database.is_paused() {
                Paused::Yes
            } else {
                Paused::No
            },
            transactions: counters.transactions.get(),
            queries: counters.queries.get(),
            replica_queries: counters.replica_queries.get(),
            received_bytes: counters.received_bytes.get(),
            sent_bytes: counters.sent_bytes.get(),
            transaction_microseconds: counters.transaction_microseconds.get(),
            query_microseconds: counters.query_microseconds.get(),
            wait_microseconds: counters.wait_microseconds.get(),
            latency: counters.latency.counts(),
            assignments: counters.assignments.get(),
            logins: counters.logins.get(),
            client_parses: counters.client_parses.get(),
            server_parses: counters.server_parses.get(),
            binds: counters.binds.get(),
            errors: counters.errors.get(),
            refusals: counters.refusals.get(),
            client_idle_timeouts: counters.client_idle_timeouts.get(),
            idle_transaction_timeouts: counters.idle_transaction_timeouts.get(),
            query_timeouts: counters.query_timeouts.get(),
            deadlocks: counters.deadlocks.get(),
            plan_cache: database.plans.borrow().counters(),
        }
    });
    told.collect()
}
