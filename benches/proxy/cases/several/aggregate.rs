//! What it adds to a sum that it is made over four shards: `count(*)` and `sum` of ten million rows through Trunkline, beside the same
//! query on each server for its own part, all four at the same time, since they share the machine. The slowest of those is what the
//! scattered query cannot be faster than.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::clients::{self, milliseconds};
use super::{Cluster, Commit, Placement, SHARDS, Table};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres::Durability;
use crate::report::Measure;
use crate::subjects::Subject;

const QUERY: &str = "SELECT count(*), sum(v) FROM items";

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (each, rounds) = match bench.smoke {
        true => (100_000, 5),
        false => (2_500_000, 10),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let table = "CREATE TABLE items (id bigint NOT NULL, v integer NOT NULL)";
    let cluster = Cluster::start(bench, "scatter_aggregate", Durability::Off, table).await?;
    cluster
        .run_on_all(|shard| {
            let first = shard as u64 * each;
            let last = first + each - 1;
            format!("INSERT INTO items SELECT n, n % 1000 FROM generate_series({first}, {last}) n")
        })
        .await?;
    // Pages are then written once, and not by the first to read them.
    cluster
        .run_on_all(|_| "VACUUM (FREEZE, ANALYZE) items".to_owned())
        .await?;
    cluster.run_on_all(|_| "CHECKPOINT".to_owned()).await?;
    let tables = [Table {
        name: "items",
        placement: Placement::Ranges { each },
    }];
    let probe = "SELECT v FROM items WHERE id = 0";
    let proxy = cluster.proxy(&tables, Commit::Atomic, probe).await?;
    let (ports, port, pid) = (cluster.ports(), proxy.port, proxy.pid());
    // n % 1000 over whole thousands of n.
    let rows = each * SHARDS as u64;
    let expected = [rows, rows / 1000 * 499_500].map(|number| Some(number.to_string()));
    let runs = blocking("add up rows", move || {
        let mut client = Client::connect(port, None)?;
        let mut servers = ports
            .iter()
            .map(|&port| Client::connect(port, None))
            .collect::<io::Result<Vec<_>>>()?;
        // Once for the caches.
        at_once(&mut servers)?;
        let mut runs = Vec::new();
        for round in 1..=rounds {
            let mut through = || -> io::Result<_> {
                let (before, began) = (cpu::used(pid), Instant::now());
                let row = client.ask(QUERY)?.first_row();
                Ok((began.elapsed(), before, cpu::used(pid), row))
            };
            let (scattered, alone) = match round % 2 {
                0 => {
                    let alone = at_once(&mut servers)?;
                    (through()?, alone)
                }
                _ => (through()?, at_once(&mut servers)?),
            };
            runs.push((round, scattered, alone));
        }
        Ok(runs)
    })
    .await?;
    for (round, (took, before, after, row), alone) in runs {
        if row != expected {
            return Err(Error::Wrong {
                what: QUERY.to_owned(),
                found: format!("{row:?}"),
                expected: format!("{expected:?}"),
            });
        }
        let slowest = alone.into_iter().max().unwrap_or_default();
        let cpu = after?.saturating_sub(before?);
        let kind = format!("{rows} rows");
        let direct = Measure::new("scatter_aggregate", kind.clone(), Subject::Direct, round)
            .with("slowest_ms", milliseconds(slowest));
        let through = Measure::new(
            "scatter_aggregate",
            kind,
            Subject::TrunklineFourShards,
            round,
        )
        .with("ms", milliseconds(took))
        .with(
            "ratio_to_slowest",
            took.as_secs_f64() / slowest.as_secs_f64(),
        )
        .with("cpu_us", cpu.as_secs_f64() * 1e6);
        bench.add(direct)?;
        bench.add(through)?;
    }
    Ok(())
}

/// What each server took, all asked at the same time.
fn at_once(servers: &mut [Client]) -> io::Result<Vec<Duration>> {
    let start = Barrier::new(servers.len());
    let ask = |client: &mut Client| {
        start.wait();
        let began = Instant::now();
        client.query(QUERY).map(|_| began.elapsed())
    };
    std::thread::scope(|scope| {
        let ask = &ask;
        let threads: Vec<_> = servers
            .iter_mut()
            .map(|client| scope.spawn(move || ask(client)))
            .collect();
        threads.into_iter().map(clients::joined).collect()
    })
}
