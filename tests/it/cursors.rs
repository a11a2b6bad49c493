//! DECLARE, FETCH, MOVE, CLOSE, and PREPARE and EXECUTE in SQL, over several shards: as on one server, in both protocols.

use crate::portals::{Both, GATHERED, SORTED, SUMS, portals_on_shards, start};
use crate::sharded::succeeded;
use crate::wire_client::{ask, bind, close, describe, execute, parse, query, run, sync};

/// Each is a simple query.
fn simple(both: &mut Both, statements: &[&str]) {
    for sql in statements {
        both.same(&ask(&[query(sql)]));
    }
}

#[test]
fn cursors_go_forward() {
    let sharded = start("cursors_forward");
    for sql in [SORTED, SUMS, GATHERED] {
        let mut both = Both::new(&sharded);
        let declare = format!("DECLARE c NO SCROLL CURSOR FOR {sql}");
        simple(
            &mut both,
            &[
                "BEGIN",
                &declare,
                "FETCH 0 FROM c",
                "FETCH c",
                "FETCH FORWARD 2 FROM c",
                "SELECT v FROM kv WHERE k = 7",
                "MOVE NEXT IN c",
                "MOVE 0 IN c",
                "FETCH RELATIVE 1 FROM c",
                "FETCH ALL FROM c",
                "FETCH ALL FROM c",
                "FETCH 0 FROM c",
                "MOVE 0 FROM c",
                "CLOSE c",
                "FETCH c",
                "ROLLBACK",
            ],
        );
    }
}

#[test]
fn where_a_cursor_cannot_go() {
    let sharded = start("cursors_back");
    for motion in [
        "FETCH 0 FROM c",
        "FETCH -1 FROM c",
        "FETCH PRIOR FROM c",
        "FETCH BACKWARD ALL FROM c",
        "FETCH FIRST FROM c",
        "FETCH ABSOLUTE 2 FROM c",
        "MOVE ABSOLUTE 0 FROM c",
        "FETCH LAST FROM c",
        "FETCH ABSOLUTE 7 FROM c",
        "MOVE ABSOLUTE 100 FROM c",
        "FETCH RELATIVE -2 FROM c",
        "MOVE RELATIVE 0 IN c",
        "MOVE ALL IN c",
        "FETCH nonsense words FROM c",
    ] {
        let mut both = Both::new(&sharded);
        let declare = format!("DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR {SORTED}");
        simple(
            &mut both,
            &[
                "BEGIN",
                &declare,
                "FETCH 3 FROM c",
                motion,
                "FETCH c",
                "COMMIT",
            ],
        );
    }
}

/// What has failed is not run again, wherever the transaction goes back to.
#[test]
fn a_cursor_that_has_failed() {
    let sharded = start("cursors_failed");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "BEGIN",
            &format!("DECLARE c NO SCROLL CURSOR FOR {SORTED}"),
            "FETCH 2 FROM c",
            "SAVEPOINT s",
            "FETCH PRIOR FROM c",
            "ROLLBACK TO s",
            "FETCH 1 FROM c",
            "ROLLBACK TO s",
            "CLOSE c",
            "COMMIT",
        ],
    );
}

#[test]
fn names_transactions_and_savepoints() {
    let sharded = start("cursors_names");
    let mut both = Both::new(&sharded);
    let declare = |name: &str| format!("DECLARE {name} NO SCROLL CURSOR FOR {SORTED}");
    simple(
        &mut both,
        &[
            // Not outside a block.
            &declare("c"),
            "FETCH c",
            "BEGIN",
            &declare("c"),
            &declare("\"C\""),
            "FETCH 2 FROM \"C\"",
            "FETCH 1 FROM c",
            &declare("c"),
            "ROLLBACK",
            "BEGIN",
            &declare("c"),
            "SAVEPOINT s",
            &declare("d"),
            "FETCH 1 FROM d",
            "FETCH 1 FROM c",
            "ROLLBACK TO s",
            "FETCH 1 FROM c",
            &declare("d"),
            "FETCH 1 FROM d",
            "CLOSE ALL",
            &declare("d"),
            "FETCH 1 FROM d",
            "FETCH 1 FROM c",
            "ROLLBACK TO s",
            "COMMIT",
            "FETCH 1 FROM d",
            "SELECT count(*) FROM kv",
        ],
    );
}

