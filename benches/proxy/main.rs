//! What a proxy costs: CPU time of a statement, throughput, latency, memory, logins; directly, through a plain byte forwarder, through
//! PgBouncer and through Trunkline. And what statements over several shards cost, beside what a client or a server does without a proxy.
//!
//! Everything runs on this machine over loopback TCP, in servers made for the occasion. The measure that counts is the CPU time of the
//! proxy process per statement: unlike throughput it does not depend on how much of the machine pgbench and Postgres take. But it does
//! depend on what else the machine does: caches, clock, and above all how many events a wake-up finds. So the subjects are compared
//! within a round, in one of three ways ([`Mode`]):
//!
//! * `together`: every subject has its own pgbench with the same number of clients, all at the same time, as fast as they can. All
//!   see the same noise at the same instants, which no order of turns can promise. Each has its own share of the machine, and
//!   answers when the scheduler lets it; a proxy that gets less CPU time finds more events at a wake-up and amortises more system calls.
//!   The number of clients bounds that and is the same for all. (Direct connections have nothing to measure and run alone afterwards.)
//! * `paced`: the same, but each does the same number of statements a second at the same random times, far below saturation. Here
//!   nobody gains by being slow, caches are cold, and a wake-up mostly finds one event: the most a statement can cost.
//! * `in-turn`: one at a time, A B C D and then D C B A, with the machine for itself: throughput and latency are from here.
//!
//! The subjects share one Postgres server, so that its caches and buffers are the same for all (with a server each, the sets of pages
//! would push each other out of the machine's caches); only the subject with four shards has three more. Poolers may open the same number
//! of server connections in total. What concerns several shards (`cases/several/`) has four servers of its own, each with its own rows.
//!
//! ```text
//! cargo bench --bench proxy -- --smoke
//! cargo bench --bench proxy -- --cases point_select --modes together --protocols prepared --subjects pgbouncer,trunkline --rounds 8
//! cargo bench --bench proxy -- --only two_shard_commit,copy_from --smoke
//! cargo bench --bench proxy -- --only storm_after_restart,polls
//! cargo bench --bench proxy -- --trunkline /some/other/build/of/trunkline
//! ```
//!
//! Read `cases/` for what is measured, `subjects.rs` for what is compared and how it is configured, `load.rs` for the load, `report.rs` for
//! what is written.

mod cases;
mod client;
mod cpu;
mod error;
mod forwarder;
mod load;
mod memory;
mod plot;
mod postgres;
mod process;
mod report;
mod subjects;
mod tls;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cases::{Bench, Case, several};
use crate::error::{Error, Result};
use crate::load::{Load, Protocol};
use crate::postgres::Binaries;
use crate::report::Results;
use crate::subjects::{Settings, Sockets, Subject, Tls};

/// The fleet of the subjects with four servers; the first also serves everybody else.
const SERVERS: usize = 4;

/// Under load at the same time through one subject.
const MOST_CLIENTS: u32 = 256;

/// Who is under load at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// All subjects, as fast as they can.
    Together,
    /// All subjects, each with the same number of statements a second.
    Paced,
    /// One subject after the other.
    InTurn,
}

