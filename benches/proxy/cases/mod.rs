//! What is measured, a file each, and what all of them share.

pub mod idle;
pub mod large;
pub mod polls;
pub mod restart;
pub mod several;
pub mod statements;
pub mod storm;

use std::fs::File;
use std::io::Write;

use clap::ValueEnum;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::load::Load;
use crate::postgres::{Binaries, Server};
use crate::process;
use crate::report::{Measure, Record, Results};
use crate::subjects::{Settings, Site, Subject};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Case {
    /// `pgbench -S`: what a statement costs
    PointSelect,
    /// Answers of 200 rows
    #[value(name = "answer_22kb")]
    Answer22kb,
    /// Ten statements in one batch
    Pipeline,
    /// Between client and proxy, and proxy and server
    UnixSockets,
    /// From 1 to 256 of them: added latency, p99
    Clients,
    /// One and two worker threads
    Workers,
    /// Ten thousand idle clients
    Idle,
    /// A result of 1 GB, a row of 500 MB, COPY of 1 GB both ways
    Large,
    /// Ten thousand logins
    Storm,
    /// Five thousand clients that come back after a restart of their server
    StormAfterRestart,
    /// 64 nodes looked at four times a second, and nothing else
    Polls,
    /// Commits on two shards and on one, beside what a client does without a proxy
    TwoShardCommit,
    /// A sum over four shards while transfers between them commit, with and without atomic reads
    AtomicRead,
    /// count and sum over 10 million rows, beside the slowest shard
    ScatterAggregate,
    /// ORDER BY of a million rows
    MergeSort,
    /// COPY FROM split over four shards, beside one Postgres
    CopyFrom,
    /// A join that is not colocated, beside COPY TO | COPY FROM
    Gather,
    /// The 22 queries of TPC-H, beside one server with the same rows
    Tpch,
    /// A table of 10 million rows moved to another shard, beside pg_dump and pg_restore; its changes followed
    MoveRows,
    /// What clients notice of such a move, without and with a limit of their latency
    MoveNoticed,
}

impl Case {
    /// Whether it runs on the servers with pgbench's tables; the others start their own.
    pub fn has_pgbench(self) -> bool {
        match self {
            Case::PointSelect
            | Case::Answer22kb
            | Case::Pipeline
            | Case::UnixSockets
            | Case::Clients
            | Case::Workers
            | Case::Idle
            | Case::Large
            | Case::Storm
            | Case::StormAfterRestart => true,
            Case::Polls
            | Case::TwoShardCommit
            | Case::AtomicRead
            | Case::ScatterAggregate
            | Case::MergeSort
            | Case::CopyFrom
            | Case::Gather
            | Case::Tpch
            | Case::MoveRows
            | Case::MoveNoticed => false,
        }
    }
}

/// One run of the benchmark. Dropping it stops the servers and removes what they wrote.
#[derive(Debug)]
pub struct Bench {
    pub binaries: Binaries,
    /// With pgbench's tables; none when no case wants them.
    pub servers: Vec<Server>,
    pub settings: Settings,
    pub load: Load,
    pub smoke: bool,
    /// As asked for.
    pub rounds: Option<u32>,
    /// To be compared.
    pub subjects: Vec<Subject>,
    pub output: File,
    pub results: Results,
    /// Last, so that it is removed last.
    pub folder: TempDir,
}

impl Bench {
    /// To start subjects in.
    pub fn site<'a>(&'a self, settings: &'a Settings) -> Site<'a> {
        Site {
            settings,
            binaries: &self.binaries,
            servers: &self.servers,
            folder: self.folder.path(),
        }
    }

    /// Those of the subjects that hold clients as a pooler does.
    pub fn proxies(&self) -> Vec<Subject> {
        let poolers = [Subject::Pgbouncer, Subject::Trunkline];
        let chosen = |subject: &Subject| self.subjects.contains(subject);
        poolers.into_iter().filter(chosen).collect()
    }

    /// Without a proxy.
    pub async fn on_first_server(&self, sql: &str) -> Result<()> {
        let mut psql = self.binaries.psql("127.0.0.1", self.servers[0].port, sql);
        process::run(&mut psql).await.map(|_| ())
    }

    pub fn add(&mut self, measure: Measure) -> Result<()> {
        eprintln!("{measure}");
        self.write(&measure.to_json()?)?;
        self.results.measures.push(measure);
        Ok(())
    }

    pub fn add_record(&mut self, record: Record) -> Result<()> {
        eprintln!("{record}");
        self.write(&record.to_json()?)?;
        self.results.records.push(record);
        Ok(())
    }

    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.output, "{line}").map_err(|e| Error::io("write the summary", e))
    }
}

/// A B C D in odd rounds, D C B A in even ones.
pub fn in_turn(subjects: &[Subject], round: u32) -> Vec<Subject> {
    let mut order = subjects.to_vec();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

/// Runs what blocks on another thread; `doing` completes the sentence "cannot ...".
pub async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|e| Error::io(doing, e))
}
