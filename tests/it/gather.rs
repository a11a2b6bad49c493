//! Queries that no shard can answer alone: their rows come together on one, where the query runs as it was written.

use crate::raw::{Answer, Format, Parameter, Raw};
use crate::servers::wait_until;
use crate::sharded::{Sharded, configuration_of, succeeded};

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
    CREATE TABLE customers (customer_id bigint PRIMARY KEY, name text, country text, feels mood, tags text[], spent numeric(12, 2),
        born date NOT NULL DEFAULT '2000-01-01', twice numeric GENERATED ALWAYS AS (spent * 2) STORED);
    CREATE TABLE orders (customer_id bigint, order_id bigint, total numeric, quantity positive, note text COLLATE \"C\", weight float8,
        PRIMARY KEY (customer_id, order_id));
    CREATE TABLE countries (code text PRIMARY KEY, name text);
    CREATE TABLE settings (name text, country text);
    CREATE SCHEMA other; CREATE TABLE other.orders (order_id bigint, remark text)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"bigint\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"customers\"\ndistribution = \"d\"\nkey = [\"customer_id\"]\n\
    [[tables]]\nname = \"orders\"\ndistribution = \"d\"\nkey = [\"customer_id\"]\n\
    [[tables]]\nname = \"countries\"\nplacement = \"reference\"\n\
    [[tables]]\nname = \"settings\"\nplacement = \"single\"\nshard = \"s3\"\n";

/// Answers depend on what only a Postgres with all rows knows; each has one possible order, or one row.
const QUERIES: [&str; 30] = [
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total), mode() WITHIN GROUP (ORDER BY country) FROM orders JOIN customers USING (customer_id)",
    "SELECT customer_id, row_number() OVER (ORDER BY name, customer_id), sum(spent) OVER (PARTITION BY country ORDER BY customer_id) FROM customers ORDER BY customer_id",
    "SELECT DISTINCT ON (country) country, name, feels FROM customers ORDER BY country, name COLLATE \"C\" DESC, customer_id",
    "SELECT country, feels, count(*), avg(spent) FROM customers GROUP BY GROUPING SETS ((country), (feels), ()) ORDER BY 1, 2, 3",
    "SELECT customer_id FROM customers EXCEPT SELECT order_id FROM orders ORDER BY 1",
    "SELECT c.name, o.order_id FROM customers c JOIN orders o ON o.order_id = c.customer_id ORDER BY 1, 2",
    "SELECT c.name, x.order_id FROM customers c LEFT JOIN LATERAL (SELECT order_id FROM orders o WHERE o.total > c.spent ORDER BY order_id LIMIT 2) x ON true ORDER BY c.customer_id, 2",
    "WITH RECURSIVE chain AS (SELECT customer_id AS n FROM customers WHERE customer_id = 1 UNION SELECT o.order_id FROM orders o JOIN chain ON o.order_id = n + 1) SELECT n FROM chain ORDER BY 1",
    "SELECT name FROM customers c WHERE spent > (SELECT avg(total) FROM orders o WHERE o.order_id % 5 = c.customer_id % 5) ORDER BY customer_id",
    "SELECT c.*, k.name FROM customers c JOIN countries k ON k.code = c.country WHERE EXISTS (SELECT * FROM orders o WHERE o.order_id = c.customer_id) ORDER BY c.customer_id",
    // Functional dependency on a primary key.
    "SELECT c.customer_id, c.name, c.feels, count(o.order_id) FROM customers c LEFT JOIN orders o ON o.order_id = c.customer_id GROUP BY c.customer_id ORDER BY 1",
    "SELECT row_to_json(c) FROM customers c, orders o WHERE o.order_id = c.customer_id ORDER BY c.customer_id",
    "SELECT c, o.quantity FROM customers c JOIN orders o ON o.order_id = c.customer_id ORDER BY c.customer_id",
    "SELECT string_agg(name, '|' ORDER BY name, customer_id), array_agg(tags[1] ORDER BY customer_id) FROM customers",
    "SELECT count(*) FROM customers, orders",
    "SELECT * FROM customers NATURAL JOIN orders ORDER BY customer_id, order_id LIMIT 7",
    "SELECT a, b FROM orders AS o(a, b, c) ORDER BY b, a",
    // Names with a schema; a table of the same name elsewhere.
    "SELECT public.orders.total, p.remark FROM public.orders JOIN other.orders p ON p.order_id = public.orders.order_id ORDER BY 1, 2",
    // Single tables, where they are and away from it.
    "SELECT s.name, count(c.customer_id) FROM settings s LEFT JOIN customers c ON c.country = s.country GROUP BY s.name ORDER BY 1",
    "SELECT s.name, p.remark FROM settings s, other.orders p ORDER BY 1, 2",
    "SELECT k.name, (SELECT max(note) FROM orders o JOIN customers c USING (customer_id) WHERE c.country = k.code) FROM countries k ORDER BY 1",
    // Conditions, some of which choose rows where they are.
    "SELECT c.name, o.note FROM customers c JOIN orders o ON o.order_id = c.customer_id WHERE c.spent BETWEEN 100 AND 4000 AND o.note > 'n2' AND c.born < date '2001-01-01' + interval '1 month' ORDER BY 1, 2",
    "SELECT c.name, o.note FROM customers c LEFT JOIN orders o ON o.order_id = c.customer_id WHERE o.note IS NULL AND c.feels = 'happy' ORDER BY c.customer_id",
    "SELECT c.name FROM customers c JOIN orders o ON o.order_id = c.customer_id WHERE c.customer_id IN (1, 2, 3, 4, 5) AND o.customer_id = 2 ORDER BY 1",
    "SELECT variance(weight) > 0, corr(weight, total::float8) IS NULL FROM orders",
    "SELECT name FROM customers WHERE false UNION SELECT note FROM orders WHERE order_id < 0",
    "SELECT sum(x.total) FROM (SELECT total FROM orders ORDER BY total DESC, order_id OFFSET 3 LIMIT 5) x",
    "SELECT DISTINCT upper(left(name, 2)) COLLATE \"C\" FROM customers ORDER BY 1",
    "SELECT o.customer_id FROM orders o GROUP BY o.customer_id HAVING sum(total) > (SELECT avg(spent) FROM customers) ORDER BY 1",
    "SELECT twice FROM customers c FULL JOIN orders o ON o.order_id = c.customer_id AND o.total > 2000 ORDER BY twice NULLS FIRST, o.order_id LIMIT 5 OFFSET 2",
];