#[derive(Debug, Parser)]
#[command(
    name = "proxy",
    about = "What a proxy costs: CPU per statement, throughput, latency, memory, logins"
)]
struct Args {
    /// What to measure [default: all, with --smoke point_select]
    #[arg(long, visible_alias = "only", value_delimiter = ',')]
    cases: Option<Vec<Case>>,
    /// Times every subject is measured in every protocol [default: 10, with --smoke 5; several shards: by case]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds of one measurement [default: 3, with --smoke 1]
    #[arg(long)]
    seconds: Option<u32>,
    /// Connections pgbench opens
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// Threads of pgbench
    #[arg(long, default_value_t = 2)]
    jobs: u32,
    /// Server connections a pooler may open in all
    #[arg(long, default_value_t = 8)]
    pool_size: u32,
    /// pgbench's scale factor: 100000 rows each [default: 10, with --smoke 2]
    #[arg(long)]
    scale: Option<u32>,
    #[arg(long, value_delimiter = ',', default_values = ["simple", "extended", "prepared"])]
    protocols: Vec<Protocol>,
    /// Ways of comparing [default: all, with --smoke not in-turn]
    #[arg(long, value_delimiter = ',')]
    modes: Option<Vec<Mode>>,
    /// Statements a second of each subject in the mode `paced`
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Which to compare [default: all that are installed]
    #[arg(long, value_delimiter = ',')]
    subjects: Option<Vec<Subject>>,
    /// Short: under two minutes in total
    #[arg(long)]
    smoke: bool,
    /// The program measured as `trunkline` [default: the one cargo built with this bench]
    #[arg(long)]
    trunkline: Option<PathBuf>,
    /// PgBouncer's program [default: $PGBOUNCER, else from PATH, else /usr/sbin/pgbouncer]
    #[arg(long)]
    pgbouncer: Option<PathBuf>,
    /// Where the records go, one JSON object a line
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/summary.jsonl"))]
    output: PathBuf,
    /// A folder for the results as text and as a plot
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench"))]
    report: PathBuf,
    /// Passed by `cargo bench`, absent under `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the byte forwarder between two addresses instead
    #[arg(long, hide = true, num_args = 2, value_names = ["LISTEN", "TARGET"])]
    forward: Option<Vec<SocketAddr>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some([listen, target]) = args.forward.as_deref() {
        return exit_code(forwarder::serve(*listen, *target));
    }
    if !args.bench {
        println!("proxy measures nothing under `cargo test`; use `cargo bench --bench proxy`");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return exit_code(Err(Error::io("start the runtime", e))),
    };
    exit_code(runtime.block_on(until_stopped(&args)))
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("proxy: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the bench or, on a signal, drops it: every process and folder is owned by a value in that future and goes with it.
async fn until_stopped(args: &Args) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::io("listen for signals", e));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        result = measure_all(args) => result,
        _ = interrupt.recv() => Err(Error::Stopped),
        _ = terminate.recv() => Err(Error::Stopped),
        _ = hang_up.recv() => Err(Error::Stopped),
    }
}

/// How much is measured of the cases that have pgbench's load.
#[derive(Debug)]
pub struct Length {
    pub rounds: u32,
    pub clients: u32,
    pub jobs: u32,
    pub rate: u32,
    pub protocols: Vec<Protocol>,
    pub modes: Vec<Mode>,
}

