//! Statements that change rows or definitions on several shards: the same answers and the same rows as on one Postgres.

use crate::raw::{Answer, Format, Parameter, Raw};
use crate::sharded::{Sharded, succeeded};

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE TABLE kv (k int PRIMARY KEY, v text, m mood);
    CREATE TABLE countries (code text PRIMARY KEY, name text);
    CREATE TABLE stamped (id int PRIMARY KEY, at timestamptz DEFAULT now(), day date);
    CREATE TABLE numbered (id serial PRIMARY KEY, name text)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"made\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"countries\"\nplacement = \"reference\"\n\
    [[tables]]\nname = \"stamped\"\nplacement = \"reference\"\n\
    [[tables]]\nname = \"numbered\"\nplacement = \"reference\"\n\
    [[tables]]\nname = \"made_reference\"\nplacement = \"reference\"\n";

fn start(database: &str) -> Sharded {
    Sharded::start(database, SCHEMA, TABLES)
}

/// A client of the proxy and one of a server that has all rows; both are told the same.
struct Both {
    proxy: Raw,
    plain: Raw,
}

/// Whether rows come in an order that the statement gives.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Given,
    Any,
}

impl Both {
    fn new(sharded: &Sharded) -> Both {
        Both {
            proxy: sharded.client(),
            plain: sharded.plain(),
        }
    }

    /// The same answer from both.
    fn simple(&mut self, sql: &str, order: Order) -> Answer {
        let (proxy, plain) = (self.proxy.simple(sql), self.plain.simple(sql));
        same(sql, &proxy, &plain, order);
        proxy
    }

    fn extended(&mut self, sql: &str, parameters: &[Parameter], format: Format, order: Order) {
        let proxy = self.proxy.extended(sql, parameters, format);
        let plain = self.plain.extended(sql, parameters, format);
        same(sql, &proxy, &plain, order);
    }

    fn run(&mut self, statements: &[&str]) {
        for sql in statements {
            self.simple(sql, Order::Any);
        }
    }

    /// The whole table is the same on both sides.
    fn same_rows(&mut self, table: &str, sharded: &Sharded) {
        let sql = format!("SELECT * FROM {table}");
        let plain = self.plain.simple(&sql).sorted().rows;
        let shards = sharded.shards().into_iter();
        let mut rows: Vec<_> = shards
            .flat_map(|mut shard| shard.simple(&sql).rows)
            .collect();
        rows.sort_unstable();
        assert_eq!(rows, plain, "{table}");
    }

    /// Every shard has the rows of the table that the plain server has.
    fn same_copies(&mut self, table: &str, sharded: &Sharded) {
        let sql = format!("SELECT * FROM {table}");
        let plain = self.plain.simple(&sql).sorted();
        for mut shard in sharded.shards() {
            let copy = shard.simple(&sql).sorted();
            assert_eq!(copy.rows, plain.rows, "{table}");
        }
    }
}

fn same(sql: &str, proxy: &Answer, plain: &Answer, order: Order) {
    let rows = |answer: &Answer| match order {
        Order::Given => answer.rows.clone(),
        Order::Any => answer.clone().sorted().rows,
    };
    let error = |answer: &Answer| answer.error.as_ref().map(|e| e.sqlstate().to_owned());
    let types = |answer: &Answer| {
        let names = answer.columns.iter().flatten();
        // The numbers of types that were made by users differ between servers.
        names
            .map(|(name, oid, _, format)| (name.clone(), (*oid).min(16_384), *format))
            .collect::<Vec<_>>()
    };
    let shown = || {
        format!(
            "{sql}\n  proxy {}\n  plain {}",
            proxy.shown(),
            plain.shown()
        )
    };
    assert_eq!(error(proxy), error(plain), "{}", shown());
    assert_eq!(rows(proxy), rows(plain), "{}", shown());
    assert_eq!(proxy.tags, plain.tags, "{}", shown());
    assert_eq!(types(proxy), types(plain), "{}", shown());
    assert_eq!(proxy.status, plain.status, "{}", shown());
}

fn text(value: &str) -> Parameter {
    Parameter {
        oid: 0,
        format: Format::Text,
        value: Some(value.as_bytes().to_vec()),
    }
}

fn integer(value: i32) -> Parameter {
    Parameter {
        oid: 23,
        format: Format::Binary,
        value: Some(value.to_be_bytes().to_vec()),
    }
}

/// A stored key for each shard, in order.
fn keys(sharded: &Sharded) -> Vec<i32> {
    let mut shards = sharded.shards();
    let first = |shard: &mut Raw| {
        let answer = shard.simple("SELECT min(k) FROM kv");
        let value = answer.rows[0][0].clone().expect("there is one");
        String::from_utf8(value).unwrap().parse().unwrap()
    };
    shards.iter_mut().map(first).collect()
}

fn many_rows(from: i32, to: i32) -> String {
    let rows: Vec<String> = (from..to).map(|k| format!("({k}, 'v{k}')")).collect();
    format!("INSERT INTO kv (k, v) VALUES {}", rows.join(", "))
}

#[test]
fn rows_of_an_insert_go_to_their_shards() {
    let sharded = start("writes_rows");
    let mut both = Both::new(&sharded);
    both.run(&[&many_rows(0, 100)]);
    both.same_rows("kv", &sharded);
    for mut shard in sharded.shards() {
        let held = shard.simple("SELECT count(*) FROM kv").rows[0][0].clone();
        assert_ne!(held, Some(b"0".to_vec()), "every shard has some");
    }
    both.simple(
        "INSERT INTO kv (v, k) VALUES ('x', 203), ('y', 201), ('z', 202), ('ä ''(),', 204) RETURNING k, v, upper(v) AS u",
        Order::Given,
    );
    let insert =
        "INSERT INTO kv (k, v, m) VALUES ($1, $2, $3), ($4, $5, $6), (303, $7, 'calm') RETURNING *";
    let parameters = [
        integer(301),
        text("one"),
        text("wild"),
        integer(302),
        text("two"),
        Parameter {
            oid: 0,
            format: Format::Text,
            value: None,
        },
        text("three"),
    ];
    for format in [Format::Text, Format::Binary] {
        both.extended(insert, &parameters, format, Order::Given);
        both.run(&["DELETE FROM kv WHERE k IN (301, 302, 303)"]);
    }
    // Values that no row of some shard has.
    let parameters: Vec<Parameter> = (0..12)
        .flat_map(|k| [text(&(400 + k).to_string()), text("wild")])
        .collect();
    let rows: Vec<String> = (0..12)
        .map(|row| format!("(${}, ${})", 2 * row + 1, 2 * row + 2))
        .collect();
    let insert = format!(
        "INSERT INTO kv (k, m) VALUES {} RETURNING k",
        rows.join(",")
    );
    both.extended(&insert, &parameters, Format::Binary, Order::Given);
    both.same_rows("kv", &sharded);
}

