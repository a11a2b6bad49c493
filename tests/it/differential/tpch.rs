//! The 22 queries of TPC-H on a small, made-up stock of rows: every one is answered, and as the plain server answers it.

mod workload;

use std::fmt::Write as _;

use crate::raw::{Format, Raw};
use crate::sharded::{Sharded, succeeded};
use workload::{QUERIES, SCHEMA, Scale, TABLES, reference, rows};

/// Loads both; the rows one by one, so that each goes where it belongs.
fn load(sharded: &Sharded) -> (Raw, Raw) {
    let (mut plain, mut proxy) = (sharded.plain(), sharded.client());
    let reference = reference();
    for server in sharded.shards().iter_mut().chain([&mut plain]) {
        succeeded(&reference, &server.simple(&reference));
    }
    for row in rows(Scale(1)) {
        let sql = format!("INSERT INTO {row}");
        succeeded(&sql, &plain.simple(&sql));
        succeeded(&sql, &proxy.simple(&sql));
    }
    (plain, proxy)
}

#[test]
fn every_query_of_tpch_is_answered_as_by_one_server() {
    let sharded = Sharded::start("differential_tpch", SCHEMA, TABLES);
    let (mut plain, mut proxy) = load(&sharded);
    let mut empty = Vec::new();
    let mut wrong = String::new();
    for (number, sql) in QUERIES
        .iter()
        .enumerate()
        .map(|(place, sql)| (place + 1, sql))
    {
        let expected = plain.simple(sql);
        succeeded(sql, &expected);
        if expected.rows.is_empty() {
            empty.push(number);
        }
        let mut compare = |way: &str, expected: crate::raw::Answer, found: crate::raw::Answer| {
            if expected != found {
                let _ = writeln!(
                    wrong,
                    "Q{number}, {way}\n  expected {}\n  found    {}",
                    expected.shown(),
                    found.shown()
                );
            }
        };
        compare("simple", expected, proxy.simple(sql));
        for format in [Format::Text, Format::Binary] {
            let expected = plain.extended(sql, &[], format);
            compare(
                &format!("extended {format:?}"),
                expected,
                proxy.extended(sql, &[], format),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(
        empty.is_empty(),
        "nothing to compare: queries {empty:?} have no rows"
    );
}
