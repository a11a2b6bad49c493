//! The hash strategy against a server: for every key type, thousands of values have the hash, the bucket and the binary form that
//! Postgres gives them, whatever the session's settings are.

use tokio_postgres::Client;
use trunkline::sharding::hash::{HASH_PARTITION_SEED, postgres, postgres_value};
use trunkline::sharding::{KeyType, KeyValue};

/// A usual number of buckets, and a number by which every bit of a hash counts.
const MODULI: [i32; 2] = [4096, i32::MAX];
const VALUES: usize = 3000;

/// Fails by panic on the first disagreement. Makes temporary tables only; changes settings of the connection's session.
pub async fn agrees(client: &Client) {
    // Neither setting may change how a key is read.
    client.batch_execute("SET datestyle = 'SQL, DMY'; SET timezone = 'Australia/Eucla'; SET bytea_output = 'escape'").await.unwrap();
    let mut random = Random(7);
    for key_type in KeyType::ALL {
        one_type(client, key_type, &mut random).await;
        misspelt(client, key_type, &mut random).await;
    }
    use KeyType::*;
    composite(client, &[BigInt, Text], &mut random).await;
    composite(client, &[Text, Uuid, Date], &mut random).await;
    composite(client, &[SmallInt, SmallInt], &mut random).await;
    composite(client, &KeyType::ALL, &mut random).await;
}

/// Names on the server: the type, its extended hash function, its send function.
fn names(key_type: KeyType) -> (&'static str, &'static str, &'static str) {
    match key_type {
        KeyType::SmallInt => ("int2", "hashint2extended", "int2send"),
        KeyType::Integer => ("int4", "hashint4extended", "int4send"),
        KeyType::BigInt => ("int8", "hashint8extended", "int8send"),
        KeyType::Text => ("text", "hashtextextended", "textsend"),
        KeyType::VarChar => ("varchar", "hashtextextended", "varcharsend"),
        KeyType::Char => ("bpchar", "hashbpcharextended", "bpcharsend"),
        KeyType::Uuid => ("uuid", "uuid_hash_extended", "uuid_send"),
        // The hash function of a date has another name in newer versions: the partitioned table below finds it by the operator class.
        KeyType::Date => ("date", "", "date_send"),
        KeyType::Timestamp => ("timestamp", "timestamp_hash_extended", "timestamp_send"),
        KeyType::TimestampTz => ("timestamptz", "", "timestamptz_send"),
        KeyType::Numeric => ("numeric", "hash_numeric_extended", "numeric_send"),
        // Not callable from SQL: judged by the partitioned table.
        KeyType::Bytea => ("bytea", "", "byteasend"),
    }
}

async fn one_type(client: &Client, key_type: KeyType, random: &mut Random) {
    let (name, function, send) = names(key_type);
    let hash = |seed: &str| match function {
        "" => "NULL::int8".to_owned(),
        function => format!("{function}(v::{name}, {seed})"),
    };
    let table = format!("hash_{name}");
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE {table} (k {name}) PARTITION BY HASH (k)"
        ))
        .await
        .unwrap();
    let texts = texts(key_type, random);
    let values: Vec<KeyValue> = texts
        .iter()
        .map(|text| {
            key_type
                .parse_text(text)
                .unwrap_or_else(|error| panic!("{text:?}: {error}"))
        })
        .collect();
    let [few, many] = MODULI.map(|modulus| -> Vec<i32> {
        values
            .iter()
            .map(|value| bucket(std::slice::from_ref(value), modulus))
            .collect()
    });
    let seed = HASH_PARTITION_SEED.cast_signed();
    let query = format!(
        "SELECT {}, {}, {}, {send}(v::{name})
         FROM unnest($1::text[], $2::int4[], $3::int4[]) WITH ORDINALITY AS given (v, few, many, place) ORDER BY place",
        hash("0"),
        hash(&seed.to_string()),
        found_in_buckets(&table, &format!("v::{name}")),
    );
    let rows = client.query(&query, &[&texts, &few, &many]).await.unwrap();
    assert_eq!(rows.len(), texts.len());
    for ((row, text), value) in rows.iter().zip(&texts).zip(&values) {
        let plain: Option<i64> = row.get(0);
        let seeded: Option<i64> = row.get(1);
        for (theirs, seed) in [(plain, 0), (seeded, HASH_PARTITION_SEED)] {
            if let Some(theirs) = theirs {
                assert_eq!(
                    theirs.cast_unsigned(),
                    postgres_value(value, seed),
                    "{name} {text:?} with seed {seed}"
                );
            }
        }
        assert!(
            row.get::<_, bool>(2),
            "{name} {text:?}: the server finds it in another bucket"
        );
        let sent: &[u8] = row.get(3);
        assert_eq!(
            key_type.parse_binary(sent).as_ref(),
            Ok(value),
            "{name} {text:?}: its binary form {sent:?}"
        );
    }
}

