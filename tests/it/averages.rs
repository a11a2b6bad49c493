//! Averages over several shards are divided here: the same digits as on one Postgres with all rows, for any numbers.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::raw::{Answer, Format};
use crate::sharded::{Sharded, succeeded};

const SCHEMA: &str =
    "CREATE TABLE numbers (k int PRIMARY KEY, g int, a smallint, b int, c bigint, d numeric);
    CREATE TABLE others (k int PRIMARY KEY, f float8, r real, i interval, n numeric)";

const TABLES: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"integer\"]\nshards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
    [[tables]]\nname = \"numbers\"\ndistribution = \"d\"\nkey = [\"k\"]\n\
    [[tables]]\nname = \"others\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

const ROWS: i32 = 9000;
const GROUPS: i32 = 2500;

/// Of every kind that `numeric` has: few and many digits before and behind the point, zeros that show, what is no number.
fn numeric(random: &mut SmallRng) -> String {
    let digits = |random: &mut SmallRng, most: usize| {
        let count = random.random_range(1..=most);
        let digits = (0..count).map(|_| char::from(b'0' + random.random_range(0..10)));
        digits.collect::<String>()
    };
    let sign = ["", "-"][random.random_range(0..2)];
    match random.random_range(0..20) {
        0 => "NULL".to_owned(),
        1 => "0".to_owned(),
        2 => format!("{sign}0.{}", "0".repeat(random.random_range(1..30))),
        3 => format!("{sign}{}", digits(random, 300)),
        4 => format!(
            "{sign}0.{}{}",
            "0".repeat(random.random_range(0..400)),
            digits(random, 20)
        ),
        5 => format!("{sign}{}.{}", digits(random, 30), digits(random, 1500)),
        6 => format!(
            "{sign}{}e{}",
            digits(random, 5),
            random.random_range(0..400)
        ),
        7 => format!("{sign}9999.{}", "9".repeat(random.random_range(1..40))),
        8 if random.random_range(0..10) == 0 => {
            ["'NaN'", "'Infinity'", "'-Infinity'"][random.random_range(0..3)].to_owned()
        }
        9..13 => format!("{sign}{}", digits(random, 6)),
        _ => format!("{sign}{}.{}", digits(random, 8), digits(random, 8)),
    }
}

fn or_null<T: ToString>(random: &mut SmallRng, value: T) -> String {
    match random.random_range(0..8) {
        0 => "NULL".to_owned(),
        _ => value.to_string(),
    }
}

#[test]
fn averages_have_the_digits_of_one_server() {
    let sharded = Sharded::start("averages", SCHEMA, TABLES);
    let (mut proxy, mut plain) = (sharded.client(), sharded.plain());
    let mut random = SmallRng::seed_from_u64(20_261_123);
    let mut made = 0..ROWS;
    while !made.is_empty() {
        let rows: Vec<String> = made
            .by_ref()
            .take(500)
            .map(|k| {
                let a = random.random_range(i16::MIN..=i16::MAX);
                let b = random.random_range(i32::MIN..=i32::MAX) >> random.random_range(0..31);
                let c = random.random_range(i64::MIN..=i64::MAX) >> random.random_range(0..63);
                format!(
                    "({k}, {}, {}, {}, {}, {})",
                    random.random_range(0..GROUPS),
                    or_null(&mut random, a),
                    or_null(&mut random, b),
                    or_null(&mut random, c),
                    numeric(&mut random)
                )
            })
            .collect();
        let insert = format!("INSERT INTO numbers VALUES {}", rows.join(", "));
        succeeded("rows", &plain.simple(&insert));
        succeeded("rows", &proxy.simple(&insert));
    }
    let same = |sql: &str, ours: Answer, theirs: Answer| {
        assert_eq!(ours.columns, theirs.columns, "{sql}");
        let (ours_error, theirs_error) = (ours.error.is_some(), theirs.error.is_some());
        assert_eq!(ours_error, theirs_error, "{sql}");
        assert_eq!(ours.rows.len(), theirs.rows.len(), "{sql}");
        for (ours, theirs) in ours.rows.iter().zip(&theirs.rows) {
            assert_eq!(ours, theirs, "{sql}");
        }
        assert_eq!(ours.tags, theirs.tags, "{sql}");
    };
    let in_order = [
        "SELECT g, avg(a), avg(b), avg(c), avg(d), count(d) FROM numbers GROUP BY g ORDER BY g",
        "SELECT avg(a), avg(b), pg_catalog.avg(c), avg(ALL d) FILTER (WHERE d <> 'NaN') FROM numbers",
        "SELECT avg(a), avg(d), count(*) FROM numbers WHERE k < 0",
        "SELECT (avg(b)) AS mean, g % 7 FROM numbers GROUP BY g % 7 ORDER BY mean DESC",
        "SELECT g FROM numbers GROUP BY g HAVING avg(d) > 1000 ORDER BY avg(d) DESC, avg(c), g LIMIT 40 OFFSET 3",
        "SELECT g % 11, avg(c / 2 + b) FILTER (WHERE a > 0), max(d), avg(d * 0.0001) FROM numbers WHERE d < 1000000 GROUP BY g % 11 ORDER BY 1",
    ];
    for sql in in_order {
        same(sql, proxy.simple(sql), plain.simple(sql));
        let binary =
            [&mut proxy, &mut plain].map(|client| client.extended(sql, &[], Format::Binary));
        let [ours, theirs] = binary;
        same(sql, ours, theirs);
        let plan = proxy.simple(&format!("EXPLAIN {sql}")).lines().join("\n");
        assert!(plan.contains("groups added up"), "{sql}: {plan}");
    }
    // Sums of these floats are exact in any order, which is nobody's promise.
    let others = "INSERT INTO others VALUES (1, 0.5, 0.5, '1 day', 1), (2, 0.25, 0.25, '1 hour', 3), (3, 4, 4, '1 month', 4)";
    succeeded("rows", &proxy.simple(others));
    succeeded("rows", &plain.simple(others));
    // These depend on the order of the rows, or are no numbers: they are gathered.
    for sql in [
        "SELECT avg(f), avg(r) FROM others",
        "SELECT avg(i), avg(n) FROM others",
        "SELECT avg(DISTINCT n) FROM others",
        "SELECT avg(n) + 1 FROM others",
    ] {
        same(sql, proxy.simple(sql), plain.simple(sql));
        let plan = proxy.simple(&format!("EXPLAIN {sql}")).lines().join("\n");
        assert!(!plan.contains("added up"), "{sql}: {plan}");
        assert!(plan.contains("Gathered on"), "{sql}: {plan}");
    }
}
