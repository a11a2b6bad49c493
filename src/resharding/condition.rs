//! Which keys move, said to a server: a condition on the key columns in plain SQL, without an extension.
//!
//! Guard triggers refuse writes by it, moved rows are found by it for their removal. What is used, by strategy:
//!
//! | strategy | condition |
//! | --- | --- |
//! | hash, function `postgres` | the arithmetic of PARTITION BY HASH on the type's extended hash function (`hashint8extended(key, 8816678312871386365) ...`) |
//! | hash, function `xxh3`, or more columns than fit that arithmetic | functions in PL/pgSQL that are made beforehand ([`super::hashes`]) |
//! | modulo | the mathematical remainder |
//! | range | comparisons, of texts by their bytes (`COLLATE "C"`) |
//! | list | `= ANY`, of texts by their bytes |
//! | geo | as list on the first column, as hash on the second |
//! | pins | equality of all columns |
//!
//! A condition is to be run with `search_path` set to `pg_catalog`, so that its operators and types are Postgres's own. It is NULL for a row
//! with a NULL in the key, which no shard has.

pub use crate::catalog::quoted_name;
use crate::sharding::hash::{Function, HASH_PARTITION_SEED};
use crate::sharding::{KeyType, KeyValue, geo};

use super::keys::{Key, KeySet, Keys, Runs, Span, Values};

/// The condition for a set: a boolean expression. `columns`: an expression for each key column, in order, such as `"id"` or `NEW."id"`.
pub fn condition(keys: &Keys, types: &[KeyType], columns: &[String]) -> String {
    let inside = of_set(&keys.set, types, columns);
    match keys.except.is_empty() {
        true => inside,
        false => format!("{inside} AND NOT {}", one_of(&keys.except, types, columns)),
    }
}

/// Whether the condition calls functions that a server does not bring with it, and [`super::hashes::FUNCTIONS`] makes.
pub fn calls_our_functions(keys: &Keys, types: &[KeyType]) -> bool {
    match &keys.set {
        KeySet::Buckets { function, of, .. } => {
            *function == Function::Xxh3 || types.len() > most_columns(*of)
        }
        _ => false,
    }
}

fn of_set(set: &KeySet, types: &[KeyType], columns: &[String]) -> String {
    match set {
        KeySet::Buckets { function, of, runs } => in_buckets(*function, types, columns, *of, runs),
        KeySet::Remainders {
            divisor,
            remainders,
        } => {
            let runs = Runs::of(remainders.iter().copied());
            // SQL's remainder has the sign of the number.
            let column = &columns[0];
            let remainder = format!("((({column})::int8 % {divisor} + {divisor}) % {divisor})");
            in_runs(&remainder, &runs)
        }
        KeySet::Ranges(spans) => {
            let spans: Vec<_> = spans
                .iter()
                .map(|span| in_span(span, types[0], &columns[0]))
                .collect();
            format!("({})", spans.join(" OR "))
        }
        KeySet::Values { values, buckets } => {
            let named = among(values, types[0], &columns[0]);
            match buckets {
                None => named,
                Some(runs) => {
                    let (types, columns) = (&types[1..2], &columns[1..2]);
                    let of = geo::REGION_BUCKETS;
                    let second = in_buckets(Function::Postgres, types, columns, of, runs);
                    format!("({named} AND {second})")
                }
            }
        }
        KeySet::Pinned(keys) => one_of(keys, types, columns),
    }
}

fn in_runs(number: &str, runs: &Runs) -> String {
    // Runs are few where people wrote them; single buckets far apart are shorter as a list.
    let (single, long): (Vec<_>, Vec<_>) = runs.ranges().partition(|run| run.start() == run.end());
    let mut parts: Vec<String> = long
        .iter()
        .map(|run| format!("{number} BETWEEN {} AND {}", run.start(), run.end()))
        .collect();
    if !single.is_empty() {
        let list: Vec<_> = single.iter().map(|run| run.start().to_string()).collect();
        parts.push(format!("{number} IN ({})", list.join(", ")));
    }
    match parts.is_empty() {
        true => "FALSE".to_owned(),
        false => format!("({})", parts.join(" OR ")),
    }
}

