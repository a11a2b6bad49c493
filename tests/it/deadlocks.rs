//! Transactions that wait for each other on different shards: one of them ends, the others go on.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::raw::{Answer, Format, Raw};
use crate::servers::wait_until;
use crate::sharded::{Sharded, configuration, succeeded};

const SCHEMA: &str = "CREATE TABLE kv (k int PRIMARY KEY, v text)";

const TABLES: &str = "[transactions]\ncross_shard_commit = \"best_effort\"\n\
    [[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

/// How long the victim waits, from the moment at which the last of the cycle began to.
const SOON: Duration = Duration::from_secs(2);

/// Two proxies for the same shards.
struct Proxies {
    one: Sharded,
    other: Sharded,
    /// Two keys for each shard, in order.
    keys: Vec<[i32; 2]>,
}

impl Proxies {
    fn start(database: &str) -> Proxies {
        let one = Sharded::start(database, SCHEMA, TABLES);
        let other = Sharded::start_proxy(database, &configuration(database, TABLES));
        let mut client = one.client();
        for key in 0..64 {
            run(
                &mut client,
                &[&format!("INSERT INTO kv VALUES ({key}, 'old')")],
            );
        }
        let first = |shard: &mut Raw| {
            let answer = shard.simple("SELECT k FROM kv ORDER BY k LIMIT 2");
            [0, 1].map(|row| field(&answer, row).parse().unwrap())
        };
        let keys = one.shards().iter_mut().map(first).collect();
        Proxies { one, other, keys }
    }

    fn key(&self, shard: usize) -> i32 {
        self.keys[shard][0]
    }

    /// Waits until so many processes wait for locks in this database on a shard.
    fn wait_for_waits(&self, shard: usize, waits: usize) {
        let mut shard = self.one.shards().remove(shard);
        let asked = "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid) \
            WHERE NOT granted AND datname = current_database()";
        wait_until("it waits", || {
            field(&shard.simple(asked), 0) == waits.to_string()
        });
    }

    fn value(&self, key: i32) -> String {
        let answer = self
            .one
            .client()
            .simple(&format!("SELECT v FROM kv WHERE k = {key}"));
        field(&answer, 0)
    }
}

/// Runs statements one by one; every one must succeed.
fn run(client: &mut Raw, statements: &[&str]) {
    for sql in statements {
        succeeded(sql, &client.simple(sql));
    }
}

/// The first value of a row.
fn field(answer: &Answer, row: usize) -> String {
    let value = answer.rows[row][0].clone().expect("not NULL");
    String::from_utf8(value).expect("text")
}

/// What begins after this is younger, by clocks that count milliseconds.
fn a_moment_passes() {
    std::thread::sleep(Duration::from_millis(10));
}

fn update(key: i32, value: &str) -> String {
    format!("UPDATE kv SET v = '{value}' WHERE k = {key}")
}

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Simple,
    Extended,
}

/// A statement that somebody else waits for. Gives the connection back with the answer.
fn ask(mut client: Raw, sql: &str, protocol: Protocol) -> JoinHandle<(Raw, Answer)> {
    let sql = sql.to_owned();
    std::thread::spawn(move || {
        let answer = match protocol {
            Protocol::Simple => client.simple(&sql),
            Protocol::Extended => client.extended(&sql, &[], Format::Text),
        };
        (client, answer)
    })
}

#[track_caller]
fn is_victim(answer: &Answer, statements: &[&str]) {
    let error = answer.error.as_ref().expect("it is the victim");
    assert_eq!(error.sqlstate(), "40P01", "{error:?}");
    assert_eq!(error.field('M'), "deadlock detected");
    for statement in statements {
        assert!(error.field('D').contains(statement), "{error:?}");
    }
}

/// The transaction of the victim has failed, and its connection goes on.
fn goes_on(mut victim: Raw) {
    if victim.status() != b'I' {
        let aborted = victim.simple("SELECT 1");
        assert_eq!(aborted.error.expect("it has failed").sqlstate(), "25P02");
        run(&mut victim, &["ROLLBACK"]);
    }
    let answer = victim.simple("SELECT count(*) FROM kv");
    assert_eq!(field(&answer, 0), "64");
}

