//! DECLARE, FETCH, MOVE, CLOSE, and PREPARE and EXECUTE in SQL, over several shards: as on one server, in both protocols.

use crate::portals::{Both, GATHERED, SORTED, SUMS, portals_on_shards, start};
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
            "DECLARE c SCROLL CURSOR FOR SELECT k FROM kv ORDER BY k",
        ][..],
        &[
            "BEGIN",
            "DECLARE c CURSOR WITH HOLD FOR SELECT k FROM kv ORDER BY k",
        ],
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT k FROM kv ORDER BY k",
            "FETCH 2 FROM c",
            "FETCH PRIOR FROM c",
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
    let mut client = sharded.client();
    client.simple("PREPARE p (int) AS SELECT k FROM kv WHERE n = $1");
    let refused = client.simple("EXECUTE p (1 + 1)");
    assert_eq!(refused.refusal(), Some("execute"), "{}", refused.shown());
}
