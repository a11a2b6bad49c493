//! What SHOW shows: for each thing its columns, and its rows from what the process said of itself at one moment.
//!
//! Where PgBouncer has the same thing, its columns come first, in its order and under its names; what Trunkline does not count is NULL there,
//! never a made-up number. Columns of our own follow.

mod activity;
mod clock;
mod configuration;
mod map;
mod pools;
pub mod reshard;
mod route;
mod stats;
pub mod steps;
pub mod transactions;

use std::sync::Arc;
use std::time::SystemTime;

use super::Failure;
use super::command::{COMMANDS, Command, Show};
use super::table::{Column, Table, row, text};
use crate::admin::period::LastPeriod;
use crate::admin::{Access, Request};
use crate::config::Config;
use crate::plan::refusal::Reason;
use crate::resharding::language::Statement;
use crate::session::report::WorkerReport;
use crate::session::shared::Snapshot;
use crate::topology::{NodeStatus, Role};

/// What programs and people see as the version of this server.
pub const VERSION: &str = concat!("Trunkline ", env!("CARGO_PKG_VERSION"));

const VERSION_COLUMNS: &[Column] = &[text("version")];
const HELP: &[Column] = &[text("command"), text("description")];
const REFUSALS: &[Column] = &[
    text("id"),
    text("sqlstate"),
    text("description"),
    text("hint"),
];

/// The columns that a command answers with; they depend on nothing else.
pub fn columns_of(command: &Command) -> &'static [Column] {
    match command {
        Command::Show(what) => columns(what),
        Command::Reshard(statement) => reshard::columns(statement),
        Command::Resolve { .. } => transactions::RESOLVED,
        Command::Switchover { .. } => steps::STEPS,
        Command::Reload
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Drain(_)
        | Command::Undrain(_)
        | Command::Place { .. }
        | Command::Shutdown => &[],
    }
}

fn columns(show: &Show) -> &'static [Column] {
    match show {
        Show::Clients => activity::CLIENTS,
        Show::Config => configuration::CONFIG,
        Show::Databases => configuration::DATABASES,
        Show::Distributions => map::DISTRIBUTIONS,
        Show::Help => HELP,
        Show::Lists => stats::LISTS,
        Show::Nodes => map::NODES,
        Show::Pools => pools::POOLS,
        Show::Refusals => REFUSALS,
        Show::ReshardEvents(_) => reshard::EVENTS,
        Show::Reshards => reshard::PLANS,
        Show::Route { .. } => route::ROUTE,
        Show::Servers => activity::SERVERS,
        Show::Shards => map::SHARDS,
        Show::Stats => stats::STATS,
        Show::StatsAverages => stats::STATS_AVERAGES,
        Show::StatsTotals => stats::STATS_TOTALS,
        Show::Tables => map::TABLES,
        Show::Totals => stats::TOTALS,
        Show::Transactions => transactions::TRANSACTIONS,
        Show::Users => configuration::USERS,
        Show::Version => VERSION_COLUMNS,
    }
}

