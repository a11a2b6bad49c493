//! Chunks that are copied while their rows change.

mod identities;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;
use trunkline::moving::claim::FlowError;
use trunkline::moving::ledger::mark;
use trunkline::moving::pace::Pace;
use trunkline::sharding::KeyType;

use crate::hash_agreement::Random;
use world::{HALF, NUMBER, Wanted, World};

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

/// Of the first table, whose keys are the shard's.
fn mixed(random: &mut Random) -> String {
    let (id, other) = (random.below(3000), random.below(3000));
    let n = random.below(1000);
    let one = |random: &mut Random| {
        match random.below(9) {
        0 => format!("INSERT INTO items SELECT {id}, {n}, 'new', {LARGE} WHERE mine({id}) ON CONFLICT DO NOTHING"),
        1 => format!(
            "INSERT INTO items SELECT {id}, {n}, NULL, 'short' WHERE mine({id}) ON CONFLICT (id) DO UPDATE SET n = excluded.n, note = excluded.note"
        ),
        2 => format!("UPDATE items SET n = {n} WHERE id = {id} AND mine(id)"),
        3 => format!("UPDATE items SET body = {LARGE} WHERE id = {id} AND mine(id)"),
        4 => format!("DELETE FROM items WHERE id = {id} AND mine(id)"),
        5 => format!("UPDATE items SET id = {other} WHERE id = {id} AND mine(id) AND mine({other})"),
        6 => format!("UPDATE items SET n = n + 1, note = 'many' WHERE id BETWEEN {id} AND {id} + 20 AND mine(id)"),
        7 => format!(
            "DELETE FROM items WHERE id BETWEEN {id} AND {id} + 3 AND mine(id);
             INSERT INTO items SELECT g, {n}, 'again', 'x' FROM generate_series({id}, {id} + 3) g WHERE mine(g) ON CONFLICT DO NOTHING"
        ),
        _ => format!(
            "INSERT INTO items SELECT g, {n}, 'rows', repeat('y', 3000) FROM generate_series({other}, {other} + 10) g WHERE mine(g) ON CONFLICT DO NOTHING"
        ),
    }
    };
    match random.below(4) {
        0 => {
            let statements: Vec<_> = (0..3).map(|_| one(random)).collect();
            let end = if random.below(4) == 0 {
                "ROLLBACK"
            } else {
                "COMMIT"
            };
            let [first, undone, last] = &statements[..] else {
                unreachable!("three");
            };
            format!("BEGIN; {first}; SAVEPOINT a; {undone}; ROLLBACK TO a; {last}; {end}")
        }
        _ => one(random),
    }
}

