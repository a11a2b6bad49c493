//! The small languages inside strings: times, sizes, names of tables, ranges of buckets. Pure text in, values out.

use std::fmt;
use std::time::Duration;

/// `500ms`, `15s`, `10m` (or `10min`), `1h`, `1d`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// `512B`, `64kB`, `1MB`, `1GB`, in powers of 1024 and spelled as in postgresql.conf.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let bytes = match unit {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Shows a time in its largest whole unit.
pub(super) struct Interval(pub Duration);

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        let units = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
            (1, "ms"),
        ];
        match units
            .into_iter()
            .find(|(unit, _)| milliseconds > 0 && milliseconds.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "\"{}{name}\"", milliseconds / unit),
            None => f.write_str("\"0s\""),
        }
    }
}

/// Shows a number of bytes in its largest whole unit.
pub(super) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"), (1, "B")];
        match units
            .into_iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "\"{}{name}\"", self.0 / unit),
            None => f.write_str("\"0B\""),
        }
    }
}

/// The parts of a dotted SQL name: unquoted parts in lower case, quoted ones as they are. `None`: it is no name.
pub fn sql_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let part;
        (part, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_part(quoted)?,
            None => plain_part(rest)?,
        };
        parts.push(part);
        if rest.is_empty() {
            return Some(parts);
        }
        rest = rest.strip_prefix('.')?;
    }
}

/// What follows an opening quote, up to its closing one; `""` is a quote.
fn quoted_part(mut rest: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                part.push('"');
                rest = more;
            }
            None if part.is_empty() => return None,
            None => return Some((part, after)),
        }
    }
}

fn plain_part(rest: &str) -> Option<(String, &str)> {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let inside = |c: char| start(c) || c.is_ascii_digit() || c == '$';
    let end = rest.find(|c| !inside(c)).unwrap_or(rest.len());
    let (part, rest) = rest.split_at(end);
    // Postgres folds ASCII letters only, in a multibyte encoding.
    part.starts_with(start)
        .then(|| (part.to_ascii_lowercase(), rest))
}

/// `0-1023,2048-4095` or `7`: ranges with both ends inside.
pub(super) fn bucket_ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    text.split(',')
        .map(|range| {
            let range = range.trim();
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some((first, last))
        })
        .collect()
}

/// The word that was probably meant.
pub(super) fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0..=2 => return None,
        3..=5 => 1,
        _ => 2,
    };
    words
        .iter()
        .map(|known| (distance(word, known), *known))
        .filter(|(distance, _)| (1..=allowed).contains(distance))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![(0..=right.len()).collect::<Vec<_>>()];
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

/// Names for a message: all of a few, or the first ones of many.
pub(super) fn listed(names: &[&str]) -> String {
    const MOST: usize = 8;
    let shown: Vec<_> = names
        .iter()
        .take(MOST)
        .map(|name| format!("{name:?}"))
        .collect();
    let more = names.len().saturating_sub(MOST);
    let tail = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{tail}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("10m"), duration("10min"));
        assert_eq!(duration("1d"), Some(Duration::from_secs(86_400)));
        for wrong in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 weeks",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(Interval(Duration::from_secs(90)).to_string(), "\"90s\"");
        assert_eq!(Interval(Duration::from_secs(86_400)).to_string(), "\"1d\"");
    }

    #[test]
    fn sizes() {
        assert_eq!(size("64kB"), Some(65_536));
        assert_eq!(size("1GB"), Some(1 << 30));
        for wrong in ["1", "1K", "1mb", "kB", "17179869184GB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_fold_as_in_sql() {
        let parts = |text| sql_name(text).map(|parts| parts.join("|"));
        assert_eq!(parts("Sales.Orders").as_deref(), Some("sales|orders"));
        assert_eq!(
            parts("\"Sales.eu\".\"a\"\"b\"").as_deref(),
            Some("Sales.eu|a\"b")
        );
        assert_eq!(parts("Größe").as_deref(), Some("größe"));
        for wrong in ["", "a.", ".a", "a b", "1a", "\"\"", "\"a", "a-b", "a\"b\""] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn runs_of_buckets() {
        assert_eq!(
            bucket_ranges("0-1023, 2048 - 4095"),
            Some(vec![(0, 1023), (2048, 4095)])
        );
        assert_eq!(bucket_ranges("7"), Some(vec![(7, 7)]));
        for wrong in ["", "3-1", "a", "1-2,", "-1"] {
            assert_eq!(bucket_ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn guesses() {
        assert_eq!(nearest("sise", &["mode", "size"]), Some("size"));
        assert_eq!(
            nearest("checkout_timeuot", &["checkout_timeout"]),
            Some("checkout_timeout")
        );
        assert_eq!(nearest("xy", &["x"]), None);
        assert_eq!(nearest("weather", &["mode", "size"]), None);
    }
}
