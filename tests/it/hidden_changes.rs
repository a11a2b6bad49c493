//! What functions, triggers and DO change in a connection unseen never reaches another client; and who may set what a session begins with.

use crate::proxy::{DATABASE, Proxy, proxy, same};
use crate::servers::{cluster, servers, wait_until};
use crate::wire_client::{Step, Wire, ask, query, run, sync};

const DEFINITIONS: &str = "
    SET ROLE app;
    CREATE SCHEMA hidden;
    CREATE FUNCTION hidden.harmless_one(n int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN n + 1; END$$;
    CREATE FUNCTION hidden.by_config() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('work_mem', '99kB', false); END$$;
    CREATE FUNCTION hidden.by_set() RETURNS int LANGUAGE plpgsql AS $$BEGIN SET search_path = hidden; SET work_mem = '99kB'; RETURN 1; END$$;
    CREATE FUNCTION hidden.by_text() RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE 'SET work_' || 'mem = ''99kB'''; END$$;
    CREATE FUNCTION hidden.by_call() RETURNS int LANGUAGE sql AS $$SELECT hidden.by_set()$$;
    CREATE FUNCTION hidden.takes_role() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('role', 'hidden_role', false); END$$;
    CREATE FUNCTION hidden.makes_table() RETURNS void LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE left_behind (x int); END$$;
    CREATE FUNCTION hidden.takes_lock() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_lock(77077); END$$;
    CREATE FUNCTION hidden.fired() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM hidden.by_config(); RETURN new; END$$;
    CREATE TABLE hidden.audited (x int);
    CREATE TRIGGER fires BEFORE INSERT ON hidden.audited FOR EACH ROW EXECUTE FUNCTION hidden.fired();
    CREATE TABLE hidden.calm (x int);
    CREATE VIEW hidden.seen AS SELECT hidden.by_set() AS x;
    CREATE SEQUENCE hidden.numbers;
    CREATE FUNCTION hidden.spied() RETURNS text LANGUAGE plpgsql AS $$DECLARE x text; BEGIN EXECUTE 'SELECT curr' || 'val(''hidden.numbers'')' INTO x; RETURN x; END$$;
    CREATE FUNCTION hidden.writes() RETURNS void LANGUAGE sql AS $$INSERT INTO hidden.audited VALUES (2)$$;
";

fn one_client_after_the_other() -> (Proxy, Wire, Wire) {
    static DEFINED: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    // The tables are there.
    proxy();
    DEFINED.get_or_init(|| {
        cluster().shards()[0]
            .primary
            .run_sql(
                "postgres",
                "CREATE ROLE hidden_role; GRANT hidden_role TO app",
            )
            .unwrap();
        cluster().shards()[0]
            .primary
            .run_sql(DATABASE, DEFINITIONS)
            .unwrap();
    });
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let (one, two) = (proxy.client("lone"), proxy.client("lone"));
    (proxy, one, two)
}

#[test]
fn functions_leave_nothing_to_others() {
    let (_proxy, mut one, mut two) = one_client_after_the_other();
    let state = "SELECT concat_ws('/', current_setting('work_mem'), current_setting('search_path'), current_user,
        to_regclass('left_behind'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77077))";
    let usual = two.value(state);
    let process = two.value("SELECT pg_backend_pid()");
    two.query("PREPARE kept AS SELECT 'kept'");
    for sql in [
        "SELECT hidden.by_config()",
        "SELECT hidden.by_set()",
        "SELECT 1 WHERE hidden.by_set() = 1",
        "SELECT hidden.by_text()",
        "SELECT hidden.by_call()",
        "SELECT hidden.takes_role()",
        "SELECT hidden.makes_table()",
        "SELECT hidden.takes_lock()",
        "INSERT INTO hidden.audited VALUES (1)",
        "COPY hidden.audited TO STDOUT",
        "SELECT hidden.writes()",
        "SELECT * FROM hidden.seen",
        "TABLE hidden.seen",
        "EXPLAIN ANALYZE SELECT hidden.by_set()",
        "WITH w AS (INSERT INTO hidden.audited VALUES (1) RETURNING x) SELECT * FROM w",
        "CREATE TABLE hidden.made AS SELECT hidden.by_set()",
        "DROP TABLE hidden.made",
        "BEGIN; DECLARE c CURSOR FOR SELECT hidden.by_set(); FETCH c; COMMIT",
        "PREPARE p AS SELECT hidden.by_set(); EXECUTE p",
        "EXECUTE p",
        "DO $$BEGIN PERFORM hidden.by_set(); END$$",
    ] {
        let sql = format!("/* trunkline: shard=s1 */ {sql}")
            .replace("; ", "; /* trunkline: shard=s1 */ ");
        let said = one.query(&sql);
        assert!(!said.contains("E("), "{sql}: {said}");
        assert_eq!(two.value(state), usual, "{sql}");
        one.query("SET trunkline.shard = 's1'");
        one.ask(&[run(&sql, &[]), sync()]);
        one.query("RESET trunkline.shard");
        assert_eq!(two.value(state), usual, "{sql}, by the extended protocol");
    }
    // The connection was cleaned, not closed, and has its prepared statements where nobody could have taken them.
    assert_eq!(two.value("SELECT pg_backend_pid()"), process);
    assert_eq!(two.value("EXECUTE kept"), "kept");
}

