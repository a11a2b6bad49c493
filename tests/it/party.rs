//! Transactions over several shards: their statements each live on one shard.

use crate::raw::{Answer, Format, Raw};
use crate::sharded::{Sharded, succeeded};

const SCHEMA: &str = "CREATE TABLE kv (k int PRIMARY KEY, v text)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

/// Runs statements one by one; every one must succeed.
fn run(client: &mut Raw, statements: &[&str]) {
    for sql in statements {
        succeeded(sql, &client.simple(sql));
    }
}

/// A key for each shard, in order.
fn keys(sharded: &Sharded) -> Vec<i32> {
    let mut client = sharded.client();
    for key in 0..64 {
        run(
            &mut client,
            &[&format!("INSERT INTO kv VALUES ({key}, 'old')")],
        );
    }
    let mut shards = sharded.shards();
    let mut first = |shard: &mut Raw| {
        let answer = shard.simple("SELECT min(k) FROM kv");
        field(&answer, 0).parse().unwrap()
    };
    shards.iter_mut().map(&mut first).collect()
}

fn value(client: &mut Raw, key: i32) -> Option<String> {
    let answer = client.simple(&format!("SELECT v FROM kv WHERE k = {key}"));
    succeeded("SELECT", &answer);
    (!answer.rows.is_empty()).then(|| field(&answer, 0))
}

/// A value of the first row.
fn field(answer: &Answer, column: usize) -> String {
    let value = answer.rows[0][column].clone().expect("not NULL");
    String::from_utf8(value).expect("text")
}

