//! Moments and spans as PgBouncer and configuration files write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sharding::KeyValue;

/// From Unix's first second to that of Postgres, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// Like `2026-01-31 23:59:59 UTC`: the moment that was `ago` before `now`.
pub fn moment(now: SystemTime, ago: Duration) -> String {
    let since = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(ago)
        .as_secs();
    let seconds = i64::try_from(since)
        .unwrap_or(i64::MAX)
        .saturating_sub(POSTGRES_EPOCH);
    let shown = KeyValue::Timestamp(seconds.saturating_mul(1_000_000)).to_string();
    format!("{} UTC", shown.trim_matches('\''))
}

/// Like `2026-01-31 23:59:59.123 UTC`, from milliseconds since 1970. Such texts have the order of their moments.
pub fn instant(milliseconds: u64) -> String {
    let whole = moment(
        UNIX_EPOCH + Duration::from_secs(milliseconds / 1000),
        Duration::ZERO,
    );
    let seconds = whole.trim_end_matches(" UTC");
    format!("{seconds}.{:03} UTC", milliseconds % 1000)
}

/// Whole seconds and the microseconds beyond them.
pub fn seconds_and_rest(span: Duration) -> (u64, u64) {
    (span.as_secs(), span.subsec_micros().into())
}

/// Like `15s`, in the largest unit that loses nothing.
pub fn span(span: Duration) -> String {
    const UNITS: [(u128, &str); 4] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let milliseconds = span.as_millis();
    let fits =
        |(length, _): &&(u128, &str)| milliseconds > 0 && milliseconds.is_multiple_of(*length);
    match UNITS.iter().find(fits) {
        Some((length, unit)) => format!("{}{unit}", milliseconds / length),
        None => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_in_utc_without_fractions() {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
        assert_eq!(moment(now, Duration::ZERO), "2023-11-14 22:13:20 UTC");
        assert_eq!(
            moment(now, Duration::from_secs(20)),
            "2023-11-14 22:13:00 UTC"
        );
    }

    #[test]
    fn instants_have_milliseconds() {
        assert_eq!(instant(1_700_000_000_007), "2023-11-14 22:13:20.007 UTC");
        assert_eq!(instant(1_700_000_000_000), "2023-11-14 22:13:20.000 UTC");
        assert_eq!(instant(0), "1970-01-01 00:00:00.000 UTC");
    }

    #[test]
    fn spans_as_a_file_writes_them() {
        let shown: Vec<String> = [0, 1, 1_500, 15_000, 600_000, 86_400_000]
            .map(Duration::from_millis)
            .map(span)
            .into();
        assert_eq!(shown, ["0ms", "1ms", "1500ms", "15s", "10m", "1d"]);
    }
}
