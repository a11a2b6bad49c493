//! What was counted of each database since the start, all workers together. Pure.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::plan::cache;
use crate::session::latency::Counts;
use crate::session::report::{DatabaseReport, WorkerReport};

/// Of one database, or of several together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub transactions: u64,
    pub queries: u64,
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
    pub replica_queries: u64,
    pub plan_cache: cache::Counters,
}

/// By name: every configured database, also one that nobody has used.
pub fn by_database(config: &Config, reports: &[WorkerReport]) -> BTreeMap<Box<str>, Totals> {
    let names = config.databases.iter();
    let mut databases: BTreeMap<Box<str>, Totals> = names
        .map(|database| (Box::from(&*database.name), Totals::default()))
        .collect();
    for counted in reports.iter().flat_map(|report| &report.databases) {
        let totals = databases.entry(counted.name.clone()).or_default();
        totals.add(&Totals::of(counted));
    }
    databases
}

impl Totals {
    fn of(counted: &DatabaseReport) -> Totals {
        Totals {
            transactions: counted.transactions,
            queries: counted.queries,
            received_bytes: counted.received_bytes,
            sent_bytes: counted.sent_bytes,
            transaction_microseconds: counted.transaction_microseconds,
            query_microseconds: counted.query_microseconds,
            wait_microseconds: counted.wait_microseconds,
            latency: counted.latency.clone(),
            assignments: counted.assignments,
            logins: counted.logins,
            client_parses: counted.client_parses,
            server_parses: counted.server_parses,
            binds: counted.binds,
            errors: counted.errors,
            refusals: counted.refusals,
            replica_queries: counted.replica_queries,
            plan_cache: counted.plan_cache,
        }
    }

    pub fn add(&mut self, other: &Totals) {
        self.latency.add(&other.latency);
        for (total, more) in self.numbers().into_iter().zip(other.clone().numbers()) {
            *total += *more;
        }
        self.plan_cache.entries += other.plan_cache.entries;
        self.plan_cache.bytes += other.plan_cache.bytes;
    }

    /// What was counted since then. A worker's counters begin anew only with the process.
    pub fn since(&self, before: &Totals) -> Totals {
        let mut since = self.clone();
        since.latency = self.latency.since(&before.latency);
        for (now, then) in since.numbers().into_iter().zip(before.clone().numbers()) {
            *now = now.saturating_sub(*then);
        }
        since
    }

    fn numbers(&mut self) -> [&mut u64; 18] {
        let Totals {
            transactions,
            queries,
            received_bytes,
            sent_bytes,
            transaction_microseconds,
            query_microseconds,
            wait_microseconds,
            latency: _,
            assignments,
            logins,
            client_parses,
            server_parses,
            binds,
            errors,
            refusals,
            replica_queries,
            plan_cache,
        } = self;
        [
            transactions,
            queries,
            received_bytes,
            sent_bytes,
            transaction_microseconds,
            query_microseconds,
            wait_microseconds,
            assignments,
            logins,
            client_parses,
            server_parses,
            binds,
            errors,
            refusals,
            replica_queries,
            &mut plan_cache.hits,
            &mut plan_cache.misses,
            &mut plan_cache.evictions,
        ]
    }
}
