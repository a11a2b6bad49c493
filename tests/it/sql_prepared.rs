//! PREPARE, EXECUTE and DEALLOCATE in transaction pooling: as on one server, on whatever connection, to the right shard.

use crate::proxy::{Proxy, keys, plain, proxy, same, same_as, shards_with};
use crate::wire_client::{Step, ask, bind, close, describe, execute, parse, query, run, sync};

fn queries(texts: &[&str]) -> Vec<Step> {
    texts.iter().map(|text| ask(&[query(text)])).collect()
}

#[test]
fn as_on_one_server() {
    let said = same(&queries(&[
        "PREPARE p AS SELECT 1 AS one",
        "EXECUTE p",
        "PREPARE p AS SELECT 2",
        "PREPARE Q (int, text) AS SELECT $1 + 1, $2 || 'x'",
        "EXECUTE q (4, 'a')",
        "EXECUTE q ('four', 'a')",
        "EXECUTE q (2 + 2, upper('a'))",
        "EXECUTE \"Q\"",
        "EXPLAIN (COSTS OFF) EXECUTE p",
        "EXPLAIN (COSTS OFF) EXECUTE q (1, NULL)",
        "PREPARE bad AS SELECT nothing_of_this_name",
        "EXECUTE bad",
        "PREPARE bad (no_such_type) AS SELECT 1",
        "DEALLOCATE bad",
        "BEGIN",
        "EXECUTE p",
        "PREPARE inside AS SELECT 3",
        "ROLLBACK",
        "EXECUTE inside",
        "BEGIN",
        "PREPARE broken AS SELECT 1/0",
        "EXECUTE broken",
        "EXECUTE p",
        "PREPARE late AS SELECT 1",
        "DEALLOCATE p",
        "DEALLOCATE ALL",
        "ROLLBACK",
        "EXECUTE p",
        "EXECUTE late",
        "DEALLOCATE PREPARE p",
        "EXECUTE p",
        "DEALLOCATE p",
        "DEALLOCATE ALL",
        "EXECUTE q (1, 'b')",
        "PREPARE p AS SELECT 'again'",
        "EXECUTE p;",
        "DISCARD PLANS",
        "EXECUTE p",
        "DISCARD ALL",
        "EXECUTE p",
        "/* a comment */ PREPARE \"trunk\" AS -- another\n SELECT 'c'; ",
        " execute trunk ; ",
        "deallocate \"trunk\"",
        "PREPARE w AS INSERT INTO notes VALUES ($1, $2) RETURNING body",
        "EXECUTE w (6001, 'written')",
        "EXECUTE w (6001, 'again')",
        "PREPARE r AS DELETE FROM notes WHERE id = $1",
        "EXECUTE r (6001)",
        "CREATE TEMP TABLE made AS EXECUTE q",
        "PREPARE z AS SELECT 7 AS seven",
        "CREATE TEMP TABLE made AS EXECUTE z",
        "SELECT * FROM made",
        "DISCARD ALL",
    ]));
    assert!(said.contains("26000") && said.contains("42P05"), "{said}");
}

#[test]
fn several_statements_in_one_message() {
    same(&queries(&[
        "PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE p; EXECUTE p",
        "PREPARE p AS SELECT 1; EXECUTE p",
        "EXECUTE p; EXECUTE p",
        "DEALLOCATE p; PREPARE p AS SELECT 2; EXECUTE p",
        "EXECUTE p",
        "BEGIN; EXECUTE p; COMMIT",
        "EXECUTE p; SELECT 1/0; DEALLOCATE p",
        "EXECUTE p",
        "DEALLOCATE p; SELECT 1/0",
        "EXECUTE p",
        "PREPARE x AS SELECT 'x'; EXECUTE nothing; EXECUTE x",
        "EXECUTE x",
        "DEALLOCATE ALL; PREPARE y AS SELECT 'y'; EXECUTE y",
        "EXECUTE y",
        "EXECUTE x",
        "EXECUTE y; DISCARD PLANS; EXECUTE y",
    ]));
}