fn in_span(span: &Span, key_type: KeyType, column: &str) -> String {
    let column = compared(key_type, column);
    let bound = |operator: &str, value: &KeyValue| {
        format!("{column} {operator} {}", literal(value, key_type))
    };
    match (&span.from, &span.to) {
        (None, None) => format!("{column} IS NOT NULL"),
        (Some(from), None) => bound(">=", from),
        (None, Some(to)) => bound("<", to),
        (Some(from), Some(to)) => format!("({} AND {})", bound(">=", from), bound("<", to)),
    }
}

fn among(values: &Values, key_type: KeyType, column: &str) -> String {
    let column = compared(key_type, column);
    let any = |values: &[KeyValue]| {
        let list: Vec<_> = values
            .iter()
            .map(|value| literal(value, key_type))
            .collect();
        format!("{column} = ANY (ARRAY[{}])", list.join(", "))
    };
    match values {
        Values::Only(values) if values.is_empty() => "FALSE".to_owned(),
        Values::Only(values) => any(values),
        Values::AllBut(values) if values.is_empty() => format!("{column} IS NOT NULL"),
        Values::AllBut(values) => format!("NOT {}", any(values)),
    }
}

fn one_of(keys: &[Key], types: &[KeyType], columns: &[String]) -> String {
    let one = |key: &Key| {
        let columns: Vec<_> = key
            .iter()
            .zip(types)
            .zip(columns)
            .map(|((value, &key_type), column)| {
                format!(
                    "{} = {}",
                    compared(key_type, column),
                    literal(value, key_type)
                )
            })
            .collect();
        format!("({})", columns.join(" AND "))
    };
    let keys: Vec<_> = keys.iter().map(one).collect();
    match keys.is_empty() {
        true => "FALSE".to_owned(),
        false => format!("({})", keys.join(" OR ")),
    }
}

/// A column that is compared as keys are: texts by their bytes, whatever the column's collation.
fn compared(key_type: KeyType, column: &str) -> String {
    match key_type {
        KeyType::Text | KeyType::VarChar => format!("({column})::text COLLATE \"C\""),
        KeyType::Char => format!("({column})::bpchar COLLATE \"C\""),
        _ => column.to_owned(),
    }
}

/// A value that means the same whatever the session's settings are.
fn literal(value: &KeyValue, key_type: KeyType) -> String {
    match value {
        KeyValue::Int(whole) => format!("'{whole}'::int8"),
        KeyValue::Numeric(whole) => format!("'{whole}'::numeric"),
        KeyValue::Text(text) => {
            let name = match key_type {
                KeyType::Char => "bpchar",
                _ => "text",
            };
            format!("{}::{name}", quoted(text))
        }
        KeyValue::Uuid(_) => format!("{value}::uuid"),
        KeyValue::Date(_) => format!("{value}::date"),
        KeyValue::Timestamp(_) if key_type == KeyType::TimestampTz => {
            format!("({value}::timestamp AT TIME ZONE 'UTC')")
        }
        KeyValue::Timestamp(_) => format!("{value}::timestamp"),
        KeyValue::Bytea(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("decode('{digits}', 'hex')")
        }
    }
}

