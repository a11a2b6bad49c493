//! Guards, fences and what else a plan makes on a shard, and takes away again.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use trunkline::backend::connect::{Address, Login};
use trunkline::backend::replication::{
    Limits, PublicationName, ReplicationConnection, SlotName, StreamRequest,
};
use trunkline::catalog::schema;
use trunkline::cli::local::{Cluster, Server};
use trunkline::moving::ledger::OnShard;
use trunkline::moving::look::{Asked, StreamRow};
use trunkline::moving::objects::{self, Orphan};
use trunkline::moving::pace::Pace;
use trunkline::moving::progress::Tally;
use trunkline::moving::scope::{MovedTable, Scope};
use trunkline::moving::shards::ShardError;
use trunkline::resharding::difference::difference;
use trunkline::resharding::job::{
    Ledger, Lsn, MovingKeys, Objects, ShardFact, ShardName, Slot, Term,
};
use trunkline::resharding::wanted::Planned;
use trunkline::sharding::range::{Range, Ranges};
use trunkline::sharding::{KeyType, KeyValue, ShardId, ShardMap, Strategy};
use trunkline::wire::tls::ServerEncryption;

use crate::servers::{DEADLINE, connect, own_cluster};

use MovingKeys::{Arriving, Leaving};

/// Of these tests: slots wait for all transactions of a server.
fn server() -> &'static Server {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    &CLUSTER.get_or_init(|| own_cluster(1, 0)).shards()[0].primary
}

/// Keys by ranges: the ends, and the shard before each.
fn map(ranges: &[(Option<i64>, u16)]) -> ShardMap {
    let mut from = None;
    let ranges = ranges.iter().map(|(to, shard)| {
        let to = to.map(KeyValue::Int);
        Range {
            from: std::mem::replace(&mut from, to.clone()),
            to,
            shard: ShardId(*shard),
        }
    });
    let ranges = Ranges::new(ranges.collect()).unwrap();
    ShardMap::new(vec![KeyType::BigInt], Strategy::Range(ranges), vec![]).unwrap()
}

/// Keys 50 to 99 leave shard `a` for `b`, and 200 to 249 come from there; `b` sees it the other way.
fn scope(number: u64, tables: &[(&str, &str)]) -> Scope {
    let before = map(&[(Some(100), 0), (None, 1)]);
    let after = map(&[(Some(50), 0), (Some(200), 1), (Some(250), 0), (None, 1)]);
    let moved = |(name, key): &(&str, &str)| MovedTable {
        schema: "public".into(),
        name: (*name).into(),
        distribution: 0,
        key: vec![(*key).into()],
    };
    Scope {
        number,
        name: "it's \"a\" plan".into(),
        shards: vec!["a".into(), "b".into()],
        distributions: vec![Planned {
            distribution: "d".into(),
            difference: difference(&before, &after).unwrap(),
            before,
            after,
        }],
        tables: tables.iter().map(moved).collect(),
        references: Vec::new(),
    }
}

/// A shard: a database of its own, and a plan that moves its tables.
struct Shard {
    database: String,
    sql: Client,
    scope: Scope,
    name: ShardName,
    objects: Objects,
}

const ALL: [MovingKeys; 2] = [Leaving, Arriving];

impl Shard {
    async fn new(database: &str, definitions: &str, tables: &[(&str, &str)]) -> Shard {
        server()
            .run_sql("postgres", &format!("CREATE DATABASE {database}"))
            .unwrap();
        let shard = Shard {
            database: database.to_owned(),
            sql: connect(&server().superuser_connection(database)).await,
            scope: scope(7, tables),
            name: ShardName("a".into()),
            objects: Objects {
                publication: "trunkline_reshard_7".into(),
                slot: format!("trunkline_7_{database}").into(),
                slot_seen: false,
            },
        };
        shard.run(definitions).await;
        shard
    }

    /// With one table `t` of keys 1 to 300.
    async fn plain(database: &str) -> Shard {
        let definitions = "CREATE TABLE t (id bigint PRIMARY KEY, v text);
            INSERT INTO t SELECT g, 'old' FROM generate_series(1, 300) g";
        Shard::new(database, definitions, &[("t", "id")]).await
    }

