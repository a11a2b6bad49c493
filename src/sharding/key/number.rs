//! Whole numbers: smallint, integer, bigint, and numeric without a fraction.

use super::show::quoted;
use super::{KeyError, KeyType, KeyValue, malformed, trim_blanks};

const EXPECTED: &str = "a whole number in decimal digits";

pub(super) fn parse_integer(key_type: KeyType, text: &str) -> Result<KeyValue, KeyError> {
    // Nearly every key is plain digits; the long way also reads blanks, `42.0` and `4.2e1`.
    match text.parse::<i64>() {
        Ok(whole) => integer_in_range(key_type, i128::from(whole)),
        Err(_) => integer_in_range(key_type, parse_whole(key_type, text)?),
    }
}

pub(super) fn integer_in_range(key_type: KeyType, whole: i128) -> Result<KeyValue, KeyError> {
    let (least, most) = match key_type {
        KeyType::SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
        KeyType::Integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    match i64::try_from(whole) {
        Ok(value) if (least..=most).contains(&value) => Ok(KeyValue::Int(value)),
        _ => Err(out_of_range(key_type, &whole.to_string())),
    }
}

pub(super) fn out_of_range(key_type: KeyType, value: &str) -> KeyError {
    let allowed = match key_type {
        KeyType::SmallInt => "-32768 to 32767",
        KeyType::Integer => "-2147483648 to 2147483647",
        KeyType::BigInt => "-9223372036854775808 to 9223372036854775807",
        _ => "whole numbers of up to 38 digits",
    };
    KeyError::OutOfRange {
        value: quoted(value),
        key_type,
        allowed,
    }
}

/// The grammar of `numeric_in` without NaN and the infinities: sign, digits with an optional point, exponent.
pub(super) fn parse_whole(key_type: KeyType, text: &str) -> Result<i128, KeyError> {
    let wrong = || malformed(key_type, text, EXPECTED);
    let trimmed = trim_blanks(text);
    let (negative, unsigned) = match trimmed.as_bytes().first() {
        Some(b'-') => (true, &trimmed[1..]),
        Some(b'+') => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent).ok_or_else(wrong)?),
        None => (unsigned, 0),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = before
        .bytes()
        .chain(after.bytes())
        .all(|byte| byte.is_ascii_digit());
    if !all_digits || (before.is_empty() && after.is_empty()) {
        return Err(wrong());
    }
    let digits: Vec<u8> = before
        .bytes()
        .chain(after.bytes())
        .map(|byte| byte - b'0')
        .collect();
    let point = i64::try_from(before.len())
        .map_err(|_| wrong())?
        .saturating_add(exponent);
    match place(&digits, point) {
        Placed::Whole(whole) => Ok(if negative { -whole } else { whole }),
        Placed::Fraction => Err(KeyError::Fraction {
            value: quoted(text),
            key_type,
        }),
        Placed::TooLarge => Err(out_of_range(key_type, text)),
    }
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Far beyond what numeric holds: any larger exponent means the same here.
    let size = digits
        .parse::<i64>()
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4);
    Some(if text.starts_with('-') { -size } else { size })
}

enum Placed {
    Whole(i128),
    Fraction,
    TooLarge,
}

/// The number whose decimal digits are `digits` with the point behind the first `point` of them.
fn place(digits: &[u8], point: i64) -> Placed {
    let Some(last) = digits.iter().rposition(|digit| *digit != 0) else {
        return Placed::Whole(0);
    };
    let significant = &digits[..=last];
    let zeros = match i64::try_from(significant.len()) {
        Ok(length) if length <= point => point - length,
        _ => return Placed::Fraction,
    };
    if zeros > 38 {
        return Placed::TooLarge;
    }
    let padding = std::iter::repeat_n(
        &0,
        usize::try_from(zeros).expect("checked to lie between 0 and 38"),
    );
    let mut whole: i128 = 0;
    for digit in significant.iter().chain(padding) {
        match whole
            .checked_mul(10)
            .and_then(|shifted| shifted.checked_add(i128::from(*digit)))
        {
            Some(next) => whole = next,
            None => return Placed::TooLarge,
        }
    }
    Placed::Whole(whole)
}