/// The same rows on the plain server and behind the proxy.
fn start(name: &str, settings: &str) -> Sharded {
    filled(Sharded::start(name, SCHEMA, &format!("{settings}{TABLES}")))
}

fn filled(sharded: Sharded) -> Sharded {
    let (mut plain, mut proxy) = (sharded.plain(), sharded.client());
    for client in [&mut plain, &mut proxy] {
        for n in 1..=40_i64 {
            let feels = ["'sad'", "'happy'", "NULL"][usize::try_from(n % 3).unwrap()];
            let customer = format!(
                "INSERT INTO customers (customer_id, name, country, feels, tags, spent, born) VALUES ({n}, '{}{n}', '{}', {feels}, \
                    ARRAY['t{n}', NULL], {n}00.5, date '2000-01-01' + {n} * 11)",
                ["Ä", "a", "B", "z"][usize::try_from(n % 4).unwrap()],
                ["DE", "FR", "US"][usize::try_from(n % 3).unwrap()],
            );
            run(client, &customer);
            let order = format!(
                "INSERT INTO orders VALUES ({}, {n}, {}, {n}, 'n{n}', {n} / 3.0)",
                n % 13,
                n * 77
            );
            run(client, &order);
        }
        run(
            client,
            "INSERT INTO settings VALUES ('one', 'DE'), ('two', 'XX')",
        );
        run(
            client,
            "INSERT INTO other.orders VALUES (3, 'three'), (4, 'four')",
        );
    }
    let countries = "INSERT INTO countries VALUES ('DE', 'Deutschland'), ('FR', 'France')";
    run(&mut plain, countries);
    for mut shard in sharded.shards() {
        run(&mut shard, countries);
    }
    sharded
}

fn run(client: &mut Raw, sql: &str) -> Answer {
    let answer = client.simple(sql);
    succeeded(sql, &answer);
    answer
}

