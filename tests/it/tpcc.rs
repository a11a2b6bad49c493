//! TPC-C, small: its five transactions over four shards, and the specification's consistency conditions 1 to 4 (clause 3.3.2) afterwards.
//!
//! All tables are distributed by the warehouse, `item` is a reference table. One order line in a hundred comes from another warehouse, and 15 of 100
//! payments are a customer's of another one, so transactions span shards and commit in two phases. Money is in cents.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Transaction};

use crate::raw::Raw;
use crate::servers::{connect, wait_until};
use crate::sharded::{Sharded, succeeded};

const WAREHOUSES: i32 = 8;
const DISTRICTS: i32 = 10;
const CUSTOMERS: i32 = 30;
const ITEMS: i32 = 200;
const TERMINALS: i32 = 8;
const DURATION: Duration = Duration::from_secs(8);

/// Tries of a transaction that lost against another.
const TRIES: usize = 50;

const SCHEMA: &str = "
    CREATE TABLE item (i_id int PRIMARY KEY, i_name text, i_price bigint);
    CREATE TABLE warehouse (w_id int PRIMARY KEY, w_tax bigint, w_ytd bigint);
    CREATE TABLE district (d_w_id int REFERENCES warehouse, d_id int, d_tax bigint, d_ytd bigint, d_next_o_id int, PRIMARY KEY (d_w_id, d_id));
    CREATE TABLE customer (c_w_id int, c_d_id int, c_id int, c_last text, c_discount bigint, c_balance bigint, c_ytd_payment bigint,
        c_payment_cnt int, c_delivery_cnt int, PRIMARY KEY (c_w_id, c_d_id, c_id), FOREIGN KEY (c_w_id, c_d_id) REFERENCES district);
    CREATE TABLE history (h_c_id int, h_c_d_id int, h_c_w_id int, h_d_id int, h_w_id int, h_date timestamptz, h_amount bigint);
    CREATE TABLE orders (o_w_id int, o_d_id int, o_id int, o_c_id int, o_entry_d timestamptz, o_carrier_id int, o_ol_cnt int, o_all_local int,
        PRIMARY KEY (o_w_id, o_d_id, o_id), FOREIGN KEY (o_w_id, o_d_id, o_c_id) REFERENCES customer);
    CREATE TABLE new_order (no_w_id int, no_d_id int, no_o_id int, PRIMARY KEY (no_w_id, no_d_id, no_o_id));
    CREATE TABLE order_line (ol_w_id int, ol_d_id int, ol_o_id int, ol_number int, ol_i_id int REFERENCES item, ol_supply_w_id int,
        ol_delivery_d timestamptz, ol_quantity int, ol_amount bigint, PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number));
    CREATE TABLE stock (s_w_id int, s_i_id int REFERENCES item, s_quantity int, s_ytd bigint, s_order_cnt int, s_remote_cnt int,
        PRIMARY KEY (s_w_id, s_i_id));";

const KEYS: [(&str, &str); 8] = [
    ("warehouse", "w_id"),
    ("district", "d_w_id"),
    ("customer", "c_w_id"),
    ("history", "h_w_id"),
    ("orders", "o_w_id"),
    ("new_order", "no_w_id"),
    ("order_line", "ol_w_id"),
    ("stock", "s_w_id"),
];

/// Conditions 1 to 4; each counts what violates it.
const CONDITIONS: [&str; 5] = [
    "SELECT count(*) FROM warehouse WHERE w_ytd <> (SELECT sum(d_ytd) FROM district WHERE d_w_id = w_id)",
    "SELECT count(*) FROM district WHERE d_next_o_id - 1 <> (SELECT max(o_id) FROM orders WHERE o_w_id = d_w_id AND o_d_id = d_id)",
    "SELECT count(*) FROM district JOIN (SELECT no_w_id, no_d_id, max(no_o_id) AS newest FROM new_order GROUP BY 1, 2) AS n
        ON no_w_id = d_w_id AND no_d_id = d_id WHERE d_next_o_id - 1 <> newest",
    "SELECT count(*) FROM (SELECT 1 FROM new_order GROUP BY no_w_id, no_d_id HAVING max(no_o_id) - min(no_o_id) + 1 <> count(*)) AS gaps",
    "SELECT count(*) FROM (SELECT o_w_id, o_d_id, sum(o_ol_cnt) AS lines FROM orders GROUP BY 1, 2) AS o
        FULL JOIN (SELECT ol_w_id, ol_d_id, count(*) AS lines FROM order_line GROUP BY 1, 2) AS l
        ON ol_w_id = o_w_id AND ol_d_id = o_d_id WHERE o.lines IS DISTINCT FROM l.lines",
];

