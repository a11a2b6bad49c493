//! Reference tables on a shard that is new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::load::wait_for_definitions;
use super::stage::{Setting, Stage, connect};

const DISTRIBUTIONS: &str = "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"hash\"\nbuckets = 64\nshards = [\"s1\", \"s2\"]\n\
    [[tables]]\nname = \"item\"\ndistribution = \"items\"\nkey = \"id\"\n\
    [[tables]]\nname = \"country\"\nplacement = \"reference\"\n\
    [[tables]]\nname = \"continent\"\nplacement = \"reference\"\n";
const SCHEMA: &str = "CREATE TABLE continent (id int PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE country (id int PRIMARY KEY, continent int NOT NULL REFERENCES continent, visits bigint NOT NULL DEFAULT 0, twice bigint GENERATED ALWAYS AS (visits * 2) STORED);
    CREATE INDEX country_visits ON country (visits);
    INSERT INTO continent SELECT g, 'continent ' || g FROM generate_series(1, 5) g;
    INSERT INTO country SELECT g, g % 5 + 1 FROM generate_series(1, 2000) g;
    CREATE TABLE item (id bigint PRIMARY KEY, country int NOT NULL REFERENCES country);";

/// Somebody writes them all the time. Before the plan starts they are not on the new shard, so nothing is written anywhere; from then on everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reference_tables_are_copied_while_they_are_written() {
    let stage = Stage::start(&Setting {
        shards: 3,
        proxies: 1,
        distributions: DISTRIBUTIONS,
        schema: SCHEMA,
        populated: 2,
    })
    .await;
    let port = stage.proxies[0].port;
    wait_for_definitions(port).await;
    let client = connect(port, "app", "app").await.unwrap();
    for id in 1..=100 {
        let insert = format!("INSERT INTO item VALUES ({id}, {id})");
        client.batch_execute(&insert).await.unwrap();
    }
    let (stop, written) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let writers = (0..2).map(|writer| {
        let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
        tokio::spawn(async move {
            let client = connect(port, "app", "app").await.unwrap();
            let mut id = 0;
            while !stop.load(Ordering::Relaxed) {
                id = id % 2000 + 1;
                let update = format!(
                    "UPDATE country SET visits = visits + 1 WHERE id % 2 = {writer} AND id = {id}"
                );
                match client.execute(&update, &[]).await {
                    Ok(rows) => drop(written.fetch_add(rows, Ordering::Relaxed)),
                    Err(error) => {
                        let code = error.as_db_error().unwrap().code().code().to_owned();
                        assert_eq!(code, "42P01", "{error:?}");
                        assert_eq!(written.load(Ordering::Relaxed), 0, "it was there already");
                    }
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    stage
        .order("RESHARD PLAN grow AS 's1 -> s1 50%, s3 50%'")
        .await;
    stage.verified("grow").await;
    let seen = written.load(Ordering::Relaxed);
    while written.load(Ordering::Relaxed) < seen + 50
        && !writers.iter().any(|one| one.is_finished())
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.order("RESHARD CUTOVER grow").await;
    stage.reaches("grow", "cut over").await;
    stage.order("RESHARD FINISH grow").await;
    stage.reaches("grow", "finished").await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let on = |shard: usize, sql: &str| {
        let rows = stage.shard(shard).run_sql("app", sql);
        rows.unwrap_or_else(|error| panic!("{error}"))
    };
    for sql in [
        "SELECT id, continent, visits, twice FROM country ORDER BY id",
        "SELECT * FROM continent ORDER BY id",
        "SELECT indexdef FROM pg_indexes WHERE tablename IN ('country', 'continent') ORDER BY 1",
        "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint WHERE conrelid IN ('country'::regclass, 'item'::regclass) ORDER BY 1",
    ] {
        let expected = on(0, sql);
        assert!(!expected.is_empty(), "{sql}");
        assert_eq!(on(1, sql), expected, "{sql}");
        assert_eq!(on(2, sql), expected, "{sql}");
    }
    let total = on(2, "SELECT sum(visits)::text FROM country");
    assert_eq!(
        total[0][0].as_deref(),
        Some(&*written.load(Ordering::Relaxed).to_string())
    );
}