#[test]
fn conflicts_are_those_of_each_row() {
    let sharded = start("writes_conflicts");
    let mut both = Both::new(&sharded);
    both.run(&[&many_rows(0, 20)]);
    both.simple(
        "INSERT INTO kv (k, v) VALUES (1, 'a'), (100, 'b'), (2, 'c'), (101, 'd'), (102, 'e') ON CONFLICT DO NOTHING RETURNING k",
        Order::Any,
    );
    both.simple(
        "INSERT INTO kv (k, v) VALUES (1, 'a'), (110, 'b'), (2, 'c'), (111, 'd') ON CONFLICT (k) DO UPDATE SET v = kv.v || excluded.v RETURNING k, v",
        Order::Given,
    );
    both.simple(
        "INSERT INTO kv (k, v) VALUES (1, 'a'), (3, 'b'), (5, 'c') ON CONFLICT (k) DO UPDATE SET v = 'z' WHERE kv.k > 2 RETURNING k, v",
        Order::Any,
    );
    both.same_rows("kv", &sharded);
    // The row that fails is on another shard than those before it.
    for key in keys(&sharded) {
        both.simple(
            &format!("INSERT INTO kv (k, v) VALUES (500, 'x'), (501, 'x'), (502, 'x'), (503, 'x'), (504, 'x'), ({key}, 'x')"),
            Order::Any,
        );
        both.simple(
            &format!("INSERT INTO kv (k, v) VALUES ({key}, 'x'), (500, 'x'), (501, 'x'), (502, 'x'), (503, 'x'), (504, 'x')"),
            Order::Any,
        );
        both.same_rows("kv", &sharded);
    }
    both.simple(
        "INSERT INTO kv (k, v, m) VALUES (600, 'x', 'calm'), (601, 'y', 'mad'), (602, 'y', 'calm')",
        Order::Any,
    );
    both.simple(
        "INSERT INTO kv (k, v) VALUES (600, 'x'), (601, 'y', 'z')",
        Order::Any,
    );
    both.same_rows("kv", &sharded);
}

#[test]
fn changes_without_a_key_change_the_rows_of_all_shards() {
    let sharded = start("writes_changes");
    let mut both = Both::new(&sharded);
    both.run(&[
        &many_rows(0, 60),
        "INSERT INTO countries VALUES ('v7', 'seven'), ('v8', 'eight')",
        "UPDATE kv SET v = v || '!' WHERE k > 50 RETURNING k, v",
        "UPDATE kv SET v = 'few' WHERE k IN (1, 2, 3, 4)",
        "UPDATE kv SET v = c.name FROM countries c WHERE c.code = kv.v RETURNING kv.k, c.name",
        "UPDATE kv SET v = n.v FROM (VALUES (20, 'a'), (21, 'b'), (22, 'c')) AS n (k, v) WHERE n.k = kv.k",
        "DELETE FROM kv WHERE v LIKE '%9' RETURNING *",
        "DELETE FROM kv WHERE k IN (SELECT 30 FROM countries)",
        "UPDATE kv SET v = 'none' WHERE k < 0",
    ]);
    both.same_rows("kv", &sharded);
    let update = "UPDATE kv SET v = $1, m = $2 WHERE k % $3 = 0 RETURNING m, k";
    for format in [Format::Text, Format::Binary] {
        let parameters = [text("third"), text("wild"), integer(3)];
        both.extended(update, &parameters, format, Order::Any);
    }
    let keys = Parameter {
        oid: 1007,
        format: Format::Text,
        value: Some(b"{10,11,12,13,14}".to_vec()),
    };
    both.extended(
        "DELETE FROM kv WHERE k = ANY ($1)",
        &[keys],
        Format::Text,
        Order::Any,
    );
    // The last shard's row is the one that cannot be.
    both.run(&["UPDATE kv SET v = 'x' WHERE 1 / (k - 40) > -100"]);
    both.same_rows("kv", &sharded);
    let refused = both
        .proxy
        .simple("DELETE FROM kv WHERE k IN (SELECT k FROM kv ORDER BY k LIMIT 3)");
    assert_eq!(refused.refusal(), Some("multi_shard_delete"));
}

#[test]
fn each_shard_merges_its_own_rows() {
    let sharded = start("writes_merges");
    let mut both = Both::new(&sharded);
    both.run(&[
        &many_rows(0, 60),
        "CREATE TABLE made (k int PRIMARY KEY, n int, v text)",
        "INSERT INTO made SELECT k, k % 7, v FROM kv WHERE k < 40",
        "INSERT INTO countries VALUES ('v7', 'seven'), ('v8', 'eight')",
        "MERGE INTO kv USING made m ON kv.k = m.k AND false WHEN MATCHED THEN DELETE",
        "MERGE INTO made m USING kv ON m.k = kv.k WHEN MATCHED AND n = 3 THEN DELETE WHEN MATCHED THEN UPDATE SET v = kv.v || m.n \
            WHEN NOT MATCHED THEN INSERT VALUES (kv.k, 100, kv.v)",
        "MERGE INTO kv USING countries c ON kv.v = c.code WHEN MATCHED THEN UPDATE SET v = c.name",
        "MERGE INTO kv USING (VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')) n (k, v) ON n.k = kv.k WHEN MATCHED THEN UPDATE SET v = n.v",
        "MERGE INTO kv USING (VALUES (300, 'a')) n (k, v) ON n.k = kv.k WHEN MATCHED THEN UPDATE SET v = n.v WHEN NOT MATCHED THEN INSERT (k, v) VALUES (n.k, n.v)",
        // Two rows of the source for one.
        "MERGE INTO made m USING (kv JOIN (VALUES (1), (2)) two (x) ON kv.k = 5) ON m.k = kv.k WHEN MATCHED THEN DELETE",
        "MERGE INTO made m USING kv ON m.k = kv.k WHEN MATCHED THEN UPDATE SET n = 1 / (kv.k - 50)",
    ]);
    for table in ["kv", "made"] {
        both.same_rows(table, &sharded);
    }
    let merge = "MERGE INTO made AS m USING (SELECT k, v FROM kv WHERE k % $1 = 0) AS s ON m.k = s.k AND m.n < $2 \
        WHEN MATCHED THEN UPDATE SET v = $3 WHEN NOT MATCHED AND s.k > $4 THEN INSERT VALUES (s.k, $2, s.v)";
    let parameters = [integer(3), integer(5), text("merged"), integer(1000)];
    for format in [Format::Text, Format::Binary] {
        both.extended(merge, &parameters, format, Order::Any);
    }
    both.run(&[
        "BEGIN",
        "MERGE INTO made USING kv ON made.k = kv.k WHEN MATCHED THEN DELETE",
        "SAVEPOINT a",
        "MERGE INTO made USING kv ON made.k = kv.k WHEN NOT MATCHED THEN INSERT (k) VALUES (k)",
        "ROLLBACK TO a",
        "MERGE INTO made USING kv ON made.k = kv.k AND made.n = 1 WHEN NOT MATCHED AND kv.k > 20 THEN INSERT (n, k) VALUES (7, kv.k)",
        "COMMIT",
    ]);
    both.same_rows("made", &sharded);
    both.run(&[
        "MERGE INTO countries c USING (VALUES ('v7', 'x'), ('v9', 'nine')) n (code, name) ON c.code = n.code \
            WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (n.code, n.name)",
    ]);
    both.same_copies("countries", &sharded);
    for sql in [
        "MERGE INTO made USING kv ON made.v = kv.v WHEN MATCHED THEN DELETE",
        "MERGE INTO made USING kv ON made.k = kv.k WHEN NOT MATCHED THEN INSERT (k) VALUES (kv.k + 1000)",
        "MERGE INTO made USING countries c ON made.v = c.code WHEN NOT MATCHED THEN INSERT (k) VALUES (7)",
    ] {
        let refused = both.proxy.simple(sql);
        assert_eq!(refused.refusal(), Some("merge"), "{sql}");
    }
    both.same_rows("made", &sharded);
}

