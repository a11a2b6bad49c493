//! Dates and timestamps: days and microseconds since 2000-01-01, read from and written to the ISO form.
//!
//! Only `YYYY-MM-DD`, with a time behind it for timestamps, and the two infinities: every other form depends on `DateStyle` or on the
//! clock. Sources: `DecodeDateTime` in `datetime.c`, limits in `include/datatype/timestamp.h`.

use super::show::quoted;
use super::{KeyError, KeyType, malformed, trim_blanks};

const EXPECTED_DATE: &str = "YYYY-MM-DD (from the year 1), infinity or -infinity";
const EXPECTED_TIMESTAMP: &str = "YYYY-MM-DD HH:MM:SS[.ffffff] (from the year 1), with an offset for a time zone, infinity or -infinity";
const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;

/// What a date column stores between its infinities: 4714-11-24 BC to 5874897-12-31.
const DATES: std::ops::RangeInclusive<i32> = -2_451_545..=2_145_031_948;
/// What a timestamp column stores between its infinities: 4714-11-24 BC to the end of 294276.
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

pub(super) fn parse_date(text: &str) -> Result<i32, KeyError> {
    let trimmed = trim_blanks(text);
    match infinity(trimmed) {
        Some(Infinity::Before) => return Ok(i32::MIN),
        Some(Infinity::After) => return Ok(i32::MAX),
        None => {}
    }
    let wrong = || malformed(KeyType::Date, text, EXPECTED_DATE);
    match read_date(trimmed) {
        Some((days, "")) => i32::try_from(days)
            .map_err(|_| date_out_of_range(KeyType::Date, text))
            .and_then(|days| check_date(days, text)),
        _ => Err(wrong()),
    }
}

/// Accepts what a server stores as a date (the infinities included).
pub(super) fn check_date(days: i32, shown: &str) -> Result<i32, KeyError> {
    if DATES.contains(&days) || days == i32::MIN || days == i32::MAX {
        Ok(days)
    } else {
        Err(date_out_of_range(KeyType::Date, shown))
    }
}

/// Accepts what a server stores as a timestamp (the infinities included).
pub(super) fn check_timestamp(
    key_type: KeyType,
    micros: i64,
    shown: &str,
) -> Result<i64, KeyError> {
    if TIMESTAMPS.contains(&micros) || micros == i64::MIN || micros == i64::MAX {
        Ok(micros)
    } else {
        Err(date_out_of_range(key_type, shown))
    }
}

fn date_out_of_range(key_type: KeyType, shown: &str) -> KeyError {
    let allowed = match key_type {
        KeyType::Date => "4714-11-24 BC to 5874897-12-31",
        _ => "4714-11-24 BC to 294276-12-31 23:59:59.999999",
    };
    KeyError::OutOfRange {
        value: quoted(shown),
        key_type,
        allowed,
    }
}

/// The timestamp that a date equals when the two are compared.
pub(super) fn midnight(days: i32) -> Result<i64, KeyError> {
    match days {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        days => i64::from(days)
            .checked_mul(MICROS_PER_DAY)
            .filter(|micros| TIMESTAMPS.contains(micros))
            .ok_or_else(|| date_out_of_range(KeyType::Timestamp, &show_date(days))),
    }
}

pub(super) fn parse_timestamp(key_type: KeyType, text: &str) -> Result<i64, KeyError> {
    let trimmed = trim_blanks(text);
    match infinity(trimmed) {
        Some(Infinity::Before) => return Ok(i64::MIN),
        Some(Infinity::After) => return Ok(i64::MAX),
        None => {}
    }
    let wrong = || malformed(key_type, text, EXPECTED_TIMESTAMP);
    let (days, rest) = read_date(trimmed).ok_or_else(wrong)?;
    let (time, rest) = match rest
        .strip_prefix(['T', 't'])
        .or_else(|| rest.strip_prefix(' '))
    {
        Some(time) if time.starts_with(|first: char| first.is_ascii_digit()) => {
            read_time(time).ok_or_else(wrong)?
        }
        // A zone without a time is not told apart from further parts of the date.
        _ if rest.is_empty() => (0, rest),
        _ => return Err(wrong()),
    };
    let offset = match rest.strip_prefix(' ').unwrap_or(rest) {
        "" => None,
        zone => Some(read_offset(zone).ok_or_else(wrong)?),
    };
    let offset = match (key_type, offset) {
        (KeyType::TimestampTz, Some(offset)) => offset,
        (KeyType::TimestampTz, None) => {
            return Err(KeyError::NoTimeZone {
                value: quoted(text),
            });
        }
        // A timestamp without time zone ignores the zone in its text.
        _ => 0,
    };
    days.checked_mul(MICROS_PER_DAY)
        .and_then(|micros| micros.checked_add(time))
        .and_then(|micros| micros.checked_sub(offset))
        .filter(|micros| TIMESTAMPS.contains(micros))
        .ok_or_else(|| date_out_of_range(key_type, text))
}

