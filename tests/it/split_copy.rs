//! COPY of sharded and reference tables: rows go to the shards of their keys, and come back from all of them.

use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use crate::sharded::Sharded;

const SCHEMA: &str = "CREATE TABLE kv (v text, k int PRIMARY KEY, n numeric);
    CREATE TABLE words (w text PRIMARY KEY, n int);
    CREATE TABLE countries (code text PRIMARY KEY, name text)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[distributions]]\nname = \"t\"\nstrategy = \"hash\"\nkey = [\"text\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"words\"\ndistribution = \"t\"\nkey = [\"w\"]\n\
    [[tables]]\nname = \"countries\"\nplacement = \"reference\"\n";

async fn connect(sharded: &Sharded) -> Client {
    let (client, connection) = tokio_postgres::connect(&sharded.connection(), NoTls)
        .await
        .expect("the proxy answers");
    tokio::spawn(connection);
    client
}

async fn copy_in(client: &Client, sql: &str, data: &[u8]) -> Result<u64, tokio_postgres::Error> {
    use futures_util::SinkExt;
    let sink = client.copy_in(sql).await?;
    let mut sink = std::pin::pin!(sink);
    for piece in data.chunks(7000) {
        sink.send(bytes::Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

async fn copy_out(client: &Client, sql: &str) -> Vec<u8> {
    use futures_util::TryStreamExt;
    let stream = client.copy_out(sql).await.expect("it begins");
    let pieces: Vec<bytes::Bytes> = stream.try_collect().await.expect("it ends");
    pieces.concat()
}

/// Lines of several shards come in any order.
fn sorted(data: &[u8]) -> Vec<String> {
    let text = String::from_utf8(data.to_vec()).expect("text");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_in_and_come_out() {
    let sharded = tokio::task::spawn_blocking(|| Sharded::start("copy_rows", SCHEMA, TABLES))
        .await
        .unwrap();
    let client = connect(&sharded).await;
    let rows: Vec<String> = (0..20_000)
        .map(|k| format!("v{k}\\tx\t{k}\t{k}.5"))
        .collect();
    let data = rows.join("\n") + "\n";
    assert_eq!(
        copy_in(&client, "COPY kv FROM STDIN", data.as_bytes())
            .await
            .unwrap(),
        20_000
    );
    assert_eq!(
        sorted(&copy_out(&client, "COPY kv TO STDOUT").await),
        sorted(data.as_bytes())
    );
    // Every row is where its key says, and each shard has a good part of them.
    for shard in &mut sharded.shards() {
        let count = shard.simple("SELECT count(*) > 4000 FROM kv");
        assert_eq!(count.rows[0][0].as_deref(), Some(&b"t"[..]));
    }
    for key in [0, 77, 19_999] {
        let row = client
            .query_one("SELECT v FROM kv WHERE k = $1", &[&key])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), format!("v{key}\tx"));
    }
    // What one format gives another one takes.
    let binary = copy_out(&client, "COPY kv (k, n) TO STDOUT (FORMAT binary)").await;
    client.batch_execute("BEGIN").await.unwrap();
    for key in 0..4 {
        client
            .execute("DELETE FROM words WHERE w = $1", &[&key.to_string()])
            .await
            .unwrap();
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    for mut shard in sharded.shards() {
        assert!(shard.simple("TRUNCATE kv").error.is_none());
    }
    let copied = copy_in(
        &client,
        "COPY kv (k, n) FROM STDIN (FORMAT binary)",
        &binary,
    )
    .await;
    assert_eq!(copied.unwrap(), 20_000);
    let csv = copy_out(&client, "COPY kv (n, k) TO STDOUT WITH CSV HEADER").await;
    let lines = sorted(&csv);
    assert_eq!(lines.len(), 20_001);
    assert_eq!(lines.iter().filter(|line| *line == "n,k").count(), 1);
    assert!(lines.contains(&"77.5,77".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_undoes_all_of_it() {
    let sharded = tokio::task::spawn_blocking(|| Sharded::start("copy_bad", SCHEMA, TABLES))
        .await
        .unwrap();
    let client = connect(&sharded).await;
    let message = |error: tokio_postgres::Error| {
        let error = error.as_db_error().expect("an error of the database");
        format!("{} {}", error.code().code(), error.message())
    };
    let copy =
        |data: &'static str| copy_in(&client, "COPY kv FROM STDIN (FORMAT csv)", data.as_bytes());
    let bad_key = message(copy("a,1,1\nb,2,2\nc,x,3\n").await.unwrap_err());
    assert!(bad_key.starts_with("22P04 COPY kv, line 3: "), "{bad_key}");
    let null = message(copy("a,1,1\nb,,2\n").await.unwrap_err());
    assert!(
        null.starts_with("22P04 COPY kv, line 2: a key column is NULL"),
        "{null}"
    );
    let by_shard = message(
        copy("a,1,1\nb,2,2\nc,3,nonsense\nd,4,4\n")
            .await
            .unwrap_err(),
    );
    assert!(by_shard.starts_with("22P02 "), "{by_shard}");
    let duplicate = message(copy("a,1,1\nb,2,2\nc,3,3\nd,2,4\n").await.unwrap_err());
    assert!(duplicate.starts_with("23505 "), "{duplicate}");
    for mut shard in sharded.shards() {
        let count = shard.simple("SELECT count(*) FROM kv");
        assert_eq!(count.rows[0][0].as_deref(), Some(&b"0"[..]));
    }
    // The session is in order, inside a transaction too.
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(copy("a,1,1\nb,2,2\nc,3,3\n").await.unwrap(), 3);
    client.batch_execute("SAVEPOINT s").await.unwrap();
    copy("d,3,3\n").await.unwrap_err();
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(copy("d,4,4\n").await.unwrap(), 1);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        sorted(&copy_out(&client, "COPY kv (v) TO STDOUT").await),
        ["a", "b", "c", "d"]
    );
}

/// FORCE_NULL and FORCE_NOT_NULL decide what a key is: the rows of one Postgres, each where its key is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_null_is_said_by_the_options() {
    let sharded = tokio::task::spawn_blocking(|| Sharded::start("copy_nulls", SCHEMA, TABLES))
        .await
        .unwrap();
    let client = connect(&sharded).await;
    let plain = sharded.plain_connection();
    let (plain, connection) = tokio_postgres::connect(&plain, NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = "COPY (SELECT w, n FROM words ORDER BY w, n) TO STDOUT (FORMAT csv, FORCE_QUOTE *)";
    for (options, data) in [
        ("FORMAT csv, FORCE_NOT_NULL (w)", &b",1\na,2\n\"b\",\n"[..]),
        (
            "FORMAT csv, FORCE_NOT_NULL (n, 'w'), NULL '7'",
            b"7,1\n\"7x\",2\n8,7\n",
        ),
        (
            "FORMAT csv, FORCE_NOT_NULL (w), FORCE_NULL (n)",
            b",1\nc,\"\"\n",
        ),
        ("FORMAT csv, FORCE_NULL (n)", b"c,\"\"\n\"\",\n"),
        (
            "FORMAT csv, FORCE_NULL (w), NULL 'x'",
            b"a,1\n\"xx\",2\n\"\",x\n",
        ),
        (
            "FORMAT csv, FORCE_NULL (w), FORCE_NOT_NULL (w), NULL 'x'",
            b"x,1\ny,2\n",
        ),
    ] {
        let sql = format!("COPY words FROM STDIN ({options})");
        let copied = copy_in(&client, &sql, data).await.unwrap();
        assert_eq!(copied, copy_in(&plain, &sql, data).await.unwrap(), "{sql}");
        assert_eq!(
            copy_out(&client, rows).await,
            copy_out(&plain, rows).await,
            "{sql}"
        );
        let keys = plain.query("SELECT w FROM words", &[]).await.unwrap();
        for key in keys {
            let key: String = key.get(0);
            let found = client
                .query("SELECT 1 FROM words WHERE w = $1", &[&key])
                .await
                .unwrap();
            assert_eq!(found.len(), 1, "{sql}: {key}");
        }
        for client in [&client, &plain] {
            client.batch_execute("DELETE FROM words").await.unwrap();
        }
    }
    // The old form of the options.
    let sql = "COPY words FROM STDIN CSV FORCE NOT NULL w";
    assert_eq!(copy_in(&client, sql, b",1\n").await.unwrap(), 1);
    let found = client.query("SELECT n FROM words WHERE w = ''", &[]);
    assert_eq!(found.await.unwrap().len(), 1);
    // A quoted null string is no key.
    for (options, data) in [
        ("FORCE_NULL (w)", &b"a,1\n\"\",2\n"[..]),
        (
            "FORCE_NULL (w), FORCE_NOT_NULL (w), NULL 'x'",
            b"x,1\n\"x\",2\n",
        ),
    ] {
        let sql = format!("COPY words FROM STDIN (FORMAT csv, {options})");
        let error = copy_in(&client, &sql, data).await.unwrap_err();
        let error = error.as_db_error().expect("an error of the database");
        let message = "COPY words, line 2: a key column is NULL";
        assert_eq!((error.code().code(), error.message()), ("22P04", message));
        let error = copy_in(&plain, &sql, data).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("23502"), "{sql}");
    }
}

/// What is wrong with the options themselves the servers say.
#[test]
fn options_that_servers_refuse() {
    let sharded = Sharded::start("copy_options", SCHEMA, TABLES);
    let (mut client, mut plain) = (sharded.client(), sharded.plain());
    for options in [
        "FORCE_NULL (w)",
        "FORMAT csv, FORCE_NULL (nothing)",
        "FORMAT csv, FORCE_NOT_NULL (w), FORCE_NOT_NULL (n)",
        "FORMAT binary, DEFAULT 'x'",
        "NULL 'x', DEFAULT 'x'",
        "DELIMITER 'x', DEFAULT 'x'",
        "FORMAT csv, DEFAULT 'x\"'",
    ] {
        let sql = format!("COPY words FROM STDIN ({options})");
        let (here, there) = (client.simple(&sql), plain.simple(&sql));
        assert!(there.error.is_some(), "{sql}");
        assert_eq!(here.error, there.error, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_table_gets_all_rows_everywhere() {
    let sharded = tokio::task::spawn_blocking(|| Sharded::start("copy_reference", SCHEMA, TABLES))
        .await
        .unwrap();
    let client = connect(&sharded).await;
    let copied = copy_in(
        &client,
        "COPY countries FROM STDIN",
        b"de\tGermany\nfr\tFrance\n",
    )
    .await;
    assert_eq!(copied.unwrap(), 2);
    for mut shard in sharded.shards() {
        let count = shard.simple("SELECT count(*) FROM countries");
        assert_eq!(count.rows[0][0].as_deref(), Some(&b"2"[..]));
    }
    assert_eq!(
        sorted(&copy_out(&client, "COPY countries TO STDOUT").await).len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_copies_nothing() {
    use futures_util::SinkExt;
    let sharded = tokio::task::spawn_blocking(|| Sharded::start("copy_left", SCHEMA, TABLES))
        .await
        .unwrap();
    {
        let client = connect(&sharded).await;
        let sink = client.copy_in("COPY kv FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from_static(b"a\t1\t1\nb\t2\t2\n"))
            .await
            .unwrap();
    }
    let client = connect(&sharded).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        // Nothing is left behind that locks the rows.
        let copied = copy_in(&client, "COPY kv FROM STDIN", b"x\t1\t1\ny\t2\t2\n").await;
        match copied {
            Ok(rows) => break assert_eq!(rows, 2),
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
}
