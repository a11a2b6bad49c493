//! Results over several shards that a client takes in portions: the same messages to one server and through Trunkline give the same answers.

use crate::raw::Raw;
use crate::servers::servers;
use crate::sharded::Sharded;
use crate::wire_client::{
    Step, Wire, ask, ask_for, bind, close, describe, execute, flush, parse, query, run, sync,
    tagged,
};

const SCHEMA: &str = "CREATE TABLE kv (k int PRIMARY KEY, v text COLLATE \"C\", n int);
    CREATE TABLE wide (k int PRIMARY KEY, v text);
    CREATE TABLE colours (colour text PRIMARY KEY, rank int)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"wide\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"colours\"\nplacement = \"reference\"\n";

/// Forty rows on both sides.
pub fn start(name: &str) -> Sharded {
    start_in(name, "")
}

/// The same with this of the pool.
pub fn start_in(name: &str, pool: &str) -> Sharded {
    let tables = format!("{TABLES}[pool]\n{pool}");
    let sharded = Sharded::start(name, SCHEMA, &tables);
    let rows: Vec<String> = (0..40)
        .map(|k| format!("({k}, 'v{:02}', {})", k * 7 % 40, k % 5))
        .collect();
    let sql = format!("INSERT INTO kv VALUES {}", rows.join(", "));
    for mut client in [sharded.plain(), sharded.client()] {
        crate::sharded::succeeded(&sql, &client.simple(&sql));
    }
    sharded
}

pub struct Both {
    pub plain: Wire,
    pub through: Wire,
    said: Vec<String>,
}

impl Both {
    pub fn new(sharded: &Sharded) -> Both {
        let connect = |port: u16| {
            let parameters = [("user", "app"), ("database", &*sharded.database)];
            Wire::log_in(([127, 0, 0, 1], port).into(), &parameters, "").unwrap()
        };
        Both {
            plain: connect(servers().plain.port()),
            through: connect(sharded.port),
            said: Vec::new(),
        }
    }

    /// Both give the same answer, which is given.
    #[track_caller]
    pub fn same(&mut self, step: &Step) -> String {
        let expected = self.plain.step(step);
        let got = self.through.step(step);
        assert_eq!(
            got,
            expected,
            "Trunkline (left) and Postgres (right) after\n{}",
            self.said.join("\n")
        );
        self.said.push(expected.clone());
        expected
    }

    #[track_caller]
    pub fn script(&mut self, steps: &[Step]) {
        for step in steps {
            self.same(step);
        }
    }
}

pub const SORTED: &str = "SELECT k, v FROM kv ORDER BY v";
pub const SUMS: &str = "SELECT n, count(*), sum(k) FROM kv GROUP BY n ORDER BY n";
/// The proxy does not know the order of this one's rows, so they are gathered.
pub const GATHERED: &str = "SELECT a.k, b.k FROM kv a JOIN kv b ON b.k = a.n ORDER BY a.k";

/// Bind with values as text and these formats of the result.
pub fn bind_for(
    portal: &str,
    statement: &str,
    values: &[Option<&str>],
    results: &[u16],
) -> Vec<u8> {
    let mut body = bind(portal, statement, values)[5..].to_vec();
    // In place of none.
    body.truncate(body.len() - 2);
    body.extend(u16::try_from(results.len()).unwrap().to_be_bytes());
    body.extend(results.iter().flat_map(|format| format.to_be_bytes()));
    tagged(b'B', &body)
}

/// The portals that servers have open for the session's transactions.
pub fn portals_on_shards(sharded: &Sharded, through: &mut Wire) -> usize {
    let shards = sharded.config.shards.len();
    (1..=shards)
        .map(|shard| {
            let sql =
                format!("/* trunkline: shard=s{shard} */ SELECT count(*) FROM pg_cursors WHERE name LIKE 'trunkline%'");
            through.value(&sql).parse::<usize>().unwrap()
        })
        .sum()
}

