//! What applications connect with: psql, tokio-postgres, and Python's psycopg and asyncpg.
//!
//! Each test has databases of its own. The Python programs are in `tests/python/`; `make test` makes the environment they run in.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, TryStreamExt, future};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::servers::{cluster, connect};
use crate::sharded::Sharded;

const SCHEMA: &str = "
    CREATE TABLE items (tenant bigint, id integer, body text, PRIMARY KEY (tenant, id));
    CREATE TABLE counters (tenant bigint PRIMARY KEY, n integer);
    CREATE TABLE typed (tenant bigint PRIMARY KEY, small integer, body text, day date, moment timestamptz, uuid uuid, money numeric(10, 2),
        list integer[], bytes bytea, flag boolean, nothing text);
    CREATE TABLE settings (id integer PRIMARY KEY, name text, value text);";

const TABLES: &str = r#"
[[distributions]]
name = "tenants"
key = "bigint"
strategy = "hash"
shards = ["s1", "s2", "s3", "s4"]

[[tables]]
name = "items"
distribution = "tenants"
key = "tenant"

[[tables]]
name = "counters"
distribution = "tenants"
key = "tenant"

[[tables]]
name = "typed"
distribution = "tenants"
key = "tenant"
"#;

/// Runs psql with these arguments and this input.
fn psql(sharded: &Sharded, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(cluster().installation().bin().join("psql"));
    command
        .args(["-X", "-d", &sharded.connection()])
        .args(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

#[test]
fn psql_works_as_ever() {
    let sharded = Sharded::start("drivers_psql", SCHEMA, TABLES);
    let quiet = ["-v", "ON_ERROR_STOP=1", "-qAt"];
    let script = r#"
        INSERT INTO items VALUES (1, 1, 'one'), (1, 2, 'two');
        INSERT INTO items VALUES (2, 1, 'eins') RETURNING body;
        BEGIN;
        UPDATE items SET body = upper(body) WHERE tenant = 1 RETURNING body;
        ROLLBACK;
        \set tenant 1
        SELECT body FROM items WHERE tenant = :tenant ORDER BY id;
        PREPARE p (bigint) AS SELECT body FROM items WHERE tenant = 2;
        SELECT count(*) FROM items WHERE tenant = 1 \g
        \copy settings FROM STDIN WITH (FORMAT csv)
7,name,
8,"na,me","va""lue"
\.
        \copy (SELECT * FROM settings ORDER BY id) TO STDOUT WITH (FORMAT csv)
        COPY (SELECT body FROM items WHERE tenant = 2) TO STDOUT;
        SELECT 'a' AS a, 1 AS b \gset
        \echo :a :b
        \pset format unaligned
        SELECT 1; SELECT 2 \; SELECT 3;
    "#;
    let found = psql(
        &sharded,
        &quiet,
        &script.replace("PREPARE p", "-- PREPARE p"),
    );
    assert_eq!(text(&found.stderr), "");
    let expected =
        "eins\nONE\nTWO\none\ntwo\n2\n7,name,\n8,\"na,me\",\"va\"\"lue\"\neins\na 1\n1\n2\n3";
    assert_eq!(text(&found.stdout), expected);

    // Every statement of one message, at once.
    let command = "SELECT body FROM items WHERE tenant = 2; SELECT 1/0; SELECT 'not reached'";
    let found = psql(&sharded, &["-qAt", "-c", command], "");
    assert_eq!(
        (text(&found.stdout).as_str(), text(&found.stderr).as_str()),
        ("eins", "ERROR:  division by zero")
    );
    assert_eq!(found.status.code(), Some(1));
    let command = "INSERT INTO items VALUES (2, 9, 'nine'); SELECT 1/0";
    psql(&sharded, &["-qAt", "-1", "-c", command], "");
    let found = psql(
        &sharded,
        &[
            "-qAt",
            "-c",
            "SELECT count(*) FROM items WHERE tenant = 2 AND id = 9",
        ],
        "",
    );
    assert_eq!(text(&found.stdout), "0");

    let ordered = "SELECT tenant, id FROM items ORDER BY 1, 2 LIMIT 2";
    let all = psql(&sharded, &["-qAt", "-c", ordered], "");
    assert_eq!(text(&all.stdout), "1|1\n1|2");
    const MERGE: &str =
        "MERGE INTO items USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING";
    let refused = psql(&sharded, &["-qAt", "-c", MERGE], "");
    let said = text(&refused.stderr);
    assert!(said.starts_with("ERROR:  "), "{said}");
    assert!(
        said.contains("DETAIL:  Refused by Trunkline: merge.\nHINT:  "),
        "{said}"
    );
}

#[test]
fn psql_describes_what_is_there() {
    let sharded = Sharded::start("drivers_describe", SCHEMA, TABLES);
    for (command, wanted) in [
        ("\\d", "items"),
        (
            "\\d items",
            "\"items_pkey\" PRIMARY KEY, btree (tenant, id)",
        ),
        ("\\d+ items", "Access method: heap"),
        ("\\dt+", "settings"),
        ("\\di", "items_pkey"),
        ("\\dn", "public"),
        ("\\df", "Result data type"),
        ("\\du", "app"),
        ("\\l", "drivers_describe"),
        ("\\dp items", "items"),
        ("\\conninfo", "drivers_describe"),
        ("\\encoding", "UTF8"),
    ] {
        let found = psql(&sharded, &["-c", command], "");
        assert!(
            text(&found.stdout).contains(wanted) && found.stderr.is_empty(),
            "{command}: {found:?}"
        );
    }
    let found = psql(&sharded, &["-c", "\\d nothing"], "");
    assert_eq!(
        text(&found.stderr),
        "Did not find any relation named \"nothing\"."
    );
}

#[tokio::test]
async fn tokio_postgres_has_all_it_uses() {
    let sharded = tokio::task::spawn_blocking(|| Sharded::start("drivers_tokio", SCHEMA, TABLES))
        .await
        .unwrap();
    let mut client = connect(&sharded.connection()).await;
    typed(&client).await;
    pipelined(&client).await;
    transactions(&mut client).await;
    copies(&client).await;
    portals(&mut client).await;
    executes(&client).await;
    cancels(&client).await;
    many_at_once(&sharded).await;
    drop(client);
    tokio::task::spawn_blocking(|| drop(sharded)).await.unwrap();
}

async fn typed(client: &Client) {
    let insert = client
        .prepare("INSERT INTO items VALUES ($1, $2, $3) RETURNING body")
        .await
        .unwrap();
    assert_eq!(insert.params(), [Type::INT8, Type::INT4, Type::TEXT]);
    for tenant in 0..20_i64 {
        let body = format!("body of {tenant}");
        assert_eq!(
            client
                .query_one(&insert, &[&tenant, &1_i32, &body])
                .await
                .unwrap()
                .get::<_, String>(0),
            body
        );
    }
    let declared = client
        .prepare_typed("SELECT body FROM items WHERE tenant = $1", &[Type::INT4])
        .await
        .unwrap();
    assert_eq!(
        client
            .query_one(&declared, &[&7_i32])
            .await
            .unwrap()
            .get::<_, &str>(0),
        "body of 7"
    );
    let same = client
        .query(
            "SELECT id FROM items WHERE tenant = ANY ($1)",
            &[&vec![3_i64, 3]],
        )
        .await
        .unwrap();
    assert_eq!(same.len(), 1);
    let several = client
        .query(
            "SELECT id FROM items WHERE tenant = ANY ($1)",
            &[&(0..20_i64).collect::<Vec<_>>()],
        )
        .await
        .unwrap();
    let all = client.query_one(
        "SELECT count(*) FROM items WHERE tenant BETWEEN 0 AND 19",
        &[],
    );
    let all: i64 = all.await.unwrap().get(0);
    assert_eq!(several.len(), usize::try_from(all).unwrap());
    let missing = client
        .query_opt("SELECT * FROM items WHERE tenant = $1", &[&-1_i64])
        .await
        .unwrap();
    assert!(missing.is_none());
    let null = client
        .query("SELECT * FROM items WHERE tenant = $1", &[&None::<i64>])
        .await
        .unwrap_err();
    assert_eq!(null.code(), Some(&SqlState::NULL_VALUE_NOT_ALLOWED));
    assert_eq!(
        client
            .execute("UPDATE items SET body = body WHERE tenant = 5", &[])
            .await
            .unwrap(),
        1
    );
}

/// Many statements on their way before the first answer, to all shards.
async fn pipelined(client: &Client) {
    let select = client
        .prepare("SELECT tenant, body FROM items WHERE tenant = $1")
        .await
        .unwrap();
    let asked = (0..200_i64).map(|number| {
        let select = &select;
        async move {
            let tenant = number % 20;
            let row = client.query_one(select, &[&tenant]).await.unwrap();
            assert_eq!(
                (row.get::<_, i64>(0), row.get::<_, String>(1)),
                (tenant, format!("body of {tenant}"))
            );
        }
    });
    future::join_all(asked).await;
    // An error in between is that statement's alone.
    let (one, error, other) = future::join3(
        client.query_one(&select, &[&1_i64]),
        client.query_one(
            "SELECT 1/(tenant - 2) FROM items WHERE tenant = $1",
            &[&2_i64],
        ),
        client.query_one(&select, &[&3_i64]),
    )
    .await;
    assert_eq!(error.unwrap_err().code(), Some(&SqlState::DIVISION_BY_ZERO));
    assert_eq!(
        (
            one.unwrap().get::<_, i64>(0),
            other.unwrap().get::<_, i64>(0)
        ),
        (1, 3)
    );
}

async fn transactions(client: &mut Client) {
    let mut transaction = client.transaction().await.unwrap();
    transaction
        .execute("UPDATE items SET body = 'kept' WHERE tenant = 4", &[])
        .await
        .unwrap();
    let savepoint = transaction.transaction().await.unwrap();
    savepoint
        .execute("UPDATE items SET body = 'undone' WHERE tenant = 4", &[])
        .await
        .unwrap();
    let failed = savepoint
        .execute("INSERT INTO items VALUES (4, 1, 'taken')", &[])
        .await
        .unwrap_err();
    assert_eq!(failed.code(), Some(&SqlState::UNIQUE_VIOLATION));
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(body_of_4(client).await, "kept");

    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("UPDATE items SET body = 'undone' WHERE tenant = 4", &[])
        .await
        .unwrap();
    let refused = transaction
        .execute("UPDATE items SET body = 'x' WHERE tenant = 5", &[])
        .await;
    // Tenants 4 and 5 may share a shard; where they do not, a transaction keeps to its own.
    if let Err(error) = refused {
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
        let next = transaction.query("SELECT 1", &[]).await.unwrap_err();
        assert_eq!(next.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    }
    // Dropping it rolls it back.
    drop(transaction);
    assert_eq!(body_of_4(client).await, "kept");
    client
        .execute("UPDATE items SET body = 'body of 4' WHERE tenant = 4", &[])
        .await
        .unwrap();
}

async fn body_of_4(client: &Client) -> String {
    client
        .query_one("SELECT body FROM items WHERE tenant = 4", &[])
        .await
        .unwrap()
        .get(0)
}

async fn copies(client: &Client) {
    let sink = client.copy_in("COPY settings FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let mut sent = String::new();
    for id in 0..20_000 {
        sent += &format!("{id}\tname {id}\t\\N\n");
        if id % 500 == 499 {
            sink.send(bytes::Bytes::from(std::mem::take(&mut sent)))
                .await
                .unwrap();
        }
    }
    assert_eq!(sink.finish().await.unwrap(), 20_000);
    let stream = client.copy_out("COPY settings TO STDOUT").await.unwrap();
    let chunks: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(
        chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .filter(|byte| **byte == b'\n')
            .count(),
        20_000
    );
    // One that is given up leaves nothing behind.
    let sink = client
        .copy_in::<_, bytes::Bytes>("COPY settings FROM STDIN")
        .await
        .unwrap();
    drop(sink);
    assert_eq!(
        client
            .query_one("SELECT count(*) FROM settings", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        20_000
    );
    let refused = client
        .copy_in::<_, bytes::Bytes>("COPY items (id) FROM STDIN")
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    client.execute("DELETE FROM settings", &[]).await.unwrap();
}

/// A portal gives its rows in parts.
async fn portals(client: &mut Client) {
    let transaction = client.transaction().await.unwrap();
    let portal = transaction
        .bind(
            "SELECT g FROM items, generate_series(1, 10) g WHERE tenant = $1",
            &[&6_i64],
        )
        .await
        .unwrap();
    let mut sizes = Vec::new();
    for _ in 0..3 {
        sizes.push(transaction.query_portal(&portal, 4).await.unwrap().len());
    }
    assert_eq!(sizes, [4, 4, 2]);
    transaction.commit().await.unwrap();
}

/// A driver without simple queries: EXECUTE of what several shards do, described and in binary.
async fn executes(client: &Client) {
    let sql =
        "SELECT tenant, count(*) FROM items WHERE tenant > $1 GROUP BY tenant ORDER BY tenant";
    client
        .execute(&format!("PREPARE everywhere (bigint) AS {sql}"), &[])
        .await
        .unwrap();
    let pairs = |rows: Vec<tokio_postgres::Row>| -> Vec<(i64, i64)> {
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let expected = pairs(client.query(sql, &[&1_i64]).await.unwrap());
    assert!(expected.len() > 1);
    let found = client.query("EXECUTE everywhere (1)", &[]).await.unwrap();
    assert_eq!(pairs(found), expected);
    client.execute("DEALLOCATE everywhere", &[]).await.unwrap();
}

async fn cancels(client: &Client) {
    let token = client.cancel_token();
    let sleeping = client.simple_query("SELECT pg_sleep(60), body FROM items WHERE tenant = 8");
    let cancelling = async {
        // A cancel request that comes before its statement has begun finds nothing: it is sent until it works.
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            token.cancel_query(NoTls).await.unwrap();
        }
    };
    let error = tokio::select! {
        result = sleeping => result.unwrap_err(),
        () = cancelling => unreachable!("it never ends"),
    };
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    // A late one may reach nothing but this session; it may take a turn to pass.
    let messages = client
        .simple_query("SELECT body FROM items WHERE tenant = 8")
        .await
        .unwrap();
    assert!(
        matches!(&messages[1], SimpleQueryMessage::Row(row) if row.get(0) == Some("body of 8")),
        "{messages:?}"
    );
}

/// More clients than a pool has connections; each sees its own rows and none of its neighbours'.
async fn many_at_once(sharded: &Sharded) {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..40_i32 {
        let connection = sharded.connection();
        tasks.spawn(async move {
            let mut client = connect(&connection).await;
            let name = format!("worker {worker}");
            client.batch_execute(&format!("SET application_name = '{name}'")).await.unwrap();
            for turn in 0..20_i32 {
                let tenant = i64::from((worker + turn) % 20);
                let transaction = client.transaction().await.unwrap();
                let row = transaction
                    .query_one("SELECT body, current_setting('application_name') FROM items WHERE tenant = $1 AND id = 1", &[&tenant])
                    .await
                    .unwrap();
                assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (format!("body of {tenant}").as_str(), name.as_str()));
                let id = 1000 + worker * 100 + turn;
                transaction.execute("INSERT INTO items VALUES ($1, $2, 'x')", &[&tenant, &id]).await.unwrap();
                transaction.commit().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let client = connect(&sharded.connection()).await;
    let mut inserted = 0;
    for tenant in 0..20_i64 {
        inserted += client
            .query_one(
                "SELECT count(*) FROM items WHERE tenant = $1 AND id >= 1000",
                &[&tenant],
            )
            .await
            .unwrap()
            .get::<_, i64>(0);
    }
    assert_eq!(inserted, 40 * 20);
}

/// Runs a program of `tests/python/`; what it says.
pub fn python(program: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = root.join(".venv/bin/python");
    assert!(
        interpreter.exists(),
        "{} is missing: `make test` builds it with the drivers",
        interpreter.display()
    );
    let found = Command::new(interpreter)
        .arg(root.join("tests/python").join(program))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        found.status.success(),
        "{program}\n{}\n{}",
        text(&found.stdout),
        text(&found.stderr)
    );
    text(&found.stdout)
}

#[test]
fn psycopg_has_all_it_uses() {
    let sharded = Sharded::start("drivers_psycopg", SCHEMA, TABLES);
    python("psycopg_driver.py", &[&sharded.connection()]);
}

#[test]
fn asyncpg_has_all_it_uses() {
    let sharded = Sharded::start("drivers_asyncpg", SCHEMA, TABLES);
    python(
        "asyncpg_driver.py",
        &["127.0.0.1", &sharded.port.to_string(), &sharded.database],
    );
}