/// Names are one space, whichever way they were made.
#[test]
fn sql_and_protocol_share_their_names() {
    same(&[
        ask(&[query("PREPARE s (int) AS SELECT $1 * 2")]),
        ask(&[
            bind("", "s", &[Some("21")]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[describe(b'S', "s"), sync()]),
        ask(&[parse("s", "SELECT 1", &[]), sync()]),
        ask(&[parse("p", "SELECT $1::int * 3", &[23]), sync()]),
        ask(&[query("EXECUTE p (5)")]),
        ask(&[query("PREPARE p AS SELECT 1")]),
        ask(&[close(b'S', "s"), sync()]),
        ask(&[query("EXECUTE s (1)")]),
        ask(&[query("DEALLOCATE p")]),
        ask(&[bind("", "p", &[Some("1")]), execute("", 0), sync()]),
        ask(&[query("PREPARE late AS SELECT 'late'")]),
        ask(&[query("BEGIN")]),
        ask(&[bind("c", "late", &[]), execute("c", 0), sync()]),
        ask(&[query("EXECUTE late")]),
        ask(&[query("COMMIT")]),
    ]);
}

#[test]
fn by_the_extended_protocol() {
    same(&[
        ask(&[run("PREPARE p (int) AS SELECT $1 + 1 AS more", &[]), sync()]),
        ask(&[run("EXECUTE p (1)", &[]), sync()]),
        ask(&[
            parse("", "EXECUTE p (2)", &[]),
            describe(b'S', ""),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[run("PREPARE p AS SELECT 1", &[]), sync()]),
        ask(&[run("EXECUTE q", &[]), sync()]),
        ask(&[
            run("PREPARE q AS SELECT 'q'", &[]),
            run("EXECUTE q", &[]),
            run("DEALLOCATE q", &[]),
            run("EXECUTE q", &[]),
            run("SELECT 'never'", &[]),
            sync(),
        ]),
        ask(&[parse("e", "EXECUTE p (7)", &[]), sync()]),
        ask(&[bind("", "e", &[]), execute("", 0), sync()]),
        ask(&[bind("", "e", &[]), execute("", 0), sync()]),
        ask(&[run("EXPLAIN (COSTS OFF) EXECUTE p (7)", &[]), sync()]),
        ask(&[run("DEALLOCATE p", &[]), sync()]),
        ask(&[bind("", "e", &[]), execute("", 0), sync()]),
        ask(&[run("PREPARE bad AS SELECT nothing", &[]), sync()]),
        ask(&[
            run("PREPARE one AS SELECT 1", &[]),
            run("PREPARE two AS SELECT 2", &[]),
            sync(),
        ]),
        ask(&[run("DEALLOCATE ALL", &[]), sync()]),
        ask(&[run("EXECUTE one", &[]), sync()]),
    ]);
}

/// What stands behind an error has not happened.
#[test]
fn nothing_behind_an_error_takes_effect() {
    same(&[
        ask(&[query("PREPARE p AS SELECT 'p'")]),
        ask(&[
            parse("n", "SELECT 'n'", &[]),
            parse("", "SELECT 'old'", &[]),
            sync(),
        ]),
        ask(&[
            run("SELECT 1/0", &[]),
            run("DEALLOCATE p", &[]),
            close(b'S', "n"),
            sync(),
        ]),
        ask(&[query("EXECUTE p")]),
        ask(&[bind("", "n", &[]), execute("", 0), sync()]),
        ask(&[
            parse("d", "DEALLOCATE ALL", &[]),
            parse("", "SELECT 'old'", &[]),
            sync(),
        ]),
        ask(&[
            parse("z", "SELECT 1/0", &[]),
            bind("z", "z", &[]),
            execute("z", 0),
            bind("", "d", &[]),
            execute("", 0),
            close(b'S', ""),
            run("PREPARE late AS SELECT 1", &[]),
            sync(),
        ]),
        ask(&[query("EXECUTE p; EXECUTE late")]),
        ask(&[bind("", "n", &[]), execute("", 0), sync()]),
    ]);
}

/// An error does not take away the unnamed statement that Postgres would still have.
#[test]
fn the_unnamed_statement_survives_errors() {
    let division = "SELECT 1/$1::int";
    same(&[
        ask(&[
            parse("z", division, &[]),
            parse("", "SELECT 'kept'", &[]),
            sync(),
        ]),
        // The Parse behind the error was never done.
        ask(&[
            bind("z", "z", &[Some("0")]),
            execute("z", 0),
            parse("", "SELECT 'skipped'", &[]),
            sync(),
        ]),
        ask(&[bind("", "", &[]), execute("", 0), sync()]),
        // This one was, before the error.
        ask(&[
            parse("", division, &[]),
            bind("", "", &[Some("0")]),
            execute("", 0),
            sync(),
        ]),
        ask(&[bind("", "", &[Some("1")]), execute("", 0), sync()]),
        ask(&[
            parse("", "SELECT 'two'", &[]),
            bind("z", "z", &[Some("many")]),
            parse("", "SELECT 'three'", &[]),
            sync(),
        ]),
        ask(&[bind("", "", &[]), execute("", 0), sync()]),
        // A Parse that fails takes the one before it along.
        ask(&[parse("", "SELECT nothing", &[]), sync()]),
        ask(&[bind("", "", &[]), execute("", 0), sync()]),
    ]);
}

#[test]
fn a_setting_of_ours_behind_an_error() {
    let mut client = proxy().client("trusty");
    let home = client.value("SELECT current_setting('port')");
    let said = client.ask(&[
        run("SELECT 1/0", &[]),
        run("SET trunkline.shard = 's3'", &[]),
        sync(),
    ]);
    assert_eq!(said, "1 E(ERROR 22012 division by zero) Z(I)");
    assert_eq!(client.value("SELECT current_setting('port')"), home);
    client.ask(&[
        run("SELECT 1", &[]),
        run("SET trunkline.shard = 's3'", &[]),
        sync(),
    ]);
    assert_ne!(client.value("SELECT current_setting('port')"), home);
}

#[test]
fn arguments_decide_the_shard() {
    let keys = keys(6_100_000);
    let mut client = proxy().client("trusty");
    let prepared = [
        "PREPARE ins (bigint, text) AS INSERT INTO customers (id, name) VALUES ($1, $2)",
        "PREPARE sel AS SELECT name FROM customers WHERE id = $1",
        "PREPARE narrow (int) AS SELECT name FROM customers WHERE id = $1",
        "PREPARE fixed AS SELECT count(*) FROM customers WHERE id = 6099999",
    ];
    for sql in prepared {
        assert_eq!(client.query(sql), "C(PREPARE) Z(I)");
    }
    for (place, key) in keys.iter().enumerate() {
        assert_eq!(
            client.query(&format!("EXECUTE ins ({key}, 'of {place}')")),
            "C(INSERT 0 1) Z(I)"
        );
        assert_eq!(
            shards_with("customers", &format!("id = {key}")),
            [format!("s{}", place + 1)]
        );
        for sql in [
            format!("EXECUTE sel ({key})"),
            format!("EXECUTE sel ('{key}')"),
            format!("EXECUTE sel (+{key})"),
            format!("EXECUTE narrow ({key})"),
        ] {
            assert_eq!(client.value(&sql), format!("of {place}"), "{sql}");
        }
        // By the protocol, too, and with a hint where the value is no literal.
        let key = key.to_string();
        assert_eq!(
            client.ask(&[bind("", "sel", &[Some(&key)]), execute("", 0), sync()]),
            format!("2 D(of {place}) C(SELECT 1) Z(I)")
        );
        assert_eq!(
            client.value(&format!(
                "/* trunkline: shard=s{} */ EXECUTE sel ({key} + 0)",
                place + 1
            )),
            format!("of {place}")
        );
    }
    assert_eq!(client.value("EXECUTE fixed"), "0");
    let refused = [
        (format!("EXECUTE sel ({} + 0)", keys[0]), "0A000"),
        ("EXECUTE sel (NULL)".to_owned(), "22004"),
        (format!("EXECUTE sel ({}.4)", keys[0]), "0A000"),
        (
            format!("EXECUTE sel ({}); EXECUTE sel ({})", keys[0], keys[1]),
            "0A000",
        ),
        (
            format!("CREATE TABLE t AS EXECUTE sel ({})", keys[0]),
            "0A000",
        ),
    ];
    for (sql, sqlstate) in refused {
        let said = client.query(&sql);
        assert!(
            said.starts_with(&format!("E(ERROR {sqlstate} ")),
            "{sql}: {said}"
        );
    }
    // Nothing is kept for it.
    assert!(
        proxy().report()[0]
            .clients
            .iter()
            .all(|client| client.pins.is_empty() || &*client.user != "trusty")
    );
    for key in keys {
        client.query(&format!("DELETE FROM customers WHERE id = {key}"));
    }
}

/// Errors point into the text that the client wrote, not into the one that a server got.
#[test]
fn errors_point_into_the_clients_text() {
    let (mut direct, mut through) = (plain(), proxy().client("trusty"));
    let mut same_place = |messages: &[Vec<u8>]| {
        let [expected, got] = [&mut direct, &mut through].map(|client| {
            let (bytes, until) = ask(messages);
            client.send(&bytes);
            let said = client.read_until(until);
            let error = said.iter().find(|message| message.tag == b'E');
            error.map(|error| (error.sqlstate(), error.position()))
        });
        assert_eq!(got, expected, "{messages:?}");
        got.and_then(|(_, position)| position)
    };
    for text in [
        "PREPARE p AS SELECT nothing",
        "/* é */ PREPARE \"a longer né than ours will be\" AS SELECT nothing",
        "PREPARE p AS SELECT 1; PREPARE q AS SELECT nothing",
        "PREPARE p AS SELECT 1a",
        "PREPARE p AS SELECT $1::int + 1",
        "EXECUTE e ('four')",
        "EXECUTE e (1, 2)",
        "EXECUTE e (nothing)",
        "EXECUTE e (1); EXECUTE e (1 + nothing); SELECT 1",
        "EXPLAIN EXECUTE e (nothing)",
        "SELECT nothing",
    ] {
        let simple = same_place(&[query(text)]);
        let extended = (!text.contains(';')).then(|| same_place(&[run(text, &[]), sync()]));
        same_place(&[query("DEALLOCATE ALL; PREPARE e AS SELECT $1::int + 1")]);
        assert!(extended.is_none_or(|extended| extended == simple), "{text}");
    }
}

#[test]
fn explain_finds_what_it_creates_from() {
    same(&queries(&[
        "PREPARE p AS SELECT 1 AS one",
        "EXPLAIN (COSTS OFF) CREATE TEMP TABLE made AS EXECUTE p",
        "EXPLAIN (COSTS OFF, ANALYZE, SUMMARY OFF, TIMING OFF) CREATE TEMP TABLE made AS EXECUTE p WITH NO DATA",
        "SELECT * FROM made",
    ]));
}

/// Two clients use one connection in turn, each with statements of the same names.
#[test]
fn one_connection_serves_all() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client("lone")).collect();
    for (place, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            client.query(&format!("PREPARE p AS SELECT 'of {place}'")),
            "C(PREPARE) Z(I)"
        );
        assert_eq!(
            client.query("PREPARE shared AS SELECT 'shared'"),
            "C(PREPARE) Z(I)"
        );
    }
    for _ in 0..2 {
        for (place, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.value("EXECUTE p"), format!("of {place}"));
            assert_eq!(client.value("EXECUTE shared"), "shared");
        }
    }
    // What is the same is there once, in the proxy and on the server.
    assert_eq!(proxy.report()[0].prepared_statements, 4);
    assert_eq!(
        clients[0]
            .value("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%shared%'"),
        "1"
    );
    assert_eq!(clients[0].query("DEALLOCATE shared"), "C(DEALLOCATE) Z(I)");
    assert_eq!(clients[1].value("EXECUTE shared"), "shared");
    // Nobody reaches another client's statement by the name that servers know.
    let name =
        clients[0].value("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%of 1%'");
    for sql in [
        format!("EXECUTE {name}"),
        format!("EXECUTE {name}; SELECT 1"),
        format!("DEALLOCATE {name}"),
    ] {
        assert!(
            clients[0].query(&sql).starts_with("E(ERROR 26000 "),
            "{sql}"
        );
    }
    assert!(
        clients[0]
            .ask(&[run(&format!("EXECUTE {name}"), &[]), sync()])
            .contains("E(ERROR 26000 ")
    );
    // DISCARD ALL of one leaves the others what they have.
    assert_eq!(clients[0].query("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(clients[1].value("EXECUTE p"), "of 1");
    assert!(clients[0].query("EXECUTE p").starts_with("E(ERROR 26000 "));
}

/// Constants are read under the settings of the client whose statement it is.
#[test]
fn a_shared_text_is_read_under_each_clients_settings() {
    let proxy = proxy();
    let [mut one, mut two] = [("datestyle", "ISO, MDY"), ("datestyle", "ISO, DMY")]
        .map(|style| proxy.client_with("lone", &[style]));
    let text = "SELECT '01/02/2003'::date";
    for _ in 0..2 {
        for (client, expected) in [(&mut one, "2003-01-02"), (&mut two, "2003-02-01")] {
            client.query(&format!("PREPARE p AS {text}"));
            assert_eq!(client.value("EXECUTE p"), expected);
            client.query("DEALLOCATE p");
            let said = client.ask(&[
                parse("s", text, &[]),
                bind("", "s", &[]),
                execute("", 0),
                close(b'S', "s"),
                sync(),
            ]);
            assert_eq!(said, format!("1 2 D({expected}) C(SELECT 1) 3 Z(I)"));
        }
    }
}

/// A connection holds so many bytes of statements and no more; what is closed is prepared again when it is needed.
#[test]
fn bytes_on_a_connection_are_bounded() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\nmax_prepared_size = \"64kB\"\n");
    let mut client = proxy.client("lone");
    let long = "x".repeat(2000);
    for number in 0..50 {
        let text = format!("PREPARE p{number} AS SELECT /* {long} */ {number}");
        assert_eq!(client.query(&text), "C(PREPARE) Z(I)");
        let text = format!("SELECT {number}, 'parsed' /* {long} */");
        client.ask(&[parse(&format!("n{number}"), &text, &[]), sync()]);
    }
    let held: usize = client
        .value("SELECT count(*) FROM pg_prepared_statements")
        .parse()
        .unwrap();
    assert!((8..=11).contains(&held), "{held}");
    for number in 0..50 {
        assert_eq!(
            client.value(&format!("EXECUTE p{number}")),
            number.to_string()
        );
        assert_eq!(
            client.value(&format!("EXECUTE n{number}")),
            number.to_string()
        );
        let said = client.ask(&[bind("", &format!("p{number}"), &[]), execute("", 0), sync()]);
        assert_eq!(said, format!("2 D({number}) C(SELECT 1) Z(I)"));
    }
    let held: usize = client
        .value("SELECT count(*) FROM pg_prepared_statements")
        .parse()
        .unwrap();
    assert!((8..=11).contains(&held), "{held}");
}

