//! EXPLAIN of what several shards do: every form, in both protocols; ANALYZE does what it explains.

use crate::portals::{Both, GATHERED, SORTED, SUMS, start};
use crate::wire_client::{ask, bind, describe, execute, parse, query, run, sync};

const CHANGES: &[&str] = &[
    "UPDATE kv SET n = n + 100 WHERE k > 5",
    "DELETE FROM kv WHERE n = 3",
    "INSERT INTO kv (k, n) VALUES (500, 1), (501, 2), (502, 3), (503, 4)",
    "INSERT INTO wide SELECT k + 1, v FROM kv",
    "INSERT INTO wide (k, v) SELECT k, v FROM kv",
    "MERGE INTO kv USING wide w ON kv.k = w.k WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (k) VALUES (w.k)",
    "UPDATE wide SET k = 700 WHERE v = 'moves'",
    "INSERT INTO colours VALUES ('green', 3)",
];

const STATE: [&str; 3] = [
    "SELECT * FROM kv ORDER BY k",
    "SELECT * FROM wide ORDER BY k",
    "SELECT * FROM colours ORDER BY colour",
];

/// The values of the only column of an answer, or its error.
fn plan(both: &mut Both, sql: &str) -> String {
    both.through.step(&ask(&[query(sql)]))
}

#[test]
fn every_form_of_every_kind() {
    let sharded = start("explain_forms");
    let mut both = Both::new(&sharded);
    let mut plain = sharded.plain();
    let mut client = sharded.client();
    let queries = [SORTED, SUMS, GATHERED];
    for sql in queries.iter().chain(CHANGES) {
        for form in ["text", "json", "xml", "yaml"] {
            let options = format!("EXPLAIN (COSTS off, VERBOSE, SETTINGS, FORMAT {form}) {sql}");
            let said = client.simple(&options);
            assert!(said.error.is_none(), "{options}: {:?}", said.error);
            assert_eq!(said.tags, ["EXPLAIN"]);
            let text = said.lines().join("\n");
            assert!(
                text.contains("Trunkline") && text.contains("Shard s"),
                "{sql}: {text}"
            );
            let checked = match form {
                "json" => format!("SELECT json_typeof($x${text}$x$::json->0->'Trunkline')"),
                "xml" => format!("SELECT xmlparse(document $x${text}$x$) IS NOT NULL"),
                _ => "SELECT 1".to_owned(),
            };
            let checked = plain.simple(&checked);
            assert!(checked.error.is_none(), "{text}: {:?}", checked.error);
            // What Postgres calls the column and its type.
            let (got, expected) = (
                both.through.step(&ask(&[
                    parse("", &options, &[]),
                    describe(b'S', ""),
                    sync(),
                ])),
                both.plain.step(&ask(&[
                    parse("", &options, &[]),
                    describe(b'S', ""),
                    sync(),
                ])),
            );
            assert_eq!(got, expected);
            let through = both.through.step(&ask(&[query(&options)]));
            let expected = both.plain.step(&ask(&[query(&options)]));
            assert_eq!(
                through.split(' ').take(2).collect::<Vec<_>>(),
                expected.split(' ').take(2).collect::<Vec<_>>()
            );
        }
    }
    // Nothing has been done.
    for sql in STATE {
        both.same(&ask(&[query(sql)]));
    }
}

#[test]
fn analyze_does_it() {
    let sharded = start("explain_analyze");
    let mut both = Both::new(&sharded);
    both.same(&ask(&[query(
        "INSERT INTO wide VALUES (90, 'moves'), (91, 'stays')",
    )]));
    for sql in CHANGES {
        for block in [true, false] {
            if block {
                both.same(&ask(&[query("BEGIN")]));
            }
            let explain =
                format!("EXPLAIN (ANALYZE, COSTS off, BUFFERS, TIMING on, SUMMARY, WAL) {sql}");
            let expected = both.plain.step(&ask(&[query(&explain)]));
            let got = both.through.step(&ask(&[query(&explain)]));
            let failed = expected.starts_with("E(");
            assert_eq!(got.starts_with("E("), failed, "{sql}: {got} {expected}");
            assert!(
                failed || got.contains("all: ") && got.contains(" ms)"),
                "{got}"
            );
            if failed {
                assert_eq!(got, expected);
            }
            if block {
                if !failed {
                    for state in STATE {
                        both.same(&ask(&[query(state)]));
                    }
                }
                both.same(&ask(&[query("ROLLBACK")]));
            }
            for state in STATE {
                both.same(&ask(&[query(state)]));
            }
        }
    }
    // The steps of what is gathered.
    let said = plan(&mut both, &format!("EXPLAIN ANALYZE {GATHERED}"));
    assert!(
        said.contains("fetch public.kv: ") && said.contains("Gathered on s1"),
        "{said}"
    );
    assert!(said.contains("actual time="), "{said}");
}

