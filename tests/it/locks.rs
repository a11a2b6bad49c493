//! LOCK TABLE of tables that several shards have, and the dump that needs it.

use std::process::Command;

use crate::portals::{Both, start};
use crate::servers::servers;
use crate::sharded::{Sharded, succeeded};
use crate::wire_client::{ask, bind, execute, parse, query, run, sync};

fn simple(both: &mut Both, statements: &[&str]) {
    for sql in statements {
        both.same(&ask(&[query(sql)]));
    }
}

#[test]
fn as_on_one_server() {
    let sharded = start("locks_same");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "LOCK TABLE kv",
            "BEGIN",
            "LOCK TABLE kv",
            "LOCK kv, wide, ONLY colours IN SHARE ROW EXCLUSIVE MODE NOWAIT",
            "SELECT count(*) FROM kv",
            "COMMIT",
            "BEGIN",
            "LOCK TABLE kv, nothing_of_this_name",
            "ROLLBACK",
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            "LOCK TABLE public.kv, public.wide IN ACCESS SHARE MODE",
            "SELECT count(*) FROM kv",
            "LOCK TABLE kv",
            "ROLLBACK",
            "BEGIN",
            "UPDATE kv SET n = 0 WHERE k = 1",
            "LOCK TABLE kv IN EXCLUSIVE MODE",
            "UPDATE kv SET n = 0 WHERE k = 2",
            "COMMIT",
            "SELECT count(*) FROM kv WHERE n = 0",
        ],
    );
    both.script(&[
        ask(&[run("LOCK TABLE kv", &[]), sync()]),
        ask(&[query("BEGIN")]),
        ask(&[run("LOCK TABLE kv IN SHARE MODE", &[]), sync()]),
        ask(&[query("COMMIT")]),
    ]);
}

#[test]
fn rows_are_locked_as_on_one_server() {
    let sharded = start("locks_rows");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "SELECT k, v FROM kv WHERE n = 2 ORDER BY v FOR UPDATE",
            "BEGIN",
            "SELECT k, v FROM kv WHERE n = 2 ORDER BY v DESC FOR NO KEY UPDATE",
            "SELECT v FROM kv WHERE n < 2 ORDER BY n, k FOR SHARE OF kv NOWAIT",
            "SELECT k FROM kv WHERE k = 7 FOR UPDATE",
            "ROLLBACK",
            "BEGIN",
            "SELECT 1 FROM kv LIMIT 21 FOR UPDATE",
            "SELECT 1 FROM kv WHERE n = 3 LIMIT 21 FOR UPDATE SKIP LOCKED",
            "SELECT 1 FROM kv LIMIT 0 FOR UPDATE",
            "SELECT 1 FROM kv LIMIT NULL OFFSET 38 FOR UPDATE",
            "ROLLBACK",
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT k FROM kv WHERE n = 1 ORDER BY k FOR UPDATE",
            "FETCH 2 FROM c",
            "FETCH ALL FROM c",
            "COMMIT",
        ],
    );
    let limited = "SELECT 1 FROM kv WHERE n = $1 LIMIT $2 FOR UPDATE";
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[run(limited, &[Some("3"), Some("5")]), sync()]),
        ask(&[
            parse(
                "",
                "SELECT k FROM kv WHERE n = 4 ORDER BY k FOR UPDATE",
                &[],
            ),
            bind("", "", &[]),
            execute("", 3),
            execute("", 0),
            sync(),
        ]),
        ask(&[query("ROLLBACK")]),
        ask(&[run(limited, &[Some("3"), Some("5")]), sync()]),
    ]);
}

/// The keys that nobody has locked.
fn unlocked(sharded: &Sharded) -> Vec<usize> {
    let free = |mut shard: crate::raw::Raw| {
        let found = shard.simple("SELECT k FROM kv FOR UPDATE SKIP LOCKED");
        found.rows.len()
    };
    sharded.shards().into_iter().map(free).collect()
}

