//! Whole plans, from the first word to the last, while clients write through several proxies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::load::{Load, Rows, SCHEMA, wait_for_definitions};
use super::stage::{Setting, Stage, connect};

pub const HASHED: &str = "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"hash\"\nbuckets = 64\nshards = [\"s1\", \"s2\"]\n\
    [[tables]]\nname = \"item\"\ndistribution = \"items\"\nkey = \"id\"\n\
    [[tables]]\nname = \"note\"\ndistribution = \"items\"\nkey = \"id\"\n";

/// The rows of a table on one shard.
fn rows_on(stage: &Stage, shard: usize) -> Rows {
    let found = stage
        .shard(shard)
        .run_sql("app", "SELECT id, sub, v, length(body) FROM item")
        .unwrap_or_else(|error| panic!("{error}"));
    let rows = found.iter().map(|row| {
        let mut fields = row
            .iter()
            .map(|field| field.as_deref().unwrap().parse::<i64>().unwrap());
        let mut next = || fields.next().unwrap();
        let (id, sub, v, length) = (next(), next(), next(), next());
        (
            (id, i32::try_from(sub).unwrap()),
            (v, usize::try_from(length).unwrap()),
        )
    });
    rows.collect()
}

/// Every row is on one shard, and there is no other.
pub fn compare(stage: &Stage, shards: &[usize], expected: &Rows) {
    let mut all = Rows::new();
    for shard in shards {
        for (key, row) in rows_on(stage, *shard) {
            assert_eq!(all.insert(key, row), None, "{key:?} is on two shards");
        }
    }
    let lost: Vec<_> = expected
        .iter()
        .filter(|(key, row)| all.get(key) != Some(row))
        .collect();
    let more: Vec<_> = all
        .keys()
        .filter(|key| !expected.contains_key(key))
        .collect();
    assert!(
        lost.is_empty() && more.is_empty(),
        "lost or other: {lost:?}\nmore: {more:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_become_four_and_two_again_under_load() {
    let stage = Stage::start(&Setting {
        shards: 4,
        proxies: 3,
        distributions: HASHED,
        schema: SCHEMA,
        populated: 2,
    })
    .await;
    let ports: Vec<u16> = stage.proxies.iter().map(|proxy| proxy.port).collect();
    let load = Load::start(&ports, 16);
    load.progress(500).await;
    stage
        .order("RESHARD PLAN split AS 's1 -> s1 50%, s3 50%; s2 -> s2 50%, s4 50%'")
        .await;
    stage.verified("split").await;
    load.progress(200).await;
    stage.order("RESHARD CUTOVER split MAX PAUSE 2 s").await;
    stage.reaches("split", "cut over").await;
    load.progress(500).await;
    stage.order("RESHARD ROLLBACK split MAX PAUSE 2 s").await;
    stage.reaches("split", "rolled back").await;
    load.progress(300).await;
    stage.order("RESHARD VERIFY split").await;
    stage.reaches("split", "verified").await;
    stage.order("RESHARD CUTOVER split MAX PAUSE 2 s").await;
    stage.reaches("split", "cut over").await;
    load.progress(300).await;
    stage.order("RESHARD FINISH split").await;
    stage.reaches("split", "finished").await;
    load.progress(200).await;
    let worked = load.end().await;
    assert!(
        worked.errors.is_empty(),
        "{:?}\n{}",
        worked.errors,
        stage.logs()
    );
    for event in stage.order("SHOW RESHARD EVENTS").await {
        println!("{}", event.join(" | "));
    }
    println!("{}", worked.told());
    compare(&stage, &[0, 1, 2, 3], &worked.rows);
    for shard in 0..4 {
        assert!(!rows_on(&stage, shard).is_empty(), "shard {shard} has rows");
    }
}

/// What is written while a plan is driven, through proxies that nobody kills.
struct Faulty {
    stage: Stage,
    load: Load,
    plans: usize,
}

/// The proxy that is killed and stopped; the others have clients.
const VICTIM: usize = 2;

impl Faulty {
    async fn start() -> Faulty {
        let stage = Stage::start(&Setting {
            shards: 4,
            proxies: 3,
            distributions: HASHED,
            schema: SCHEMA,
            populated: 2,
        })
        .await;
        let ports: Vec<u16> = stage.proxies[..VICTIM]
            .iter()
            .map(|proxy| proxy.port)
            .collect();
        let load = Load::start(&ports, 8);
        load.progress(200).await;
        Faulty {
            stage,
            load,
            plans: 0,
        }
    }

    /// Makes a plan that the victim drives, or that somebody else does.
    async fn plan(&mut self, change: &str, by_victim: bool) -> String {
        loop {
            self.plans += 1;
            let plan = format!("plan{}", self.plans);
            self.stage
                .order(&format!("RESHARD PLAN {plan} AS '{change}'"))
                .await;
            let driver = loop {
                let status = self.stage.status(&plan).await;
                if !status["driver"].is_empty() {
                    break status["driver"].clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let victim = format!("{}-", self.stage.proxies[VICTIM].process());
            if driver.starts_with(&victim) == by_victim {
                return plan;
            }
            self.stage.order(&format!("RESHARD CANCEL {plan}")).await;
            self.stage.reaches(&plan, "cancelled").await;
        }
    }

    async fn end(self) {
        let worked = self.load.end().await;
        assert!(
            worked.errors.is_empty(),
            "{:?}\n{}",
            worked.errors,
            self.stage.logs()
        );
        compare(&self.stage, &[0, 1, 2, 3], &worked.rows);
        println!("{}", worked.told());
    }
}

/// There and back.
const CHANGES: [&str; 2] = [
    "s1 -> s1 50%, s3 50%; s2 -> s2 50%, s4 50%",
    "s3 -> s1; s4 -> s2",
];

/// From a plan to its end; whether its driver was killed at the step.
async fn goes_by(faulty: &mut Faulty, change: &str, step: &str) -> bool {
    let plan = faulty.plan(change, true).await;
    let killed = faulty.stage.kill_at(VICTIM, &plan, step).await;
    for (command, phase) in [
        ("CHECK", "checked"),
        ("START", "following"),
        ("VERIFY", "verified"),
        ("CUTOVER", "cut over"),
        ("FINISH", "finished"),
    ] {
        let pause = if command == "CUTOVER" {
            " MAX PAUSE 2 s"
        } else {
            ""
        };
        faulty
            .stage
            .order(&format!("RESHARD {command} {plan}{pause}"))
            .await;
        faulty.stage.reaches(&plan, phase).await;
    }
    killed.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_drives_may_be_killed_anywhere() {
    let steps: &[&str] = match std::env::var_os("TRUNKLINE_NIGHTLY") {
        None => &["copying", "releasing"],
        Some(_) => &[
            "checked",
            "copying",
            "following",
            "verified",
            "gating",
            "fencing",
            "applying",
            "releasing",
            "cut over",
            "finishing",
        ],
    };
    let mut faulty = Faulty::start().await;
    // Whoever watches may miss a step that is over at once.
    const MOST_TRIES: usize = 5;
    let mut plans = CHANGES.iter().cycle();
    for step in steps {
        let mut tries = 0;
        while !goes_by(&mut faulty, plans.next().expect("it goes round"), step).await {
            tries += 1;
            assert!(tries < MOST_TRIES, "{step}: no plan came there");
        }
        faulty.stage.restart_proxy(VICTIM);
        faulty.load.progress(100).await;
    }
    faulty.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_stands_still_cannot_write_to_keys_that_have_moved() {
    let mut faulty = Faulty::start().await;
    let plan = faulty.plan(CHANGES[0], false).await;
    faulty.stage.verified(&plan).await;
    // A transaction that has written a key on every shard, and one that will.
    let mut open = Vec::new();
    for id in 900_000..900_020_i64 {
        let client = faulty.stage.proxies[VICTIM]
            .client("app", "app")
            .await
            .unwrap();
        let begin = format!("BEGIN; INSERT INTO item VALUES ({id}, 0, 1, 'x')");
        client.batch_execute(&begin).await.unwrap();
        open.push((id, client));
    }
    faulty.stage.proxies[VICTIM].stop();
    let cutover = format!("RESHARD CUTOVER {plan} MAX PAUSE 2 s");
    faulty.stage.order(&cutover).await;
    faulty.stage.reaches(&plan, "cut over").await;
    faulty.load.progress(200).await;
    faulty.stage.proxies[VICTIM].go_on();
    let mut committed = Vec::new();
    for (id, client) in open {
        if client.batch_execute("COMMIT").await.is_ok() {
            committed.push(id);
        }
    }
    faulty.stage.order(&format!("RESHARD FINISH {plan}")).await;
    faulty.stage.reaches(&plan, "finished").await;
    let ids: Vec<i64> = (0..4)
        .flat_map(|shard| rows_on(&faulty.stage, shard).into_keys())
        .filter_map(|(id, _)| (id >= 900_000).then_some(id))
        .collect();
    for id in &committed {
        assert!(ids.contains(id), "{id} was committed and is lost");
    }
    assert_eq!(ids.len(), committed.len(), "{ids:?} {committed:?}");
    // Keys that stay were nobody's concern.
    assert!(committed.len() < 20, "some of these keys have moved");
    for id in 900_000..900_020 {
        let client = faulty.stage.proxies[VICTIM]
            .client("app", "app")
            .await
            .unwrap();
        client
            .batch_execute(&format!("DELETE FROM item WHERE id = {id}"))
            .await
            .unwrap();
    }
    faulty.end().await;
}

const EVERY_STRATEGY: &str = "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"hash\"\nbuckets = 64\nshards = [\"s1\", \"s2\"]\n\
    [[distributions]]\nname = \"readings\"\nkey = \"bigint\"\nstrategy = \"range\"\nranges = [{ to = 1000, shard = \"s1\" }, { from = 1000, shard = \"s2\" }]\n\
    [[distributions]]\nname = \"docs\"\nkey = \"text\"\nstrategy = \"list\"\n\
    values = [{ values = [\"acme\", \"globex\"], shard = \"s1\" }, { values = [\"initech\"], shard = \"s2\" }]\n\
    [[distributions]]\nname = \"people\"\nkey = [\"text\", \"bigint\"]\nstrategy = \"geo\"\n\
    regions = [{ name = \"eu\", values = [\"DE\", \"FR\"], shards = [\"s1\"] }, { name = \"us\", values = [\"US\"], shards = [\"s2\"] }]\n\
    [[distributions]]\nname = \"tags\"\nkey = [\"text\", \"date\"]\nstrategy = \"hash\"\nfunction = \"xxh3\"\nbuckets = 16\nshards = [\"s1\", \"s2\"]\n\
    [[distributions]]\nname = \"cells\"\nkey = [\"smallint\", \"smallint\", \"smallint\", \"smallint\", \"smallint\", \"smallint\", \"smallint\", \"smallint\"]\n\
    strategy = \"hash\"\nshards = [\"s1\", \"s2\"]\n\
    [[tables]]\nname = \"item\"\ndistribution = \"items\"\nkey = \"id\"\n\
    [[tables]]\nname = \"reading\"\ndistribution = \"readings\"\nkey = \"id\"\n\
    [[tables]]\nname = \"doc\"\ndistribution = \"docs\"\nkey = \"tenant\"\n\
    [[tables]]\nname = \"person\"\ndistribution = \"people\"\nkey = [\"country\", \"id\"]\n\
    [[tables]]\nname = \"tag\"\ndistribution = \"tags\"\nkey = [\"name\", \"day\"]\n\
    [[tables]]\nname = \"cell\"\ndistribution = \"cells\"\nkey = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\"]\n";

/// A table with the keys that are written, each as SQL.
struct Kept {
    table: &'static str,
    /// Of the key.
    columns: &'static str,
    keys: Vec<String>,
}

/// Writes to all tables until it is told to end; what must be there then.
async fn keep(port: u16, tables: &[Kept], stop: &AtomicBool) -> BTreeMap<(usize, usize), i64> {
    let client = connect(port, "app", "app").await.unwrap();
    let mut written = BTreeMap::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        for (place, table) in tables.iter().enumerate() {
            for (number, key) in table.keys.iter().enumerate() {
                let Kept { table, columns, .. } = table;
                let statement = match (round + number) % 5 {
                    0 => {
                        written.remove(&(place, number));
                        format!("DELETE FROM {table} WHERE ({columns}) = ({key})")
                    }
                    _ => {
                        written.insert((place, number), round as i64);
                        format!(
                            "INSERT INTO {table} ({columns}, v) VALUES ({key}, {round}) ON CONFLICT ({columns}) DO UPDATE SET v = excluded.v"
                        )
                    }
                };
                client
                    .batch_execute(&statement)
                    .await
                    .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            }
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_strategy_and_several_distributions_at_once() {
    let stage = Stage::start(&Setting {
        shards: 4,
        proxies: 1,
        distributions: EVERY_STRATEGY,
        schema: "CREATE TABLE item (id bigint PRIMARY KEY, v bigint); CREATE TABLE reading (id bigint PRIMARY KEY, v bigint);
            CREATE TABLE doc (tenant text, n int, v bigint, PRIMARY KEY (tenant, n)); CREATE TABLE person (country text, id bigint, v bigint, PRIMARY KEY (country, id));
            CREATE TABLE tag (name text, day date, v bigint, PRIMARY KEY (name, day));
            CREATE TABLE cell (a smallint, b smallint, c smallint, d smallint, e smallint, f smallint, g smallint, h smallint, v bigint,
                PRIMARY KEY (a, b, c, d, e, f, g, h))",
        populated: 2,
    })
    .await;
    let numbers = |numbers: &[i64]| numbers.iter().map(i64::to_string).collect();
    let tables = Arc::new(vec![
        Kept {
            table: "item",
            columns: "id",
            keys: (1..=20).map(|id| id.to_string()).collect(),
        },
        Kept {
            table: "reading",
            columns: "id",
            keys: numbers(&[-5, 499, 500, 999, 1000, 5000]),
        },
        Kept {
            table: "doc",
            columns: "tenant, n",
            keys: ["acme", "globex", "initech"]
                .iter()
                .flat_map(|tenant| (0..3).map(move |n| format!("'{tenant}', {n}")))
                .collect(),
        },
        Kept {
            table: "person",
            columns: "country, id",
            keys: ["DE", "FR", "US"]
                .iter()
                .flat_map(|country| (1..=8).map(move |id| format!("'{country}', {id}")))
                .collect(),
        },
        Kept {
            table: "tag",
            columns: "name, day",
            keys: (1..=9)
                .map(|day| format!("'of a length {}', '2026-11-{day}'", "x".repeat(day * day)))
                .collect(),
        },
        Kept {
            table: "cell",
            columns: "a, b, c, d, e, f, g, h",
            keys: (1..=9)
                .map(|h| format!("1, -2, 3, 4, 5, 6, 7, {h}"))
                .collect(),
        },
    ]);
    let stop = Arc::new(AtomicBool::new(false));
    let port = stage.proxies[0].port;
    let writer = {
        let (tables, stop) = (Arc::clone(&tables), Arc::clone(&stop));
        wait_for_definitions(port).await;
        tokio::spawn(async move { keep(port, &tables, &stop).await })
    };
    for (plan, wanted) in [
        (
            "apart",
            "MOVE RANGE FROM 500 TO 1000 TO s3 FOR readings AND MOVE VALUES 'globex' TO s4 FOR docs AND MOVE REGION eu TO s3, s4 FOR people AND MOVE KEY 7 TO s4 FOR items",
        ),
        ("together", "MERGE s1, s3, s4 INTO s2"),
    ] {
        let page = stage.order(&format!("RESHARD PLAN {plan} {wanted}")).await;
        println!(
            "{}",
            page.iter()
                .map(|row| row[0].clone())
                .collect::<Vec<_>>()
                .join("\n")
        );
        stage.verified(plan).await;
        stage
            .order(&format!("RESHARD CUTOVER {plan} MAX PAUSE 2 s"))
            .await;
        stage.reaches(plan, "cut over").await;
        stage.order(&format!("RESHARD FINISH {plan}")).await;
        stage.reaches(plan, "finished").await;
        if plan == "apart" {
            let count = |shard: usize, of: &str| {
                let found = stage
                    .shard(shard)
                    .run_sql("app", &format!("SELECT count(*) FROM {of}"));
                found.unwrap_or_else(|error| panic!("{error}"))[0][0]
                    .clone()
                    .unwrap()
            };
            assert_eq!(count(0, "reading WHERE id >= 500"), "0");
            assert_eq!(count(0, "doc WHERE tenant = 'globex'"), "0");
            assert_eq!(count(0, "person"), "0");
            assert_ne!(
                (count(2, "person"), count(3, "person")),
                ("0".into(), "0".into())
            );
            assert_eq!(count(3, "item WHERE id <> 7"), "0");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    for (place, table) in tables.iter().enumerate() {
        for (number, key) in table.keys.iter().enumerate() {
            let Kept { table, columns, .. } = table;
            let query = format!("SELECT v FROM {table} WHERE ({columns}) = ({key})");
            let found = stage
                .shard(1)
                .run_sql("app", &query)
                .unwrap_or_else(|error| panic!("{error}"));
            let found = found
                .first()
                .map(|row| row[0].clone().unwrap().parse::<i64>().unwrap());
            assert_eq!(found, written.get(&(place, number)).copied(), "{query}");
        }
        for shard in [0, 2, 3] {
            // There may never have been a table.
            let left = format!("SELECT 1 FROM {}", table.table);
            let left = stage.shard(shard).run_sql("app", &left).unwrap_or_default();
            assert!(left.is_empty(), "{} on shard {shard}", table.table);
        }
    }
}

/// How long clients wait in a turn. `TRUNKLINE_BINARY`: a program that was built to be fast.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn pauses_of_many_turns() {
    let turns_each = std::env::var("TRUNKLINE_TURNS").map_or(25, |text| text.parse().unwrap());
    let stage = Stage::start(&Setting {
        shards: 4,
        proxies: 3,
        distributions: HASHED,
        schema: SCHEMA,
        populated: 2,
    })
    .await;
    let ports: Vec<u16> = stage.proxies.iter().map(|proxy| proxy.port).collect();
    let load = Load::start(&ports, 16);
    load.progress(500).await;
    stage
        .order(&format!("RESHARD PLAN p AS '{}'", CHANGES[0]))
        .await;
    stage.verified("p").await;
    let mut turns = Vec::new();
    for _ in 0..turns_each {
        for (command, phase) in [("CUTOVER", "cut over"), ("ROLLBACK", "rolled back")] {
            let began = std::time::Instant::now();
            stage
                .order(&format!("RESHARD {command} p MAX PAUSE 2 s"))
                .await;
            stage.reaches("p", phase).await;
            turns.push((began, began.elapsed()));
            load.progress(100).await;
        }
        stage.order("RESHARD VERIFY p").await;
        stage.reaches("p", "verified").await;
    }
    let worked = load.end().await;
    assert!(worked.errors.is_empty(), "{:?}", worked.errors);
    let mut longest: Vec<Duration> = turns
        .iter()
        .map(|(began, took)| {
            let during = worked
                .waits
                .iter()
                .filter(|(at, waited)| *at + *waited >= *began && *at <= *began + *took);
            during.map(|(_, waited)| *waited).max().unwrap_or_default()
        })
        .collect();
    longest.sort_unstable();
    println!(
        "longest unit of work in each of {} turns: median {:?}, 90 % {:?}, longest {:?}",
        longest.len(),
        longest[longest.len() / 2],
        longest[longest.len() * 9 / 10],
        longest[longest.len() - 1]
    );
    println!("all {}", worked.told());
    for event in stage.order("SHOW RESHARD EVENTS").await {
        println!("{}", event.join(" | "));
    }
}
