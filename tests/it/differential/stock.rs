//! Rows of every type for queries over several shards: duplicates and NULLs in every column but the keys, texts that languages sort otherwise
//! than bytes do. Floats are such that their sums do not depend on an order, and equal values look alike (no 1.0 beside 1.00), since SQL
//! leaves open which of them DISTINCT gives.

/// Texts whose order under "C" and under a language's collation differs.
pub const NAMES: [&str; 14] = [
    "Äpfel", "apfel", "Zebra", "zebra", "a-b", "ab", "A B", "éclair", "eclair", "", "ß", "ss",
    "日本", "ab ",
];

pub const ITEMS: i64 = 60;

/// Every INSERT into a table that is not a reference table.
pub fn inserts() -> Vec<String> {
    let mut made: Vec<String> = (1..=ITEMS).map(item).collect();
    for id in (1..=ITEMS + 4).filter(|id| id % 5 != 0) {
        for part in 1..=id % 4 {
            let qty = or_null((id + part) % 7 == 0, (id * part) % 9);
            let cost = or_null(
                (id + part) % 11 == 0,
                format!("{}.{:02}", id % 6, part * 25),
            );
            made.push(format!(
                "INSERT INTO parts VALUES ({id}, {part}, {qty}, {cost}, 'label {}')",
                (id + part) % 5
            ));
        }
    }
    for number in 0..24_i64 {
        let item = or_null(number % 8 == 0, number * 3 % 70);
        let kind = or_null(
            number % 6 == 0,
            quoted(NAMES[number as usize % NAMES.len()]),
        );
        made.push(format!(
            "INSERT INTO tags VALUES ('tag {number:02}', {item}, {}, {kind})",
            number % 5 - 2
        ));
    }
    for id in 1..=30_i64 {
        made.push(format!(
            "INSERT INTO nodes VALUES ({id}, {}, 'node {id}')",
            or_null(id == 1, id / 2)
        ));
    }
    for key in -3..=8_i64 {
        made.push(format!(
            r#"INSERT INTO "Odd Table" VALUES ({key}, {}, {})"#,
            or_null(key == 2, quoted(NAMES[key.unsigned_abs() as usize])),
            key % 3
        ));
        made.push(format!(
            "INSERT INTO side.things VALUES ({key}, 'thing {}')",
            key % 4
        ));
    }
    for id in 1..=5 {
        made.push(format!("INSERT INTO lone VALUES ({id}, 'note {id}')"));
    }
    made
}

/// The rows of the reference table; they go to each shard.
pub const REFERENCE: &str =
    "INSERT INTO colours VALUES ('red', 1), ('green', 2), ('blue', 3), ('Äpfel', NULL)";

fn item(id: i64) -> String {
    // Every column has its own NULLs and duplicates.
    let null = |every: i64| id % every == every / 2;
    let name = NAMES[(id * 5 % 14) as usize];
    let ratio = match id {
        7 => "'NaN'".into(),
        11 => "'Infinity'".into(),
        13 => "'-Infinity'".into(),
        _ => format!("{}", (id % 9 - 4) as f64 * 0.25),
    };
    let amount = match id {
        5 => "'NaN'".into(),
        6 => "123456789012345678901234567890.5".into(),
        _ => format!("{}", (id % 10 - 5) * 1_000_000_000_000),
    };
    let columns = [
        id.to_string(),
        or_null(null(9), id % 7),
        or_null(null(13), id % 5 - 2),
        or_null(null(11), format!("{}.{:03}", id % 8 - 3, id % 4 * 250)),
        or_null(null(17), amount),
        or_null(null(19), ratio),
        or_null(null(7), format!("{}", (id % 6) as f64 * 0.5)),
        or_null(null(5), id % 3 == 0),
        or_null(
            null(8),
            format!("'{}-01-{:02}'", 1995 + id % 10, id % 28 + 1),
        ),
        or_null(
            null(10),
            format!("'2024-02-{:02} 12:{:02}:00.5'", id % 6 + 1, id % 60),
        ),
        or_null(
            null(12),
            format!("'2024-03-{:02} 00:00:00+{:02}'", id % 6 + 1, id % 3),
        ),
        or_null(null(14), format!("'{:02}:30'", id % 24)),
        or_null(null(16), format!("'{} days {} hours'", id % 9, id % 5)),
        or_null(
            null(18),
            format!("'{:x}0000000-0000-0000-0000-000000000000'", id % 16),
        ),
        or_null(null(6), quoted(name)),
        or_null(null(20), quoted(name)),
        or_null(null(22), quoted(name)),
        or_null(null(24), quoted(name)),
        or_null(null(9), format!("'\\x{:02x}{:02x}'", id % 4, id * 37 % 256)),
        or_null(
            null(15),
            quoted(["ab", "abcdef", "", "Ab", "é"][(id % 5) as usize]),
        ),
        or_null(null(21), quoted(&format!("s{}", id % 10))),
        or_null(
            null(23),
            format!("'{{\"n\": {}, \"t\": \"x{}\"}}'", id % 4, id % 3),
        ),
        or_null(null(25), format!("'{{{},{}}}'", id % 3, id % 5)),
        or_null(null(8), quoted(["sad", "ok", "happy"][(id % 3) as usize])),
    ];
    format!("INSERT INTO items VALUES ({})", columns.join(", "))
}

fn or_null(is_null: bool, value: impl ToString) -> String {
    if is_null {
        "NULL".into()
    } else {
        value.to_string()
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