enum Infinity {
    Before,
    After,
}

fn infinity(text: &str) -> Option<Infinity> {
    if text.eq_ignore_ascii_case("infinity") {
        Some(Infinity::After)
    } else if text.eq_ignore_ascii_case("-infinity") {
        Some(Infinity::Before)
    } else {
        None
    }
}

/// A run of `least` to `most` ASCII digits at the front, and what follows.
fn read_digits(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    if length < least || length > most {
        return None;
    }
    Some((text[..length].parse().ok()?, &text[length..]))
}

/// Days since 2000-01-01. A year of at least four digits comes first whatever `DateStyle` says.
fn read_date(text: &str) -> Option<(i64, &str)> {
    let (year, rest) = read_digits(text, 4, 7)?;
    let (month, rest) = read_digits(rest.strip_prefix('-')?, 1, 2)?;
    let (day, rest) = read_digits(rest.strip_prefix('-')?, 1, 2)?;
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    Some((days_from_civil(year, month, day) - EPOCH_DAYS, rest))
}

/// Microseconds since midnight from `HH:MM[:SS[.fraction]]`.
fn read_time(text: &str) -> Option<(i64, &str)> {
    let (hour, rest) = read_digits(text, 1, 2)?;
    let (minute, mut rest) = read_digits(rest.strip_prefix(':')?, 2, 2)?;
    let mut second = 0;
    let mut micros = 0;
    if let Some(tail) = rest.strip_prefix(':') {
        (second, rest) = read_digits(tail, 2, 2)?;
        if rest.starts_with('.') {
            (micros, rest) = read_fraction(rest)?;
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((
        ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros,
        rest,
    ))
}

/// `.fraction` in microseconds. More than six digits are rounded just as `ParseFractionalSecond` does it, through a double.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a rounded number from 0 to 1000000"
)]
fn read_fraction(text: &str) -> Option<(i64, &str)> {
    let length = 1 + text[1..].bytes().take_while(u8::is_ascii_digit).count();
    if length == 1 {
        return None;
    }
    let fraction: f64 = text[..length].parse().ok()?;
    Some((
        (fraction * 1_000_000.0).round_ties_even() as i64,
        &text[length..],
    ))
}

/// Microseconds east of UTC from `Z`, `UTC`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`.
fn read_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits = &text[1..];
    let (hour, minute, second) = match digits.split(':').collect::<Vec<_>>()[..] {
        [both] if both.len() == 4 && both.is_ascii() => (&both[..2], &both[2..], "00"),
        [hour] => (hour, "00", "00"),
        [hour, minute] => (hour, minute, "00"),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let whole = |text, least| {
        read_digits(text, least, 2)
            .filter(|(_, rest)| rest.is_empty())
            .map(|(value, _)| value)
    };
    let (hour, minute, second) = (whole(hour, 1)?, whole(minute, 2)?, whole(second, 2)?);
    if hour > 15 || minute > 59 || second > 59 {
        return None;
    }
    Some(sign * ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar of all times (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// As Postgres writes a date in ISO style.
pub(super) fn show_date(days: i32) -> String {
    match days {
        i32::MIN => "-infinity".to_owned(),
        i32::MAX => "infinity".to_owned(),
        days => show_days(i64::from(days), ""),
    }
}

/// As Postgres writes a timestamp without time zone in ISO style.
pub(super) fn show_timestamp(micros: i64) -> String {
    match micros {
        i64::MIN => return "-infinity".to_owned(),
        i64::MAX => return "infinity".to_owned(),
        _ => {}
    }
    let (days, time) = (
        micros.div_euclid(MICROS_PER_DAY),
        micros.rem_euclid(MICROS_PER_DAY),
    );
    let (seconds, fraction) = (time / MICROS_PER_SECOND, time % MICROS_PER_SECOND);
    let mut shown = format!(
        " {:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    if fraction != 0 {
        shown.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    show_days(days, &shown)
}

fn show_days(days: i64, time: &str) -> String {
    let (year, month, day) = civil_from_days(days + EPOCH_DAYS);
    // There is no year 0: the year before 1 is 1 BC.
    let (year, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    format!("{year:04}-{month:02}-{day:02}{time}{era}")
}