#[test]
fn cursors_of_one_shard_are_found_again() {
    let sharded = start("cursors_one");
    let mut both = Both::new(&sharded);
    let (one, other) = (
        "DECLARE one CURSOR FOR SELECT v FROM kv WHERE k = 1",
        "DECLARE other CURSOR FOR SELECT v FROM kv WHERE k = 2",
    );
    simple(
        &mut both,
        &[
            "BEGIN",
            one,
            "SELECT v FROM kv WHERE k = 3",
            other,
            "SELECT v FROM kv WHERE k = 4",
            "SELECT v FROM kv WHERE k = 5",
            "FETCH one",
            "FETCH other",
            "SELECT count(*) FROM kv",
            "MOVE one",
            "CLOSE other",
            "DECLARE other CURSOR FOR SELECT v FROM kv WHERE k = 6",
            "FETCH other",
            "DECLARE one CURSOR FOR SELECT v FROM kv WHERE k = 6",
            "ROLLBACK",
        ],
    );
}

#[test]
fn cursors_in_the_extended_protocol() {
    let sharded = start("cursors_extended");
    let mut both = Both::new(&sharded);
    let declare = "DECLARE c NO SCROLL CURSOR FOR SELECT k, v FROM kv WHERE n = $1 ORDER BY k";
    both.script(&[
        ask(&[query("BEGIN")]),
        ask(&[
            parse("", declare, &[]),
            bind("", "", &[Some("3")]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        // As psycopg does.
        ask(&[describe(b'P', "c"), sync()]),
        ask(&[query("FETCH FORWARD 2 FROM c")]),
        ask(&[
            parse("f", "FETCH 1 FROM c", &[]),
            describe(b'S', "f"),
            bind("", "f", &[]),
            describe(b'P', ""),
            execute("", 0),
            bind("", "f", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[
            run("MOVE 1 IN c", &[]),
            run("SELECT count(*) FROM kv", &[]),
            sync(),
        ]),
        ask(&[execute("c", 1), sync()]),
        ask(&[query("FETCH ALL FROM c")]),
        ask(&[run("CLOSE c", &[]), sync()]),
        ask(&[describe(b'P', "c"), sync()]),
        ask(&[query("ROLLBACK")]),
        ask(&[
            run("DECLARE c CURSOR FOR SELECT k FROM kv ORDER BY k", &[]),
            sync(),
        ]),
        ask(&[
            run("BEGIN", &[]),
            run("DECLARE c CURSOR FOR SELECT k FROM kv ORDER BY k", &[]),
            run("FETCH 2 FROM c", &[]),
            close(b'P', "c"),
            run("COMMIT", &[]),
            sync(),
        ]),
    ]);
}

#[test]
fn binary_cursors() {
    let sharded = start("cursors_binary");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "BEGIN",
            "DECLARE c BINARY NO SCROLL CURSOR FOR SELECT k, v FROM kv ORDER BY k",
            "FETCH 3 FROM c",
            "COMMIT",
        ],
    );
}

#[test]
fn a_closed_cursor_leaves_nothing() {
    let sharded = start("cursors_closed");
    let mut both = Both::new(&sharded);
    let declare = format!("DECLARE c CURSOR FOR {SORTED}");
    simple(&mut both, &["BEGIN", &declare, "FETCH 1 FROM c"]);
    assert_eq!(portals_on_shards(&sharded, &mut both.through), 4);
    simple(&mut both, &["CLOSE c"]);
    assert_eq!(portals_on_shards(&sharded, &mut both.through), 0);
    simple(&mut both, &["COMMIT"]);
}

#[test]
fn what_no_cursor_over_shards_does_is_refused() {
    let sharded = start("cursors_refused");
    for statements in [
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT k FROM kv ORDER BY k",
            "FETCH 2 FROM c",
            "FETCH PRIOR FROM c",
        ][..],
        // More rows than a session keeps.
        &[
            "BEGIN",
            "DECLARE c SCROLL CURSOR FOR SELECT a.k, repeat(a.v, 100000) FROM kv a JOIN kv b ON b.n = a.n",
        ],
        &[
            "BEGIN",
            "DECLARE c SCROLL CURSOR FOR SELECT k, repeat(v, 600000) FROM kv",
        ],
    ] {
        let mut client = sharded.client();
        let mut last = None;
        for sql in statements {
            last = Some(client.simple(sql));
        }
        let last = last.unwrap();
        assert_eq!(
            last.refusal(),
            Some("cursor"),
            "{statements:?}: {}",
            last.shown()
        );
        assert_eq!(last.status, b'E');
    }
}

#[test]
fn prepare_and_execute() {
    let sharded = start("cursors_prepared");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "PREPARE picked (int, text) AS SELECT k, v FROM kv WHERE n = $1 AND v > $2 ORDER BY v",
            "EXECUTE picked (2, 'v1')",
            "EXECUTE picked (3, NULL)",
            "PREPARE untyped AS SELECT k, n FROM kv WHERE k < $1 ORDER BY n DESC, k LIMIT $2",
            "EXECUTE untyped (17, 5)",
            "EXECUTE untyped ('9', 2)",
            "PREPARE summed (numeric) AS SELECT n, sum(k) FROM kv WHERE k > $1 GROUP BY n ORDER BY n",
            "EXECUTE summed (20)",
            "PREPARE keys (int, int) AS SELECT k, v FROM kv WHERE k IN ($1, $2) ORDER BY k",
            "EXECUTE keys (1, 2)",
            "EXECUTE keys (3, 3)",
            "PREPARE joined AS SELECT a.k, b.k FROM kv a JOIN kv b ON b.k = a.n WHERE a.k < $1 ORDER BY a.k",
            "BEGIN",
            "PREPARE up (int) AS UPDATE kv SET n = n + $1 RETURNING 1",
            "EXECUTE up (10)",
            "EXECUTE summed (0)",
            "EXECUTE joined (5)",
            "PREPARE ins (int, int) AS INSERT INTO kv (k, n) VALUES ($1, 1), ($2, 2)",
            "EXECUTE ins (1000, 1001)",
            "EXECUTE ins (1000, 1002)",
            "ROLLBACK",
            "EXECUTE summed (0)",
            "DEALLOCATE picked",
            "EXECUTE picked (2, 'v1')",
            "PREPARE summed AS SELECT 1",
            "PREPARE wrong AS SELECT nothing FROM kv",
            "DEALLOCATE ALL",
            "EXECUTE summed (0)",
        ],
    );
}