/// What clients were told is committed.
#[derive(Debug, Default)]
struct Done {
    orders: i64,
    lines: i64,
    remote_lines: i64,
    payments: i64,
    paid: i64,
    remote_payments: i64,
    delivered: i64,
    others: i64,
    lost: usize,
}

fn tables() -> String {
    let mut text = "[[distributions]]\nname = \"warehouses\"\nkey = \"integer\"\nstrategy = \"list\"\nvalues = [\n".to_owned();
    for shard in 1..=4 {
        text += &format!(
            "{{ values = [{}, {}], shard = \"s{shard}\" }},\n",
            shard,
            shard + 4
        );
    }
    text += "]\n[[tables]]\nname = \"item\"\nplacement = \"reference\"\n";
    for (table, key) in KEYS {
        text += &format!(
            "[[tables]]\nname = \"{table}\"\ndistribution = \"warehouses\"\nkey = \"{key}\"\n"
        );
    }
    text
}

/// The tables as clause 4.3.3 has them, with fewer rows: each customer has one order, a third of which are not delivered.
fn fill(client: &mut Raw) {
    let mut run = |sql: &str| succeeded(sql, &client.simple(sql));
    let rows = |count: i32, row: &dyn Fn(i32) -> String| {
        (1..=count).map(row).collect::<Vec<_>>().join(", ")
    };
    run(&format!(
        "INSERT INTO item VALUES {}",
        rows(ITEMS, &|i| format!(
            "({i}, 'item {i}', {})",
            100 + i * 37 % 9900
        ))
    ));
    for w in 1..=WAREHOUSES {
        let ytd = i64::from(DISTRICTS) * 3_000_000;
        run(&format!(
            "INSERT INTO warehouse VALUES ({w}, {}, {ytd})",
            w * 100
        ));
        run(&format!(
            "INSERT INTO stock VALUES {}",
            rows(ITEMS, &|i| format!("({w}, {i}, {}, 0, 0, 0)", 10 + i % 91))
        ));
        for d in 1..=DISTRICTS {
            let next = CUSTOMERS + 1;
            run(&format!(
                "INSERT INTO district VALUES ({w}, {d}, {}, 3000000, {next})",
                d * 50
            ));
            run(&format!(
                "INSERT INTO customer VALUES {}",
                rows(CUSTOMERS, &|c| format!(
                    "({w}, {d}, {c}, 'last {}', {}, -1000, 1000, 1, 0)",
                    c % 10,
                    c * 10
                ))
            ));
            run(&format!(
                "INSERT INTO orders VALUES {}",
                rows(CUSTOMERS, &|o| format!(
                    "({w}, {d}, {o}, {}, now(), {}, 5, 1)",
                    CUSTOMERS + 1 - o,
                    if o > 20 { "NULL" } else { "1" }
                ))
            ));
            run(&format!(
                "INSERT INTO new_order VALUES {}",
                rows(CUSTOMERS - 20, &|o| format!("({w}, {d}, {})", o + 20))
            ));
            run(&format!(
                "INSERT INTO order_line SELECT {w}, {d}, o, l, (o * 7 + l) % {ITEMS} + 1, {w}, NULL, 5, 0 FROM generate_series(1, {CUSTOMERS}) AS o, generate_series(1, 5) AS l"
            ));
        }
    }
}

/// One of those that are not `mine`.
fn another(random: &mut SmallRng, mine: i32) -> i32 {
    (mine + random.random_range(1..WAREHOUSES) - 1) % WAREHOUSES + 1
}

