//! The types a shard key may have, and the values of those types.
//!
//! A value is read exactly as the column's type on a server reads it, or it is refused: what depends on a session's settings
//! (`DateStyle`, `TimeZone`) or on the server's version is never guessed. `key/` has one file for each family of types.

mod binary;
mod bytes;
mod moment;
mod number;
mod show;

use thiserror::Error;

/// A type that a shard key column may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    SmallInt,
    Integer,
    BigInt,
    Text,
    /// A value that ends in a blank is refused: `varchar(n)` silently cuts blanks beyond its length, so what is stored is not what was sent.
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
    /// Days since 2000-01-01, as Postgres stores a date; the extremes of `i32` are the infinities.
    Date(i32),
    /// Microseconds since 2000-01-01 00:00 (UTC for timestamptz), as Postgres stores a timestamp; the extremes of `i64` are the infinities.
    Timestamp(i64),
    /// A whole number in numeric.
    Numeric(i128),
    Bytea(Box<[u8]>),
}

/// Why a text or binary value is no key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("{value} is not a value of type {key_type}: expected {expected}", key_type = key_type.name())]
    Malformed {
        value: Box<str>,
        key_type: KeyType,
        expected: &'static str,
    },
    #[error("{value} is out of range for type {key_type}: allowed are {allowed}", key_type = key_type.name())]
    OutOfRange {
        value: Box<str>,
        key_type: KeyType,
        allowed: &'static str,
    },
    #[error("{value} has a fraction: a shard key of type {key_type} must be a whole number", key_type = key_type.name())]
    Fraction { value: Box<str>, key_type: KeyType },
    #[error(
        "{value} names no time zone: a shard key of type timestamp with time zone needs an offset such as +00 or Z, because the session's TimeZone decides otherwise"
    )]
    NoTimeZone { value: Box<str> },
    #[error(
        "{value} ends in a blank: a shard key of type character varying must not, because a declared length cuts blanks silently"
    )]
    TrailingBlank { value: Box<str> },
    #[error("a shard key of type {key_type} holds a zero byte, which no server stores", key_type = key_type.name())]
    ZeroByte { key_type: KeyType },
    #[error("a shard key of type {key_type} is not valid UTF-8", key_type = key_type.name())]
    NotUtf8 { key_type: KeyType },
    #[error("the binary form of a shard key of type {key_type} is wrong: {length} bytes received, expected {expected}", key_type = key_type.name())]
    Binary {
        key_type: KeyType,
        length: usize,
        expected: &'static str,
    },
    #[error("a value of type {from} cannot be compared exactly with a shard key of type {to}", from = from.name(), to = to.name())]
    NotComparable { from: KeyType, to: KeyType },
}

impl KeyType {
    /// All of them.
    pub const ALL: [KeyType; 12] = [
        KeyType::SmallInt,
        KeyType::Integer,
        KeyType::BigInt,
        KeyType::Text,
        KeyType::VarChar,
        KeyType::Char,
        KeyType::Uuid,
        KeyType::Date,
        KeyType::Timestamp,
        KeyType::TimestampTz,
        KeyType::Numeric,
        KeyType::Bytea,
    ];