/// Each type takes what Postgres assigns to it, from any expression, which is looked at once.
#[test]
fn arguments_of_execute() {
    let sharded = start("execute_arguments");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "PREPARE picked (int, text) AS SELECT k, v FROM kv WHERE n = $1 AND v > $2 ORDER BY v",
            "EXECUTE picked (1 + 1, 'v' || 1)",
            "EXECUTE picked (2.4, upper('V1'))",
            "EXECUTE picked (nothing, 'v1')",
            "EXECUTE picked (ARRAY[2], 'v1')",
            "EXECUTE picked (1 / 0, 'v1')",
            "EXECUTE picked (5000000000, 'v1')",
            "EXECUTE picked (2, 1)",
            "PREPARE dated (date) AS SELECT k, v FROM kv WHERE n = 2 AND date '2020-01-01' < $1 ORDER BY v",
            "EXECUTE dated (20200102)",
            "EXECUTE dated (current_date)",
            "EXECUTE dated ('2020-01-02')",
            "EXECUTE dated ('2020-01-01'::timestamp + '1 day')",
            "PREPARE undated AS SELECT k, v FROM kv WHERE n = 2 AND date '2020-01-01' < $1 ORDER BY v",
            "EXECUTE undated (20200102)",
            "EXECUTE undated (now())",
            "PREPARE joined AS SELECT a.k, b.k FROM kv a JOIN kv b ON b.k = a.n WHERE a.k < $1 ORDER BY a.k",
            "EXECUTE joined (2 + 3)",
            "EXECUTE joined (true)",
            "EXECUTE joined (4)",
            "BEGIN",
            "PREPARE up (int) AS UPDATE kv SET n = $1 WHERE k < 30",
            "EXECUTE up (length('abc'))",
            "SELECT count(*) FROM kv WHERE n = 3",
            "EXECUTE up (date '2020-01-01')",
            "EXECUTE up (1)",
            "ROLLBACK",
            "EXECUTE up ((SELECT max(colour) FROM colours))",
            "EXECUTE up (length((SELECT max(colour) FROM colours)))",
            "SELECT n, count(*) FROM kv GROUP BY n ORDER BY n",
            "EXPLAIN (COSTS off) EXECUTE dated (20200102)",
        ],
    );
    let mut as_run = |prepare: &str, execute: &str| {
        both.script(&[
            ask(&[run(prepare, &[]), sync()]),
            ask(&[run(execute, &[]), sync()]),
            ask(&[run("DEALLOCATE p", &[]), sync()]),
        ]);
    };
    let prepare = "PREPARE p (int) AS SELECT k, v FROM kv WHERE k > $1 ORDER BY k";
    as_run(prepare, "EXECUTE p (10 * 2)");
    as_run(prepare, "EXECUTE p (date '2020-01-01')");
    let keyed =
        "PREPARE p (int[], text) AS SELECT k, v FROM kv WHERE k = ANY($1) AND v >= $2 ORDER BY k";
    as_run(keyed, "EXECUTE p ('{1,2,3,4}', lower('V0'))");
    simple(
        &mut both,
        &[
            "SET extra_float_digits = 0",
            "PREPARE thirds (float8) AS SELECT k, $1 * 3 FROM kv WHERE n = 1 ORDER BY k",
            "EXECUTE thirds (0.1::float8 + 0.2::float8)",
            "SET extra_float_digits = 3",
            "EXECUTE thirds (0.1::float8 + 0.2::float8)",
            "SET DateStyle = 'SQL'; SET TimeZone = 'Asia/Shanghai'",
            "PREPARE at (timestamptz) AS SELECT k, $1 AT TIME ZONE 'UTC' FROM kv WHERE n = 1 ORDER BY k",
            "EXECUTE at ('2026-07-01 12:00:00+00'::timestamptz + '1 hour')",
        ],
    );
    let mut client = sharded.client();
    for sql in [
        "CREATE SEQUENCE asked",
        "CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM kv'",
        "PREPARE p (int) AS SELECT k FROM kv WHERE n = $1",
        "PREPARE one (int, int) AS UPDATE kv SET n = $2 WHERE k = $1",
    ] {
        succeeded(sql, &client.simple(sql));
    }
    for (sql, id) in [
        ("EXECUTE p (nextval('asked'))", "execute"),
        ("EXECUTE one (1, nextval('asked')::int)", "execute"),
        ("EXECUTE p (pg_advisory_lock(1)::text::int)", "execute"),
        ("EXECUTE p (counted())", "opaque_function"),
        ("EXECUTE one (1, counted()::int)", "opaque_function"),
        ("EXECUTE one (1 + 1, 2)", "execute"),
    ] {
        let refused = client.simple(sql);
        assert_eq!(refused.refusal(), Some(id), "{sql}: {}", refused.shown());
    }
    succeeded("one", &client.simple("EXECUTE one (1, 1 + 1)"));
}