async fn new_order(
    t: &Transaction<'_>,
    random: &mut SmallRng,
    w: i32,
) -> Result<Option<Done>, Error> {
    let (d, c) = (
        random.random_range(1..=DISTRICTS),
        random.random_range(1..=CUSTOMERS),
    );
    let count = random.random_range(5..=15);
    let is_wrong = random.random_ratio(1, 100);
    let mut lines: Vec<(i32, i32, i32)> = (0..count)
        .map(|_| {
            let supply = if random.random_ratio(1, 100) {
                another(random, w)
            } else {
                w
            };
            (
                random.random_range(1..=ITEMS),
                supply,
                random.random_range(1..=10),
            )
        })
        .collect();
    // Two orders that want the same items do not wait for each other in a circle.
    lines.sort_unstable_by_key(|(item, supply, _)| (*supply, *item));
    let local = i32::from(lines.iter().all(|(_, supply, _)| *supply == w));
    t.query_one("SELECT c_discount, c_last, w_tax FROM customer JOIN warehouse ON w_id = c_w_id WHERE w_id = $1 AND c_d_id = $2 AND c_id = $3", &[&w, &d, &c])
        .await?;
    let row = t
        .query_one("UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = $1 AND d_id = $2 RETURNING d_next_o_id - 1, d_tax", &[&w, &d])
        .await?;
    let order: i32 = row.get(0);
    t.execute(
        "INSERT INTO orders VALUES ($1, $2, $3, $4, now(), NULL, $5, $6)",
        &[&w, &d, &order, &c, &count, &local],
    )
    .await?;
    t.execute(
        "INSERT INTO new_order VALUES ($1, $2, $3)",
        &[&w, &d, &order],
    )
    .await?;
    let mut remote = 0;
    for (number, (item, supply, quantity)) in (1..).zip(&lines) {
        let item = if is_wrong && number == count {
            -1
        } else {
            *item
        };
        let Some(price) = t
            .query_opt("SELECT i_price FROM item WHERE i_id = $1", &[&item])
            .await?
        else {
            return Ok(None);
        };
        let is_remote = i32::from(*supply != w);
        remote += i64::from(is_remote);
        let amount = price.get::<_, i64>(0) * i64::from(*quantity);
        let ytd = i64::from(*quantity);
        t.query_one(
            "UPDATE stock SET s_quantity = CASE WHEN s_quantity >= $3 + 10 THEN s_quantity - $3 ELSE s_quantity - $3 + 91 END,
                s_ytd = s_ytd + $4, s_order_cnt = s_order_cnt + 1, s_remote_cnt = s_remote_cnt + $5 WHERE s_w_id = $1 AND s_i_id = $2 RETURNING s_quantity",
            &[supply, &item, quantity, &ytd, &is_remote],
        )
        .await?;
        t.execute(
            "INSERT INTO order_line VALUES ($1, $2, $3, $4, $5, $6, NULL, $7, $8)",
            &[&w, &d, &order, &number, &item, supply, quantity, &amount],
        )
        .await?;
    }
    Ok(Some(Done {
        orders: 1,
        lines: i64::from(count),
        remote_lines: remote,
        ..Done::default()
    }))
}

async fn payment(
    t: &Transaction<'_>,
    random: &mut SmallRng,
    w: i32,
) -> Result<Option<Done>, Error> {
    let d = random.random_range(1..=DISTRICTS);
    let is_remote = random.random_ratio(15, 100);
    let (cw, cd) = if is_remote {
        (another(random, w), random.random_range(1..=DISTRICTS))
    } else {
        (w, d)
    };
    let amount: i64 = random.random_range(100..=500_000);
    t.query_one(
        "UPDATE warehouse SET w_ytd = w_ytd + $2 WHERE w_id = $1 RETURNING w_tax",
        &[&w, &amount],
    )
    .await?;
    t.query_one(
        "UPDATE district SET d_ytd = d_ytd + $3 WHERE d_w_id = $1 AND d_id = $2 RETURNING d_tax",
        &[&w, &d, &amount],
    )
    .await?;
    let c: i32 = if random.random_ratio(60, 100) {
        let last = format!("last {}", random.random_range(0..10));
        let named = t.query("SELECT c_id FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_last = $3 ORDER BY c_id", &[&cw, &cd, &last]).await?;
        named[named.len() / 2].get(0)
    } else {
        random.random_range(1..=CUSTOMERS)
    };
    t.query_one(
        "UPDATE customer SET c_balance = c_balance - $4, c_ytd_payment = c_ytd_payment + $4, c_payment_cnt = c_payment_cnt + 1
            WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3 RETURNING c_balance",
        &[&cw, &cd, &c, &amount],
    )
    .await?;
    t.execute(
        "INSERT INTO history VALUES ($1, $2, $3, $4, $5, now(), $6)",
        &[&c, &cd, &cw, &d, &w, &amount],
    )
    .await?;
    Ok(Some(Done {
        payments: 1,
        paid: amount,
        remote_payments: i64::from(is_remote),
        ..Done::default()
    }))
}

