//! What it costs to split the rows of a COPY: rows of text into a table on four shards by the hash of their key, beside the same into one
//! Postgres directly, and through Trunkline into a table that is on one shard, which is what only passing bytes on costs.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Cluster, Commit, Placement, Table};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres::Durability;
use crate::report::Measure;
use crate::subjects::Subject;

/// Of a block that is sent again and again, with keys from one on.
const BLOCK_ROWS: usize = 20_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Passed,
    Split,
}

impl Way {
    const ALL: [Way; 3] = [Way::Direct, Way::Passed, Way::Split];

    fn kind(self) -> &'static str {
        match self {
            Way::Direct => "one server",
            Way::Passed => "one shard",
            Way::Split => "four shards",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Way::Direct | Way::Passed => "events_here",
            Way::Split => "events",
        }
    }

    fn subject(self) -> Subject {
        match self {
            Way::Direct => Subject::Direct,
            Way::Passed | Way::Split => Subject::TrunklineFourShards,
        }
    }
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (bytes, rounds) = match bench.smoke {
        true => (32 << 20, 2),
        false => (512 << 20, 5),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let columns = "(id bigint, device integer, at timestamptz, note text)";
    let tables = format!(
        "CREATE UNLOGGED TABLE events {columns}; CREATE UNLOGGED TABLE events_here {columns}"
    );
    let cluster = Cluster::start(bench, "copy_from", Durability::Off, &tables).await?;
    let placed = |name, placement| Table { name, placement };
    let tables = [
        placed("events", Placement::Hash),
        placed("events_here", Placement::Single),
    ];
    let proxy = cluster
        .proxy(&tables, Commit::Atomic, "DELETE FROM events")
        .await?;
    let block = rows();
    let times = (bytes / block.len()).max(1);
    let megabytes = (block.len() * times) as f64 / 1e6;
    for round in 1..=rounds {
        let mut order = Way::ALL;
        if round % 2 == 0 {
            order.reverse();
        }
        let mut rates = Vec::new();
        for way in order {
            let truncate = "TRUNCATE events, events_here";
            cluster.run_on_all(|_| truncate.to_owned()).await?;
            let (port, pid) = match way {
                Way::Direct => (cluster.servers[0].port, None),
                Way::Passed | Way::Split => (proxy.port, Some(proxy.pid())),
            };
            let (took, cpu) = copy(port, pid, way, block.clone(), times).await?;
            check(&cluster, way, BLOCK_ROWS * times).await?;
            rates.push((way, megabytes / took.as_secs_f64(), cpu));
        }
        let direct = rates.iter().find(|(way, ..)| *way == Way::Direct);
        let direct = direct.map_or(f64::NAN, |(_, rate, _)| *rate);
        for (way, rate, cpu) in rates {
            let mut measure = Measure::new("copy_from", way.kind(), way.subject(), round)
                .with("megabytes", megabytes)
                .with("megabytes_per_second", rate);
            if let Some(cpu) = cpu {
                measure = measure
                    .with("megabytes_per_cpu_second", megabytes / cpu.as_secs_f64())
                    .with("rate_to_direct", rate / direct);
            }
            bench.add(measure)?;
        }
    }
    Ok(())
}

/// What it took, and of the proxy's CPU time.
async fn copy(
    port: u16,
    pid: Option<u32>,
    way: Way,
    block: Vec<u8>,
    times: usize,
) -> Result<(Duration, Option<Duration>)> {
    let (took, before, after) = blocking("copy rows", move || {
        let mut client = Client::connect(port, None)?;
        let used = || pid.map(cpu::used).transpose();
        let (before, began) = (used(), Instant::now());
        let sql = format!("COPY {} FROM STDIN", way.table());
        client.copy_block(&sql, &block, times)?;
        Ok((began.elapsed(), before, used()))
    })
    .await?;
    let spent = before?.zip(after?);
    Ok((
        took,
        spent.map(|(before, after)| after.saturating_sub(before)),
    ))
}

/// All rows are there, and those of several shards are on all of them, about as many on each.
async fn check(cluster: &Cluster, way: Way, rows: usize) -> Result<()> {
    let count = format!("SELECT count(*) FROM {}", way.table());
    let all = i64::try_from(rows).unwrap_or(i64::MAX);
    cluster.expect_total(&count, all).await?;
    if way != Way::Split {
        return Ok(());
    }
    let least = rows / cluster.servers.len() / 2;
    for found in cluster.run_on_all(|_| count.clone()).await? {
        if found.trim().parse::<usize>().unwrap_or(0) < least {
            return Err(Error::Wrong {
                what: format!("{count} on one shard"),
                found: found.trim().to_owned(),
                expected: format!("at least {least}"),
            });
        }
    }
    Ok(())
}

/// About 100 bytes each.
fn rows() -> Vec<u8> {
    let mut text = String::new();
    for id in 1..=BLOCK_ROWS {
        writeln!(
            text,
            "{}\t{}\t2024-05-{:02} 12:{:02}:00+00\tthe quick brown fox jumps over the lazy dog, {:08}",
            id * 7919,
            id % 1000,
            id % 28 + 1,
            id % 60,
            id * 31,
        )
        .expect("writing to a string cannot fail");
    }
    text.into_bytes()
}
