//! Columns that no UPDATE sets: `GENERATED ALWAYS AS IDENTITY`.

use super::half;
use super::world::World;

const DOCUMENTS: &str = "CREATE TABLE documents (id bigint, sub int, place bigint GENERATED ALWAYS AS IDENTITY UNIQUE, n int NOT NULL,
        twice int GENERATED ALWAYS AS (n * 2) STORED, body text, short text, PRIMARY KEY (id, sub));
    ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE pages (id bigint, sub int, number int, PRIMARY KEY (id, number),
        FOREIGN KEY (id, sub) REFERENCES documents ON DELETE CASCADE ON UPDATE CASCADE)";

/// What an update does not touch and is out of line is not sent; the rows that are there get new identities all the same, and lose nothing else: no
/// value, and no row that refers to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_another_identity_keeps_what_was_not_sent() {
    let tables: &[(&str, &[&str])] = &[("documents", &["id"]), ("pages", &["id"])];
    let world = World::new("flow_identities", half(DOCUMENTS, tables)).await;
    let filled = "INSERT INTO documents (id, sub, n, body, short) SELECT g, 0, g, repeat('x', 9000) || g, 's' FROM generate_series(1, 60) g;
        INSERT INTO pages SELECT g, 0, 1 FROM generate_series(1, 60) g";
    world.run(0, filled).await;
    let mut driver = world.drive(1);
    driver.copied().await;
    let sent = "UPDATE documents SET place = DEFAULT";
    let backwards = "DO $$ BEGIN FOR i IN REVERSE 60 .. 1 LOOP UPDATE documents SET place = DEFAULT WHERE id = i; END LOOP; END $$";
    let steps = [
        sent.to_owned(),
        format!("{sent}, n = -n, short = NULL WHERE id % 2 = 0"),
        // Some keep theirs.
        format!(
            "BEGIN; UPDATE documents SET n = 7; {sent} WHERE id > 30; UPDATE documents SET body = body || 'y' WHERE id % 5 = 0; COMMIT"
        ),
        // Keys change as well.
        format!("BEGIN; {sent}, sub = sub + 1 WHERE id % 3 = 0; {sent} WHERE id % 4 = 0; COMMIT"),
        // Each gets what another one had, which is unique.
        format!(
            "BEGIN; {sent}; SELECT setval('documents_place_seq', 1, false); {sent}; SELECT setval('documents_place_seq', 1000); {sent};
             SELECT setval('documents_place_seq', 1, false); {backwards}; COMMIT"
        ),
    ];
    for (term, step) in (1..).zip(&steps) {
        world.run(0, step).await;
        world.fence(&mut driver, term).await;
        assert!(world.compare().await > 50, "{step}");
        world.verify(&mut driver).await;
    }
    world.end(driver).await;
}

/// Two changes of one row, in a batch that something is in the way of, so that its changes are made one by one: the last one holds.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_row_are_made_in_their_order() {
    let schema = "CREATE TABLE users (id bigint PRIMARY KEY, place bigint GENERATED ALWAYS AS IDENTITY, mail text UNIQUE, body text);
        ALTER TABLE users ALTER body SET STORAGE EXTERNAL";
    let wanted = half(schema, &[("users", &["id"])]);
    let world = World::new("flow_identity_order", wanted).await;
    world
        .run(
            0,
            "INSERT INTO users (id) SELECT g FROM generate_series(1, 49) g;
             INSERT INTO users (id, mail, body) SELECT g, 'm' || g, repeat('x', 9000) FROM generate_series(50, 150) g",
        )
        .await;
    let mut driver = world.drive(1);
    driver.copied().await;
    // Some of the rows that move change places with each other.
    let swap = "UPDATE users SET mail = '~' || mail; UPDATE users SET mail = 'm' || (200 - id) WHERE id >= 50";
    for (term, changes) in (1..).zip([
        "INSERT INTO users (id) SELECT g FROM generate_series(201, 260) g; DELETE FROM users WHERE id > 200",
        "DO $$ BEGIN FOR i IN 1 .. 49 LOOP UPDATE users SET place = DEFAULT WHERE id = i; UPDATE users SET place = DEFAULT WHERE id = i; END LOOP; END $$",
        "DO $$ BEGIN FOR i IN 1 .. 49 LOOP DELETE FROM users WHERE id = i; INSERT INTO users (id) VALUES (i); END LOOP; END $$",
    ]) {
        let together = format!("BEGIN; {swap}; {changes}; COMMIT");
        world.run(0, &together).await;
        world.fence(&mut driver, term).await;
        assert!(world.compare().await > 50, "{changes}");
        world.verify(&mut driver).await;
    }
    world.end(driver).await;
}

/// A row of a type of rows is not NULL because one of its fields is.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_with_a_null_in_it_is_found_on_the_source() {
    let schema = "CREATE TYPE part AS (a int, b text);
        CREATE TABLE documents (id bigint, sub int, v part, w part, PRIMARY KEY (id, sub)); ALTER TABLE documents ALTER v SET STORAGE EXTERNAL";
    let world = World::new("flow_null_inside", half(schema, &[("documents", &["id"])])).await;
    world
        .run(
            0,
            "INSERT INTO documents SELECT g, 0, ROW(NULL, repeat('x', 9000) || g)::part, ROW(NULL, NULL)::part FROM generate_series(1, 40) g",
        )
        .await;
    let mut driver = world.drive(1);
    driver.copied().await;
    // The new keys are not on the receiving shard, and what is out of line is not in the log.
    world.run(0, "UPDATE documents SET sub = 1").await;
    world.fence(&mut driver, 1).await;
    assert!(world.compare().await > 10);
    world.verify(&mut driver).await;
    world.end(driver).await;
}