/// EXECUTE by the messages that a driver sends which has no simple queries.
#[test]
fn execute_in_the_extended_protocol() {
    let sharded = start("execute_extended");
    let mut both = Both::new(&sharded);
    for (prepare, arguments) in [
        (
            "PREPARE p (int) AS SELECT k, v FROM kv WHERE n = $1 ORDER BY v",
            "(2)",
        ),
        (
            "PREPARE p AS SELECT n, count(*), sum(k) FROM kv GROUP BY n ORDER BY n",
            "",
        ),
        (
            "PREPARE p (int) AS SELECT a.k, b.v FROM kv a JOIN kv b ON b.k = a.n WHERE a.k < $1 ORDER BY a.k",
            "('5')",
        ),
        (
            "PREPARE p (int, int) AS SELECT k, v FROM kv WHERE k IN ($1, $2) ORDER BY k",
            "(1, 2)",
        ),
        (
            "PREPARE p (int, int) AS SELECT k, v FROM kv WHERE k IN ($1, $2) ORDER BY k",
            "(1, 1)",
        ),
        (
            "PREPARE p (int) AS INSERT INTO kv (k, n) VALUES (100, $1), (101, $1), (102, 7) RETURNING k, n",
            "(3)",
        ),
        (
            "PREPARE p (int) AS UPDATE kv SET n = n + $1 WHERE k < 20 RETURNING 1",
            "(10)",
        ),
        (
            "PREPARE p (int) AS UPDATE kv SET n = n + $1 WHERE k < 20",
            "(10)",
        ),
        ("PREPARE p AS DELETE FROM kv", ""),
    ] {
        let sql = format!("EXECUTE p {arguments}");
        let as_binary = crate::portals::bind_for("", "e", &[], &[1]);
        both.script(&[
            ask(&[run(prepare, &[]), sync()]),
            ask(&[query("BEGIN")]),
            // As tokio-postgres and psycopg do.
            ask(&[parse("e", &sql, &[]), describe(b'S', "e"), sync()]),
            ask(&[
                bind("", "e", &[]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]),
            ask(&[query("ROLLBACK")]),
            ask(&[query("BEGIN")]),
            ask(&[as_binary, describe(b'P', ""), execute("", 0), sync()]),
            ask(&[query("ROLLBACK")]),
            ask(&[query("BEGIN")]),
            ask(&[bind("c", "e", &[]), execute("c", 2), sync()]),
            ask(&[execute("c", 2), sync()]),
            ask(&[execute("c", 0), sync()]),
            ask(&[execute("c", 0), sync()]),
            ask(&[query("ROLLBACK")]),
            // With what came by PREPARE bound by its name.
            ask(&[describe(b'S', "p"), sync()]),
            ask(&[run("DEALLOCATE p", &[]), sync()]),
            ask(&[bind("", "e", &[]), execute("", 0), sync()]),
            ask(&[close(b'S', "e"), sync()]),
        ]);
    }
}

#[test]
fn names_of_both_protocols_over_shards() {
    let sharded = start("execute_names");
    let mut both = Both::new(&sharded);
    let by_parse = "SELECT k, v FROM kv WHERE n = $1 ORDER BY v";
    both.script(&[
        ask(&[parse("m", by_parse, &[23]), sync()]),
        ask(&[run("EXECUTE m (3)", &[]), sync()]),
        ask(&[query("EXECUTE m (3)")]),
        ask(&[query(
            "PREPARE s (int) AS SELECT k FROM kv WHERE n = $1 ORDER BY k",
        )]),
        ask(&[
            bind("", "s", &[Some("4")]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[query(
            "PREPARE w (int, int) AS INSERT INTO kv (k, n) VALUES ($1, 1), ($2, 2)",
        )]),
        ask(&[
            bind("", "w", &[Some("200"), Some("201")]),
            execute("", 0),
            sync(),
        ]),
        ask(&[query("SELECT k, n FROM kv WHERE k > 100 ORDER BY k")]),
        ask(&[run("EXECUTE w (202, 203)", &[]), sync()]),
        ask(&[run("EXECUTE w (204, 203)", &[]), sync()]),
        ask(&[query(
            "SELECT k, n FROM kv WHERE k IN (200, 201, 202, 203, 204) ORDER BY k",
        )]),
        ask(&[query(
            "PREPARE i (int, int) AS SELECT k FROM kv WHERE k IN ($1, $2) ORDER BY k",
        )]),
        ask(&[
            bind("", "i", &[Some("1"), Some("2")]),
            describe(b'P', ""),
            execute("", 0),
            bind("", "i", &[Some("3"), Some("3")]),
            execute("", 0),
            bind("", "i", &[Some("4"), Some("203")]),
            execute("", 0),
            sync(),
        ]),
        ask(&[query(
            "PREPARE l AS SELECT k FROM kv WHERE k IN (1, 2, 3, 4, 5) ORDER BY k",
        )]),
        ask(&[
            describe(b'S', "l"),
            bind("", "l", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[query("EXECUTE l")]),
        // Two in one unit of work.
        ask(&[
            run("EXECUTE w (210, 211)", &[]),
            run("EXECUTE w (212, 210)", &[]),
            sync(),
        ]),
        ask(&[query("SELECT count(*) FROM kv")]),
        ask(&[query("EXECUTE m")]),
        ask(&[run("EXECUTE m (1, 2)", &[]), sync()]),
    ]);
    both.same(&ask(&[query("PREPARE none AS SELECT count(*) FROM kv")]));
    both.same(&ask(&[run("EXECUTE none (1)", &[]), sync()]));
    both.same(&ask(&[query("EXECUTE none (1, 2)")]));
    // A hint names the shard whatever else could be done.
    let client = &mut both.through;
    client.step(&ask(&[query("PREPARE c AS SELECT count(*) FROM kv")]));
    let counts: u64 = (1..=4)
        .map(|shard| {
            let sql = format!("/* trunkline: shard=s{shard} */ EXECUTE c");
            client.value(&sql).parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(client.value("EXECUTE c").parse::<u64>().unwrap(), counts);
}

const MOTIONS: &[&str] = &[
    "FETCH 2 FROM c",
    "FETCH PRIOR FROM c",
    "FETCH PRIOR FROM c",
    "FETCH PRIOR FROM c",
    "FETCH 0 FROM c",
    "FETCH NEXT FROM c",
    "FETCH 0 FROM c",
    "MOVE 0 FROM c",
    "FETCH LAST FROM c",
    "FETCH NEXT FROM c",
    "FETCH BACKWARD 3 FROM c",
    "FETCH FIRST FROM c",
    "FETCH ABSOLUTE 3 FROM c",
    "FETCH ABSOLUTE -2 FROM c",
    "FETCH ABSOLUTE 0 FROM c",
    "FETCH ABSOLUTE 1000 FROM c",
    "FETCH RELATIVE -1 FROM c",
    "FETCH RELATIVE -1000 FROM c",
    "FETCH RELATIVE 2 FROM c",
    "FETCH RELATIVE 0 FROM c",
    "MOVE RELATIVE 2 IN c",
    "MOVE BACKWARD 1 IN c",
    "MOVE FORWARD ALL IN c",
    "MOVE BACKWARD ALL IN c",
    "MOVE ABSOLUTE -1 IN c",
    "MOVE LAST IN c",
    "MOVE ABSOLUTE 99 IN c",
    "FETCH BACKWARD ALL FROM c",
    "FETCH ALL FROM c",
    "FETCH ALL FROM c",
    "FETCH BACKWARD 0 FROM c",
    "FETCH -2 FROM c",
];

#[test]
fn cursors_go_back() {
    let sharded = start("cursors_scroll");
    let none = "SELECT k FROM kv WHERE k > 100 ORDER BY v";
    let one = "SELECT count(*) FROM kv";
    for sql in [SORTED, SUMS, GATHERED, none, one] {
        for how in [
            "SCROLL CURSOR",
            "SCROLL CURSOR WITH HOLD",
            "BINARY SCROLL CURSOR",
        ] {
            let mut both = Both::new(&sharded);
            simple(&mut both, &["BEGIN", &format!("DECLARE c {how} FOR {sql}")]);
            simple(&mut both, MOTIONS);
            // The transaction's other statements do not change what it shows.
            simple(
                &mut both,
                &[
                    "DELETE FROM kv",
                    "FETCH FIRST FROM c",
                    "ROLLBACK",
                    "FETCH NEXT FROM c",
                ],
            );
        }
    }
}

#[test]
fn cursors_outlive_their_transaction() {
    let sharded = start("cursors_hold");
    for sql in [SORTED, SUMS, GATHERED] {
        let mut both = Both::new(&sharded);
        let declare = |name: &str, how: &str| format!("DECLARE {name} {how} FOR {sql}");
        simple(
            &mut both,
            &[
                "BEGIN",
                &declare("c", "SCROLL CURSOR WITH HOLD"),
                &declare("gone", "SCROLL CURSOR"),
                "FETCH 2 FROM c",
                "UPDATE kv SET n = n",
                "COMMIT",
                "FETCH PRIOR FROM c",
                "FETCH 1 FROM gone",
            ],
        );
        simple(&mut both, MOTIONS);
        simple(
            &mut both,
            &[
                "BEGIN",
                "SELECT v FROM kv WHERE k = 1",
                "FETCH FIRST FROM c",
                &declare("d", "NO SCROLL CURSOR WITH HOLD"),
                "SAVEPOINT s",
                &declare("e", "CURSOR WITH HOLD"),
                "FETCH 1 FROM e",
                "ROLLBACK TO s",
                "FETCH 1 FROM e",
                "ROLLBACK TO s",
                "FETCH 1 FROM d",
                "ROLLBACK",
                "FETCH 1 FROM d",
                "FETCH NEXT FROM c",
                // Outside of a block.
                &declare("d", "NO SCROLL CURSOR WITH HOLD"),
                &declare("d", "CURSOR WITH HOLD"),
                "FETCH 3 FROM d",
                "FETCH PRIOR FROM d",
                "FETCH 1 FROM d",
                "MOVE 1 FROM d",
                "CLOSE d",
                &declare("d", "NO SCROLL CURSOR WITH HOLD"),
                "SELECT 1/0",
                "FETCH 1 FROM d",
                "BEGIN",
                "SELECT 1/0",
                "FETCH 1 FROM d",
                "ROLLBACK",
                "FETCH 1 FROM d",
                "BEGIN",
                "CLOSE d",
                "ROLLBACK",
                "FETCH 1 FROM d",
                "FETCH LAST FROM c",
                "CLOSE ALL",
                "FETCH 1 FROM c",
                &declare("c", "SCROLL CURSOR WITH HOLD"),
                "FETCH 1 FROM c",
                "DISCARD ALL",
                "FETCH 1 FROM c",
                // Inside of a transaction that reads only.
                "BEGIN READ ONLY",
                &declare("c", "SCROLL CURSOR WITH HOLD"),
                "COMMIT",
                "FETCH LAST FROM c",
                "CLOSE c",
                "CLOSE c",
            ],
        );
        // The connections are nobody's.
        assert_eq!(portals_on_shards(&sharded, &mut both.through), 0);
    }
}

#[test]
fn kept_cursors_in_the_extended_protocol() {
    let sharded = start("cursors_kept");
    let mut both = Both::new(&sharded);
    let declare =
        "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT k, v FROM kv WHERE n = $1 ORDER BY k";
    both.script(&[
        ask(&[
            parse("", declare, &[]),
            bind("", "", &[Some("3")]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[describe(b'P', "c"), sync()]),
        ask(&[
            parse("f", "FETCH BACKWARD 2 FROM c", &[]),
            describe(b'S', "f"),
            run("MOVE ALL FROM c", &[]),
            bind("", "f", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[execute("c", 1), sync()]),
        ask(&[execute("c", 0), sync()]),
        ask(&[run("FETCH FIRST FROM c", &[]), sync()]),
        // What fails in the same unit of work takes the cursor with it.
        ask(&[
            run("DECLARE d CURSOR WITH HOLD FOR SELECT k FROM kv", &[]),
            run("SELECT 1/0", &[]),
            sync(),
        ]),
        ask(&[run("FETCH 1 FROM d", &[]), sync()]),
        ask(&[
            run("DECLARE d SCROLL CURSOR FOR SELECT k FROM kv", &[]),
            sync(),
        ]),
        ask(&[close(b'P', "c"), sync()]),
        ask(&[run("FETCH 1 FROM c", &[]), sync()]),
    ]);
}

#[test]
fn what_postgres_has_against_a_cursor() {
    let sharded = start("cursors_wrong");
    for sql in [
        "DECLARE c SCROLL CURSOR FOR SELECT k FROM kv FOR UPDATE",
        "DECLARE c CURSOR WITH HOLD FOR SELECT k FROM kv FOR SHARE",
        "DECLARE c SCROLL CURSOR FOR SELECT nothing FROM kv",
        "DECLARE c NO SCROLL SCROLL CURSOR FOR SELECT k FROM kv",
    ] {
        let mut both = Both::new(&sharded);
        simple(&mut both, &["BEGIN", sql]);
        simple(&mut both, &["FETCH 1 FROM c", "ROLLBACK"]);
    }
}

/// In session pooling, too, what one server has prepared is not all of it.
#[test]
fn prepared_in_session_pooling() {
    let sharded = crate::portals::start_in("prepared_session", "mode = \"session\"\n");
    let mut both = Both::new(&sharded);
    simple(
        &mut both,
        &[
            "PREPARE p AS SELECT count(*) FROM kv",
            "EXECUTE p",
            "PREPARE k (int) AS SELECT v FROM kv WHERE k = $1",
            "EXECUTE k (1)",
            "EXECUTE k (2)",
            "EXECUTE k (3)",
            "EXECUTE k (4)",
            "DEALLOCATE ALL",
            "EXECUTE p",
        ],
    );
    both.script(&[
        ask(&[run("PREPARE p AS SELECT sum(k) FROM kv", &[]), sync()]),
        ask(&[run("EXECUTE p", &[]), sync()]),
        ask(&[bind("", "p", &[]), execute("", 0), sync()]),
    ]);
}
