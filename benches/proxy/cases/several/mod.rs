//! What statements over several shards cost, a file each: beside what a client does without a proxy, or what the servers do by themselves.
//!
//! Every case has four servers with its own tables, each with its own part of the rows, and Trunkline with one worker before them. The load
//! is our own (`clients.rs`): pgbench knows only one server. Where two things are compared they take turns within a round, and ratios are
//! taken within the round, as elsewhere. What a case did is checked at its end: a sum that does not add up ends the bench.

pub mod aggregate;
pub mod atomic;
mod clients;
pub mod commit;
pub mod copy;
pub mod gather;
pub mod moving;
pub mod sort;
pub mod tpch;

use std::fmt::Write as _;
use std::path::PathBuf;

use futures_util::future::try_join_all;
use nix::sys::signal::Signal;

use super::Bench;
use crate::error::{Error, Result};
use crate::postgres::{self, Binaries, DATABASE, Durability, Server, Setup, Speedups, USER};
use crate::process::{Running, in_own_session};

pub const SHARDS: usize = 4;
/// Most connections of a shard.
const POOL_SIZE: u32 = 40;

/// Four servers, and a folder for them and for the proxies before them.
pub struct Cluster {
    /// In the order of shards.
    pub servers: Vec<Server>,
    pub binaries: Binaries,
    folder: PathBuf,
    trunkline: PathBuf,
}

/// Trunkline before a [`Cluster`]; stopped when dropped.
pub struct Proxy {
    pub port: u16,
    process: Running,
}

impl Proxy {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// `cross_shard_commit`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    Atomic,
    BestEffort,
}

impl Commit {
    pub fn name(self) -> &'static str {
        match self {
            Commit::Atomic => "atomic",
            Commit::BestEffort => "best_effort",
        }
    }
}

/// Where a table's rows are.
#[derive(Clone, Copy, Debug)]
pub enum Placement {
    /// The key is a bigint; shard n has the keys from n times this number on.
    Ranges { each: u64 },
    /// By hash of the key, a bigint.
    Hash,
    /// On the first shard.
    Single,
}

pub struct Table {
    pub name: &'static str,
    pub placement: Placement,
}

impl Cluster {
    /// Servers with these tables; `columns` are what stands in the parentheses of each CREATE TABLE, and after.
    pub async fn start(
        bench: &Bench,
        case: &str,
        durability: Durability,
        definitions: &str,
    ) -> Result<Cluster> {
        let setup = Setup {
            // Beside the pools: direct clients, and Trunkline's own.
            connections: 2 * POOL_SIZE + 40,
            durability,
            speedups: Speedups::Off,
            logical: false,
        };
        Cluster::start_with(bench, case, setup, definitions).await
    }

    pub async fn start_with(
        bench: &Bench,
        case: &str,
        setup: Setup,
        definitions: &str,
    ) -> Result<Cluster> {
        let folder = postgres::subfolder(bench.folder.path(), case)?;
        let binaries = bench.binaries.clone();
        let servers = postgres::start_empty_fleet(&binaries, &folder, SHARDS, setup).await?;
        let cluster = Cluster {
            servers,
            binaries,
            folder,
            trunkline: bench.settings.trunkline.clone(),
        };
        cluster.run_on_all(|_| definitions.to_owned()).await?;
        Ok(cluster)
    }

    /// Runs on all servers at once, and returns what each printed. The SQL is made from the shard's number.
    pub async fn run_on_all(&self, sql: impl Fn(usize) -> String) -> Result<Vec<String>> {
        let run = |(shard, server): (usize, &Server)| {
            let (binaries, sql, port) = (&self.binaries, sql(shard), server.port);
            async move {
                let mut psql = binaries.psql("127.0.0.1", port, &sql);
                crate::process::run(&mut psql).await
            }
        };
        try_join_all(self.servers.iter().enumerate().map(run)).await
    }

