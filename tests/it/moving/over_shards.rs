//! Statements over several shards while rows move between these: half of what each of two shards has goes to the other one, so both have rows of the other's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::load::wait_for_definitions;
use super::stage::{Setting, Stage, connect};

const TABLES: &str = "[[tables]]\nname = \"item\"\ndistribution = \"items\"\nkey = \"id\"\n\
    [[tables]]\nname = \"note\"\ndistribution = \"items\"\nkey = \"id\"\n";

const SCHEMA: &str = "CREATE TABLE item (id bigint PRIMARY KEY, owner int NOT NULL, v bigint, twice bigint GENERATED ALWAYS AS (v * 2) STORED);
    CREATE TABLE note (id bigint PRIMARY KEY, item bigint);";

const SWAP: &str = "RESHARD PLAN swap AS 's1 -> s1 50%, s2 50%; s2 -> s1 50%, s2 50%'";

/// The turns that a plan takes, with the phase that each ends in.
const TURNS: [(&str, &str); 4] = [
    ("CUTOVER", "cut over"),
    ("ROLLBACK", "rolled back"),
    ("VERIFY", "verified"),
    ("CUTOVER", "cut over"),
];

/// By a hash function.
fn distributions(function: &str) -> String {
    format!(
        "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"hash\"\nfunction = \"{function}\"\nbuckets = 64\n\
         shards = [\"s1\", \"s2\"]\n{TABLES}"
    )
}

fn setting(proxies: usize, distributions: &str) -> Setting<'_> {
    Setting {
        shards: 3,
        proxies,
        distributions,
        schema: SCHEMA,
        populated: 2,
    }
}

/// A client of Trunkline, and one of a Postgres that has all rows.
struct Both {
    ours: Client,
    alone: Client,
}

impl Both {
    async fn start(stage: &Stage) -> Both {
        let port = stage.proxies[0].port;
        wait_for_definitions(port).await;
        // Of the shard that has no part in it, another database.
        let alone = stage.shard(2).superuser_connection("postgres");
        let (alone, connection) = tokio_postgres::connect(&alone, NoTls).await.unwrap();
        tokio::spawn(connection);
        let both = Both {
            ours: connect(port, "app", "app").await.unwrap(),
            alone,
        };
        both.alone.batch_execute(SCHEMA).await.unwrap();
        both
    }

    /// Both do the same and say the same, but for the order of rows.
    async fn agree(&self, when: &str, sql: &str) {
        let (mut ours, mut alone) = (said(&self.ours, sql).await, said(&self.alone, sql).await);
        ours.sort();
        alone.sort();
        assert_eq!(ours, alone, "{when}: {sql}");
    }

    async fn agree_on_copy(&self, when: &str, sql: &str) {
        let (mut ours, mut alone) = (
            copied(&self.ours, sql).await,
            copied(&self.alone, sql).await,
        );
        ours.sort();
        alone.sort();
        assert_eq!(ours, alone, "{when}: {sql}");
    }

