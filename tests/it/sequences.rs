//! What one client has taken from a sequence no other is given as its own.

use crate::proxy::{DATABASE, Proxy};
use crate::servers::cluster;
use crate::wire_client::{Wire, query, run, sync};

const DEFINITIONS: &str = "
    SET ROLE app;
    CREATE SEQUENCE other.numbers;
    CREATE FUNCTION other.last_number() RETURNS bigint LANGUAGE sql AS $$SELECT currval('other.numbers')$$;
    CREATE FUNCTION other.fired() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN new.b := other.last_number(); RETURN new; END$$;
    CREATE VIEW other.last_seen AS SELECT currval('other.numbers') AS x;
    CREATE TABLE other.fires (a int, b bigint);
    CREATE TRIGGER fires BEFORE INSERT ON other.fires FOR EACH ROW EXECUTE FUNCTION other.fired();
    CREATE TABLE other.defaulted (a int, b bigint DEFAULT currval('other.numbers'));
";

const NONE: &str = "E(ERROR 55000 ";

/// Two clients of one connection.
fn two_clients(definitions: &str) -> (Proxy, Wire, Wire) {
    let home = &cluster().shards()[0].primary;
    crate::proxy::proxy();
    home.run_sql(DATABASE, definitions).unwrap();
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let [one, two] = ["lone", "lone"].map(|user| {
        let mut client = proxy.client(user);
        client.query("SET trunkline.shard = 's1'");
        client
    });
    (proxy, one, two)
}

#[test]
fn nobody_sees_what_another_has_taken() {
    let (_proxy, mut one, mut two) = two_clients(DEFINITIONS);
    two.query("PREPARE last AS SELECT currval('other.numbers')");
    for sql in [
        "SELECT currval('other.numbers')",
        "SELECT lastval()",
        "SELECT pg_catalog.CurrVal('other.numbers') + 1",
        "SELECT other.last_number()",
        "SELECT * FROM other.last_seen",
        "INSERT INTO other.fires (a) VALUES (1)",
        "INSERT INTO other.defaulted (a) VALUES (1)",
        "CREATE TABLE other.made AS SELECT currval('other.numbers')",
        "DO $$BEGIN PERFORM currval('other.numbers'); END$$",
        "EXECUTE last",
        "SELECT 1; SELECT lastval()",
        "BEGIN; SELECT lastval(); COMMIT",
    ] {
        for messages in [vec![query(sql)], vec![run(sql, &[]), sync()]] {
            if messages.len() == 2 && sql.contains("; ") {
                continue;
            }
            one.value("SELECT nextval('other.numbers')");
            let said = two.ask(&messages);
            assert!(said.contains(NONE), "{sql}: {said}");
            two.query("ROLLBACK");
        }
    }
    // What a transaction has taken itself it sees, and so does what is sent in one message.
    two.query("BEGIN");
    let number = two.value("SELECT nextval('other.numbers')");
    assert_eq!(two.value("SELECT currval('other.numbers')"), number);
    assert_eq!(two.value("EXECUTE last"), number);
    assert_eq!(
        two.query("INSERT INTO other.fires (a) VALUES (1)"),
        "C(INSERT 0 1) Z(T)"
    );
    two.query("COMMIT");
    let said = two.query("SELECT nextval('other.numbers') > 0; SELECT lastval() > 0");
    assert!(
        said.contains("T(?column?:16) D(t) C(SELECT 1) T(?column?:16) D(t)"),
        "{said}"
    );
    two.query("BEGIN");
    assert!(two.query("SELECT lastval()").contains(NONE));
    two.query("ROLLBACK");
    // A connection that is kept keeps its values.
    two.query("CREATE TEMP TABLE keeps (x int)");
    assert!(two.query("SELECT lastval()").contains(NONE));
    let number = two.value("SELECT nextval('other.numbers')");
    assert_eq!(two.value("SELECT lastval()"), number);
}

/// Where it is too late to know, the statement is refused, once.
#[test]
fn the_first_transaction_that_asks_is_run_again() {
    // Not `numbers`: functions of its kind would be known beforehand.
    let (_proxy, mut one, mut two) = two_clients("SET ROLE app; CREATE SEQUENCE other.early");
    one.value("SELECT nextval('other.early')");
    let mut transaction = |expected: &str| {
        two.query("BEGIN");
        two.query("SELECT 1");
        let said = two.query("SELECT currval('other.early')");
        two.query("ROLLBACK");
        assert!(said.contains(expected), "{said}");
    };
    // Another test's functions may be there already, and then it is known.
    transaction("E(ERROR ");
    transaction(NONE);
    // Behind other statements of a pipeline it is always too late.
    let said = one.ask(&[
        run("SELECT nextval('other.early') > 0", &[]),
        run("SELECT currval('other.early') > 0", &[]),
        sync(),
    ]);
    assert!(
        said.contains("D(t)") && said.contains("E(ERROR 0A000 "),
        "{said}"
    );
    one.value("SELECT nextval('other.early')");
    assert!(two.query("SELECT currval('other.early')").contains(NONE));
}

/// A connection that is kept remembers what was taken there since, also for the first who asks, and DISCARD SEQUENCES is no query of a transaction.
#[test]
fn who_keeps_a_connection_keeps_what_was_taken_there() {
    let (_proxy, mut one, mut two) = two_clients("SET ROLE app; CREATE SEQUENCE other.rare;");
    one.value("SELECT nextval('other.rare')");
    for messages in [
        [query("CREATE TEMPORARY TABLE kept (a int)")].to_vec(),
        [query("SELECT nextval('other.rare') FROM pg_class LIMIT 1")].to_vec(),
    ] {
        let said = two.ask(&messages);
        assert!(!said.contains("E("), "{said}");
    }
    assert_eq!(two.value("SELECT currval('other.rare')"), "2");
    two.query("DISCARD TEMP");
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        two.query("CREATE TEMPORARY TABLE again (a int)");
        two.query(begin);
        let said = two.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
        assert!(!said.contains("E("), "{begin}: {said}");
        assert_eq!(two.value("SHOW transaction_isolation"), "serializable");
        two.query("COMMIT");
        two.query("DISCARD TEMP");
    }
}
