//! Nothing changes while it is compared.

use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::Client;
use trunkline::moving::verify::{Limits, Run, VerifyError, verify};
use trunkline::resharding::job::Side;

use super::party::{Carrier, NUMBER, Party, route};

/// A table that rows are put into by their number.
struct Table {
    name: &'static str,
    owner: &'static str,
    receiver: &'static str,
    columns: &'static str,
    /// Of row `i`, with `{tenant}`.
    values: &'static str,
    tenant: &'static str,
    /// The row of number `{i}`.
    at: &'static str,
}

const TABLES: [Table; 5] = [
    Table {
        name: "plain",
        owner: "CREATE TABLE plain (id bigint PRIMARY KEY, tenant bigint, note text)",
        receiver: "CREATE TABLE plain (id bigint PRIMARY KEY, tenant bigint, note text)",
        columns: "id, tenant, note",
        values: "i, {tenant}, 'note ' || i",
        tenant: "100 + i % 1900",
        at: "id = {i}",
    },
    Table {
        name: "Two \"keys\"",
        owner: "CREATE TABLE \"Two \"\"keys\"\"\" (tenant bigint, \"A b\" text, note text, PRIMARY KEY (tenant, \"A b\"))",
        receiver: "CREATE TABLE \"Two \"\"keys\"\"\" (tenant bigint, \"A b\" text, note text, PRIMARY KEY (tenant, \"A b\"))",
        columns: "tenant, \"A b\", note",
        tenant: "100 + i / 7",
        values: "{tenant}, i % 7 || ' {,\"ä', 'note ' || i",
        at: "tenant = 100 + {i} / 7 AND \"A b\" = {i} % 7 || ' {,\"ä'",
    },
    Table {
        name: "by_name",
        owner: "CREATE TABLE by_name (name varchar(40) PRIMARY KEY, tenant bigint, note text)",
        receiver: "CREATE TABLE by_name (tenant bigint, note text, name varchar(40) PRIMARY KEY)",
        columns: "name, tenant, note",
        tenant: "1999",
        values: "lpad(i::text, 5, '0') || CASE i % 3 WHEN 0 THEN ' Öl' WHEN 1 THEN '\\' ELSE '' END, {tenant}, 'note ' || i",
        at: "name LIKE lpad({i}::text, 5, '0') || '%'",
    },
    Table {
        name: "parts",
        owner: "CREATE TABLE parts (tenant bigint, id int, note text, PRIMARY KEY (id, tenant)) PARTITION BY HASH (tenant);
            CREATE TABLE parts0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
            CREATE TABLE parts1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        receiver: "CREATE TABLE parts (tenant bigint, id int, note text, PRIMARY KEY (id, tenant)) PARTITION BY LIST (tenant);
            CREATE TABLE parts_rest PARTITION OF parts DEFAULT",
        columns: "tenant, id, note",
        values: "{tenant}, i, 'note ' || i",
        tenant: "100 + i % 1900",
        at: "id = {i}",
    },
    Table {
        name: "made",
        owner: "CREATE TABLE made (id int PRIMARY KEY, tenant bigint, note text, twice text GENERATED ALWAYS AS (note || note) STORED)",
        receiver: "CREATE TABLE made (gone int, twice text GENERATED ALWAYS AS (note || note) STORED, note text, id int PRIMARY KEY, tenant bigint);
            ALTER TABLE made DROP COLUMN gone",
        columns: "id, tenant, note",
        values: "i, {tenant}, 'note ' || i",
        tenant: "100",
        at: "id = {i}",
    },
];

impl Table {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    fn insert(&self, from: i64, to: i64) -> String {
        self.insert_for(self.tenant, from, to)
    }

    fn insert_for(&self, tenant: &str, from: i64, to: i64) -> String {
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM generate_series({from}, {to}) AS i",
            self.quoted(),
            self.columns,
            self.values.replace("{tenant}", tenant)
        )
    }

    fn at(&self, i: i64) -> String {
        self.at.replace("{i}", &i.to_string())
    }
}