/// Asks whom it must and makes the rows.
pub async fn show(show: &Show, access: &Access) -> Result<Table, Failure> {
    let mut table = Table::new(columns(show));
    let snapshot = access.shared.snapshot();
    match show {
        Show::Version => table.push(row![VERSION]),
        Show::Help => COMMANDS
            .iter()
            .for_each(|(command, description)| table.push(row![*command, *description])),
        Show::Refusals => refusals(&mut table),
        Show::Reshards => table = reshard::answer(&Statement::Status(None), access).await?,
        Show::ReshardEvents(plan) => {
            table = reshard::answer(&Statement::Events(plan.clone()), access).await?;
        }
        Show::Config => configuration::config(&snapshot.config, &mut table),
        Show::Distributions => map::distributions(&snapshot, &mut table),
        Show::Tables => map::tables(&snapshot, &mut table),
        Show::Nodes => map::nodes(&access.topology.nodes(), &mut table),
        Show::Shards => {
            let view = access.topology.views().borrow().clone();
            map::shards(&snapshot, &access.topology.nodes(), &view, &mut table);
        }
        Show::Transactions => transactions::transactions(&access.recovery.ledger(), &mut table),
        Show::Route { sql, database } => {
            route::route(&snapshot, sql, database.as_deref(), &mut table)?
        }
        Show::Clients => activity::clients(&View::of(access, snapshot).await?, &mut table),
        Show::Servers => activity::servers(&View::of(access, snapshot).await?, &mut table),
        Show::Pools => pools::pools(&View::of(access, snapshot).await?, &mut table),
        Show::Databases => configuration::databases(&View::of(access, snapshot).await?, &mut table),
        Show::Users => configuration::users(&View::of(access, snapshot).await?, &mut table),
        Show::Stats => stats::stats(&View::of(access, snapshot).await?, &mut table),
        Show::StatsAverages => stats::averages(&View::of(access, snapshot).await?, &mut table),
        Show::StatsTotals => stats::totals(&View::of(access, snapshot).await?, &mut table),
        Show::Totals => stats::all_together(&View::of(access, snapshot).await?, &mut table),
        Show::Lists => stats::lists(&View::of(access, snapshot).await?, &mut table),
    }
    Ok(table)
}

fn refusals(table: &mut Table) {
    for reason in Reason::ALL {
        let kind = reason.kind();
        table.push(row![kind.id, kind.sqlstate, kind.sentence, kind.hint]);
    }
}

/// What the process said of itself.
struct View {
    snapshot: Arc<Snapshot>,
    reports: Vec<WorkerReport>,
    period: LastPeriod,
    now: SystemTime,
}

impl View {
    async fn of(access: &Access, snapshot: Arc<Snapshot>) -> Result<View, Failure> {
        let reports = access.ask(Request::Report).await?;
        Ok(View {
            snapshot,
            reports,
            period: access.periods.borrow().clone(),
            now: SystemTime::now(),
        })
    }

    fn config(&self) -> &Config {
        &self.snapshot.config
    }
}

/// The node of a shard that is its primary, or else one that was when it last answered.
fn primary<'a>(nodes: &'a [NodeStatus], shard: &str) -> Option<&'a NodeStatus> {
    let of_shard = || nodes.iter().filter(|node| node.shard == *shard);
    of_shard()
        .find(|node| node.is_primary)
        .or_else(|| of_shard().find(|node| node.role == Role::Primary))
}

#[cfg(test)]
mod tests {
    use super::super::command::parse;
    use super::super::table::Kind;
    use super::*;

    /// Programs read these by place and name: a column may be added at the end, and nothing else.
    #[test]
    fn columns_are_a_promise() {
        let mut golden = String::new();
        for (form, _) in COMMANDS {
            let text = form
                .replace(" [IN database]", "")
                .replace(" [database]", "")
                .replace(
                    "id [COMMIT|ROLLBACK]",
                    "0193aabbccdd-00000007-0123456789abcdef",
                );
            // With what may be left out, which changes the answer.
            let text = match text.starts_with("RESHARD ") {
                true => text.replace(['[', ']'], ""),
                false => text.replace(" [plan]", ""),
            };
            if let [command @ (Command::Show(_) | Command::Reshard(_))] = &parse(&text).unwrap()[..]
            {
                golden.push_str(&format!("{text}\n"));
                for column in columns_of(command) {
                    let kind = match column.kind {
                        Kind::Text => "text",
                        Kind::Whole => "int8",
                        Kind::Truth => "bool",
                    };
                    golden.push_str(&format!("  {} {kind}\n", column.name));
                }
            }
        }
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/admin/columns.txt"
        );
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(file, &golden).unwrap();
        }
        assert_eq!(golden, std::fs::read_to_string(file).unwrap());
    }
}
