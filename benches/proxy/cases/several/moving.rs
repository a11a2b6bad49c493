//! What it costs to move rows between shards, beside `pg_dump -Fd | pg_restore` of the same table between the same servers; and to follow
//! what changes meanwhile.
//!
//! A round begins with all rows on the first server. `copied` is a plan from START until all rows and indexes are on the second one and changes are followed;
//! then a quarter of the rows is changed, and `followed` is how long that takes until nothing is left of it. With `written` the same is copied while
//! a client changes rows all the time: what the source's log has to keep then is what matters (`log_kept_megabytes`).
//!
//! `move_noticed` is what clients notice who look up and change rows at their leisure: their statements' latency with nothing else going on, while all is copied
//! as fast as it can be, and while the copy makes way for them (`THROTTLE LATENCY`).

use std::path::Path;
use std::time::{Duration, Instant};

use std::io;

use super::clients::{Chance, Outcome, Turn, milliseconds, watch};
use super::{Cluster, Commit, Proxy};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::load::percentiles;
use crate::postgres::{DATABASE, Durability, Setup, Speedups, USER, as_server_account};
use crate::report::Measure;
use crate::subjects::Subject;
use crate::{cpu, memory, process};

const COLUMNS: &str = "id bigint PRIMARY KEY, n bigint NOT NULL, at timestamptz NOT NULL DEFAULT '2026-01-01', note text NOT NULL";
/// The other servers are new ones, without keys.
const PLACED: &str = "[[distributions]]\nname = \"of_items\"\nkey = \"bigint\"\nstrategy = \"range\"\n\
     ranges = [{ from = 0, to = 1099511627776, shard = \"s0\" }]\n\n\
     [[tables]]\nname = \"items\"\ndistribution = \"of_items\"\nkey = \"id\"\n\n";
const INDEX: &str = "CREATE INDEX items_n ON items (n)";
/// How long a plan may take for one of its phases.
const PATIENCE: Duration = Duration::from_secs(1800);

/// One server with rows, others without, and Trunkline before them.
struct Site {
    cluster: Cluster,
    proxy: Proxy,
    rows: u64,
}

impl Site {
    async fn start(bench: &Bench, name: &'static str) -> Result<Site> {
        let rows = match bench.smoke {
            true => 200_000,
            false => 10_000_000,
        };
        let setup = Setup {
            connections: 100,
            durability: Durability::On,
            speedups: Speedups::Off,
            logical: true,
        };
        let cluster = Cluster::start_with(bench, name, setup, "").await?;
        let table = format!(
            "CREATE TABLE items ({COLUMNS}); \
             INSERT INTO items SELECT g, g % 1000, '2026-01-01'::timestamptz + g * interval '1 second', repeat(md5(g::text), 3) FROM generate_series(1, {rows}) g; {INDEX}; VACUUM (FREEZE, ANALYZE) items; CHECKPOINT"
        );
        for statement in table.split("; ") {
            on(&cluster, 0, statement).await?;
        }
        let proxy = cluster
            .proxy_of(PLACED, Commit::Atomic, "SELECT n FROM items WHERE id = 1")
            .await?;
        Ok(Site {
            cluster,
            proxy,
            rows,
        })
    }
}

/// Of a case.
fn rounds(bench: &Bench) -> u32 {
    bench.rounds.unwrap_or(if bench.smoke { 1 } else { 3 })
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let Site {
        cluster,
        proxy,
        rows,
    } = Site::start(bench, "move_rows").await?;
    for round in 1..=rounds(bench) {
        let mut by_hand = Duration::ZERO;
        let mut copied = Duration::ZERO;
        for step in 0..2 {
            match (round + step) % 2 {
                0 => by_hand = dump_and_restore(bench, &cluster, round).await?,
                _ => copied = a_move(bench, &cluster, &proxy, rows, round).await?,
            }
        }
        let ratio = by_hand.as_secs_f64() / copied.as_secs_f64();
        bench.add(
            Measure::new("move_rows", "beside", Subject::TrunklineFourShards, round)
                .with("rate_to_dump_and_restore", ratio),
        )?;
        written(bench, &cluster, &proxy, rows, round).await?;
    }
    Ok(())
}

