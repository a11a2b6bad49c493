//! Tables that no configuration names: a comment of CREATE TABLE or an administrator says where their rows belong.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::moving::load::wait_for_definitions;
use crate::moving::stage::{Setting, Stage};
use crate::raw::{Format, Raw};
use crate::servers::value;
use crate::sharded::{Sharded, all_servers, configuration, succeeded};

const DISTRIBUTION: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = \"bigint\"\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
     [[tables]]\nname = \"known\"\ndistribution = \"d\"\nkey = \"id\"\n";

/// With a control store of its own.
fn configured(database: &str, store: &TempDir) -> String {
    let path = store.path().join("state");
    let store = format!("[store]\npath = {path:?}\n");
    configuration(database, &format!("{store}{DISTRIBUTION}"))
}

fn run(client: &mut Raw, statements: &[&str]) {
    for sql in statements {
        succeeded(sql, &client.simple(sql));
    }
}

/// How many rows each shard has; `None`: it has no such table.
fn rows(sharded: &Sharded, table: &str) -> Vec<Option<usize>> {
    let count = format!("SELECT count(*) FROM {table}");
    let of = |shard: &mut Raw| {
        let answer = shard.simple(&count);
        let count = answer.lines().pop();
        count.and_then(|line| line.parse().ok())
    };
    sharded.shards().iter_mut().map(of).collect()
}

fn on_several(sharded: &Sharded, table: &str, all: usize) {
    let rows = rows(sharded, table);
    let counted: usize = rows.iter().flatten().sum();
    assert_eq!(counted, all, "{rows:?}");
    assert!(
        rows.iter()
            .all(|count| count.is_some_and(|count| count < all)),
        "{rows:?}"
    );
}

/// What SHOW TABLES says of a table from `placement` on.
fn shown(admin: &mut Raw, table: &str) -> Option<String> {
    let tables = admin.simple("SHOW TABLES");
    succeeded("SHOW TABLES", &tables);
    let wanted = format!(" public {table} ");
    tables
        .lines()
        .iter()
        .find_map(|line| line.split_once(&wanted).map(|(_, rest)| rest.to_owned()))
}

#[test]
fn by_a_comment() {
    let store = TempDir::new().unwrap();
    let text = configured("placed_by_comment", &store);
    let sharded = Sharded::start_with("placed_by_comment", "", &text);
    let mut client = sharded.client();
    let parcels = "/* trunkline: distribution=d key=client */ CREATE TABLE parcels (client bigint, n int, PRIMARY KEY (client, n))";
    let fill =
        "INSERT INTO parcels VALUES (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)";
    run(&mut client, &[parcels, fill]);
    on_several(&sharded, "parcels", 8);
    let one = client.simple("SELECT n FROM parcels WHERE client = 3");
    assert_eq!(one.lines(), ["1"]);
    assert_eq!(client.simple("SELECT sum(n) FROM parcels").lines(), ["8"]);

    // In the extended protocol, and one more time where it is there.
    let boxes = "/* trunkline: key=client */ CREATE TABLE IF NOT EXISTS boxes (client bigint)";
    for _ in 0..2 {
        succeeded(boxes, &client.extended(boxes, &[], Format::Text));
    }
    run(
        &mut client,
        &["INSERT INTO boxes SELECT client FROM parcels"],
    );
    on_several(&sharded, "boxes", 8);
    let units = "/* trunkline: placement=reference */ CREATE TABLE units (code text)";
    run(&mut client, &[units, "INSERT INTO units VALUES ('kg')"]);
    assert_eq!(rows(&sharded, "units"), [Some(1); 4]);

    // What is rolled back is gone, and the name keeps its place.
    let crates = "/* trunkline: distribution=d key=client */ CREATE TABLE crates (client bigint)";
    let fill = "INSERT INTO crates (client) SELECT client FROM parcels";
    run(&mut client, &["BEGIN", crates, fill]);
    assert_eq!(client.simple("SELECT count(*) FROM crates").lines(), ["8"]);
    run(&mut client, &["ROLLBACK"]);
    assert_eq!(rows(&sharded, "crates"), [None; 4]);
    run(&mut client, &["CREATE TABLE crates (client bigint)", fill]);
    on_several(&sharded, "crates", 8);

    // A schema of the same transaction.
    run(
        &mut client,
        &[
            "BEGIN",
            "CREATE SCHEMA depot",
            "/* trunkline: distribution=d key='\"Client\"' */ CREATE TABLE depot.\"Racks\" (\"Client\" bigint)",
            "COMMIT",
            "INSERT INTO depot.\"Racks\" SELECT client FROM parcels",
        ],
    );
    on_several(&sharded, "depot.\"Racks\"", 8);
    let mut admin = Raw::connect(sharded.port, "app", "trunkline");
    assert_eq!(
        shown(&mut admin, "parcels").as_deref(),
        Some("sharded d client NULL 2 NULL record")
    );
    assert_eq!(
        shown(&mut admin, "known").as_deref(),
        Some("sharded d id NULL NULL NULL NULL")
    );
    drop(sharded);

    // A proxy that begins finds them.
    let sharded = Sharded::start_proxy("placed_by_comment", &text);
    let mut client = sharded.client();
    let all = client.simple("SELECT (SELECT count(*) FROM parcels), (SELECT count(*) FROM boxes), (SELECT count(*) FROM units)");
    assert_eq!(all.lines(), ["8 8 1"]);
}