    /// Every kind of statement over several shards. `round` grows, so that there is something to do for each.
    async fn all(&self, when: &str, round: i64) {
        let low = 7 * round;
        let changes = [
            "UPDATE item SET v = v + 1".to_owned(),
            "UPDATE item SET v = v + 3 WHERE v % 3 = 0 OR id < 20".to_owned(),
            "UPDATE ONLY item AS \"I i\" SET v = \"I i\".v + n.item FROM note n WHERE n.id = \"I i\".id AND n.item % 2 = 0 \
                RETURNING \"I i\".id, \"I i\".v, n.item AS where"
                .to_owned(),
            format!("UPDATE item SET v = -v WHERE id IN ({low}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)"),
            "UPDATE item SET v = v + (SELECT count(*) FROM note WHERE note.id = item.id) WHERE v IS NOT NULL".to_owned(),
            format!("DELETE FROM note WHERE item % 7 = {round}"),
            format!("DELETE FROM note USING item i WHERE i.id = note.id AND i.v % 11 = {round} RETURNING note.*"),
            // Each row has the key of the one that it is made from.
            "INSERT INTO note SELECT id, v % 1000 FROM item WHERE v > 0 ON CONFLICT (id) DO UPDATE SET item = excluded.item + note.item + 1".to_owned(),
            format!("INSERT INTO note (item, id) SELECT {round}, i.id FROM item i LEFT JOIN note n ON n.id = i.id WHERE n.id IS NULL RETURNING *"),
            format!("MERGE INTO item USING note ON item.id = note.id AND note.item % 3 = 1 WHEN MATCHED AND item.v > {round} THEN UPDATE SET v = item.v - note.item"),
            format!("MERGE INTO note n USING item ON n.id = item.id AND n.item > {round} WHEN MATCHED THEN UPDATE SET item = n.item - 1 \
                WHEN NOT MATCHED AND item.v % 5 = {round} AND NOT EXISTS (SELECT 1 FROM note m WHERE m.id = item.id) THEN INSERT VALUES (item.id, {round})"),
            format!("DELETE FROM note WHERE id % 9 = {round}"),
            "MERGE INTO note USING public.item AS \"I i\" ON note.id = \"I i\".id WHEN MATCHED AND note.item % 13 = 5 THEN DELETE \
                WHEN NOT MATCHED AND \"I i\".v > 0 THEN INSERT (item, id) VALUES (\"I i\".twice, \"I i\".id)".to_owned(),
            format!("DELETE FROM note WHERE id % 8 = {round}"),
            "MERGE INTO note n USING (SELECT id, sum(v) AS v FROM item WHERE v IS NOT NULL OR owner = 1 GROUP BY id) i ON n.id = i.id \
                WHEN NOT MATCHED THEN INSERT VALUES (i.id, i.v % 100)".to_owned(),
            "MERGE INTO item USING (VALUES (1), (2), (3)) AS o (owner) ON item.owner = o.owner AND item.v % 2 = 0 WHEN MATCHED THEN UPDATE SET v = v - o.owner".to_owned(),
            // They do not.
            format!("INSERT INTO note SELECT id + 1000 * {round}, v FROM item WHERE id <= 10"),
            // They get another one.
            format!("UPDATE note SET id = {} WHERE id = {round}", 100_000 + round),
            format!("UPDATE note SET item = {}, id = {} WHERE id = {} OR item IS NULL", -5000 - round, 200_000 + round, 100_000 + round),
            format!("UPDATE note SET id = {} WHERE item = {} RETURNING *", 300_000 + round, -5000 - round),
            format!("UPDATE note SET item = item WHERE item = {}", -5000 - round),
            "BEGIN; UPDATE item SET v = 0; ROLLBACK".to_owned(),
        ];
        for change in &changes {
            if let Some((first, rest)) = change.split_once("; ") {
                let (middle, last) = rest.split_once("; ").unwrap();
                for part in [first, middle, last] {
                    self.agree(when, part).await;
                }
            } else {
                self.agree(when, change).await;
            }
        }
        let by_parameters = "UPDATE item SET v = v + $1 WHERE v > $2";
        let ours = self.ours.execute(by_parameters, &[&5_i64, &round]).await;
        let alone = self.alone.execute(by_parameters, &[&5_i64, &round]).await;
        assert_eq!(ours.unwrap(), alone.unwrap(), "{when}");
        self.read(when).await;
    }

    async fn read(&self, when: &str) {
        for query in [
            "SELECT * FROM item",
            "SELECT * FROM note",
            "SELECT count(*), sum(v), min(v), max(id) FROM item",
            "SELECT count(*) FROM item WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8)",
            "SELECT id FROM item ORDER BY id DESC LIMIT 3 OFFSET 2",
            "SELECT v % 5, count(*), bool_and(v > 0) FROM item GROUP BY v % 5 HAVING count(*) > 1",
            "SELECT DISTINCT owner FROM item",
            "SELECT i.id, n.item FROM item i LEFT JOIN note n ON n.id = i.id WHERE n.item IS NULL OR n.item > 3",
            "SELECT n.id FROM item i RIGHT JOIN note n ON n.id = i.id WHERE i.id IS NULL",
            "SELECT id FROM item WHERE EXISTS (SELECT 1 FROM note WHERE note.id = item.id) FOR UPDATE",
            // Gathered.
            "SELECT count(*) FROM item a JOIN item b ON a.id = b.v",
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FROM item",
            "SELECT id FROM item UNION SELECT id FROM note",
        ] {
            self.agree(when, query).await;
        }
        for copy in [
            "COPY item TO STDOUT",
            "COPY public.item (v, \"id\") TO STDOUT (FORMAT csv, HEADER, DELIMITER ';')",
            "COPY note TO STDOUT WITH BINARY",
            "COPY (SELECT owner, count(*) FROM item GROUP BY owner) TO STDOUT",
        ] {
            self.agree_on_copy(when, copy).await;
        }
    }
}

/// Rows, and how many each statement has changed.
async fn said(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await;
    let messages = messages.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let each = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let fields = (0..row.len()).map(|column| row.get(column).unwrap_or("NULL"));
            Some(fields.collect::<Vec<_>>().join(" "))
        }
        SimpleQueryMessage::CommandComplete(count) => Some(format!("tag {count}")),
        _ => None,
    });
    each.collect()
}