#[test]
fn blocks_with_savepoints() {
    let sharded = start("writes_blocks");
    let mut both = Both::new(&sharded);
    both.run(&[
        &many_rows(0, 30),
        "BEGIN",
        "UPDATE kv SET v = 'in' WHERE k < 10",
        "SAVEPOINT a",
        "INSERT INTO kv (k, v) VALUES (100, 'x'), (101, 'x'), (102, 'x'), (103, 'x')",
        "ROLLBACK TO a",
        "INSERT INTO kv (k, v) VALUES (110, 'y'), (111, 'y'), (112, 'y'), (113, 'y') RETURNING k",
        "INSERT INTO kv (k, v) VALUES (120, 'y'), (121, 'y'), (111, 'y')",
        "SELECT 1",
        "ROLLBACK TO a",
        "UPDATE kv SET v = 'after' WHERE k > 20",
        "COMMIT",
    ]);
    both.same_rows("kv", &sharded);
    both.run(&["BEGIN", "DELETE FROM kv", "ROLLBACK"]);
    both.same_rows("kv", &sharded);
    both.run(&[
        "BEGIN",
        "DELETE FROM kv WHERE k > 5",
        "UPDATE kv SET nothing = 1",
        "SELECT 1",
        "COMMIT",
    ]);
    both.same_rows("kv", &sharded);
}

#[test]
fn copies_of_reference_tables_stay_equal() {
    let sharded = start("writes_copies");
    let mut both = Both::new(&sharded);
    both.run(&[
        "INSERT INTO countries VALUES ('DE', 'Germany'), ('FR', 'France'), ('US', 'States') RETURNING *",
        "UPDATE countries SET name = upper(name) WHERE code <> 'US' RETURNING code, name",
        "DELETE FROM countries WHERE code = 'FR'",
        "INSERT INTO countries VALUES ('US', 'again') ON CONFLICT (code) DO UPDATE SET name = excluded.name || '!'",
        "INSERT INTO countries VALUES ('US', 'again')",
        "INSERT INTO stamped VALUES (1, '2020-01-01', '2020-01-01')",
        "INSERT INTO numbered VALUES (7, 'seven')",
        "BEGIN",
        "INSERT INTO countries VALUES ('XX', 'gone')",
        "SELECT count(*) FROM countries",
        "ROLLBACK",
    ]);
    both.extended(
        "INSERT INTO countries VALUES ($1, $2) RETURNING name",
        &[text("ES"), text("Spain")],
        Format::Binary,
        Order::Given,
    );
    // One number for all copies.
    both.simple(
        "INSERT INTO numbered (name) VALUES ('x') RETURNING id",
        Order::Given,
    );
    for table in ["countries", "stamped", "numbered"] {
        both.same_copies(table, &sharded);
    }
    for sql in [
        "INSERT INTO stamped VALUES (2, 'now')",
        "INSERT INTO stamped VALUES (2, '2020-01-01', ' Today ')",
        "UPDATE countries SET name = random()::text",
    ] {
        let refused = both.proxy.simple(sql);
        assert_eq!(refused.refusal(), Some("volatile_reference_write"), "{sql}");
    }
    let refused = both.proxy.extended(
        "INSERT INTO stamped VALUES (3, $1)",
        &[text("tomorrow")],
        Format::Text,
    );
    assert_eq!(refused.refusal(), Some("volatile_reference_write"));
    both.same_copies("stamped", &sharded);
    // A copy that somebody has changed alone is not made worse.
    let mut shard = sharded.shards().remove(2);
    succeeded(
        "DELETE",
        &shard.simple("DELETE FROM countries WHERE code = 'DE'"),
    );
    let differ = both.proxy.simple("UPDATE countries SET name = 'all'");
    assert_eq!(differ.error.expect("an error").sqlstate(), "XX001");
    let mut first = sharded.shards().remove(0);
    let rows = first.simple("SELECT count(*) FROM countries WHERE name = 'all'");
    assert_eq!(rows.rows[0][0], Some(b"0".to_vec()));
}

/// A list of tables is done on each shard with those that it has.
#[test]
fn lists_of_tables_that_are_not_on_the_same_shards() {
    let sharded = start("writes_lists");
    let mut both = Both::new(&sharded);
    both.run(&[
        "CREATE TABLE made (k int PRIMARY KEY, v text)",
        "CREATE TABLE single (a serial, b int)",
        "CREATE TABLE other (a int)",
        "INSERT INTO made VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
        "INSERT INTO single (b) VALUES (1), (2)",
        "TRUNCATE single, made RESTART IDENTITY",
        "SELECT count(*) FROM made",
        "INSERT INTO single (b) VALUES (3) RETURNING a",
        "INSERT INTO made VALUES (5, 'e'), (6, 'f'), (7, 'g')",
        "BEGIN",
        "TRUNCATE TABLE ONLY made, ONLY (single)",
        "SELECT count(*) FROM single",
        "ROLLBACK",
        "SELECT count(*) FROM made",
        "VACUUM (ANALYZE) made (v), single",
        "ANALYZE single, made, nothing",
        "BEGIN",
        "VACUUM made, single",
        "ROLLBACK",
        "CREATE ROLE listed",
        "GRANT SELECT, INSERT (k) ON made, single TO listed",
        "GRANT UPDATE ON TABLE other, made, single TO listed",
        "SELECT has_table_privilege('listed', 'made', 'UPDATE'), has_table_privilege('listed', 'single', 'SELECT')",
        "REVOKE ALL ON single, made, other FROM listed",
        "DROP ROLE listed",
        "TRUNCATE made, nothing, single",
        "DROP TABLE made, nothing, single",
        "SELECT count(*) FROM made",
        "DROP TABLE IF EXISTS other, made, nothing, single CASCADE",
        "SELECT count(*) FROM made",
        "SELECT to_regclass('single')",
    ]);
    for mut shard in sharded.shards() {
        assert_eq!(
            shard.simple("SELECT to_regclass('made')").rows[0],
            [None],
            "it is gone"
        );
    }
}