async fn measure_all(args: &Args) -> Result<()> {
    // Many short rounds: the sides of a ratio then lie close together.
    let (rounds, seconds, scale) = if args.smoke { (5, 1, 2) } else { (10, 3, 10) };
    let seconds = args.seconds.unwrap_or(seconds).max(1);
    let length = Length {
        rounds: args.rounds.unwrap_or(rounds).max(1),
        clients: args.clients,
        jobs: args.jobs,
        rate: args.rate,
        protocols: args.protocols.clone(),
        modes: args.modes.clone().unwrap_or_else(|| match args.smoke {
            true => vec![Mode::Together, Mode::Paced],
            false => Mode::value_variants().to_vec(),
        }),
    };
    let cases = args.cases.clone().unwrap_or_else(|| match args.smoke {
        true => vec![Case::PointSelect],
        false => Case::value_variants().to_vec(),
    });
    let scale = args.scale.unwrap_or(scale).max(1);
    let servers = match cases.iter().any(|case| case.has_pgbench()) {
        true => Servers::WithPgbench { scale },
        false => Servers::OfEachCase,
    };
    let mut bench = prepare(args, seconds, servers).await?;
    for case in cases {
        eprintln!("{}", name(case));
        match case {
            Case::Idle => cases::idle::run(&mut bench).await?,
            Case::Large => cases::large::run(&mut bench).await?,
            Case::Storm => cases::storm::run(&mut bench).await?,
            Case::StormAfterRestart => cases::restart::run(&mut bench).await?,
            Case::Polls => cases::polls::run(&mut bench).await?,
            Case::TwoShardCommit => several::commit::run(&mut bench).await?,
            Case::AtomicRead => several::atomic::run(&mut bench).await?,
            Case::ScatterAggregate => several::aggregate::run(&mut bench).await?,
            Case::MergeSort => several::sort::run(&mut bench).await?,
            Case::CopyFrom => several::copy::run(&mut bench).await?,
            Case::Gather => several::gather::run(&mut bench).await?,
            Case::Tpch => several::tpch::run(&mut bench).await?,
            Case::MoveRows => several::moving::run(&mut bench).await?,
            Case::MoveNoticed => several::moving::run_noticed(&mut bench).await?,
            statements => cases::statements::run(&mut bench, statements, &length).await?,
        }
    }
    let text = bench.results.text();
    println!("{text}");
    for (name, contents) in [
        ("summary.txt", text + "\n"),
        ("summary.svg", plot::ratios(&bench.results)),
    ] {
        let path = args.report.join(name);
        std::fs::create_dir_all(&args.report)
            .and_then(|()| std::fs::write(&path, contents))
            .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    println!("records in {}", args.output.display());
    Ok(())
}

/// As in the command line.
fn name(case: Case) -> String {
    let value = case.to_possible_value();
    value.map_or(String::new(), |value| value.get_name().to_owned())
}

/// What is started before the first case.
#[derive(Clone, Copy)]
enum Servers {
    WithPgbench { scale: u32 },
    OfEachCase,
}

async fn prepare(args: &Args, seconds: u32, servers: Servers) -> Result<Bench> {
    raise_file_limit()?;
    let settings = Settings {
        pool_size: args.pool_size,
        clients: args.clients,
        login_retry: None,
        sockets: Sockets::Loopback,
        tls: Tls::Off,
        trunkline: whole_path(
            args.trunkline
                .as_deref()
                .unwrap_or(Path::new(env!("CARGO_BIN_EXE_trunkline"))),
        ),
        pgbouncer: args
            .pgbouncer
            .clone()
            .or_else(subjects::installed_pgbouncer)
            .map(|path| whole_path(&path)),
    };
    let subjects = subjects::choose(args.subjects.as_deref(), &settings)?;
    let output = create(&args.output)?;
    let folder = postgres::temporary_folder()?;
    let binaries = Binaries::find()?;
    let (scale, servers) = match servers {
        Servers::OfEachCase => (0, Vec::new()),
        Servers::WithPgbench { scale } => {
            let count = match subjects.iter().any(|subject| subject.has_four_servers()) {
                true => SERVERS,
                false => 1,
            };
            let version = &binaries.version;
            eprintln!("starting {count} server(s), Postgres {version}, scale {scale}");
            let path = folder.path();
            let fleet = postgres::start_fleet(&binaries, path, count, scale, MOST_CLIENTS).await?;
            (scale, fleet)
        }
    };
    let load = Load {
        pgbench: binaries.program("pgbench"),
        logs: folder.path().join("pgbench"),
        window: Duration::from_secs(u64::from(seconds)),
        scale,
    };
    std::fs::create_dir(&load.logs)
        .map_err(|e| Error::io(format!("create {}", load.logs.display()), e))?;
    Ok(Bench {
        binaries,
        servers,
        settings,
        load,
        smoke: args.smoke,
        rounds: args.rounds.map(|rounds| rounds.max(1)),
        subjects,
        output,
        results: Results::default(),
        folder,
    })
}

/// Ten thousand clients are as many files, here and in the proxies, which inherit the limit.
fn raise_file_limit() -> Result<()> {
    let failed = |e: nix::Error| Error::io("raise the limit of open files", e.into());
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(failed)
}

/// Programs start in other folders than ours. A bare name stays one, to be looked up in `PATH`.
fn whole_path(program: &Path) -> PathBuf {
    program
        .canonicalize()
        .unwrap_or_else(|_| program.to_owned())
}

fn create(path: &Path) -> Result<File> {
    let doing = || format!("create {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(doing(), e))?;
    }
    File::create(path).map_err(|e| Error::io(doing(), e))
}