#[test]
fn what_cannot_be_given_a_place() {
    let store = TempDir::new().unwrap();
    let text = configured("placed_refused", &store);
    let sharded = Sharded::start_with("placed_refused", "", &text);
    let mut client = sharded.client();
    run(
        &mut client,
        &["CREATE TABLE plain (client bigint)", "CREATE SCHEMA closed"],
    );
    for server in all_servers() {
        let made = server.run_sql(
            "postgres",
            "CREATE ROLE placed_refused_nobody; GRANT placed_refused_nobody TO app",
        );
        made.unwrap_or_else(|error| panic!("{error}"));
    }
    // One that nobody but a shard knows of.
    run(
        &mut sharded.shards()[2],
        &["CREATE TABLE hidden (client bigint)"],
    );
    let hint = "/* trunkline: distribution=d key=client */";
    for (sql, sqlstate, why) in [
        (
            "CREATE TABLE plain (client bigint)",
            "55000",
            "\"public\".\"plain\" has another place already than its comment says",
        ),
        (
            "CREATE TABLE hidden (client bigint)",
            "55000",
            "table public.hidden cannot be created in its place: \"public\".\"hidden\" is on shard s3: a place is given, or forgotten, while there is no such table. DROP it first, or create one with another name and move the rows.",
        ),
        (
            "CREATE TABLE crates (client text)",
            "22023",
            "column \"client\" has type text, the key of distribution \"d\" has bigint",
        ),
        (
            "CREATE TABLE crates (client bigint); SELECT 1",
            "0A000",
            "a statement that several shards do together comes with others in one message",
        ),
    ] {
        let error = client.simple(&format!("{hint} {sql}")).error;
        let error = error.unwrap_or_else(|| panic!("{sql} was done"));
        assert_eq!(
            (error.sqlstate(), error.field('M')),
            (sqlstate, why),
            "{sql}"
        );
    }
    run(&mut client, &["SET ROLE placed_refused_nobody"]);
    let denied = client.simple(&format!(
        "{hint} CREATE TABLE closed.crates (client bigint)"
    ));
    let error = denied.error.expect("it has no rights");
    assert!(
        error.field('M').contains(
            "role \"placed_refused_nobody\" may not create tables in schema \"closed\" on shard s1"
        ),
        "{}",
        error.field('M')
    );
    run(&mut client, &["RESET ROLE"]);
    // A failed transaction says so first.
    run(&mut client, &["BEGIN"]);
    assert!(client.simple("SELECT 1 / 0").error.is_some());
    let failed = client.simple(&format!("{hint} CREATE TABLE crates (client bigint)"));
    assert_eq!(failed.error.expect("it failed").sqlstate(), "25P02");
    run(&mut client, &["ROLLBACK"]);
    let mut admin = Raw::connect(sharded.port, "app", "trunkline");
    assert_eq!(shown(&mut admin, "crates"), None, "nothing was recorded");
}