#[test]
fn definitions_are_made_on_every_shard() {
    let sharded = start("writes_definitions");
    let mut both = Both::new(&sharded);
    both.run(&[
        "CREATE TABLE made (k int PRIMARY KEY, v text)",
        "INSERT INTO made VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e') RETURNING *",
        "ALTER TABLE made ADD COLUMN extra int DEFAULT 7",
        "UPDATE made SET extra = extra + k RETURNING k, extra",
        "INSERT INTO made VALUES (6, 'f', 8), (7, 'g', 9)",
        "CREATE INDEX made_v ON made (v)",
        "CREATE INDEX CONCURRENTLY made_extra ON made (extra)",
        "DROP INDEX CONCURRENTLY made_extra",
        "COMMENT ON TABLE made IS 'a table'",
        "CREATE TABLE made (k int)",
        "CREATE TABLE IF NOT EXISTS made (k int)",
        "ANALYZE made",
        "VACUUM made",
        "REINDEX TABLE made",
        "CREATE TABLE made_reference (id int PRIMARY KEY)",
        "INSERT INTO made_reference VALUES (1), (2)",
        "CREATE TYPE colour AS ENUM ('red')",
        "ALTER TABLE made ADD hue colour DEFAULT 'red'",
        "UPDATE made SET hue = 'red' WHERE k > 2 RETURNING hue",
        "TRUNCATE made_reference",
        "BEGIN",
        "ALTER TABLE made ADD COLUMN gone int",
        "ROLLBACK",
        "BEGIN",
        "ALTER TABLE made DROP COLUMN hue",
        "CREATE TABLE single (a int)",
        "INSERT INTO single VALUES (1)",
        "COMMIT",
        "SELECT * FROM single",
    ]);
    both.same_rows("made", &sharded);
    both.same_copies("made_reference", &sharded);
    both.run(&["BEGIN", "VACUUM made", "ROLLBACK"]);
    for (place, mut shard) in sharded.shards().into_iter().enumerate() {
        let found = shard
            .simple("SELECT to_regclass('made_v') IS NOT NULL, to_regclass('single') IS NOT NULL");
        let single = if place == 0 { "t" } else { "f" };
        assert_eq!(
            found.rows[0],
            [Some(b"t".to_vec()), Some(single.as_bytes().to_vec())]
        );
    }
    let refused = both.proxy.simple("CREATE UNIQUE INDEX ON made (v)");
    assert_eq!(refused.refusal(), Some("unique_without_key"));
    both.run(&["DROP TABLE made, made_reference", "SELECT * FROM made"]);
}

#[test]
fn a_definition_that_fails_on_one_shard() {
    let sharded = start("writes_half");
    let mut both = Both::new(&sharded);
    both.run(&[&many_rows(0, 40)]);
    let key = keys(&sharded)[2];
    let mut shard = sharded.shards().remove(2);
    succeeded(
        "ALTER",
        &shard.simple("ALTER TABLE kv DROP CONSTRAINT kv_pkey"),
    );
    let twice = format!("INSERT INTO kv VALUES ({key}, 'twice')");
    succeeded(&twice, &shard.simple(&twice));
    // In one transaction: nothing is left.
    let failed = both.proxy.simple("CREATE UNIQUE INDEX kv_one ON kv (k)");
    assert_eq!(failed.error.expect("an error").sqlstate(), "23505");
    for mut shard in sharded.shards() {
        let found = shard.simple("SELECT to_regclass('kv_one') IS NULL");
        assert_eq!(found.rows[0][0], Some(b"t".to_vec()));
    }
    // Without one: the client is told where it is done.
    let failed = both
        .proxy
        .simple("CREATE UNIQUE INDEX CONCURRENTLY kv_one ON kv (k)");
    let error = failed.error.expect("an error");
    assert_eq!(error.sqlstate(), "23505");
    assert!(
        error
            .field('H')
            .starts_with("It is done on s1, s2; it has failed on s3; it was not tried on s4."),
        "{error:?}"
    );
    assert_eq!(failed.status, b'I');
}

#[test]
fn nothing_is_written_on_several_shards_unless_it_is_allowed() {
    let refuse = "[transactions]\ncross_shard_commit = \"refuse\"\n";
    let sharded = Sharded::start("writes_refused", SCHEMA, &format!("{refuse}{TABLES}"));
    let mut client = sharded.client();
    for sql in [
        &many_rows(0, 40),
        "INSERT INTO countries VALUES ('DE', 'Germany')",
        "UPDATE kv SET v = 'x'",
        "CREATE TABLE made (k int)",
    ] {
        let refused = client.simple(sql);
        assert_eq!(refused.refusal(), Some("cross_shard_commit"), "{sql}");
        assert_eq!(refused.status, b'I');
    }
    for mut shard in sharded.shards() {
        let rows = shard
            .simple("SELECT count(*), to_regclass('made') FROM kv")
            .rows;
        assert_eq!(rows, [[Some(b"0".to_vec()), None]]);
    }
    succeeded("VACUUM", &client.simple("VACUUM kv"));
    succeeded("ANALYZE", &client.simple("ANALYZE"));
    // What is rolled back may be tried.
    succeeded("BEGIN", &client.simple("BEGIN"));
    succeeded("INSERT", &client.simple(&many_rows(0, 40)));
    let refused = client.simple("COMMIT");
    assert_eq!(refused.refusal(), Some("cross_shard_commit"));
}

#[test]
fn two_writers_of_the_same_rows_wait_for_each_other() {
    let sharded = start("writes_waiting");
    let mut client = sharded.client();
    succeeded("INSERT", &client.simple(&many_rows(0, 40)));
    // One of each shard: of several, Postgres itself may lock some in another order than others do.
    let keys: Vec<String> = sharded
        .shards()
        .iter_mut()
        .flat_map(|shard| shard.simple("SELECT min(k) FROM kv").lines())
        .collect();
    let keys = &keys.join(", ");
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let sharded = &sharded;
            scope.spawn(move || {
                let mut client = sharded.client();
                for _ in 0..40 {
                    let update = format!("UPDATE kv SET v = v || '{name}' WHERE k IN ({keys})");
                    succeeded(&update, &client.simple(&update));
                }
            });
        }
    });
    let mut lengths: Vec<_> = sharded
        .shards()
        .iter_mut()
        .flat_map(|shard| {
            let lengths = format!("SELECT length(v) FROM kv WHERE k IN ({keys})");
            shard.simple(&lengths).rows
        })
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [[Some(b"122".to_vec())]]);
}

