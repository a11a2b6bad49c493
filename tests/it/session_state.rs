//! What a session sets belongs to it alone, follows it to every connection, and is gone with it. User `lone` has one server
//! connection a shard, so that each client meets the one that the client before it had.

use std::io::ErrorKind;

use crate::proxy::{Proxy, keys, plain, proxy, same, same_as};
use crate::servers::wait_until;
use crate::wire_client::{Step, Until, ask, query, run, sync};

fn queries(texts: &[&str]) -> Vec<Step> {
    texts.iter().map(|text| ask(&[query(text)])).collect()
}

const WORK_MEM: &str = "SELECT current_setting('work_mem')";

#[test]
fn settings_are_set_and_undone_as_on_one_server() {
    same(&queries(&[
        "SET work_mem = '1MB'",
        WORK_MEM,
        "BEGIN",
        "SET work_mem = '2MB'",
        WORK_MEM,
        "ROLLBACK",
        WORK_MEM,
        "BEGIN",
        WORK_MEM,
        "SET work_mem = '3MB'",
        "SAVEPOINT a",
        "SET work_mem = '4MB'",
        "ROLLBACK TO a",
        WORK_MEM,
        "COMMIT",
        WORK_MEM,
        "BEGIN",
        "SET LOCAL work_mem = '5MB'",
        WORK_MEM,
        "COMMIT",
        WORK_MEM,
        "SET LOCAL work_mem = '6MB'",
        WORK_MEM,
        "BEGIN; SET work_mem = '7MB'; COMMIT",
        WORK_MEM,
        "SET work_mem = '8MB'; SELECT 1/0",
        WORK_MEM,
        "BEGIN",
        "SET work_mem = 'much'",
        "SELECT 1",
        "ROLLBACK",
        "SET no_such_setting = 1",
        "SET app.tenant = 'x''y'",
        "SELECT current_setting('app.tenant')",
        "RESET app.tenant",
        "SELECT current_setting('app.tenant', true)",
        "BEGIN",
        "RESET work_mem",
        WORK_MEM,
        "ROLLBACK",
        WORK_MEM,
        "SET TIME ZONE 'Asia/Tokyo'",
        "SHOW timezone",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW transaction_read_only",
        "BEGIN",
        "SET TRANSACTION READ WRITE",
        "SHOW transaction_read_only",
        "COMMIT",
        "SHOW transaction_read_only",
        "RESET ALL",
        WORK_MEM,
        "SHOW transaction_read_only",
        "SET work_mem = '9MB'; SET statement_timeout = 12345",
        "DISCARD ALL",
        "SHOW statement_timeout",
        "SET work_mem TO DEFAULT",
        WORK_MEM,
        "SET ROLE app",
        "SELECT current_user",
        "RESET ROLE",
        "SET datestyle = 'German'",
        "SELECT date '2024-02-29'",
        "SET datestyle TO 'ISO', 'DMY'",
        "SELECT date '2024-02-29', current_setting('datestyle')",
    ]));
}

#[test]
fn settings_follow_to_every_shard() {
    let mut client = proxy().client("lone");
    assert_eq!(client.query("SET work_mem = '77kB'"), "C(SET) Z(I)");
    client.query("SET app.tenant = 'mine'");
    for key in keys(4_000_000) {
        let sql = format!(
            "/* trunkline: key={key} distribution=customers */ SELECT current_setting('work_mem') || current_setting('app.tenant')"
        );
        assert_eq!(client.value(&sql), "77kBmine");
    }
}