/// The case `move_noticed`.
pub async fn run_noticed(bench: &mut Bench) -> Result<()> {
    let site = Site::start(bench, "move_noticed").await?;
    for round in 1..=rounds(bench) {
        noticed(bench, &site, round).await?;
    }
    Ok(())
}

/// Runs SQL on one server.
async fn on(cluster: &Cluster, shard: usize, sql: &str) -> Result<String> {
    cluster.servers[shard].run(&cluster.binaries, sql).await
}

/// A statement for the admin database.
async fn order(cluster: &Cluster, proxy: &Proxy, statement: &str) -> Result<String> {
    let mut psql = cluster.binaries.psql("127.0.0.1", proxy.port, statement);
    psql.args(["-d", "trunkline"]);
    process::run(&mut psql).await
}

/// The plan's row in SHOW RESHARDS: its phase, and how many bytes of log the source keeps for it.
async fn status(cluster: &Cluster, proxy: &Proxy) -> Result<Vec<String>> {
    let all = order(cluster, proxy, "SHOW RESHARDS").await?;
    let row = all.lines().find(|line| line.starts_with("m|"));
    let row = row.ok_or_else(|| Error::Missing(format!("SHOW RESHARDS has no plan m: {all}")))?;
    Ok(row.split('|').map(str::to_owned).collect())
}

