//! SHOW POOLS: one row for each user, database, shard and worker.

use super::super::table::{Cell, Column, Table, row, text, whole};
use super::View;
use super::clock::seconds_and_rest;
use crate::admin::shard_name;
use crate::backend::pool::{Lending, Seat};
use crate::config::PoolMode;
use crate::session::report::{PoolReport, WorkerReport};

pub const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    whole("cl_active"),
    whole("cl_waiting"),
    whole("cl_active_cancel_req"),
    whole("cl_waiting_cancel_req"),
    whole("sv_active"),
    whole("sv_active_cancel"),
    whole("sv_being_canceled"),
    whole("sv_idle"),
    whole("sv_used"),
    whole("sv_tested"),
    whole("sv_login"),
    whole("maxwait"),
    whole("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    text("shard"),
    whole("worker"),
    text("address"),
    whole("pool_size"),
    text("state"),
    text("role"),
];

pub fn pools(view: &View, table: &mut Table) {
    for report in &view.reports {
        for pool in &report.pools {
            table.push(pool_row(view, report, pool));
        }
    }
}

fn pool_row(view: &View, report: &WorkerReport, pool: &PoolReport) -> Vec<Cell> {
    let served = report.clients.iter().filter(|client| {
        client.server.as_deref() == Some(&*pool.address)
            && client.shard == Some(pool.shard)
            && client.user == pool.user
            && client.database == pool.database
    });
    let (maxwait, maxwait_us) = seconds_and_rest(pool.census.longest_wait);
    row![
        &*pool.database,
        &*pool.user,
        served.count(),
        pool.census.waiting,
        Cell::Null,
        Cell::Null,
        pool.census.lent,
        Cell::Null,
        Cell::Null,
        pool.census.idle,
        Cell::Null,
        Cell::Null,
        pool.census.connecting,
        maxwait,
        maxwait_us,
        mode(pool.mode),
        Cell::Null,
        shard_name(view.config(), pool.shard),
        report.worker,
        &*pool.address,
        pool.size,
        lending(pool.lending),
        match pool.seat {
            Seat::Primary => "primary",
            Seat::Replica(_) => "replica",
        },
    ]
}

pub fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Strict => "strict",
        PoolMode::Session => "session",
    }
}

fn lending(lending: Lending) -> &'static str {
    match lending {
        Lending::Open => "open",
        Lending::Paused => "paused",
        Lending::Closed => "closed",
        Lending::Leaderless => "waits for a primary",
    }
}
