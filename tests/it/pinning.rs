//! A session keeps its connection as long as that holds something of it, visibly, and no longer; a strict pool refuses instead.

use crate::proxy::Proxy;
use crate::wire_client::{Wire, ask, query, run, sync};

/// Why this client keeps a connection.
fn pins(proxy: &Proxy, client: &Wire) -> Vec<&'static str> {
    let reports = proxy.report();
    let clients = reports.iter().flat_map(|report| &report.clients);
    let mut found = clients.filter(|told| told.process_id == client.process_id);
    found.next().unwrap().pins.clone()
}

#[test]
fn it_ends_with_its_reason() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let mut client = proxy.client("trusty");
    let mut expect = |texts: &[&str], expected: &[&str]| {
        for text in texts {
            let said = client.query(text);
            assert!(!said.contains("E("), "{text}: {said}");
        }
        // Another round, so that what is looked at in between has been seen.
        client.query("SELECT 1");
        assert_eq!(pins(&proxy, &client), expected, "{texts:?}");
    };
    expect(&["CREATE TEMP TABLE t (x int)"], &["temporary table"]);
    expect(
        &[
            "CREATE TEMP TABLE u AS SELECT 1",
            "/* trunkline: shard=s1 */ DROP TABLE t",
        ],
        &["temporary table"],
    );
    expect(&["/* trunkline: shard=s1 */ DROP TABLE u"], &[]);
    expect(
        &[
            "BEGIN",
            "CREATE TEMP TABLE t (x int) ON COMMIT DROP",
            "INSERT INTO t VALUES (1)",
            "COMMIT",
        ],
        &[],
    );
    expect(&["BEGIN", "CREATE TEMP TABLE t (x int)", "ROLLBACK"], &[]);
    expect(&["CREATE TEMP TABLE t (x int)", "DISCARD TEMP"], &[]);
    expect(
        &["SELECT pg_advisory_lock(5150), pg_advisory_lock(5151)"],
        &["advisory lock"],
    );
    expect(&["SELECT pg_advisory_unlock(5150)"], &["advisory lock"]);
    expect(&["SELECT pg_advisory_unlock(5151)"], &[]);
    expect(
        &[
            "SELECT pg_advisory_lock(5150)",
            "SELECT pg_advisory_lock_shared(5151)",
            "SELECT pg_advisory_unlock_all()",
        ],
        &[],
    );
    expect(&["SELECT pg_advisory_xact_lock(5150)"], &[]);
    expect(
        &["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"],
        &["WITH HOLD cursor"],
    );
    expect(
        &["CREATE TEMP TABLE t (x int)"],
        &["WITH HOLD cursor", "temporary table"],
    );
    expect(&["CLOSE c"], &["temporary table"]);
    expect(&["DISCARD ALL"], &[]);
    expect(
        &[
            "BEGIN",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "COMMIT",
            "CLOSE ALL",
        ],
        &[],
    );
    expect(
        &[
            "BEGIN",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "ROLLBACK",
        ],
        &[],
    );
    expect(
        &["BEGIN", "SELECT lo_open(lo_create(0), 131072)", "ROLLBACK"],
        &[],
    );
    // What was kept is free: nobody else waits for it.
    let mut others: Vec<_> = (0..8).map(|_| proxy.client("trusty")).collect();
    for other in &mut others {
        assert_eq!(
            other.query("BEGIN; SELECT 1"),
            "C(BEGIN) T(?column?:23) D(1) C(SELECT 1) Z(T)"
        );
    }
}

/// A lock that was tried for and not gotten keeps nothing.
#[test]
fn a_lock_that_was_not_gotten() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let (mut holder, mut client) = (proxy.client("trusty"), proxy.client("trusty"));
    assert_eq!(holder.value("SELECT pg_try_advisory_lock(5160)"), "t");
    assert_eq!(client.value("SELECT pg_try_advisory_lock(5160)"), "f");
    client.query("SELECT 1");
    assert_eq!(pins(&proxy, &holder), ["advisory lock"]);
    assert!(pins(&proxy, &client).is_empty());
    client.ask(&[run("SELECT pg_try_advisory_lock(5161)", &[]), sync()]);
    client.query("SELECT 1");
    assert_eq!(pins(&proxy, &client), ["advisory lock"]);
    client.ask(&[run("SELECT pg_advisory_unlock(5161)", &[]), sync()]);
    client.query("SELECT 1");
    assert!(pins(&proxy, &client).is_empty());
}

#[test]
fn a_strict_pool_keeps_nothing() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\nmode = \"strict\"\n");
    let mut client = proxy.client("trusty");
    for sql in [
        "CREATE TEMP TABLE t (x int)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "SELECT 1 INTO TEMP t",
        "SELECT pg_advisory_lock(1)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "LOAD 'auto_explain'",
        "SELECT set_config(name, setting, false) FROM pg_settings WHERE name = 'work_mem'",
        "PREPARE p AS SELECT pg_advisory_lock(1); EXECUTE p",
    ] {
        for messages in [vec![query(sql)], vec![run(sql, &[]), sync()]] {
            let said = client.step(&ask(&messages));
            assert!(said.contains("E(ERROR "), "{sql}: {said}");
        }
        assert!(pins(&proxy, &client).is_empty());
    }
    let said = client.query("CREATE TEMP TABLE t (x int)");
    assert_eq!(
        said,
        "E(ERROR 0A000 the statement would keep a server connection: temporary table) Z(I)"
    );
    for sql in [
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT set_config('work_mem', '1MB', true)",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
    ] {
        let said = client.query(sql);
        assert!(!said.contains("E("), "{sql}: {said}");
    }
}