async fn order_status(
    t: &Transaction<'_>,
    random: &mut SmallRng,
    w: i32,
) -> Result<Option<Done>, Error> {
    let (d, c) = (
        random.random_range(1..=DISTRICTS),
        random.random_range(1..=CUSTOMERS),
    );
    let last = t
        .query_one("SELECT o_id, o_ol_cnt FROM orders WHERE o_w_id = $1 AND o_d_id = $2 AND o_c_id = $3 ORDER BY o_id DESC LIMIT 1", &[&w, &d, &c])
        .await?;
    let (order, count): (i32, i32) = (last.get(0), last.get(1));
    let lines = t
        .query("SELECT ol_i_id, ol_amount FROM order_line WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3", &[&w, &d, &order])
        .await?;
    assert_eq!(lines.len(), count as usize, "an order is seen whole");
    Ok(Some(Done {
        others: 1,
        ..Done::default()
    }))
}

async fn delivery(
    t: &Transaction<'_>,
    random: &mut SmallRng,
    w: i32,
) -> Result<Option<Done>, Error> {
    let carrier = random.random_range(1..=10);
    let mut delivered = 0;
    for d in 1..=DISTRICTS {
        let oldest = t
            .query_opt("SELECT no_o_id FROM new_order WHERE no_w_id = $1 AND no_d_id = $2 ORDER BY no_o_id LIMIT 1 FOR UPDATE", &[&w, &d])
            .await?;
        let Some(oldest) = oldest else { continue };
        let order: i32 = oldest.get(0);
        if t.execute(
            "DELETE FROM new_order WHERE no_w_id = $1 AND no_d_id = $2 AND no_o_id = $3",
            &[&w, &d, &order],
        )
        .await?
            == 0
        {
            continue;
        }
        let row = t
            .query_one("UPDATE orders SET o_carrier_id = $4 WHERE o_w_id = $1 AND o_d_id = $2 AND o_id = $3 RETURNING o_c_id", &[&w, &d, &order, &carrier])
            .await?;
        let c: i32 = row.get(0);
        t.execute("UPDATE order_line SET ol_delivery_d = now() WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3", &[&w, &d, &order]).await?;
        t.execute(
            "UPDATE customer SET c_delivery_cnt = c_delivery_cnt + 1, c_balance = c_balance + (SELECT sum(ol_amount)::bigint FROM order_line
                WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3) WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $4",
            &[&w, &d, &order, &c],
        )
        .await?;
        delivered += 1;
    }
    Ok(Some(Done {
        delivered,
        ..Done::default()
    }))
}

async fn stock_level(
    t: &Transaction<'_>,
    random: &mut SmallRng,
    w: i32,
) -> Result<Option<Done>, Error> {
    let (d, threshold) = (
        random.random_range(1..=DISTRICTS),
        random.random_range(10..=20),
    );
    let next: i32 = t
        .query_one(
            "SELECT d_next_o_id FROM district WHERE d_w_id = $1 AND d_id = $2",
            &[&w, &d],
        )
        .await?
        .get(0);
    t.query_one(
        "SELECT count(DISTINCT s_i_id) FROM order_line JOIN stock ON s_w_id = ol_w_id AND s_i_id = ol_i_id
            WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id >= $3 - 20 AND ol_o_id < $3 AND s_quantity < $4",
        &[&w, &d, &next, &threshold],
    )
    .await?;
    Ok(Some(Done {
        others: 1,
        ..Done::default()
    }))
}

/// One transaction of the mix; `None`: it was to be rolled back, or lost against another.
async fn one(client: &mut Client, random: &mut SmallRng, w: i32) -> Result<Option<Done>, Error> {
    let t = client.transaction().await?;
    let done = match random.random_range(0..100) {
        0..45 => new_order(&t, random, w).await?,
        45..88 => payment(&t, random, w).await?,
        88..92 => order_status(&t, random, w).await?,
        92..96 => delivery(&t, random, w).await?,
        _ => stock_level(&t, random, w).await?,
    };
    match done {
        Some(_) => t.commit().await?,
        None => t.rollback().await?,
    }
    Ok(done)
}

/// Works until the time is over. Only what Postgres itself asks to be run again may fail.
async fn terminal(connection: String, w: i32) -> Done {
    let mut client = connect(&connection).await;
    let mut random = SmallRng::seed_from_u64(w as u64);
    let mut all = Done::default();
    let end = Instant::now() + DURATION;
    let mut tries = 0;
    while Instant::now() < end {
        match one(&mut client, &mut random, w).await {
            Ok(Some(done)) => {
                all = all.and(&done);
                tries = 0;
            }
            Ok(None) => tries = 0,
            Err(error) => {
                let code = error.code().cloned();
                let again = [
                    SqlState::T_R_DEADLOCK_DETECTED,
                    SqlState::T_R_SERIALIZATION_FAILURE,
                ];
                assert!(code.is_some_and(|code| again.contains(&code)), "{error:?}");
                tries += 1;
                all.lost += 1;
                assert!(tries < TRIES, "terminal {w} gets nowhere");
            }
        }
    }
    all
}

