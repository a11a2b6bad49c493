//! What becomes of a statement over several shards when a shard, the client or time cuts it short.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::raw::Raw;
use crate::servers::wait_until;
use crate::sharded::{Sharded, succeeded};

const SCHEMA: &str = "CREATE TABLE kv (k int PRIMARY KEY, v text)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

/// Each shard is at it for minutes.
const LONG: &str = "SELECT k, pg_sleep(5) FROM kv /* long */";

/// The same, where rows are gathered first.
const LONG_GATHER: &str =
    "SELECT k, row_number() OVER (ORDER BY v), pg_sleep(5) FROM kv /* long */";

async fn start(database: &'static str) -> (Sharded, Client) {
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
    tokio::spawn(connection);
    (sharded, client)
}

/// How many statements of the kind run on a shard.
fn running(shard: &mut Raw) -> usize {
    let asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
        AND query LIKE '%/* long */%' AND pid <> pg_backend_pid()";
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
    let (sharded, client) = start("spread_cancel").await;
    for (sql, shards) in [(LONG, 4), (LONG_GATHER, 1)] {
        let cancel = client.cancel_token();
        let (answer, ()) = tokio::join!(client.query(sql, &[]), async {
            tokio::task::block_in_place(|| {
                wait_until("it runs", || all_running(&sharded) == shards)
            });
            cancel.cancel_query(NoTls).await.expect("it is taken");
        });
        assert_eq!(sqlstate(&answer.unwrap_err()), "57014", "{sql}");
        tokio::task::block_in_place(|| wait_until("it is over", || all_running(&sharded) == 0));
        let count = client.query_one("SELECT count(*) FROM kv", &[]).await;
        assert_eq!(count.unwrap().get::<_, i64>(0), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_one_clear_error() {
    let (sharded, client) = start("spread_killed").await;
    for sql in [LONG, LONG_GATHER] {
        let (answer, ()) = tokio::join!(client.query(sql, &[]), async {
            tokio::task::block_in_place(|| {
                wait_until("it runs", || all_running(&sharded) > 0);
                for shard in &mut sharded.shards() {
                    if running(shard) > 0 {
                        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                            AND query LIKE '%/* long */%' AND pid <> pg_backend_pid()";
                        succeeded(kill, &shard.simple(kill));
                        break;
                    }
                }
            });
        });
        assert_eq!(sqlstate(&answer.unwrap_err()), "08006", "{sql}");
        tokio::task::block_in_place(|| wait_until("it is over", || all_running(&sharded) == 0));
        // The client's connection goes on.
        let count = client.query_one("SELECT count(*) FROM kv", &[]).await;
        assert_eq!(count.unwrap().get::<_, i64>(0), 64);
    }
    // In a transaction, nothing but its end is possible.
    client.batch_execute("BEGIN; ").await.unwrap();
    let (answer, ()) = tokio::join!(client.query(LONG, &[]), async {
        tokio::task::block_in_place(|| {
            wait_until("it runs", || all_running(&sharded) == 4);
            let shard = &mut sharded.shards()[1];
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                AND query LIKE '%/* long */%' AND pid <> pg_backend_pid()";
            succeeded(kill, &shard.simple(kill));
        });
    });
    assert_eq!(sqlstate(&answer.unwrap_err()), "08006");
    let aborted = client.query("SELECT count(*) FROM kv", &[]).await;
    assert_eq!(sqlstate(&aborted.unwrap_err()), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    let count = client.query_one("SELECT count(*) FROM kv", &[]).await;
    assert_eq!(count.unwrap().get::<_, i64>(0), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_not_worked_for() {
    let (sharded, client) = start("spread_left").await;
    let asked = tokio::spawn(async move { client.query(LONG, &[]).await.map(|_| ()) });
    tokio::task::block_in_place(|| wait_until("it runs", || all_running(&sharded) == 4));
    asked.abort();
    let _ = asked.await;
    let begun = Instant::now();
    tokio::task::block_in_place(|| wait_until("it is over", || all_running(&sharded) == 0));
    assert!(begun.elapsed() < Duration::from_secs(20));
}
