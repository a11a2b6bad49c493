//! Applications write while it is compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use trunkline::moving::verify::{Limits, VerifyError};

use super::party::{Carrier, Party, another};
use crate::hash_agreement::Random;

const LAG: Duration = Duration::from_millis(100);

const ROWS: i64 = 3000;

/// Rows 1 to [`ROWS`] of two tables, one of them with a key of two columns.
async fn filled(name: &str) -> Party {
    let party = Party::new(name, &["plain", "pairs"]).await;
    party
        .both(&format!(
            "CREATE TABLE plain (id bigint PRIMARY KEY, tenant bigint, note text);
             CREATE TABLE pairs (tenant bigint, id text, note text, PRIMARY KEY (tenant, id));
             INSERT INTO plain SELECT i, 100 + i % 1900, 'note ' || i FROM generate_series(1, {ROWS}) AS i;
             INSERT INTO pairs SELECT 100 + i % 1900, i, 'note ' || i FROM generate_series(1, {ROWS}) AS i"
        ))
        .await;
    party
}

/// A change of some row, that has the same outcome on both sides. Row 777 is left alone; the first ones are changed most.
fn change(random: &mut Random) -> String {
    let most = if random.below(2) == 0 {
        20
    } else {
        ROWS as u64
    };
    let id = 1 + random.below(most);
    let id = if id == 777 { 778 } else { id };
    let (tenant, value) = (100 + id % 1900, random.below(1 << 60));
    match random.below(7) {
        0 => format!("DELETE FROM plain WHERE id = {id}"),
        1 => format!("INSERT INTO plain VALUES ({id}, {tenant}, '{value}') ON CONFLICT (id) DO UPDATE SET note = excluded.note"),
        2 => format!("UPDATE plain SET note = '{value}' WHERE id = {id}"),
        // It moves no more, and moves again.
        3 => format!("UPDATE plain SET tenant = CASE tenant WHEN 7 THEN {tenant} ELSE 7 END WHERE id = {id}"),
        4 => format!("UPDATE pairs SET note = NULLIF(note, '{value}') || '+' WHERE tenant = {tenant} AND id = '{id}'"),
        5 => format!(
            "DELETE FROM pairs WHERE tenant = {tenant} AND id = '{id}';
             INSERT INTO pairs VALUES ({tenant}, '{id}', '{value}')"
        ),
        _ => format!(
            "DELETE FROM pairs WHERE tenant = {tenant} AND id = '{id}x';
             UPDATE pairs SET id = id || 'x' WHERE tenant = {tenant} AND id = '{id}';
             UPDATE pairs SET id = '{id}' WHERE tenant = {tenant} AND id = '{id}x' AND '{value}' < '5'"
        ),
    }
}