fn value(client: &mut Raw, sql: &str) -> String {
    let answer = run(client, sql);
    String::from_utf8(answer.rows[0][0].clone().expect("not NULL")).expect("text")
}

/// The types that a server makes have other numbers on each.
fn without_own_types(mut answer: Answer) -> Answer {
    for (_, oid, ..) in answer.columns.iter_mut().flatten() {
        if *oid >= 16_384 {
            *oid = 0;
        }
    }
    answer
}

#[test]
fn queries_are_answered_as_by_one_server() {
    let sharded = start("gather_queries", "");
    let (mut plain, mut proxy) = (sharded.plain(), sharded.client());
    for sql in QUERIES {
        let expected = without_own_types(plain.simple(sql));
        assert!(expected.error.is_none(), "{sql}: {expected:?}");
        let found = without_own_types(proxy.simple(sql));
        assert_eq!(found.shown(), expected.shown(), "{sql}");
        assert!(found == expected, "{sql}");
        for format in [Format::Text, Format::Binary] {
            let expected = without_own_types(plain.extended(sql, &[], format));
            let found = without_own_types(proxy.extended(sql, &[], format));
            // A row as a value has its columns' types in its binary form.
            if format == Format::Text || !sql.starts_with("SELECT c, ") {
                assert_eq!(found.shown(), expected.shown(), "{sql} {format:?}");
            }
        }
    }
    // No trace is left on any shard.
    for mut shard in sharded.shards() {
        assert_eq!(
            value(
                &mut shard,
                "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"
            ),
            "0"
        );
    }
}

/// Also tables that are on one shard are brought to the one that gathers for all.
#[test]
fn a_shard_may_gather_for_all() {
    let name = "gather_elsewhere";
    let configuration = configuration_of(4, name, TABLES);
    let gathering = "default_shard = \"s1\", gather_shard = \"s4\"";
    let configuration = configuration.replace("default_shard = \"s1\"", gathering);
    let sharded = filled(Sharded::start_with(name, SCHEMA, &configuration));
    let (mut plain, mut proxy) = (sharded.plain(), sharded.client());
    // Of two tables of one name only one can be brought.
    let queries = QUERIES.iter().filter(|sql| !sql.contains("public.orders"));
    for sql in queries {
        let found = without_own_types(proxy.simple(sql));
        let expected = without_own_types(plain.simple(sql));
        assert_eq!(found.shown(), expected.shown(), "{sql}");
    }
    for sql in [
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total) FROM orders",
        "SELECT count(*) FROM settings s, customers c WHERE c.country < s.country",
    ] {
        let plan = proxy.simple(&format!("EXPLAIN {sql}")).lines().join("\n");
        assert!(plan.contains("Gathered on s4"), "{plan}");
    }
}

#[test]
fn parameters_come_with_the_query() {
    let sharded = start("gather_parameters", "");
    let (mut plain, mut proxy) = (sharded.plain(), sharded.client());
    let sql = "SELECT c.name, $2, percent_rank() OVER (ORDER BY c.spent) FROM customers c JOIN orders o ON o.order_id = c.customer_id \
        WHERE c.spent > $1 AND o.customer_id = ANY ($3) ORDER BY c.customer_id";
    let text = |value: &str| Parameter {
        oid: 0,
        format: Format::Text,
        value: Some(value.into()),
    };
    let eleven = Parameter {
        oid: 25,
        format: Format::Binary,
        value: Some(b"eleven".to_vec()),
    };
    let parameters = [text("1000"), eleven, text("{1,2,3}")];
    for format in [Format::Text, Format::Binary] {
        let expected = plain.extended(sql, &parameters, format);
        assert!(
            expected.error.is_none() && !expected.rows.is_empty(),
            "{expected:?}"
        );
        assert_eq!(
            proxy.extended(sql, &parameters, format).shown(),
            expected.shown()
        );
    }
}