/// Waits for a phase, and returns the most of the log that was seen to be kept, bytes.
async fn reach(cluster: &Cluster, proxy: &Proxy, phase: &str) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut kept = 0;
    loop {
        let row = status(cluster, proxy).await?;
        kept = kept.max(
            row.get(LOG_KEPT)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        );
        if row.iter().any(|column| column == phase) {
            return Ok(kept);
        }
        if Instant::now() > deadline || row.iter().any(|column| column.starts_with("stopped")) {
            return Err(Error::Wrong {
                what: "the plan's phase".to_owned(),
                found: row.join(" | "),
                expected: phase.to_owned(),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The columns `copied_bytes` and `retained_bytes` of SHOW RESHARDS.
const COPIED_BYTES: usize = 7;
const LOG_KEPT: usize = 11;

/// A plan for all rows, checked, and started.
async fn start(cluster: &Cluster, proxy: &Proxy) -> Result<()> {
    start_with(cluster, proxy, "").await
}

async fn start_with(cluster: &Cluster, proxy: &Proxy, throttle: &str) -> Result<()> {
    order(cluster, proxy, "RESHARD PLAN m DRAIN s0 TO s1").await?;
    order(cluster, proxy, "RESHARD CHECK m").await?;
    reach(cluster, proxy, "checked").await?;
    order(cluster, proxy, &format!("RESHARD START m {throttle}")).await?;
    Ok(())
}

/// As before the plan; how long that took.
async fn take_back(cluster: &Cluster, proxy: &Proxy) -> Result<Duration> {
    let began = Instant::now();
    order(cluster, proxy, "RESHARD CANCEL m").await?;
    reach(cluster, proxy, "cancelled").await?;
    let took = began.elapsed();
    on(cluster, 1, "DROP TABLE items").await?;
    on(cluster, 0, "VACUUM items").await?;
    for server in [0, 1] {
        on(cluster, server, "CHECKPOINT").await?;
    }
    Ok(took)
}

/// From START until all is there, then changes.
async fn a_move(
    bench: &mut Bench,
    cluster: &Cluster,
    proxy: &Proxy,
    rows: u64,
    round: u32,
) -> Result<Duration> {
    memory::forget_peak(proxy.pid())?;
    let (used, began) = (cpu::used(proxy.pid())?, Instant::now());
    start(cluster, proxy).await?;
    reach(cluster, proxy, "following").await?;
    let (took, cpu) = (began.elapsed(), cpu::used(proxy.pid())? - used);
    let peak = memory::peak(proxy.pid())?;
    let there = on(cluster, 1, "SELECT count(*) FROM items").await?;
    expect("rows that were copied", there.trim(), &rows.to_string())?;
    let copied = Measure::new("move_rows", "copied", Subject::TrunklineFourShards, round)
        .with("rows", rows as f64)
        .with("whole_ms", milliseconds(took))
        .with("rows_per_second", rows as f64 / took.as_secs_f64())
        .with("rows_per_cpu_second", rows as f64 / cpu.as_secs_f64())
        .with("peak_megabytes", peak as f64 / 1e6);
    bench.add(copied)?;
    let changes = rows / 4;
    for (kind, change) in [
        (
            "followed: one transaction",
            format!("UPDATE items SET n = n + 1 WHERE id <= {changes}"),
        ),
        (
            "followed: transactions of 20 changes",
            format!(
                "DO $$ BEGIN FOR i IN 0 .. {changes} / 20 - 1 LOOP \
                 UPDATE items SET n = n + 1 WHERE id BETWEEN i * 20 + 1 AND i * 20 + 20; COMMIT; END LOOP; END $$"
            ),
        ),
    ] {
        let sum = format!("SELECT sum(n) FROM items WHERE id <= {changes}");
        let (used, began) = (cpu::used(proxy.pid())?, Instant::now());
        on(cluster, 0, &change).await?;
        let wrote = began.elapsed();
        let expected = on(cluster, 0, &sum).await?;
        while on(cluster, 1, &sum).await? != expected {
            if began.elapsed() > PATIENCE {
                return expect(kind, "changes that do not come", "all").map(|()| took);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (took, cpu) = (began.elapsed(), cpu::used(proxy.pid())? - used);
        let followed = Measure::new("move_rows", kind, Subject::TrunklineFourShards, round)
            .with("changes", changes as f64)
            .with("written_ms", milliseconds(wrote))
            .with("whole_ms", milliseconds(took))
            .with("changes_per_second", changes as f64 / took.as_secs_f64())
            .with("changes_per_cpu_second", changes as f64 / cpu.as_secs_f64());
        bench.add(followed)?;
    }
    let removed = take_back(cluster, proxy).await?;
    let removed = Measure::new("move_rows", "removed", Subject::TrunklineFourShards, round)
        .with("whole_ms", milliseconds(removed))
        .with("rows_per_second", rows as f64 / removed.as_secs_f64());
    bench.add(removed)?;
    Ok(took)
}

/// The same, while a client changes rows as fast as it can.
async fn written(
    bench: &mut Bench,
    cluster: &Cluster,
    proxy: &Proxy,
    rows: u64,
    round: u32,
) -> Result<()> {
    let port = proxy.port;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = tokio::spawn(blocking("write meanwhile", move || {
        let mut client = Client::connect(port, None)?;
        let mut written: u64 = 0;
        // Neighbours are far from each other, and each row comes once.
        let step = 1_000_003 % rows;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let id = written * step % rows + 1;
            client.query(&format!("UPDATE items SET n = n + 1 WHERE id = {id}"))?;
            written += 1;
        }
        Ok(written)
    }));
    memory::forget_peak(proxy.pid())?;
    let began = Instant::now();
    start(cluster, proxy).await?;
    let kept = reach(cluster, proxy, "following").await?;
    let took = began.elapsed();
    let peak = memory::peak(proxy.pid())?;
    drop(stop);
    let written = match writer.await {
        Ok(written) => written?,
        Err(error) => return Err(Error::io("write meanwhile", std::io::Error::other(error))),
    };
    order(cluster, proxy, "RESHARD VERIFY m").await?;
    reach(cluster, proxy, "verified").await?;
    let measure = Measure::new(
        "move_rows",
        "copied while written",
        Subject::TrunklineFourShards,
        round,
    )
    .with("rows", rows as f64)
    .with("whole_ms", milliseconds(took))
    .with("rows_per_second", rows as f64 / took.as_secs_f64())
    .with("updates_per_second", written as f64 / took.as_secs_f64())
    .with("log_kept_megabytes", kept as f64 / 1e6)
    .with("peak_megabytes", peak as f64 / 1e6);
    bench.add(measure)?;
    take_back(cluster, proxy).await.map(drop)
}

/// Clients of `move_noticed`, and how long each waits between two statements at most.
const VISITORS: u64 = 8;
const LEISURE: Duration = Duration::from_millis(40);
/// Looks up a row, or changes one.
struct Visitor {
    client: Client,
    chance: Chance,
    rows: u64,
}

impl Turn for Visitor {
    fn take(&mut self) -> io::Result<(Outcome, Option<Duration>)> {
        let id = self.chance.below(self.rows) + 1;
        let statement = match self.chance.below(2) {
            0 => format!("SELECT note FROM items WHERE id = {id}"),
            _ => format!("UPDATE items SET n = n + 1 WHERE id = {id}"),
        };
        let leisure = LEISURE.as_micros() as u64;
        std::thread::sleep(Duration::from_micros(self.chance.below(leisure)));
        let began = Instant::now();
        self.client.query(&statement)?;
        Ok((Outcome::Done, Some(began.elapsed())))
    }
}

/// Windows of each kind in a round, in turns: what the machine does for some seconds is not to fall on one kind only.
const TURNS: u32 = 3;

/// How long clients waited for each statement within some time.
async fn visit(proxy: &Proxy, rows: u64, length: Duration) -> Result<Vec<Duration>> {
    let port = proxy.port;
    let window = blocking("visit", move || {
        let visitors: io::Result<Vec<_>> = (1..=VISITORS)
            .map(|number| {
                let visitor = Visitor {
                    client: Client::connect(port, None)?,
                    chance: Chance::new(number),
                    rows,
                };
                Ok(Box::new(visitor) as Box<dyn Turn>)
            })
            .collect();
        watch(visitors?, Vec::new(), None, length)
    });
    Ok(window.await?.parts().collect())
}

/// The median and the 99th percentile in milliseconds.
fn noticed_ms(waits: &[Duration]) -> Result<[f64; 2]> {
    percentiles(waits.to_vec(), [50, 99])
        .map(|found| found.map(milliseconds))
        .ok_or_else(|| Error::Missing("statements to be timed".to_owned()))
}

/// A plan that copies while clients are there: how long they waited, and megabytes that were copied in a second.
async fn visit_a_plan(
    bench: &Bench,
    site: &Site,
    throttle: &str,
    length: Duration,
) -> Result<(Vec<Duration>, f64)> {
    let Site {
        cluster,
        proxy,
        rows,
    } = site;
    start_with(cluster, proxy, throttle).await?;
    let started = Instant::now();
    let before = loop {
        let copied = copied_bytes(&status(cluster, proxy).await?);
        // A long copy is meant, not what it takes to begin one.
        if copied > 0.0 || bench.smoke {
            break copied;
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::Missing("a chunk that is copied".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let began = Instant::now();
    let waits = visit(proxy, *rows, length).await?;
    let (row, took) = (status(cluster, proxy).await?, began.elapsed());
    if !bench.smoke {
        // Else the figure would be of something else.
        expect(
            "the plan's phase",
            row.get(2).map_or("", String::as_str),
            "copying",
        )?;
    }
    let rate = (copied_bytes(&row) - before) / 1e6 / took.as_secs_f64();
    take_back(cluster, proxy).await?;
    Ok((waits, rate))
}

fn copied_bytes(row: &[String]) -> f64 {
    row.get(COPIED_BYTES)
        .map_or(0.0, |text| text.parse().unwrap_or(0.0))
}

async fn noticed(bench: &mut Bench, site: &Site, round: u32) -> Result<()> {
    // All rows of a smoke test are copied within a second.
    let (length, turns) = match bench.smoke {
        true => (Duration::from_millis(500), 1),
        false => (Duration::from_secs(10), TURNS),
    };
    let (mut alone, mut making_way) = (Vec::new(), Vec::new());
    let (mut limit, mut slowly) = (0.0, 0.0);
    for _ in 0..turns {
        alone.extend(visit(&site.proxy, site.rows, length).await?);
        let [_, p99] = noticed_ms(&alone)?;
        limit = (p99 * 1e3).ceil();
        let throttle = format!("THROTTLE LATENCY {limit} us");
        let (waits, rate) = visit_a_plan(bench, site, &throttle, length).await?;
        making_way.extend(waits);
        slowly += rate / f64::from(turns);
    }
    // What a fast copy leaves to be written to the disk would be noticed afterwards: it comes last.
    let short = length.min(Duration::from_secs(5));
    let (freely, fast) = visit_a_plan(bench, site, "", short).await?;
    let [alone_p50, alone_p99] = noticed_ms(&alone)?;
    let [making_way_p50, making_way_p99] = noticed_ms(&making_way)?;
    let [freely_p50, freely_p99] = noticed_ms(&freely)?;
    let all = Measure::new(
        "move_noticed",
        "clients",
        Subject::TrunklineFourShards,
        round,
    )
    .with("latency_limit_us", limit)
    .with("p50_ms_alone", alone_p50)
    .with("p99_ms_alone", alone_p99)
    .with("p50_ms_making_way", making_way_p50)
    .with("p99_ms_making_way", making_way_p99)
    .with("p99_making_way_to_alone", making_way_p99 / alone_p99)
    .with("megabytes_per_second_making_way", slowly)
    .with("p50_ms_freely", freely_p50)
    .with("p99_ms_freely", freely_p99)
    .with("p99_freely_to_alone", freely_p99 / alone_p99)
    .with("megabytes_per_second_freely", fast);
    bench.add(all)
}

/// `pg_dump -Fd -j 2` of the first server, `pg_restore -j 2` into the second.
async fn dump_and_restore(bench: &mut Bench, cluster: &Cluster, round: u32) -> Result<Duration> {
    let folder = cluster.folder.join(format!("dump{round}"));
    on(cluster, 1, "CREATE DATABASE by_hand").await?;
    let began = Instant::now();
    let connection = |program: &str, shard: usize, database: &str| {
        let mut command = as_server_account(cluster.binaries.program(program))?;
        command
            .args([
                "-w",
                "-h",
                "127.0.0.1",
                "-U",
                USER,
                "-d",
                database,
                "-j",
                "2",
                "-p",
            ])
            .arg(cluster.servers[shard].port.to_string())
            .current_dir(&cluster.folder);
        Ok::<_, Error>(command)
    };
    let mut dump = connection("pg_dump", 0, DATABASE)?;
    // Compressing is not what is compared.
    dump.args(["-Fd", "-Z0", "-t", "items", "-f"]).arg(&folder);
    process::run(&mut dump.into()).await?;
    let dumped = began.elapsed();
    let mut restore = connection("pg_restore", 1, "by_hand")?;
    restore.arg(&folder);
    process::run(&mut restore.into()).await?;
    let took = began.elapsed();
    on(cluster, 1, "DROP DATABASE by_hand").await?;
    on(cluster, 1, "CHECKPOINT").await?;
    remove(&folder)?;
    let by_hand = Measure::new("move_rows", "dump and restore", Subject::Direct, round)
        .with("dump_ms", milliseconds(dumped))
        .with("whole_ms", milliseconds(took));
    bench.add(by_hand)?;
    Ok(took)
}

fn remove(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder)
        .map_err(|e| Error::io(format!("remove {}", folder.display()), e))
}

fn expect(what: &str, found: &str, expected: &str) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Wrong {
            what: what.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }),
    }
}
