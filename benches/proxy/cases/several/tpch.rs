//! The 22 queries of TPC-H on four shards, beside the same queries on one server with the same rows.
//!
//! Orders and lines, parts and their suppliers, customers, and suppliers are four distributions: hardly a join stays on a shard, so most queries bring
//! rows together on one of them. No table has an index besides its primary key, on either side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::clients::milliseconds;
use super::{Cluster, Commit};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::postgres::{self, Durability, Setup, Speedups};
use crate::report::Measure;
use crate::subjects::Subject;

#[path = "../../../../tests/it/differential/tpch/workload.rs"]
mod workload;

/// Rows of one INSERT.
const ROWS: usize = 500;

/// What a query gave: how many rows, and the first of them.
type Found = (u64, Vec<Option<String>>);

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (scale, rounds) = match bench.smoke {
        true => (workload::Scale(5), 1),
        false => (workload::Scale(50), 3),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let setup = Setup {
        connections: 100,
        durability: Durability::Off,
        speedups: Speedups::Off,
        logical: false,
    };
    let cluster = Cluster::start_with(bench, "tpch", setup, workload::SCHEMA).await?;
    let folder = postgres::subfolder(bench.folder.path(), "tpch_one")?;
    let one = postgres::start_empty_fleet(&bench.binaries, &folder, 1, setup).await?;
    one[0].run(&bench.binaries, workload::SCHEMA).await?;
    // The servers here are counted from 0.
    let tables = workload::TABLES.replace("\"s4\"", "\"s0\"");
    let probe = "SELECT FROM orders WHERE o_orderkey = 0";
    let proxy = cluster.proxy_of(&tables, Commit::Atomic, probe).await?;
    let ports = [one[0].port, proxy.port];
    for port in ports {
        blocking("load the tables of TPC-H", move || load(port, scale)).await?;
    }
    cluster
        .run_on_all(|_| "VACUUM (FREEZE, ANALYZE)".to_owned())
        .await?;
    one[0]
        .run(&bench.binaries, "VACUUM (FREEZE, ANALYZE)")
        .await?;
    for round in 1..=rounds {
        let mut totals = [Duration::ZERO; 2];
        for (number, sql) in (1..).zip(workload::QUERIES) {
            let mut order = [0, 1];
            if round % 2 == 0 {
                order.reverse();
            }
            let mut found: [Option<(Duration, Found)>; 2] = [None, None];
            for place in order {
                let port = ports[place];
                found[place] = Some(blocking("run a query", move || ask(port, sql)).await?);
            }
            let [Some((plain, expected)), Some((through, answer))] = found else {
                continue;
            };
            if answer != expected {
                return Err(Error::Wrong {
                    what: format!("Q{number}: {sql}"),
                    found: format!("{answer:?}"),
                    expected: format!("{expected:?}"),
                });
            }
            totals[0] += plain;
            totals[1] += through;
            add(bench, &format!("Q{number}"), round, plain, through)?;
        }
        add(bench, "total", round, totals[0], totals[1])?;
    }
    Ok(())
}

fn add(
    bench: &mut Bench,
    kind: &str,
    round: u32,
    plain: Duration,
    through: Duration,
) -> Result<()> {
    let one =
        Measure::new("tpch", kind, Subject::Direct, round).with("whole_ms", milliseconds(plain));
    let four = Measure::new("tpch", kind, Subject::TrunklineFourShards, round)
        .with("whole_ms", milliseconds(through))
        .with(
            "time_to_direct",
            through.as_secs_f64() / plain.as_secs_f64(),
        );
    bench.add(one)?;
    bench.add(four)
}

fn ask(port: u16, sql: &str) -> std::io::Result<(Duration, Found)> {
    let mut client = Client::connect(port, None)?;
    let began = Instant::now();
    let answer = client.ask(sql)?;
    Ok((began.elapsed(), (answer.rows, answer.first_row())))
}

/// Many rows in each INSERT: Trunkline splits them.
fn load(port: u16, scale: workload::Scale) -> std::io::Result<()> {
    let mut client = Client::connect(port, None)?;
    for sql in workload::reference().split_terminator(';') {
        client.query(sql)?;
    }
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in workload::rows(scale) {
        let (table, values) = row
            .split_once(" VALUES ")
            .ok_or_else(|| std::io::Error::other(format!("no row: {row}")))?;
        let rows = tables.entry(table.to_owned()).or_default();
        rows.push(values.to_owned());
    }
    for (table, rows) in tables {
        for some in rows.chunks(ROWS) {
            client.query(&format!("INSERT INTO {table} VALUES {}", some.join(", ")))?;
        }
    }
    Ok(())
}
