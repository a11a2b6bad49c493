//! What it costs to bring rows together: a join that is not colocated, through Trunkline, beside what one would do by hand: temporary
//! tables on the first server, `COPY TO | COPY FROM` of the rows of the other three, one server after the other, ANALYZE, and the query.
//!
//! The joined table is small, the first server has no rows of the large one, and the query does little with them, so that bringing them is what
//! counts. Rates are of the bytes that travel: the needed columns of the large table's rows, as binary COPY has them (`megabytes`; counted in the pipe).

use std::io;
use std::time::{Duration, Instant};

use super::clients::milliseconds;
use super::{Cluster, Commit, Placement, Table};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres::Durability;
use crate::report::Measure;
use crate::subjects::Subject;

const QUERY: &str =
    "SELECT count(r.payload), sum(s.weight) FROM readings r JOIN sensors s ON r.sensor = s.id";
/// On each shard.
const SENSORS: u64 = 25;
const PAYLOAD: usize = 200;

/// What it took by hand.
struct ByHand {
    bytes: u64,
    /// From server to server.
    pipe: Duration,
    analyze: Duration,
    query: Duration,
    whole: Duration,
    row: Vec<Option<String>>,
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (each, rounds) = match bench.smoke {
        true => (40_000, 2),
        false => (400_000, 5),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let tables = "CREATE TABLE readings (id bigint NOT NULL, sensor bigint NOT NULL, unit text NOT NULL, payload text NOT NULL); \
                  CREATE TABLE sensors (id bigint NOT NULL, weight bigint NOT NULL)";
    let cluster = Cluster::start(bench, "gather", Durability::Off, tables).await?;
    cluster
        .run_on_all(|shard| {
            let (first, sensor) = (shard as u64 * each, shard as u64 * SENSORS);
            let readings = if shard == 0 { 0 } else { each };
            format!(
                "INSERT INTO readings SELECT n, n % 100, 'degree', rpad(n::text, {PAYLOAD}, 'x') FROM generate_series({first}, {}) n; \
                 INSERT INTO sensors SELECT n, n % 7 FROM generate_series({sensor}, {}) n",
                (first + readings).wrapping_sub(1) as i64,
                sensor + SENSORS - 1
            )
        })
        .await?;
    let vacuum = |table: &str| format!("VACUUM (FREEZE, ANALYZE) {table}");
    for table in ["readings", "sensors"] {
        cluster.run_on_all(|_| vacuum(table)).await?;
    }
    cluster.run_on_all(|_| "CHECKPOINT".to_owned()).await?;
    let placed = |name, each| Table {
        name,
        placement: Placement::Ranges { each },
    };
    let tables = [placed("readings", each), placed("sensors", SENSORS)];
    let probe = "SELECT weight FROM sensors WHERE id = 0";
    let proxy = cluster.proxy(&tables, Commit::Atomic, probe).await?;
    for round in 1..=rounds {
        let (hand, gathered) = match round % 2 {
            0 => {
                let gathered = through(proxy.port, proxy.pid()).await?;
                (by_hand(cluster.ports()).await?, gathered)
            }
            _ => {
                let hand = by_hand(cluster.ports()).await?;
                (hand, through(proxy.port, proxy.pid()).await?)
            }
        };
        let (took, cpu, row) = gathered;
        if row != hand.row {
            return Err(Error::Wrong {
                what: QUERY.to_owned(),
                found: format!("{row:?}"),
                expected: format!("{:?}", hand.row),
            });
        }
        let megabytes = hand.bytes as f64 / 1e6;
        let rate = |time: Duration| megabytes / time.as_secs_f64();
        // The tables, ANALYZE, the query: both have to do that.
        let rest = hand.whole.saturating_sub(hand.pipe);
        let direct = Measure::new("gather", "by hand", Subject::Direct, round)
            .with("megabytes", megabytes)
            .with("megabytes_per_second", rate(hand.pipe))
            .with("whole_ms", milliseconds(hand.whole))
            .with("analyze_ms", milliseconds(hand.analyze))
            .with("query_ms", milliseconds(hand.query))
            .with("rest_ms", milliseconds(rest));
        let through = Measure::new("gather", "gather", Subject::TrunklineFourShards, round)
            .with("megabytes", megabytes)
            .with("megabytes_per_second", rate(took))
            .with("whole_ms", milliseconds(took))
            .with("rate_to_pipe", rate(took) / rate(hand.pipe))
            .with(
                "rate_to_pipe_without_rest",
                rate(took.saturating_sub(rest)) / rate(hand.pipe),
            )
            .with(
                "whole_to_by_hand",
                took.as_secs_f64() / hand.whole.as_secs_f64(),
            )
            .with("megabytes_per_cpu_second", rate(cpu));
        bench.add(direct)?;
        bench.add(through)?;
    }
    Ok(())
}

/// What it took, of the proxy's CPU time, and the result.
async fn through(port: u16, pid: u32) -> Result<(Duration, Duration, Vec<Option<String>>)> {
    let (took, before, after, row) = blocking("gather rows", move || {
        let mut client = Client::connect(port, None)?;
        let (before, began) = (cpu::used(pid), Instant::now());
        let row = client.ask(QUERY)?.first_row();
        Ok((began.elapsed(), before, cpu::used(pid), row))
    })
    .await?;
    Ok((took, after?.saturating_sub(before?), row))
}

async fn by_hand(ports: Vec<u16>) -> Result<ByHand> {
    blocking("bring rows together by hand", move || {
        let clients = ports.iter().map(|&port| Client::connect(port, None));
        let mut servers = clients.collect::<io::Result<Vec<_>>>()?;
        let (here, others) = servers.split_first_mut().expect("there are four servers");
        let began = Instant::now();
        for sql in [
            "BEGIN",
            "CREATE TEMPORARY TABLE readings (sensor bigint, payload text) ON COMMIT DROP",
            "CREATE TEMPORARY TABLE sensors (id bigint, weight bigint) ON COMMIT DROP",
            "INSERT INTO pg_temp.sensors SELECT id, weight FROM public.sensors",
        ] {
            here.query(sql)?;
        }
        let (mut bytes, mut pipe) = (0, Duration::ZERO);
        for other in others {
            let piped = Instant::now();
            bytes += other.pipe(
                "COPY (SELECT sensor, payload FROM readings) TO STDOUT (FORMAT binary)",
                here,
                "COPY pg_temp.readings FROM STDIN (FORMAT binary)",
            )?;
            pipe += piped.elapsed();
            other.pipe(
                "COPY sensors TO STDOUT (FORMAT binary)",
                here,
                "COPY pg_temp.sensors FROM STDIN (FORMAT binary)",
            )?;
        }
        let analyze = Instant::now();
        here.query("ANALYZE pg_temp.readings")?;
        let (analyze, query) = (analyze.elapsed(), Instant::now());
        let row = here.ask(QUERY)?.first_row();
        let query = query.elapsed();
        here.query("COMMIT")?;
        Ok(ByHand {
            bytes,
            pipe,
            analyze,
            query,
            whole: began.elapsed(),
            row,
        })
    })
    .await
}