#[test]
fn portions_in_a_block() {
    let sharded = start("portals_block");
    for sql in [SORTED, SUMS, GATHERED] {
        let mut both = Both::new(&sharded);
        both.script(&[
            ask(&[query("BEGIN")]),
            ask(&[parse("s", sql, &[]), describe(b'S', "s"), sync()]),
            ask(&[bind("p", "s", &[]), execute("p", 3), sync()]),
            ask(&[query("SELECT v FROM kv WHERE k = 11")]),
            ask(&[execute("p", 1), execute("p", 2), sync()]),
            ask(&[query("SELECT count(*), sum(n) FROM kv")]),
            ask(&[execute("p", 0), sync()]),
            ask(&[execute("p", 0), sync()]),
            ask(&[execute("p", 4), close(b'P', "p"), sync()]),
            ask(&[execute("p", 4), sync()]),
            ask(&[query("ROLLBACK")]),
        ]);
    }
}

#[test]
fn several_portals_at_the_same_time() {
    let sharded = start("portals_several");
    let mut both = Both::new(&sharded);
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[
            parse("a", SORTED, &[]),
            parse("b", GATHERED, &[]),
            parse("c", SUMS, &[]),
            bind("pa", "a", &[]),
            bind("pb", "b", &[]),
            bind("pc", "c", &[]),
            execute("pa", 5),
            execute("pb", 5),
            execute("pc", 2),
            sync(),
        ]),
        ask(&[
            execute("pb", 3),
            execute("pa", 30),
            execute("pc", 1),
            sync(),
        ]),
        // Another result under the same name.
        ask(&[bind("pd", "b", &[]), execute("pd", 1), sync()]),
        ask(&[
            close(b'P', "pb"),
            execute("pa", 1),
            execute("pd", 2),
            sync(),
        ]),
        ask(&[execute("pa", 0), execute("pd", 0), execute("pc", 0), sync()]),
        ask(&[query("COMMIT")]),
        ask(&[execute("pa", 1), sync()]),
    ]);
}

#[test]
fn a_portal_shows_the_rows_of_its_beginning() {
    let sharded = start("portals_snapshot");
    for sql in [SORTED, GATHERED] {
        let mut both = Both::new(&sharded);
        both.script(&[
            ask(&[query("BEGIN")]),
            ask(&[
                parse("s", sql, &[]),
                bind("p", "s", &[]),
                execute("p", 2),
                sync(),
            ]),
            ask(&[query("UPDATE kv SET v = 'changed'")]),
            ask(&[query("DELETE FROM kv WHERE k > 20")]),
            ask(&[execute("p", 0), sync()]),
            ask(&[query("SELECT count(*), min(v) FROM kv")]),
            ask(&[query("ROLLBACK")]),
        ]);
    }
}

#[test]
fn portions_in_one_unit_of_work() {
    let sharded = start("portals_unit");
    for sql in [SORTED, SUMS, GATHERED] {
        let mut both = Both::new(&sharded);
        both.script(&[
            ask_for(
                &[
                    parse("", sql, &[]),
                    bind("", "", &[]),
                    execute("", 2),
                    flush(),
                ],
                5,
            ),
            ask_for(&[execute("", 1), flush()], 2),
            ask(&[execute("", 0), sync()]),
            ask(&[execute("", 1), sync()]),
            // As drivers do that want a few rows at most.
            ask(&[
                parse("", sql, &[]),
                bind("", "", &[]),
                describe(b'P', ""),
                execute("", 4),
                sync(),
            ]),
            ask(&[query("SELECT count(*) FROM kv")]),
            ask(&[run(sql, &[]), sync()]),
        ]);
    }
}

