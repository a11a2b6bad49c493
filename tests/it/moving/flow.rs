//! Chunks that are copied while their rows change.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;
use trunkline::sharding::KeyType;

use crate::hash_agreement::Random;
use world::{HALF, NUMBER, Wanted, World, name};

const ITEMS: &str =
    "CREATE TABLE items (id bigint PRIMARY KEY, n int NOT NULL, note text, body text,
    twice int GENERATED ALWAYS AS (n * 2) STORED)";
/// Incompressible, and far too long for a page.
const LARGE: &str = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 200))";

fn half<'a>(schema: &'a str, tables: &'a [(&'a str, &'a [&'a str])]) -> Wanted<'a> {
    Wanted {
        schema,
        tables,
        types: &[KeyType::BigInt],
        before: HALF.0,
        after: HALF.1,
    }
}

fn items() -> Wanted<'static> {
    half(ITEMS, &[("items", &["id"])])
}

/// Clients that write until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// `statement` makes what a client does next.
    async fn start(
        world: &World,
        shard: usize,
        clients: u64,
        statement: fn(&mut Random) -> String,
    ) -> Writers {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut tasks = Vec::new();
        for seed in 0..clients {
            let client = world.client(shard).await;
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tasks.push(tokio::spawn(async move {
                let mut random = Random(seed + 1);
                while !stop.load(Ordering::Relaxed) {
                    write(&client, &statement(&mut random)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Writers { stop, done, tasks }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// What fails by itself (two clients that want the same) is rolled back.
async fn write(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        let code = error.code().map(|code| code.code().to_owned());
        let expected = ["40P01", "23505", "40001", "P0001"];
        assert!(
            code.as_deref().is_some_and(|code| expected.contains(&code)),
            "{error:?}: {sql}"
        );
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

fn mixed(random: &mut Random) -> String {
    let (id, other) = (random.below(3000), random.below(3000));
    let n = random.below(1000);
    let one = |random: &mut Random| match random.below(9) {
        0 => format!("INSERT INTO items VALUES ({id}, {n}, 'new', {LARGE}) ON CONFLICT DO NOTHING"),
        1 => format!(
            "INSERT INTO items VALUES ({id}, {n}, NULL, 'short') ON CONFLICT (id) DO UPDATE SET n = excluded.n, note = excluded.note"
        ),
        2 => format!("UPDATE items SET n = {n} WHERE id = {id}"),
        3 => format!("UPDATE items SET body = {LARGE} WHERE id = {id}"),
        4 => format!("DELETE FROM items WHERE id = {id}"),
        5 => format!("UPDATE items SET id = {other} WHERE id = {id}"),
        6 => {
            format!("UPDATE items SET n = n + 1, note = 'many' WHERE id BETWEEN {id} AND {id} + 20")
        }
        7 => format!(
            "DELETE FROM items WHERE id BETWEEN {id} AND {id} + 3; INSERT INTO items SELECT g, {n}, 'again', 'x' FROM generate_series({id}, {id} + 3) g ON CONFLICT DO NOTHING"
        ),
        _ => format!(
            "INSERT INTO items SELECT g, {n}, 'rows', repeat('y', 3000) FROM generate_series({other}, {other} + 10) g ON CONFLICT DO NOTHING"
        ),
    };
    match random.below(4) {
        0 => {
            let statements: Vec<_> = (0..4).map(|_| one(random)).collect();
            let end = if random.below(4) == 0 {
                "ROLLBACK"
            } else {
                "COMMIT"
            };
            format!(
                "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; {}; {end}",
                statements[0], statements[1], statements[2]
            )
        }
        _ => one(random),
    }
}

async fn fill(world: &World, shard: usize, rows: u64) {
    world
        .run(
            shard,
            &format!(
                "INSERT INTO items SELECT g, g % 97, 'first', CASE WHEN g % 10 = 0 THEN {LARGE} ELSE 'b' || g END FROM generate_series(0, {rows} - 1) g; ANALYZE items"
            ),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_arrive_as_they_are() {
    let world = World::new("flow_changes", items()).await;
    fill(&world, 0, 3000).await;
    let writers = Writers::start(&world, 0, 8, mixed).await;
    let mut driver = world.drive(1);
    driver.copied().await;
    let more = tokio::time::sleep(Duration::from_millis(500));
    driver.during(more).await;
    let written = writers.stop().await;
    world.fence(&mut driver, 1).await;
    let rows = world.compare().await;
    assert!(
        rows > 500 && written > 100,
        "{rows} rows, {written} written"
    );
    let copied = "SELECT copied FROM trunkline.reshard_streams WHERE source = 's1'";
    assert_eq!(world.value(1, copied).await, "t");
    let applied = world
        .value(1, "SELECT applied FROM trunkline.reshard_streams")
        .await;
    assert_ne!(applied, "0/0");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_goes_on_where_it_was() {
    let world = World::new("flow_rounds", items()).await;
    fill(&world, 0, 3000).await;
    let writers = Writers::start(&world, 0, 8, mixed).await;
    let mut random = Random(5);
    for token in 1..=24 {
        let driver = world.drive(token);
        // Anywhere.
        tokio::time::sleep(Duration::from_millis(random.below(300) + 5)).await;
        drop(driver);
    }
    let mut driver = world.drive(100);
    driver.copied().await;
    writers.stop().await;
    world.fence(&mut driver, 3).await;
    let rows = world.compare().await;
    assert!(rows > 500, "{rows}");
    let chunks = "SELECT bool_and(done) FROM trunkline.reshard_chunks";
    assert_eq!(world.value(1, chunks).await, "t");
    let _ = (NUMBER, name(0));
}
