//! What waits at the gate before moving keys, and what the gate waits for.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::drive::HASHED;
use super::load::wait_for_definitions;
use super::stage::{PATIENCE, Setting, Stage, connect};

const TABLES: &str = "CREATE TABLE item (id bigint PRIMARY KEY, v bigint); CREATE TABLE note (id bigint PRIMARY KEY, item bigint)";

/// A verified plan that takes the rows of the first of two shards to a third.
async fn verified(more: &str) -> Stage {
    let setting = Setting {
        shards: 3,
        proxies: 1,
        distributions: HASHED,
        schema: TABLES,
        populated: 2,
    };
    let stage = Stage::start_with(&setting, 0, more).await;
    let port = stage.proxies[0].port;
    wait_for_definitions(port).await;
    let client = connect(port, "app", "app").await.unwrap();
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, {id})")).collect();
    let insert = format!("INSERT INTO item VALUES {}", rows.join(", "));
    client.batch_execute(&insert).await.unwrap();
    stage.order("RESHARD PLAN p AS 's1 -> s3'").await;
    stage.verified("p").await;
    stage
}

/// The ids of a shard's rows.
fn ids(stage: &Stage, shard: usize) -> Vec<i64> {
    let found = stage
        .shard(shard)
        .run_sql("app", "SELECT id FROM item ORDER BY id");
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    found
        .iter()
        .map(|row| row[0].as_deref().unwrap().parse().unwrap())
        .collect()
}

/// Until a client waits.
async fn until_one_waits(stage: &Stage) {
    let admin = stage.proxies[0].client("boss", "trunkline").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = admin.simple_query("SHOW CLIENTS").await.unwrap();
        let waits = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get("state") == Some("waiting"));
        if shown.iter().any(waits) {
            return;
        }
        assert!(Instant::now() < deadline, "{}", stage.logs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn code(error: &tokio_postgres::Error) -> Option<&SqlState> {
    error.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_at_the_gate_can_be_cancelled() {
    const LIMIT: Duration = Duration::from_secs(5);
    let stage = verified("[limits]\nquery_timeout = \"5s\"\n").await;
    let port = stage.proxies[0].port;
    let moving = ids(&stage, 0);
    let holder = connect(port, "app", "app").await.unwrap();
    let hold = format!("BEGIN; UPDATE item SET v = 0 WHERE id = {}", moving[0]);
    holder.batch_execute(&hold).await.unwrap();
    let client = connect(port, "app", "app").await.unwrap();
    let prepared = client
        .prepare("SELECT v FROM item WHERE id = $1")
        .await
        .unwrap();
    stage.order("RESHARD CUTOVER p MAX PAUSE 60 s").await;

    let text = format!("SELECT v FROM item WHERE id = {}", moving[1]);
    let token = client.cancel_token();
    let cancelled = async || {
        until_one_waits(&stage).await;
        let began = Instant::now();
        token.cancel_query(NoTls).await.unwrap();
        began
    };
    // Each way to ask. All of it is sent at once, so that nothing else is waited for.
    // The gate closes some time after the order was taken.
    let refused = async || {
        loop {
            if let Err(error) = client.simple_query(&text).await {
                break error;
            }
        }
    };
    let (error, began) = tokio::join!(refused(), cancelled());
    assert_eq!(code(&error), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    assert!(began.elapsed() < LIMIT / 4, "{:?}", began.elapsed());
    let values: [&(dyn ToSql + Sync); 1] = [&moving[2]];
    let (asked, began) = tokio::join!(client.query(&prepared, &values), cancelled());
    let error = asked.unwrap_err();
    assert_eq!(code(&error), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    assert!(began.elapsed() < LIMIT / 4, "{:?}", began.elapsed());
    // The block fails, as it does in Postgres.
    client.batch_execute("BEGIN").await.unwrap();
    let (asked, _) = tokio::join!(client.simple_query(&text), cancelled());
    assert_eq!(code(&asked.unwrap_err()), Some(&SqlState::QUERY_CANCELED));
    let failed = client.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(code(&failed), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    client.batch_execute("ROLLBACK").await.unwrap();
    // Other clients and other keys notice nothing.
    let other = format!("SELECT v FROM item WHERE id = {}", ids(&stage, 1)[0]);
    client.simple_query(&other).await.unwrap();

    let began = Instant::now();
    let error = client.simple_query(&text).await.unwrap_err();
    assert_eq!(code(&error), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    let said = error.as_db_error().unwrap().message();
    assert!(said.contains("query_timeout"), "{said}");
    assert!(began.elapsed() >= LIMIT && began.elapsed() < 3 * LIMIT);

    // A request that comes when nothing waits any more harms nobody.
    holder.batch_execute("COMMIT").await.unwrap();
    stage.reaches("p", "cut over").await;
    token.cancel_query(NoTls).await.unwrap();
    client.simple_query(&text).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_keeps_its_snapshot_ends_before_the_keys_move() {
    let stage = verified("").await;
    let port = stage.proxies[0].port;
    let staying = ids(&stage, 1)[0];
    let read = format!("SELECT v FROM item WHERE id = {staying}");
    let plain = connect(port, "app", "app").await.unwrap();
    plain.batch_execute("BEGIN").await.unwrap();
    plain.batch_execute(&read).await.unwrap();
    let ways: [(&str, &str); 4] = [
        (
            "SET default_transaction_isolation = 'repeatable read'",
            "BEGIN",
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "START TRANSACTION",
        ),
        ("SELECT 1", "BEGIN ISOLATION LEVEL REPEATABLE READ"),
        (
            "SET default_transaction_isolation TO \"repeatable read\"",
            "BEGIN",
        ),
    ];
    for (turn, (set, begin)) in ways.into_iter().enumerate() {
        let (command, phase) = match turn % 2 {
            0 => ("CUTOVER", "cut over"),
            _ => ("ROLLBACK", "rolled back"),
        };
        let keeper = connect(port, "app", "app").await.unwrap();
        keeper.batch_execute(set).await.unwrap();
        keeper.batch_execute(begin).await.unwrap();
        keeper.batch_execute(&read).await.unwrap();
        let before = given_up(&stage).await;
        let order = format!("RESHARD {command} p MAX PAUSE 1 s");
        stage.order(&order).await;
        let deadline = Instant::now() + PATIENCE;
        while given_up(&stage).await == before {
            let now = stage.status("p").await["phase"].clone();
            assert_ne!(now, phase, "{set}; {begin} was not waited for");
            assert!(Instant::now() < deadline, "{}", stage.logs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        keeper.batch_execute("COMMIT").await.unwrap();
        stage.reaches("p", phase).await;
        if phase == "rolled back" {
            stage.order("RESHARD VERIFY p").await;
            stage.reaches("p", "verified").await;
        }
    }
    // It was never in anybody's way.
    still_open(&plain).await;
}

async fn still_open(client: &Client) {
    client.batch_execute("SAVEPOINT s").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
}

/// How often a turn was.
async fn given_up(stage: &Stage) -> usize {
    let events = stage.order("RESHARD EVENTS p").await;
    let events = events.iter();
    events
        .filter(|event| event[3].contains("is given up: "))
        .count()
}
