//! A prepared statement returns what the client was told it returns, on whatever connection, or it fails as in Postgres.

use crate::proxy::{DATABASE, Proxy};
use crate::servers::cluster;
use crate::wire_client::{Wire, bind, bind_as, close, describe, execute, parse, sync};

const STALE: &str = "E(ERROR 0A000 cached plan must not change result type)";

/// Changes definitions behind Trunkline's back.
fn on_home(sql: &str) {
    let home = &cluster().shards()[0].primary;
    home.run_sql(DATABASE, &format!("SET ROLE app; {sql}"))
        .unwrap();
}

/// A client that is served by a connection of its own, and another that can take that connection away.
fn two_clients() -> (Proxy, Wire, Wire) {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let [one, two] = ["trusty", "trusty"].map(|user| {
        let mut client = proxy.client(user);
        client.query("SET trunkline.shard = 's1'");
        client
    });
    (proxy, one, two)
}

/// The connection that is free now is not, until [`give_back`].
fn take_away(client: &mut Wire) {
    assert_eq!(
        client.query("BEGIN; SELECT"),
        "C(BEGIN) T() D() C(SELECT 1) Z(T)"
    );
}

fn give_back(client: &mut Wire) {
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
}

/// A client that does not ask what it gets. Whether the error comes for the Bind or for the Execute is not told.
fn asked(client: &mut Wire, messages: &[Vec<u8>]) -> String {
    client.ask(messages).replace("2 E(", "E(")
}

fn blind(name: &str) -> Vec<Vec<u8>> {
    vec![bind("", name, &[]), execute("", 0), sync()]
}