impl Done {
    fn and(self, more: &Done) -> Done {
        Done {
            orders: self.orders + more.orders,
            lines: self.lines + more.lines,
            remote_lines: self.remote_lines + more.remote_lines,
            payments: self.payments + more.payments,
            paid: self.paid + more.paid,
            remote_payments: self.remote_payments + more.remote_payments,
            delivered: self.delivered + more.delivered,
            others: self.others + more.others,
            lost: self.lost + more.lost,
        }
    }
}

fn number(client: &mut Raw, sql: &str) -> i64 {
    let answer = client.simple(sql);
    succeeded(sql, &answer);
    answer.lines()[0]
        .parse()
        .unwrap_or_else(|_| panic!("{sql}: {:?}", answer.lines()))
}

fn check(sharded: &Sharded, done: &Done) {
    let mut client = sharded.client();
    for condition in CONDITIONS {
        assert_eq!(
            number(&mut client, condition),
            0,
            "over all shards: {condition}"
        );
        for (place, mut shard) in sharded.shards().into_iter().enumerate() {
            assert_eq!(
                number(&mut shard, condition),
                0,
                "on shard {place}: {condition}"
            );
        }
    }
    let districts = i64::from(WAREHOUSES * DISTRICTS);
    let at_first = districts * i64::from(CUSTOMERS);
    let totals = [
        ("SELECT count(*) FROM orders", at_first + done.orders),
        ("SELECT count(*) FROM order_line", at_first * 5 + done.lines),
        (
            "SELECT count(*) FROM new_order",
            districts * i64::from(CUSTOMERS - 20) + done.orders - done.delivered,
        ),
        (
            "SELECT count(*) FROM order_line WHERE ol_supply_w_id <> ol_w_id",
            done.remote_lines,
        ),
        // What was done on the other shard of a transaction.
        ("SELECT sum(s_order_cnt) FROM stock", done.lines),
        ("SELECT sum(s_remote_cnt) FROM stock", done.remote_lines),
        (
            "SELECT sum(w_ytd) FROM warehouse",
            districts * 3_000_000 + done.paid,
        ),
        ("SELECT sum(h_amount) FROM history", done.paid),
        (
            "SELECT count(*) FROM history WHERE h_c_w_id <> h_w_id",
            done.remote_payments,
        ),
        (
            "SELECT sum(c_ytd_payment) FROM customer",
            at_first * 1000 + done.paid,
        ),
        (
            "SELECT sum(c_payment_cnt) FROM customer",
            at_first + done.payments,
        ),
        ("SELECT sum(c_delivery_cnt) FROM customer", done.delivered),
    ];
    for (sql, expected) in totals {
        assert_eq!(number(&mut client, sql), expected, "{sql}");
        let apart: i64 = sharded
            .shards()
            .iter_mut()
            .map(|shard| number(shard, &sql.replacen("sum", "0 + sum", 1)))
            .sum();
        assert_eq!(apart, expected, "on the shards: {sql}");
    }
}

/// No transaction is left prepared or open, and only idle connections.
fn nothing_is_left(sharded: &Sharded) {
    for mut shard in sharded.shards() {
        let prepared = format!(
            "SELECT count(*) FROM pg_prepared_xacts WHERE database = '{}'",
            sharded.database
        );
        wait_until("prepared transactions are gone", || {
            number(&mut shard, &prepared) == 0
        });
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state <> 'idle' AND pid <> pg_backend_pid()",
            sharded.database
        );
        wait_until("nothing is open", || number(&mut shard, &open) == 0);
    }
}

#[tokio::test]
async fn the_consistency_conditions_hold_over_four_shards() {
    let filled = tokio::task::spawn_blocking(|| {
        let sharded = Sharded::start("tpcc", SCHEMA, &tables());
        fill(&mut sharded.client());
        sharded
    });
    let sharded = filled.await.unwrap();
    let terminals: Vec<_> = (1..=TERMINALS)
        .map(|w| tokio::spawn(terminal(sharded.connection(), w)))
        .collect();
    let mut done = Done::default();
    for terminal in terminals {
        done = done.and(&terminal.await.unwrap());
    }
    println!("{done:?}");
    assert!(
        done.remote_lines > 0 && done.remote_payments > 0 && done.delivered > 0 && done.others > 0,
        "{done:?}"
    );
    let checked = tokio::task::spawn_blocking(move || {
        check(&sharded, &done);
        nothing_is_left(&sharded);
    });
    checked.await.unwrap();
}
