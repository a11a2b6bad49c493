//! The simple query protocol through Trunkline and on one server: the same messages, the same answers.

use crate::proxy::{keys, proxy, same, same_long, shards_with};
use crate::wire_client::{Step, ask, query};

/// One query a step.
fn queries(texts: &[&str]) -> Vec<Step> {
    texts.iter().map(|text| ask(&[query(text)])).collect()
}

#[track_caller]
fn same_queries(texts: &[&str]) -> String {
    same(&queries(texts))
}

#[test]
fn statements_of_one_message() {
    let said = same_queries(&[
        "SELECT 1; SELECT 2",
        "BEGIN; INSERT INTO customers VALUES (1001, 'a'); COMMIT",
        "SELECT name FROM customers WHERE id = 1001; DELETE FROM customers WHERE id = 1001;",
        "INSERT INTO customers VALUES (1001, 'a'); INSERT INTO customers VALUES (1001, 'b'); SELECT 1",
        "SELECT count(*) FROM customers WHERE id = 1001",
        "INSERT INTO customers VALUES (1001, 'a'); COMMIT; INSERT INTO customers VALUES (1001, 'b')",
        "SELECT count(*) FROM customers WHERE id = 1001",
        "DELETE FROM customers WHERE id = 1001",
        "BEGIN; SELECT 1",
        "SELECT 2; COMMIT; SELECT 3",
        "BEGIN; COMMIT; BEGIN",
        "ROLLBACK; SELECT 1; BEGIN",
        "COMMIT",
        "SELECT 1;;; SELECT 2;",
        "SELECT 1; SELEC 2",
        "SELECT 1; SELECT 1/0; SELECT 2",
        "BEGIN; SELECT 1/0",
        "SELECT 1",
        "ROLLBACK; SELECT 7",
    ]);
    assert!(said.contains("23505"), "{said}");
}

#[test]
fn nothing_is_a_query_too() {
    same_queries(&[
        "",
        ";",
        " -- only a remark",
        "/* and another */",
        "BEGIN",
        "",
        "COMMIT",
    ]);
}

#[test]
fn transactions_begin_and_end_in_the_servers_words() {
    same_queries(&[
        "START TRANSACTION",
        "COMMIT",
        "start transaction read only",
        "INSERT INTO customers VALUES (1010, 'x')",
        "COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "SHOW transaction_isolation",
        "BEGIN",
        "COMMIT WORK",
        "COMMIT",
        "ROLLBACK",
        "ABORT",
        "END",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "BEGIN",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT AND CHAIN",
        "INSERT INTO customers VALUES (1010, 'x')",
        "ROLLBACK AND CHAIN",
        "SELECT count(*) FROM customers WHERE id = 1010",
        "COMMIT AND CHAIN",
        "ROLLBACK",
        "BEGIN",
        "BEGIN READ ONLY",
        "INSERT INTO customers VALUES (1010, 'x')",
        "ROLLBACK",
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SELECT 1",
        "COMMIT AND CHAIN",
        "SHOW transaction_isolation",
        "SHOW transaction_read_only",
        "ROLLBACK",
        "SHOW transaction_read_only",
    ]);
}

#[test]
fn a_chain_keeps_the_modes_before_any_server_knows() {
    same_queries(&[
        "BEGIN READ ONLY",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "SHOW transaction_read_only",
        "COMMIT AND CHAIN",
        "INSERT INTO notes VALUES (1011, 'x')",
        "ROLLBACK",
    ]);
}

#[test]
fn savepoints_before_and_after_the_first_statement() {
    same_queries(&[
        "SAVEPOINT a",
        "RELEASE a",
        "ROLLBACK TO a",
        "BEGIN",
        "SAVEPOINT a",
        "SAVEPOINT b",
        "ROLLBACK TO SAVEPOINT a",
        "RELEASE b",
        "ROLLBACK TO a",
        "INSERT INTO customers VALUES (1020, 'x')",
        "SAVEPOINT c",
        "INSERT INTO customers VALUES (1020, 'twice')",
        "SELECT 1",
        "ROLLBACK TO c",
        "SELECT name FROM customers WHERE id = 1020",
        "RELEASE SAVEPOINT c",
        "ROLLBACK TO a",
        "SELECT count(*) FROM customers WHERE id = 1020",
        "ROLLBACK TO nowhere",
        "ROLLBACK TO a",
        "SELECT 5",
        "COMMIT",
        "BEGIN",
        "SAVEPOINT \"Odd name\"",
        "RELEASE nowhere",
        "SELECT 1",
        "ROLLBACK TO \"Odd name\"",
        "RELEASE \"Odd name\"",
        "COMMIT",
    ]);
}