/// Texts with one character changed: what is still read as a key here is, to the server, the same value or an error.
async fn misspelt(client: &Client, key_type: KeyType, random: &mut Random) {
    let (name, _, send) = names(key_type);
    let function = format!(
        "CREATE FUNCTION pg_temp.read_{name}(v text) RETURNS bytea LANGUAGE plpgsql AS
         $$ BEGIN RETURN {send}(v::{name}); EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$"
    );
    client.batch_execute(&function).await.unwrap();
    let texts = texts(key_type, random)
        .into_iter()
        .map(|text| random.change(&text));
    let read: Vec<(String, KeyValue)> = texts
        .filter_map(|text| key_type.parse_text(&text).ok().map(|value| (text, value)))
        .collect();
    let texts: Vec<&str> = read.iter().map(|(text, _)| text.as_str()).collect();
    let query = format!(
        "SELECT pg_temp.read_{name}(v) FROM unnest($1::text[]) WITH ORDINALITY AS given (v, place) ORDER BY place"
    );
    let rows = client.query(&query, &[&texts]).await.unwrap();
    let mut agreed = 0;
    for (row, (text, value)) in rows.iter().zip(&read) {
        if let Some(sent) = row.get::<_, Option<&[u8]>>(0) {
            assert_eq!(
                key_type.parse_binary(sent).as_ref(),
                Ok(value),
                "{name} {text:?} as the server reads it"
            );
            agreed += 1;
        }
    }
    assert!(
        agreed > VALUES / 20,
        "only {agreed} changed texts of type {name} were read by both"
    );
}

async fn composite(client: &Client, key: &[KeyType], random: &mut Random) {
    let names: Vec<&str> = key.iter().map(|key_type| names(*key_type).0).collect();
    let join =
        |each: &dyn Fn(usize) -> String| (0..key.len()).map(each).collect::<Vec<_>>().join(", ");
    let table = format!("hash_{}", names.join("_"));
    let columns = join(&|place| format!("k{place} {}", names[place]));
    let keys = join(&|place| format!("k{place}"));
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE {table} ({columns}) PARTITION BY HASH ({keys})"
        ))
        .await
        .unwrap();
    let texts: Vec<Vec<String>> = key
        .iter()
        .map(|key_type| texts(*key_type, random))
        .collect();
    let rows = texts.iter().map(Vec::len).min().unwrap_or(0);
    let values = |row: usize| -> Vec<KeyValue> {
        let columns = key.iter().zip(&texts);
        columns
            .map(|(key_type, texts)| key_type.parse_text(&texts[row]).unwrap())
            .collect()
    };
    let [few, many] = MODULI.map(|modulus| -> Vec<i32> {
        (0..rows).map(|row| bucket(&values(row), modulus)).collect()
    });
    let texts: Vec<Vec<String>> = texts
        .into_iter()
        .map(|mut column| column.drain(..rows).collect())
        .collect();
    let query = format!(
        "SELECT place FROM unnest($1::int4[], $2::int4[], {}) WITH ORDINALITY AS given (few, many, {}, place) WHERE NOT ({})",
        join(&|place| format!("${}::text[]", place + 3)),
        join(&|place| format!("v{place}")),
        found_in_buckets(
            &table,
            &join(&|place| format!("v{place}::{}", names[place]))
        ),
    );
    let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&few, &many];
    parameters.extend(
        texts
            .iter()
            .map(|column| column as &(dyn tokio_postgres::types::ToSql + Sync)),
    );
    let wrong: Vec<i64> = client
        .query(&query, &parameters)
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(rows >= VALUES, "only {rows} keys were tried");
    assert_eq!(
        wrong,
        [0_i64; 0],
        "keys ({}) that the server does not find in the bucket found here",
        names.join(", ")
    );
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the remainder is less than the number of buckets"
)]
fn bucket(key: &[KeyValue], modulus: i32) -> i32 {
    (postgres(key) % modulus as u64) as i32
}