#[test]
fn values_formats_and_limits() {
    let sharded = start("portals_values");
    let mut both = Both::new(&sharded);
    let sql = "SELECT k, n FROM kv WHERE n >= $1 AND k < $2 ORDER BY n DESC, k LIMIT 12 OFFSET 3";
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[parse("s", sql, &[23, 23]), sync()]),
        ask(&[
            bind_for("p", "s", &[Some("1"), Some("35")], &[1]),
            describe(b'P', "p"),
            execute("p", 5),
            sync(),
        ]),
        ask(&[
            bind_for("q", "s", &[Some("0"), Some("9")], &[0, 1]),
            execute("q", 5),
            execute("p", 5),
            sync(),
        ]),
        ask(&[execute("q", 5), execute("p", 5), execute("p", 5), sync()]),
        // No rows at all, and exactly as many as there are.
        ask(&[
            bind("r", "s", &[Some("9"), Some("9")]),
            execute("r", 5),
            sync(),
        ]),
        ask(&[
            bind("t", "s", &[Some("1"), Some("35")]),
            execute("t", 12),
            execute("t", 1),
            sync(),
        ]),
        ask(&[query("COMMIT")]),
    ]);
}

#[test]
fn what_changes_returns_its_rows_in_portions() {
    let sharded = start("portals_changes");
    let mut both = Both::new(&sharded);
    both.script(&[
        // As JDBC's executeUpdate asks.
        ask(&[parse("", "UPDATE kv SET n = n + 1", &[]), bind("", "", &[]), describe(b'P', ""), execute("", 1), sync()]),
        ask(&[query("BEGIN")]),
        ask(&[
            parse("", "INSERT INTO kv VALUES (100, 'a', 1), (101, 'b', 1), (102, 'c', 1), (103, 'd', 1), (104, 'e', 1) RETURNING k, v", &[]),
            bind("p", "", &[]),
            execute("p", 2),
            execute("p", 2),
            sync(),
        ]),
        ask(&[query("SELECT count(*) FROM kv")]),
        ask(&[execute("p", 2), sync()]),
        ask(&[parse("", "DELETE FROM kv WHERE k >= 100", &[]), bind("", "", &[]), execute("", 1), sync()]),
        ask(&[parse("", "INSERT INTO colours VALUES ('red', 1) RETURNING rank", &[]), bind("", "", &[]), execute("", 1), execute("", 1), sync()]),
        ask(&[query("COMMIT")]),
        ask(&[query("SELECT sum(n), count(*) FROM kv")]),
        // Not twice.
        ask(&[parse("", "UPDATE kv SET n = n + 1", &[]), bind("", "", &[]), execute("", 0), execute("", 0), sync()]),
        ask(&[query("SELECT sum(n), count(*) FROM kv")]),
    ]);
}

#[test]
fn portals_end_with_their_savepoint() {
    let sharded = start("portals_savepoints");
    let mut both = Both::new(&sharded);
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[
            parse("s", SORTED, &[]),
            bind("before", "s", &[]),
            execute("before", 2),
            sync(),
        ]),
        ask(&[query("SAVEPOINT a")]),
        ask(&[bind("in", "s", &[]), execute("in", 2), sync()]),
        ask(&[query("SAVEPOINT b")]),
        ask(&[bind("released", "s", &[]), execute("released", 1), sync()]),
        ask(&[query("RELEASE b")]),
        ask(&[
            execute("released", 1),
            execute("before", 1),
            execute("in", 1),
            sync(),
        ]),
        ask(&[query("ROLLBACK TO a")]),
        ask(&[execute("before", 1), sync()]),
        ask(&[execute("in", 1), sync()]),
        ask(&[query("ROLLBACK TO a")]),
        ask(&[execute("released", 1), sync()]),
        ask(&[query("ROLLBACK TO a")]),
        ask(&[execute("before", 0), sync()]),
        ask(&[query("COMMIT")]),
    ]);
}

