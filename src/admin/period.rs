//! The last period of SHOW STATS: what was counted when it began and when it ended, for averages like PgBouncer's (`stats_period`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::totals::{Totals, by_database};
use super::{Access, Request};

/// What was counted up to a moment, by database.
#[derive(Debug)]
struct Mark {
    at: Instant,
    counted: BTreeMap<Box<str>, Totals>,
}

/// The last period that has ended; before the first has, what was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct LastPeriod {
    began: Option<Arc<Mark>>,
    ended: Option<Arc<Mark>>,
}

/// What one database did in some time.
#[derive(Clone, Debug)]
pub struct Span {
    pub counted: Totals,
    pub time: Duration,
}

impl LastPeriod {
    /// The same for a database of which so much has been counted by now.
    pub(super) fn of(&self, database: &str, now: &Totals) -> Span {
        let nothing = Totals::default();
        let counted = |mark: &'_ Option<Arc<Mark>>, otherwise: &Totals| {
            let mark = mark.as_ref();
            mark.map_or_else(
                || otherwise.clone(),
                |mark| mark.counted.get(database).unwrap_or(&nothing).clone(),
            )
        };
        let ended = counted(&self.ended, now);
        let began = counted(&self.began, &nothing);
        let time = match (&self.began, &self.ended) {
            (Some(began), Some(ended)) => ended.at.saturating_duration_since(began.at),
            (Some(began), None) => began.at.elapsed(),
            (None, _) => Duration::ZERO,
        };
        Span {
            counted: ended.since(&began),
            time,
        }
    }
}

impl Span {
    /// So many a second.
    pub fn rate(&self, count: u64) -> u64 {
        let microseconds = self.time.as_micros();
        let rate = u128::from(count) * 1_000_000 / microseconds.max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// So much for each.
    pub fn mean(total: u64, count: u64) -> u64 {
        total.checked_div(count).unwrap_or(0)
    }
}

/// Has periods follow each other for as long as the process runs. A reload changes how long the next one is.
pub async fn keep(periods: watch::Sender<LastPeriod>, access: Access) {
    let mark = || async {
        let reports = access.ask(Request::Report).await.ok()?;
        Some(Arc::new(Mark {
            at: Instant::now(),
            counted: by_database(&access.shared.snapshot().config, &reports),
        }))
    };
    let Some(mut began) = mark().await else {
        return;
    };
    periods.send_replace(LastPeriod {
        began: Some(Arc::clone(&began)),
        ended: None,
    });
    loop {
        tokio::time::sleep(access.shared.snapshot().config.stats_period).await;
        let Some(ended) = mark().await else { return };
        periods.send_replace(LastPeriod {
            began: Some(began),
            ended: Some(Arc::clone(&ended)),
        });
        began = ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at: Instant, queries: u64) -> Arc<Mark> {
        let totals = Totals {
            queries,
            query_microseconds: queries * 100,
            ..Totals::default()
        };
        let counted = BTreeMap::from([(Box::from("app"), totals)]);
        Arc::new(Mark { at, counted })
    }

    #[test]
    fn the_last_period_alone_counts() {
        let start = Instant::now();
        let period = LastPeriod {
            began: Some(mark(start, 1000)),
            ended: Some(mark(start + Duration::from_secs(10), 1500)),
        };
        let now = Totals {
            queries: 9000,
            ..Totals::default()
        };
        let span = period.of("app", &now);
        assert_eq!(span.counted.queries, 500);
        assert_eq!(span.rate(span.counted.queries), 50);
        assert_eq!(
            Span::mean(span.counted.query_microseconds, span.counted.queries),
            100
        );
    }

    #[test]
    fn before_a_period_has_ended_all_counts_and_nothing_is_divided_by_nothing() {
        let now = Totals {
            queries: 7,
            ..Totals::default()
        };
        let span = LastPeriod::default().of("app", &now);
        assert_eq!(span.counted.queries, 7);
        assert_eq!(Span::mean(5, 0), 0);
        let unknown = LastPeriod {
            began: Some(mark(Instant::now(), 3)),
            ended: None,
        };
        assert_eq!(unknown.of("new", &now).counted.queries, 7);
    }
}