    /// The sum of what a query gives on each server.
    pub async fn total(&self, sql: &str) -> Result<i64> {
        let mut total = 0;
        for printed in self.run_on_all(|_| sql.to_owned()).await? {
            total += printed.trim().parse::<i64>().map_err(|_| Error::Wrong {
                what: sql.to_owned(),
                found: printed.trim().to_owned(),
                expected: "a number".to_owned(),
            })?;
        }
        Ok(total)
    }

    /// Fails unless the query's total is this.
    pub async fn expect_total(&self, sql: &str, expected: i64) -> Result<()> {
        match self.total(sql).await? {
            found if found == expected => Ok(()),
            found => Err(Error::Wrong {
                what: sql.to_owned(),
                found: found.to_string(),
                expected: expected.to_string(),
            }),
        }
    }

    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.port).collect()
    }

    /// Starts Trunkline; it is ready when `probe` succeeds.
    pub async fn proxy(&self, tables: &[Table], commit: Commit, probe: &str) -> Result<Proxy> {
        let names = self.names();
        let tables: String = tables.iter().map(|table| table.config(&names)).collect();
        self.proxy_of(&tables, commit, probe).await
    }

    /// The same with what the configuration says of distributions and tables; shards are `s0` and so on.
    pub async fn proxy_of(&self, tables: &str, commit: Commit, probe: &str) -> Result<Proxy> {
        let port = postgres::free_port()?;
        let file = self.folder.join(format!("trunkline-{port}.toml"));
        std::fs::write(&file, self.config(tables, commit, port))
            .map_err(|e| Error::io(format!("write {}", file.display()), e))?;
        let mut command = in_own_session(&self.trunkline);
        command.arg("serve").arg(&file).current_dir(&self.folder);
        let log = file.with_extension("log");
        let mut process = Running::start("trunkline", &mut command, &log, Signal::SIGTERM)?;
        let probe = self.binaries.psql("127.0.0.1", port, probe);
        process.wait_until_ready(port, probe).await?;
        Ok(Proxy { port, process })
    }

    fn names(&self) -> Vec<String> {
        (0..self.servers.len())
            .map(|number| format!("s{number}"))
            .collect()
    }

    fn config(&self, tables: &str, commit: Commit, port: u16) -> String {
        let mut toml = format!(
            "workers = 1\n\n[listen]\naddresses = [\"127.0.0.1:{port}\"]\n\n[pool]\nsize = {POOL_SIZE}\n\n\
             [transactions]\ncross_shard_commit = \"{commit}\"\n\n\
             [[users]]\nname = \"{USER}\"\nauth = \"trust\"\nadmin = true\n\n\
             [[databases]]\nname = \"{DATABASE}\"\ndefault_shard = \"s0\"\n\n",
            commit = commit.name(),
        );
        for (name, server) in self.names().iter().zip(&self.servers) {
            let node = format!("{{ host = \"127.0.0.1\", port = {} }}", server.port);
            toml += &format!("[[shards]]\nname = \"{name}\"\nnodes = [{node}]\n\n");
        }
        toml + tables
    }
}

impl Table {
    fn config(&self, shards: &[String]) -> String {
        let name = self.name;
        let strategy = match self.placement {
            Placement::Single => {
                return format!(
                    "[[tables]]\nname = \"{name}\"\nplacement = \"single\"\nshard = \"{}\"\n\n",
                    shards[0]
                );
            }
            Placement::Hash => format!("strategy = \"hash\"\nshards = {shards:?}\n"),
            Placement::Ranges { each } => {
                let mut ranges = String::new();
                for (shard, from) in shards.iter().zip((0..).step_by(each as usize)) {
                    let to = from + each;
                    writeln!(
                        ranges,
                        "    {{ from = {from}, to = {to}, shard = \"{shard}\" }},"
                    )
                    .expect("writing to a string cannot fail");
                }
                format!("strategy = \"range\"\nranges = [\n{ranges}]\n")
            }
        };
        format!(
            "[[distributions]]\nname = \"of_{name}\"\nkey = \"bigint\"\n{strategy}\n\
             [[tables]]\nname = \"{name}\"\ndistribution = \"of_{name}\"\nkey = \"id\"\n\n"
        )
    }
}