    /// A type's name as configuration and SQL write it, in any case; `None` for a type that no shard key has.
    pub fn parse_name(name: &str) -> Option<KeyType> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "smallint" | "int2" => KeyType::SmallInt,
            "integer" | "int" | "int4" => KeyType::Integer,
            "bigint" | "int8" => KeyType::BigInt,
            "text" => KeyType::Text,
            "varchar" | "character varying" => KeyType::VarChar,
            "char" | "bpchar" | "character" => KeyType::Char,
            "uuid" => KeyType::Uuid,
            "date" => KeyType::Date,
            "timestamp" | "timestamp without time zone" => KeyType::Timestamp,
            "timestamptz" | "timestamp with time zone" => KeyType::TimestampTz,
            "numeric" | "decimal" => KeyType::Numeric,
            "bytea" => KeyType::Bytea,
            _ => return None,
        })
    }

    /// The name as `format_type` of Postgres writes it.
    pub fn name(self) -> &'static str {
        match self {
            KeyType::SmallInt => "smallint",
            KeyType::Integer => "integer",
            KeyType::BigInt => "bigint",
            KeyType::Text => "text",
            KeyType::VarChar => "character varying",
            KeyType::Char => "character",
            KeyType::Uuid => "uuid",
            KeyType::Date => "date",
            KeyType::Timestamp => "timestamp without time zone",
            KeyType::TimestampTz => "timestamp with time zone",
            KeyType::Numeric => "numeric",
            KeyType::Bytea => "bytea",
        }
    }

    /// From the type's OID in `pg_type`.
    pub fn from_oid(oid: u32) -> Option<KeyType> {
        KeyType::ALL
            .into_iter()
            .find(|key_type| key_type.oid() == oid)
    }

    /// The type's OID in `pg_type` (`include/catalog/pg_type.dat`).
    pub fn oid(self) -> u32 {
        match self {
            KeyType::SmallInt => 21,
            KeyType::Integer => 23,
            KeyType::BigInt => 20,
            KeyType::Text => 25,
            KeyType::VarChar => 1043,
            KeyType::Char => 1042,
            KeyType::Uuid => 2950,
            KeyType::Date => 1082,
            KeyType::Timestamp => 1114,
            KeyType::TimestampTz => 1184,
            KeyType::Numeric => 1700,
            KeyType::Bytea => 17,
        }
    }

    /// smallint, integer, bigint.
    pub fn is_integer(self) -> bool {
        matches!(self, KeyType::SmallInt | KeyType::Integer | KeyType::BigInt)
    }

    /// text, varchar, char.
    pub fn is_text(self) -> bool {
        matches!(self, KeyType::Text | KeyType::VarChar | KeyType::Char)
    }

    /// Whether a value has the shape that this type's values have.
    pub fn holds(self, value: &KeyValue) -> bool {
        match value {
            KeyValue::Int(_) => self.is_integer(),
            KeyValue::Text(_) => self.is_text(),
            KeyValue::Uuid(_) => self == KeyType::Uuid,
            KeyValue::Date(_) => self == KeyType::Date,
            KeyValue::Timestamp(_) => matches!(self, KeyType::Timestamp | KeyType::TimestampTz),
            KeyValue::Numeric(_) => self == KeyType::Numeric,
            KeyValue::Bytea(_) => self == KeyType::Bytea,
        }
    }

    /// Reads a literal or a text parameter. What is accepted means the same on every server whatever its settings; a form that only some
    /// servers read (`0x1F`, `1_000`) or whose meaning a setting decides (`1/2/2024`, `now`) is refused.
    ///
    /// A whole number may be written with an empty fraction (`42.0`) even for integers, as SQL's numeric literals are; where a server
    /// does not take that form it refuses the statement itself.
    pub fn parse_text(self, text: &str) -> Result<KeyValue, KeyError> {
        match self {
            KeyType::SmallInt | KeyType::Integer | KeyType::BigInt => {
                number::parse_integer(self, text)
            }
            KeyType::Numeric => number::parse_whole(self, text).map(KeyValue::Numeric),
            KeyType::Text | KeyType::VarChar | KeyType::Char => self.text(text),
            KeyType::Uuid => bytes::parse_uuid(text).map(KeyValue::Uuid),
            KeyType::Date => moment::parse_date(text).map(KeyValue::Date),
            KeyType::Timestamp | KeyType::TimestampTz => {
                moment::parse_timestamp(self, text).map(KeyValue::Timestamp)
            }
            KeyType::Bytea => bytes::parse_bytea(text).map(KeyValue::Bytea),
        }
    }

    /// Reads a parameter in Postgres's binary format (what `typsend` writes and `typreceive` reads).
    pub fn parse_binary(self, raw: &[u8]) -> Result<KeyValue, KeyError> {
        binary::parse(self, raw)
    }

    /// The key of this type that compares equal, on a server, to a value of another type; refused where no exact comparison exists.
    pub fn convert(self, value: KeyValue, from: KeyType) -> Result<KeyValue, KeyError> {
        if !from.holds(&value) {
            return Err(KeyError::NotComparable { from, to: self });
        }
        match value {
            KeyValue::Int(whole) if self.is_integer() => {
                number::integer_in_range(self, i128::from(whole))
            }
            KeyValue::Int(whole) if self == KeyType::Numeric => {
                Ok(KeyValue::Numeric(i128::from(whole)))
            }
            KeyValue::Numeric(whole) if self.is_integer() => number::integer_in_range(self, whole),
            KeyValue::Text(text) if self.is_text() && self != from => self.text(&text),
            KeyValue::Date(days) if self == KeyType::Timestamp => {
                moment::midnight(days).map(KeyValue::Timestamp)
            }
            value if self == from => Ok(value),
            _ => Err(KeyError::NotComparable { from, to: self }),
        }
    }

    /// A text as a column of this type stores it.
    fn text(self, text: &str) -> Result<KeyValue, KeyError> {
        if text.as_bytes().contains(&0) {
            return Err(KeyError::ZeroByte { key_type: self });
        }
        match self {
            KeyType::Char => Ok(KeyValue::Text(text.trim_end_matches(' ').into())),
            KeyType::VarChar if text.ends_with(' ') => Err(KeyError::TrailingBlank {
                value: show::quoted(text),
            }),
            _ => Ok(KeyValue::Text(text.into())),
        }
    }
}

/// Cuts off what Postgres calls white space at both ends of a number or a date.
fn trim_blanks(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

fn malformed(key_type: KeyType, text: &str, expected: &'static str) -> KeyError {
    KeyError::Malformed {
        value: show::quoted(text),
        key_type,
        expected,
    }
}

#[cfg(test)]
mod tests;