#[test]
fn opposite_orders_through_two_proxies() {
    let proxies = Proxies::start("deadlock_two");
    let (first, second) = (proxies.key(0), proxies.key(1));
    let mut took = Vec::new();
    for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Simple] {
        let (mut old, mut young) = (proxies.one.client(), proxies.other.client());
        run(&mut old, &["BEGIN", &update(first, "old")]);
        a_moment_passes();
        run(&mut young, &["BEGIN", &update(second, "young")]);
        let (of_old, of_young) = (update(second, "old, too"), update(first, "young, too"));
        let old = ask(old, &of_old, protocol);
        proxies.wait_for_waits(1, 1);
        let begun = Instant::now();
        let young = ask(young, &of_young, protocol);
        let (young, answer) = young.join().unwrap();
        took.push(begun.elapsed());
        is_victim(
            &answer,
            &[&of_old, &of_young, "shard \"s1\"", "shard \"s2\""],
        );
        // The victim holds nothing any more, though its client has not ended its transaction.
        let (mut old, answer) = old.join().unwrap();
        succeeded(&of_old, &answer);
        goes_on(young);
        run(&mut old, &["COMMIT"]);
        assert_eq!(proxies.value(first), "old");
        assert_eq!(proxies.value(second), "old, too");
    }
    // Machines that run many tests at once are slow now and then.
    assert!(took.iter().any(|took| *took < SOON), "{took:?}");
}

#[test]
fn three_in_a_circle() {
    let proxies = Proxies::start("deadlock_three");
    let mut clients = vec![
        proxies.one.client(),
        proxies.other.client(),
        proxies.one.client(),
    ];
    for (place, client) in clients.iter_mut().enumerate() {
        run(client, &["BEGIN", &update(proxies.key(place), "own")]);
        a_moment_passes();
    }
    let mut asked: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(place, client)| {
            let next = update(proxies.key((place + 1) % 3), &format!("of {place}"));
            ask(client, &next, Protocol::Simple)
        })
        .collect();
    let (victim, answer) = asked.pop().unwrap().join().unwrap();
    is_victim(&answer, &["of 0", "of 1", "of 2"]);
    goes_on(victim);
    // Who waited for the victim goes on, and then who waited for that one.
    for client in asked.into_iter().rev() {
        let (mut client, answer) = client.join().unwrap();
        succeeded("UPDATE", &answer);
        run(&mut client, &["COMMIT"]);
    }
    assert_eq!(proxies.value(proxies.key(2)), "of 1");
    assert_eq!(proxies.value(proxies.key(0)), "own");
}

#[test]
fn through_a_transaction_on_one_shard() {
    let proxies = Proxies::start("deadlock_single");
    let ([first, third], second) = (proxies.keys[0], proxies.key(1));
    // A client of the proxy, and one that it does not know of.
    for between in [proxies.other.client(), proxies.one.shards().remove(0)] {
        let (mut between, mut old, mut young) =
            (between, proxies.one.client(), proxies.other.client());
        run(&mut between, &["BEGIN", &update(third, "between")]);
        run(&mut old, &["BEGIN", &update(first, "old")]);
        a_moment_passes();
        run(&mut young, &["BEGIN", &update(second, "young")]);
        let of_between = update(first, "between, too");
        let between = ask(between, &of_between, Protocol::Simple);
        proxies.wait_for_waits(0, 1);
        let old = ask(old, &update(second, "old, too"), Protocol::Simple);
        proxies.wait_for_waits(1, 1);
        let young = ask(young, &update(third, "young, too"), Protocol::Simple);
        let (victim, answer) = young.join().unwrap();
        is_victim(&answer, &["old, too", "young, too", "between, too"]);
        goes_on(victim);
        let (mut old, answer) = old.join().unwrap();
        succeeded("UPDATE", &answer);
        run(&mut old, &["COMMIT"]);
        let (mut between, answer) = between.join().unwrap();
        succeeded("UPDATE", &answer);
        run(&mut between, &["COMMIT"]);
        assert_eq!(proxies.value(first), "between, too");
    }
}

#[test]
fn a_statement_over_all_shards_against_a_transaction() {
    let proxies = Proxies::start("deadlock_spread");
    let (first, second) = (proxies.key(0), proxies.key(1));
    let everything = "UPDATE kv SET v = 'all'";
    for protocol in [Protocol::Simple, Protocol::Extended] {
        // The statement is younger than the transaction that it meets.
        let (mut single, spread) = (proxies.one.client(), proxies.other.client());
        run(&mut single, &["BEGIN", &update(second, "single")]);
        let spread = ask(spread, everything, protocol);
        proxies.wait_for_waits(1, 1);
        let single = ask(single, &update(first, "single"), protocol);
        let (spread, answer) = spread.join().unwrap();
        is_victim(&answer, &[everything]);
        goes_on(spread);
        let (mut single, answer) = single.join().unwrap();
        succeeded("UPDATE", &answer);
        run(&mut single, &["COMMIT"]);
        assert_eq!(proxies.value(first), "single");

        // The same with a transaction that is older.
        let (mut single, mut spread) = (proxies.one.client(), proxies.other.client());
        run(&mut spread, &["BEGIN", "SELECT count(*) FROM kv"]);
        a_moment_passes();
        run(&mut single, &["BEGIN", &update(second, "younger")]);
        let spread = ask(spread, everything, protocol);
        proxies.wait_for_waits(1, 1);
        let single = ask(single, &update(first, "younger"), protocol);
        let (single, answer) = single.join().unwrap();
        is_victim(&answer, &[everything, "younger"]);
        goes_on(single);
        let (mut spread, answer) = spread.join().unwrap();
        succeeded("UPDATE", &answer);
        run(&mut spread, &["COMMIT"]);
        assert_eq!(proxies.value(second), "all");
    }
}