const SHOP: &str = "CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE TABLE orders (id int PRIMARY KEY, region text, total numeric(10, 2), at timestamptz, tags text[], m mood);
    CREATE TABLE lines (id int, line int, price numeric, PRIMARY KEY (id, line));
    CREATE TABLE regions (number int PRIMARY KEY, region text, rate float8, \"Flag\" bool);
    CREATE TABLE feelings (id int PRIMARY KEY, moods mood[]);
    CREATE TABLE countries (code text PRIMARY KEY, name text)";

const SHOP_TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"orders\"\ndistribution = \"d\"\nkey = [\"id\"]\n\
    [[tables]]\nname = \"lines\"\ndistribution = \"d\"\nkey = [\"id\"]\n\
    [[tables]]\nname = \"regions\"\ndistribution = \"d\"\nkey = [\"number\"]\n\
    [[tables]]\nname = \"feelings\"\ndistribution = \"d\"\nkey = [\"id\"]\n\
    [[tables]]\nname = \"countries\"\nplacement = \"reference\"\n";

/// What a change reads of other shards is brought to each of them.
#[test]
fn changes_that_read_rows_of_other_shards() {
    let sharded = Sharded::start("writes_brought", SHOP, SHOP_TABLES);
    let mut both = Both::new(&sharded);
    let orders: Vec<String> = (1..=60)
        .map(|id| {
            let tags = ["NULL", "'{}'", "'{a,\"b c\"}'"][id % 3];
            let region = ["'de'", "'fr'", "'it'", "NULL"][id % 4];
            format!(
                "({id}, {region}, {id}.5, '2026-01-01'::timestamptz + '{id} days', {tags}, 'wild')"
            )
        })
        .collect();
    let lines: Vec<String> = (1..=60)
        .flat_map(|id| (1..=id % 3).map(move |line| format!("({id}, {line}, {})", id * line)))
        .collect();
    both.run(&[
        &format!("INSERT INTO orders VALUES {}", orders.join(", ")),
        &format!("INSERT INTO lines VALUES {}", lines.join(", ")),
        "INSERT INTO regions VALUES (1, 'de', 0.25, true), (2, 'fr', 0.5, NULL), (3, 'xx', 4, false), (4, NULL, 1, true)",
        "INSERT INTO countries VALUES ('de', 'Germany'), ('it', 'Italy')",
    ]);
    // On a shard all of it is of one moment, unless the client has begun otherwise.
    let level = "UPDATE orders SET total = total FROM regions r WHERE r.region = orders.region RETURNING current_setting('transaction_isolation')";
    let levels = |client: &mut Raw| {
        let mut said = client.simple(level).lines();
        said.dedup();
        said
    };
    assert_eq!(levels(&mut both.proxy), ["repeatable read"]);
    for (begin, expected) in [
        ("BEGIN", "read committed"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "serializable"),
    ] {
        succeeded(begin, &both.proxy.simple(begin));
        assert_eq!(levels(&mut both.proxy), [expected]);
        succeeded("ROLLBACK", &both.proxy.simple("ROLLBACK"));
    }
    let default = "SET default_transaction_isolation = 'serializable'";
    succeeded(default, &both.proxy.simple(default));
    assert_eq!(levels(&mut both.proxy), ["serializable"]);
    succeeded("RESET", &both.proxy.simple("RESET ALL"));

    let changes = [
        "UPDATE orders SET total = total * r.rate, region = upper(r.region) FROM regions r WHERE r.region = orders.region RETURNING orders.id, orders.total, r.number, r.\"Flag\"",
        "UPDATE public.orders AS o SET tags = r2.tags, m = r2.m FROM public.orders r2 WHERE r2.id = o.id + 1 RETURNING o.id, o.tags, o.m",
        "DELETE FROM orders USING regions r, countries c WHERE r.region = orders.region AND c.code = r.region AND r.\"Flag\" AND r.number < 3 RETURNING orders.id, r.rate, c.*",
        "DELETE FROM orders WHERE id IN (SELECT o.id FROM orders o JOIN regions r ON o.region = r.region JOIN lines l ON l.id = o.id WHERE r.rate = 0.5)",
        "DELETE FROM orders WHERE total > (SELECT avg(total) FROM orders)",
        "DELETE FROM orders WHERE NOT EXISTS (SELECT FROM regions WHERE regions.region = orders.region)",
        "UPDATE orders SET total = (SELECT max(o.id) FROM orders o WHERE o.id < orders.id), at = at + '1 hour' WHERE id % 2 = 0",
        "UPDATE orders SET (region, total) = (SELECT r.region, r.number FROM regions r WHERE r.number = orders.id % 4) RETURNING id, region, total",
        "UPDATE lines SET price = price + n.count FROM (SELECT region, count(*) FROM orders GROUP BY region) n, orders o WHERE o.id = lines.id AND n.region = o.region RETURNING *",
        "DELETE FROM orders WHERE region IN (SELECT DISTINCT region FROM regions UNION SELECT max(region) FROM orders)",
        "UPDATE orders o SET total = o.total + l.price FROM lines l, regions r WHERE l.id = o.id AND l.line = 1 AND r.region = o.region",
        "UPDATE orders SET total = 0 FROM regions r WHERE r.region = orders.region AND r.region = 'nowhere'",
        "UPDATE orders SET total = 1 WHERE id IN (5, 6, 7) AND region IN (SELECT region FROM regions)",
        "DELETE FROM regions WHERE number NOT IN (SELECT r.number FROM regions r JOIN orders o ON o.region = r.region)",
        "UPDATE orders SET total = total / (SELECT count(*) - 4 FROM regions)",
        "UPDATE orders SET region = (SELECT r.region FROM regions r ORDER BY r.number DESC LIMIT 1), total = (SELECT o.total FROM orders o ORDER BY o.id OFFSET 3 LIMIT 1) WHERE id = 9 RETURNING id, region, total",
        "DELETE FROM orders WHERE id = 10 AND total < (SELECT x FROM (SELECT sum(total) OVER (ORDER BY id) AS x, id FROM orders) s ORDER BY s.id DESC LIMIT 1)",
        "UPDATE orders SET total = 5 FROM public.regions WHERE public.regions.region = orders.region RETURNING id, public.regions.number",
        "UPDATE orders SET total = 1 FROM random() AS r, regions WHERE regions.region = orders.region AND orders.id = 11 AND r < 2",
        "UPDATE orders SET nothing = 1 FROM regions r WHERE r.region = orders.region",
        "DELETE FROM orders USING regions r WHERE r.nothing = orders.region",
        "WITH more AS (SELECT 1) DELETE FROM orders WHERE id = 1",
    ];
    let tables = ["orders", "lines", "regions"];
    for sql in changes {
        both.run(&[
            "BEGIN",
            "UPDATE regions SET rate = rate + 1 WHERE number = 1",
        ]);
        both.simple(sql, Order::Any);
        for table in tables {
            both.simple(&format!("SELECT * FROM {table}"), Order::Any);
        }
        both.run(&["ROLLBACK", sql]);
        for table in tables {
            both.same_rows(table, &sharded);
        }
    }
    let update = "UPDATE orders SET total = r.rate * $1::int FROM regions r WHERE r.region = orders.region AND r.number < $2 RETURNING orders.id, total, r.rate";
    for format in [Format::Text, Format::Binary] {
        both.extended(update, &[text("3"), text("9")], format, Order::Any);
    }
    both.same_rows("orders", &sharded);

    // A prepared statement is planned once, for other values too.
    both.run(&[
        "PREPARE p (int) AS UPDATE orders SET total = total + $1 FROM regions r WHERE r.region = orders.region",
        "EXECUTE p (1)",
        "EXECUTE p (length('abc'))",
    ]);
    both.same_rows("orders", &sharded);
    let analysed = both.proxy.simple("EXPLAIN (ANALYZE, COSTS off) DELETE FROM lines USING regions r WHERE r.number = lines.line + 1");
    succeeded("EXPLAIN", &analysed);
    let analysed = analysed.lines().join("\n");
    assert!(analysed.contains("public.regions"), "{analysed}");
    both.plain
        .simple("DELETE FROM lines USING regions r WHERE r.number = lines.line + 1");
    both.same_rows("lines", &sharded);
    let explained = both
        .proxy
        .simple("EXPLAIN DELETE FROM orders USING regions r WHERE r.number = orders.total");
    succeeded("EXPLAIN", &explained);
    both.same_rows("orders", &sharded);

    let refused = both.proxy.simple("UPDATE orders SET total = 1 WHERE region IN (SELECT o.region FROM orders o JOIN regions r ON r.region = o.region GROUP BY o.id)");
    assert_eq!(
        refused.refusal(),
        Some("join_not_colocated"),
        "{}",
        refused.shown()
    );
    // The array of a row type has no values of types that each server numbers for itself.
    let refused = both
        .proxy
        .simple("UPDATE orders SET m = f.moods[1] FROM feelings f WHERE f.id = orders.id + 1");
    assert_eq!(
        refused.refusal(),
        Some("join_not_colocated"),
        "{}",
        refused.shown()
    );
}

const MILL: &str = "CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE orders (id int PRIMARY KEY, region text, total numeric(10, 2), label varchar(12), at timestamptz, m mood);
    CREATE TABLE lines (id int, line int, price numeric, PRIMARY KEY (id, line));
    CREATE TABLE countries (code text PRIMARY KEY, name text);
    CREATE TABLE \"Rates\" (gone int, code varchar(5) COLLATE \"C\", label char(4), factor numeric(6, 3), at timestamptz(3), span int4range, \"A b\" text,
        flag bool, doc jsonb, took interval hour to minute, ident name, tag \"char\", bits bit(3), raw bytea);
    ALTER TABLE \"Rates\" DROP COLUMN gone;
    CREATE TABLE odd (id int, list int[], m mood, p positive, word text COLLATE \"und-x-icu\", c regclass, plain text);
    CREATE TABLE nothing (id int PRIMARY KEY, v text);
    CREATE TABLE apart (id int)";

const MILL_TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[distributions]]\nname = \"few\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\"]\n\
    [[tables]]\nname = \"orders\"\ndistribution = \"d\"\nkey = [\"id\"]\n\
    [[tables]]\nname = \"lines\"\ndistribution = \"few\"\nkey = [\"id\"]\n\
    [[tables]]\nname = \"countries\"\nplacement = \"reference\"\n\
    [[tables]]\nname = '\"Rates\"'\nplacement = \"single\"\nshard = \"s3\"\n\
    [[tables]]\nname = \"odd\"\nplacement = \"single\"\nshard = \"s3\"\n\
    [[tables]]\nname = \"nothing\"\nplacement = \"single\"\nshard = \"s3\"\n\
    [[tables]]\nname = \"apart\"\nplacement = \"single\"\nshard = \"s2\"\n";

/// Of the tables of one shard the others have nothing.
fn mill(database: &str) -> Sharded {
    let sharded = Sharded::start(database, MILL, MILL_TABLES);
    for (place, mut shard) in sharded.shards().into_iter().enumerate() {
        for (table, owner) in [("\"Rates\"", 2), ("odd", 2), ("nothing", 2), ("apart", 1)] {
            if place != owner {
                let drop = format!("DROP TABLE {table}");
                succeeded(&drop, &shard.simple(&drop));
            }
        }
    }
    sharded
}

/// A table that only one shard has, rows, row type and all, is brought to each of those that change rows.
#[test]
fn changes_that_read_tables_of_one_shard() {
    let sharded = mill("writes_single");
    let mut both = Both::new(&sharded);
    let orders: Vec<String> = (1..=60)
        .map(|id| {
            let region = ["'de'", "'fr'", "'\u{e4}'", "NULL"][id % 4];
            format!("({id}, {region}, {id}.5, 'order {id}', '2026-01-01'::timestamptz + '{id} days', 'wild')")
        })
        .collect();
    both.run(&[
        &format!("INSERT INTO orders VALUES {}", orders.join(", ")),
        "INSERT INTO lines SELECT i, 1, i FROM generate_series(1, 20) i",
        "INSERT INTO countries VALUES ('de', 'Germany'), ('it', 'Italy')",
        "INSERT INTO \"Rates\" VALUES ('de', 'ab', 0.25, '2026-02-03 04:05:06.789', '[1,5)', 'x \u{e4}', true, '{\"a\": [1, null]}', '3 hours', 'n', 'c', B'101', '\\x00ff'),
            ('fr', NULL, 1.5, NULL, 'empty', '', false, 'null', NULL, '', '', B'000', ''), ('\u{e4}', 'zz', 2, 'infinity', NULL, '{a,b}', NULL, '3', '1 hour', 'long', 'x', NULL, NULL),
            (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        "INSERT INTO odd VALUES (1, '{{1,2},{3,4}}', 'wild', 3, 'b', 'pg_class', 'de')",
    ]);
    let changes = [
        "UPDATE orders SET total = total * r.factor, label = r.label, region = upper(r.code) FROM \"Rates\" r WHERE r.code = orders.region RETURNING orders.*, r.*",
        // The column's collation and the default one.
        "UPDATE orders SET region = upper(r.code) || upper(r.\"A b\"), label = lower(r.ident) FROM public.\"Rates\" AS r WHERE r.code >= orders.region RETURNING id, region",
        "UPDATE orders SET label = (SELECT max(r.code) FROM \"Rates\" r WHERE r.code < orders.region COLLATE \"C\") RETURNING id, label",
        // Rows as wholes, and one whose columns are all NULL.
        "UPDATE orders SET region = row_to_json(r)::text FROM \"Rates\" r WHERE r.code = orders.region RETURNING id, region, r",
        "UPDATE orders SET region = r::text FROM \"Rates\" r WHERE r IS NULL AND id < 7 RETURNING id, region, r.*",
        "UPDATE orders SET total = (SELECT count(r) + count(r.code) * 10 + 100 * count(*) FROM \"Rates\" r) RETURNING id, total",
        "UPDATE orders SET region = j.value FROM \"Rates\" r, jsonb_each_text(to_jsonb(r)) j WHERE r.code = orders.region AND j.key = 'label' RETURNING id, region",
        "DELETE FROM orders USING \"Rates\" WHERE \"Rates\".code = region AND \"Rates\".flag RETURNING orders.id, \"Rates\".*",
        "DELETE FROM orders WHERE region IN (SELECT code FROM \"Rates\" WHERE span @> 3)",
        "DELETE FROM orders WHERE region NOT IN (SELECT code FROM \"Rates\" WHERE code IS NOT NULL)",
        "DELETE FROM orders WHERE NOT EXISTS (SELECT FROM \"Rates\" x JOIN countries USING (code) WHERE code = orders.region)",
        "DELETE FROM orders WHERE id IN (SELECT id FROM nothing)",
        "UPDATE orders SET total = (SELECT count(*) FROM nothing), region = (SELECT v FROM nothing WHERE nothing.id = orders.id)",
        // Beside others that are brought, and those that every shard has.
        "UPDATE orders SET total = o.total + r.factor FROM \"Rates\" r, orders o, countries c WHERE o.id = orders.id + 1 AND r.code = o.region AND c.code = r.code RETURNING orders.id, orders.total",
        "DELETE FROM orders WHERE total > (SELECT avg(total) FROM orders) AND region IN (SELECT code FROM \"Rates\" UNION SELECT code FROM countries)",
        "UPDATE orders SET at = r.at, label = r.took::text || r.tag::text || r.bits::text || encode(r.raw, 'hex') FROM \"Rates\" r WHERE r.code = orders.region RETURNING id, at, label",
        "UPDATE orders SET region = (SELECT code FROM \"Rates\" ORDER BY factor DESC NULLS LAST LIMIT 1) WHERE id = 9 RETURNING id, region",
        "UPDATE orders SET region = odd.plain FROM odd WHERE odd.id = orders.id",
        "UPDATE orders SET region = odd.id::text FROM odd WHERE odd.nothing = orders.id",
        "UPDATE orders SET total = total / (SELECT count(*) - 4 FROM \"Rates\")",
        "UPDATE orders SET total = 1 FROM \"Rates\" r WHERE r.code = 5",
    ];
    for sql in changes {
        both.run(&[
            "BEGIN",
            "UPDATE \"Rates\" SET factor = factor + 1 WHERE code = 'de'",
        ]);
        both.simple(sql, Order::Any);
        both.simple("SELECT * FROM orders", Order::Any);
        both.run(&["ROLLBACK", sql]);
        both.same_rows("orders", &sharded);
    }
    let again = format!("INSERT INTO orders VALUES {}", orders.join(", "));
    both.run(&["DELETE FROM orders", &again]);
    // What is told of the columns is what the table's own shard says, modifiers included.
    let update = "UPDATE orders SET total = r.factor * $1::int FROM \"Rates\" r WHERE r.factor < $2 AND orders.id % 9 = 1 RETURNING orders.id, total, r.code, r.label, r.factor, r.took, r";
    for format in [Format::Text, Format::Binary] {
        both.extended(update, &[text("3"), text("9")], format, Order::Any);
        let given = [text("3"), text("9")];
        let (here, there) = (
            both.proxy.extended(update, &given, format),
            both.plain.extended(update, &given, format),
        );
        let modifiers = |answer: &Answer| {
            let columns = answer.columns.iter().flatten();
            columns.map(|column| column.2).collect::<Vec<_>>()
        };
        assert_eq!(modifiers(&here), modifiers(&there));
        assert!(here.rows.len() > 6, "{}", here.shown());
    }
    // Keys of every shard, the table's own among them.
    let one = "UPDATE orders SET label = r.code FROM \"Rates\" r WHERE r.factor > 1 AND r.code <> 'de' AND r.factor < 2 AND orders.id = $1";
    for id in 1..=12 {
        both.extended(one, &[text(&id.to_string())], Format::Text, Order::Any);
    }
    both.same_rows("orders", &sharded);
    both.run(&[
        "PREPARE p AS UPDATE orders SET total = total + $1 FROM \"Rates\" r WHERE r.code = orders.region",
        "EXECUTE p (1)",
        "EXECUTE p (length('abc'))",
    ]);
    both.same_rows("orders", &sharded);
    let analysed = both.proxy.simple("EXPLAIN (ANALYZE, COSTS off) DELETE FROM orders USING \"Rates\" r WHERE r.code = orders.region AND id < 9");
    succeeded("EXPLAIN", &analysed);
    both.plain
        .simple("DELETE FROM orders USING \"Rates\" r WHERE r.code = orders.region AND id < 9");
    both.same_rows("orders", &sharded);
    let explained = both
        .proxy
        .simple("EXPLAIN DELETE FROM orders USING \"Rates\" r WHERE r.code = orders.region");
    succeeded("EXPLAIN", &explained);

    for (sql, refusal) in [
        (
            "UPDATE orders SET total = o.list[1][1] FROM odd o WHERE o.id = orders.id",
            "join_not_colocated",
        ),
        (
            "UPDATE orders SET m = o.m FROM odd o WHERE o.id = orders.id",
            "join_not_colocated",
        ),
        (
            "UPDATE orders SET total = o.p FROM odd o WHERE o.id = orders.id",
            "join_not_colocated",
        ),
        (
            "UPDATE orders SET region = 'x' FROM odd o WHERE o.word < orders.region",
            "join_not_colocated",
        ),
        (
            "UPDATE orders SET region = o.c::text FROM odd o WHERE o.id = orders.id",
            "join_not_colocated",
        ),
        (
            "DELETE FROM orders USING odd WHERE odd.id = orders.id RETURNING odd.*",
            "join_not_colocated",
        ),
        (
            "DELETE FROM orders USING odd, apart WHERE odd.id = orders.id AND apart.id = odd.id",
            "single_tables_apart",
        ),
        (
            "DELETE FROM lines USING nothing n WHERE n.id = lines.line",
            "single_tables_apart",
        ),
    ] {
        let said = both.proxy.simple(sql);
        assert_eq!(said.refusal(), Some(refusal), "{sql}: {}", said.shown());
    }
    let said = both.proxy.extended(
        "UPDATE orders SET m = $1 FROM \"Rates\" r WHERE r.code = orders.region",
        &[text("calm")],
        Format::Text,
    );
    assert_eq!(
        said.refusal(),
        Some("join_not_colocated"),
        "{}",
        said.shown()
    );
    both.same_rows("orders", &sharded);
}

/// What drivers ask before they have values is answered by the table's own shard, wherever the session is at work.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_read_tables_of_one_shard_are_described() {
    let sharded = tokio::task::spawn_blocking(|| mill("writes_single_described"))
        .await
        .unwrap();
    let connected = tokio_postgres::connect(&sharded.connection(), tokio_postgres::NoTls).await;
    let (mut client, connection) = connected.expect("the proxy answers");
    tokio::spawn(connection);
    for sql in [
        "INSERT INTO orders (id, region) SELECT i, 'de' FROM generate_series(1, 40) i",
        "INSERT INTO \"Rates\" (code, factor) VALUES ('de', 0.5)",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let several = "UPDATE orders SET label = r.code FROM \"Rates\" r WHERE r.code = orders.region AND orders.id < $1 RETURNING r.code, id";
    let one = "UPDATE orders SET label = r.code FROM \"Rates\" r WHERE r.code = orders.region AND orders.id = $1 RETURNING r.code, id";
    for key in 1..=8 {
        let prepared = [several, one].map(|sql| format!("{sql}, {key}"));
        for (sql, rows) in prepared.iter().zip([usize::try_from(key).unwrap() - 1, 1]) {
            let statement = client.prepare(sql).await.unwrap();
            let names: Vec<_> = statement
                .columns()
                .iter()
                .map(|column| column.type_().name())
                .collect();
            assert_eq!(names, ["varchar", "int4", "int4"]);
            let found = client.query(&statement, &[&key]).await.unwrap();
            assert_eq!(found.len(), rows, "{sql}");
        }
        // A transaction that has its first connection to the shard of some key.
        let transaction = client.transaction().await.unwrap();
        transaction
            .query("SELECT FROM orders WHERE id = $1", &[&key])
            .await
            .unwrap();
        let statement = transaction
            .prepare(&format!("{several}, {key} + 1"))
            .await
            .unwrap();
        let found = transaction.query(&statement, &[&30]).await.unwrap();
        assert_eq!(found.len(), 29);
        transaction.rollback().await.unwrap();
    }
}

/// More rows than wait in memory are refused before anything is changed.
#[test]
fn too_many_rows_to_bring() {
    let sharded = Sharded::start("writes_brought_many", SHOP, SHOP_TABLES);
    let mut client = sharded.client();
    let fill =
        "INSERT INTO regions SELECT i, repeat('x', 1000000), 1, true FROM generate_series(1, 80) i";
    for mut shard in sharded.shards() {
        succeeded(fill, &shard.simple(fill));
    }
    succeeded(
        "",
        &client.simple("INSERT INTO orders (id, region) VALUES (1, 'a'), (2, 'b'), (3, 'c')"),
    );
    let many = "UPDATE orders SET region = 'y' FROM regions r WHERE r.region > orders.region";
    let said = client.simple(many);
    let error = said.error.as_ref().expect("it is too much");
    assert_eq!(error.sqlstate(), "54000", "{}", said.shown());
    let few = "UPDATE orders SET region = 'z' FROM regions r WHERE r.region > orders.region AND r.number = 7";
    let said = client.simple(few);
    assert_eq!(said.tags, ["UPDATE 3"], "{}", said.shown());
}

const KEPT: &str = "CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE TABLE kept (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), token uuid DEFAULT gen_random_uuid(), \"A b\" text,
        m mood DEFAULT 'wild', twice int GENERATED ALWAYS AS (id * 2) STORED, old text);
    ALTER TABLE kept DROP COLUMN old";

const KEPT_TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kept\"\nplacement = \"reference\"\n";

/// Defaults and expressions that are not the same everywhere are computed once.
#[test]
fn rows_of_reference_tables_are_computed_once() {
    let sharded = Sharded::start("writes_once", KEPT, KEPT_TABLES);
    let mut client = sharded.client();
    let same_everywhere = |sql: &str| {
        let mut copies = sharded
            .shards()
            .into_iter()
            .map(|mut shard| shard.simple(sql).rows);
        let first = copies.next().expect("a shard");
        copies.for_each(|copy| assert_eq!(copy, first, "{sql}"));
        first
    };
    let all = "SELECT * FROM kept ORDER BY id";
    for (sql, tag) in [
        ("INSERT INTO kept (id) VALUES (1), (2), (3)", "INSERT 0 3"),
        (
            "INSERT INTO public.kept (id, at) VALUES (4, now() + '1 day'), (5, DEFAULT) -- five",
            "INSERT 0 2",
        ),
        (
            "INSERT INTO kept AS k (\"A b\", id) SELECT random()::text, id + 10 FROM kept",
            "INSERT 0 5",
        ),
        (
            "INSERT INTO kept (id) SELECT 1 WHERE random() > 2",
            "INSERT 0 0",
        ),
    ] {
        let said = client.simple(sql);
        assert_eq!(said.tags, [tag], "{sql}: {}", said.shown());
        same_everywhere(all);
    }
    assert_eq!(same_everywhere(all).len(), 10);
    let returning = "INSERT INTO kept AS k (id, \"A b\") VALUES ($1, $2 || random()), (31, NULL) RETURNING k.*, random() < 2, id + $1";
    for (id, format) in [("30", Format::Text), ("32", Format::Binary)] {
        client.simple("DELETE FROM kept WHERE id = 31");
        let said = client.extended(returning, &[text(id), text("x")], format);
        assert_eq!(said.tags, ["INSERT 0 2"], "{}", said.shown());
        assert_eq!(said.rows[0].len(), 8, "{}", said.shown());
        if format == Format::Text {
            let stored = same_everywhere(&format!(
                "SELECT *, true, id + {id} FROM kept WHERE id IN ({id}, 31) ORDER BY id"
            ));
            assert_eq!(said.rows, stored);
        }
        same_everywhere(all);
    }
    let odd = "INSERT INTO kept (id, \"A b\") SELECT id + 100, random()::text AS returning FROM kept ORDER BY id LIMIT 2";
    assert_eq!(client.simple(odd).tags, ["INSERT 0 2"]);
    same_everywhere(all);
    client.simple("DELETE FROM kept WHERE id > 100");
    // What fails anywhere is stored nowhere.
    for sql in [
        "INSERT INTO kept (id) VALUES (50), (1)",
        "INSERT INTO kept (id, at) VALUES (51, 'x')",
    ] {
        let said = client.simple(sql);
        assert!(said.error.is_some(), "{sql}");
        assert_eq!(same_everywhere(all).len(), 13);
    }
    let mut second = sharded.shards().remove(1);
    succeeded(
        "one more",
        &second.simple("INSERT INTO kept (id) VALUES (60)"),
    );
    let said = client.simple("INSERT INTO kept (id) VALUES (60)");
    assert_eq!(said.error.expect("a copy differs").sqlstate(), "23505");
    succeeded("no more", &second.simple("DELETE FROM kept WHERE id = 60"));
    succeeded("BEGIN", &client.simple("BEGIN"));
    succeeded(
        "INSERT",
        &client.simple("INSERT INTO kept (id) VALUES (61)"),
    );
    succeeded("ROLLBACK", &client.simple("ROLLBACK"));
    let analysed = client.simple("EXPLAIN ANALYZE INSERT INTO kept (id) VALUES (62)");
    succeeded("EXPLAIN", &analysed);
    assert_eq!(same_everywhere(all).len(), 14);
}
