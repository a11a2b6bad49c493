//! The bodies of the fuzzers (`tests/fuzz`) with inputs made by chance: sound ones, of which some bytes are changed, doubled, taken out or put in.
//! `FUZZ_INPUTS` says how many of each; `FUZZ_SEED` begins where a failure was.

#[path = "fuzz/bodies.rs"]
mod bodies;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const INPUTS: u64 = 20_000;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Tries a body with many inputs. What fails is named by its seed.
fn try_with(body: fn(&[u8]), sound: &[Vec<u8>]) {
    let first = number("FUZZ_SEED", 1);
    for seed in first..first + number("FUZZ_INPUTS", INPUTS) {
        let input = made(sound, seed);
        let tried = std::panic::catch_unwind(|| body(&input));
        assert!(
            tried.is_ok(),
            "FUZZ_SEED={seed} FUZZ_INPUTS=1: {:?}",
            String::from_utf8_lossy(&input)
        );
    }
}

fn made(sound: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut input = sound[chance.random_range(0..sound.len())].clone();
    for _ in 0..chance.random_range(0..8) {
        let place = chance.random_range(0..=input.len());
        let end = (place + chance.random_range(1..9)).min(input.len());
        match chance.random_range(0..7) {
            0 => drop(input.drain(place..end)),
            1 => input.insert(place, chance.random()),
            2 if place < end => input[place] = chance.random(),
            // Lengths and counts at their limits.
            3 if place < end => input[place] = [0, 1, 0x7f, 0x80, 0xff][chance.random_range(0..5)],
            4 => {
                let piece = input[place..end].to_vec();
                input.splice(place..place, piece);
            }
            // A piece of another one.
            5 => {
                let other = &sound[chance.random_range(0..sound.len())];
                let from = chance.random_range(0..=other.len());
                let to = (from + chance.random_range(1..40)).min(other.len());
                input.splice(place..end, other[from..to].iter().copied());
            }
            _ => input.truncate(place.max(1)),
        }
    }
    input
}

fn startups() -> Vec<Vec<u8>> {
    let version = |minor: u16| [&[0, 3][..], &minor.to_be_bytes()].concat();
    let packet = |head: Vec<u8>, rest: &[u8]| [&head[..], rest].concat();
    vec![
        packet(version(0), b"user\0app\0database\0app\0\0"),
        packet(
            version(2),
            b"user\0app\0_pq_.x\0y\0options\0-c search_path=a\\ b\0\0",
        ),
        packet(
            version(0),
            b"user\0a\0replication\0true\0application_name\0psql\0client_encoding\0UTF8\0\0",
        ),
        80_877_103_u32.to_be_bytes().to_vec(),
        80_877_104_u32.to_be_bytes().to_vec(),
        packet(
            80_877_102_u32.to_be_bytes().to_vec(),
            &[0, 0, 0, 7, 1, 2, 3, 4],
        ),
        packet(80_877_102_u32.to_be_bytes().to_vec(), &[9; 36]),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    vec![
        b"QSELECT 1\0".to_vec(),
        b"Pname\0SELECT $1\0\0\x01\0\0\0\x17".to_vec(),
        b"P\0SELECT $1, $2\0\0\x02\0\0\0\x17\0\0\0\0".to_vec(),
        b"Bportal\0name\0\0\x01\0\x01\0\x02\0\0\0\x04abcd\xff\xff\xff\xff\0\x01\0\0".to_vec(),
        b"B\0\0\0\0\0\x01\0\0\0\x01x\0\0".to_vec(),
        b"DSname\0".to_vec(),
        b"DPportal\0".to_vec(),
        b"CSname\0".to_vec(),
        b"Eportal\0\0\0\0\x05".to_vec(),
        b"NSERROR\0C42601\0Mwords\0\0".to_vec(),
    ]
}

/// Every statement of the corpus.
fn statements() -> Vec<Vec<u8>> {
    let folder = format!("{}/tests/golden/tables", env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for name in ["postgres.jsonl", "orm.jsonl"] {
        let text = std::fs::read_to_string(format!("{folder}/{name}")).expect("the corpus");
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let sql = line["sql"].as_str().expect("a statement");
            found.push(sql.as_bytes().to_vec());
        }
    }
    for text in [
        "/* trunkline: shard=s1 */ SELECT * FROM orders; SET a = $$x$$; COMMIT",
        "INSERT INTO t (a, b) VALUES (1, E'\\x41\\'', U&'\\0041', B'01', 1e5, $1::int8); SELECT 1",
        "COPY t (a, b) FROM STDIN WITH (FORMAT csv); DECLARE c CURSOR FOR SELECT 1",
        "PREPARE p (int) AS SELECT $1; EXECUTE p (1); EXPLAIN (ANALYZE) SELECT 1",
    ] {
        found.push(text.as_bytes().to_vec());
    }
    found
}

#[test]
fn no_first_packet_is_misread() {
    try_with(bodies::startup, &startups());
}

#[test]
fn no_message_is_misread() {
    try_with(bodies::frontend, &messages());
}

#[test]
fn no_text_ends_the_process() {
    try_with(bodies::statement, &statements());
}