#[test]
fn one_writer_and_many_readers() {
    let sharded = Sharded::start("party_reads", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    let mut other = sharded.client();
    run(
        &mut client,
        &[
            "BEGIN",
            &format!("UPDATE kv SET v = 'new' WHERE k = {}", keys[0]),
        ],
    );
    for key in &keys[1..] {
        assert_eq!(value(&mut client, *key).as_deref(), Some("old"));
    }
    // Back where it was written, and not before the commit for others.
    assert_eq!(value(&mut client, keys[0]).as_deref(), Some("new"));
    assert_eq!(value(&mut other, keys[0]).as_deref(), Some("old"));
    run(&mut client, &["COMMIT"]);
    assert_eq!(value(&mut other, keys[0]).as_deref(), Some("new"));
    let again = client.simple("COMMIT");
    assert_eq!(again.tags, ["COMMIT"], "a warning, and no transaction");
}

#[test]
fn a_commit_on_several_writers_is_refused_unless_it_is_allowed() {
    let refuse = "[transactions]\ncross_shard_commit = \"refuse\"\n";
    let sharded = Sharded::start("party_refused", SCHEMA, &format!("{refuse}{TABLES}"));
    let keys = keys(&sharded);
    let mut client = sharded.client();
    let write = |key: i32| format!("UPDATE kv SET v = 'new' WHERE k = {key}");
    run(&mut client, &["BEGIN", &write(keys[0]), &write(keys[1])]);
    let refused = client.simple("COMMIT");
    assert_eq!(refused.refusal(), Some("cross_shard_commit"));
    for key in &keys {
        assert_eq!(value(&mut client, *key).as_deref(), Some("old"));
    }

    let allowed = "[transactions]\ncross_shard_commit = \"best_effort\"\n";
    let sharded = Sharded::start("party_allowed", SCHEMA, &format!("{allowed}{TABLES}"));
    let keys = self::keys(&sharded);
    let mut client = sharded.client();
    run(
        &mut client,
        &["BEGIN", &write(keys[0]), &write(keys[1]), "COMMIT"],
    );
    assert_eq!(value(&mut client, keys[0]).as_deref(), Some("new"));
    assert_eq!(value(&mut client, keys[1]).as_deref(), Some("new"));
    run(
        &mut client,
        &["BEGIN", &format!("DELETE FROM kv WHERE k = {}", keys[0])],
    );
    run(
        &mut client,
        &[&format!("DELETE FROM kv WHERE k = {}", keys[1]), "ROLLBACK"],
    );
    assert_eq!(value(&mut client, keys[0]).as_deref(), Some("new"));
    assert_eq!(value(&mut client, keys[1]).as_deref(), Some("new"));
}

#[test]
fn savepoints_and_settings_are_on_every_shard() {
    let sharded = Sharded::start("party_savepoints", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    run(
        &mut client,
        &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SET LOCAL lock_timeout = '7s'",
            &format!("UPDATE kv SET v = 'kept' WHERE k = {}", keys[0]),
            "SAVEPOINT s",
            &format!("UPDATE kv SET v = 'undone' WHERE k = {}", keys[0]),
        ],
    );
    let asked = "SELECT current_setting('transaction_isolation'), current_setting('lock_timeout') FROM kv WHERE k = ";
    for key in &keys {
        let answer = client.simple(&format!("{asked}{key}"));
        succeeded(asked, &answer);
        assert_eq!(
            [field(&answer, 0), field(&answer, 1)],
            ["repeatable read", "7s"]
        );
    }
    let failed = client.simple(&format!("SELECT 1/0 FROM kv WHERE k = {}", keys[2]));
    assert_eq!(failed.error.unwrap().sqlstate(), "22012");
    // All of the transaction has failed, whatever shard is asked.
    let aborted = client.simple(&format!("SELECT v FROM kv WHERE k = {}", keys[1]));
    assert_eq!(aborted.error.unwrap().sqlstate(), "25P02");
    run(
        &mut client,
        &["ROLLBACK TO s", "SET LOCAL lock_timeout = '8s'"],
    );
    for key in &keys {
        let answer = client.simple(&format!("{asked}{key}"));
        assert_eq!(field(&answer, 1), "8s");
    }
    assert_eq!(value(&mut client, keys[0]).as_deref(), Some("kept"));
    run(&mut client, &["RELEASE s", "COMMIT"]);
    assert_eq!(value(&mut client, keys[0]).as_deref(), Some("kept"));
    let after = client.simple(&format!("{asked}{}", keys[1]));
    assert_eq!(field(&after, 0), "read committed");
    assert_eq!(field(&after, 1), "0");
}

#[test]
fn a_failed_transaction_commits_nothing_anywhere() {
    let sharded = Sharded::start("party_failed", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    run(
        &mut client,
        &["BEGIN", &format!("DELETE FROM kv WHERE k = {}", keys[0])],
    );
    let duplicate = client.simple(&format!("INSERT INTO kv VALUES ({}, 'x')", keys[3]));
    assert_eq!(duplicate.error.unwrap().sqlstate(), "23505");
    let ended = client.simple("COMMIT");
    assert_eq!(ended.tags, ["ROLLBACK"]);
    for key in &keys {
        assert_eq!(value(&mut client, *key).as_deref(), Some("old"));
    }
}

#[test]
fn what_all_must_do_does_not_stand_among_others() {
    let sharded = Sharded::start("party_messages", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    run(
        &mut client,
        &["BEGIN", &format!("DELETE FROM kv WHERE k = {}", keys[0])],
    );
    assert!(value(&mut client, keys[1]).is_some());
    for message in [
        "COMMIT; SELECT 1",
        "SELECT 1; COMMIT",
        "SAVEPOINT a; SELECT 1",
    ] {
        let refused = client.simple(message);
        assert_eq!(refused.refusal(), Some("multi_shard_message"), "{message}");
        assert_eq!(refused.status, b'E');
        run(&mut client, &["ROLLBACK"]);
        assert!(value(&mut client, keys[0]).is_some());
        run(
            &mut client,
            &["BEGIN", &format!("DELETE FROM kv WHERE k = {}", keys[0])],
        );
        assert!(value(&mut client, keys[1]).is_some());
    }
    run(&mut client, &["COMMIT"]);
    assert!(value(&mut client, keys[0]).is_none());
}

#[test]
fn the_extended_protocol_goes_from_shard_to_shard() {
    let sharded = Sharded::start("party_extended", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    let mut step = |sql: &str| {
        let answer = client.extended(sql, &[], Format::Text);
        succeeded(sql, &answer);
        answer
    };
    step("BEGIN");
    for key in &keys {
        step(&format!("UPDATE kv SET v = 'new' WHERE k = {key}"));
        step("SAVEPOINT s");
    }
    step("ROLLBACK TO s");
    step("COMMIT");
    for key in &keys {
        let answer = step(&format!("SELECT v FROM kv WHERE k = {key}"));
        assert_eq!(field(&answer, 0), "new");
    }
}

/// A single table, which only its shard has.
const NOTES: &str = "[[tables]]\nname = \"notes\"\nplacement = \"single\"\nshard = \"s3\"\n";

#[test]
fn a_refusal_before_the_first_shard_is_known_does_not_keep_others_out() {
    let sharded = Sharded::start("party_refused_early", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    run(&mut client, &["BEGIN", "SAVEPOINT a"]);
    let refused = client.simple("INSERT INTO kv (v) VALUES ('no key')");
    assert_eq!(refused.refusal(), Some("insert_without_key"));
    run(&mut client, &["ROLLBACK TO a", "RELEASE a"]);
    for key in &keys {
        run(
            &mut client,
            &[&format!("UPDATE kv SET v = 'new' WHERE k = {key}")],
        );
    }
    run(&mut client, &["COMMIT"]);
    for key in &keys {
        assert_eq!(value(&mut client, *key).as_deref(), Some("new"));
    }
}

#[test]
fn shards_that_join_later_have_the_constraints_of_the_transaction() {
    const DEFERRABLE: &str =
        "CREATE TABLE kv (k int, v text, UNIQUE (k, v) DEFERRABLE INITIALLY DEFERRED)";
    let sharded = Sharded::start("party_constraints", DEFERRABLE, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    let again = |key: i32| format!("INSERT INTO kv VALUES ({key}, 'old')");
    // Deferred: the error comes at the end.
    run(&mut client, &["BEGIN", &again(keys[0]), "ROLLBACK"]);
    let first = format!("SELECT v FROM kv WHERE k = {}", keys[0]);
    run(
        &mut client,
        &["BEGIN", &first, "SET CONSTRAINTS ALL IMMEDIATE"],
    );
    let found = client.simple(&again(keys[1]));
    assert_eq!(found.error.expect("an error").sqlstate(), "23505");
    run(&mut client, &["ROLLBACK"]);
}

#[test]
fn a_statement_is_parsed_where_its_tables_are() {
    let sharded = Sharded::start("party_parses", SCHEMA, &format!("{TABLES}{NOTES}"));
    let keys = keys(&sharded);
    let mut client = sharded.client();
    run(
        &mut client,
        &[
            "CREATE TABLE notes (n int, k int)",
            "INSERT INTO notes VALUES (1, 5), (2, 6)",
        ],
    );
    let ask = |client: &mut Raw, sql: &str| {
        let answer = client.extended(sql, &[], Format::Text);
        succeeded(sql, &answer);
        answer.lines()
    };
    const NOTED: &str = "SELECT n FROM notes ORDER BY n";
    for key in keys {
        let elsewhere = format!("SELECT v FROM kv WHERE k = {key}");
        run(&mut client, &["BEGIN", &elsewhere]);
        assert_eq!(ask(&mut client, NOTED), ["1", "2"], "beside key {key}");
        assert_eq!(ask(&mut client, &elsewhere), ["old"]);
        assert_eq!(
            ask(&mut client, "DECLARE c CURSOR FOR TABLE notes"),
            [""; 0]
        );
        assert_eq!(ask(&mut client, "INSERT INTO notes VALUES (3)"), [""; 0]);
        run(&mut client, &["ROLLBACK"]);
    }
    // In one unit of work without a block, and with a count of several shards before it.
    run(&mut client, &["BEGIN", "SELECT count(*) FROM kv"]);
    assert_eq!(ask(&mut client, NOTED), ["1", "2"]);
    run(&mut client, &["COMMIT"]);
    assert_eq!(ask(&mut client, NOTED), ["1", "2"]);
}

#[test]
fn the_catalogs_show_the_same_tables_throughout_a_transaction() {
    let sharded = Sharded::start("party_catalogs", SCHEMA, TABLES);
    let keys = keys(&sharded);
    let mut client = sharded.client();
    // Where tables are that the configuration does not name.
    run(&mut client, &["CREATE TABLE undeclared (n int)"]);
    for listed in [
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'undeclared'",
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'undeclared'::regclass AND attname = 'n'",
        "SELECT count(*) FROM information_schema.tables WHERE table_name = 'undeclared'",
    ] {
        for key in &keys {
            let elsewhere = format!("SELECT v FROM kv WHERE k = {key}");
            run(&mut client, &["BEGIN", &elsewhere]);
            let answer = client.simple(listed);
            succeeded(listed, &answer);
            assert_eq!(answer.lines(), ["1"], "{listed} beside key {key}");
            run(&mut client, &["COMMIT"]);
        }
    }
}
