//! Scripts of messages put together at random, on one server and through Trunkline: whatever the order, the answers are the same.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::proxy::{plain, proxy};
use crate::wire_client::{
    Until, Wire, ask, bind, close, copy_data, copy_done, copy_fail, describe, execute, flush,
    parse, query, run, sync, transcript,
};

/// Not AND CHAIN: which modes it keeps after an error depends, in Postgres 15, on how they were set.
const STATEMENTS: [&str; 19] = [
    "BEGIN",
    "BEGIN READ ONLY",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "ROLLBACK TO a",
    "RELEASE a",
    "SELECT 1",
    "SELECT 1/0",
    "SELECT generate_series(1, 4)",
    "INSERT INTO notes VALUES (6000, 'random')",
    "DELETE FROM notes WHERE id = 6000",
    "SELECT body FROM notes WHERE id = 6000",
    "SET work_mem = '64kB'",
    "SET work_mem = '65kB'",
    "SET LOCAL work_mem = '66kB'",
    "RESET work_mem",
    "SHOW work_mem",
];

/// Of statements and portals. The unnamed statement is only used right after its Parse: after an error Trunkline may have forgotten an
/// earlier one.
const NAMES: [&str; 2] = ["s", "t"];

/// A message of the extended protocol, or a few.
fn extended(random: &mut SmallRng) -> Vec<u8> {
    let name = NAMES.choose(random).unwrap();
    let sql = STATEMENTS.choose(random).unwrap();
    match random.random_range(0..12) {
        0..4 => run(sql, &[]),
        4 => parse(name, sql, &[]),
        5 => [close(b'S', name), parse(name, sql, &[])].concat(),
        6 => bind(NAMES.choose(random).unwrap(), name, &[]),
        7 => execute(name, random.random_range(0..3)),
        8 => [bind("", name, &[]), execute("", random.random_range(0..3))].concat(),
        // Not of statements: in a transaction that failed before a server knew of it, Trunkline describes none, Postgres those without rows.
        9 => describe(b'P', name),
        10 => close(*b"SP".choose(random).unwrap(), name),
        _ => [
            run("COPY notes FROM STDIN", &[]),
            copy_data(b"6001\tcopied\n"),
            copy_done(),
        ]
        .concat(),
    }
}

/// Messages that end in one ReadyForQuery.
fn unit(random: &mut SmallRng) -> Vec<Vec<u8>> {
    match random.random_range(0..10) {
        0..3 => vec![query(STATEMENTS.choose(random).unwrap())],
        3 => {
            let statements: Vec<&str> = (0..random.random_range(2..5))
                .map(|_| *STATEMENTS.choose(random).unwrap())
                .collect();
            vec![query(&statements.join(";"))]
        }
        4 => vec![
            query("COPY notes FROM STDIN"),
            copy_data(b"6002\tcopied\n"),
            copy_fail("no more"),
        ],
        _ => {
            let mut messages: Vec<Vec<u8>> = (0..random.random_range(1..6))
                .map(|_| extended(random))
                .collect();
            if random.random_bool(0.3) {
                messages.insert(random.random_range(0..messages.len()), flush());
            }
            messages.push(sync());
            messages
        }
    }
}

/// Sends in pieces, as a network would.
fn play(client: &mut Wire, units: &[Vec<Vec<u8>>], random: &mut SmallRng) -> Vec<String> {
    let mut said = Vec::new();
    for unit in units {
        let bytes = unit.concat();
        let cut = if random.random_bool(0.3) {
            random.random_range(0..bytes.len())
        } else {
            bytes.len()
        };
        client.send(&bytes[..cut]);
        if cut < bytes.len() {
            std::thread::yield_now();
            client.send(&bytes[cut..]);
        }
        said.push(transcript(&client.read_until(Until::Ready(1))));
    }
    said
}

/// Where several things are wrong with a message, the complaint may be another one; that there is one, and its place, may not.
fn without_errors(said: &str) -> String {
    let mut shown = String::new();
    for (place, part) in said.split("E(ERROR ").enumerate() {
        let rest = if place == 0 {
            part
        } else {
            part.rsplit_once(") ").map_or(part, |(_, rest)| rest)
        };
        shown.push_str(if place == 0 { "" } else { "E " });
        shown.push_str(rest);
    }
    shown
}

#[test]
fn the_answers_are_the_same() {
    for seed in 0..SEEDS {
        let mut random = SmallRng::seed_from_u64(seed);
        let units: Vec<_> = (0..40).map(|_| unit(&mut random)).collect();
        let (mut direct, mut through) = (plain(), proxy().client("trusty"));
        for client in [&mut direct, &mut through] {
            client.step(&ask(&[query(
                "DELETE FROM notes WHERE id BETWEEN 6000 AND 6010",
            )]));
        }
        let mut cuts = SmallRng::seed_from_u64(seed);
        for (place, unit) in units.iter().enumerate() {
            let unit = std::slice::from_ref(unit);
            let [expected, got] = [&mut direct, &mut through]
                .map(|client| play(client, unit, &mut cuts.clone()).remove(0));
            cuts = SmallRng::seed_from_u64(seed * 1000 + place as u64);
            if without_errors(&got) != without_errors(&expected) {
                let shown = |unit: &Vec<Vec<u8>>| unit.concat().escape_ascii().to_string();
                let before: Vec<String> = units[..=place].iter().map(shown).collect();
                panic!(
                    "seed {seed}, unit {place}:\n{}\nTrunkline: {got}\nPostgres:  {expected}",
                    before.join("\n")
                );
            }
        }
    }
}

const SEEDS: u64 = 40;
