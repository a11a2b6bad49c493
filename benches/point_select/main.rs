//! What one point query costs: `pgbench -S` directly, through a plain byte forwarder, through PgBouncer and through Trunkline.
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
//! of server connections in total.
//!
//! ```text
//! cargo bench --bench point_select -- --smoke
//! cargo bench --bench point_select -- --modes together --protocols prepared --subjects pgbouncer,trunkline --rounds 8
//! cargo bench --bench point_select -- --trunkline /some/other/build/of/trunkline
//! ```
//!
//! Read `subjects.rs` for what is compared and how it is configured, `load.rs` for the load, `report.rs` for what is written.

mod cpu;
mod error;
mod forwarder;
mod load;
mod postgres;
mod process;
mod report;
mod subjects;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::load::{Load, Pace, Protocol};
use crate::postgres::{Binaries, Server};
use crate::report::{Record, Round};
use crate::subjects::{Entrant, Lineup, Settings, Subject};

/// The fleet of the four-shard subject; the first server also serves everybody else.
const SERVERS: usize = 4;

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

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Together => "together",
            Mode::Paced => "paced",
            Mode::InTurn => "in-turn",
        }
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "point_select",
    about = "CPU per statement, throughput and latency of point queries"
)]
struct Args {
    /// Times every subject is measured in every protocol [default: 10, with --smoke 4]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds of one measurement [default: 3, with --smoke 2]
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
        println!(
            "point_select measures nothing under `cargo test`; use `cargo bench --bench point_select`"
        );
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
            eprintln!("point_select: {e}");
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

async fn measure_all(args: &Args) -> Result<()> {
    // Many short rounds: the sides of a ratio then lie close together.
    let (rounds, seconds, scale) = if args.smoke { (4, 2, 2) } else { (10, 3, 10) };
    let (rounds, seconds) = (
        args.rounds.unwrap_or(rounds).max(1),
        args.seconds.unwrap_or(seconds).max(1),
    );
    let scale = args.scale.unwrap_or(scale).max(1);
    let modes = args.modes.clone().unwrap_or_else(|| match args.smoke {
        true => vec![Mode::Together, Mode::Paced],
        false => Mode::value_variants().to_vec(),
    });
    let settings = Settings {
        pool_size: args.pool_size,
        clients: args.clients,
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
    let chosen = subjects::choose(args.subjects.as_deref(), &settings)?;
    let mut output = create(&args.output)?;

    // Declared first, so that it is removed last.
    let folder = postgres::temporary_folder()?;
    let binaries = Binaries::find()?;
    let servers = if chosen.contains(&Subject::TrunklineFourShards) {
        SERVERS
    } else {
        1
    };
    eprintln!(
        "starting {servers} server(s), Postgres {}, scale {}",
        binaries.version, scale
    );
    let servers =
        postgres::start_fleet(&binaries, folder.path(), servers, scale, args.clients).await?;
    let lineup = Lineup::start(&chosen, &settings, &binaries, &servers, folder.path()).await?;

    let load = Load {
        pgbench: binaries.program("pgbench"),
        logs: folder.path().join("pgbench"),
        clients: args.clients,
        jobs: args.jobs,
        window: Duration::from_secs(u64::from(seconds)),
    };
    std::fs::create_dir(&load.logs)
        .map_err(|e| Error::io(format!("create {}", load.logs.display()), e))?;

    let mut records = Vec::new();
    let mut through_four_shards = 0;
    for &protocol in &args.protocols {
        for &subject in &chosen {
            let entrant = lineup.get(subject, protocol);
            let warmed = load.warm_up(protocol, entrant).await?;
            through_four_shards += in_four_shards(subject, warmed);
        }
        for &mode in &modes {
            for round in 1..=rounds {
                let order: Vec<&Entrant> = in_turn(&chosen, round)
                    .into_iter()
                    .map(|subject| lineup.get(subject, protocol))
                    .collect();
                // Each inner list is under load at the same time.
                let (groups, pace) = match mode {
                    Mode::Together => (proxies_first(order), Pace::Saturated),
                    Mode::Paced => (vec![order], Pace::PerSecond(args.rate)),
                    Mode::InTurn => (
                        order.chunks(1).map(<[_]>::to_vec).collect(),
                        Pace::Saturated,
                    ),
                };
                let mut runs = Vec::new();
                for group in groups {
                    let measured = load.measure(protocol, &group, pace, round).await?;
                    runs.extend(group.into_iter().zip(measured));
                }
                for (entrant, run) in runs {
                    through_four_shards += in_four_shards(entrant.subject, run.sent);
                    let round = Round {
                        mode,
                        protocol,
                        number: round,
                    };
                    let record = Record::new(round, entrant, &run, &load, &settings, &binaries);
                    eprintln!("{record}");
                    writeln!(output, "{}", record.to_json()?)
                        .map_err(|e| Error::io("write the summary", e))?;
                    records.push(record);
                }
            }
        }
    }
    // Server processes report their counters for certain only when they end.
    drop(lineup);
    prove_spread(&binaries, &servers, through_four_shards).await?;
    println!("{}", report::table(&records));
    println!("{} records in {}", records.len(), args.output.display());
    Ok(())
}

/// Programs start in other folders than ours. A bare name stays one, to be looked up in `PATH`.
fn whole_path(program: &Path) -> PathBuf {
    program
        .canonicalize()
        .unwrap_or_else(|_| program.to_owned())
}

fn in_four_shards(subject: Subject, transactions: u64) -> u64 {
    match subject {
        Subject::TrunklineFourShards => transactions,
        _ => 0,
    }
}

/// All proxies at once, then what needs none: there is no CPU time to measure, and it would take a third of the machine from them.
fn proxies_first(order: Vec<&Entrant>) -> Vec<Vec<&Entrant>> {
    let (direct, proxies): (Vec<_>, Vec<_>) = order
        .into_iter()
        .partition(|entrant| entrant.subject == Subject::Direct);
    let mut groups = vec![proxies, direct];
    groups.retain(|group| !group.is_empty());
    groups
}

/// A B C D in odd rounds, D C B A in even ones.
fn in_turn(subjects: &[Subject], round: u32) -> Vec<Subject> {
    let mut order = subjects.to_vec();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

/// Every server holds all rows, so a router that always picked one shard would go unnoticed (and be cheaper): count what arrived.
async fn prove_spread(binaries: &Binaries, servers: &[Server], sent: u64) -> Result<()> {
    if sent == 0 {
        return Ok(());
    }
    for (shard, server) in servers.iter().enumerate().skip(1) {
        // Even over 1/SERVERS each; random keys over buckets stay far inside a fifth of that.
        let fair = sent / SERVERS as u64;
        let (least, most) = (fair - fair / 5, fair + fair / 5);
        server
            .wait_for_lookups(binaries, least..=most)
            .await
            .map_err(|found| Error::NotSpread {
                shard,
                found,
                least,
                most,
            })?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    let doing = || format!("create {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(doing(), e))?;
    }
    File::create(path).map_err(|e| Error::io(doing(), e))
}