#[test]
fn no_row_is_locked_that_is_not_shown() {
    let sharded = start("locks_shown");
    let all = unlocked(&sharded);
    assert_eq!(all.iter().sum::<usize>(), 40);
    let lock = |client: &mut crate::raw::Raw, sql: &str| {
        let said = client.simple(sql);
        succeeded(sql, &said);
        said.lines()
    };
    let mut first = sharded.client();
    let mut second = sharded.client();
    for client in [&mut first, &mut second] {
        succeeded("BEGIN", &client.simple("BEGIN"));
    }
    let queue = "SELECT k FROM kv LIMIT 3 FOR UPDATE SKIP LOCKED";
    let (one, other) = (lock(&mut first, queue), lock(&mut second, queue));
    assert_eq!((one.len(), other.len()), (3, 3));
    assert!(
        one.iter().all(|key| !other.contains(key)),
        "{one:?} {other:?}"
    );
    assert_eq!(unlocked(&sharded).iter().sum::<usize>(), 34);
    let rest = lock(
        &mut first,
        "SELECT k FROM kv OFFSET 2 LIMIT 40 FOR UPDATE SKIP LOCKED",
    );
    assert_eq!(rest.len(), 35, "of 37 which are its own or nobody's");
    assert_eq!(unlocked(&sharded).iter().sum::<usize>(), 0);
    for client in [&mut first, &mut second] {
        succeeded("ROLLBACK", &client.simple("ROLLBACK"));
    }

    // Who waits for a row of the first shard has locked none of another.
    let mut holder = sharded.shards().remove(0);
    succeeded("BEGIN", &holder.simple("BEGIN"));
    succeeded("LOCK", &holder.simple("SELECT k FROM kv FOR UPDATE"));
    succeeded("BEGIN", &first.simple("BEGIN"));
    succeeded("SET", &first.simple("SET LOCAL lock_timeout = '300ms'"));
    let waiting = std::thread::spawn(move || {
        let said = first.simple("SELECT k FROM kv ORDER BY k FOR UPDATE");
        (said.error.expect("it waits").sqlstate().to_owned(), first)
    });
    while !waiting.is_finished() {
        assert_eq!(unlocked(&sharded)[1..], all[1..]);
    }
    assert_eq!(waiting.join().unwrap().0, "55P03");
}

#[test]
fn every_shard_has_the_lock() {
    let sharded = start("locks_held");
    let mut client = sharded.client();
    succeeded("BEGIN", &client.simple("BEGIN"));
    let lock = "LOCK TABLE kv IN ACCESS EXCLUSIVE MODE";
    succeeded(lock, &client.simple(lock));
    let busy = "LOCK TABLE kv IN ACCESS SHARE MODE NOWAIT";
    for mut shard in sharded.shards() {
        succeeded("BEGIN", &shard.simple("BEGIN"));
        let said = shard.simple(busy);
        let error = said.error.expect("the lock is somebody else's");
        assert_eq!(error.sqlstate(), "55P03");
    }
    succeeded("COMMIT", &client.simple("COMMIT"));
    for mut shard in sharded.shards() {
        succeeded("BEGIN", &shard.simple("BEGIN"));
        succeeded(busy, &shard.simple(busy));
    }
}

const EVERYTHING: &str =
    "CREATE TABLE kv (k int PRIMARY KEY, v text, n numeric, at timestamptz DEFAULT now());
    CREATE INDEX kv_v ON kv (v);
    CREATE TABLE parts (k int REFERENCES kv, part int, data bytea, PRIMARY KEY (k, part));
    CREATE TABLE colours (colour text PRIMARY KEY, rank int);
    CREATE TABLE \"Alone\" (a int, b text[]);
    CREATE VIEW ranked AS SELECT * FROM colours ORDER BY rank;
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"parts\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"colours\"\nplacement = \"reference\"\n";

fn program(name: &str, arguments: &[&str], options: &str) -> Vec<u8> {
    let mut command = Command::new(name);
    command.args(arguments).env("PGOPTIONS", options);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name} {arguments:?}: {said}");
    done.stdout
}