/// `set_config` of a known name and value is a SET: it follows the session and keeps no connection.
#[test]
fn set_config_is_a_set() {
    let work_mem = "SELECT set_config('work_mem', $1, false)";
    same(&[
        ask(&[query("SELECT set_config('work_mem', '99kB', false)")]),
        ask(&[query(WORK_MEM)]),
        ask(&[query(
            "SELECT pg_catalog.set_config('search_path', 'other, public', false) AS path",
        )]),
        ask(&[query(
            "SELECT to_regclass('notes')::oid = 'other.notes'::regclass, current_schemas(false)",
        )]),
        ask(&[query("BEGIN")]),
        ask(&[query("SELECT set_config('search_path', 'public', true)")]),
        ask(&[query("SELECT current_schemas(false)")]),
        ask(&[query("SELECT set_config('work_mem', '98kB', false)")]),
        ask(&[query("ROLLBACK")]),
        ask(&[query(WORK_MEM), query("SELECT current_schemas(false)")]),
        ask(&[run(work_mem, &[Some("97kB")]), sync()]),
        ask(&[query(WORK_MEM)]),
        ask(&[run(work_mem, &[Some("much")]), sync()]),
        ask(&[run(work_mem, &[None]), sync()]),
        ask(&[query(WORK_MEM)]),
        ask(&[query("SELECT set_config('search_path', '', false)")]),
        ask(&[query("SELECT current_schemas(false)")]),
        ask(&[query("SELECT set_config('app.tenant', 'it''s', false)")]),
        ask(&[query("SELECT current_setting('app.tenant')")]),
        ask(&[query("DISCARD ALL")]),
        ask(&[query("SELECT current_schemas(false)")]),
    ]);
    let proxy = proxy();
    let (mut one, mut two) = (proxy.client("lone"), proxy.client("lone"));
    for _ in 0..2 {
        one.query("SELECT set_config('timezone', 'Asia/Tokyo', false)");
        two.ask(&[
            run(
                "SELECT set_config('TimeZone', $1, false)",
                &[Some("Europe/Paris")],
            ),
            sync(),
        ]);
        assert_eq!(one.value("SHOW timezone"), "Asia/Tokyo");
        assert_eq!(two.value("SHOW timezone"), "Europe/Paris");
    }
}

#[test]
fn nobody_else_sees_them() {
    let proxy = proxy();
    let mut other = proxy.client("lone");
    let usual = other.value(WORK_MEM);
    for set in [
        &["SET work_mem = '99kB'"][..],
        &["BEGIN", "SET work_mem = '99kB'", "SELECT 1", "COMMIT"],
        &["BEGIN", "SELECT 1", "SET work_mem = '99kB'"],
        &["BEGIN", "SET LOCAL work_mem = '99kB'", "SELECT 1"],
        &["SELECT set_config('work_mem', '99kB', false)"],
        &["DO $$BEGIN SET work_mem = '99kB'; END$$"],
        &["SET work_mem = '99kB'; SELECT 1/0"],
        &["BEGIN; SET work_mem = '99kB'; COMMIT; SELECT 1/0"],
        &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
        &["SET search_path = other"],
    ] {
        let mut client = proxy.client("lone");
        for sql in set {
            client.query(sql);
        }
        if !set[0].starts_with("BEGIN") && !set[0].contains("set_config") {
            assert_eq!(
                other.value(WORK_MEM),
                usual,
                "{set:?}, while its client is there"
            );
            assert_eq!(other.value("SHOW search_path"), "\"$user\", public");
        }
        drop(client);
        assert_eq!(other.value(WORK_MEM), usual, "{set:?}");
        assert_eq!(
            other.value("SHOW default_transaction_read_only"),
            "off",
            "{set:?}"
        );
        assert_eq!(
            other.value("SHOW search_path"),
            "\"$user\", public",
            "{set:?}"
        );
    }
}

#[test]
fn who_gives_no_application_name_has_none() {
    let shown = "SELECT current_setting('application_name')";
    let mut named = proxy().client_with("lone", &[("application_name", "named")]);
    assert_eq!(named.value(shown), "named");
    let mut client = proxy().client("lone");
    assert_eq!(client.value(shown), "");
    client.query("SET application_name = 'later'");
    assert_eq!(client.value(shown), "later");
    client.query("RESET application_name");
    assert_eq!(client.value(shown), "");
    assert_eq!(named.value(shown), "named");
}