/// Writes as fast as it can until it is told to stop; tells how much it wrote.
async fn write(carrier: Arc<Carrier>, stop: Arc<AtomicBool>) -> u64 {
    let mut random = Random(5);
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        carrier.write(change(&mut random)).await;
        written += 1;
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_on_their_way_are_no_differences_and_hide_none() {
    let party = filled("verify_in_motion").await;
    let carrier = Arc::new(Carrier::start(&party, LAG).await);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(Arc::clone(&carrier), Arc::clone(&stop)));
    for round in 0..20 {
        let found = party.verify().await.unwrap();
        assert_eq!(found.differences, 0, "round {round}: {found:?}");
    }
    let hide = [
        "UPDATE plain SET note = NULL WHERE id = 777",
        "DELETE FROM plain WHERE id = 777",
        "INSERT INTO plain VALUES (777, 877, 'note 777'), (100000, 200, 'extra')",
    ];
    for hidden in hide {
        party.receiver.batch_execute(hidden).await.unwrap();
        for round in 0..4 {
            let found = party.verify().await.unwrap();
            assert_eq!(found.differences, 1, "{hidden}, round {round}: {found:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert!(written > 500, "only {written} changes");
}

/// A commit that waits for a standby is in the log, and may be applied on the other side, while nobody can see it on the owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_seen_yet_is_waited_for() {
    for change in [
        "UPDATE plain SET note = 'hidden' WHERE id = 5",
        "DELETE FROM plain WHERE id = 5",
        "INSERT INTO plain VALUES (5, 105, 'back')",
        "INSERT INTO pairs VALUES (1999, 'new', '')",
        "UPDATE pairs SET id = 'newer' WHERE id = 'new'",
    ] {
        // One party for all would do, but for the databases' names.
        let name = format!("verify_hidden_{}", change.len());
        let party = filled(&name).await;
        let carrier = Carrier::start(&party, Duration::ZERO).await;
        if change.starts_with("INSERT INTO plain") {
            party.both("DELETE FROM plain WHERE id = 5").await;
        }
        if change.starts_with("UPDATE pairs") {
            party
                .both("INSERT INTO pairs VALUES (1999, 'new', '')")
                .await;
        }
        let hidden = another(&party.owner).await;
        hidden
            .batch_execute(&format!("BEGIN; {change}"))
            .await
            .unwrap();
        party.receiver.batch_execute(change).await.unwrap();
        let commit = async {
            waits_for_writers(&party.owner).await;
            hidden.batch_execute("COMMIT").await.unwrap();
        };
        let (found, ()) = tokio::join!(party.verify(), commit);
        let found = found.unwrap();
        assert_eq!(found.differences, 0, "{change}: {found:?}");
        drop(carrier);
    }
}

/// Until a comparison asks who writes to the table.
async fn waits_for_writers(client: &Client) {
    let text = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'trunkline reshard' AND query LIKE '%virtualtransaction = ANY%'";
    let deadline = Instant::now() + crate::servers::DEADLINE;
    while client.query_one(text, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "nobody waits for writers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_does_not_end_leaves_it_undecided() {
    let mut party = filled("verify_undecided").await;
    party.limits = Limits {
        settle: Duration::from_millis(50),
        undecided: Duration::from_millis(500),
        lock: Duration::from_millis(50),
        ..party.limits.clone()
    };
    let _carrier = Carrier::start(&party, Duration::ZERO).await;
    let open = another(&party.owner).await;
    open.batch_execute("BEGIN; UPDATE plain SET note = 'open' WHERE id = 9; INSERT INTO plain VALUES (90000, 100, 'open')").await.unwrap();
    // Nothing of it is anywhere else: alike.
    assert_eq!(party.verify().await.unwrap().differences, 0);
    // A row that is not among the writer's is decided, because it can be held.
    party
        .receiver
        .batch_execute("DELETE FROM plain WHERE id = 10")
        .await
        .unwrap();
    let found = party.verify().await.unwrap();
    assert_eq!(
        &*found.samples[0],
        "\"public\".\"plain\" (id) = (10): only s1 has the row"
    );
    party
        .receiver
        .batch_execute("INSERT INTO plain VALUES (10, 110, 'note 10')")
        .await
        .unwrap();
    for change in [
        "UPDATE plain SET note = 'open' WHERE id = 9",
        "INSERT INTO plain VALUES (90000, 100, 'open')",
    ] {
        let receiver = another(&party.receiver).await;
        receiver
            .batch_execute(&format!("BEGIN; {change}; COMMIT"))
            .await
            .unwrap();
        let undecided = party.verify().await.unwrap_err();
        assert!(
            matches!(undecided, VerifyError::Undecided { .. }),
            "{undecided}"
        );
        receiver
            .batch_execute("UPDATE plain SET note = 'note 9' WHERE id = 9")
            .await
            .unwrap();
    }
    open.batch_execute("ROLLBACK").await.unwrap();
    let found = party.verify().await.unwrap();
    assert_eq!(
        &*found.samples[0],
        "\"public\".\"plain\" (id) = (90000): only s2 has the row"
    );
}

/// Rows that change all the time are held for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_never_rest_are_decided() {
    let party = filled("verify_hot").await;
    let carrier = Arc::new(Carrier::start(&party, LAG).await);
    let stop = Arc::new(AtomicBool::new(false));
    // Row 2 is another one over there, though each change is made to it.
    party
        .receiver
        .batch_execute("UPDATE plain SET tenant = 999 WHERE id = 2")
        .await
        .unwrap();
    let writer = tokio::spawn({
        let (carrier, stop) = (Arc::clone(&carrier), Arc::clone(&stop));
        async move {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let sql = format!("UPDATE plain SET note = 'hot {count}' WHERE id IN (1, 2, 3)");
                carrier.write(sql).await;
            }
        }
    });
    for round in 0..3 {
        let found = party.verify().await.unwrap();
        let samples: Vec<_> = found.samples.iter().map(|sample| &**sample).collect();
        assert_eq!(
            samples,
            ["\"public\".\"plain\" (id) = (2): the rows of s1 and s2 differ"],
            "round {round}"
        );
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}