/// A string constant that is read alike with `standard_conforming_strings` on and off.
fn quoted(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// Each further column needs seven bits more of the columns before it (`hash_combine64` shifts them down), and above bit 54 it would need
/// the ones it shifts up.
const WHOLE_BITS: u32 = 54;
const BITS_A_COLUMN: u32 = 7;
/// What `hash_combine64` adds.
const COMBINE: u64 = 0x49a0_f4dd_15e5_a8e3;

/// How many key columns a bigint has the bits for.
fn most_columns(of: u32) -> usize {
    1 + ((WHOLE_BITS - of.trailing_zeros()) / BITS_A_COLUMN) as usize
}

/// Whether a row's bucket, as [`crate::sharding::hash`] computes it, is one of these.
fn in_buckets(
    function: Function,
    types: &[KeyType],
    columns: &[String],
    of: u32,
    runs: &Runs,
) -> String {
    let hash = match (function, columns) {
        (Function::Postgres, _) if columns.len() <= most_columns(of) => {
            return in_runs(&in_low_bits(types, columns, of), runs);
        }
        (Function::Postgres, _) => folded(types, columns, hash_of),
        (Function::Xxh3, [column]) => xxh3_of(types[0], column),
        (Function::Xxh3, _) => folded(types, columns, xxh3_of),
    };
    // Of this a row is to pay for one only, however many runs there are.
    let runs: Vec<_> = { runs.ranges() }
        .map(|run| format!("[{},{}]", run.start(), run.end()))
        .collect();
    let mask = of - 1;
    format!(
        "('{{{}}}'::int8multirange @> ({hash} & {mask}))",
        runs.join(",")
    )
}

/// The hashes of all columns, folded by a function.
fn folded(types: &[KeyType], columns: &[String], hash: impl Fn(KeyType, &str) -> String) -> String {
    let each = types.iter().zip(columns);
    each.fold("0".to_owned(), |row, (key_type, column)| {
        format!("trunkline.hash_combine({row}, {})", hash(*key_type, column))
    })
}

/// `compute_partition_hash_value(columns) % of`. Only as many low bits as the bucket depends on are computed, so that nothing overflows a bigint.
fn in_low_bits(types: &[KeyType], columns: &[String], of: u32) -> String {
    let further =
        u32::try_from(columns.len() - 1).expect("as many columns as a bigint has the bits for");
    let mut bits = of.trailing_zeros() + further * BITS_A_COLUMN;
    let mut row: Option<String> = None;
    for (key_type, column) in types.iter().zip(columns) {
        let mask = (1_u64 << bits) - 1;
        let hash = format!(
            "({} & {mask}) + {}",
            hash_of(*key_type, column),
            COMBINE & mask
        );
        row = Some(match row {
            None => format!("(({hash}) & {mask})"),
            Some(row) => format!("(({row} # ({hash} + ({row} >> 7))) & {mask})"),
        });
        bits = bits.saturating_sub(BITS_A_COLUMN);
    }
    row.expect("a key has a column")
}

/// The extended hash of a column, by functions that every supported version has.
fn hash_of(key_type: KeyType, column: &str) -> String {
    let seed = HASH_PARTITION_SEED.cast_signed();
    match key_type {
        KeyType::SmallInt | KeyType::Integer | KeyType::BigInt => {
            format!("hashint8extended(({column})::int8, {seed})")
        }
        KeyType::Text | KeyType::VarChar => {
            format!("hashtextextended(({column})::text COLLATE \"C\", {seed})")
        }
        KeyType::Char => format!("hashbpcharextended(({column})::bpchar COLLATE \"C\", {seed})"),
        KeyType::Uuid => format!("uuid_hash_extended({column}, {seed})"),
        KeyType::Timestamp => format!("timestamp_hash_extended({column}, {seed})"),
        // The same microseconds, as a type whose hash function can be called by its name.
        KeyType::TimestampTz => {
            format!("timestamp_hash_extended(({column}) AT TIME ZONE 'UTC', {seed})")
        }
        KeyType::Numeric => format!("hash_numeric_extended({column}, {seed})"),
        // Their own functions have other names in newer versions, or none in SQL; the hash of a record of one column is the column's.
        KeyType::Date | KeyType::Bytea => format!("hash_record_extended(ROW({column}), {seed})"),
    }
}

/// XXH3 of a column: of its bytes as [`crate::sharding::hash::xxh3`] lists them.
fn xxh3_of(key_type: KeyType, column: &str) -> String {
    let number = |sent: String| format!("trunkline.xxh3_of_number({sent})");
    let bytes = |bytes: String| format!("trunkline.xxh3({bytes})");
    match key_type {
        KeyType::SmallInt | KeyType::Integer | KeyType::BigInt => {
            number(format!("int8send(({column})::int8)"))
        }
        KeyType::Date => number(format!("date_send({column})")),
        KeyType::Timestamp => number(format!("timestamp_send({column})")),
        KeyType::TimestampTz => number(format!("timestamptz_send({column})")),
        KeyType::Numeric => format!("trunkline.xxh3_of_numeric({column})"),
        KeyType::Text | KeyType::VarChar => bytes(format!("convert_to(({column})::text, 'UTF8')")),
        // A text has no blanks at its end that were only there to fill it.
        KeyType::Char => bytes(format!("convert_to(({column})::bpchar::text, 'UTF8')")),
        KeyType::Uuid => bytes(format!("uuid_send({column})")),
        KeyType::Bytea => bytes(column.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(set: KeySet, types: &[KeyType], columns: &[&str]) -> String {
        let columns: Vec<_> = columns.iter().map(|name| quoted_name(name)).collect();
        let except = vec![];
        condition(&Keys { set, except }, types, &columns)
    }

    #[test]
    fn what_is_written() {
        let buckets = |of, runs: &[u32]| KeySet::Buckets {
            function: Function::Postgres,
            of,
            runs: Runs::of(runs.iter().copied()),
        };
        let is = |found: String, expected: &str| assert_eq!(found, expected);
        is(
            sql(buckets(16, &[1, 2, 3, 7]), &[KeyType::BigInt], &["id"]),
            "((((hashint8extended((\"id\")::int8, 8816678312871386365) & 15) + 3) & 15) BETWEEN 1 AND 3 OR (((hashint8extended((\"id\")::int8, 8816678312871386365) & 15) + 3) & 15) IN (7))",
        );
        let text = |value: &str| KeyValue::Text(value.into());
        is(
            sql(
                KeySet::Ranges(vec![Span {
                    from: Some(text("it's")),
                    to: Some(text("\\")),
                }]),
                &[KeyType::VarChar],
                &["a\"b"],
            ),
            "(((\"a\"\"b\")::text COLLATE \"C\" >= 'it''s'::text AND (\"a\"\"b\")::text COLLATE \"C\" < E'\\\\'::text))",
        );
        let xxh3 = KeySet::Buckets {
            function: Function::Xxh3,
            of: 16,
            runs: Runs::of([1, 2]),
        };
        is(
            sql(xxh3, &[KeyType::Text, KeyType::Date], &["a", "b"]),
            "('{[1,2]}'::int8multirange @> (trunkline.hash_combine(trunkline.hash_combine(0, trunkline.xxh3(convert_to((\"a\")::text, 'UTF8'))), trunkline.xxh3_of_number(date_send(\"b\"))) & 15))",
        );
    }

    #[test]
    fn servers_bring_what_they_can() {
        let calls = |function, columns| {
            let set = KeySet::Buckets {
                function,
                of: 4096,
                runs: Runs::of([0]),
            };
            let types = vec![KeyType::BigInt; columns];
            let names: Vec<String> = (0..columns).map(|place| format!("c{place}")).collect();
            let keys = Keys {
                set,
                except: vec![],
            };
            let calls = calls_our_functions(&keys, &types);
            assert_eq!(
                condition(&keys, &types, &names).contains("trunkline."),
                calls
            );
            calls
        };
        assert!(!calls(Function::Postgres, 1));
        assert!(!calls(Function::Postgres, 7));
        assert!(calls(Function::Postgres, 8));
        assert!(calls(Function::Xxh3, 1));
    }
}
