//! SHOW STATS and its kin: what was counted since the start and in the last period, by database, all workers together. SHOW LISTS.

use super::super::table::{Cell, Column, Table, row, text, whole};
use super::View;
use crate::admin::period::Span;
use crate::admin::totals::{Totals, by_database};

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
    whole("avg_server_assignment_count"),
    whole("avg_xact_count"),
    whole("avg_query_count"),
    whole("avg_recv"),
    whole("avg_sent"),
    whole("avg_xact_time"),
    whole("avg_query_time"),
    whole("avg_wait_time"),
    whole("avg_client_parse_count"),
    whole("avg_server_parse_count"),
    whole("avg_bind_count"),
    whole("avg_client_login_count"),
    whole("p50_query_time"),
    whole("p99_query_time"),
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

/// Four of the names have a prefix in PgBouncer, too.
pub const STATS_AVERAGES: &[Column] = &[
    text("database"),
    whole("server_assignment_count"),
    whole("xact_count"),
    whole("query_count"),
    whole("bytes_received"),
    whole("bytes_sent"),
    whole("xact_time"),
    whole("query_time"),
    whole("wait_time"),
    whole("avg_client_parse_count"),
    whole("avg_server_parse_count"),
    whole("avg_bind_count"),
    whole("avg_client_login_count"),
    whole("p50_query_time"),
    whole("p99_query_time"),
];

pub const TOTALS: &[Column] = &[text("name"), whole("value")];

pub const LISTS: &[Column] = &[text("list"), whole("items")];

pub fn stats(view: &View, table: &mut Table) {
    for (name, totals) in by_database(view.config(), &view.reports) {
        let span = view.period.of(&name, &totals);
        let cache = totals.plan_cache;
        let mut cells = row![&*name];
        cells.extend(counted(&totals));
        cells.extend(averaged(&span));
        cells.extend(row![
            totals.errors,
            totals.refusals,
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
    for (name, totals) in by_database(view.config(), &view.reports) {
        let mut cells = row![&*name];
        cells.extend(counted(&totals));
        cells.extend(row![totals.errors, totals.refusals]);
        table.push(cells);
    }
}

pub fn averages(view: &View, table: &mut Table) {
    for (name, totals) in by_database(view.config(), &view.reports) {
        let mut cells = row![&*name];
        cells.extend(averaged(&view.period.of(&name, &totals)));
        table.push(cells);
    }
}

/// One figure a row, all databases together.
pub fn all_together(view: &View, table: &mut Table) {
    let mut totals = Totals::default();
    let mut span: Option<Span> = None;
    for (name, of_one) in by_database(view.config(), &view.reports) {
        totals.add(&of_one);
        let spent = view.period.of(&name, &of_one);
        match &mut span {
            Some(span) => span.counted.add(&spent.counted),
            None => span = Some(spent),
        }
    }
    let Some(span) = span else { return };
    for (figure, cell) in FIGURES.iter().zip(counted(&totals)) {
        table.push(vec![Cell::Text(format!("total_{figure}")), cell]);
    }
    let averages = FIGURES.iter().map(|figure| format!("avg_{figure}"));
    let percentiles = ["p50_query_time", "p99_query_time"].map(str::to_owned);
    for (name, cell) in averages.chain(percentiles).zip(averaged(&span)) {
        table.push(vec![Cell::Text(name), cell]);
    }
}

/// What PgBouncer calls them here, behind `total_` and `avg_`, in the order of the other commands' columns.
const FIGURES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// As PgBouncer counts them.
fn counted(totals: &Totals) -> Vec<Cell> {
    row![
        totals.assignments,
        totals.transactions,
        totals.queries,
        totals.received_bytes,
        totals.sent_bytes,
        totals.transaction_microseconds,
        totals.query_microseconds,
        totals.wait_microseconds,
        totals.client_parses,
        totals.server_parses,
        totals.binds,
        totals.logins,
    ]
}

/// Numbers are those of a second, times those of one transaction, query or wait; then of a hundred queries' times the 50th and the 99th.
fn averaged(span: &Span) -> Vec<Cell> {
    let did = &span.counted;
    row![
        span.rate(did.assignments),
        span.rate(did.transactions),
        span.rate(did.queries),
        span.rate(did.received_bytes),
        span.rate(did.sent_bytes),
        Span::mean(did.transaction_microseconds, did.transactions),
        Span::mean(did.query_microseconds, did.queries),
        Span::mean(did.wait_microseconds, did.assignments),
        span.rate(did.client_parses),
        span.rate(did.server_parses),
        span.rate(did.binds),
        span.rate(did.logins),
        did.latency.percentile(50),
        did.latency.percentile(99),
    ]
}

/// What there is none of here is 0, so that programs that read PgBouncer's find every name; who is about to log in is not counted.
pub fn lists(view: &View, table: &mut Table) {
    let config = view.config();
    let reports = &view.reports;
    let pools = reports.iter().flat_map(|report| &report.pools);
    let clients: usize = reports.iter().map(|report| report.clients.len()).sum();
    let servers: usize = pools
        .clone()
        .map(|pool| pool.census.idle + pool.census.lent + pool.census.connecting)
        .sum();
    for (name, items) in [
        ("databases", Some(config.databases.len())),
        ("users", Some(config.users.len())),
        ("peers", Some(0)),
        ("pools", Some(pools.count())),
        ("peer_pools", Some(0)),
        ("free_clients", Some(0)),
        ("used_clients", Some(clients)),
        ("login_clients", None),
        ("free_servers", Some(0)),
        ("used_servers", Some(servers)),
        ("dns_names", Some(0)),
        ("dns_zones", Some(0)),
        ("dns_queries", Some(0)),
        ("dns_pending", Some(0)),
        ("shards", Some(config.shards.len())),
        ("workers", Some(reports.len())),
    ] {
        table.push(row![name, items]);
    }
}
