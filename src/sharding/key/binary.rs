//! Values in Postgres's binary format: the `typreceive` functions of each type.

use super::{KeyError, KeyType, KeyValue, moment, number};

pub(super) fn parse(key_type: KeyType, raw: &[u8]) -> Result<KeyValue, KeyError> {
    match key_type {
        KeyType::SmallInt => {
            fixed(key_type, raw, "2").map(|bytes| KeyValue::Int(i16::from_be_bytes(bytes).into()))
        }
        KeyType::Integer => {
            fixed(key_type, raw, "4").map(|bytes| KeyValue::Int(i32::from_be_bytes(bytes).into()))
        }
        KeyType::BigInt => {
            fixed(key_type, raw, "8").map(|bytes| KeyValue::Int(i64::from_be_bytes(bytes)))
        }
        KeyType::Uuid => fixed(key_type, raw, "16").map(KeyValue::Uuid),
        KeyType::Date => {
            let days = i32::from_be_bytes(fixed(key_type, raw, "4")?);
            moment::check_date(days, &days.to_string()).map(KeyValue::Date)
        }
        KeyType::Timestamp | KeyType::TimestampTz => {
            let micros = i64::from_be_bytes(fixed(key_type, raw, "8")?);
            moment::check_timestamp(key_type, micros, &micros.to_string()).map(KeyValue::Timestamp)
        }
        KeyType::Numeric => numeric(raw).map(KeyValue::Numeric),
        KeyType::Text | KeyType::VarChar | KeyType::Char => {
            let text = std::str::from_utf8(raw).map_err(|_| KeyError::NotUtf8 { key_type })?;
            key_type.text(text)
        }
        KeyType::Bytea => Ok(KeyValue::Bytea(raw.into())),
    }
}

fn fixed<const N: usize>(
    key_type: KeyType,
    raw: &[u8],
    expected: &'static str,
) -> Result<[u8; N], KeyError> {
    raw.try_into().map_err(|_| KeyError::Binary {
        key_type,
        length: raw.len(),
        expected,
    })
}

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;

/// `numeric_recv`: number of digits, weight of the first, sign, digits shown after the point, then digits of base 10000.
fn numeric(raw: &[u8]) -> Result<i128, KeyError> {
    let key_type = KeyType::Numeric;
    let wrong = |expected| KeyError::Binary {
        key_type,
        length: raw.len(),
        expected,
    };
    let mut words = raw
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (Some(count), Some(weight), Some(sign), Some(_shown)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(wrong("a header of 8 bytes"));
    };
    if raw.len() != 8 + 2 * usize::from(count) {
        return Err(wrong("8 and 2 for each digit of base 10000"));
    }
    if sign != POSITIVE && sign != NEGATIVE {
        return Err(KeyError::Malformed {
            value: "NaN or infinity".into(),
            key_type,
            expected: "a whole number",
        });
    }
    let mut whole: i128 = 0;
    // The weight is signed: the first digit stands for 10000^weight.
    for (place, digit) in (0..).zip(words) {
        if digit > 9999 {
            return Err(wrong("digits from 0 to 9999"));
        }
        if digit == 0 {
            continue;
        }
        let power = i32::from(weight.cast_signed()) - place;
        let Ok(power) = u32::try_from(power) else {
            return Err(KeyError::Fraction {
                value: "the binary value".into(),
                key_type,
            });
        };
        whole = 10_000_i128
            .checked_pow(power)
            .and_then(|unit| unit.checked_mul(i128::from(digit)))
            .and_then(|part| whole.checked_add(part))
            .ok_or_else(|| number::out_of_range(key_type, "the binary value"))?;
    }
    Ok(if sign == NEGATIVE { -whole } else { whole })
}