/// Others make the table, or a schema in front of it, in transactions that have not ended.
#[test]
fn what_nobody_sees_yet() {
    let store = TempDir::new().unwrap();
    let text = configured("placed_unseen", &store);
    let sharded = Sharded::start_with("placed_unseen", "", &text);
    let (mut client, mut other) = (sharded.client(), sharded.client());
    let mut admin = Raw::connect(sharded.port, "app", "trunkline");
    let create = "/* trunkline: key=id */ CREATE TABLE IF NOT EXISTS t (id bigint)";
    run(&mut other, &["BEGIN", "CREATE TABLE t (id bigint)"]);
    let error = client.simple(create).error.expect("somebody makes it");
    assert_eq!(error.sqlstate(), "55000");
    let why = "a transaction that is open on shard s1 makes \"public\".\"t\"";
    assert!(error.field('M').contains(why), "{}", error.field('M'));
    run(&mut other, &["ROLLBACK"]);
    // The place is taken back only when nobody makes the table.
    run(&mut other, &["BEGIN", create]);
    let error = admin
        .simple("ALTER TABLE t RESET")
        .error
        .expect("it is made");
    assert_eq!(error.sqlstate(), "55P03");
    run(&mut other, &["COMMIT"]);
    run(
        &mut client,
        &["INSERT INTO t VALUES (1), (2), (3), (4), (5), (6), (7), (8)"],
    );
    on_several(&sharded, "t", 8);

    run(
        &mut client,
        &[
            "BEGIN",
            "CREATE SCHEMA front",
            "SET LOCAL search_path = front, public",
        ],
    );
    let error = client
        .simple("/* trunkline: key=id */ CREATE TABLE u (id bigint)")
        .error;
    let error = error.expect("it would be made in the new schema");
    assert!(
        error.field('M').contains("write the schema in front of it"),
        "{}",
        error.field('M')
    );
    run(&mut client, &["ROLLBACK"]);
    for mut shard in sharded.shards() {
        run(&mut shard, &["CREATE SCHEMA past"]);
    }
    run(&mut client, &["SET search_path = past, public"]);
    let error = client
        .simple("/* trunkline: key=id */ CREATE TABLE u (id bigint)")
        .error;
    let error = error.expect("it would be made in that schema");
    assert!(
        error
            .field('M')
            .contains("would be made in schema \"past\""),
        "{}",
        error.field('M')
    );
    run(&mut client, &["RESET search_path"]);
    // One shard would have it alone.
    run(&mut client, &["SET trunkline.shard = 's2'"]);
    let chosen = client.simple("/* trunkline: key=id */ CREATE TABLE u (id bigint)");
    assert_eq!(chosen.refusal(), Some("table_place"));
    assert_eq!(shown(&mut admin, "u"), None);
}