/// A condition: the server finds the key in the buckets `few` and `many`.
fn found_in_buckets(table: &str, key: &str) -> String {
    let found = |modulus: i32, bucket: &str| {
        format!("satisfies_hash_partition('{table}'::regclass, {modulus}, {bucket}, {key})")
    };
    format!(
        "{} AND {}",
        found(MODULI[0], "few"),
        found(MODULI[1], "many")
    )
}

/// Extremes and spellings by hand, then random values, as a client may write them.
pub fn texts(key_type: KeyType, random: &mut Random) -> Vec<String> {
    let fixed: &[&str] = match key_type {
        KeyType::SmallInt => &["0", "1", "-1", "32767", "-32768", " 7 ", "+7"],
        KeyType::Integer => &[
            "0",
            "1",
            "-1",
            "2147483647",
            "-2147483648",
            "\t-7\n",
            "0042",
        ],
        KeyType::BigInt => &[
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "4294967296",
            "-4294967297",
            " 7",
        ],
        KeyType::Text | KeyType::VarChar => &[
            "",
            "a",
            " a",
            "ü",
            "漢字",
            "it's",
            "\\",
            "a\u{301}",
            "\u{10ffff}",
        ],
        KeyType::Char => &["", " ", "a", "a   ", " a ", "ü ", "a\t ", "漢字"],
        KeyType::Uuid => &[
            "00000000-0000-0000-0000-000000000000",
            "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
        KeyType::Date => &[
            "infinity",
            "-infinity",
            "0001-01-01",
            "5874897-12-31",
            "2000-02-29",
            "1999-12-31",
            "2024-1-5",
            " 2024-01-05 ",
        ],
        KeyType::Timestamp => &[
            "infinity",
            "-Infinity",
            "0001-01-01 00:00:00",
            "294276-12-31 23:59:59.999999",
            "2024-01-05",
            "2024-01-05T10:11",
            "2024-01-05t1:02:03.5",
            "2024-01-05 10:11:12.1234567",
            "2024-01-05 10:11:12.9999995",
            "2024-01-05 10:11:12.0000005",
            "2024-01-05 10:11:12+02",
            "2024-01-05T10:11:12Z",
            "1999-12-31 23:59:59.999999",
        ],
        KeyType::TimestampTz => &[
            "infinity",
            "-infinity",
            "0001-01-01 00:00:00Z",
            "294276-12-31 23:59:59.999999+00",
            "2024-01-05 10:11:12 UTC",
            "2024-01-05 10:11:12 z",
            "2024-01-05T10:11:12.25+05:45",
            "2024-01-05 10:11:12-0330",
            "2024-01-05 10:11:12 +14",
            "2024-01-05 10:11:12-15:59:59",
            "2024-01-05 10:11+1",
        ],
        KeyType::Numeric => &[
            "0",
            "-0",
            "0.000",
            "1",
            "1.0",
            "1.00000",
            "-1",
            "10000",
            "1e4",
            "1E+4",
            "100000000",
            "9999",
            "10001",
            "+12.",
            "0010",
            "170141183460469231731687303715884105727",
            "-170141183460469231731687303715884105727",
            "1.5e1",
            "12300e-2",
            "1e38",
        ],
        KeyType::Bytea => &[
            "",
            "\\x",
            "\\xDEADbeef",
            "\\x de ad",
            "\\\\",
            "\\000\\377",
            "plain ü",
            "a\\052b",
        ],
    };
    let fixed = fixed.iter().map(|text| (*text).to_owned());
    fixed
        .chain((0..VALUES).map(|_| random.text(key_type)))
        .collect()
}

/// SplitMix64: the same values on every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Of any size: as many random bits as chance gives.
    fn bits(&mut self) -> u128 {
        let wide = (u128::from(self.next()) << 64) | u128::from(self.next());
        wide >> (1 + self.below(127))
    }

    fn text(&mut self, key_type: KeyType) -> String {
        let (a, b) = (self.below(1 << 32), self.below(1 << 32));
        match key_type {
            KeyType::SmallInt => (self.next() as i16).to_string(),
            KeyType::Integer => (self.next() as i32).to_string(),
            KeyType::BigInt => (self.next().cast_signed() >> self.below(64)).to_string(),
            KeyType::Numeric => {
                let sign = if a % 2 == 0 { "-" } else { "" };
                let zeros = ["", ".", ".0", ".0000", "e0"][usize::try_from(b % 5).unwrap()];
                format!("{sign}{}{zeros}", self.bits() & (u128::MAX >> 1))
            }
            KeyType::Text | KeyType::Char => self.letters(),
            KeyType::VarChar => self.letters().trim_end_matches(' ').to_owned(),
            KeyType::Uuid => format!("{:016x}-{:016X}", self.next(), self.next()),
            KeyType::Date => format!("{:04}-{:02}-{:02}", 1 + a % 9999, 1 + b % 12, 1 + a % 28),
            KeyType::Timestamp => self.moment(),
            KeyType::TimestampTz => {
                let moment = self.moment();
                format!(
                    "{moment}{}{:02}:{:02}",
                    if a % 2 == 0 { '+' } else { '-' },
                    b % 16,
                    a % 60
                )
            }
            KeyType::Bytea => (0..self.below(40)).fold("\\x".to_owned(), |text, _| {
                format!("{text}{:02x}", self.next() as u8)
            }),
        }
    }

    /// The text with one character left out, doubled, replaced or put in.
    fn change(&mut self, text: &str) -> String {
        const OTHERS: [char; 32] = [
            '0', '1', '2', '5', '9', '-', '+', '.', ':', ' ', ' ', '\t', 'e', 'E', 'T', 'Z', 'z',
            'u', 'a', 'f', 'x', '\\', '{', '}', '/', ',', '_', 'B', 'C', '\'', 'p', '\u{a0}',
        ];
        let mut changed: Vec<char> = text.chars().collect();
        let place = usize::try_from(self.below(changed.len() as u64 + 1)).unwrap();
        let other = OTHERS[usize::try_from(self.below(32)).unwrap()];
        match (self.below(4), changed.get(place).copied()) {
            (0, Some(_)) => drop(changed.remove(place)),
            (1, Some(same)) => changed.insert(place, same),
            (2, Some(_)) => changed[place] = other,
            _ => changed.insert(place, other),
        }
        changed.into_iter().collect()
    }

    fn moment(&mut self) -> String {
        let digits = usize::try_from(1 + self.below(9)).unwrap();
        let (year, month, day) = (2 + self.below(9990), 1 + self.below(12), 1 + self.below(28));
        let (hour, minute, second) = (self.below(24), self.below(60), self.below(60));
        let fraction = self.below(10_u64.pow(u32::try_from(digits).unwrap()));
        format!(
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction:0digits$}"
        )
    }

    fn letters(&mut self) -> String {
        const LETTERS: [char; 16] = [
            'a', 'b', 'Z', '0', ' ', ' ', '\'', '\\', '"', 'é', 'ß', '漢', '😀', '\t', '\u{1}', '%',
        ];
        (0..self.below(40))
            .map(|_| LETTERS[usize::try_from(self.below(16)).unwrap()])
            .collect()
    }
}