#[test]
fn a_dump_has_all_rows_and_can_be_restored() {
    let sharded = Sharded::start("locks_dump", EVERYTHING, TABLES);
    let mut client = sharded.client();
    let rows: Vec<String> = (0..300).map(|k| format!("({k}, 'v{k}', {k}.50)")).collect();
    for sql in [
        &*format!("INSERT INTO kv (k, v, n) VALUES {}", rows.join(", ")),
        "INSERT INTO parts SELECT k, 1, decode('00ff', 'hex') FROM kv",
        "INSERT INTO colours VALUES ('red', 1), ('blue', 2)",
        "INSERT INTO \"Alone\" VALUES (1, '{a,b}'), (2, NULL)",
    ] {
        succeeded(sql, &client.simple(sql));
    }
    let port = sharded.port.to_string();
    for (form, consistency) in [
        (&[][..], "off"),
        (&["--inserts", "--rows-per-insert=50"], "atomic"),
    ] {
        let database = format!("locks_restored_{}", form.len());
        // Each shard has its own of what Trunkline keeps there.
        let through = [
            "-N",
            "trunkline",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "app",
            "locks_dump",
        ];
        let consistency = format!("-c trunkline.read_consistency={consistency}");
        let dump = program("pg_dump", &[form, &through[..]].concat(), &consistency);
        let file = std::env::temp_dir().join(format!("{database}-{port}.sql"));
        std::fs::write(&file, dump).unwrap();
        let plain = &servers().plain;
        let create = format!("CREATE DATABASE {database} OWNER app");
        plain.run_sql("postgres", &create).unwrap();
        let to = plain.port().to_string();
        let restore = ["-h", "127.0.0.1", "-p", &to, "-U", "app", "-d", &database];
        let options = ["-X", "-v", "ON_ERROR_STOP=1", "-f", file.to_str().unwrap()];
        program("psql", &[&restore[..], &options].concat(), "");
        let mut restored = crate::raw::Raw::connect(plain.port(), "app", &database);
        for sql in [
            "SELECT * FROM kv ORDER BY k",
            "SELECT * FROM parts ORDER BY k",
            "SELECT * FROM ranked",
            "SELECT * FROM \"Alone\" ORDER BY a",
            "SELECT twice(21)",
        ] {
            let (got, expected) = (restored.simple(sql), client.simple(sql));
            assert_eq!(got.rows, expected.rows, "{sql}");
            assert!(!got.rows.is_empty());
        }
        let indexes = restored.simple("SELECT indexdef FROM pg_indexes WHERE tablename = 'kv'");
        assert_eq!(indexes.rows.len(), 2);
        std::fs::remove_file(file).unwrap();
    }
}

/// What the documents say of the moment that a dump shows: under `atomic` it is one.
#[test]
fn snapshots_of_a_dump() {
    let sharded = start("locks_snapshots");
    let (mut dumping, mut writing) = (sharded.client(), sharded.client());
    for sql in [
        "SET trunkline.read_consistency = 'atomic'",
        "BEGIN",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "LOCK TABLE public.kv, public.wide IN ACCESS SHARE MODE",
        "SELECT v FROM kv WHERE k = 1",
    ] {
        succeeded(sql, &dumping.simple(sql));
    }
    for sql in [
        "UPDATE kv SET n = 1000 WHERE k IN (1, 2, 3, 4, 5, 6)",
        "INSERT INTO wide SELECT k, v FROM kv",
    ] {
        succeeded(sql, &writing.simple(sql));
    }
    let sums = "SELECT count(*) FILTER (WHERE n = 1000), (SELECT count(*) FROM wide) FROM kv";
    let seen = |client: &mut crate::raw::Raw| client.simple(sums).lines().join(" ");
    assert_eq!(seen(&mut writing), "6 40");
    for sql in ["SELECT k FROM kv WHERE n = 1000", "SELECT * FROM wide"] {
        let said = dumping.simple(sql);
        succeeded(sql, &said);
        assert!(said.rows.is_empty(), "{sql}: {:?}", said.rows.len());
    }
    succeeded("COMMIT", &dumping.simple("COMMIT"));
    assert_eq!(seen(&mut dumping), "6 40");
}