#[test]
fn by_an_administrator() {
    let store = TempDir::new().unwrap();
    let text = configured("placed_by_admin", &store);
    let sharded = Sharded::start_with("placed_by_admin", "", &text);
    let (mut client, mut admin) = (
        sharded.client(),
        Raw::connect(sharded.port, "app", "trunkline"),
    );
    run(
        &mut admin,
        &[
            "ALTER TABLE orders DISTRIBUTE BY d (client)",
            "ALTER TABLE public.orders DISTRIBUTE BY d (client) IN placed_by_admin",
            "ALTER TABLE units SET REFERENCE",
            "ALTER TABLE later SET REFERENCE",
        ],
    );
    assert_eq!(
        shown(&mut admin, "orders").as_deref(),
        Some("sharded d client NULL NULL NULL record")
    );
    run(
        &mut client,
        &[
            "CREATE TABLE orders (client bigint PRIMARY KEY)",
            "CREATE TABLE units (code text)",
            "INSERT INTO orders SELECT generate_series(1, 8)",
            "INSERT INTO units VALUES ('kg')",
        ],
    );
    on_several(&sharded, "orders", 8);
    assert_eq!(rows(&sharded, "units"), [Some(1); 4]);
    for (command, sqlstate, why) in [
        (
            "ALTER TABLE orders SET REFERENCE",
            "42710",
            "\"public\".\"orders\" has a place: DISTRIBUTE BY \"d\" (\"client\")",
        ),
        (
            "ALTER TABLE orders RESET",
            "42P07",
            "\"public\".\"orders\" is on shard s1: a place is given, or forgotten, while there is no such table",
        ),
        (
            "ALTER TABLE known DISTRIBUTE BY d (client)",
            "42710",
            "the configuration says where \"public\".\"known\" belongs",
        ),
        (
            "ALTER TABLE new DISTRIBUTE BY e (client)",
            "22023",
            "\"public\".\"new\": there is no distribution \"e\"",
        ),
        (
            "ALTER TABLE new DISTRIBUTE BY d (a, b)",
            "22023",
            "\"public\".\"new\": the key of distribution \"d\" has 1 columns, 2 are given",
        ),
    ] {
        let error = admin.simple(command).error.expect("it is refused");
        assert_eq!(
            (error.sqlstate(), error.field('M')),
            (sqlstate, why),
            "{command}"
        );
    }
    // It is forgotten when there is no such table.
    run(&mut admin, &["ALTER TABLE later RESET"]);
    assert_eq!(shown(&mut admin, "later"), None);
    let nothing = admin.simple("ALTER TABLE later RESET").error;
    assert_eq!(nothing.expect("there is none").sqlstate(), "42704");
    run(
        &mut client,
        &["DROP TABLE orders", "CREATE TABLE later (client bigint)"],
    );
    run(&mut admin, &["ALTER TABLE orders RESET"]);
    run(
        &mut client,
        &[
            "CREATE TABLE orders (client bigint)",
            "INSERT INTO orders SELECT generate_series(1, 8)",
        ],
    );
    assert_eq!(rows(&sharded, "orders"), [Some(8), None, None, None]);
    assert_eq!(rows(&sharded, "later"), [Some(0), None, None, None]);
}

/// A number from each shard.
fn on_all(stage: &Stage, sql: &str) -> [i64; 3] {
    [0, 1, 2].map(|shard| {
        value(stage.shard(shard), "app", sql)
            .unwrap()
            .parse()
            .unwrap()
    })
}

/// How many rows each shard has.
fn counts(stage: &Stage, table: &str) -> [i64; 3] {
    on_all(stage, &format!("SELECT count(*) FROM {table}"))
}