#[test]
fn by_the_extended_protocol() {
    let sharded = start("explain_extended");
    let mut both = Both::new(&sharded);
    let update = "EXPLAIN (ANALYZE) UPDATE kv SET n = $1 WHERE k > $2";
    let gathered = "EXPLAIN (ANALYZE, FORMAT JSON) SELECT a.k, b.k FROM kv a JOIN kv b ON b.k = a.n WHERE a.k < $1 ORDER BY a.k";
    for (sql, values) in [
        (update, &[Some("7"), Some("3")][..]),
        (gathered, &[Some("9")]),
    ] {
        let step = ask(&[
            parse("", sql, &[]),
            describe(b'S', ""),
            bind("", "", values),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]);
        let got = both.through.step(&step);
        both.plain.step(&step);
        assert!(
            got.contains("C(EXPLAIN) Z(I)") && got.contains("Trunkline"),
            "{got}"
        );
        for state in STATE {
            both.same(&ask(&[query(state)]));
        }
    }
    // In a pipeline with what fails it is undone.
    let step = ask(&[
        run("EXPLAIN ANALYZE DELETE FROM kv", &[]),
        run("SELECT 1/0", &[]),
        sync(),
    ]);
    both.plain.step(&step);
    both.through.step(&step);
    for state in STATE {
        both.same(&ask(&[query(state)]));
    }
}

#[test]
fn of_execute() {
    let sharded = start("explain_execute");
    let mut both = Both::new(&sharded);
    for prepare in [
        "PREPARE s (int) AS SELECT k, v FROM kv WHERE n = $1 ORDER BY v",
        "PREPARE g (int) AS SELECT a.k, b.k FROM kv a JOIN kv b ON b.k = a.n WHERE a.k < $1",
        "PREPARE u (int) AS UPDATE kv SET n = n + $1",
        "PREPARE one (int) AS SELECT v FROM kv WHERE k = $1",
    ] {
        both.same(&ask(&[query(prepare)]));
    }
    for name in ["s", "g", "u"] {
        let explain = format!("EXPLAIN (ANALYZE, COSTS off) EXECUTE {name} (3)");
        both.plain.step(&ask(&[query(&explain)]));
        let said = both.through.step(&ask(&[query(&explain)]));
        assert!(
            said.contains("Trunkline") && said.contains("Shard s4"),
            "{said}"
        );
        both.plain.step(&ask(&[run(&explain, &[]), sync()]));
        let said = both.through.step(&ask(&[run(&explain, &[]), sync()]));
        assert!(
            said.contains("Trunkline") && said.contains("Shard s4"),
            "{said}"
        );
        both.same(&ask(&[query("SELECT k, n FROM kv ORDER BY k")]));
    }
    both.same(&ask(&[query("EXPLAIN (COSTS off) EXECUTE one (3)")]));
    both.same(&ask(&[query("EXPLAIN EXECUTE nothing (3)")]));
}

#[test]
fn what_postgres_has_against_it() {
    let sharded = start("explain_wrong");
    let mut both = Both::new(&sharded);
    for sql in [SORTED, GATHERED, CHANGES[0], CHANGES[2], CHANGES[3]] {
        for options in ["(nonsense)", "(TIMING)", "(FORMAT csv)", "(ANALYZE maybe)"] {
            both.same(&ask(&[query(&format!("EXPLAIN {options} {sql}"))]));
        }
    }
    both.same(&ask(&[query("EXPLAIN SELECT nothing FROM kv")]));
    both.same(&ask(&[query("BEGIN READ ONLY")]));
    both.same(&ask(&[query("EXPLAIN ANALYZE DELETE FROM kv")]));
    both.same(&ask(&[query("ROLLBACK")]));
}
