//! Which keys move, said to a server: a condition on the key columns in plain SQL, without an extension.
//!
//! Guard triggers refuse writes by it, moved rows are found by it for their removal. What is used, by strategy:
//!
//! | strategy | condition |
//! | --- | --- |
//! | hash, function `postgres` | the arithmetic of PARTITION BY HASH on the type's extended hash function (`hashint8extended(key, 8816678312871386365) ...`) |
//! | hash, function `xxh3` | none: servers do not have it. See [`Condition::Here`] |
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

/// How a server can know that a row is in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A boolean expression.
    Sql(String),
    /// Only Trunkline can compute it. Instead of a condition:
    ///
    /// * a guard refuses every write to the distribution's tables on that shard, whatever its key, but from sessions that have set
    ///   `trunkline.epoch` to the epoch of the map in force or a later one. Only Trunkline's sessions set it, and they route by that map.
    ///   A proxy that was left behind has an older epoch, and so cannot write.
    /// * rows to be removed are read in chunks, judged here, and deleted by their keys.
    Here(WhyHere),
}

/// Why a server cannot compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyHere {
    #[error("servers do not have the hash function xxh3")]
    Xxh3,
    #[error(
        "the hash of {columns} key columns needs more bits than a bigint holds: servers can do it for {most}"
    )]
    ManyColumns { columns: usize, most: usize },
}

/// The condition for a set. `columns`: an expression for each key column, in order, such as `"id"` or `NEW."id"`.
pub fn condition(keys: &Keys, types: &[KeyType], columns: &[String]) -> Condition {
    match of_set(&keys.set, types, columns) {
        Err(why) => Condition::Here(why),
        Ok(inside) if keys.except.is_empty() => Condition::Sql(inside),
        Ok(inside) => Condition::Sql(format!(
            "{inside} AND NOT {}",
            one_of(&keys.except, types, columns)
        )),
    }
}

fn of_set(set: &KeySet, types: &[KeyType], columns: &[String]) -> Result<String, WhyHere> {
    Ok(match set {
        KeySet::Buckets { function, of, runs } => match function {
            Function::Xxh3 => return Err(WhyHere::Xxh3),
            Function::Postgres => in_runs(&bucket(types, columns, *of)?, runs),
        },
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
                    let second = bucket(&types[1..2], &columns[1..2], geo::REGION_BUCKETS)?;
                    format!("({named} AND {})", in_runs(&second, runs))
                }
            }
        }
        KeySet::Pinned(keys) => one_of(keys, types, columns),
    })
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

/// `compute_partition_hash_value(columns) % of` as an expression. Only as many low bits as the bucket depends on are computed, so that
/// nothing overflows a bigint.
fn bucket(types: &[KeyType], columns: &[String], of: u32) -> Result<String, WhyHere> {
    let last_bits = of.trailing_zeros();
    let most = 1 + (WHOLE_BITS - last_bits) / BITS_A_COLUMN;
    let further = u32::try_from(columns.len())
        .unwrap_or(u32::MAX)
        .saturating_sub(1);
    if further >= most {
        return Err(WhyHere::ManyColumns {
            columns: columns.len(),
            most: most as usize,
        });
    }
    let mut bits = last_bits + further * BITS_A_COLUMN;
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
    Ok(row.expect("a key has a column"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(set: KeySet, types: &[KeyType], columns: &[&str]) -> Condition {
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
        let is = |found: Condition, expected: &str| {
            assert_eq!(found, Condition::Sql(expected.to_owned()));
        };
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
        let many = vec![KeyType::BigInt; 8];
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(
            sql(buckets(4096, &[0]), &many, &names),
            Condition::Here(WhyHere::ManyColumns {
                columns: 8,
                most: 7
            })
        );
        assert!(matches!(
            sql(buckets(4096, &[0]), &many[..7], &names[..7]),
            Condition::Sql(_)
        ));
    }

    #[test]
    fn xxh3_is_computed_here() {
        let set = KeySet::Buckets {
            function: Function::Xxh3,
            of: 16,
            runs: Runs::of([1]),
        };
        assert_eq!(
            sql(set, &[KeyType::BigInt], &["id"]),
            Condition::Here(WhyHere::Xxh3)
        );
    }
}