#[test]
fn a_transaction_sees_what_it_has_done() {
    let sharded = start("gather_transaction", "");
    let (mut client, mut other) = (sharded.client(), sharded.client());
    const COUNT: &str = "SELECT count(DISTINCT o.note) FROM orders o JOIN customers c ON c.customer_id = o.order_id";
    assert_eq!(value(&mut client, COUNT), "40");
    run(&mut client, "BEGIN");
    for n in 101..=104 {
        run(
            &mut client,
            &format!("INSERT INTO customers (customer_id) VALUES ({n})"),
        );
        run(
            &mut client,
            &format!("INSERT INTO orders VALUES ({n}, {n}, 1, 1, 'new {n}')"),
        );
    }
    assert_eq!(value(&mut client, COUNT), "44");
    // The real tables are there again.
    run(
        &mut client,
        "INSERT INTO orders VALUES (105, 5, 1, 1, 'real')",
    );
    assert_eq!(value(&mut client, COUNT), "45");
    assert_eq!(value(&mut other, COUNT), "40");
    run(&mut client, "SAVEPOINT s");
    run(&mut client, "DELETE FROM orders WHERE customer_id = 105");
    assert_eq!(value(&mut client, COUNT), "44");
    let failed =
        client.simple(&COUNT.replace("count(DISTINCT o.note)", "sum(1 / (o.quantity - 1))"));
    assert_eq!(
        failed
            .error
            .as_ref()
            .map(|error| error.sqlstate().to_owned()),
        Some("22012".into()),
        "{failed:?}"
    );
    assert_eq!(failed.status, b'E');
    assert_eq!(client.simple(COUNT).error.unwrap().sqlstate(), "25P02");
    run(&mut client, "ROLLBACK TO s");
    assert_eq!(value(&mut client, COUNT), "45");
    run(&mut client, "COMMIT");
    assert_eq!(value(&mut other, COUNT), "45");
}

#[test]
fn transactions_that_only_read() {
    let sharded = start("gather_read_only", "");
    let mut client = sharded.client();
    const COUNT: &str = "SELECT count(DISTINCT o.note) FROM orders o JOIN customers c ON c.customer_id = o.order_id";
    let with_countries = format!("{COUNT} JOIN countries k ON k.code = c.country");
    run(&mut client, "BEGIN READ ONLY");
    assert_eq!(value(&mut client, COUNT), "40");
    assert_eq!(value(&mut client, &with_countries), "27");
    assert_eq!(value(&mut client, "SHOW transaction_read_only"), "on");
    run(&mut client, "COMMIT");
    run(
        &mut client,
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    );
    assert_eq!(value(&mut client, COUNT), "40");
    assert_eq!(
        client.simple(&with_countries).refusal(),
        Some("gather_read_only")
    );
    run(&mut client, "ROLLBACK");
    // Outside a block the query has a transaction that may write.
    run(&mut client, "SET default_transaction_read_only = on");
    assert_eq!(value(&mut client, COUNT), "40");
    for mut shard in sharded.shards() {
        wait_until("no transaction is left open", || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
            value(&mut shard, open) == "0"
        });
    }
}

#[test]
fn errors_leave_connections_usable() {
    let sharded = start("gather_errors", "");
    let (mut plain, mut client) = (sharded.plain(), sharded.client());
    for sql in [
        "SELECT sum(1 / (o.quantity - 1)) FROM orders o JOIN customers c ON c.customer_id = o.order_id",
        "SELECT o.nothing FROM orders o JOIN customers c ON c.customer_id = o.order_id",
        "SELECT o.note FROM orders o JOIN customers c ON c.customer_id = o.order_id GROUP BY c.name",
    ] {
        let (expected, found) = (plain.simple(sql), client.simple(sql));
        let error = expected.error.expect("it fails");
        assert_eq!(found.error.as_ref(), Some(&error), "{sql}");
        assert_eq!(found.status, b'I');
        assert_eq!(
            value(&mut client, "SELECT count(*) FROM orders a, orders b"),
            "1600"
        );
    }
}

