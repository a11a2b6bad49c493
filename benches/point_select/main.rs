//! What one point query costs: `pgbench -S` directly, through a plain byte forwarder, through PgBouncer and through Trunkline.
//!
//! Everything runs on this machine over loopback TCP, in servers made for the occasion. The measure that counts is the CPU time of the
//! proxy process per statement: unlike throughput it does not depend on how much of the machine pgbench and Postgres take. Subjects
//! run in turn, A B C D and then D C B A, and ratios are taken within a round, so that slow drift of the machine cancels out.
//!
//! ```text
//! cargo bench --bench point_select -- --smoke
//! cargo bench --bench point_select -- --protocols prepared --subjects pgbouncer,trunkline --rounds 8
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

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::load::{Load, Protocol};
use crate::postgres::{Binaries, Server};
use crate::report::Record;
use crate::subjects::{Lineup, Settings, Subject};

/// The fleet of the four-shard subject; the first server also serves everybody else.
const SERVERS: usize = 4;

#[derive(Debug, Parser)]
#[command(
    name = "point_select",
    about = "CPU per statement, throughput and latency of point queries"
)]
struct Args {
    /// Times every subject is measured in every protocol [default: 10, with --smoke 4]
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
    // Many short rounds: the two sides of a ratio then lie seconds apart.
    let (rounds, seconds, scale) = if args.smoke { (4, 1, 2) } else { (10, 3, 10) };
    let (rounds, seconds) = (
        args.rounds.unwrap_or(rounds).max(1),
        args.seconds.unwrap_or(seconds).max(1),
    );
    let scale = args.scale.unwrap_or(scale).max(1);
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
    let servers = postgres::start_fleet(&binaries, folder.path(), servers, scale).await?;
    let lineup = Lineup::start(&chosen, &settings, &binaries, &servers, folder.path()).await?;

    let load = Load {
        pgbench: binaries.program("pgbench"),
        logs: folder.path().join("pgbench"),
        clients: args.clients,
        jobs: args.jobs,
        duration: Duration::from_secs(u64::from(seconds)),
    };
    std::fs::create_dir(&load.logs)
        .map_err(|e| Error::io(format!("create {}", load.logs.display()), e))?;

    let mut records = Vec::new();
    let mut through_four_shards = 0;
    for &protocol in &args.protocols {
        for &subject in &chosen {
            let warmed = load
                .warm_up(protocol, lineup.get(subject, protocol).port)
                .await?;
            through_four_shards += if subject == Subject::TrunklineFourShards {
                warmed
            } else {
                0
            };
        }
        for round in 1..=rounds {
            for subject in in_turn(&chosen, round) {
                let running = lineup.get(subject, protocol);
                let run = load.measure(protocol, running).await?;
                through_four_shards += if subject == Subject::TrunklineFourShards {
                    run.transactions
                } else {
                    0
                };
                let record =
                    Record::new(protocol, running, round, &load, &settings, &binaries, &run);
                eprintln!("{record}");
                writeln!(output, "{}", record.to_json()?)
                    .map_err(|e| Error::io("write the summary", e))?;
                records.push(record);
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
