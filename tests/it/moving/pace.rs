//! How fast a plan goes.

use std::time::{Duration, Instant};

use trunkline::cli::local::LocalError;

use super::load::wait_for_definitions;
use super::stage::{PATIENCE, Setting, Stage};
use crate::servers::value;

const ROWS: u64 = 60_000;
/// Bytes of one.
const ROW: f64 = 108.0;

/// A limit to clients' waits counts from the first row on, and then for what is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_makes_way_begins_slowly() {
    let stage = Stage::start(&Setting {
        shards: 2,
        proxies: 1,
        distributions: "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"range\"\nranges = [{ from = 0, to = 1000000, shard = \"s1\" }]\n\
            [[tables]]\nname = \"item\"\ndistribution = \"items\"\nkey = \"id\"\n",
        schema: "CREATE TABLE item (id bigint PRIMARY KEY, v text NOT NULL)",
        populated: 1,
    })
    .await;
    let fill =
        format!("INSERT INTO item SELECT g, repeat('x', 100) FROM generate_series(1, {ROWS}) g");
    stage.shard(0).run_sql("app", &fill).unwrap();
    wait_for_definitions(stage.proxies[0].port).await;
    stage.order("RESHARD PLAN p DRAIN s1 TO s2").await;
    stage.order("RESHARD CHECK p").await;
    stage.reaches("p", "checked").await;
    stage.order("RESHARD START p THROTTLE LATENCY 1 s").await;
    // There is no such table at first.
    slowly(|| items(&stage, 1).unwrap_or(0)).await;
    stage.order("RESHARD THROTTLE p NONE").await;
    stage.reaches("p", "following").await;
    stage.order("RESHARD VERIFY p").await;
    stage.reaches("p", "verified").await;
    stage.order("RESHARD CUTOVER p MAX PAUSE 2 s").await;
    stage.reaches("p", "cut over").await;
    stage.order("RESHARD THROTTLE p LATENCY 1 s").await;
    stage.order("RESHARD FINISH p").await;
    slowly(|| ROWS - items(&stage, 0).unwrap()).await;
    stage.order("RESHARD THROTTLE p NONE").await;
    stage.reaches("p", "finished").await;
    assert_eq!(items(&stage, 0).unwrap(), 0);
    assert_eq!(items(&stage, 1).unwrap(), ROWS);
}

/// Rows that are done come no faster than a plan begins with.
async fn slowly(done: impl Fn() -> u64) {
    let deadline = Instant::now() + PATIENCE;
    while done() == 0 {
        assert!(Instant::now() < deadline, "nothing is done");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (rows, took) = (done(), begun.elapsed().as_secs_f64());
    // 256 kB in the first second, and a fourth more in each that comes; beside what is under way, and was before the first look.
    let bytes = 256.0 * 1024.0 * 1.25_f64.powf(took) * (took + 2.0);
    assert!(rows as f64 * ROW < bytes, "{rows} rows in {took} s");
}

/// Rows on a shard.
fn items(stage: &Stage, shard: usize) -> Result<u64, LocalError> {
    let count = value(stage.shard(shard), "app", "SELECT count(*) FROM item")?;
    Ok(count.parse().unwrap())
}