#[test]
fn errors_in_the_middle() {
    let sharded = start("portals_errors");
    let mut both = Both::new(&sharded);
    let sql = "SELECT k, 1 / (k - 39) FROM kv ORDER BY k";
    both.same(&ask(&[query("BEGIN")]));
    // How many rows come before it is up to the servers.
    let failed = [
        parse("s", sql, &[]),
        bind("p", "s", &[]),
        execute("p", 50),
        sync(),
    ];
    for side in [&mut both.plain, &mut both.through] {
        let said = side.ask(&failed);
        assert!(
            said.ends_with("E(ERROR 22012 division by zero) Z(E)"),
            "{said}"
        );
    }
    both.script(&[ask(&[execute("p", 1), sync()]), ask(&[query("ROLLBACK")])]);
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[
            parse("t", "SELECT nothing FROM kv", &[]),
            bind("p", "t", &[]),
            execute("p", 1),
            sync(),
        ]),
        ask(&[query("ROLLBACK")]),
        ask(&[query("SELECT count(*) FROM kv")]),
    ]);
}

#[test]
fn servers_keep_nothing_of_what_is_closed() {
    let sharded = start("portals_closed");
    let mut both = Both::new(&sharded);
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[
            parse("s", SORTED, &[]),
            parse("g", GATHERED, &[]),
            bind("p", "s", &[]),
            bind("g", "g", &[]),
            bind("", "s", &[]),
            execute("p", 1),
            execute("g", 1),
            execute("", 1),
            sync(),
        ]),
    ]);
    assert_eq!(
        portals_on_shards(&sharded, &mut both.through),
        4 + 1,
        "a query has closed the unnamed one"
    );
    both.script(&[
        ask(&[close(b'P', "p"), sync()]),
        ask(&[bind("", "s", &[]), execute("", 1), sync()]),
        ask(&[bind("", "s", &[]), sync()]),
    ]);
    assert_eq!(portals_on_shards(&sharded, &mut both.through), 1);
    both.script(&[ask(&[execute("g", 0), sync()])]);
    assert_eq!(portals_on_shards(&sharded, &mut both.through), 0);
    both.script(&[
        ask(&[bind("p", "s", &[]), execute("p", 1), sync()]),
        ask(&[query("ROLLBACK")]),
        ask(&[query("SELECT count(*) FROM kv")]),
    ]);
    for shard in &mut sharded.shards() {
        let answer = shard.simple("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'");
        assert_eq!(answer.rows[0][0].as_deref(), Some(&b"0"[..]));
    }
}

#[test]
fn shards_wait_while_a_portal_is_suspended() {
    let sharded = start("portals_bounded");
    // 200 MB, which nobody keeps.
    let fill = "INSERT INTO wide SELECT g, repeat('x', 100000) FROM generate_series(1, 500) g";
    for shard in &mut sharded.shards() {
        crate::sharded::succeeded(fill, &shard.simple(fill));
    }
    let mut through = Both::new(&sharded).through;
    let first = through.ask(&[
        query("BEGIN"),
        parse("s", "SELECT k, v FROM wide ORDER BY k", &[]),
        bind("p", "s", &[]),
        execute("p", 2),
        sync(),
    ]);
    assert!(first.ends_with("s Z(T)"), "{}", &first[first.len() - 40..]);
    for _ in 0..50 {
        through.ask(&[execute("p", 5), sync()]);
    }
    assert_eq!(
        through.query("SELECT count(*) FROM kv"),
        "T(count:20) D(40) C(SELECT 1) Z(T)"
    );
    assert_eq!(through.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
}

#[test]
fn what_cannot_be_taken_in_portions_is_refused() {
    let sharded = start("portals_refused");
    let mut through = sharded.client();
    let refused = |client: &mut Raw, sql: &str| {
        let answer = client.portions(sql, &[], crate::raw::Format::Text, 1);
        assert_eq!(
            answer.refusal(),
            Some("row_limit"),
            "{sql}: {}",
            answer.shown()
        );
    };
    refused(&mut through, &format!("EXPLAIN {SORTED}"));
    through.simple("BEGIN READ ONLY");
    refused(&mut through, GATHERED);
    through.simple("ROLLBACK");
    through.simple("BEGIN READ ONLY");
    let answer = through.portions(SORTED, &[], crate::raw::Format::Text, 7);
    assert_eq!(answer.rows.len(), 40, "{}", answer.shown());
}
