//! Many small tables in one plan.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::load::wait_for_definitions;
use super::stage::{Setting, Stage, connect};
use crate::servers::value;

/// Tables, and those when `TRUNKLINE_NIGHTLY` is set.
const TABLES: (usize, usize) = (60, 300);
/// Rows of each.
const ROWS: usize = 40;
/// Connections of a plan to one server, at most: of what looks, of each way that is copied or compared, and of each stream.
const MOST_CONNECTIONS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_of_many_small_tables() {
    let tables = match std::env::var_os("TRUNKLINE_NIGHTLY") {
        None => TABLES.0,
        Some(_) => TABLES.1,
    };
    let few = turns(3).await;
    let many = turns(tables).await;
    println!("longest wait in a turn: of 3 tables {few:?}, of {tables} {many:?}");
}

/// A plan from its beginning to its end; the longest that a client waited in one of its turns.
async fn turns(tables: usize) -> Duration {
    let mut distributions = String::from(
        "[[distributions]]\nname = \"items\"\nkey = \"bigint\"\nstrategy = \"hash\"\nbuckets = 64\nshards = [\"s1\", \"s2\"]\n",
    );
    let mut schema = String::new();
    for table in 0..tables {
        let _ = write!(
            distributions,
            "[[tables]]\nname = \"t{table}\"\ndistribution = \"items\"\nkey = \"id\"\n"
        );
        let _ = write!(
            schema,
            "CREATE TABLE t{table} (id bigint PRIMARY KEY, v bigint NOT NULL, at timestamptz DEFAULT now()); CREATE INDEX ON t{table} (v);"
        );
    }
    let stage = Stage::start(&Setting {
        shards: 4,
        proxies: 2,
        distributions: &distributions,
        schema: &schema,
        populated: 2,
    })
    .await;
    let port = stage.proxies[0].port;
    wait_for_definitions(port).await;
    let client = connect(port, "app", "app").await.unwrap();
    let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, 0)")).collect();
    let rows = rows.join(", ");
    for table in 0..tables {
        let insert = format!("INSERT INTO t{table} (id, v) VALUES {rows}");
        client.batch_execute(&insert).await.unwrap();
    }
    let mut most = 0;
    let mut longest = Duration::ZERO;
    let mut sums = Vec::new();
    let orders = [
        ("CHECK", "checked"),
        ("START", "following"),
        ("VERIFY", "verified"),
        ("CUTOVER", "cut over"),
        ("ROLLBACK", "rolled back"),
        ("VERIFY", "verified"),
        ("CUTOVER", "cut over"),
        ("FINISH", "finished"),
    ];
    let change = "RESHARD PLAN p AS 's1 -> s1 50%, s3 50%; s2 -> s2 50%, s4 50%'";
    stage.order(change).await;
    for (command, phase) in orders {
        let began = Instant::now();
        stage.order(&format!("RESHARD {command} p")).await;
        let mut written = 0_usize;
        loop {
            let id = written % ROWS;
            let table = written % tables;
            let asked = Instant::now();
            let update = format!("UPDATE t{table} SET v = v + 1 WHERE id = {id}");
            client.batch_execute(&update).await.unwrap();
            if matches!(command, "CUTOVER" | "ROLLBACK") {
                longest = longest.max(asked.elapsed());
            }
            written += 1;
            if written.is_multiple_of(20) {
                most = most.max(connections(&stage));
                let status = stage.status("p").await;
                assert!(
                    !status["pace"].starts_with("stopped"),
                    "{status:?}\n{}",
                    stage.logs()
                );
                if status["phase"] == phase {
                    break;
                }
            }
        }
        println!(
            "{tables} tables: {command} took {:?}, {written} writes meanwhile",
            began.elapsed()
        );
        let written = i64::try_from(written).unwrap();
        sums.push(written);
    }
    println!("{tables} tables: at most {most} connections of the plan to a server");
    assert!(most <= MOST_CONNECTIONS, "{most}");
    let mut sum = 0;
    for table in 0..tables {
        let mut count = 0;
        for shard in 0..4 {
            let asked = format!("SELECT count(*) || ' ' || coalesce(sum(v), 0) FROM t{table}");
            let found = value(stage.shard(shard), "app", &asked).unwrap();
            let (rows, total) = found.split_once(' ').unwrap();
            count += rows.parse::<usize>().unwrap();
            sum += total.parse::<i64>().unwrap();
        }
        assert_eq!(count, ROWS, "t{table}");
    }
    assert_eq!(sum, sums.iter().sum::<i64>());
    longest
}

/// Of the plan, to the server that has most of them.
fn connections(stage: &Stage) -> usize {
    let asked =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trunkline reshard'";
    let counts = (0..4).map(|shard| value(stage.shard(shard), "app", asked).unwrap());
    counts
        .map(|count| count.parse().unwrap())
        .max()
        .unwrap_or(0)
}