async fn filled(name: &str) -> Party {
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let party = Party::new(name, &names).await;
    for table in &TABLES {
        party.owner.batch_execute(table.owner).await.unwrap();
        party.receiver.batch_execute(table.receiver).await.unwrap();
        party.both(&table.insert(1, 1000)).await;
    }
    party
}

/// Runs one statement for each table.
async fn each(client: &Client, statement: impl Fn(&Table) -> String) {
    for table in &TABLES {
        let sql = statement(table);
        let done = client.batch_execute(&sql).await;
        done.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

/// One difference in each table is found and described; then it is undone.
async fn judge(
    party: &Party,
    side: &Client,
    what: &str,
    expected: &str,
    change: impl Fn(&Table) -> String,
    undo: impl Fn(&Table) -> String,
) {
    each(side, change).await;
    let found = party.verify().await.unwrap();
    assert_eq!(found.differences, 5, "{what}: {found:?}");
    for table in &TABLES {
        let begin = format!("\"public\".{} ", table.quoted());
        let mut samples = found.samples.iter();
        let sample = samples.find(|sample| sample.starts_with(&begin));
        let sample = sample.unwrap_or_else(|| panic!("{what}: {found:?}"));
        assert!(sample.ends_with(expected), "{what}: {sample}");
    }
    assert_eq!(party.noted().await, (Some(5), Some(5)));
    each(side, undo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_found_and_described() {
    let party = filled("verify_at_rest").await;
    let _carrier = Carrier::start(&party, Duration::ZERO).await;
    // Rows that do not move are nobody's business.
    each(&party.owner, |table| table.insert_for("i % 90", 3000, 3300)).await;
    each(&party.receiver, |table| {
        table.insert_for("2000 + i % 90", 3000, 3300)
    })
    .await;
    let found = party.verify().await.unwrap();
    assert_eq!((found.rows, found.differences), (5000, 0), "{found:?}");
    assert!(found.samples.is_empty());
    assert_eq!(party.noted().await, (Some(5), Some(0)));
    let progress = party.tally.progress(0);
    assert_eq!(progress.tables.len(), 5);
    assert!(
        progress
            .tables
            .iter()
            .all(|table| table.compared_rows == 1000)
    );

    let sides = [(&party.owner, "s1", "s2"), (&party.receiver, "s2", "s1")];
    for (side, here, there) in sides {
        for i in [1, 500, 1000] {
            let update = |table: &Table, set: &str| {
                format!("UPDATE {} SET {set} WHERE {}", table.quoted(), table.at(i))
            };
            let differ = ": the rows of s1 and s2 differ";
            let (what, set) = (format!("row {i} changed on {here}"), "note = note || 'x'");
            let back = format!("note = 'note {i}'");
            judge(
                &party,
                side,
                &what,
                differ,
                |table| update(table, set),
                |table| update(table, &back),
            )
            .await;
            let what = format!("row {i} with NULL on {here}");
            judge(
                &party,
                side,
                &what,
                differ,
                |table| update(table, "note = NULL"),
                |table| update(table, &back),
            )
            .await;
            let what = format!("row {i} lost on {here}");
            let only = format!(": only {there} has the row");
            let delete =
                |table: &Table| format!("DELETE FROM {} WHERE {}", table.quoted(), table.at(i));
            judge(&party, side, &what, &only, delete, |table| {
                table.insert(i, i)
            })
            .await;
        }
        for i in [0, 1001, 5000] {
            let what = format!("row {i} added on {here}");
            let only = format!(": only {here} has the row");
            let delete =
                |table: &Table| format!("DELETE FROM {} WHERE {}", table.quoted(), table.at(i));
            judge(
                &party,
                side,
                &what,
                &only,
                |table| table.insert(i, i),
                delete,
            )
            .await;
        }
    }
    let found = party.verify().await.unwrap();
    assert_eq!(found.differences, 0, "{found:?}");
}

/// Types whose texts hang on settings, and values that are nearly alike.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_compared_by_its_value() {
    let mut party = Party::new("verify_types", &["t"]).await;
    party.limits.chunk_rows = 2;
    let database = "ALTER DATABASE verify_types SET";
    let settings = format!(
        "{database} datestyle = 'German'; {database} timezone = 'Asia/Tokyo'; {database} extra_float_digits = -5;
         {database} bytea_output = 'escape'; {database} intervalstyle = 'iso_8601'; {database} search_path = nowhere;
         {database} standard_conforming_strings = off; {database} default_transaction_read_only = on"
    );
    party
        .both(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE two AS (a int, b text);
             CREATE TABLE t (tenant bigint, stamp timestamptz, f float8, r real, n numeric, b bytea, j jsonb, a text[], i interval,
                 m mood, c two, v text, PRIMARY KEY (stamp, f, m));
             INSERT INTO t SELECT 100, '2026-03-29 00:30:00+00'::timestamptz + i * '1 hour'::interval, 0.1 + i, 0.3, 1.10, '\\x00ff5c', '{\"a\": [1, null]}',
                 ARRAY['x', NULL, '', '{'], '1 mon 2 days 03:04:05.6', 'glad', ROW(1, NULL)::two, '' FROM generate_series(1, 9) AS i",
        )
        .await;
    let _carrier = Carrier::start(&party, Duration::ZERO).await;
    party.receiver.batch_execute(&settings).await.unwrap();
    let found = party.verify().await.unwrap();
    assert_eq!((found.rows, found.differences), (9, 0), "{found:?}");
    let changes = [
        ("r = 0.30000004", "r = 0.3"),
        ("n = 1.1", "n = 1.10"),
        ("b = '\\x00fe5c'", "b = '\\x00ff5c'"),
        ("j = '{\"a\": [1]}'", "j = '{\"a\": [1, null]}'"),
        (
            "a = ARRAY['x', 'NULL', '', '{']",
            "a = ARRAY['x', NULL, '', '{']",
        ),
        (
            "i = '1 mon 2 days 03:04:05.600001'",
            "i = '1 mon 2 days 03:04:05.6'",
        ),
        ("c = ROW(1, '')::two", "c = ROW(1, NULL)::two"),
        ("v = NULL", "v = ''"),
    ];
    for (change, undo) in changes {
        let update = |set: &str| format!("UPDATE t SET {set} WHERE f = 5.1");
        party.receiver.batch_execute(&update(change)).await.unwrap();
        let found = party.verify().await.unwrap();
        assert_eq!(found.differences, 1, "{change}");
        party.receiver.batch_execute(&update(undo)).await.unwrap();
    }
    // Another key is two differences: the row that is lost and the one that came.
    for change in ["f = f + 1e-15", "m = 'sad'", "stamp = stamp + '1 us'"] {
        let update = format!("BEGIN; UPDATE t SET {change} WHERE f = 5.1");
        party.receiver.batch_execute(&update).await.unwrap();
        party.receiver.batch_execute("COMMIT").await.unwrap();
        let found = party.verify().await.unwrap();
        assert_eq!(found.differences, 2, "{change}: {found:?}");
        party
            .receiver
            .batch_execute("DELETE FROM t WHERE abs(f - 5.1) < 1e-9")
            .await
            .unwrap();
        party
            .receiver
            .batch_execute(
                "INSERT INTO t SELECT 100, '2026-03-29 05:30:00+00', 0.1 + 5, 0.3, 1.10, '\\x00ff5c', '{\"a\": [1, null]}',
                 ARRAY['x', NULL, '', '{'], '1 mon 2 days 03:04:05.6', 'glad', ROW(1, NULL)::two, ''",
            )
            .await
            .unwrap();
        assert_eq!(party.verify().await.unwrap().differences, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_differences_are_counted_and_some_described() {
    let party = filled("verify_many").await;
    let _carrier = Carrier::start(&party, Duration::ZERO).await;
    // Many times what a chunk has, between two keys of the owner and behind its last one.
    party
        .receiver
        .batch_execute("DELETE FROM plain")
        .await
        .unwrap();
    each(&party.receiver, |table| match table.name {
        "plain" => table.insert(1001, 4000),
        "made" => "DELETE FROM made WHERE id > 1".to_owned(),
        _ => "SELECT".to_owned(),
    })
    .await;
    let found = party.verify().await.unwrap();
    assert_eq!(found.differences, 1000 + 3000 + 999);
    assert_eq!(found.samples.len(), 20);
    party.both("DELETE FROM made; DELETE FROM plain").await;
    party
        .owner
        .batch_execute("INSERT INTO made VALUES (1, 100, ''), (9000, 100, '')")
        .await
        .unwrap();
    party
        .receiver
        .batch_execute("INSERT INTO made (id, tenant, note) SELECT i, 100, '' FROM generate_series(1, 9000) AS i")
        .await
        .unwrap();
    let found = party.verify().await.unwrap();
    assert_eq!(found.differences, 8998);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_turn_the_other_side_owns_the_rows() {
    let party = filled("verify_back").await;
    let _carrier = Carrier::between(&party.receiver, &party.owner, "s2", Duration::ZERO).await;
    party
        .owner
        .batch_execute("UPDATE plain SET note = NULL WHERE id = 3; DELETE FROM made WHERE id = 4")
        .await
        .unwrap();
    let (_run, run) = watch::channel(Run::Going);
    let mut task = party.task(run);
    task.stream = route("s2", "s1");
    task.owner = Side::New;
    let found = verify(task).await.unwrap();
    assert_eq!((found.rows, found.differences), (5000, 2), "{found:?}");
    assert!(
        found
            .samples
            .iter()
            .any(|one| &**one == "\"public\".\"made\" (id) = (4): only s2 has the row"),
        "{found:?}"
    );
    let noted = party.owner.query_one(
        "SELECT differences FROM trunkline.reshard_streams WHERE source = 's2'",
        &[],
    );
    assert_eq!(noted.await.unwrap().get::<_, Option<i64>>(0), Some(2));
    // The other stream has no rows then.
    let (_run, run) = watch::channel(Run::Going);
    let mut task = party.task(run);
    task.owner = Side::New;
    assert_eq!(verify(task).await.unwrap().rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_lease_or_table_there_is_no_result() {
    let mut party = filled("verify_refused").await;
    party.limits = Limits {
        lag: Duration::from_millis(300),
        ..party.limits.clone()
    };
    // Nobody carries: what may be on its way does not come.
    assert_eq!(party.verify().await.unwrap().differences, 0);
    party
        .receiver
        .batch_execute("DELETE FROM plain WHERE id = 1")
        .await
        .unwrap();
    let lagging = party.verify().await.unwrap_err();
    assert!(matches!(lagging, VerifyError::Lagging { .. }), "{lagging}");
    assert_eq!(party.noted().await, (Some(5), Some(0)), "the earlier one");

    party
        .receiver
        .batch_execute("ALTER TABLE made ALTER note TYPE varchar(100)")
        .await
        .unwrap_err();
    party
        .receiver
        .batch_execute("ALTER TABLE plain ALTER note TYPE varchar(100)")
        .await
        .unwrap();
    let columns = party.verify().await.unwrap_err();
    assert!(
        columns
            .to_string()
            .starts_with("column note of \"public\".\"plain\""),
        "{columns}"
    );
    party
        .receiver
        .batch_execute("DROP TABLE plain")
        .await
        .unwrap();
    let absent = party.verify().await.unwrap_err();
    assert_eq!(
        absent.to_string(),
        "shard s2 has no table \"public\".\"plain\""
    );

    let taken =
        format!("UPDATE trunkline.reshard_streams SET driver = driver + 1 WHERE number = {NUMBER}");
    party.receiver.batch_execute(&taken).await.unwrap();
    let lost = party.verify().await.unwrap_err();
    assert!(matches!(lost, VerifyError::LeaseLost), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_kept_and_ended() {
    let party = filled("verify_paused").await;
    let (run, watched) = watch::channel(Run::Paused);
    let comparison = tokio::spawn(verify(party.task(watched)));
    // Both tables at a time have begun, and wait.
    let waiting = async {
        while party.tally.progress(0).tables.len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::servers::DEADLINE, waiting)
        .await
        .unwrap();
    assert!(
        party
            .tally
            .progress(0)
            .tables
            .iter()
            .all(|table| table.compared_rows == 0)
    );
    assert!(!comparison.is_finished());
    run.send(Run::Going).unwrap();
    assert_eq!(comparison.await.unwrap().unwrap().rows, 5000);
}