#[test]
fn a_failed_transaction_stays_failed_until_it_ends() {
    same_queries(&[
        "BEGIN",
        "SELECT 1/0",
        "SELECT 1",
        "INSERT INTO customers VALUES (1030, 'x')",
        "SAVEPOINT a",
        "BEGIN",
        "SHOW search_path",
        "SET work_mem = '1MB'",
        "",
        "ROLLBACK TO a",
        "COMMIT",
        "SELECT 1",
        "BEGIN",
        "SELECT 1/0",
        "COMMIT AND CHAIN",
        "SELECT 1",
        "ROLLBACK",
    ]);
}

#[test]
fn errors_outside_transactions_leave_nothing_behind() {
    same_queries(&[
        "SELEC",
        "SELECT * FROM not_there",
        "SELECT 'x'::int",
        "INSERT INTO customers VALUES (1040, 'x'); SELECT 1/0",
        "SELECT count(*) FROM customers WHERE id = 1040",
        "SELECT no_column FROM customers WHERE id = 1",
    ]);
}

/// Nothing of Postgres is like it: what a transaction does when a statement in it is refused is what it does after any error.
#[test]
fn a_refusal_aborts_a_transaction() {
    // On the home shard, where SELECT 1 is done.
    let [id, ..] = keys(1_400_000);
    let mut client = proxy().client("trusty");
    // Before a server knows of it.
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query("SAVEPOINT a"), "C(SAVEPOINT) Z(T)");
    let refused = client.query(
        "MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING",
    );
    assert!(
        refused.starts_with("E(ERROR 0A000 ") && refused.ends_with(" Z(E)"),
        "{refused}"
    );
    let aborted = "E(ERROR 25P02 current transaction is aborted, commands ignored until end of transaction block) Z(E)";
    assert_eq!(client.query("SELECT 1"), aborted);
    assert_eq!(
        client.query(&format!("INSERT INTO customers VALUES ({id}, 'x')")),
        aborted
    );
    assert_eq!(client.query("ROLLBACK TO a"), "C(ROLLBACK) Z(T)");
    assert_eq!(
        client.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(T)"
    );
    // And in one.
    assert_eq!(
        client.query(&format!("INSERT INTO customers VALUES ({id}, 'x')")),
        "C(INSERT 0 1) Z(T)"
    );
    assert!(
        client
            .query("MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING")
            .ends_with(" Z(E)")
    );
    assert_eq!(client.query("SELECT 1"), aborted);
    assert_eq!(client.query("MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING"), aborted);
    assert_eq!(client.query("COMMIT"), "C(ROLLBACK) Z(I)");
    assert_eq!(
        client.query(&format!("SELECT count(*) FROM customers WHERE id = {id}")),
        "T(count:20) D(0) C(SELECT 1) Z(I)"
    );
    // What ends it may be the first of several.
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert!(
        client
            .query("MERGE INTO customers USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING")
            .ends_with(" Z(E)")
    );
    let said = client.query("ROLLBACK; SELECT 1");
    assert_eq!(said, "C(ROLLBACK) T(?column?:23) D(1) C(SELECT 1) Z(I)");
    assert_eq!(
        client.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
}

