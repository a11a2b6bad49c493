//! What `trunkline.read_consistency = 'atomic'` costs: a sum over four shards with it and without it, while nothing else runs, and while
//! transfers between the shards commit. The sum is always the same, so a read that shows part of a transfer is seen. Without atomic reads
//! there may be some; with them one ends the bench.

use std::io;
use std::time::Duration;

use super::clients::{Outcome, Turn, watch};
use super::commit::{self, Transfer};
use super::{Cluster, Commit};
use crate::cases::{Bench, blocking};
use crate::client::{Client, Reported};
use crate::error::{Error, Result};
use crate::report::Measure;
use crate::subjects::Subject;

const READERS: u64 = 4;
const WRITERS: u64 = 4;
const SUM: &str = "SELECT sum(balance) FROM accounts";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consistency {
    Off,
    Atomic,
}

impl Consistency {
    fn name(self) -> &'static str {
        match self {
            Consistency::Off => "off",
            Consistency::Atomic => "atomic",
        }
    }
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, window) = match bench.smoke {
        true => (1, Duration::from_millis(1000)),
        false => (5, bench.load.window),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let cluster = commit::accounts(bench, "atomic_read").await?;
    for writers in [0, WRITERS] {
        for round in 1..=rounds {
            let mut order = [Consistency::Off, Consistency::Atomic];
            if round % 2 == 0 {
                order.reverse();
            }
            for consistency in order {
                let run = one(&cluster, consistency, writers, window, round);
                bench.add(run.await?)?;
            }
        }
    }
    cluster.expect_total(SUM, 0).await
}

async fn one(
    cluster: &Cluster,
    consistency: Consistency,
    writers: u64,
    window: Duration,
    round: u32,
) -> Result<Measure> {
    // Of the first server: a try whose snapshots do not go together is rolled back on all of them.
    let before = rollbacks(cluster).await?;
    let proxy = commit::proxy(cluster, Commit::Atomic).await?;
    let (port, pid) = (proxy.port, proxy.pid());
    let seen = blocking("read sums", move || {
        let readers = (0..READERS).map(|_| -> io::Result<Box<dyn Turn>> {
            let mut client = Client::connect(port, None)?;
            let name = consistency.name();
            client.query(&format!("SET trunkline.read_consistency = '{name}'"))?;
            Ok(Box::new(Reader(client)))
        });
        let writers = (0..writers).map(|client| -> io::Result<Box<dyn Turn>> {
            Ok(Box::new(Transfer::over_two_shards(
                port,
                client,
                u64::from(round),
            )?))
        });
        let readers = readers.collect::<io::Result<_>>()?;
        watch(
            readers,
            writers.collect::<io::Result<_>>()?,
            Some(pid),
            window,
        )
    })
    .await?;
    // Server processes report their counters for certain only when they end.
    drop(proxy);
    let retries = rollbacks(cluster).await? - before;
    let torn = seen.count(Outcome::Torn);
    if consistency == Consistency::Atomic && torn > 0 {
        return Err(Error::Wrong {
            what: "atomic reads".to_owned(),
            found: format!("{torn} torn"),
            expected: "none".to_owned(),
        });
    }
    let kind = format!("{}, {writers} writers", consistency.name());
    let measure = Measure::new("atomic_read", kind, Subject::TrunklineFourShards, round)
        .with(
            "reads_per_second",
            seen.per_second(Outcome::Done) + seen.per_second(Outcome::Torn),
        )
        .with("torn", torn as f64)
        .with(
            "serialization_failures",
            seen.count(Outcome::Refused) as f64,
        )
        .with("retries_per_read", retries as f64 / seen.all.max(1) as f64)
        .with("commits_per_second_beside", seen.beside_per_second());
    // With writers it is their time, too.
    let measure = match writers {
        0 => measure.with("cpu_us_per_read", seen.cpu_us_each()),
        _ => measure,
    };
    Ok(seen.latencies(measure))
}

struct Reader(Client);

impl Turn for Reader {
    fn take(&mut self) -> io::Result<(Outcome, Option<Duration>)> {
        let outcome = match self.0.ask(SUM) {
            Ok(answer) if answer.first_row() == [Some("0".to_owned())] => Outcome::Done,
            Ok(_) => Outcome::Torn,
            Err(e) if Reported::of(&e).is_some_and(|e| e.sqlstate == "40001") => Outcome::Refused,
            Err(e) => return Err(e),
        };
        Ok((outcome, None))
    }
}

/// Counted by the first server, when nobody is connected to it any more.
async fn rollbacks(cluster: &Cluster) -> Result<i64> {
    let server = &cluster.servers[0];
    let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    while server.run(&cluster.binaries, others).await?.trim() != "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counted = "SELECT sum(xact_rollback) FROM pg_stat_database";
    let printed = server.run(&cluster.binaries, counted).await?;
    Ok(printed.trim().parse().unwrap_or(0))
}