#[test]
fn more_than_the_limits_is_an_error_that_names_the_table() {
    let sharded = start("gather_rows", "[gather]\nmax_rows = 70\n");
    let mut client = sharded.client();
    let error = client
        .simple("SELECT count(*) FROM customers c, orders o")
        .error
        .unwrap();
    assert_eq!(error.sqlstate(), "53400");
    let message = error.field('M');
    assert!(
        message.starts_with("the query needs more than 70 rows (gather.max_rows) of its tables on one shard; table public."),
        "{message}"
    );
    assert_eq!(
        value(
            &mut client,
            "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY customer_id) FROM customers"
        ),
        "20"
    );

    let sharded = start("gather_bytes", "[gather]\nmax_bytes = \"64kB\"\n");
    let mut client = sharded.client();
    for customer in 0..13 {
        let long =
            format!("UPDATE orders SET note = repeat('x', 50000) WHERE customer_id = {customer}");
        run(&mut client, &long);
    }
    let error = client
        .simple("SELECT max(note) OVER () FROM orders")
        .error
        .unwrap();
    assert_eq!(error.sqlstate(), "53400");
    assert!(error.field('M').contains("(gather.max_bytes)"), "{error:?}");
    assert_eq!(
        value(&mut client, "SELECT count(*) FROM orders a, orders b"),
        "1600"
    );
}

#[test]
fn many_rows_and_large_ones_travel() {
    let sharded = start("gather_volume", "");
    let mut client = sharded.client();
    // Where rows are does not matter here, only that all shards have some.
    for (number, shard) in sharded.shards().iter_mut().enumerate() {
        let rows = format!(
            "INSERT INTO orders SELECT n, {number} * 100000 + n, n, 1, repeat('y', 100) FROM generate_series(1000, 6999) n"
        );
        run(shard, &rows);
        run(
            shard,
            &format!(
                "INSERT INTO orders VALUES (900, 900 + {number}, 1, 1, repeat('{number}', 3000000))"
            ),
        );
    }
    let sql = "SELECT count(*), sum(length(note)), count(DISTINCT order_id), min(note), percentile_disc(0.5) WITHIN GROUP (ORDER BY total) FROM orders";
    let answer = run(&mut client, sql);
    let text = |column: usize| String::from_utf8(answer.rows[0][column].clone().unwrap()).unwrap();
    assert_eq!(text(0), "24044");
    assert_eq!(
        text(1),
        (24_000 * 100 + 4 * 3_000_000 + 9 * 2 + 31 * 3).to_string()
    );
    assert_eq!(text(2), "24044");
    // Rows come back as a stream, too.
    let all = run(
        &mut client,
        "SELECT note, rank() OVER (ORDER BY order_id, customer_id) FROM orders",
    );
    assert_eq!(all.rows.len(), 24_044);
}

#[test]
fn a_source_that_is_stuck_runs_into_the_time_limit_and_one_that_dies_is_reported() {
    let sharded = start("gather_stuck", "[gather]\ntimeout = \"400ms\"\n");
    let mut client = sharded.client();
    const COUNT: &str = "SELECT count(DISTINCT o.note) FROM orders o JOIN customers c ON c.customer_id = o.order_id";
    let mut shards = sharded.shards();
    run(&mut shards[2], "BEGIN");
    run(&mut shards[2], "LOCK orders IN ACCESS EXCLUSIVE MODE");
    let error = client.simple(COUNT).error.unwrap();
    assert_eq!(error.sqlstate(), "53400");
    assert!(error.field('M').contains("(gather.timeout)"), "{error:?}");
    run(&mut shards[2], "ROLLBACK");
    assert_eq!(value(&mut client, COUNT), "40");

    let sharded = start("gather_dying", "");
    let mut client = sharded.client();
    let mut shards = sharded.shards();
    // What a transaction sees of other sessions stays as it was when it first looked.
    let mut killer = sharded.shards().swap_remove(2);
    run(&mut shards[2], "BEGIN");
    run(&mut shards[2], "LOCK orders IN ACCESS EXCLUSIVE MODE");
    let waiting = std::thread::spawn(move || {
        let answer = client.simple(COUNT);
        (client, answer)
    });
    wait_until("the source waits, and is killed", || {
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        value(&mut killer, kill) == "1"
    });
    let (mut client, answer) = waiting.join().expect("it answers");
    let error = answer.error.expect("one error");
    assert!(matches!(error.sqlstate(), "57P01" | "08006"), "{error:?}");
    assert_eq!(answer.status, b'I');
    run(&mut shards[2], "ROLLBACK");
    assert_eq!(value(&mut client, COUNT), "40");
    for shard in &mut shards {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
        wait_until("nothing runs on", || value(shard, open) == "0");
    }
}
