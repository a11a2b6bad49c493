//! SHOW STATS and SHOW STATS_TOTALS: what was counted since the start, by database, all workers together.

use std::collections::BTreeMap;

use super::super::table::{Cell, Column, Table, row, text, whole};
use super::View;
use crate::session::report::DatabaseReport;

pub const STATS: &[Column] = &[
    text("database"),
    whole("total_server_assignment_count"),
    whole("total_xact_count"),
    whole("total_query_count"),
    whole("total_received"),
    whole("total_sent"),
    whole("total_xact_time"),
    whole("total_query_time"),
    whole("total_wait_time"),
    whole("total_client_parse_count"),
    whole("total_server_parse_count"),
    whole("total_bind_count"),
    whole("total_client_login_count"),
    whole("total_error_count"),
    whole("total_refusal_count"),
    whole("plan_cache_hits"),
    whole("plan_cache_misses"),
    whole("plan_cache_evictions"),
    whole("plan_cache_entries"),
    whole("plan_cache_bytes"),
    whole("total_replica_query_count"),
];

pub const STATS_TOTALS: &[Column] = &[
    text("database"),
    whole("server_assignment_count"),
    whole("xact_count"),
    whole("query_count"),
    whole("bytes_received"),
    whole("bytes_sent"),
    whole("xact_time"),
    whole("query_time"),
    whole("wait_time"),
    whole("client_parse_count"),
    whole("server_parse_count"),
    whole("bind_count"),
    whole("client_login_count"),
    whole("error_count"),
    whole("refusal_count"),
];

pub fn stats(view: &View, table: &mut Table) {
    for (name, totals) in by_database(view) {
        let mut cells = totals.cells(name);
        let cache = totals.plan_cache;
        cells.extend(row![
            cache.hits,
            cache.misses,
            cache.evictions,
            cache.entries,
            cache.bytes,
            totals.replica_queries
        ]);
        table.push(cells);
    }
}

pub fn totals(view: &View, table: &mut Table) {
    for (name, totals) in by_database(view) {
        table.push(totals.cells(name));
    }
}

/// Every configured database, also one that nobody has used.
fn by_database(view: &View) -> BTreeMap<&str, Totals> {
    let names = view
        .config()
        .databases
        .iter()
        .map(|database| (&*database.name, Totals::default()));
    let mut databases: BTreeMap<&str, Totals> = names.collect();
    for counted in view.reports.iter().flat_map(|report| &report.databases) {
        databases.entry(&counted.name).or_default().add(counted);
    }
    databases
}

/// One database's counters of all workers together.
#[derive(Default)]
struct Totals {
    transactions: u64,
    queries: u64,
    received_bytes: u64,
    sent_bytes: u64,
    transaction_microseconds: u64,
    query_microseconds: u64,
    wait_microseconds: u64,
    errors: u64,
    refusals: u64,
    replica_queries: u64,
    plan_cache: crate::plan::cache::Counters,
}

impl Totals {
    fn add(&mut self, counted: &DatabaseReport) {
        self.transactions += counted.transactions;
        self.queries += counted.queries;
        self.received_bytes += counted.received_bytes;
        self.sent_bytes += counted.sent_bytes;
        self.transaction_microseconds += counted.transaction_microseconds;
        self.query_microseconds += counted.query_microseconds;
        self.wait_microseconds += counted.wait_microseconds;
        self.errors += counted.errors;
        self.refusals += counted.refusals;
        self.replica_queries += counted.replica_queries;
        self.plan_cache.hits += counted.plan_cache.hits;
        self.plan_cache.misses += counted.plan_cache.misses;
        self.plan_cache.evictions += counted.plan_cache.evictions;
        self.plan_cache.entries += counted.plan_cache.entries;
        self.plan_cache.bytes += counted.plan_cache.bytes;
    }

    fn cells(&self, database: &str) -> Vec<Cell> {
        row![
            database,
            Cell::Null,
            self.transactions,
            self.queries,
            self.received_bytes,
            self.sent_bytes,
            self.transaction_microseconds,
            self.query_microseconds,
            self.wait_microseconds,
            Cell::Null,
            Cell::Null,
            Cell::Null,
            Cell::Null,
            self.errors,
            self.refusals,
        ]
    }
}
