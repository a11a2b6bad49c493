//! The rows, as statements of one row each: they go to the plain server and through the proxy.

/// Customers of ordinary numbers.
pub const CUSTOMERS: std::ops::RangeInclusive<i64> = 1..=24;

pub const SLUGS: [&str; 12] = [
    "home",
    "it's",
    "it\"s",
    "back\\slash",
    "zażółć gęślą",
    "日本",
    "🙂",
    "",
    " ",
    "home ",
    "HOME",
    "5",
];

/// Every INSERT into tables that are not reference tables.
pub fn inserts() -> Vec<String> {
    let mut made = Vec::new();
    let extreme = [i64::MIN, -5, -1, 0, 4_294_967_296, i64::MAX];
    for id in CUSTOMERS.chain(extreme) {
        let country =
            ["'DE'", "'FR'", "'US'", "NULL", "'ZZ'"][usize::try_from(id.rem_euclid(5)).unwrap()];
        made.push(format!(
            "INSERT INTO customers VALUES ({id}, 'Ada {id}', {country}, {}, NULL)",
            id.rem_euclid(100)
        ));
        made.push(format!(
            "INSERT INTO notes (client, written, body) VALUES ({id}, '2024-01-01', 'note of {id}')"
        ));
        let orders = if id == 9 { 0 } else { id.rem_euclid(4) + 1 };
        for order in 1..=orders {
            let total = id.rem_euclid(7) * 10 + order;
            let status = ["new", "paid", "sent"][usize::try_from(order % 3).unwrap()];
            made.push(format!("INSERT INTO orders VALUES ({id}, {order}, {total}, '2024-02-{order:02}', '{status}')"));
            for line in 1..=order % 3 {
                made.push(format!("INSERT INTO order_lines VALUES ({line}, {order}, {id}, 'thing {line}', {order})"));
            }
        }
    }
    for (place, slug) in SLUGS.iter().enumerate() {
        let slug = slug.replace('\'', "''");
        made.push(format!(
            "INSERT INTO pages VALUES ('{slug}', 'page {place}', {place})"
        ));
        for position in 0..place % 3 {
            made.push(format!(
                "INSERT INTO links VALUES ('{slug}', 'home', {position})"
            ));
        }
    }
    made.push(
        r#"INSERT INTO sessions VALUES ('6f9619ff-8b86-d011-b42d-00c04fc964ff', 5, '{"a": "ü"}')"#
            .into(),
    );
    for id in 0..12 {
        made.push(format!(
            "INSERT INTO sessions VALUES ('{id:x}0000000-0000-0000-0000-00000000000{id:x}', {id}, '{{\"a\": {id}, \"b\": [{id}]}}')"
        ));
    }
    made.push(r#"INSERT INTO sessions VALUES ('00000000-0000-0000-0000-000000000001', 1, '{"a": null, "b": [1]}')"#.into());
    let days = [
        "2023-06-30",
        "2023-12-31",
        "2024-01-01",
        "2024-02-29",
        "2024-12-31",
        "2025-01-01",
        "2026-12-31",
    ];
    for day in days {
        for id in 1..=3 {
            made.push(format!(
                "INSERT INTO events VALUES ('{day}', {id}, 'kind {id}')"
            ));
        }
    }
    for tenant in ["acme", "globex", "initech", "umbrella", "hooli", ""] {
        for number in 1..=2 {
            made.push(format!(
                "INSERT INTO contracts VALUES ('{tenant}', {number}, 'contract {number}')"
            ));
        }
    }
    for country in ["DE", "FR", "US", "XX", "PL"] {
        for user in 1..=8 {
            made.push(format!(
                "INSERT INTO profiles VALUES ('{country}', {user}, 'user {user}')"
            ));
        }
    }
    for id in -8..=12 {
        made.push(format!(
            "INSERT INTO accounts VALUES ({id}, 'owner {id}', {id})"
        ));
    }
    for device in 1..=3 {
        for day in 1..=5 {
            made.push(format!(
                "INSERT INTO readings VALUES ({device}, '2024-01-{day:02} 00:00:00+00', {day}.5)"
            ));
        }
    }
    for number in [
        "7",
        "0",
        "-1",
        "100",
        "-12345678901234567890",
        "1000000000000000000000000000000",
    ] {
        made.push(format!(
            "INSERT INTO ledger VALUES ({number}, 'number {number}')"
        ));
    }
    for hash in ["", "00ff", "616263", "5c", "00"] {
        made.push(format!(
            "INSERT INTO blobs VALUES ('\\x{hash}', {})",
            hash.len() / 2
        ));
    }
    for code in ["ab", "abcd", "a", "", "é"] {
        made.push(format!(
            "INSERT INTO codes VALUES ('{code}', 'code {code}')"
        ));
    }
    for (name, value) in [("theme", "dark"), ("DE", "Berlin")] {
        made.push(format!("INSERT INTO settings VALUES ('{name}', '{value}')"));
    }
    for id in 1..=6 {
        made.push(format!(
            "INSERT INTO audit VALUES ({id}, {id}, 'what {id}')"
        ));
    }
    made
}

/// The rows of the reference table; they go to each shard.
pub const REFERENCE: &str = "INSERT INTO countries VALUES ('DE', 'Germany', 'Europe'), ('FR', 'France', 'Europe'), \
    ('US', 'United States', 'America'), ('JP', 'Japan', 'Asia')";
