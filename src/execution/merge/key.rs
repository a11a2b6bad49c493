//! Values as bytes that compare (unsigned, from the left) as Postgres compares the values, and are equal when the values are.
//!
//! A key of several columns is their encodings one after the other: each ends where it must, whatever follows. In front of each stands a
//! byte for NULL; a descending column has all its other bytes inverted. So a comparison of keys is one `memcmp`.
//!
//! Values arrive in Postgres's binary formats. The orders follow the comparison functions of the B-tree operator classes
//! (`src/backend/utils/adt`): floats with NaN last and -0 equal to 0, `numeric` by value whatever its scale, `interval` with months of 30 days
//! and days of 24 hours, `char(n)` without trailing blanks, text by bytes, which is what the "C" collation does.

use crate::plan::spread::scatter::{Direction, Nulls, Text};

use super::MergeError;
use super::Unsuitable;
use super::numeric::Numeric;
use crate::execution::columns::Column;

/// How the values of one type become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Bool,
    Int2,
    /// Also dates: the days with infinity at both ends are whole numbers too.
    Int4,
    /// Also time and timestamps.
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Interval,
    Uuid,
    /// `"char"`, one byte without a sign.
    Char,
    /// Any bytes, in their own order.
    Bytes,
    /// Bytes without NUL, in their own order.
    Text,
    /// The same without trailing blanks.
    Padded,
}

/// What keys are compared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Order,
    Equality,
}

impl Encoding {
    /// Of a column, when its order (or equality) is known exactly.
    pub fn of(column: &Column, text: Text, purpose: Purpose) -> Result<Encoding, Unsuitable> {
        let known = match (text, purpose) {
            (Text::C, _) | (Text::Deterministic, Purpose::Equality) => true,
            (Text::Deterministic | Text::Unknown, _) => false,
        };
        Ok(match column.type_oid {
            16 => Encoding::Bool,
            17 => Encoding::Bytes,
            18 => Encoding::Char,
            20 | 1083 | 1114 | 1184 => Encoding::Int8,
            21 => Encoding::Int2,
            23 | 1082 => Encoding::Int4,
            26 => Encoding::Oid,
            700 => Encoding::Float4,
            701 => Encoding::Float8,
            1186 => Encoding::Interval,
            1700 => Encoding::Numeric,
            2950 => Encoding::Uuid,
            19 | 25 | 1043 if known => Encoding::Text,
            1042 if known => Encoding::Padded,
            19 | 25 | 1042 | 1043 => {
                return Err(Unsuitable(
                    "text would have to be compared by the rules of a collation".into(),
                ));
            }
            oid => {
                let what = match purpose {
                    Purpose::Order => "ordered",
                    Purpose::Equality => "compared",
                };
                return Err(Unsuitable(format!(
                    "values of the type with OID {oid} are only {what} by a server"
                )));
            }
        })
    }

    /// Whether its values are compared exactly with those of other such types.
    pub fn is_exact_number(self) -> bool {
        matches!(
            self,
            Encoding::Int2 | Encoding::Int4 | Encoding::Int8 | Encoding::Numeric
        )
    }

    /// Appends a value so that exact numbers of all types compare with each other.
    pub fn append_alike(self, value: &[u8], out: &mut Vec<u8>) -> Result<(), MergeError> {
        let whole = match self {
            Encoding::Int2 => i64::from(i16::from_be_bytes(fixed(value)?)),
            Encoding::Int4 => i64::from(i32::from_be_bytes(fixed(value)?)),
            Encoding::Int8 => i64::from_be_bytes(fixed(value)?),
            _ => return self.append(value, out),
        };
        Numeric::of_integer(whole).append_key(out);
        Ok(())
    }

    /// Appends a value that is not NULL, in ascending order.
    #[inline]
    fn append(self, value: &[u8], out: &mut Vec<u8>) -> Result<(), MergeError> {
        match self {
            Encoding::Bool | Encoding::Char => out.extend(fixed::<1>(value)?),
            Encoding::Int2 => out.extend(flipped(fixed::<2>(value)?)),
            Encoding::Int4 => out.extend(flipped(fixed::<4>(value)?)),
            Encoding::Int8 => out.extend(flipped(fixed::<8>(value)?)),
            Encoding::Oid => out.extend(fixed::<4>(value)?),
            Encoding::Uuid => out.extend(fixed::<16>(value)?),
            Encoding::Float4 => {
                let value = f32::from_be_bytes(fixed(value)?);
                out.extend(float(f64::from(value)));
            }
            Encoding::Float8 => out.extend(float(f64::from_be_bytes(fixed(value)?))),
            Encoding::Interval => out.extend(interval(fixed(value)?)),
            Encoding::Numeric => Numeric::read(value)?.append_key(out),
            Encoding::Text => text(value, out)?,
            Encoding::Padded => {
                let end = value.iter().rposition(|byte| *byte != b' ');
                text(&value[..end.map_or(0, |end| end + 1)], out)?;
            }
            Encoding::Bytes => {
                for byte in value {
                    out.push(*byte);
                    if *byte == 0 {
                        out.push(0xff);
                    }
                }
                out.extend([0, 0]);
            }
        }
        Ok(())
    }
}

/// One column of a key.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub encoding: Encoding,
    pub direction: Direction,
    pub nulls: Nulls,
}

impl Part {
    /// For equality alone.
    pub fn equal(encoding: Encoding) -> Part {
        Part {
            encoding,
            direction: Direction::Ascending,
            nulls: Nulls::Last,
        }
    }

    #[inline]
    pub fn append(&self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), MergeError> {
        let Some(value) = value else {
            out.push(match self.nulls {
                Nulls::First => 0,
                Nulls::Last => 2,
            });
            return Ok(());
        };
        out.push(1);
        let start = out.len();
        self.encoding.append(value, out)?;
        if self.direction == Direction::Descending {
            for byte in &mut out[start..] {
                *byte = !*byte;
            }
        }
        Ok(())
    }
}

fn fixed<const LENGTH: usize>(value: &[u8]) -> Result<[u8; LENGTH], MergeError> {
    value
        .try_into()
        .map_err(|_| MergeError::Malformed("a value of another length than its type's"))
}

/// A whole number with its sign's bit turned.
fn flipped<const LENGTH: usize>(mut value: [u8; LENGTH]) -> [u8; LENGTH] {
    value[0] ^= 0x80;
    value
}

/// Postgres has one NaN, greater than all, and one zero.
fn float(value: f64) -> [u8; 8] {
    if value.is_nan() {
        return [0xff; 8];
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    let ordered = if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    };
    ordered.to_be_bytes()
}

/// `interval_cmp_value`: microseconds, with 30 days a month and 24 hours a day.
fn interval(value: [u8; 16]) -> [u8; 16] {
    const DAY: i128 = 86_400_000_000;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = value;
    let time = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let days = i32::from_be_bytes([i, j, k, l]);
    let months = i32::from_be_bytes([m, n, o, p]);
    let span = i128::from(time) + (i128::from(months) * 30 + i128::from(days)) * DAY;
    flipped(span.to_be_bytes())
}

/// Bytes without NUL, with one at the end: a shorter text comes before a longer one that begins with it.
fn text(value: &[u8], out: &mut Vec<u8>) -> Result<(), MergeError> {
    if value.contains(&0) {
        return Err(MergeError::Malformed("a NUL in a text"));
    }
    out.extend_from_slice(value);
    out.push(0);
    Ok(())
}