#[test]
fn clients_of_one_proxy_need_no_table() {
    let database = "deadlock_alone";
    let tables = TABLES.replace("[transactions]\n", "[transactions]\ninstall = false\n");
    let proxy = Sharded::start(database, SCHEMA, &tables);
    let mut client = proxy.client();
    for key in 0..64 {
        run(
            &mut client,
            &[&format!("INSERT INTO kv VALUES ({key}, 'old')")],
        );
    }
    let first = |shard: &mut Raw| {
        field(&shard.simple("SELECT min(k) FROM kv"), 0)
            .parse()
            .unwrap()
    };
    let keys: Vec<i32> = proxy.shards().iter_mut().map(first).collect();
    let (mut old, mut young) = (proxy.client(), proxy.client());
    run(&mut old, &["BEGIN", &update(keys[0], "old")]);
    a_moment_passes();
    run(&mut young, &["BEGIN", &update(keys[1], "young")]);
    let old = ask(old, &update(keys[1], "old"), Protocol::Simple);
    let young = ask(young, &update(keys[0], "young"), Protocol::Simple);
    let (young, answer) = young.join().unwrap();
    is_victim(&answer, &[]);
    goes_on(young);
    let (_, answer) = old.join().unwrap();
    succeeded("UPDATE", &answer);
    let table = proxy.shards()[0].simple("SELECT FROM trunkline.waits");
    assert_eq!(table.error.expect("it is not made").sqlstate(), "42P01");
}

#[test]
fn a_long_wait_is_no_deadlock() {
    let proxies = Proxies::start("deadlock_none");
    let (first, second) = (proxies.key(0), proxies.key(1));
    let (mut holder, mut waiter) = (proxies.one.client(), proxies.other.client());
    let mut idle = proxies.one.client();
    run(&mut holder, &["BEGIN", &update(first, "holder")]);
    run(&mut waiter, &["BEGIN", &update(second, "waiter")]);
    // Holds and has company, and does not wait.
    run(&mut idle, &["BEGIN", "SELECT count(*) FROM kv"]);
    let waiter = ask(waiter, &update(first, "waiter"), Protocol::Simple);
    let mut shard = proxies.one.shards().remove(0);
    wait_until("it is noted", || {
        let noted = shard.simple("SELECT count(*) FROM trunkline.waits");
        noted.error.is_none() && field(&noted, 0) != "0"
    });
    // Some rounds, all of which find nothing to end.
    std::thread::sleep(Duration::from_secs(1));
    run(&mut holder, &["COMMIT"]);
    let (mut waiter, answer) = waiter.join().unwrap();
    succeeded("UPDATE", &answer);
    run(&mut waiter, &["COMMIT"]);
    assert_eq!(proxies.value(first), "waiter");
    wait_until("nothing is noted any more", || {
        field(&shard.simple("SELECT count(*) FROM trunkline.waits"), 0) == "0"
    });
}

#[test]
fn a_victim_s_next_statements_are_not_hit() {
    let proxies = Proxies::start("deadlock_again");
    let (first, second) = (proxies.key(0), proxies.key(1));
    let (mut old, mut young) = (proxies.one.client(), proxies.one.client());
    for round in 0..5 {
        let protocol = match round % 2 {
            0 => Protocol::Simple,
            _ => Protocol::Extended,
        };
        run(&mut old, &["BEGIN", &update(first, "old")]);
        a_moment_passes();
        run(
            &mut young,
            &["BEGIN", "SAVEPOINT s", &update(second, "young")],
        );
        let of_old = ask(old, &update(second, "old"), protocol);
        proxies.wait_for_waits(1, 1);
        let of_young = ask(young, &update(first, "young"), protocol);
        let answer;
        (young, answer) = of_young.join().unwrap();
        is_victim(&answer, &[]);
        // Back to where nothing is locked, and on at once.
        run(&mut young, &["ROLLBACK TO s"]);
        for _ in 0..20 {
            run(&mut young, &["SELECT v FROM kv WHERE k = 3"]);
        }
        let answer;
        (old, answer) = of_old.join().unwrap();
        succeeded("UPDATE", &answer);
        run(&mut old, &["COMMIT"]);
        run(
            &mut young,
            &[&update(second, "young"), &update(first, "young"), "COMMIT"],
        );
        assert_eq!(proxies.value(first), "young");
    }
}
