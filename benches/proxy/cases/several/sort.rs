//! What a merge of sorted rows costs: a million of them in order, from four shards that have an index on it, by a number and by a text;
//! and the same rows in no order, which is what only passing them on costs.

use std::time::Instant;

use super::{Cluster, Commit, Placement, SHARDS, Table};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres::Durability;
use crate::report::Measure;
use crate::subjects::Subject;

const QUERIES: [(&str, &str); 4] = [
    ("integer", "SELECT v, id FROM sorted ORDER BY v, id"),
    ("integer, unsorted", "SELECT v, id FROM sorted"),
    ("text", "SELECT name, id FROM sorted ORDER BY name, id"),
    ("text, unsorted", "SELECT name, id FROM sorted"),
];

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (each, rounds) = match bench.smoke {
        true => (50_000, 2),
        false => (250_000, 10),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let table = "CREATE TABLE sorted (id bigint NOT NULL, v integer NOT NULL, name text NOT NULL)";
    let cluster = Cluster::start(bench, "merge_sort", Durability::Off, table).await?;
    cluster
        .run_on_all(|shard| {
            let first = shard as u64 * each;
            let last = first + each - 1;
            // The shards' numbers lie among each other.
            format!(
                "INSERT INTO sorted SELECT n, n::bigint * 7919 % 1000003, md5(n::text) FROM generate_series({first}, {last}) n; \
                 CREATE INDEX ON sorted (v, id); CREATE INDEX ON sorted (name, id)"
            )
        })
        .await?;
    cluster
        .run_on_all(|_| "VACUUM (FREEZE, ANALYZE) sorted".to_owned())
        .await?;
    let tables = [Table {
        name: "sorted",
        placement: Placement::Ranges { each },
    }];
    let probe = "SELECT v FROM sorted WHERE id = 0";
    let proxy = cluster.proxy(&tables, Commit::Atomic, probe).await?;
    let (port, pid, rows) = (proxy.port, proxy.pid(), each * SHARDS as u64);
    for round in 1..=rounds {
        for (kind, sql) in QUERIES {
            let (answer, took, before, after) = blocking("read sorted rows", move || {
                let mut client = Client::connect(port, None)?;
                let (before, began) = (cpu::used(pid), Instant::now());
                let answer = client.ask(sql)?;
                Ok((answer, began.elapsed(), before, cpu::used(pid)))
            })
            .await?;
            if answer.rows != rows {
                return Err(Error::Wrong {
                    what: sql.to_owned(),
                    found: format!("{} rows", answer.rows),
                    expected: rows.to_string(),
                });
            }
            let (count, cpu) = (rows as f64, after?.saturating_sub(before?).as_secs_f64());
            let measure = Measure::new("merge_sort", kind, Subject::TrunklineFourShards, round)
                .with("rows", count)
                .with("rows_per_cpu_second", count / cpu)
                .with("rows_per_second", count / took.as_secs_f64())
                .with(
                    "megabytes_per_second",
                    answer.bytes as f64 / 1e6 / took.as_secs_f64(),
                );
            bench.add(measure)?;
        }
    }
    Ok(())
}