#[test]
fn startup_parameters_are_where_reset_goes_back_to() {
    let mut client = proxy().client_with(
        "lone",
        &[
            ("application_name", "my 'app'"),
            ("work_mem", "111kB"),
            ("options", "-c app.tenant=it\\ s -c statement_timeout=4321"),
        ],
    );
    for _ in 0..2 {
        assert_eq!(
            client.value("SELECT current_setting('application_name')"),
            "my 'app'"
        );
        assert_eq!(client.value("SELECT current_setting('app.tenant')"), "it s");
        assert_eq!(client.value("SHOW statement_timeout"), "4321ms");
        assert_eq!(client.value(WORK_MEM), "111kB");
        client.query("SET work_mem = '222kB'");
        assert_eq!(client.value(WORK_MEM), "222kB");
        client.query("RESET work_mem");
        assert_eq!(client.value(WORK_MEM), "111kB");
        client.query("SET statement_timeout = 1");
        client.query("RESET ALL");
        client.query("DISCARD ALL");
    }
    client.query("SET application_name = 'changed'");
    assert_eq!(
        client.value("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"),
        "changed"
    );
    assert_eq!(proxy().client("lone").value("SHOW work_mem"), "4MB");
    let refused = proxy()
        .try_client("lone", &[("work_mem", "much")])
        .err()
        .unwrap();
    assert_eq!(
        refused.to_string(),
        "E(FATAL 22023 invalid value for parameter \"work_mem\": \"much\")"
    );
    assert_eq!(proxy().client("lone").value("SHOW work_mem"), "4MB");
}

#[test]
fn search_path_decides_which_table_is_meant() {
    // `customers` of another schema is nobody's sharded table.
    let mut client = proxy().client("trusty");
    let created = client
        .query("/* trunkline: shard=s1 */ CREATE TABLE other.customers (id bigint, name text)");
    assert_eq!(created, "C(CREATE TABLE) Z(I)");
    assert!(
        client
            .query("SELECT * FROM customers ORDER BY name LIMIT 1 FOR UPDATE")
            .starts_with("E(ERROR 0A000 ")
    );
    assert_eq!(
        client.query("SET search_path = other, public"),
        "C(SET) Z(I)"
    );
    assert_eq!(
        client.query("SELECT * FROM customers ORDER BY name LIMIT 1 FOR UPDATE"),
        "T(id:20 name:25) C(SELECT 0) Z(I)"
    );
    client.query("BEGIN");
    client.query("SET LOCAL search_path = public");
    assert!(
        client
            .query("SELECT * FROM customers ORDER BY name LIMIT 1 FOR UPDATE")
            .starts_with("E(ERROR 0A000 ")
    );
    client.query("ROLLBACK");
    assert_eq!(
        client.query("SELECT * FROM customers ORDER BY name LIMIT 1 FOR UPDATE"),
        "T(id:20 name:25) C(SELECT 0) Z(I)"
    );
    client.query("RESET search_path");
    assert!(
        client
            .query("SELECT * FROM customers ORDER BY name LIMIT 1 FOR UPDATE")
            .starts_with("E(ERROR 0A000 ")
    );
    let mut client = proxy().client_with("trusty", &[("search_path", "other")]);
    assert_eq!(
        client.query("SELECT * FROM customers ORDER BY name LIMIT 1 FOR UPDATE"),
        "T(id:20 name:25) C(SELECT 0) Z(I)"
    );
    client.query("/* trunkline: shard=s1 */ DROP TABLE other.customers");
}