    fn on(&self) -> OnShard<'_> {
        self.on_by(&self.sql)
    }

    fn on_by<'a>(&'a self, client: &'a Client) -> OnShard<'a> {
        OnShard {
            client,
            scope: &self.scope,
            shard: &self.name,
        }
    }

    async fn client(&self) -> Client {
        connect(&server().superuser_connection(&self.database)).await
    }

    async fn run(&self, sql: &str) {
        let done = self.sql.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    async fn number(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn fact(&self) -> ShardFact {
        self.look(&ALL).await.0
    }

    async fn look(&self, strangers: &[MovingKeys]) -> (ShardFact, Vec<(ShardName, StreamRow)>) {
        let asked = Asked {
            strangers: strangers.iter().copied().collect(),
            rows: ALL.into(),
            ..Asked::default()
        };
        self.on().look(&self.objects, &asked).await.unwrap()
    }

    async fn triggers(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'trunkline%'")
            .await
    }

    /// Waits until a session waits for a lock in this database.
    async fn until_somebody_waits(&self) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.until("somebody waits", waiting, 1).await;
    }

    async fn until(&self, what: &str, sql: &str, wanted: i64) {
        let deadline = Instant::now() + DEADLINE;
        while self.number(sql).await != wanted {
            assert!(Instant::now() < deadline, "{what}: {sql}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn state(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

#[track_caller]
fn stale<T: std::fmt::Debug>(done: Result<T, ShardError>) {
    assert!(matches!(done, Err(ShardError::Stale(_))), "{done:?}");
}

const LONG: Duration = Duration::from_secs(30);

/// Runs a statement in a transaction of its own; why it was refused.
async fn refusal(client: &Client, isolation: &str, statement: &str) -> Option<String> {
    client
        .batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}"))
        .await
        .unwrap();
    let done = client.batch_execute(statement).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    done.err()
        .map(|error| format!("{} {error:?}", state(&error)))
}

#[tokio::test]
async fn moving_keys_are_refused_and_no_others() {
    let definitions = "CREATE TABLE owner (id int PRIMARY KEY);
        CREATE TABLE t (id bigint PRIMARY KEY, v text);
        CREATE TABLE c (tid bigint REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE, o int REFERENCES owner ON DELETE CASCADE);
        INSERT INTO owner SELECT generate_series(1, 300);
        INSERT INTO t SELECT g, 'old' FROM generate_series(1, 300) g WHERE g NOT IN (10, 60, 249);
        INSERT INTO c SELECT g, g FROM generate_series(1, 300) g WHERE g NOT IN (10, 60, 249);
        CREATE ROLE writer; GRANT ALL ON ALL TABLES IN SCHEMA public TO writer;
        CREATE TABLE fields (z text, id bigint, PRIMARY KEY (id));";
    let tables = [("t", "id"), ("c", "tid"), ("missing", "id")];
    let shard = Shard::new("guards", definitions, &tables).await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    let fact = shard.fact().await;
    assert_eq!(fact.ledger, Ledger::Open { term: Term(1) });
    assert_eq!((fact.guards, fact.rows), (BTreeSet::new(), ALL.into()));

    let client = shard.client().await;
    // The least that a client may have, and names of its own in front of ours.
    client
        .batch_execute("CREATE SCHEMA mine; CREATE TABLE mine.reshard_ledger (number int8, name text, guarded text[]);
            CREATE FUNCTION mine.eq(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
            CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.eq);
            GRANT ALL ON SCHEMA mine TO writer; SET SESSION AUTHORIZATION writer; SET search_path = mine, public, pg_catalog")
        .await
        .unwrap();
    // By what they write: keys that stay, and two that leave.
    let statements = |stays: i64, new: i64, moves: i64| {
        [
            format!("INSERT INTO t VALUES ({new})"),
            format!("UPDATE t SET v = 'x' WHERE id = {moves}"),
            format!("DELETE FROM t WHERE id = {moves}"),
            format!("DELETE FROM c WHERE tid = {moves}"),
            format!("UPDATE t SET id = {new} WHERE id = {stays}"),
            format!("UPDATE t SET id = 10 WHERE id = {moves}"),
            format!("INSERT INTO t VALUES ({moves}) ON CONFLICT (id) DO UPDATE SET v = 'y'"),
            format!("DELETE FROM owner WHERE id = {moves}"),
            format!(
                "WITH gone AS (DELETE FROM t WHERE id IN ({stays}, {moves}) RETURNING id) SELECT count(*) FROM gone"
            ),
            format!(
                "MERGE INTO t USING (VALUES ({moves})) AS s (id) ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = 'm'"
            ),
        ]
    };
    let levels = [
        "READ COMMITTED",
        "READ UNCOMMITTED",
        "REPEATABLE READ",
        "SERIALIZABLE",
    ];
    let all_go = async |what: &str, keys: (i64, i64, i64)| {
        for statement in statements(keys.0, keys.1, keys.2) {
            for level in levels {
                let refused = refusal(&client, level, &statement).await;
                assert_eq!(refused, None, "{what}: {level}: {statement}");
            }
        }
    };
    // They leave, come and stay; nothing is guarded.
    all_go("open", (20, 60, 70)).await;
    all_go("open", (20, 249, 230)).await;

    on.guard(Leaving, Term(1)).await.unwrap();
    assert_eq!(shard.fact().await.guards, BTreeSet::from([Leaving]));
    for statement in statements(20, 60, 70) {
        for level in levels {
            let refused = refusal(&client, level, &statement)
                .await
                .unwrap_or_default();
            assert!(
                refused.starts_with("40001") && refused.contains("being moved"),
                "{level}: {statement}: {refused}"
            );
        }
    }
    let nothing = "INSERT INTO t VALUES (70) ON CONFLICT DO NOTHING";
    assert_eq!(refusal(&client, "READ COMMITTED", nothing).await, None);
    all_go("other keys", (20, 10, 30)).await;
    all_go("the other kind", (20, 249, 230)).await;
    client
        .batch_execute("RESET SESSION AUTHORIZATION")
        .await
        .unwrap();
    for (key, refused) in [("60", true), ("10", false)] {
        let copy = format!("COPY t (id) FROM PROGRAM 'echo {key}'");
        assert_eq!(
            refusal(&client, "READ COMMITTED", &copy).await.is_some(),
            refused,
            "{key}"
        );
    }
    // Who replicates is not refused.
    client
        .batch_execute("SET session_replication_role = replica")
        .await
        .unwrap();
    all_go("replicated", (20, 60, 70)).await;
    client
        .batch_execute("RESET session_replication_role; SET SESSION AUTHORIZATION writer; SET search_path = mine, public, pg_catalog")
        .await
        .unwrap();

    on.unguard(Leaving, Term(2)).await.unwrap();
    let fact = shard.fact().await;
    assert_eq!(fact.guards, BTreeSet::new());
    assert_eq!(fact.ledger, Ledger::Open { term: Term(2) });
    all_go("unguarded", (20, 60, 70)).await;
    on.guard(Arriving, Term(2)).await.unwrap();
    all_go("of the other guard", (20, 60, 70)).await;
    let refused = refusal(&client, "READ COMMITTED", "DELETE FROM t WHERE id = 230").await;
    assert!(refused.is_some_and(|why| why.starts_with("40001")));
    // A guard whose trigger somebody has switched off is none, and is mended.
    shard
        .run("ALTER TABLE t DISABLE TRIGGER trunkline_reshard_7_arriving_insert; DROP TRIGGER trunkline_reshard_7_arriving_delete ON c")
        .await;
    assert_eq!(shard.fact().await.guards, BTreeSet::new());
    on.guard(Arriving, Term(2)).await.unwrap();
    assert_eq!(shard.fact().await.guards, BTreeSet::from([Arriving]));
}

#[tokio::test]
async fn a_fence_is_behind_everyone_who_wrote() {
    let shard = Shard::plain("fences").await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    let (a, b, c) = (
        shard.client().await,
        shard.client().await,
        shard.client().await,
    );
    // Older than the plan's fence, and older than its guard's first look.
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
    c.batch_execute(old).await.unwrap();
    // Keys that stay, and the other kind: they are open all the time.
    b.batch_execute("BEGIN; UPDATE t SET v = 'b' WHERE id IN (1, 230)")
        .await
        .unwrap();
    a.batch_execute("BEGIN; UPDATE t SET v = 'a' WHERE id = 60")
        .await
        .unwrap();
    assert!(shard.fact().await.strangers);
    assert!(!shard.look(&[]).await.0.strangers);
    let slow = on.fence(Leaving, Term(2), Duration::from_millis(20)).await;
    assert_eq!(slow.unwrap_err().sqlstate(), Some("55P03"));
    assert_eq!(shard.fact().await.guards, BTreeSet::new());

    let fencer = shard.client().await;
    let fence = shard.on_by(&fencer);
    let late = shard.client().await;
    let (place, refused, ()) = tokio::join!(
        async { fence.fence(Leaving, Term(2), LONG).await.unwrap() },
        async {
            shard.until_somebody_waits().await;
            late.batch_execute("UPDATE t SET v = 'late' WHERE id = 61")
                .await
                .unwrap_err()
        },
        async {
            let two = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            shard.until("the fence and a writer wait", two, 2).await;
            // Neither it nor who writes other keys is kept waiting.
            shard
                .run("UPDATE t SET v = 'other' WHERE id IN (2, 231)")
                .await;
            a.batch_execute("COMMIT").await.unwrap();
        }
    );
    assert_eq!(state(&refused), "40001", "{refused:?}");
    b.batch_execute("COMMIT").await.unwrap();
    // Its snapshot has no guard.
    let error = c
        .batch_execute("UPDATE t SET v = 'c' WHERE id = 62")
        .await
        .unwrap_err();
    assert_eq!(state(&error), "40001", "{error:?}");
    c.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        shard
            .number("SELECT count(*) FROM t WHERE v IN ('late', 'c')")
            .await,
        0
    );
    assert_eq!(
        shard.number("SELECT count(*) FROM t WHERE v = 'a'").await,
        1
    );

    let fact = shard.fact().await;
    assert_eq!(fact.fence, Some((Term(2), place)));
    assert_eq!(fact.guards, BTreeSet::from([Leaving]));
    assert_eq!(fact.ledger, Ledger::Open { term: Term(2) });
    assert!(place > Lsn(0) && !fact.strangers);
    // Once more: the same.
    assert_eq!(on.fence(Leaving, Term(2), LONG).await.unwrap(), place);
    // An earlier one is not obeyed, whatever it is.
    stale(on.fence(Leaving, Term(1), LONG).await);
    stale(on.guard(Leaving, Term(1)).await);
    stale(on.unguard(Leaving, Term(1)).await);
    stale(on.open(Term(1)).await);
    stale(on.close(Term(1)).await);
    on.unguard(Leaving, Term(3)).await.unwrap();
    stale(on.fence(Leaving, Term(2), LONG).await);
    shard.run("UPDATE t SET v = 'on' WHERE id = 60").await;
    assert!(on.fence(Leaving, Term(4), LONG).await.unwrap() > place);
}

#[tokio::test]
async fn a_transaction_older_than_the_plan_cannot_pass() {
    let shard = Shard::plain("older").await;
    let client = shard.client().await;
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
    client.batch_execute(old).await.unwrap();
    shard.on().open(Term(1)).await.unwrap();
    client
        .batch_execute("UPDATE t SET v = 'other' WHERE id = 1")
        .await
        .unwrap();
    shard.on().fence(Leaving, Term(1), LONG).await.unwrap();
    let error = client
        .batch_execute("UPDATE t SET v = 'new' WHERE id = 60")
        .await
        .unwrap_err();
    assert_eq!(state(&error), "40001", "{error:?}");
}

#[tokio::test]
async fn a_fence_waits_for_prepared_transactions() {
    let shard = Shard::plain("prepared").await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    for (level, id) in [("READ COMMITTED", 60), ("REPEATABLE READ", 61)] {
        shard
            .run(&format!("BEGIN ISOLATION LEVEL {level}; UPDATE t SET v = 'p' WHERE id = {id}; PREPARE TRANSACTION 'ledger_{id}'"))
            .await;
        let error = on.fence(Leaving, Term(1), Duration::from_millis(20)).await;
        assert_eq!(error.unwrap_err().sqlstate(), Some("55P03"));
        // Nobody can be ended for it.
        assert!(!shard.fact().await.strangers);
        assert_eq!(on.end_strangers(Leaving).await.unwrap(), 0);
        let fencer = shard.client().await;
        let fence = shard.on_by(&fencer);
        let (fenced, ()) = tokio::join!(fence.fence(Leaving, Term(1), LONG), async {
            shard.until_somebody_waits().await;
            shard.run(&format!("COMMIT PREPARED 'ledger_{id}'")).await;
        });
        fenced.unwrap();
        assert_eq!(
            shard
                .number(&format!(
                    "SELECT count(*) FROM t WHERE id = {id} AND v = 'p'"
                ))
                .await,
            1
        );
        on.unguard(Leaving, Term(1)).await.unwrap();
    }
}

#[tokio::test]
async fn strangers_are_ended() {
    let shard = Shard::plain("strangers").await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    let (leaves, comes) = (shard.client().await, shard.client().await);
    leaves
        .batch_execute("BEGIN; DELETE FROM t WHERE id = 60")
        .await
        .unwrap();
    comes
        .batch_execute("BEGIN; DELETE FROM t WHERE id = 230")
        .await
        .unwrap();
    assert_eq!(on.end_strangers(Leaving).await.unwrap(), 1);
    on.fence(Leaving, Term(1), LONG).await.unwrap();
    assert!(!shard.look(&[Leaving]).await.0.strangers);
    assert!(shard.look(&[Arriving]).await.0.strangers);
    assert!(leaves.batch_execute("COMMIT").await.is_err());
    comes.batch_execute("COMMIT").await.unwrap();
    assert_eq!(shard.number("SELECT count(*) FROM t").await, 299);
}

#[tokio::test]
async fn a_plan_begins_behind_a_writer_and_keeps_nobody_waiting() {
    let shard = Shard::plain("begins").await;
    let writer = shard.client().await;
    writer
        .batch_execute("BEGIN; UPDATE t SET v = 'w' WHERE id = 60")
        .await
        .unwrap();
    let (opener, other) = (shard.client().await, shard.client().await);
    let on = shard.on_by(&opener);
    let (opened, ()) = tokio::join!(on.open(Term(1)), async {
        for _ in 0..3 {
            shard.until_somebody_waits().await;
            // Behind who waits for the table, for no longer than that waits.
            let begun = Instant::now();
            other
                .batch_execute("UPDATE t SET v = 'o' WHERE id = 61")
                .await
                .unwrap();
            assert!(begun.elapsed() < Duration::from_secs(5));
            assert_eq!(shard.fact().await.ledger, Ledger::Absent);
        }
        writer.batch_execute("COMMIT").await.unwrap();
    });
    opened.unwrap();
    assert_eq!(shard.fact().await.ledger, Ledger::Open { term: Term(1) });
    assert_eq!(shard.triggers().await, 8);
}

#[tokio::test]
async fn from_its_beginning_to_its_end() {
    let shard = Shard::plain("whole").await;
    let on = shard.on();
    let fact = shard.fact().await;
    assert_eq!(fact.ledger, Ledger::Absent);
    assert_eq!((fact.slot, fact.publication), (Slot::Absent, false));
    // Nothing is there to be changed.
    assert!(on.guard(Leaving, Term(1)).await.is_err());
    for _ in 0..2 {
        on.open(Term(1)).await.unwrap();
        assert_eq!(shard.triggers().await, 8);
    }
    on.guard(Arriving, Term(1)).await.unwrap();
    stale(
        on.remove(Arriving, &Pace::new(None), &Tally::default())
            .await,
    );
    assert!(!shard.fact().await.indexed);
    on.set_indexed().await.unwrap();
    assert!(shard.fact().await.indexed);

    let source = ShardName("it's b".into());
    shard
        .run("INSERT INTO trunkline.reshard_streams (number, source, driver) SELECT number, 'it''s b', 9 FROM trunkline.reshard_ledger")
        .await;
    shard
        .run("UPDATE trunkline.reshard_streams SET applied = '1/2', fence_applied = 3, verified_round = 4, differences = 5 WHERE driver = 9")
        .await;
    let streams = shard.look(&[]).await.1;
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0].0, source);
    let row = streams[0].1;
    assert_eq!((row.copied, row.applied), (false, Lsn((1 << 32) + 2)));
    assert_eq!(row.fence_applied, Some(Term(3)));
    assert_eq!(
        row.verified.map(|it| (it.round, it.differences)),
        Some((4, 5))
    );

    for statement in [
        "TRUNCATE t",
        "SET session_replication_role = origin; TRUNCATE t CASCADE",
    ] {
        let refused = refusal(&shard.sql, "READ COMMITTED", statement).await;
        assert!(refused.is_some_and(|why| why.starts_with("55006")));
    }
    // Who writes rows of the stream is waited for.
    let writer = shard.client().await;
    writer
        .batch_execute("BEGIN; SELECT FROM trunkline.reshard_streams WHERE driver = 9 FOR SHARE")
        .await
        .unwrap();
    let closer = shard.client().await;
    let close = shard.on_by(&closer);
    let (closed, ()) = tokio::join!(close.close(Term(2)), async {
        shard.until_somebody_waits().await;
        writer.batch_execute("COMMIT").await.unwrap();
    });
    closed.unwrap();
    on.close(Term(2)).await.unwrap();
    assert_eq!(shard.look(&[]).await.1, []);
    // What was not guarded has its triggers still, and so counts as guarded.
    let fact = shard.fact().await;
    assert_eq!(fact.ledger, Ledger::Closed { term: Term(2) });
    assert_eq!(fact.guards, ALL.into());
    for late in [
        on.open(Term(2)).await,
        on.guard(Leaving, Term(2)).await,
        on.fence(Leaving, Term(2), LONG).await.map(drop),
        on.set_indexed().await,
        on.make_publication("trunkline_reshard_7").await,
        // Nothing is removed of keys that are not guarded.
        on.remove(Leaving, &Pace::new(None), &Tally::default())
            .await,
    ] {
        stale(late);
    }
    assert_eq!(shard.number("SELECT count(*) FROM t").await, 300);
    on.unguard(Leaving, Term(2)).await.unwrap();
    assert_eq!(shard.fact().await.guards, BTreeSet::from([Arriving]));
    shard.run("DELETE FROM t WHERE id = 60").await;
    assert!(
        refusal(&shard.sql, "READ COMMITTED", "DELETE FROM t WHERE id = 230")
            .await
            .is_some()
    );
    for _ in 0..2 {
        on.unguard(Arriving, Term(2)).await.unwrap();
        assert_eq!(shard.triggers().await, 0);
    }
    assert_eq!(shard.fact().await.guards, BTreeSet::new());
    shard.run("TRUNCATE t").await;
    stale(on.open(Term(9)).await);
    assert_eq!(shard.triggers().await, 0);

    // A shard that the plan never came to.
    let never = Shard::plain("never").await;
    never.on().close(Term(4)).await.unwrap();
    assert_eq!(never.fact().await.ledger, Ledger::Closed { term: Term(4) });
    stale(never.on().open(Term(4)).await);
    assert_eq!(never.triggers().await, 0);
}

const PARTITIONED: &str = "CREATE TABLE p (v text, id bigint PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE \"p Low\" (id bigint NOT NULL, v text);
    ALTER TABLE p ATTACH PARTITION \"p Low\" FOR VALUES FROM (0) TO (65);
    CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (65) TO (1000) PARTITION BY RANGE (id);
    CREATE TABLE p_high_1 PARTITION OF p_high FOR VALUES FROM (65) TO (220);
    CREATE TABLE p_high_2 PARTITION OF p_high FOR VALUES FROM (220) TO (1000);
    INSERT INTO p SELECT repeat('x', 500), g FROM generate_series(1, 300) g";

#[tokio::test]
async fn partitions_are_guarded_and_cleared() {
    let shard = Shard::new("partitions", PARTITIONED, &[("p", "id")]).await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    on.fence(Leaving, Term(1), LONG).await.unwrap();
    assert_eq!(shard.fact().await.guards, BTreeSet::from([Leaving]));
    for (statement, allowed) in [
        ("UPDATE p SET v = 'y' WHERE id = 60", false),
        ("UPDATE p_high_1 SET v = 'y' WHERE id = 66", false),
        // To another partition: to a key that stays, and from one.
        ("UPDATE p SET id = 400 WHERE id = 60", false),
        ("UPDATE p SET id = 66 WHERE id = 300", false),
        ("INSERT INTO \"p Low\" VALUES (50)", false),
        ("UPDATE p SET id = 400 WHERE id = 20", true),
        ("TRUNCATE p", false),
        ("TRUNCATE p_high", false),
        ("TRUNCATE \"p Low\"", false),
    ] {
        let refused = refusal(&shard.sql, "READ COMMITTED", statement).await;
        assert_eq!(refused.is_none(), allowed, "{statement}: {refused:?}");
    }
    // A partition that is made later has the guards of its root, but for TRUNCATE; the next order makes that.
    shard
        .run("CREATE TABLE p_later PARTITION OF p FOR VALUES FROM (1000) TO (2000)")
        .await;
    assert_eq!(shard.fact().await.guards, BTreeSet::new());
    on.guard(Leaving, Term(1)).await.unwrap();
    assert_eq!(shard.fact().await.guards, BTreeSet::from([Leaving]));

    on.close(Term(2)).await.unwrap();
    let tally = Tally::default();
    on.remove(Leaving, &Pace::new(None), &tally).await.unwrap();
    assert_eq!(shard.number("SELECT count(*) FROM p").await, 250);
    assert_eq!(
        shard
            .number("SELECT count(*) FROM p WHERE id BETWEEN 50 AND 99")
            .await,
        0
    );
    assert_eq!(shard.fact().await.rows, BTreeSet::from([Arriving]));
    let noted: Vec<_> = tally.progress(0).tables;
    assert_eq!(noted.len(), 1);
    assert_eq!(
        (&*noted[0].from, &*noted[0].to, noted[0].removed_rows),
        ("a", "b", 50)
    );
    on.unguard(Leaving, Term(2)).await.unwrap();
    on.unguard(Arriving, Term(2)).await.unwrap();
    assert_eq!(shard.triggers().await, 0);
}

#[tokio::test]
async fn removal_takes_the_rows_of_the_keys_and_no_others() {
    let definitions = "CREATE TABLE t (id bigint PRIMARY KEY, v text);
        CREATE TABLE c (id bigint REFERENCES t ON DELETE RESTRICT, n int, v text);
        INSERT INTO t SELECT g, repeat('x', 300) FROM generate_series(1, 300) g;
        INSERT INTO c SELECT id, n, repeat('y', 50) FROM t, generate_series(1, 200) n ORDER BY n;
        CREATE TABLE audit (what text);
        CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (TG_OP); RETURN NULL; END';
        CREATE TRIGGER noted AFTER DELETE ON c FOR EACH ROW EXECUTE FUNCTION noted();";
    let tables = [("t", "id"), ("c", "id"), ("missing", "id")];
    let shard = Shard::new("removal", definitions, &tables).await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    on.guard(Arriving, Term(1)).await.unwrap();
    on.close(Term(2)).await.unwrap();
    let start = shard
        .number("SELECT (pg_current_wal_lsn() - '0/0')::int8")
        .await;
    let sum = "SELECT sum(hashtext(t::text))::int8 FROM (SELECT * FROM c WHERE id NOT BETWEEN 200 AND 249) t";
    let before = shard.number(sum).await;
    let tally = Tally::default();
    on.remove(Arriving, &Pace::new(None), &tally).await.unwrap();
    assert_eq!(shard.number("SELECT count(*) FROM t").await, 250);
    assert_eq!(shard.number("SELECT count(*) FROM c").await, 250 * 200);
    assert_eq!(
        shard
            .number("SELECT count(*) FROM c WHERE id BETWEEN 200 AND 249")
            .await,
        0
    );
    assert_eq!(shard.number(sum).await, before);
    // Triggers of users belong to what users delete.
    assert_eq!(shard.number("SELECT count(*) FROM audit").await, 0);
    assert!(
        shard
            .number("SELECT (pg_current_wal_lsn() - '0/0')::int8")
            .await
            > start
    );
    let mut noted: Vec<_> = tally.progress(0).tables;
    noted.sort_by_key(|it| it.removed_rows);
    let noted: Vec<_> = noted
        .iter()
        .map(|it| (&*it.table, &*it.from, &*it.to, it.removed_rows))
        .collect();
    assert_eq!(
        noted,
        [
            ("\"public\".\"t\"", "b", "a", 50),
            ("\"public\".\"c\"", "b", "a", 50 * 200)
        ]
    );
    // Again, and when the keys are somebody's once more.
    on.remove(Arriving, &Pace::new(None), &tally).await.unwrap();
    on.unguard(Arriving, Term(2)).await.unwrap();
    shard.run("INSERT INTO t VALUES (230)").await;
    stale(on.remove(Arriving, &Pace::new(None), &tally).await);
    assert_eq!(
        shard.number("SELECT count(*) FROM t WHERE id = 230").await,
        1
    );
}

#[tokio::test]
async fn a_removal_keeps_the_rate() {
    let shard = Shard::new(
        "removal_rate",
        "CREATE TABLE t (id bigint, v text); INSERT INTO t SELECT 60, repeat('x', 1000) FROM generate_series(1, 1000)",
        &[("t", "id")],
    )
    .await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    on.guard(Leaving, Term(1)).await.unwrap();
    on.close(Term(2)).await.unwrap();
    let pace = Pace::new(Some(1_000_000));
    let begun = Instant::now();
    on.remove(Leaving, &pace, &Tally::default()).await.unwrap();
    // A second, less the credit.
    assert!(begun.elapsed() > Duration::from_millis(750));
    assert_eq!(shard.number("SELECT count(*) FROM t").await, 0);
}

async fn replication(database: &str) -> ReplicationConnection {
    let address = Address {
        host: "127.0.0.1".into(),
        port: server().port(),
    };
    let login = Login {
        user: "postgres".into(),
        credential: None,
        database: database.to_owned(),
        application_name: Some("ledger".into()),
        parameters: Vec::new(),
    };
    ReplicationConnection::open(&address, &login, &ServerEncryption::Disable, DEADLINE)
        .await
        .unwrap()
}

#[tokio::test]
async fn publications_and_slots() {
    let definitions = format!(
        "{PARTITIONED}; CREATE TABLE t (id bigint PRIMARY KEY); CREATE TABLE other (id int)"
    );
    let tables = [("t", "id"), ("p", "id"), ("missing", "id")];
    let shard = Shard::new("objects", &definitions, &tables).await;
    let on = shard.on();
    on.open(Term(1)).await.unwrap();
    let (publication, slot) = (&*shard.objects.publication, &*shard.objects.slot);
    for _ in 0..2 {
        on.make_publication(publication).await.unwrap();
        on.make_slot(&mut replication("objects").await, slot)
            .await
            .unwrap();
    }
    let published: String = shard
        .sql
        .query_one("SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = $1", &[&publication])
        .await
        .unwrap()
        .get(0);
    assert_eq!(published, "p t");
    let fact = shard.fact().await;
    assert!(fact.publication);
    assert!(matches!(fact.slot, Slot::There { .. }), "{:?}", fact.slot);

    // The log has a fence behind who wrote before it, and removed rows behind the mark that says whose they are.
    shard.run("DELETE FROM p WHERE id IN (60, 61)").await;
    on.fence(Leaving, Term(2), LONG).await.unwrap();
    on.close(Term(2)).await.unwrap();
    on.remove(Leaving, &Pace::new(None), &Tally::default())
        .await
        .unwrap();
    let changes = shard
        .sql
        .query(
            "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2, 'messages', 'true')",
            &[&slot, &publication],
        )
        .await
        .unwrap();
    // Types of messages, with the content of those that are logical, and without the descriptions of tables.
    let changes: Vec<String> = changes
        .iter()
        .map(|row| match row.get::<_, &[u8]>(0) {
            [b'M', rest @ ..] => {
                let text = String::from_utf8_lossy(&rest[9..]).into_owned();
                text.replace(|letter: char| letter.is_ascii_control(), " ")
            }
            other => char::from(other[0]).to_string(),
        })
        .filter(|change| change != "R")
        .collect();
    let changes = changes.join(",");
    let (written, removed) = changes.split_once(",C,").unwrap();
    assert_eq!(written, "B,D,D");
    let (fence, removed) = removed.split_once(",C,").unwrap();
    assert!(
        fence.starts_with("B,trunkline/fence") && fence.ends_with("7:2"),
        "{fence}"
    );
    let transactions: Vec<&str> = removed.split(",C").collect();
    assert_eq!(removed.matches(",D").count(), 48);
    for transaction in transactions.iter().filter(|one| one.contains(",D")) {
        let begins = transaction
            .trim_start_matches(',')
            .starts_with("B,trunkline/moved");
        assert!(begins, "{transaction}");
    }

    // They are known when nobody knows of the plan.
    assert_eq!(objects::orphans(&shard.sql, &[1, 7]).await.unwrap(), []);
    assert_eq!(
        objects::orphans(&shard.sql, &[1]).await.unwrap(),
        [
            Orphan::Guards(7),
            Orphan::Publication(publication.to_owned()),
            Orphan::Slot(slot.to_owned())
        ]
    );
    // A slot that is read is dropped all the same.
    let request = StreamRequest::new(
        SlotName::new(slot).unwrap(),
        trunkline::wire::replication::Lsn(0),
        PublicationName::new(publication).unwrap(),
    );
    let connection = replication("objects").await;
    let stream = connection.start(&request, Limits::default()).await.unwrap();
    for _ in 0..2 {
        objects::drop_slot(&shard.sql, slot).await.unwrap();
        objects::drop_publication(&shard.sql, publication)
            .await
            .unwrap();
    }
    drop(stream);
    let fact = shard.fact().await;
    assert_eq!((fact.slot, fact.publication), (Slot::Absent, false));

    let made = on.make_slot(&mut replication("objects").await, slot).await;
    stale(made);
    for orphan in objects::orphans(&shard.sql, &[]).await.unwrap() {
        objects::remove_orphan(&shard.sql, &orphan).await.unwrap();
    }
    assert_eq!(objects::orphans(&shard.sql, &[]).await.unwrap(), []);
    assert_eq!(shard.triggers().await, 0);
    assert_eq!(shard.fact().await.slot, Slot::Absent);
}

#[tokio::test]
async fn guards_change_nothing_for_the_planner() {
    // Words of the guard's body are names of something that leaves something behind.
    let definitions = "CREATE TABLE t (id bigint PRIMARY KEY, v text); CREATE VIEW seen AS SELECT * FROM t;
        CREATE FUNCTION plan() RETURNS void LANGUAGE plpgsql AS 'BEGIN SET work_mem = 64; END';
        CREATE SEQUENCE s; CREATE FUNCTION number() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN currval(''s''); END';
        CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TABLE u (id bigint); CREATE TRIGGER mine AFTER INSERT ON u EXECUTE FUNCTION mine()";
    let shard = Shard::new("planning", definitions, &[("t", "id")]).await;
    let before = schema::read(&shard.sql).await.unwrap();
    shard.on().open(Term(1)).await.unwrap();
    shard.on().guard(Leaving, Term(1)).await.unwrap();
    let after = schema::read(&shard.sql).await.unwrap();
    assert_eq!(before.relations, after.relations);
    assert_eq!(before.details.triggered, after.details.triggered);
    assert_eq!(before.details.tied, after.details.tied);
    assert_eq!(after.details.triggered.len(), 1);
    for table in ["t", "seen"] {
        assert!(after.residue.writes_harmlessly(table), "{table}");
        assert!(after.residue.reads_harmlessly(table), "{table}");
        assert!(!after.residue.writing_asks(table), "{table}");
        assert!(after.replicas.can_read(table), "{table}");
    }
}