/// Rows that no follower sees, only who copies.
async fn fill(world: &World, shard: usize, rows: u64) {
    world
        .run(
            shard,
            &format!(
                "BEGIN; SELECT pg_logical_emit_message(true, 'trunkline/moved', '0'); INSERT INTO items SELECT g, g % 97, 'first', CASE WHEN g % 10 = 0 THEN {LARGE} ELSE 'b' || g END FROM generate_series(0, {rows} - 1) g WHERE mine(g); COMMIT; ANALYZE items"
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

/// Of many chunks, which end where rows were a moment before.
fn far_apart(random: &mut Random) -> String {
    let (id, other) = (random.below(60_000), random.below(70_000));
    match random.below(5) {
        0 => format!(
            "INSERT INTO items SELECT {other}, 1, 'new' WHERE mine({other}) ON CONFLICT DO NOTHING"
        ),
        1 => format!("UPDATE items SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 50"),
        2 => format!("DELETE FROM items WHERE id BETWEEN {id} AND {id} + 400"),
        3 => format!("UPDATE items SET id = {other} WHERE id = {id} AND mine({other})"),
        _ => format!(
            "DELETE FROM items WHERE id BETWEEN {id} AND {id} + 60; INSERT INTO items SELECT g, 2, 'again', 'x' FROM generate_series({id}, {id} + 60) g WHERE mine(g)"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_many_chunks_change_while_these_are_copied() {
    let world = World::new("flow_far_apart", items()).await;
    fill(&world, 0, 60_000).await;
    let writers = Writers::start(&world, 0, 4, far_apart).await;
    let mut driver = world.drive(1);
    driver.copied().await;
    let written = writers.stop().await;
    world.fence(&mut driver, 1).await;
    let rows = world.compare().await;
    assert!(
        rows > 1000 && written > 100,
        "{rows} rows, {written} written"
    );
    world.end(driver).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_swap_and_meet_do_not_go_in_circles() {
    let wanted = Wanted {
        before: [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1],
        after: [1, 0, 2, 2, 1, 0, 2, 2, 1, 0, 2, 2, 1, 0, 2, 2],
        ..items()
    };
    let world = World::new("flow_ways", wanted).await;
    assert_eq!(world.routes.len(), 4);
    let mut writers = Vec::new();
    for shard in 0..2 {
        fill(&world, shard, 3000).await;
        writers.push(Writers::start(&world, shard, 4, mixed).await);
    }
    let mut driver = world.drive(1);
    driver.copied().await;
    for writers in writers {
        writers.stop().await;
    }
    world.fence(&mut driver, 1).await;
    assert!(world.compare().await > 1000);
    // What arrived is not sent on: each shard receives the changes of clients, and nothing else.
    let before = driver.tally.progress(0);
    world.fence(&mut driver, 2).await;
    let changes = |progress: &trunkline::resharding::report::Progress| -> u64 {
        progress.streams.iter().map(|stream| stream.changes).sum()
    };
    assert_eq!(changes(&before), changes(&driver.tally.progress(0)));
}

const KINDS: &str = "CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE DOMAIN short AS varchar(8) CHECK (VALUE <> 'never');
    CREATE TABLE pairs (id bigint, name text COLLATE \"en-x-icu\", v mood[], w short, PRIMARY KEY (name, id));
    CREATE TABLE events (id bigint, at date, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2020-07-01');
    CREATE TABLE events_2 (body text, at date NOT NULL, id bigint NOT NULL);
    ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM ('2020-07-01') TO ('2021-01-01');
    CREATE TABLE orders (number bigint PRIMARY KEY, id bigint NOT NULL, price numeric(10, 2), body text,
        place bigint GENERATED ALWAYS AS IDENTITY, \"od'd \"\"name\" timestamptz DEFAULT now());
    ALTER TABLE orders REPLICA IDENTITY FULL;
    CREATE TABLE bare (id bigint NOT NULL, n int NOT NULL, data bytea, fixed char(5), tags jsonb);
    CREATE UNIQUE INDEX bare_key ON bare (n, id);
    ALTER TABLE bare REPLICA IDENTITY USING INDEX bare_key";

fn kinds(random: &mut Random) -> String {
    let (id, other, n) = (random.below(300), random.below(300), random.below(20));
    let letter =
        ["a", "B", "b", "\u{e4}", "z", "Z", "_", "1"][usize::try_from(random.below(8)).unwrap()];
    let month = 1 + random.below(12);
    match random.below(14) {
        0 | 1 => format!(
            "INSERT INTO pairs VALUES ({id}, '{letter}{n}', '{{calm,wild}}', 'w{n}') ON CONFLICT DO NOTHING"
        ),
        2 => format!("UPDATE pairs SET v = '{{wild}}', w = NULL WHERE id = {id}"),
        3 => format!(
            "UPDATE pairs SET name = name || '{letter}', id = {other} WHERE id = {id} AND length(name) < 6"
        ),
        4 => format!("DELETE FROM pairs WHERE id = {id}"),
        5 | 6 => format!(
            "INSERT INTO events VALUES ({id}, '2020-{month}-10', {LARGE}) ON CONFLICT DO NOTHING"
        ),
        7 => format!("UPDATE events SET at = '2020-{month}-11' WHERE id = {id}"),
        8 => format!("DELETE FROM events WHERE id = {id} AND extract(month FROM at) = {month}"),
        9 => format!(
            "INSERT INTO orders (number, id, price, body) VALUES ({other}, {id}, {n}.5, {LARGE}) ON CONFLICT (number) DO UPDATE SET price = excluded.price"
        ),
        10 => format!("UPDATE orders SET id = {id}, price = price + 1 WHERE number = {other}"),
        11 => format!("DELETE FROM orders WHERE number = {other}"),
        12 => format!(
            "INSERT INTO bare VALUES ({id}, {n}, '\\x00ff', 'a{n}', '{{\"k\": \"{letter}\"}}') ON CONFLICT (n, id) DO UPDATE SET tags = NULL, n = {n}"
        ),
        _ => format!(
            "UPDATE bare SET id = {other}, fixed = 'b' WHERE id = {id}; DELETE FROM bare WHERE id = {n}"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_types_of_every_kind() {
    let tables: &[(&str, &[&str])] = &[
        ("pairs", &["id"]),
        ("events", &["id"]),
        ("orders", &["id"]),
        ("bare", &["id"]),
    ];
    let world = World::new("flow_kinds", half(KINDS, tables)).await;
    let mut random = Random(77);
    for _ in 0..2000 {
        write(&world.sql[0], &kinds(&mut random)).await;
    }
    let writers = Writers::start(&world, 0, 8, kinds).await;
    for token in 1..5 {
        let driver = world.drive(token);
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        drop(driver);
    }
    let mut driver = world.drive(9);
    driver.copied().await;
    driver
        .during(tokio::time::sleep(Duration::from_millis(300)))
        .await;
    writers.stop().await;
    world.fence(&mut driver, 1).await;
    assert!(world.compare().await > 200);
}

/// Whoever waits for a place in the log does not wait for a batch that is applied at leisure.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_waited_for_is_applied_at_once() {
    let world = World::new("flow_marks", items()).await;
    fill(&world, 0, 100).await;
    world.run(0, "SET synchronous_commit = on").await;
    let mut driver = world.drive(1);
    driver.copied().await;
    let seam = Arc::clone(driver.seams.values().next().unwrap());
    let begun = Instant::now();
    for n in 1000..1010 {
        world.run(0, &format!("UPDATE items SET n = {n}")).await;
        let place = mark(&world.sql[0], NUMBER).await.unwrap();
        driver.during(seam.until_applied(place)).await;
        let late = format!("SELECT count(*) FROM items WHERE n <> {n}");
        assert_eq!(world.value(1, &late).await, "0");
    }
    // Half a second each, were it not for the mark.
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert!(world.compare().await > 20);
}

/// Who copies has what it needs on the receiving shard, and has not begun with the first chunk.
const READY: &str = "SELECT count(*) > 0 FROM trunkline.reshard_chunks";

/// Nothing is read for a long time.
fn stop(pace: &Pace) {
    pace.set_rate(Some(1));
    pace.spent(1000);
}

/// A chunk waits between its snapshot and being read, while the rows in it change and the changes are applied.
async fn changed_behind_a_chunk(database: &str, schema: &str) {
    let world = World::new(database, half(schema, &[("items", &["id"])])).await;
    world
        .run(
            0,
            "BEGIN; SELECT pg_logical_emit_message(true, 'trunkline/moved', '0'); INSERT INTO items SELECT g, g, 'first', 'b' FROM generate_series(0, 99) g WHERE mine(g); COMMIT",
        )
        .await;
    let mut driver = world.follow(1);
    stop(&driver.pace);
    world.copy(&mut driver);
    driver.during(world.wait_for(1, READY, "t")).await;
    let (changes, after) = (world.client(0).await, world.client(0).await);
    let lock = "BEGIN; LOCK TABLE items";
    changes.batch_execute(lock).await.unwrap();
    let waiting = |wanted: &'static str| {
        let locks =
            "SELECT count(*) FROM pg_locks WHERE relation = 'items'::regclass AND NOT granted";
        world.wait_for(0, locks, wanted)
    };
    // In front of the chunk, so that it waits until all is applied.
    let locking = tokio::spawn(async move {
        after.batch_execute(lock).await.unwrap();
        after
    });
    driver.during(waiting("1")).await;
    driver.pace.set_rate(None);
    driver.during(waiting("2")).await;
    changes
        .batch_execute(
            "DELETE FROM items WHERE id < 30; UPDATE items SET n = -1 WHERE id BETWEEN 30 AND 50;
             UPDATE items SET id = id + 1000 WHERE id BETWEEN 60 AND 80; DELETE FROM items WHERE id = 90; INSERT INTO items VALUES (90, 90);
             INSERT INTO items SELECT g, 0 FROM generate_series(200, 210) g WHERE mine(g); COMMIT",
        )
        .await
        .unwrap();
    let after = locking.await.unwrap();
    world.fence(&mut driver, 1).await;
    after.batch_execute("COMMIT").await.unwrap();
    driver.copied().await;
    world.fence(&mut driver, 2).await;
    assert!(world.compare().await > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_behind_a_chunk_does_not_come_back() {
    changed_behind_a_chunk("flow_flight", ITEMS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_behind_a_chunk_does_not_come_back_by_way_of_the_stage() {
    // Nobody can say before the end of a transaction whether such a constraint lets it.
    let staged = format!("{ITEMS}; ALTER TABLE items ADD UNIQUE (id, n) DEFERRABLE");
    changed_behind_a_chunk("flow_flight_staged", &staged).await;
}

/// In the first chunks more than they can be read without, in a later one some, in the last nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_before_it_is_copied_stays() {
    let world = World::new("flow_there", items()).await;
    fill(&world, 0, 60_000).await;
    let mut driver = world.follow(1);
    world
        .run(
            0,
            "UPDATE items SET n = -5, note = 'newer' WHERE id BETWEEN 2000 AND 20000 OR id BETWEEN 50000 AND 50500",
        )
        .await;
    world.fence(&mut driver, 1).await;
    world.run(0, "DELETE FROM items WHERE id % 3 = 0").await;
    world.fence(&mut driver, 2).await;
    world.copy(&mut driver);
    driver.copied().await;
    world.fence(&mut driver, 3).await;
    assert!(world.compare().await > 15_000);
    let copied = "SELECT sum(row_count) FROM trunkline.reshard_chunks";
    assert_eq!(
        world.value(1, copied).await,
        world.value(1, "SELECT count(*) FROM items").await
    );
}

/// The unique key says nothing about the shard, rows change their shard keys, and the copy is ahead of the changes: a row of a later moment
/// is in the way of an earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_there_with_a_later_shard_key() {
    let schema = "CREATE TABLE bulk (id bigint PRIMARY KEY, t text);
        CREATE TABLE orders (number bigint PRIMARY KEY, id bigint NOT NULL, v int NOT NULL);
        ALTER TABLE orders REPLICA IDENTITY FULL";
    let tables: &[(&str, &[&str])] = &[("bulk", &["id"]), ("orders", &["id"])];
    let world = World::new("flow_ahead", half(schema, tables)).await;
    // More than is applied at once lies between the changes of a row.
    let bulk = "INSERT INTO bulk SELECT g, repeat('t', 200) FROM generate_series((SELECT count(*) FROM bulk), (SELECT count(*) FROM bulk) + 20000) g";
    for sql in [
        bulk,
        "INSERT INTO orders SELECT g, g, 0 FROM generate_series(1, 300) g",
        bulk,
        "UPDATE orders SET id = id + 1",
        bulk,
        "UPDATE orders SET id = id + 10, v = 1 WHERE number > 20",
        bulk,
        "UPDATE orders SET id = id + 100",
    ] {
        world.run(0, sql).await;
    }
    let mut driver = world.drive(1);
    driver.copied().await;
    world.fence(&mut driver, 1).await;
    assert!(world.compare().await > 20_000);
}

/// A row is deleted and made anew under its key, in changes that are applied together: nothing of the old one is left, not even what no UPDATE can set.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_made_anew() {
    let schema = "CREATE TABLE orders (number bigint PRIMARY KEY, id bigint NOT NULL, place bigint GENERATED ALWAYS AS IDENTITY, v int);
        ALTER TABLE orders REPLICA IDENTITY FULL";
    let world = World::new("flow_anew", half(schema, &[("orders", &["id"])])).await;
    world
        .run(
            0,
            "INSERT INTO orders (number, id, v) SELECT g, g, 0 FROM generate_series(1, 100) g",
        )
        .await;
    let mut driver = world.drive(1);
    driver.copied().await;
    for sql in [
        "BEGIN; DELETE FROM orders; INSERT INTO orders (number, id, v) SELECT g, g, 1 FROM generate_series(1, 100) g; COMMIT",
        "UPDATE orders SET place = DEFAULT, v = 2 WHERE number > 50",
    ] {
        world.run(0, sql).await;
        world
            .fence(&mut driver, 1 + u32::from(sql.starts_with('U')))
            .await;
        assert!(world.compare().await > 30);
    }
}

/// A commit is in the log before anyone can see it; here for long, because it waits for a standby that there is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_log_and_cannot_be_seen_yet_is_not_lost() {
    // Values that an update does not touch are not sent again.
    let documents = "CREATE TABLE documents (id bigint, sub int, body text, PRIMARY KEY (id, sub));
        ALTER TABLE documents ALTER body SET STORAGE EXTERNAL";
    let world = World::new("flow_unseen", half(documents, &[("documents", &["id"])])).await;
    let filled = "INSERT INTO documents SELECT id, 0, repeat('x', 9000) || id FROM generate_series(1, 40) id";
    world.run(0, filled).await;
    let mut driver = world.drive(1);
    driver.copied().await;
    world.fence(&mut driver, 1).await;
    // Nobody but the writer waits.
    world.set(0, "synchronous_commit", "local").await;
    world.set(0, "synchronous_standby_names", "nobody").await;
    let writer = world.client(0).await;
    let writing = tokio::spawn(async move {
        let rekey = "SET synchronous_commit = on; BEGIN; UPDATE documents SET sub = 1; UPDATE documents SET sub = 2 WHERE id <= 30;
            INSERT INTO documents SELECT id, 7, repeat('y', 9000) || id FROM generate_series(1, 20) id; UPDATE documents SET sub = 8 WHERE sub = 7; COMMIT";
        writer.batch_execute(rekey).await
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()";
    driver.during(world.wait_for(0, waits, "1")).await;
    driver
        .during(tokio::time::sleep(Duration::from_millis(300)))
        .await;
    world.reset(0, "synchronous_standby_names").await;
    world.reset(0, "synchronous_commit").await;
    driver.during(writing).await.unwrap().unwrap();
    world.fence(&mut driver, 2).await;
    assert!(world.compare().await > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_writes_no_more() {
    let world = World::new("flow_overtaken", items()).await;
    fill(&world, 0, 100).await;
    let mut old = world.follow(1);
    stop(&old.pace);
    world.copy(&mut old);
    old.during(world.wait_for(1, READY, "t")).await;
    // Only the row in the database says so: nothing ends the old one's connections.
    world
        .run(1, "UPDATE trunkline.reshard_streams SET driver = 2")
        .await;
    old.pace.set_rate(None);
    let copying = old.failure().await;
    assert!(matches!(copying, FlowError::Lost { .. }), "{copying}");
    world.run(0, "UPDATE items SET n = 5000").await;
    let following = old.failure().await;
    assert!(matches!(following, FlowError::Lost { .. }), "{following}");
    let written = "SELECT count(*) FROM items WHERE n = 5000";
    assert_eq!(world.value(1, written).await, "0");
    let copied = "SELECT sum(row_count) FROM trunkline.reshard_chunks";
    assert_eq!(world.value(1, copied).await, "0");
    drop(old);
    let mut again = world.follow(1);
    let claiming = again.failure().await;
    assert!(matches!(claiming, FlowError::Lost { .. }), "{claiming}");
    drop(again);
    // One that reads the slot is ended by who comes after it.
    let mut first = world.follow(3);
    first.during(world.fence_at_once(2)).await;
    let mut second = world.drive(4);
    second.copied().await;
    world.fence(&mut second, 3).await;
    let ended = first.failure().await;
    assert!(!matches!(ended, FlowError::Trouble(_)), "{ended}");
    assert!(world.compare().await > 20);
    // A plan that is closed takes nothing more.
    world
        .run(1, "UPDATE trunkline.reshard_ledger SET closed = true")
        .await;
    world.run(0, "UPDATE items SET n = 6").await;
    let closed = second.failure().await;
    assert!(matches!(closed, FlowError::Lost { .. }), "{closed}");
}

const USERS: &str =
    "CREATE TABLE users (id bigint PRIMARY KEY, mail text NOT NULL UNIQUE, slot int, body text)";
const DEFERRED: &str = "ALTER TABLE users ADD UNIQUE (slot) DEFERRABLE INITIALLY DEFERRED";

/// Values that change places, so that each is in the way of another.
fn swaps(random: &mut Random) -> String {
    let (a, b) = (random.below(400), random.below(400));
    match random.below(4) {
        0 => format!("DELETE FROM users WHERE id = {a}; INSERT INTO users SELECT {b}, 'm' || {a}, NULL, {LARGE} WHERE mine({b}) ON CONFLICT (id) DO NOTHING"),
        1 => format!(
            "BEGIN; UPDATE users SET slot = -slot WHERE id IN ({a}, {b});
             UPDATE users x SET slot = (SELECT -y.slot FROM users y WHERE y.id IN ({a}, {b}) AND y.id <> x.id) WHERE x.id IN ({a}, {b}) AND {a} <> {b}; COMMIT"
        ),
        _ => format!(
            "BEGIN; UPDATE users SET mail = '~' || mail WHERE id IN ({a}, {b});
             UPDATE users x SET mail = coalesce((SELECT substr(y.mail, 2) FROM users y WHERE y.id IN ({a}, {b}) AND y.id <> x.id), substr(x.mail, 2)) WHERE x.id = {a};
             UPDATE users x SET mail = 'm' || {a} WHERE x.id = {b} AND x.mail LIKE '~%' AND {a} <> {b} AND NOT EXISTS (SELECT FROM users z WHERE z.mail = 'm' || {a});
             UPDATE users SET mail = substr(mail, 2) WHERE mail LIKE '~%' AND id IN ({a}, {b}); COMMIT"
        ),
    }
}

async fn values_change_places(database: &str, schema: &str) {
    // Everything moves, so that what is in a row's way moves as well.
    let wanted = Wanted {
        after: [1; 16],
        ..half(schema, &[("users", &["id"])])
    };
    let world = World::new(database, wanted).await;
    world
        .run(0, &format!("INSERT INTO users SELECT g, 'm' || g, g + 1, {LARGE} FROM generate_series(0, 399) g"))
        .await;
    let writers = Writers::start(&world, 0, 1, swaps).await;
    for token in 1..5 {
        let driver = world.drive(token);
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(driver);
    }
    let mut driver = world.drive(9);
    driver.copied().await;
    driver
        .during(tokio::time::sleep(Duration::from_millis(300)))
        .await;
    writers.stop().await;
    // In one transaction, with all rows.
    world
        .run(0, "BEGIN; UPDATE users SET mail = 'x' || mail; UPDATE users SET mail = 'm' || (1000 + id); UPDATE users SET mail = 'x' || mail; UPDATE users SET mail = 'm' || (1399 - id); COMMIT")
        .await;
    world.fence(&mut driver, 1).await;
    assert!(world.compare().await > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_change_places_among_unique_ones() {
    values_change_places("flow_swaps", USERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_change_places_among_deferred_unique_ones() {
    values_change_places("flow_swaps_late", &format!("{USERS}; {DEFERRED}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_transactions_are_applied_in_pieces() {
    let world = World::new("flow_large", items()).await;
    fill(&world, 0, 20_000).await;
    let mut driver = world.drive(1);
    driver.copied().await;
    drop(driver);
    world
        .run(
            0,
            "BEGIN; UPDATE items SET n = n + 1; DELETE FROM items WHERE id % 3 = 0; INSERT INTO items SELECT g, 1, 'l', repeat('z', 100) FROM generate_series(20000, 50000) g;
             UPDATE items SET id = id + 100000 WHERE id % 5 = 0; UPDATE items SET note = 'end'; COMMIT; UPDATE items SET n = 7 WHERE id % 7 = 0",
        )
        .await;
    for token in 2..10 {
        let driver = world.follow(token);
        tokio::time::sleep(Duration::from_millis(100 * token)).await;
        drop(driver);
    }
    let mut driver = world.follow(20);
    world.fence(&mut driver, 1).await;
    assert!(world.compare().await > 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_must_see_stops_it() {
    let cases: [(&str, usize, &str, usize, &str, &str); 4] = [
        (
            "altered",
            0,
            "ALTER TABLE items ADD COLUMN more int",
            0,
            "UPDATE items SET n = 1",
            "no column more",
        ),
        (
            "typed",
            1,
            "ALTER TABLE items ALTER COLUMN note TYPE varchar(9)",
            0,
            "UPDATE items SET n = 2",
            "has type",
        ),
        ("truncated", 0, "SELECT 1", 0, "TRUNCATE items", "truncated"),
        (
            "checked",
            1,
            "ALTER TABLE items ADD CHECK (n < 1000) NOT VALID",
            0,
            "UPDATE items SET n = 1000",
            "items_n_check",
        ),
    ];
    for (case, there, before, shard, change, expected) in cases {
        let world = World::new(&format!("flow_stop_{case}"), items()).await;
        fill(&world, 0, 100).await;
        let mut driver = world.drive(1);
        driver.copied().await;
        drop(driver);
        world.run(there, before).await;
        world.run(shard, change).await;
        let mut driver = world.follow(2);
        let why = driver.failure().await;
        assert!(
            matches!(&why, FlowError::Trouble(why) if why.contains(expected)),
            "{case}: {why}"
        );
    }
}

/// Processor time of this process.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    let ticks: u64 = { fields[12..14].iter() }
        .map(|one| one.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// `cargo test --release --test it -- --ignored --nocapture rates_of_copying`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn rates_of_copying_and_following() {
    const ROWS: u64 = 400_000;
    let wanted = Wanted {
        after: [1; 16],
        ..items()
    };
    let world = World::new("flow_rates", wanted).await;
    let fill = format!(
        "INSERT INTO items SELECT g, g % 97, 'note ' || g, repeat(md5(g::text), 4) FROM generate_series(1, {ROWS}) g; ANALYZE items"
    );
    world.run(0, &fill).await;
    let (began, before) = (Instant::now(), processor());
    let mut driver = world.drive(1);
    driver.copied().await;
    let (took, used) = (began.elapsed(), processor() - before);
    let bytes = driver.tally.progress(0).tables[0].copied_bytes;
    let rate = ROWS as f64 / took.as_secs_f64();
    println!(
        "copied {ROWS} rows, {bytes} bytes in {took:?}, {rate:.0} rows/s; processor time here {used:?}"
    );
    drop(driver);
    for (what, changes, sql) in [
        ("updates", ROWS, "UPDATE items SET n = n + 1".to_owned()),
        (
            "updates in small transactions",
            ROWS,
            format!(
                "DO $$ BEGIN FOR i IN 0 .. {ROWS} / 20 - 1 LOOP UPDATE items SET n = n + 1 WHERE id BETWEEN i * 20 + 1 AND i * 20 + 20; COMMIT; END LOOP; END $$"
            ),
        ),
        (
            "deletions",
            ROWS / 2,
            format!("DELETE FROM items WHERE id <= {ROWS} / 2"),
        ),
        (
            "insertions",
            ROWS / 2,
            format!(
                "INSERT INTO items SELECT g, 1, 'note', repeat(md5(g::text), 4) FROM generate_series(1, {ROWS} / 2) g"
            ),
        ),
    ] {
        world.run(0, &sql).await;
        let (began, before) = (Instant::now(), processor());
        let mut driver = world.follow(2);
        world.fence(&mut driver, changes as u32).await;
        let (took, used) = (began.elapsed(), processor() - before);
        let (rate, each) = (
            changes as f64 / took.as_secs_f64(),
            changes as f64 / used.as_secs_f64(),
        );
        println!(
            "{what}: {changes} in {took:?}, {rate:.0}/s; processor time here {used:?}, {each:.0}/s/core"
        );
        drop(driver);
        world
            .run(
                1,
                "UPDATE trunkline.reshard_streams SET fence_applied = NULL",
            )
            .await;
    }
    assert_eq!(world.compare().await as u64, ROWS);
}