#[test]
fn a_second_writer_commits_with_the_first() {
    let [one, other, ..] = keys(1_100_000);
    let mut client = proxy().client("trusty");
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    for key in [one, other] {
        assert_eq!(
            client.query(&format!("INSERT INTO customers VALUES ({key}, 'x')")),
            "C(INSERT 0 1) Z(T)"
        );
    }
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    let both = format!("id IN ({one}, {other})");
    assert_eq!(shards_with("customers", &both).len(), 2);
    // In one message: nothing of it runs.
    let refused = client.query(&format!(
        "DELETE FROM customers WHERE id = {one}; DELETE FROM customers WHERE id = {other}"
    ));
    assert!(
        refused.starts_with("E(ERROR 0A000 ") && refused.ends_with("Z(I)"),
        "{refused}"
    );
    assert_eq!(shards_with("customers", &both).len(), 2);
}

#[test]
fn rows_go_where_their_keys_say() {
    let keys = keys(1_200_000);
    let mut client = proxy().client("app");
    for (place, key) in keys.iter().enumerate() {
        assert_eq!(
            client.query(&format!("INSERT INTO customers VALUES ({key}, 'x')")),
            "C(INSERT 0 1) Z(I)"
        );
        assert_eq!(
            shards_with("customers", &format!("id = {key}")),
            [format!("s{}", place + 1)]
        );
        assert_eq!(
            client.value(&format!("SELECT name FROM customers WHERE id = {key}")),
            "x"
        );
    }
    for (sql, table, condition, shard) in [
        (
            "INSERT INTO events VALUES ('2023-12-31', 'e1')",
            "events",
            "what = 'e1'",
            "s1",
        ),
        (
            "INSERT INTO events VALUES (date '2024-01-01', 'e2')",
            "events",
            "what = 'e2'",
            "s2",
        ),
        (
            "INSERT INTO contracts (note, tenant) VALUES ('c1', 'acme')",
            "contracts",
            "note = 'c1'",
            "s2",
        ),
        (
            "INSERT INTO contracts (note, tenant) VALUES ('c2', 'else')",
            "contracts",
            "note = 'c2'",
            "s3",
        ),
        (
            "INSERT INTO profiles VALUES ('US', 5, 'p1')",
            "profiles",
            "note = 'p1'",
            "s3",
        ),
        (
            "INSERT INTO settings VALUES ('a', 'b')",
            "settings",
            "name = 'a'",
            "s1",
        ),
        ("INSERT INTO notes VALUES (1, 'b')", "notes", "id = 1", "s1"),
    ] {
        assert_eq!(client.query(sql), "C(INSERT 0 1) Z(I)", "{sql}");
        assert_eq!(shards_with(table, condition), [shard], "{sql}");
    }
    assert_eq!(
        client.value("SELECT name FROM countries WHERE code = 'FR'"),
        "France"
    );
    assert!(
        client
            .query("INSERT INTO events VALUES ('2025-01-01', 'e3')")
            .starts_with("E(ERROR 22023 ")
    );
    assert!(
        client
            .query("INSERT INTO customers VALUES (NULL, 'x')")
            .starts_with("E(ERROR 22004 ")
    );
    assert_eq!(
        client.query("INSERT INTO countries VALUES ('ES', 'Spain')"),
        "C(INSERT 0 1) Z(I)"
    );
    assert_eq!(shards_with("countries", "code = 'ES'").len(), 4);
}

/// The function call protocol: `int4abs` of -5, by its number.
#[test]
fn functions_are_called_by_number() {
    let body = [
        &1397_u32.to_be_bytes()[..],
        &1_u16.to_be_bytes(),
        &1_u16.to_be_bytes(),
        &1_u16.to_be_bytes(),
        &4_u32.to_be_bytes(),
        &(-5_i32).to_be_bytes(),
        &1_u16.to_be_bytes(),
    ]
    .concat();
    same(&[
        ask(&[crate::wire_client::tagged(b'F', &body)]),
        ask(&[query("SELECT 1")]),
    ]);
}

/// Many units without waiting for any answer.
#[test]
fn queries_without_waiting() {
    let keys = keys(1_300_000);
    let mut messages = Vec::new();
    for round in 0..25 {
        for key in keys {
            messages.push(query(&format!(
                "SELECT {key} + {round}; SELECT count(*) FROM customers WHERE id = {key}"
            )));
            messages.push(query("SELECT 1/0"));
        }
    }
    same_long(&messages);
}
