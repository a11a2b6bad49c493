//! Whole plans, from the first word to the last, while clients write through several proxies.

use super::load::{Load, Rows, SCHEMA};
use super::stage::{Setting, Stage};

const HASHED: &str = "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"hash\"\nbuckets = 64\nshards = [\"s1\", \"s2\"]\n\
    [[tables]]\nname = \"item\"\ndistribution = \"items\"\nkey = \"id\"\n\
    [[tables]]\nname = \"note\"\ndistribution = \"items\"\nkey = \"id\"\n";

/// The rows of a table on one shard.
fn rows_on(stage: &Stage, shard: usize) -> Rows {
    let found = stage
        .shard(shard)
        .run_sql("app", "SELECT id, sub, v, length(body) FROM item")
        .unwrap_or_else(|error| panic!("{error}"));
    let rows = found.iter().map(|row| {
        let mut fields = row
            .iter()
            .map(|field| field.as_deref().unwrap().parse::<i64>().unwrap());
        let mut next = || fields.next().unwrap();
        let (id, sub, v, length) = (next(), next(), next(), next());
        (
            (id, i32::try_from(sub).unwrap()),
            (v, usize::try_from(length).unwrap()),
        )
    });
    rows.collect()
}

/// Every row is on one shard, and there is no other.
fn compare(stage: &Stage, shards: &[usize], expected: &Rows) {
    let mut all = Rows::new();
    for shard in shards {
        for (key, row) in rows_on(stage, *shard) {
            assert_eq!(all.insert(key, row), None, "{key:?} is on two shards");
        }
    }
    let lost: Vec<_> = expected
        .iter()
        .filter(|(key, row)| all.get(key) != Some(row))
        .collect();
    let more: Vec<_> = all
        .keys()
        .filter(|key| !expected.contains_key(key))
        .collect();
    assert!(
        lost.is_empty() && more.is_empty(),
        "lost or other: {lost:?}\nmore: {more:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_become_four_and_two_again_under_load() {
    let stage = Stage::start(&Setting {
        shards: 4,
        proxies: 3,
        distributions: HASHED,
        schema: SCHEMA,
        populated: 2,
    });
    let ports: Vec<u16> = stage.proxies.iter().map(|proxy| proxy.port).collect();
    let load = Load::start(&ports, 16);
    load.progress(500).await;
    stage
        .order("RESHARD PLAN split AS 's1 -> s1 50%, s3 50%; s2 -> s2 50%, s4 50%'")
        .await;
    stage.verified("split").await;
    load.progress(200).await;
    stage.order("RESHARD CUTOVER split MAX PAUSE 2 s").await;
    stage.reaches("split", "cut over").await;
    load.progress(500).await;
    stage.order("RESHARD ROLLBACK split MAX PAUSE 2 s").await;
    stage.reaches("split", "rolled back").await;
    load.progress(300).await;
    stage.order("RESHARD VERIFY split").await;
    stage.reaches("split", "verified").await;
    stage.order("RESHARD CUTOVER split MAX PAUSE 2 s").await;
    stage.reaches("split", "cut over").await;
    load.progress(300).await;
    stage.order("RESHARD FINISH split").await;
    stage.reaches("split", "finished").await;
    load.progress(200).await;
    let worked = load.end().await;
    assert!(
        worked.errors.is_empty(),
        "{:?}\n{}",
        worked.errors,
        stage.logs()
    );
    for event in stage.order("SHOW RESHARD EVENTS").await {
        println!("{}", event.join(" | "));
    }
    println!("{}", worked.told());
    compare(&stage, &[0, 1, 2, 3], &worked.rows);
    for shard in 0..4 {
        assert!(!rows_on(&stage, shard).is_empty(), "shard {shard} has rows");
    }
}
