//! The types a shard key may have, and the values of those types.

/// A type that a shard key column may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    SmallInt,
    Integer,
    BigInt,
    Text,
    VarChar,
    /// `char(n)`: trailing blanks do not count.
    Char,
    Uuid,
    Date,
    Timestamp,
    TimestampTz,
    /// Only values without a fraction are keys.
    Numeric,
    Bytea,
}

/// One value of a shard key. Never NULL: a NULL key is refused before a value is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    /// smallint, integer, bigint (checked against the type's range when made).
    Int(i64),
    /// text, varchar, char (char without its trailing blanks), in UTF-8.
    Text(Box<str>),
    Uuid([u8; 16]),
    /// Days since 2000-01-01, as Postgres stores a date.
    Date(i32),
    /// Microseconds since 2000-01-01 00:00 (UTC for timestamptz), as Postgres stores a timestamp.
    Timestamp(i64),
    /// A whole number in numeric.
    Numeric(i128),
    Bytea(Box<[u8]>),
}

/// Why a text or binary value is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {}