/// A statement whose result has another shape since a change of its table: unseen where the client is told the shape with the
/// rows, and Postgres's own error where it is not; prepared anew it works in any case.
#[test]
fn a_changed_result_is_prepared_anew() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let mut client = proxy.client("lone");
    let on_home = |sql: &str| {
        crate::servers::cluster().shards()[0]
            .primary
            .run_sql(crate::proxy::DATABASE, sql)
            .unwrap()
    };
    on_home("SET ROLE app; CREATE TABLE other.shaped (a int); INSERT INTO other.shaped VALUES (1)");
    client.query("SET trunkline.shard = 's1'");
    client.query("PREPARE p AS SELECT * FROM other.shaped");
    client.ask(&[parse("n", "SELECT * FROM other.shaped", &[]), sync()]);
    let portal = [
        bind("", "n", &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    let blind = [bind("", "n", &[]), execute("", 0), sync()];
    assert_eq!(client.query("EXECUTE p"), "T(a:23) D(1) C(SELECT 1) Z(I)");
    assert_eq!(client.ask(&portal), "2 T(a:23) D(1) C(SELECT 1) Z(I)");
    // Changed behind Trunkline's back.
    on_home("ALTER TABLE other.shaped ADD b text DEFAULT 'b'");
    let stale = "E(ERROR 0A000 cached plan must not change result type)";
    assert_eq!(client.query("EXECUTE p"), format!("{stale} Z(I)"));
    assert_eq!(
        client.ask(&portal),
        "2 T(a:23 b:25) D(1|b) C(SELECT 1) Z(I)"
    );
    on_home("ALTER TABLE other.shaped ADD c text DEFAULT 'c'");
    assert_eq!(client.ask(&blind), format!("{stale} Z(I)"));
    assert_eq!(client.ask(&blind), format!("{stale} Z(I)"));
    assert_eq!(
        client.ask(&portal),
        "2 T(a:23 b:25 c:25) D(1|b|c) C(SELECT 1) Z(I)"
    );
    assert_eq!(client.ask(&blind), "2 D(1|b|c) C(SELECT 1) Z(I)");
    // In a transaction the error is the transaction's.
    on_home("ALTER TABLE other.shaped ADD d text DEFAULT 'd'");
    client.query("BEGIN");
    assert_eq!(client.query("EXECUTE p"), format!("{stale} Z(E)"));
    client.query("ROLLBACK");
    on_home("ALTER TABLE other.shaped ADD e text DEFAULT 'e'");
    client.query("BEGIN");
    assert_eq!(client.ask(&portal), format!("{stale} Z(E)"));
    client.query("ROLLBACK");
    let said = client.ask(&[
        close(b'S', "n"),
        parse("n", "SELECT * FROM other.shaped", &[]),
        bind("", "n", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(said, "3 1 2 D(1|b|c|d|e) C(SELECT 1) Z(I)");
    client.query("DEALLOCATE p; PREPARE p AS SELECT * FROM other.shaped");
    assert_eq!(
        client.query("EXECUTE p; SELECT 1"),
        "T(a:23 b:25 c:25 d:25 e:25) D(1|b|c|d|e) C(SELECT 1) T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
    on_home("DROP TABLE other.shaped");
    assert!(client.query("EXECUTE p").starts_with("E(ERROR 42P01 "));
}

/// In session pooling, too; of several shards none has all that was prepared.
#[test]
fn session_pooling_keeps_the_names() {
    same_as(
        "solo",
        &queries(&[
            "PREPARE p AS SELECT 1",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE ALL",
            "EXECUTE p",
        ]),
    );
}
