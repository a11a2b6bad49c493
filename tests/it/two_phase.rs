//! Transactions that write on several shards commit on all of them or on none; nobody dies here.

use crate::raw::{Answer, Raw};
use crate::sharded::{Sharded, succeeded};
use crate::wire_client::{Wire, run as run_one, sync};

const SCHEMA: &str = "CREATE TABLE kv (k int PRIMARY KEY, v text, \
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
        Cluster::start_with(name, "")
    }

    fn start_with(name: &str, settings: &str) -> Cluster {
        let sharded = Sharded::start(name, SCHEMA, &format!("{settings}{TABLES}"));
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
    let export = |shard: usize| {
        let key = cluster.keys[shard];
        format!("SELECT pg_export_snapshot() FROM kv WHERE k = {key}")
    };
    run(
        &mut client,
        &[
            "BEGIN",
            &cluster.write(0, "half"),
            &export(0),
            &cluster.write(1, "half"),
            &export(1),
        ],
    );
    let refused = client.simple("COMMIT");
    assert_eq!(refused.refusal(), Some("cannot_prepare"));
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

/// A transaction that has committed on one shard and is still prepared on another, as after a proxy's death at the worst moment.
fn half_committed(cluster: &Cluster, id: &str) {
    let mut shards = cluster.sharded.shards();
    let row = format!(
        "INSERT INTO trunkline.commits (id, outcome, shards) VALUES ('{id}', 'commit', ARRAY['s1', 's2'])"
    );
    run(&mut shards[1], &["BEGIN", &cluster.write(1, "both"), &row]);
    let prepare = format!("PREPARE TRANSACTION 'trunkline:{id}:1:s1'");
    run(&mut shards[1], &[&prepare]);
    run(
        &mut shards[0],
        &["BEGIN", &cluster.write(0, "both"), &row, "COMMIT"],
    );
}

const EVERYTHING: &str = "SELECT v FROM kv WHERE v = 'both'";

#[test]
fn an_atomic_read_sees_all_of_a_commit_or_nothing() {
    let slow = "[transactions]\nrecovery_interval = \"1h\"\n";
    let cluster = Cluster::start_with("two_phase_atomic", slow);
    let id = "0191a0000000-00000007-0123456789abcdef";
    half_committed(&cluster, id);
    let mut client = cluster.sharded.client();
    assert_eq!(client.simple(EVERYTHING).rows.len(), 1, "half of it");
    run(&mut client, &["SET trunkline.read_consistency = 'atomic'"]);
    assert_eq!(
        first(&client.simple("SHOW trunkline.read_consistency")),
        "atomic"
    );
    let gathered = "SELECT a.v FROM kv a JOIN kv b ON a.v = b.v AND b.v = 'both'";
    for query in [
        EVERYTHING,
        gathered,
        "COPY (SELECT 1) TO STDOUT",
        "COPY kv TO STDOUT",
    ] {
        if query.starts_with("COPY (") {
            run(&mut client, &[query]);
            continue;
        }
        assert_eq!(fails(&mut client, query), "40001", "{query}");
        assert_eq!(client.status(), b'I');
    }
    // What lives on one shard is no matter of several.
    let one = format!("SELECT v FROM kv WHERE k = {}", cluster.keys[0]);
    assert_eq!(first(&client.simple(&one)), "both");
    // A block in which each statement has its own snapshot cannot promise it.
    run(&mut client, &["BEGIN"]);
    assert_eq!(client.simple(EVERYTHING).refusal(), Some("atomic_read"));
    run(
        &mut client,
        &["ROLLBACK", "BEGIN ISOLATION LEVEL REPEATABLE READ"],
    );
    assert_eq!(
        fails(&mut client, &one),
        "40001",
        "the snapshots of all shards"
    );
    run(&mut client, &["ROLLBACK"]);

    let mut second = cluster.sharded.shards().swap_remove(1);
    run(
        &mut second,
        &[&format!("COMMIT PREPARED 'trunkline:{id}:1:s1'")],
    );
    assert_eq!(client.simple(EVERYTHING).rows.len(), 2);
    assert_eq!(client.simple(gathered).rows.len(), 4);
    // Whichever shard is asked first: its snapshot is that of the others.
    for key in &cluster.keys {
        let first_asked = format!("SELECT v FROM kv WHERE k = {key}");
        run(
            &mut client,
            &["BEGIN ISOLATION LEVEL REPEATABLE READ", &first_asked],
        );
        let connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
        let mut shards = cluster.sharded.shards();
        let in_transaction = shards
            .iter_mut()
            .map(|shard| first(&shard.simple(connections)));
        assert_eq!(in_transaction.collect::<Vec<_>>(), ["1"; 4]);
        run(&mut client, &["COMMIT"]);
    }
    run(
        &mut client,
        &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SET LOCAL work_mem = '5MB'",
            &one,
        ],
    );
    let mut other = cluster.sharded.client();
    run(&mut other, &["UPDATE kv SET v = 'later'"]);
    assert_eq!(
        client.simple(EVERYTHING).rows.len(),
        2,
        "one snapshot of all shards"
    );
    assert_eq!(client.simple(gathered).rows.len(), 4);
    assert_eq!(
        first(&client.simple("SELECT DISTINCT current_setting('work_mem') FROM kv")),
        "5MB"
    );
    run(&mut client, &["COMMIT"]);
    assert_eq!(client.simple(EVERYTHING).rows.len(), 0);
    run(&mut client, &["RESET trunkline.read_consistency"]);
    assert_eq!(
        first(&client.simple("SHOW trunkline.read_consistency")),
        "off"
    );
    assert_eq!(
        fails(&mut client, "SET trunkline.read_consistency = 'always'"),
        "22023"
    );
}

struct SetAtEnd<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn atomic_reads_beside_commits_see_sums_that_do_not_change() {
    let cluster = Cluster::start("two_phase_sums");
    let mut client = cluster.sharded.client();
    run(&mut client, &["UPDATE kv SET other = 100 WHERE k < 32"]);
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    let (torn, read, committed) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (cluster, is_done) = (&cluster, &is_done);
                scope.spawn(move || {
                    let mut client = cluster.sharded.client();
                    let mut committed = 0;
                    let add = |shard: usize, amount: i32| {
                        let key = cluster.keys[shard];
                        format!("UPDATE kv SET other = other + {amount} WHERE k = {key}")
                    };
                    while !is_done() {
                        // In one order, so that they wait for each other and for nothing else.
                        let (from, to) = (writer, writer + 1);
                        run(
                            &mut client,
                            &["BEGIN", &add(from, -1), &add(to, 1), "COMMIT"],
                        );
                        committed += 1;
                    }
                    committed
                })
            })
            .collect();
        run(&mut client, &["SET trunkline.read_consistency = 'atomic'"]);
        // Also when an assertion fails.
        let end = SetAtEnd(&done);
        let (mut torn, mut read) = (0, 0);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < deadline || read < 20 {
            let sum = client.simple("SELECT sum(other) FROM kv");
            if sum
                .error
                .as_ref()
                .is_some_and(|error| error.sqlstate() == "40001")
            {
                torn += 1;
                continue;
            }
            assert_eq!(first(&sum), "3200");
            read += 1;
        }
        drop(end);
        let committed: i32 = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum();
        (torn, read, committed)
    });
    println!("{read} reads, {torn} given up, {committed} commits");
    assert!(committed > 0);
}