/// The lines of a COPY; of a binary one its size.
async fn copied(client: &Client, sql: &str) -> Vec<String> {
    let stream = client.copy_out(sql).await;
    let stream = stream.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let data: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    let data = data.concat();
    match String::from_utf8(data) {
        Ok(text) if !text.contains('\0') => text.lines().map(str::to_owned).collect(),
        Ok(text) => vec![text.len().to_string()],
        Err(other) => vec![other.as_bytes().len().to_string()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_never_seen_twice_while_they_move() {
    let stage = Stage::start(&setting(1, &distributions("postgres"))).await;
    let both = Both::start(&stage).await;
    let rows: Vec<String> = (1..=200)
        .map(|id| format!("({id}, {}, {id})", id % 4))
        .collect();
    let insert = format!("INSERT INTO item (id, owner, v) VALUES {}", rows.join(", "));
    both.agree("before", &insert).await;
    both.all("before", 1).await;
    stage.order(SWAP).await;
    stage.verified("swap").await;
    both.all("while they are on both shards", 2).await;
    for refused in ["ALTER TABLE item ADD COLUMN more int", "TRUNCATE item"] {
        let error = both.ours.batch_execute(refused).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(
            (error.code().code(), error.detail()),
            ("55006", Some("Refused by Trunkline: table_moving.")),
            "{refused}"
        );
    }
    let mut round = 2;
    for (command, phase) in TURNS {
        stage.order(&format!("RESHARD {command} swap")).await;
        stage.reaches("swap", phase).await;
        round += 1;
        both.all(phase, round).await;
        let plan = said(&both.ours, "EXPLAIN UPDATE item SET v = 0 WHERE v > 1").await;
        let filters = plan
            .iter()
            .filter(|line| line.contains("IS NOT TRUE"))
            .count();
        assert_eq!(filters, 2, "{phase}: {plan:#?}");
    }
    stage.order("RESHARD FINISH swap").await;
    // Some rows are removed, and some are not yet.
    both.all("at the end", 7).await;
    stage.reaches("swap", "finished").await;
    both.all("finished", 8).await;
    for table in ["item", "note"] {
        let on = |shard: usize| {
            let sql = format!("SELECT id FROM {table}");
            let found = stage.shard(shard).run_sql("app", &sql);
            let found = found.unwrap_or_else(|error| panic!("{error}"));
            found.into_iter().flatten().flatten().collect::<Vec<_>>()
        };
        let mut all = [on(0), on(1)].concat();
        all.sort();
        let mut alone = said(&both.alone, &format!("SELECT id FROM {table}")).await;
        alone.retain(|line| !line.starts_with("tag"));
        alone.sort();
        assert_eq!(all, alone, "every row of {table} is on one shard");
    }
}

/// A client that changes all rows of its own, and never says which keys they have.
struct Owner {
    client: Client,
    owner: i32,
    rows: BTreeMap<i64, i64>,
    next: i64,
    random: SmallRng,
}

type Done = Result<(), tokio_postgres::Error>;

impl Owner {
    async fn step(&mut self) -> Done {
        let owner = self.owner;
        match self.random.random_range(0..10) {
            0..3 => {
                let sql = format!("UPDATE item SET v = v + 1 WHERE owner = {owner}");
                let changed = self.client.execute(&sql, &[]).await?;
                assert_eq!(changed, self.rows.len() as u64);
                self.rows.values_mut().for_each(|v| *v += 1);
            }
            3 => {
                let sql = "UPDATE item SET v = v + $2 WHERE owner = $1 AND v % 2 = 0 RETURNING id";
                let rows = self.client.query(sql, &[&owner, &10_i64]).await?;
                let mut found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
                found.sort_unstable();
                let even = self.rows.iter_mut().filter(|(_, v)| **v % 2 == 0);
                let even: Vec<i64> = even
                    .map(|(id, v)| {
                        *v += 10;
                        *id
                    })
                    .collect();
                assert_eq!(found, even);
            }
            4 => {
                let sql = format!("DELETE FROM item WHERE owner = {owner} AND v % 5 = 3");
                let gone = self.client.execute(&sql, &[]).await?;
                let before = self.rows.len();
                self.rows.retain(|_, v| *v % 5 != 3);
                assert_eq!(gone, (before - self.rows.len()) as u64);
            }
            5 | 6 => {
                let ids: Vec<i64> = (0..8).map(|place| self.next + place).collect();
                self.next += 8;
                let values: Vec<String> = ids
                    .iter()
                    .map(|id| format!("({id}, {owner}, {})", id % 10))
                    .collect();
                let sql = format!(
                    "INSERT INTO item (id, owner, v) VALUES {}",
                    values.join(", ")
                );
                self.client.batch_execute(&sql).await?;
                self.rows.extend(ids.iter().map(|id| (*id, id % 10)));
            }
            7 => {
                let transaction = self.client.transaction().await?;
                let sql = format!("UPDATE item SET v = v + 1 WHERE owner = {owner}");
                transaction.execute(&sql, &[]).await?;
                let sql = format!("DELETE FROM item WHERE owner = {owner} AND v % 7 = 1");
                transaction.execute(&sql, &[]).await?;
                if self.random.random_range(0..2) == 0 {
                    return transaction.rollback().await;
                }
                transaction.commit().await?;
                self.rows.values_mut().for_each(|v| *v += 1);
                self.rows.retain(|_, v| *v % 7 != 1);
            }
            _ => {
                let sql = "SELECT count(*), coalesce(sum(v), 0)::bigint FROM item WHERE owner = $1";
                let row = self.client.query_one(sql, &[&owner]).await?;
                let found: (i64, i64) = (row.get(0), row.get(1));
                assert_eq!(found, (self.rows.len() as i64, self.rows.values().sum()));
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_changed_once_while_rows_move() {
    const OWNERS: i32 = 5;
    let stage = Stage::start(&setting(2, &distributions("xxh3"))).await;
    // Clients may less than who moves rows.
    for shard in [0, 1] {
        let less = "CREATE ROLE clerk; GRANT clerk TO app; GRANT ALL ON item, note TO clerk";
        stage.shard(shard).run_sql("app", less).unwrap();
    }
    let ports: Vec<u16> = stage.proxies.iter().map(|proxy| proxy.port).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for owner in 0..OWNERS {
        let port = ports[owner as usize % ports.len()];
        wait_for_definitions(port).await;
        let client = connect(port, "app", "app").await.unwrap();
        client.batch_execute("SET ROLE clerk").await.unwrap();
        let mut owner = Owner {
            client,
            owner,
            rows: BTreeMap::new(),
            next: i64::from(owner) * 1_000_000,
            random: SmallRng::seed_from_u64(owner.cast_unsigned().into()),
        };
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        clients.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = owner.step().await {
                    panic!("{error:?}");
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            owner.rows
        }));
    }
    // All rows of another table, by one client.
    let all = connect(ports[1], "app", "app").await.unwrap();
    let notes: Vec<String> = (1..=300).map(|id| format!("({id}, 0)")).collect();
    all.batch_execute(&format!("INSERT INTO note VALUES {}", notes.join(", ")))
        .await
        .unwrap();
    let (stopped, told) = (Arc::clone(&stop), Arc::clone(&done));
    let all = tokio::spawn(async move {
        let mut updates = 0_i64;
        while !stopped.load(Ordering::Relaxed) {
            let changed = all.execute("UPDATE note SET item = item + 1", &[]).await;
            assert_eq!(changed.unwrap(), 300);
            updates += 1;
            told.fetch_add(1, Ordering::Relaxed);
        }
        updates
    });
    let progress = async |more: usize| {
        let wanted = done.load(Ordering::Relaxed) + more;
        while done.load(Ordering::Relaxed) < wanted && !clients.iter().any(|one| one.is_finished())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    progress(100).await;
    stage.order(SWAP).await;
    stage.verified("swap").await;
    progress(100).await;
    for (command, phase) in TURNS {
        let pause = match command {
            "VERIFY" => "",
            _ => " MAX PAUSE 2 s",
        };
        stage.order(&format!("RESHARD {command} swap{pause}")).await;
        stage.reaches("swap", phase).await;
        progress(100).await;
    }
    stage.order("RESHARD FINISH swap").await;
    stage.reaches("swap", "finished").await;
    progress(100).await;
    stop.store(true, Ordering::Relaxed);
    let mut expected: BTreeMap<i64, (i32, i64)> = BTreeMap::new();
    for (owner, client) in (0..).zip(clients) {
        let rows = client
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", stage.logs()));
        expected.extend(rows.into_iter().map(|(id, v)| (id, (owner, v))));
    }
    let updates = all
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", stage.logs()));
    println!(
        "{} units of work, {updates} of all rows",
        done.load(Ordering::Relaxed)
    );
    let mut found = BTreeMap::new();
    let mut notes = 0;
    for shard in [0, 1] {
        let number = |text: &Option<String>| text.as_deref().unwrap().parse::<i64>().unwrap();
        let rows = stage
            .shard(shard)
            .run_sql("app", "SELECT id, owner, v FROM item");
        for row in rows.unwrap_or_else(|error| panic!("{error}")) {
            let (id, owner, v) = (number(&row[0]), number(&row[1]), number(&row[2]));
            let owner = i32::try_from(owner).unwrap();
            assert_eq!(found.insert(id, (owner, v)), None, "{id} is on two shards");
        }
        let rows = stage.shard(shard).run_sql("app", "SELECT item FROM note");
        for row in rows.unwrap_or_else(|error| panic!("{error}")) {
            assert_eq!(number(&row[0]), updates);
            notes += 1;
        }
    }
    assert_eq!(found, expected);
    assert_eq!(notes, 300);
}