/// The other proxies know before the table is there, and plans move it like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_fleet() {
    let distribution = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = \"bigint\"\nshards = [\"s1\", \"s2\"]\n";
    let mut stage = Stage::start(&Setting {
        shards: 3,
        proxies: 3,
        distributions: distribution,
        schema: "SELECT 1",
        populated: 3,
    })
    .await;
    for proxy in &stage.proxies {
        wait_for_definitions(proxy.port).await;
    }
    let first = stage.proxies[0].client("app", "app").await.unwrap();
    let others = [
        stage.proxies[1].client("app", "app").await.unwrap(),
        stage.proxies[2].client("app", "app").await.unwrap(),
    ];
    for round in 0..8 {
        let name = format!("t{round}");
        let create = format!(
            "/* trunkline: distribution=d key=id */ CREATE TABLE {name} (id bigint PRIMARY KEY, n int)"
        );
        first.batch_execute(&create).await.unwrap();
        for (place, other) in others.iter().enumerate() {
            // It need not have heard of the columns yet.
            let from = 1 + 50 * place;
            let rows: Vec<String> = (from..from + 50)
                .map(|id| format!("({id}, {round})"))
                .collect();
            let insert = format!("INSERT INTO {name} (id, n) VALUES {}", rows.join(", "));
            let inserted = other.execute(&insert, &[]).await;
            let inserted = inserted.unwrap_or_else(|error| panic!("{error:?}\n{}", stage.logs()));
            assert_eq!(inserted, 50);
        }
    }
    for round in 0..8 {
        let [one, other, _] = counts(&stage, &format!("t{round}"));
        assert!(
            one > 20 && other > 20 && one + other == 100,
            "{one} {other}"
        );
    }
    // One that stands still is waited for.
    let process = Pid::from_raw(i32::try_from(stage.proxies[1].process()).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    let create =
        "/* trunkline: distribution=d key=id */ CREATE TABLE waits (id bigint PRIMARY KEY)";
    let mut created = Box::pin(first.batch_execute(create));
    let soon = tokio::time::timeout(Duration::from_millis(500), &mut created).await;
    assert_eq!(
        on_all(
            &stage,
            "SELECT count(*) FROM pg_class WHERE relname = 'waits'"
        ),
        [0; 3]
    );
    kill(process, Signal::SIGCONT).unwrap();
    assert!(soon.is_err(), "it was not waited for");
    created.await.unwrap();
    // A proxy that is gone is not waited for longer than its lease.
    stage.proxies[2].kill();
    first
        .batch_execute("/* trunkline: placement=reference */ CREATE TABLE units (code text)")
        .await
        .unwrap();
    first
        .execute("INSERT INTO units VALUES ('kg')", &[])
        .await
        .unwrap();

    stage
        .order("RESHARD PLAN p AS 's1 -> s1 50%, s3 50%'")
        .await;
    stage.order("RESHARD CHECK p").await;
    stage.reaches("p", "checked").await;
    // It may be in the plan or not, and it is too late to ask.
    stage.order("RESHARD START p").await;
    stage.reaches("p", "following").await;
    let late = stage
        .admin(0, "ALTER TABLE late DISTRIBUTE BY d (id)")
        .await;
    assert_eq!(
        late.unwrap_err(),
        "the plan p moves rows of d, and has its tables (55006)"
    );
    let late = first
        .batch_execute("/* trunkline: distribution=d key=id */ CREATE TABLE late (id bigint)")
        .await;
    let late = late.unwrap_err();
    let late = late.as_db_error().expect("a refusal").message();
    assert!(late.contains("rows of \"late\" are being moved"), "{late}");
    stage.order("RESHARD VERIFY p").await;
    stage.reaches("p", "verified").await;
    stage.order("RESHARD CUTOVER p").await;
    stage.reaches("p", "cut over").await;
    for round in 0..8 {
        let count = format!("SELECT count(*), sum(n) FROM t{round}");
        let row = others[0].query_one(&count, &[]).await.unwrap();
        assert_eq!(
            (row.get(0), row.get(1)),
            (100i64, Some(100 * i64::from(round)))
        );
        let [.., moved] = counts(&stage, &format!("t{round}"));
        assert!((10..45).contains(&moved), "{moved}");
    }
    assert_eq!(counts(&stage, "units"), [1, 1, 1]);

    stage.order("RESHARD FINISH p").await;
    stage.reaches("p", "finished").await;
    // A proxy that does not hear of others knows what it knew.
    stage.etcd.kill();
    first
        .batch_execute("CREATE TEMPORARY TABLE own (id bigint)")
        .await
        .unwrap();
    let other = stage.proxies[0].client("app", "app").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = other.batch_execute("SELECT FROM unheard_of").await {
        match error.code().expect("a refusal").code() {
            "57P03" => break,
            code => assert_eq!(code, "42P01"),
        }
        assert!(Instant::now() < deadline, "its lease does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let truncated = other
        .batch_execute("TRUNCATE unheard_of")
        .await
        .unwrap_err();
    assert_eq!(truncated.code().expect("a refusal").code(), "57P03");
    let row = other
        .query_one("SELECT count(*) FROM t0, units", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 100);
    first
        .batch_execute("INSERT INTO pg_temp.own VALUES (1)")
        .await
        .unwrap();
}
