//! What becomes of a statement over several shards when a shard, the client or time cuts it short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use tokio_postgres::{Client, NoTls};

use crate::raw::Raw;
use crate::servers::wait_until;
use crate::sharded::{Sharded, succeeded};

const SCHEMA: &str = "CREATE TABLE kv (k int PRIMARY KEY, v text)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

/// Each shard is at it for minutes.
const LONG: &str = "SELECT /* long */ k, pg_sleep(5) FROM kv";

/// The same, where rows are gathered first.
const LONG_GATHER: &str =
    "SELECT /* long */ k, row_number() OVER (ORDER BY v), pg_sleep(5) FROM kv";

async fn start(database: &'static str) -> (Sharded, Arc<Client>, AbortHandle) {
    let sharded = tokio::task::spawn_blocking(move || {
        let sharded = Sharded::start(database, SCHEMA, TABLES);
        let mut client = sharded.client();
        for key in 0..64 {
            let insert = format!("INSERT INTO kv VALUES ({key}, 'v{key}')");
            succeeded(&insert, &client.simple(&insert));
        }
        sharded
    })
    .await
    .expect("it starts");
    let (client, connection) = tokio_postgres::connect(&sharded.connection(), NoTls)
        .await
        .expect("the proxy answers");
    let connection = tokio::spawn(connection).abort_handle();
    (sharded, Arc::new(client), connection)
}

/// Asks in a task of its own, so that this one may block.
fn ask(client: &Arc<Client>, sql: &'static str) -> tokio::task::JoinHandle<Option<String>> {
    let client = Arc::clone(client);
    tokio::spawn(async move {
        client
            .query(sql, &[])
            .await
            .err()
            .map(|error| sqlstate(&error))
    })
}

/// How many statements of the kind run on a shard.
fn running(shard: &mut Raw) -> usize {
    let asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
        AND query LIKE 'SELECT /* long */%' AND pid <> pg_backend_pid()";
    let answer = shard.simple(asked);
    succeeded(asked, &answer);
    answer.rows.len()
}

fn all_running(sharded: &Sharded) -> usize {
    sharded.shards().iter_mut().map(running).sum()
}

fn sqlstate(error: &tokio_postgres::Error) -> String {
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    error.code().code().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_all_shards() {
    let (sharded, client, _) = start("spread_cancel").await;
    for (sql, shards) in [(LONG, 4), (LONG_GATHER, 1)] {
        let cancel = client.cancel_token();
        let asked = ask(&client, sql);
        tokio::task::block_in_place(|| wait_until("it runs", || all_running(&sharded) == shards));
        cancel.cancel_query(NoTls).await.expect("it is taken");
        assert_eq!(asked.await.unwrap().as_deref(), Some("57014"), "{sql}");
        tokio::task::block_in_place(|| wait_until("it is over", || all_running(&sharded) == 0));
        let count = client.query_one("SELECT count(*) FROM kv", &[]).await;
        assert_eq!(count.unwrap().get::<_, i64>(0), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_one_clear_error() {
    let (sharded, client, _) = start("spread_killed").await;
    for sql in [LONG, LONG_GATHER] {
        let asked = ask(&client, sql);
        tokio::task::block_in_place(|| {
            wait_until("it runs", || all_running(&sharded) > 0);
            for shard in &mut sharded.shards() {
                if running(shard) > 0 {
                    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                            AND query LIKE 'SELECT /* long */%' AND pid <> pg_backend_pid()";
                    succeeded(kill, &shard.simple(kill));
                    break;
                }
            }
        });
        assert_eq!(asked.await.unwrap().as_deref(), Some("08006"), "{sql}");
        tokio::task::block_in_place(|| wait_until("it is over", || all_running(&sharded) == 0));
        // The client's connection goes on.
        let count = client.query_one("SELECT count(*) FROM kv", &[]).await;
        assert_eq!(count.unwrap().get::<_, i64>(0), 64);
    }
    // In a transaction, nothing but its end is possible.
    client.batch_execute("BEGIN; ").await.unwrap();
    let asked = ask(&client, LONG);
    tokio::task::block_in_place(|| {
        wait_until("it runs", || all_running(&sharded) == 4);
        let shard = &mut sharded.shards()[1];
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                AND query LIKE 'SELECT /* long */%' AND pid <> pg_backend_pid()";
        succeeded(kill, &shard.simple(kill));
    });
    assert_eq!(asked.await.unwrap().as_deref(), Some("08006"));
    let aborted = client.query("SELECT count(*) FROM kv", &[]).await;
    assert_eq!(sqlstate(&aborted.unwrap_err()), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    let count = client.query_one("SELECT count(*) FROM kv", &[]).await;
    assert_eq!(count.unwrap().get::<_, i64>(0), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_not_worked_for() {
    let (sharded, client, connection) = start("spread_left").await;
    let asked = ask(&client, LONG);
    drop(client);
    tokio::task::block_in_place(|| wait_until("it runs", || all_running(&sharded) == 4));
    // Without a goodbye.
    connection.abort();
    let _ = asked.await;
    let begun = Instant::now();
    tokio::task::block_in_place(|| wait_until("it is over", || all_running(&sharded) == 0));
    assert!(begun.elapsed() < Duration::from_secs(20));
}
