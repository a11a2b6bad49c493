//! Views of sharded tables: made and dropped through the proxy, read with the rights that one server would ask for.

use crate::raw::{Answer, Raw};
use crate::sharded::{Sharded, all_servers, succeeded};

const SCHEMA: &str = "CREATE TABLE orders (customer_id bigint, order_id bigint, region text, total int, PRIMARY KEY (customer_id, order_id));
    CREATE TABLE private (customer_id bigint PRIMARY KEY, owner text); ALTER TABLE private ENABLE ROW LEVEL SECURITY;
    CREATE VIEW names AS SELECT owner FROM private;
    CREATE VIEW own_names WITH (security_invoker) AS SELECT owner FROM private;
    CREATE VIEW of_customer AS SELECT customer_id, total FROM orders;
    CREATE VIEW hushed AS SELECT customer_id, total FROM orders;
    CREATE RULE hush AS ON DELETE TO hushed DO INSTEAD NOTHING;
    CREATE VIEW of_region AS SELECT region, sum(total) AS total FROM orders GROUP BY region";

const TABLES: &str = "[transactions]\ncross_shard_commit = \"best_effort\"\n\
    [[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"bigint\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"orders\"\ndistribution = \"d\"\nkey = [\"customer_id\"]\n\
    [[tables]]\nname = \"private\"\ndistribution = \"d\"\nkey = [\"customer_id\"]\n";

fn start(name: &str) -> (Sharded, Raw) {
    let sharded = Sharded::start(name, SCHEMA, TABLES);
    let mut client = sharded.client();
    run(
        &mut client,
        "INSERT INTO orders VALUES (1, 1, 'n', 10), (2, 1, 's', 20), (3, 1, 'n', 30), (4, 1, 's', 40), (5, 1, 'n', 50)",
    );
    (sharded, client)
}

fn run(client: &mut Raw, sql: &str) -> Answer {
    let answer = client.simple(sql);
    succeeded(sql, &answer);
    answer
}

fn sqlstate(answer: &Answer) -> &str {
    answer.error.as_ref().map_or("", |error| error.sqlstate())
}

fn rows(client: &mut Raw, sql: &str) -> Vec<String> {
    run(client, sql).lines()
}

#[test]
fn views_are_made_changed_and_dropped_everywhere() {
    let (sharded, mut client) = start("views_made");
    run(
        &mut client,
        "CREATE VIEW fresh AS SELECT customer_id AS customer, total FROM orders WHERE total > 10",
    );
    assert_eq!(
        rows(&mut client, "SELECT total FROM fresh WHERE customer = 3"),
        ["30"]
    );
    assert_eq!(
        rows(&mut client, "SELECT avg(total)::int FROM fresh"),
        ["35"]
    );
    // The same name, and another kind of view.
    run(&mut client, "DROP VIEW fresh");
    run(
        &mut client,
        "CREATE VIEW fresh AS SELECT max(total) AS total FROM orders",
    );
    assert_eq!(rows(&mut client, "SELECT total FROM fresh"), ["50"]);
    run(
        &mut client,
        "CREATE OR REPLACE VIEW fresh AS SELECT min(total) AS total FROM orders",
    );
    assert_eq!(rows(&mut client, "SELECT total FROM fresh"), ["10"]);
    run(&mut client, "ALTER VIEW fresh RENAME TO stale");
    assert_eq!(
        rows(
            &mut client,
            "SELECT s.total, f.total FROM stale s, of_region f ORDER BY 2"
        ),
        ["10 60", "10 90"]
    );
    run(&mut client, "DROP VIEW stale");
    assert_eq!(sqlstate(&client.simple("SELECT total FROM stale")), "42P01");
    for mut shard in sharded.shards() {
        let left = rows(
            &mut shard,
            "SELECT count(*) FROM pg_class WHERE relname IN ('fresh', 'stale') OR relpersistence = 't'",
        );
        assert_eq!(left, ["0"]);
    }
}

#[test]
fn rights_are_never_more_than_one_server_gives() {
    let (_sharded, mut client) = start("views_rights");
    for server in all_servers() {
        server
            .run_sql(
                "postgres",
                "CREATE ROLE views_reader; GRANT views_reader TO app",
            )
            .expect("a role can be made");
    }
    run(
        &mut client,
        "GRANT SELECT ON of_customer, of_region, names, own_names TO views_reader",
    );
    run(&mut client, "SET ROLE views_reader");
    // By the right on the view alone, as the shards have it.
    assert_eq!(
        rows(&mut client, "SELECT sum(total) FROM of_customer"),
        ["150"]
    );
    assert_eq!(
        rows(&mut client, "SELECT avg(total)::int FROM of_customer"),
        ["30"]
    );
    // Rows of the table would be brought: an error, and nothing more.
    let denied = client.simple("SELECT * FROM of_region");
    assert_eq!((sqlstate(&denied), denied.rows.len()), ("42501", 0));
    run(&mut client, "RESET ROLE");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM of_region"), ["2"]);
    // The owner sees other rows than the reader.
    assert_eq!(
        client.simple("SELECT * FROM names").refusal(),
        Some("view_over_sharded")
    );
    assert_eq!(rows(&mut client, "SELECT count(*) FROM own_names"), ["0"]);
    run(&mut client, "DROP OWNED BY views_reader");
}

#[test]
fn what_a_rule_does_is_not_guessed() {
    let (_sharded, mut client) = start("views_rules");
    let refused = client.simple("DELETE FROM hushed WHERE customer_id = 3");
    assert_eq!(refused.refusal(), Some("view_over_sharded"));
    assert_eq!(
        rows(
            &mut client,
            "DELETE FROM of_customer WHERE total > 20 RETURNING total"
        )
        .len(),
        3
    );
    assert_eq!(rows(&mut client, "SELECT count(*) FROM hushed"), ["2"]);
}

#[test]
fn a_transaction_sees_its_changes_through_views() {
    let (_sharded, mut client) = start("views_transaction");
    run(&mut client, "BEGIN");
    run(&mut client, "UPDATE orders SET total = total + 1");
    for _ in 0..2 {
        assert_eq!(
            rows(&mut client, "SELECT total FROM of_region ORDER BY 1"),
            ["62", "93"]
        );
    }
    run(&mut client, "SAVEPOINT here");
    assert!(
        client
            .simple("SELECT 1 / (total - 62) FROM of_region")
            .error
            .is_some()
    );
    run(&mut client, "ROLLBACK TO here");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM of_region"), ["2"]);
    run(&mut client, "ROLLBACK");
    assert_eq!(
        rows(&mut client, "SELECT total FROM of_region ORDER BY 1"),
        ["60", "90"]
    );
}
