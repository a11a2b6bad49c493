//! Transactions that write on several shards commit on all of them or on none; nobody dies here.

use crate::raw::{Answer, Raw};
use crate::sharded::{Sharded, succeeded};
use crate::wire_client::{Wire, run as run_one, sync};

const SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS trunkline; CREATE TABLE IF NOT EXISTS trunkline.commits (id text COLLATE \"C\" PRIMARY KEY, outcome text NOT NULL, shards text[] NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());\
    CREATE TABLE kv (k int PRIMARY KEY, v text, \
        other int, CONSTRAINT later UNIQUE (k, other) DEFERRABLE INITIALLY DEFERRED); \
    CREATE TABLE notes (k int, note text); \
    CREATE FUNCTION fails_at_commit() RETURNS trigger LANGUAGE plpgsql AS \
        $$BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '23514'; END$$; \
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
        WHEN (NEW.note = 'fails at commit') EXECUTE FUNCTION fails_at_commit(); \
    CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_notify('c', 'x'); RETURN NEW; END$$; \
    CREATE TRIGGER tells BEFORE INSERT ON notes FOR EACH ROW WHEN (NEW.note = 'tells') EXECUTE FUNCTION tells();";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"notes\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

/// Keys of which each is on another shard, and what looks at the shards themselves.
struct Cluster {
    sharded: Sharded,
    keys: Vec<i32>,
}

impl Cluster {
    fn start(name: &str) -> Cluster {
        let sharded = Sharded::start(name, SCHEMA, TABLES);
        let mut client = sharded.client();
        for key in 0..32 {
            let sql = format!("INSERT INTO kv VALUES ({key}, 'old', 0)");
            succeeded(&sql, &client.simple(&sql));
        }
        let mut shards = sharded.shards();
        let smallest = |shard: &mut Raw| first(&shard.simple("SELECT min(k) FROM kv")).parse();
        let keys = shards.iter_mut().map(smallest).collect::<Result<_, _>>();
        let keys = keys.expect("every shard has some");
        Cluster { sharded, keys }
    }

    fn write(&self, shard: usize, value: &str) -> String {
        format!("UPDATE kv SET v = '{value}' WHERE k = {}", self.keys[shard])
    }

    fn note(&self, shard: usize, note: &str) -> String {
        format!("INSERT INTO notes VALUES ({}, '{note}')", self.keys[shard])
    }

    /// What each shard's row says, as the shard itself sees it.
    fn values(&self) -> Vec<String> {
        let mut shards = self.sharded.shards();
        let value = |(shard, key): (&mut Raw, &i32)| {
            first(&shard.simple(&format!("SELECT v FROM kv WHERE k = {key}")))
        };
        shards.iter_mut().zip(&self.keys).map(value).collect()
    }

    /// Nothing is prepared; the number of transactions that the shards know to have committed.
    fn committed(&self) -> Vec<String> {
        let mut shards = self.sharded.shards();
        let look = |shard: &mut Raw| {
            let prepared = shard.simple(
                "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()",
            );
            assert_eq!(first(&prepared), "0");
            first(&shard.simple("SELECT count(*) FROM trunkline.commits WHERE outcome = 'commit'"))
        };
        shards.iter_mut().map(look).collect()
    }
}

fn first(answer: &Answer) -> String {
    assert!(answer.error.is_none(), "{:?}", answer.error);
    let value = answer.rows[0][0].clone().expect("not NULL");
    String::from_utf8(value).expect("text")
}

fn run(client: &mut Raw, statements: &[&str]) {
    for sql in statements {
        succeeded(sql, &client.simple(sql));
    }
}

/// The SQLSTATE of a statement that fails.
fn fails(client: &mut Raw, sql: &str) -> String {
    let answer = client.simple(sql);
    let error = answer.error.unwrap_or_else(|| panic!("{sql} must fail"));
    error.sqlstate().to_owned()
}

#[test]
fn several_writers_commit_together() {
    let cluster = Cluster::start("two_phase_commit");
    let mut client = cluster.sharded.client();
    let writes: Vec<String> = (0..3).map(|shard| cluster.write(shard, "new")).collect();
    run(&mut client, &["BEGIN"]);
    for write in &writes {
        run(&mut client, &[write]);
    }
    // Only read there: it does not take part.
    let read = format!("SELECT v FROM kv WHERE k = {}", cluster.keys[3]);
    run(&mut client, &[&read, "COMMIT"]);
    assert_eq!(cluster.values(), ["new", "new", "new", "old"]);
    assert_eq!(cluster.committed(), ["1", "1", "1", "0"]);

    run(
        &mut client,
        &[
            "BEGIN",
            &cluster.write(0, "undone"),
            &cluster.write(3, "undone"),
            "ROLLBACK",
        ],
    );
    assert_eq!(cluster.values(), ["new", "new", "new", "old"]);
    run(
        &mut client,
        &["BEGIN", &cluster.write(3, "alone"), &read, "COMMIT"],
    );
    assert_eq!(
        cluster.committed(),
        ["1", "1", "1", "0"],
        "one writer needs no decision"
    );

    // A statement that several shards do is one transaction.
    run(&mut client, &["UPDATE kv SET v = 'all'"]);
    assert_eq!(cluster.values(), ["all"; 4]);
    assert_eq!(cluster.committed(), ["2", "2", "2", "1"]);
}

#[test]
fn a_lock_is_held_until_what_it_protects_is_there() {
    let cluster = Cluster::start("two_phase_locks");
    let mut client = cluster.sharded.client();
    let lock = format!("SELECT v FROM kv WHERE k = {} FOR UPDATE", cluster.keys[0]);
    run(
        &mut client,
        &["BEGIN", &lock, &cluster.write(1, "new"), "COMMIT"],
    );
    assert_eq!(cluster.values()[1], "new");
    assert_eq!(cluster.committed(), ["1", "1", "0", "0"]);
}

#[test]
fn what_fails_at_the_commit_of_one_shard_is_on_none() {
    let cluster = Cluster::start("two_phase_deferred");
    let mut client = cluster.sharded.client();
    // Each shard in turn is the one that fails, and any may be the one that decides.
    for round in 0..12 {
        run(
            &mut client,
            &[
                "BEGIN",
                "SET statement_timeout = '7s'",
                &cluster.write(0, "half"),
                &cluster.write(1, "half"),
                &cluster.note(round % 3, "fails at commit"),
            ],
        );
        assert_eq!(fails(&mut client, "COMMIT"), "23514");
        assert_eq!(client.status(), b'I');
        let timeout = client.simple("SHOW statement_timeout");
        assert_eq!(first(&timeout), "0", "it was set in the transaction");
        assert_eq!(cluster.values(), ["old"; 4]);
        assert_eq!(cluster.committed(), ["0"; 4]);
    }
    // And other clients find clean connections.
    for shard in 0..4 {
        let mut other = cluster.sharded.client();
        let read = format!(
            "SELECT current_setting('statement_timeout') FROM kv WHERE k = {}",
            cluster.keys[shard]
        );
        assert_eq!(first(&other.simple(&read)), "0");
    }
}

#[test]
fn settings_stay_and_a_role_of_the_transaction_ends() {
    let cluster = Cluster::start("two_phase_settings");
    let mut client = cluster.sharded.client();
    run(
        &mut client,
        &[
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "SET lock_timeout = '7s'",
            &cluster.write(0, "set"),
            "SET LOCAL work_mem = '5MB'",
            &cluster.write(1, "set"),
            "COMMIT",
        ],
    );
    assert_eq!(cluster.values(), ["set", "set", "old", "old"]);
    for key in &cluster.keys {
        let read = format!(
            "SELECT concat_ws(' ', current_setting('lock_timeout'), current_setting('work_mem')) FROM kv WHERE k = {key}"
        );
        assert_eq!(first(&client.simple(&read)), "7s 4MB");
    }
}

#[test]
fn what_cannot_be_prepared_decides_or_is_refused() {
    let cluster = Cluster::start("two_phase_unpreparable");
    let mut client = cluster.sharded.client();
    let both = "SELECT count(*) FROM kv a JOIN kv b ON a.v = b.v AND a.k <> b.k";
    for _ in 0..5 {
        // The rows are gathered in a temporary table on one shard.
        run(
            &mut client,
            &[
                "BEGIN",
                &cluster.write(0, "new"),
                &cluster.write(1, "new"),
                both,
                &cluster.write(2, "new"),
                "COMMIT",
            ],
        );
    }
    assert_eq!(cluster.values(), ["new", "new", "new", "old"]);
    // Nobody sees from the statement that a trigger notifies.
    run(
        &mut client,
        &[
            "BEGIN",
            &cluster.note(0, "tells"),
            &cluster.note(1, "tells"),
            &cluster.write(2, "half"),
        ],
    );
    let refused = client.simple("COMMIT");
    assert_eq!(refused.refusal(), Some("cannot_prepare"));
    assert_eq!(client.status(), b'I');
    assert_eq!(cluster.values(), ["new", "new", "new", "old"]);
    cluster.committed();
}

#[test]
fn a_batch_of_the_extended_protocol_commits_at_its_sync() {
    let cluster = Cluster::start("two_phase_batch");
    let address = ([127, 0, 0, 1], cluster.sharded.port).into();
    let who = [("user", "app"), ("database", &*cluster.sharded.database)];
    let mut client = Wire::log_in(address, &who, "").unwrap_or_else(|e| panic!("{e:?}"));
    let mut batch = |statements: &[String]| {
        let mut messages: Vec<Vec<u8>> = statements.iter().map(|sql| run_one(sql, &[])).collect();
        messages.push(sync());
        client.ask(&messages)
    };
    let answer = batch(&[cluster.write(0, "batch"), cluster.write(1, "batch")]);
    assert!(!answer.contains("Error"), "{answer}");
    assert_eq!(cluster.values(), ["batch", "batch", "old", "old"]);
    assert_eq!(cluster.committed(), ["1", "1", "0", "0"]);
    let answer = batch(&[
        cluster.write(2, "half"),
        cluster.write(3, "half"),
        cluster.note(2, "fails at commit"),
    ]);
    assert!(answer.contains("23514"), "{answer}");
    assert_eq!(cluster.values(), ["batch", "batch", "old", "old"]);
    assert_eq!(cluster.committed(), ["1", "1", "0", "0"]);
}