#[test]
fn a_shard_is_chosen_by_setting() {
    let ports =
        |client: &mut crate::wire_client::Wire| client.value("SELECT current_setting('port')");
    let mut client = proxy().client("trusty");
    let home = ports(&mut client);
    assert_eq!(
        client.query("SHOW trunkline.shard"),
        "T(trunkline.shard:25) D() C(SHOW) Z(I)"
    );
    assert_eq!(client.query("SET trunkline.shard = 's3'"), "C(SET) Z(I)");
    assert_eq!(
        client.query("SHOW trunkline.shard"),
        "T(trunkline.shard:25) D(s3) C(SHOW) Z(I)"
    );
    let third = ports(&mut client);
    assert_ne!(third, home);
    assert_eq!(
        client.ask(&[run("SHOW trunkline.shard", &[]), sync()]),
        "1 2 D(s3) C(SHOW) Z(I)"
    );
    client.query("BEGIN");
    assert_eq!(
        client.query("SET LOCAL trunkline.shard = 's2'"),
        "C(SET) Z(T)"
    );
    let second = ports(&mut client);
    assert!(second != home && second != third);
    client.query("COMMIT");
    assert_eq!(ports(&mut client), third);
    client.query("BEGIN");
    assert_eq!(client.query("SET trunkline.shard = 's2'"), "C(SET) Z(T)");
    assert_eq!(ports(&mut client), second);
    client.query("ROLLBACK");
    assert_eq!(ports(&mut client), third);
    assert_eq!(client.query("RESET trunkline.shard"), "C(RESET) Z(I)");
    assert_eq!(ports(&mut client), home);
    assert!(
        client
            .query("SET trunkline.shard = 'nowhere'")
            .starts_with("E(ERROR 22023 ")
    );
    assert!(
        client
            .query("SET trunkline.shard = 's2'; SELECT 1")
            .starts_with("E(ERROR 0A000 ")
    );
    for (place, key) in keys(4_100_000).into_iter().enumerate() {
        let set = format!("SET trunkline.key = {key}");
        let said = client.query(&set);
        // Several distributions have keys of this type: it must be said which one is meant.
        assert!(
            said.starts_with("C(SET)") || said.starts_with("E(ERROR 22023 "),
            "{place}: {said}"
        );
    }
    assert_eq!(client.query("RESET trunkline.key"), "C(RESET) Z(I)");
    // Another client begins without.
    client.query("SET trunkline.shard = 's3'");
    assert_eq!(ports(&mut proxy().client("trusty")), home);
    assert_eq!(client.query("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(ports(&mut client), home);
}

#[test]
fn temporary_tables_stay_with_their_session() {
    let proxy = proxy();
    let mut client = proxy.client("trusty");
    assert_eq!(
        client.query("CREATE TEMPORARY TABLE mine (x int)"),
        "C(CREATE TABLE) Z(I)"
    );
    let mut others: Vec<_> = (0..3).map(|_| proxy.client("trusty")).collect();
    for round in 0..3 {
        assert_eq!(
            client.query(&format!("INSERT INTO mine VALUES ({round})")),
            "C(INSERT 0 1) Z(I)"
        );
        for other in &mut others {
            assert!(
                other
                    .query("SELECT * FROM mine")
                    .starts_with("E(ERROR 42P01 ")
            );
        }
    }
    assert_eq!(client.value("SELECT count(*) FROM mine"), "3");
    assert_eq!(client.query("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert!(
        client
            .query("SELECT * FROM mine")
            .starts_with("E(ERROR 42P01 ")
    );
    // With one connection, the next client would find it.
    let mut client = proxy.client("lone");
    assert_eq!(
        client.query("CREATE TEMPORARY TABLE mine (x int)"),
        "C(CREATE TABLE) Z(I)"
    );
    let process = client.value("SELECT pg_backend_pid()");
    drop(client);
    let mut next = proxy.client("lone");
    assert!(
        next.query("SELECT * FROM mine")
            .starts_with("E(ERROR 42P01 ")
    );
    assert_eq!(
        next.value("SELECT pg_backend_pid()"),
        process,
        "a connection that was cleaned is used again"
    );
}

#[test]
fn advisory_locks_stay_with_their_session() {
    let proxy = proxy();
    let mut client = proxy.client("trusty");
    client.query("SELECT pg_advisory_lock(4711)");
    let mut others: Vec<_> = (0..3).map(|_| proxy.client("trusty")).collect();
    for other in &mut others {
        assert_eq!(other.value("SELECT pg_try_advisory_lock(4711)"), "f");
    }
    assert_eq!(client.value("SELECT pg_advisory_unlock(4711)"), "t");
    assert_eq!(others[0].value("SELECT pg_try_advisory_lock(4711)"), "t");
    drop(others);
    let mut next = proxy.client("trusty");
    wait_until("the lock is gone with its client", || {
        next.value("SELECT pg_try_advisory_lock(4711)") == "t"
    });
}

#[test]
fn notifications_reach_those_who_listen() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 8\n");
    let (mut one, mut two, mut deaf) = (
        proxy.client("trusty"),
        proxy.client("trusty"),
        proxy.client("trusty"),
    );
    assert_eq!(one.query("LISTEN news"), "C(LISTEN) Z(I)");
    assert_eq!(two.query("LISTEN news"), "C(LISTEN) Z(I)");
    assert_eq!(deaf.query("NOTIFY news, 'first'"), "C(NOTIFY) Z(I)");
    for client in [&mut one, &mut two] {
        assert_eq!(client.read().unwrap().to_string(), "A(news first)");
    }
    // Whoever listens may do other things meanwhile, on other shards too.
    let [_, key, ..] = keys(4_200_000);
    assert_eq!(
        one.query(&format!("SELECT count(*) FROM customers WHERE id = {key}")),
        "T(count:20) D(0) C(SELECT 1) Z(I)"
    );
    assert_eq!(one.query("UNLISTEN news"), "C(UNLISTEN) Z(I)");
    deaf.query("NOTIFY news, 'second'");
    assert_eq!(two.read().unwrap().to_string(), "A(news second)");
    assert_eq!(
        one.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
    drop(two);
    // The connections that listened go to others without what they listened to.
    let mut next: Vec<_> = (0..8).map(|_| proxy.client("trusty")).collect();
    for client in &mut next {
        client.query("BEGIN; SELECT 1");
    }
    deaf.query("NOTIFY news, 'third'");
    for client in &mut next[..7] {
        assert_eq!(
            client.query("SELECT count(*) FROM pg_listening_channels()"),
            "T(count:20) D(0) C(SELECT 1) Z(T)"
        );
    }
}

/// In session pooling a client has its connections to itself until it leaves.
#[test]
fn session_pooling() {
    let proxy = proxy();
    same_as(
        "solo",
        &queries(&[
            "SET work_mem = '1MB'",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "CREATE TEMP TABLE t (x int)",
            "SELECT * FROM t",
            "BEGIN",
            "COMMIT",
            "EXECUTE p",
            "DISCARD ALL",
            "EXECUTE p",
        ]),
    );
    let mut client = proxy.client("solo");
    let process = client.value("SELECT pg_backend_pid()");
    client.query("SELECT set_config('work_mem', '99kB', false)");
    assert_ne!(
        proxy.client("solo").value("SELECT pg_backend_pid()"),
        process
    );
    assert_eq!(client.value("SELECT pg_backend_pid()"), process);
    assert_eq!(client.value(WORK_MEM), "99kB");
    drop(client);
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client("solo")).collect();
    for client in &mut clients {
        assert_eq!(client.value(WORK_MEM), "4MB");
    }
}

#[test]
fn prepare_in_sql_and_cursors_with_hold_stay() {
    same(&queries(&[
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "EXECUTE p",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 3); COMMIT",
        "FETCH 1 FROM c",
        "FETCH 5 FROM c",
        "CLOSE c",
        "FETCH 5 FROM c",
    ]));
}

/// An idle client is told nothing, whatever becomes of the connections it once used.
#[test]
fn idle_clients_hear_nothing() {
    let proxy = proxy();
    let mut client = proxy.client("trusty");
    client.query("SELECT 1");
    proxy
        .client("trusty")
        .query("SET datestyle = 'German'; SELECT pg_notify('idle', 'x')");
    client.stream.set_nonblocking(true).unwrap();
    let peeked = client.stream.peek(&mut [0; 16]);
    assert!(
        matches!(&peeked, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{peeked:?}"
    );
}

/// A client hears at once what it has set, also in a transaction of which no server knows yet, and what becomes of it.
#[test]
fn what_is_set_is_reported_at_once() {
    let mut clients = [plain(), proxy().client("trusty")];
    for steps in [
        &[
            "BEGIN",
            "SET TIME ZONE 'Africa/Nairobi'",
            "SELECT 1",
            "ROLLBACK",
            "SELECT 2",
        ][..],
        &[
            "BEGIN",
            "SET TIME ZONE 'Africa/Nairobi'",
            "ROLLBACK",
            "SELECT 3",
        ],
        &[
            "BEGIN",
            "SET LOCAL TIME ZONE 'Africa/Nairobi'",
            "SELECT 4",
            "COMMIT",
            "SELECT 5",
        ],
        &[
            "BEGIN",
            "SET application_name = 'one'",
            "SET TIME ZONE 'UTC'",
            "COMMIT",
            "SELECT 6",
            "RESET TIME ZONE",
        ],
        &["BEGIN", "SET TIME ZONE 'nowhere'", "ROLLBACK"],
    ] {
        let [expected, got] = clients.each_mut().map(|client| {
            let told = steps.iter().map(|sql| {
                client.send(&query(sql));
                let said = client.read_until(Until::Ready(1));
                let mut told: Vec<String> = said
                    .iter()
                    .filter(|message| message.tag == b'S')
                    .map(|message| String::from_utf8_lossy(&message.body).into_owned())
                    .collect();
                told.sort();
                (*sql, told)
            });
            told.collect::<Vec<_>>()
        });
        assert_eq!(got, expected);
    }
}

#[test]
fn settings_of_reads_are_the_session_s_own() {
    let mut client = proxy().client("trusty");
    let shown = |client: &mut crate::wire_client::Wire| {
        ["read", "causal_reads", "max_lag"]
            .map(|name| client.value(&format!("SHOW trunkline.{name}")))
    };
    let defaults = ["primary", "session", "30s"];
    assert_eq!(shown(&mut client), defaults);
    assert_eq!(client.query("SET trunkline.read TO replica"), "C(SET) Z(I)");
    assert_eq!(
        client.ask(&[run("SET trunkline.max_lag = '1500ms'", &[]), sync()]),
        "1 2 C(SET) Z(I)"
    );
    client.query("BEGIN");
    client.query("SET LOCAL trunkline.read = 'any'");
    client.query("SET trunkline.causal_reads = 'always'");
    assert_eq!(
        client.ask(&[run("SHOW trunkline.read", &[]), sync()]),
        "1 2 D(any) C(SHOW) Z(T)"
    );
    assert_eq!(shown(&mut client), ["any", "always", "1500ms"]);
    client.query("ROLLBACK");
    assert_eq!(shown(&mut client), ["replica", "session", "1500ms"]);
    for wrong in [
        "SET trunkline.read = 'secondary'",
        "SET trunkline.causal_reads = on",
        "SET trunkline.max_lag = 5",
        "SET trunkline.token = 'x'",
        "SET trunkline.token = '1:s1'",
    ] {
        let said = client.query(wrong);
        assert!(said.starts_with("E(ERROR 22023 "), "{wrong}: {said}");
    }
    assert_eq!(client.query("RESET ALL"), "C(RESET) Z(I)");
    assert_eq!(shown(&mut client), defaults);
    client.query("SET trunkline.read = 'any'");
    assert_eq!(client.query("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(shown(&mut client), defaults);
}

#[test]
fn own_settings_can_be_given_when_a_client_connects() {
    let token = "1:s3@0/10";
    let given = [
        ("options", "-c trunkline.read=any -c trunkline.shard=s3"),
        ("Trunkline.Max_Lag", "off"),
        ("trunkline.token", token),
    ];
    let mut client = proxy().client_with("trusty", &given);
    let shown = |client: &mut crate::wire_client::Wire| {
        ["read", "max_lag", "shard", "token"]
            .map(|name| client.value(&format!("SHOW trunkline.{name}")))
    };
    let began = ["any", "off", "s3", token];
    assert_eq!(shown(&mut client), began);
    // Floors only rise.
    client.query("BEGIN");
    client.query("SET trunkline.token = '1:s2@A/FF,s3@0/5'");
    assert!(
        client
            .query("SHOW trunkline.token")
            .starts_with("E(ERROR 25001 ")
    );
    client.query("ROLLBACK");
    client.query("SET trunkline.token = ''");
    client.query("RESET ALL");
    assert_eq!(client.value("SHOW trunkline.token"), "1:s2@A/FF,s3@0/10");
    client.query("RESET trunkline.token");
    assert_eq!(client.value("SHOW trunkline.token"), "");
    client.query(&format!("SET trunkline.token = '{token}'"));
    assert_eq!(shown(&mut client), began);
    // No server has heard of them.
    assert_eq!(
        client.value("SELECT current_setting('trunkline.read', true) IS NULL"),
        "t"
    );
    for back in ["RESET trunkline.read", "RESET ALL", "ROLLBACK"] {
        client.query("BEGIN");
        client.query("SET trunkline.read = 'primary'");
        client.query("SET trunkline.shard = 's1'");
        client.query(back);
        client.query("COMMIT");
        assert_eq!(client.value("SHOW trunkline.read"), "any", "{back}");
    }
    client.query("DISCARD ALL");
    let [read, lag, shard, token] = shown(&mut client);
    assert_eq!([&*read, &*lag, &*shard], ["any", "off", "s3"]);
    // It may have one for what DISCARD itself did.
    assert!(!token.contains("s3@"), "{token}");
    for (name, value) in [
        ("trunkline.read", "nowhere"),
        ("trunkline.shard", "nowhere"),
        ("trunkline.token", "1:x"),
    ] {
        let refused = proxy().try_client("trusty", &[(name, value)]).err();
        let refused = refused.map(|error| error.sqlstate());
        assert_eq!(refused.as_deref(), Some("22023"), "{name}");
    }
}