fn told(name: &str) -> Vec<Vec<u8>> {
    vec![
        bind("", name, &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
}

#[test]
fn a_connection_that_has_the_statement_not() {
    let (proxy, mut one, mut two) = two_clients();
    on_home("CREATE TABLE other.moved (a int); INSERT INTO other.moved VALUES (1)");
    let text = "SELECT * FROM other.moved";
    assert_eq!(
        one.ask(&[parse("n", text, &[]), describe(b'S', "n"), sync()]),
        "1 t() T(a:23) Z(I)"
    );
    // Nobody asks what this one returns.
    assert_eq!(
        one.ask(&[parse("m", &format!("{text} LIMIT 1"), &[]), sync()]),
        "1 Z(I)"
    );
    assert_eq!(
        one.ask(&[parse("", text, &[]), describe(b'S', ""), sync()]),
        "1 t() T(a:23) Z(I)"
    );
    take_away(&mut two);
    assert_eq!(asked(&mut one, &blind("")), "2 D(1) C(SELECT 1) Z(I)");
    assert_eq!(asked(&mut one, &blind("n")), "2 D(1) C(SELECT 1) Z(I)");
    give_back(&mut two);
    on_home("ALTER TABLE other.moved ADD b text DEFAULT 'b'");
    let mut three = more_clients(&proxy, 2);
    three.iter_mut().for_each(take_away);
    for name in ["n", "m", ""] {
        assert_eq!(
            asked(&mut one, &blind(name)),
            format!("{STALE} Z(I)"),
            "{name}"
        );
        // It stays so: the client knows nothing else.
        assert_eq!(
            asked(&mut one, &blind(name)),
            format!("{STALE} Z(I)"),
            "{name}"
        );
    }
    one.query("BEGIN");
    assert_eq!(asked(&mut one, &blind("n")), format!("{STALE} Z(E)"));
    assert_eq!(one.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // Who is told the shape in front of the rows gets them, and knows it from then on.
    assert_eq!(
        one.ask(&told("n")),
        "2 T(a:23 b:25) D(1|b) C(SELECT 1) Z(I)"
    );
    assert_eq!(asked(&mut one, &blind("n")), "2 D(1|b) C(SELECT 1) Z(I)");
    assert_eq!(
        one.ask(&[describe(b'S', "m"), sync()]),
        "t() T(a:23 b:25) Z(I)"
    );
    assert_eq!(asked(&mut one, &blind("m")), "2 D(1|b) C(SELECT 1) Z(I)");
    // What is prepared now is new.
    one.ask(&[close(b'S', "n"), parse("n", text, &[]), sync()]);
    assert_eq!(asked(&mut one, &blind("n")), "2 D(1|b) C(SELECT 1) Z(I)");
    three.iter_mut().for_each(give_back);
    on_home("DROP TABLE other.moved");
}

/// More clients like those of [`two_clients`].
fn more_clients(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let clients = (0..count).map(|_| {
        let mut client = proxy.client("trusty");
        client.query("SET trunkline.shard = 's1'");
        client
    });
    clients.collect()
}

/// Nothing is done before the shape is known to be the one that was told.
#[test]
fn nothing_is_written_for_an_unknown_shape() {
    let (_proxy, mut one, mut two) = two_clients();
    on_home("CREATE TABLE other.written (a int)");
    let text = "INSERT INTO other.written (a) VALUES (1) RETURNING *";
    one.ask(&[parse("w", text, &[]), describe(b'S', "w"), sync()]);
    on_home("ALTER TABLE other.written ADD b int");
    take_away(&mut two);
    assert_eq!(asked(&mut one, &blind("w")), format!("{STALE} Z(I)"));
    assert_eq!(one.value("SELECT count(*) FROM other.written"), "0");
    give_back(&mut two);
    on_home("DROP TABLE other.written");
}

/// A parameter's bytes are read as the type that was told.
#[test]
fn parameters_are_of_the_types_that_were_told() {
    let (_proxy, mut one, mut two) = two_clients();
    on_home("CREATE TABLE other.taken (a bigint); INSERT INTO other.taken VALUES (7)");
    let text = "SELECT 'found' FROM other.taken WHERE a = $1";
    assert_eq!(
        one.ask(&[parse("p", text, &[]), describe(b'S', "p"), sync()]),
        "1 t(20) T(?column?:25) Z(I)"
    );
    on_home("ALTER TABLE other.taken ALTER a TYPE double precision");
    take_away(&mut two);
    let seven = 7_i64.to_be_bytes();
    let said = asked(
        &mut one,
        &[
            bind_as("", "p", &[1], &[Some(&seven)]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ],
    );
    assert_eq!(said, format!("{STALE} Z(I)"));
    give_back(&mut two);
    on_home("DROP TABLE other.taken");
}

/// A shared statement's new client is told the truth, whatever others were told before.
#[test]
fn a_new_client_is_told_what_is_true_now() {
    let (proxy, mut one, mut two) = two_clients();
    on_home("CREATE TABLE other.shared (a int); INSERT INTO other.shared VALUES (1)");
    let text = "SELECT * FROM other.shared";
    one.ask(&[parse("n", text, &[]), describe(b'S', "n"), sync()]);
    on_home("ALTER TABLE other.shared ADD b text DEFAULT 'b'");
    let mut others = more_clients(&proxy, 2);
    take_away(&mut others[0]);
    let said = two.ask(&[
        parse("n", text, &[]),
        describe(b'S', "n"),
        bind("", "n", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(said, "1 t() T(a:23 b:25) 2 D(1|b) C(SELECT 1) Z(I)");
    // On this connection as on others, and the first client is not given it.
    assert_eq!(asked(&mut one, &blind("n")), format!("{STALE} Z(I)"));
    assert_eq!(asked(&mut two, &blind("n")), "2 D(1|b) C(SELECT 1) Z(I)");
    take_away(&mut others[1]);
    assert_eq!(asked(&mut two, &blind("n")), "2 D(1|b) C(SELECT 1) Z(I)");
    assert_eq!(asked(&mut one, &blind("n")), format!("{STALE} Z(I)"));
    others.iter_mut().for_each(give_back);
    on_home("DROP TABLE other.shared");
}

/// Another search path finds another table.
#[test]
fn a_search_path_that_finds_another_table() {
    let (_proxy, mut one, _two) = two_clients();
    on_home(
        "CREATE TABLE other.found (a int); INSERT INTO other.found VALUES (1);
         CREATE SCHEMA another; CREATE TABLE another.found (a text); INSERT INTO another.found VALUES ('x')",
    );
    one.query("SET search_path = other");
    one.ask(&[
        parse("n", "SELECT * FROM found", &[]),
        describe(b'S', "n"),
        sync(),
    ]);
    assert_eq!(
        one.query("PREPARE p AS SELECT a FROM found"),
        "C(PREPARE) Z(I)"
    );
    assert_eq!(one.query("EXECUTE p"), "T(a:23) D(1) C(SELECT 1) Z(I)");
    one.query("SET search_path = another");
    assert_eq!(asked(&mut one, &blind("n")), format!("{STALE} Z(I)"));
    assert_eq!(one.query("EXECUTE p"), format!("{STALE} Z(I)"));
    one.query("SET search_path = other");
    assert_eq!(asked(&mut one, &blind("n")), "2 D(1) C(SELECT 1) Z(I)");
    assert_eq!(one.query("EXECUTE p"), "T(a:23) D(1) C(SELECT 1) Z(I)");
    on_home("DROP TABLE other.found; DROP SCHEMA another CASCADE");
}

/// EXECUTE says what Postgres says, on a connection that has the statement and on one that has it not.
#[test]
fn execute_refuses_another_result() {
    let (_proxy, mut one, mut two) = two_clients();
    on_home("CREATE TABLE other.executed (a int); INSERT INTO other.executed VALUES (1)");
    one.query("PREPARE p AS SELECT * FROM other.executed");
    assert_eq!(one.query("EXECUTE p"), "T(a:23) D(1) C(SELECT 1) Z(I)");
    on_home("ALTER TABLE other.executed ADD b text DEFAULT 'b'");
    assert_eq!(one.query("EXECUTE p"), format!("{STALE} Z(I)"));
    take_away(&mut two);
    assert_eq!(one.query("EXECUTE p"), format!("{STALE} Z(I)"));
    assert_eq!(one.query("EXECUTE p; SELECT 1"), format!("{STALE} Z(I)"));
    assert_eq!(
        one.query("SELECT 2"),
        "T(?column?:23) D(2) C(SELECT 1) Z(I)"
    );
    one.query("BEGIN");
    assert_eq!(one.query("EXECUTE p"), format!("{STALE} Z(E)"));
    assert_eq!(one.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    let extended = [
        parse("", "EXECUTE p", &[]),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    assert_eq!(one.ask(&extended), format!("1 {STALE} Z(I)"));
    // As it was, it works again.
    on_home("ALTER TABLE other.executed DROP b");
    assert_eq!(one.query("EXECUTE p"), "T(a:23) D(1) C(SELECT 1) Z(I)");
    give_back(&mut two);
    on_home("DROP TABLE other.executed");
}