/// A function that leaves nothing behind costs nothing: nothing is run behind it.
#[test]
fn harmless_functions_leave_the_connection_as_it_is() {
    let (_proxy, mut one, _) = one_client_after_the_other();
    // The last value shows whether the connection was cleaned; written so that it is not known to be asked for.
    let spied = "/* trunkline: shard=s1 */ SELECT hidden.spied()";
    one.query("/* trunkline: shard=s1 */ SELECT nextval('hidden.numbers')");
    for sql in [
        "SELECT hidden.harmless_one(1)",
        "SELECT lower('X'), coalesce(NULL, now())",
        "UPDATE hidden.calm SET x = 2",
    ] {
        one.query(&format!("/* trunkline: shard=s1 */ {sql}"));
    }
    assert!(one.query(spied).starts_with("T(spied:25) D("));
    one.query("/* trunkline: shard=s1 */ SELECT nextval('hidden.numbers')");
    one.query("/* trunkline: shard=s1 */ SELECT hidden.by_set()");
    assert!(one.query(spied).contains("E(ERROR 55000 "));
}

/// A function that nobody knew of when the definitions were read is taken for the worst.
#[test]
fn a_new_function_is_not_trusted() {
    let (_proxy, mut one, mut two) = one_client_after_the_other();
    cluster().shards()[0]
        .primary
        .run_sql(DATABASE, "SET ROLE app; CREATE OR REPLACE FUNCTION hidden.brand_new() RETURNS int LANGUAGE plpgsql AS $$BEGIN SET work_mem = '98kB'; RETURN 1; END$$")
        .unwrap();
    assert_eq!(
        one.value("/* trunkline: shard=s1 */ SELECT hidden.brand_new()"),
        "1"
    );
    assert_eq!(two.value("SHOW work_mem"), "4MB");
    cluster().shards()[0]
        .primary
        .run_sql(DATABASE, "DROP FUNCTION hidden.brand_new()")
        .unwrap();
}

#[test]
fn defaults_of_roles_and_databases() {
    // The tables are there.
    proxy();
    for server in cluster()
        .shards()
        .iter()
        .map(|shard| &shard.primary)
        .chain([&servers().plain])
    {
        server
            .run_sql(
                "postgres",
                "CREATE ROLE fancy LOGIN; ALTER ROLE fancy SET work_mem = '123kB';
            ALTER ROLE fancy IN DATABASE shop SET search_path = other, public; GRANT fancy TO app",
            )
            .ok();
    }
    let proxy =
        Proxy::start("workers = 1\n[[users]]\nname = \"fancy\"\nauth = \"trust\"\npool_size = 1\n");
    wait_until("the role is there", || {
        proxy.try_client("fancy", &[]).is_ok()
    });
    for _ in 0..2 {
        let mut client = proxy.client_with(
            "fancy",
            &[("options", "-c statement_timeout=4444 --lock_timeout=55")],
        );
        assert_eq!(client.value("SHOW work_mem"), "123kB");
        assert_eq!(client.value("SHOW search_path"), "other, public");
        assert_eq!(client.value("SHOW statement_timeout"), "4444ms");
        assert_eq!(client.value("SHOW lock_timeout"), "55ms");
        client.query("SET work_mem = '1MB'; SET search_path = public");
        assert_eq!(client.value("SHOW work_mem"), "1MB");
        client.query("RESET ALL");
        assert_eq!(client.value("SHOW work_mem"), "123kB");
        assert_eq!(client.value("SHOW search_path"), "other, public");
        assert_eq!(client.value("SHOW lock_timeout"), "55ms");
    }
    let mut client = proxy.client("fancy");
    assert_eq!(client.value("SHOW lock_timeout"), "0");
}

#[test]
fn roles_and_transaction_defaults() {
    fn queries(texts: &[&str]) -> Vec<Step> {
        texts.iter().map(|text| ask(&[query(text)])).collect()
    }
    same(&queries(&[
        "SET ROLE none",
        "SET ROLE app",
        "SELECT current_user, session_user",
        "SET SESSION AUTHORIZATION app",
        "SELECT current_user, session_user",
        "RESET SESSION AUTHORIZATION",
        "SET ROLE nobody_of_this_name",
        "SELECT current_user",
        "BEGIN; SET LOCAL ROLE app; ROLLBACK",
        "BEGIN",
        "SET LOCAL default_transaction_read_only = on",
        "COMMIT",
        "SHOW default_transaction_read_only",
        "SET default_transaction_isolation = 'serializable'",
        "BEGIN",
        "SHOW transaction_isolation",
        "COMMIT",
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        "SHOW transaction_isolation",
        "COMMIT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SHOW default_transaction_isolation",
        "INSERT INTO notes VALUES (5501, 'x')",
        "SET default_transaction_read_only = off",
        "INSERT INTO notes VALUES (5501, 'x')",
        "DELETE FROM notes WHERE id = 5501",
        "RESET ALL",
        "SHOW transaction_isolation",
    ]));
}
