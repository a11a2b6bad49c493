//! The extended query protocol through Trunkline and on one server: the same messages, the same answers.

use crate::proxy::{KEY_TYPES, Proxy, keys, plain, proxy, same, same_long, shards_with, table_of};
use crate::wire_client::{
    Step, Until, ask, ask_for, bind, bind_as, close, describe, execute, flush, parse, query, run,
    sync,
};

const INSERT: &str = "INSERT INTO customers (id, name) VALUES ($1, $2)";
const SELECT: &str = "SELECT name FROM customers WHERE id = $1";

#[test]
fn one_statement_at_a_time() {
    same(&[
        ask(&[run(INSERT, &[Some("2001"), Some("a")]), sync()]),
        ask(&[
            parse("", SELECT, &[]),
            bind("", "", &[Some("2001")]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[parse("", SELECT, &[20]), describe(b'S', ""), sync()]),
        ask(&[bind("", "", &[Some("2001")]), execute("", 0), sync()]),
        ask(&[bind("", "", &[Some("2002")]), execute("", 0), sync()]),
        ask(&[
            run("DELETE FROM customers WHERE id = $1", &[Some("2001")]),
            sync(),
        ]),
        ask(&[run("", &[]), sync()]),
        ask(&[
            parse("", " -- nothing", &[]),
            describe(b'S', ""),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[sync()]),
        ask(&[flush(), sync(), sync()]),
    ]);
}

#[test]
fn a_named_statement_goes_to_every_shard() {
    let keys = keys(2_100_000).map(|key| key.to_string());
    let mut script = vec![ask(&[
        parse("ins", INSERT, &[]),
        parse("sel", SELECT, &[20]),
        sync(),
    ])];
    for round in 0..3 {
        for key in &keys {
            script.push(ask(&[
                bind("", "sel", &[Some(key)]),
                execute("", 0),
                sync(),
            ]));
            if round == 1 {
                script.push(ask(&[
                    bind("", "ins", &[Some(key), Some("n")]),
                    execute("", 0),
                    sync(),
                ]));
            }
        }
    }
    let all: Vec<Vec<u8>> = keys
        .iter()
        .flat_map(|key| {
            [
                bind("", "sel", &[Some(key)]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
        })
        .collect();
    script.push(ask(&all));
    script.push(ask(&[describe(b'S', "sel"), describe(b'S', "ins"), sync()]));
    same(&script);
    for (place, key) in keys.iter().enumerate() {
        assert_eq!(
            shards_with("customers", &format!("id = {key}")),
            [format!("s{}", place + 1)]
        );
    }
}

/// asyncpg asks for the description of a statement and waits for it before it says which values it has.
#[test]
fn a_description_before_the_values() {
    for (place, key) in keys(2_200_000)
        .map(|key| key.to_string())
        .iter()
        .enumerate()
    {
        let name = &format!("stmt{place}");
        same(&[
            ask_for(
                &[parse(name, SELECT, &[]), describe(b'S', name), flush()],
                3,
            ),
            ask(&[bind("", name, &[Some(key)]), execute("", 0), sync()]),
            ask(&[query("BEGIN")]),
            ask_for(&[parse("", INSERT, &[]), describe(b'S', ""), flush()], 3),
            ask(&[
                bind("", "", &[Some(key), Some("y")]),
                execute("", 0),
                sync(),
            ]),
            ask_for(&[parse("", SELECT, &[]), describe(b'S', ""), flush()], 3),
            ask_for(&[bind("", "", &[Some(key)]), flush()], 1),
            ask_for(&[execute("", 0), flush()], 2),
            ask(&[sync()]),
            ask(&[query("ROLLBACK")]),
        ]);
    }
}

/// asyncpg describes a statement before it knows whether it can send the values; a client that cannot goes on without a Sync.
#[test]
fn a_transaction_ends_behind_a_description() {
    let described = |name: &str| {
        ask_for(
            &[parse(name, SELECT, &[]), describe(b'S', name), flush()],
            3,
        )
    };
    let begin = || ask(&[query("BEGIN")]);
    for end in [query("ROLLBACK"), query("COMMIT"), query("ABORT")] {
        same(&[
            begin(),
            described("a"),
            ask(&[end]),
            begin(),
            ask(&[bind("", "a", &[Some("2701")]), execute("", 0), sync()]),
            ask(&[query("ROLLBACK")]),
            ask(&[query("SELECT 1")]),
        ]);
    }
    same(&[
        begin(),
        described("a"),
        ask(&[query("SAVEPOINT s")]),
        described("b"),
        ask(&[query("ROLLBACK TO s")]),
        described("c"),
        ask(&[query("COMMIT AND CHAIN")]),
        described("d"),
        ask(&[run("ROLLBACK", &[]), sync()]),
        begin(),
        described("e"),
        ask(&[run("COMMIT AND CHAIN", &[]), sync()]),
        described("f"),
        ask(&[run("ROLLBACK", &[]), run("BEGIN", &[]), sync()]),
        ask(&[run(SELECT, &[Some("2701")]), sync()]),
        ask(&[query("ROLLBACK")]),
        described("g"),
        ask(&[query("BEGIN")]),
        described("h"),
        ask(&[run("COMMIT", &[]), sync()]),
        described("i"),
        ask(&[run("BEGIN", &[]), sync()]),
        ask(&[run("COMMIT", &[]), sync()]),
        ask(&[query("SELECT 1")]),
    ]);
    // What failed is skipped up to a Sync.
    same(&[
        begin(),
        ask_for(&[parse("", "SELECT no_such_column", &[]), flush()], 1),
        ([query("ROLLBACK"), sync()].concat(), Until::Ready(1)),
        ask(&[query("ROLLBACK")]),
        begin(),
        ask(&[query("ROLLBACK")]),
    ]);
}

#[test]
fn errors_are_skipped_to_the_next_sync() {
    same(&[
        ask(&[parse("", "SELEC", &[]), sync()]),
        ask(&[
            parse("bad", "SELEC", &[]),
            bind("", "bad", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[bind("", "bad", &[]), sync()]),
        ask(&[parse("", "SELECT 1; SELECT 2", &[]), sync()]),
        ask(&[describe(b'S', "nowhere"), bind("", "nowhere", &[]), sync()]),
        ask(&[describe(b'P', "nowhere"), sync()]),
        ask(&[execute("nowhere", 0), sync()]),
        ask(&[close(b'S', "nowhere"), close(b'P', "nowhere"), sync()]),
        ask(&[
            parse("twice", "SELECT 1", &[]),
            parse("twice", "SELECT 2", &[]),
            sync(),
        ]),
        ask(&[bind("", "twice", &[]), execute("", 0), sync()]),
        ask(&[
            parse("", "SELECT $1::int", &[]),
            bind("", "", &[Some("x")]),
            execute("", 0),
            sync(),
        ]),
        ask(&[
            parse("", "SELECT $1::int", &[]),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[
            run("SELECT 1/0", &[]),
            run("SELECT 1", &[]),
            sync(),
            run("SELECT 2", &[]),
            sync(),
        ]),
        ask(&[
            run("SELECT 1", &[]),
            run("SELECT 1/0", &[]),
            flush(),
            run("SELECT 1", &[]),
            sync(),
        ]),
        // The error has arrived before the rest of the unit is sent.
        ask_for(&[run("SELECT 1", &[]), run("SELECT 1/0", &[]), flush()], 6),
        ask(&[
            run("SELECT 1", &[]),
            describe(b'S', "twice"),
            close(b'S', "twice"),
            sync(),
        ]),
        ask(&[bind("", "twice", &[]), execute("", 0), sync()]),
        ask_for(&[parse("", "SELEC", &[]), flush()], 1),
        ask(&[run("SELECT 1", &[]), sync()]),
        ask_for(&[bind("", "nowhere", &[]), flush()], 1),
        ask(&[run("SELECT 1", &[]), sync()]),
        ask(&[run("SELECT 1", &[]), sync()]),
    ]);
}

/// A Query is skipped like every other message until the Sync.
#[test]
fn a_query_is_skipped_too() {
    let skipped = |messages: &[Vec<u8>]| (messages.concat(), Until::Ready(1));
    same(&[
        skipped(&[parse("", "SELEC", &[]), query("SELECT 1"), sync()]),
        skipped(&[bind("", "nowhere", &[]), query("SELECT 1"), sync()]),
        skipped(&[
            run("SELECT 1/0", &[]),
            query("SELECT 1"),
            query("SELECT 2"),
            sync(),
        ]),
        ask_for(&[run("SELECT 1/0", &[]), flush()], 2),
        skipped(&[query("SELECT 1"), sync()]),
        ask(&[query("SELECT 3")]),
        // Without an error, a Query ends what came before it.
        ask(&[run("SELECT 4", &[]), query("SELECT 5")]),
        ask(&[parse("", "SELECT 6", &[]), query("SELECT 7")]),
        ask(&[run(INSERT, &[Some("2301"), Some("x")]), query("SELECT 1/0")]),
        ask(&[
            query("SELECT count(*) FROM customers WHERE id = 2301"),
            sync(),
        ]),
        ask(&[query("DELETE FROM customers WHERE id = 2301")]),
    ]);
}

#[test]
fn a_unit_is_one_transaction() {
    same(&[
        ask(&[
            run(INSERT, &[Some("2401"), Some("a")]),
            run(INSERT, &[Some("2401"), Some("b")]),
            sync(),
        ]),
        ask(&[run(SELECT, &[Some("2401")]), sync()]),
        ask(&[
            run(INSERT, &[Some("2401"), Some("a")]),
            run(
                "UPDATE customers SET name = $2 WHERE id = $1",
                &[Some("2401"), Some("c")],
            ),
            sync(),
        ]),
        ask(&[run(SELECT, &[Some("2401")]), sync()]),
        ask(&[
            run("DELETE FROM customers WHERE id = $1", &[Some("2401")]),
            sync(),
        ]),
    ]);
}

#[test]
fn a_transaction_in_one_unit() {
    same(&[
        ask(&[
            run("BEGIN", &[]),
            run(INSERT, &[Some("2501"), Some("a")]),
            run("COMMIT", &[]),
            sync(),
        ]),
        ask(&[run(SELECT, &[Some("2501")]), sync()]),
        ask(&[
            run("BEGIN", &[]),
            run("DELETE FROM customers WHERE id = $1", &[Some("2501")]),
            run("ROLLBACK", &[]),
            sync(),
        ]),
        ask(&[run("BEGIN", &[]), sync()]),
        ask(&[run("SAVEPOINT a", &[]), sync()]),
        ask(&[run("SET LOCAL work_mem = '2MB'", &[]), sync()]),
        ask(&[run("SHOW work_mem", &[]), sync()]),
        ask(&[run("ROLLBACK TO a", &[]), run("SHOW work_mem", &[]), sync()]),
        ask(&[run("SELECT 1/0", &[]), sync()]),
        ask(&[run("SELECT 1", &[]), sync()]),
        ask(&[run("COMMIT", &[]), sync()]),
        ask(&[run("COMMIT", &[]), sync()]),
        ask(&[
            run("BEGIN", &[]),
            run("SET LOCAL work_mem = '3MB'", &[]),
            run("SHOW work_mem", &[]),
            run("COMMIT", &[]),
            sync(),
        ]),
        ask(&[run("BEGIN", &[]), sync()]),
        ask(&[
            run("SET LOCAL no_such_setting = '3MB'", &[]),
            run("SELECT 1", &[]),
            sync(),
        ]),
        ask(&[run("SELECT 1", &[]), sync()]),
        ask(&[run("ROLLBACK", &[]), sync()]),
        ask(&[
            run("START TRANSACTION READ ONLY", &[]),
            describe(b'P', ""),
            run(INSERT, &[Some("2501"), Some("a")]),
            sync(),
        ]),
        ask(&[
            run("ROLLBACK", &[]),
            run("DELETE FROM customers WHERE id = $1", &[Some("2501")]),
            sync(),
        ]),
        ask(&[
            parse("b", "BEGIN", &[]),
            describe(b'S', "b"),
            parse("c", "COMMIT", &[]),
            describe(b'S', "c"),
            sync(),
        ]),
        ask(&[
            bind("", "b", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[bind("", "c", &[]), execute("", 0), sync()]),
        ask(&[
            bind("", "b", &[]),
            execute("", 0),
            bind("", "c", &[]),
            execute("", 0),
            bind("", "b", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[bind("", "c", &[]), execute("", 0), sync()]),
    ]);
}

#[test]
fn portals_with_row_limits() {
    let rows = "SELECT generate_series(1, 7)";
    same(&[
        ask(&[parse("r", rows, &[]), sync()]),
        ask(&[
            bind("", "r", &[]),
            execute("", 3),
            execute("", 3),
            execute("", 3),
            execute("", 3),
            sync(),
        ]),
        ask_for(&[bind("p", "r", &[]), execute("p", 2), flush()], 4),
        ask_for(&[execute("p", 2), flush()], 3),
        ask(&[close(b'P', "p"), execute("p", 2), sync()]),
        ask(&[query("BEGIN")]),
        ask(&[
            bind("p", "r", &[]),
            bind("q", "r", &[]),
            execute("p", 2),
            sync(),
        ]),
        ask(&[
            describe(b'P', "p"),
            execute("p", 2),
            execute("q", 1),
            sync(),
        ]),
        ask(&[query("SELECT 1")]),
        ask(&[execute("p", 0), close(b'P', "p"), sync()]),
        ask(&[execute("q", 0), sync()]),
        ask(&[execute("p", 1), sync()]),
        ask(&[query("COMMIT")]),
        ask(&[bind("p", "r", &[]), execute("p", 1), sync()]),
        ask(&[execute("p", 1), sync()]),
        ask(&[bind("p", "r", &[]), bind("p", "r", &[]), sync()]),
        ask(&[
            run("BEGIN", &[]),
            bind("p", "r", &[]),
            execute("p", 1),
            sync(),
        ]),
        ask(&[execute("p", 1), run("ROLLBACK", &[]), sync()]),
        ask(&[execute("p", 1), sync()]),
        ask(&[
            query("BEGIN"),
            query("DECLARE c CURSOR FOR SELECT generate_series(1, 5)"),
            query("FETCH 2 FROM c"),
        ]),
        ask(&[
            execute("c", 1),
            run("FETCH 1 FROM c", &[]),
            run("CLOSE c", &[]),
            run("COMMIT", &[]),
            sync(),
        ]),
    ]);
}

#[test]
fn statements_and_portals_are_closed() {
    same(&[
        ask(&[parse("s", SELECT, &[]), close(b'S', "s"), sync()]),
        ask(&[bind("", "s", &[Some("1")]), sync()]),
        ask(&[parse("s", "SELECT 1", &[]), sync()]),
        ask(&[
            close(b'S', "s"),
            parse("s", "SELECT 2", &[]),
            bind("", "s", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[query("DEALLOCATE s"), query("DEALLOCATE s")]),
        ask(&[
            parse("s", "SELECT 3", &[]),
            bind("", "s", &[]),
            close(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        ask(&[
            bind("", "s", &[]),
            execute("", 0),
            close(b'S', "s"),
            bind("", "s", &[]),
            sync(),
        ]),
        ask(&[
            parse("s", "SELECT 4", &[]),
            parse("t", "SELECT 5", &[]),
            sync(),
        ]),
        ask(&[query("DEALLOCATE ALL")]),
        ask(&[bind("", "s", &[]), execute("", 0), sync()]),
        ask(&[
            parse("s", "SELECT 6", &[]),
            bind("", "s", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[query("DISCARD ALL")]),
        ask(&[bind("", "s", &[]), execute("", 0), sync()]),
        ask(&[
            parse("", "SELECT 7", &[]),
            close(b'S', ""),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[parse("", "SELECT 8", &[]), sync(), query("SELECT 9")]),
        ask(&[bind("", "", &[]), execute("", 0), sync()]),
    ]);
}

#[test]
fn two_shards_in_one_unit_are_one_transaction() {
    let [one, other, third, ..] = keys(2_600_000).map(|key| key.to_string());
    let mut client = proxy().client("trusty");
    // Two writers commit as one.
    let gone = "DELETE FROM customers WHERE id = $1";
    for (sql, done) in [(INSERT, "1 2 C(INSERT 0 1)"), (gone, "1 2 C(DELETE 1)")] {
        let values = |key| match sql == INSERT {
            true => vec![Some(key), Some("a")],
            false => vec![Some(key)],
        };
        let said = client.ask(&[
            run(sql, &values(&*one)),
            run(sql, &values(&*other)),
            run("SELECT 1", &[]),
            sync(),
        ]);
        assert_eq!(said, format!("{done} {done} 1 2 D(1) C(SELECT 1) Z(I)"));
    }
    // An error undoes what came before it on another shard.
    let said = client.ask(&[
        run(INSERT, &[Some(&one), Some("a")]),
        run(SELECT, &[Some(&other)]),
        run("SELECT 1/0", &[]),
        sync(),
    ]);
    assert!(
        said.contains("E(ERROR 22012 ") && said.ends_with(") Z(I)"),
        "{said}"
    );
    assert!(shards_with("customers", &format!("id IN ({one}, {other})")).is_empty());
    // One writer and many readers can.
    let said = client.ask(&[
        run(SELECT, &[Some(&other)]),
        run(INSERT, &[Some(&third), Some("c")]),
        run(SELECT, &[Some(&one)]),
        run(SELECT, &[Some(&third)]),
        sync(),
    ]);
    assert!(said.ends_with("1 2 D(c) C(SELECT 1) Z(I)"), "{said}");
    assert_eq!(shards_with("customers", &format!("id = {third}")).len(), 1);
    // The connection is in order, and so is the statement that was in the way.
    for key in [&one, &other] {
        assert_eq!(
            client.ask(&[run(INSERT, &[Some(key), Some("a")]), sync()]),
            "1 2 C(INSERT 0 1) Z(I)"
        );
    }
    // In a transaction they may follow each other.
    client.query("BEGIN");
    let said = client.ask(&[
        run(SELECT, &[Some(&one)]),
        sync(),
        run(SELECT, &[Some(&other)]),
        run(SELECT, &[Some(&one)]),
        sync(),
        run("SELECT 1/0", &[]),
        sync(),
    ]);
    let row = "1 2 D(a) C(SELECT 1)";
    assert!(
        said.starts_with(&format!("{row} Z(T) {row} {row} Z(T) ")) && said.ends_with(" Z(E)"),
        "{said}"
    );
    // Whatever it is that a failed transaction is asked, that is what it says.
    let said = client.ask(&[
        run(SELECT, &[Some(&other)]),
        sync(),
        run("MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING", &[]),
        sync(),
    ]);
    let aborted = "E(ERROR 25P02 current transaction is aborted, commands ignored until end of transaction block) Z(E)";
    assert_eq!(said, format!("{aborted} {aborted}"));
    assert_eq!(
        client.ask(&[run("ROLLBACK", &[]), sync()]),
        "1 2 C(ROLLBACK) Z(I)"
    );
}

#[test]
fn what_no_value_can_make_right_is_refused_at_once() {
    let mut client = proxy().client("trusty");
    let said = client.ask(&[
        parse("s", "MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING", &[]),
        describe(b'S', "s"),
        sync(),
    ]);
    assert!(
        said.starts_with("E(ERROR 0A000 ") && said.ends_with(" Z(I)"),
        "{said}"
    );
    assert!(
        client
            .ask(&[bind("", "s", &[]), sync()])
            .starts_with("E(ERROR 26000 ")
    );
    client.query("BEGIN");
    let said = client.ask(&[
        parse("", "MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING", &[]),
        sync(),
        run("SELECT 1", &[]),
        sync(),
    ]);
    assert!(
        said.ends_with("until end of transaction block) Z(E)"),
        "{said}"
    );
    assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    let said = client.ask(&[run(INSERT, &[None, Some("x")]), sync()]);
    assert!(said.starts_with("1 E(ERROR 22004 "), "{said}");
    // NULL is compared with nothing.
    let said = client.ask(&[run(SELECT, &[None]), sync()]);
    assert!(said.starts_with("1 E(ERROR 22004 "), "{said}");
}

/// Every type of key, as text and as binary, with its type declared or left to the server: one row is found by all.
#[test]
fn parameters_of_every_key_type() {
    let mut client = proxy().client("trusty");
    for (key_type, text, binary) in KEY_TYPES {
        let (table, bare) = table_of(key_type);
        let oid: u32 = client
            .value(&format!(
                "SELECT '{}'::regtype::oid",
                if bare == "char" { "bpchar" } else { bare }
            ))
            .parse()
            .unwrap();
        let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
        let said = client.ask(&[run(&insert, &[Some(text), Some("1")]), sync()]);
        assert_eq!(said, "1 2 C(INSERT 0 1) Z(I)", "{key_type}");
        let select = format!("SELECT v FROM {table} WHERE k = $1");
        for types in [&[][..], &[oid], &[0]] {
            for (format, value) in [(0, text.as_bytes()), (1, binary)] {
                let said = client.ask(&[
                    parse("", &select, types),
                    bind_as("", "", &[format], &[Some(value)]),
                    execute("", 0),
                    sync(),
                ]);
                assert_eq!(
                    said, "1 2 D(1) C(SELECT 1) Z(I)",
                    "{key_type} {types:?} format {format}"
                );
            }
        }
        let literal = client.query(&format!("SELECT v FROM {table} WHERE k = '{text}'"));
        assert_eq!(literal, "T(v:23) D(1) C(SELECT 1) Z(I)", "{key_type}");
        assert_eq!(
            client.ask(&[
                run(&format!("DELETE FROM {table} WHERE k = $1"), &[Some(text)]),
                sync()
            ]),
            "1 2 C(DELETE 1) Z(I)"
        );
        // It is the server that says what is wrong with a value that is no such value, or Trunkline in a refusal: never a wrong row.
        if !matches!(bare, "text" | "varchar" | "char" | "bytea") {
            let said = client.ask(&[run(&select, &[Some("\u{1}")]), sync()]);
            assert!(
                said.contains("E(ERROR 22") && said.ends_with("Z(I)"),
                "{key_type}: {said}"
            );
        }
    }
}

/// A server connection holds 500 statements: more of them are closed and prepared again unseen.
#[test]
fn more_statements_than_a_connection_holds() {
    let narrow = Proxy::start("workers = 1\n[pool]\nsize = 1\n");
    let mut client = narrow.client("trusty");
    let texts: Vec<String> = (0..520)
        .map(|number| format!("SELECT {number} + $1::int"))
        .collect();
    let parses: Vec<Vec<u8>> = texts
        .iter()
        .enumerate()
        .flat_map(|(number, text)| [parse(&format!("s{number}"), text, &[]), sync()])
        .collect();
    assert_eq!(client.ask(&parses), ["1 Z(I)"; 520].join(" "));
    for _ in 0..2 {
        let uses: Vec<Vec<u8>> = (0..520)
            .flat_map(|number| {
                [
                    bind("", &format!("s{number}"), &[Some("1")]),
                    execute("", 0),
                    sync(),
                ]
            })
            .collect();
        let expected: Vec<String> = (0..520)
            .map(|number| format!("2 D({}) C(SELECT 1) Z(I)", number + 1))
            .collect();
        assert_eq!(client.ask(&uses), expected.join(" "));
    }
    let held: usize = client
        .value("SELECT count(*) FROM pg_prepared_statements")
        .parse()
        .unwrap();
    assert!((490..=500).contains(&held), "{held}");
    // Within one unit, in a wrong one, and again.
    for wrong in [true, false, true] {
        let mut unit: Vec<Vec<u8>> = (0..510)
            .map(|number| {
                [
                    bind("", &format!("s{number}"), &[Some("1")]),
                    execute("", 0),
                ]
                .concat()
            })
            .collect();
        if wrong {
            unit.insert(5, run("SELECT 1/0", &[]));
        }
        unit.push(sync());
        let said = client.ask(&unit);
        assert_eq!(said.contains("22012"), wrong);
        assert_eq!(said.contains("D(510)"), !wrong, "{said}");
    }
    let held: usize = client
        .value("SELECT count(*) FROM pg_prepared_statements")
        .parse()
        .unwrap();
    assert!((490..=500).contains(&held), "{held}");
}

/// A Parse that Trunkline puts in between, in a unit with an error before or behind it: the next use finds everything in order.
#[test]
fn an_error_around_an_injected_parse() {
    let keys = keys(2_700_000).map(|key| key.to_string());
    let select = "SELECT 'injected', name FROM customers WHERE id = $1";
    let mut script = vec![ask(&[parse("s", select, &[]), sync()])];
    for key in &keys {
        let using = [bind("", "s", &[Some(key)]), execute("", 0)].concat();
        let local = format!("SELECT 1/0 FROM customers WHERE id = {key} OR id = {key}");
        script.push(ask(&[
            using.clone(),
            bind("", "s", &[Some("no number")]),
            sync(),
        ]));
        script.push(ask(&[using.clone(), sync()]));
        script.push(ask(&[run("SELECT 1/0", &[]), using.clone(), sync()]));
        script.push(ask(&[run(&local, &[]), using.clone(), sync()]));
        script.push(ask(&[using.clone(), using, sync()]));
    }
    // Bound to a value that a server refuses, where the refusal is the server's.
    script.push(ask(&[
        parse("t", "SELECT $1::int, 'injected'", &[]),
        sync(),
    ]));
    script.push(ask(&[
        bind("", "t", &[Some("x")]),
        execute("", 0),
        sync(),
        bind("", "t", &[Some("1")]),
        execute("", 0),
        sync(),
    ]));
    let mut client = proxy().client("trusty");
    let mut direct = plain();
    for step in &script {
        let (got, expected) = (client.step(step), direct.step(step));
        // A key that is no number is refused in other words.
        let same_code =
            got.contains("22023") && expected.contains("22P02") && got.ends_with("Z(I)");
        assert!(got == expected || same_code, "{got}\n{expected}");
    }
}

/// Many units, on every shard, without waiting for any answer; some of them fail.
#[test]
fn units_without_waiting() {
    let keys = keys(2_800_000).map(|key| key.to_string());
    // What fails when it runs, not when it is planned: a plan is made again or not on each server by itself.
    let mut messages = vec![
        parse(
            "s",
            "SELECT count(*), $2::int / ($3::int * pg_backend_pid()) FROM customers WHERE id = $1",
            &[],
        ),
        sync(),
    ];
    for round in 0..60 {
        for key in &keys {
            let divisor = if round % 7 == 3 { "0" } else { "1" };
            messages.push(bind("", "s", &[Some(key), Some("5"), Some(divisor)]));
            messages.push(execute("", 0));
            if round % 5 == 0 {
                messages.push(describe(b'S', "s"));
            }
            messages.push(sync());
        }
        messages.push(run("SELECT repeat('x', 3000)", &[]));
        messages.push(sync());
    }
    same_long(&messages);
}

/// One unit of thousands of messages that fails early: the rest arrives after the error and is skipped.
#[test]
fn a_long_unit_that_fails_early() {
    let mut messages = vec![parse("s", "SELECT $1::int / $2::int", &[]), sync()];
    for number in 0..20_000 {
        messages.push(bind(
            "",
            "s",
            &[Some("6"), Some(if number == 40 { "0" } else { "3" })],
        ));
        messages.push(execute("", 0));
    }
    messages.push(sync());
    messages.push(query("SELECT 1"));
    same_long(&messages);
}

/// A statement keeps its meaning for a client whose `search_path` has changed.
#[test]
fn a_prepared_statement_follows_the_search_path() {
    let script: Vec<Step> = vec![
        ask(&[
            query("INSERT INTO notes VALUES (2900, 'public')"),
            query("INSERT INTO other.notes VALUES (2900, 'other')"),
        ]),
        ask(&[
            parse("n", "SELECT body FROM notes WHERE id = 2900", &[]),
            bind("", "n", &[]),
            execute("", 0),
            sync(),
        ]),
        ask(&[query("SET search_path = other")]),
        ask(&[bind("", "n", &[]), execute("", 0), sync()]),
        ask(&[query("BEGIN"), query("SET LOCAL search_path = public")]),
        ask(&[bind("", "n", &[]), execute("", 0), sync()]),
        ask(&[query("ROLLBACK")]),
        ask(&[bind("", "n", &[]), execute("", 0), sync()]),
        ask(&[query("RESET search_path")]),
        ask(&[bind("", "n", &[]), execute("", 0), sync()]),
    ];
    same(&script);
}
