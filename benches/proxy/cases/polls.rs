//! What it costs to look after nodes: 64 of them, four times a second, with no client at all. Goal: below 1 % of a processor.
//!
//! A primary and three streaming replicas stand for all of them: each of 16 shards has them under another address of the loopback network. A shard is then calm, as
//! most are at most times. The same proxy with an hour between looks has what else it does.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use trunkline::cli::local::{Cluster, ClusterOptions, Server, ServerOptions};

use super::{Bench, blocking};
use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres;
use crate::process::{Running, in_own_session};
use crate::report::Measure;
use crate::subjects::Subject;

const SHARDS: usize = 16;
const REPLICAS: u16 = 3;
/// From the start, until definitions are read and connections are there.
const BEFORE: Duration = Duration::from_secs(3);

pub async fn run(bench: &mut Bench) -> Result<()> {
    let cluster = blocking("start a shard with replicas", || {
        let settings = [("listen_addresses", "*")];
        let options = ClusterOptions {
            shards: Some(1),
            replicas: Some(REPLICAS),
            server: ServerOptions {
                settings: settings
                    .map(|(name, value)| (name.into(), value.into()))
                    .into(),
                ..ServerOptions::default()
            },
            ..ClusterOptions::default()
        };
        Cluster::start(options).map_err(std::io::Error::other)
    })
    .await?;
    let cluster = Arc::new(cluster);
    let watched = Duration::from_secs(if bench.smoke { 5 } else { 30 });
    for round in 1..=bench.rounds.unwrap_or(if bench.smoke { 1 } else { 2 }) {
        for interval in ["250ms", "1h"] {
            watch(bench, &cluster, interval, watched, round).await?;
        }
    }
    // It ends with its servers, which takes a while.
    blocking("stop the servers", move || {
        drop(cluster);
        Ok(())
    })
    .await
}

async fn watch(
    bench: &mut Bench,
    cluster: &Arc<Cluster>,
    interval: &'static str,
    watched: Duration,
    round: u32,
) -> Result<()> {
    let ports: Vec<u16> = cluster.shards()[0].servers().map(Server::port).collect();
    let port = postgres::free_port()?;
    let file = bench.folder.path().join(format!("polls-{port}.toml"));
    std::fs::write(&file, config(port, &ports, interval))
        .map_err(|e| Error::io(format!("write {}", file.display()), e))?;
    let mut command = in_own_session(&bench.settings.trunkline);
    command
        .arg("serve")
        .arg(&file)
        .current_dir(bench.folder.path());
    let log = file.with_extension("log");
    let mut process = Running::start("trunkline", &mut command, &log, Signal::SIGTERM)?;
    let psql = |sql| {
        let mut psql = bench.binaries.psql("127.0.0.1", port, sql);
        psql.args(["-d", "trunkline"]);
        psql
    };
    process.wait_until_ready(port, psql("SHOW NODES")).await?;
    tokio::time::sleep(BEFORE).await;
    let nodes = crate::process::run(&mut psql("SHOW NODES")).await?;
    let up = nodes.lines().filter(|line| line.contains("|up|")).count();
    let expected = SHARDS * ports.len();
    if up != expected {
        return Err(Error::Wrong {
            what: "nodes that are up".to_owned(),
            found: format!("{up}\n{nodes}"),
            expected: expected.to_string(),
        });
    }
    let commits_before = commits(cluster).await?;
    let (began, before) = (Instant::now(), cpu::used(process.pid())?);
    tokio::time::sleep(watched).await;
    let used = cpu::used(process.pid())?.saturating_sub(before);
    let took = began.elapsed();
    let looks = commits(cluster).await?.saturating_sub(commits_before) as f64;
    let share = used.as_secs_f64() / took.as_secs_f64();
    let mut measure = Measure::new("polls", interval, Subject::Trunkline, round)
        .with("nodes", expected as f64)
        .with("looks_a_second", looks / took.as_secs_f64())
        .with("percent_of_a_core", share * 100.0);
    if interval == "250ms" {
        measure = measure.with("cpu_us_per_look", used.as_secs_f64() * 1e6 / looks.max(1.0));
    }
    bench.add(measure)
}

/// Transactions of all servers so far, as of a second ago at most: a look is one. On a machine with too much to do there are fewer than there should be.
async fn commits(cluster: &Arc<Cluster>) -> Result<u64> {
    let cluster = Arc::clone(cluster);
    blocking("ask the servers", move || {
        let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'";
        let mut all = 0;
        for server in cluster.shards()[0].servers() {
            let rows = server.run_sql("postgres", sql);
            let rows = rows.map_err(std::io::Error::other)?;
            let value = rows
                .first()
                .and_then(|row| row.first()?.as_ref()?.parse::<u64>().ok());
            all += value.ok_or_else(|| std::io::Error::other("no number"))?;
        }
        Ok(all)
    })
    .await
}

fn config(port: u16, ports: &[u16], interval: &str) -> String {
    let mut toml = format!(
        "workers = 1\n\n[listen]\naddresses = [\"127.0.0.1:{port}\"]\nhttp = \"off\"\n\n[server_tls]\nmode = \"disable\"\n\n\
         [health]\ninterval = \"{interval}\"\n\n\
         [[users]]\nname = \"postgres\"\nauth = \"trust\"\nadmin = true\n\n[[databases]]\nname = \"app\"\ndefault_shard = \"s1\"\n\n"
    );
    for shard in 1..=SHARDS {
        writeln!(toml, "[[shards]]\nname = \"s{shard}\"").expect("writing to a string cannot fail");
        for port in ports {
            writeln!(
                toml,
                "[[shards.nodes]]\nhost = \"127.0.0.{shard}\"\nport = {port}"
            )
            .expect("writing to a string cannot fail");
        }
    }
    toml
}
