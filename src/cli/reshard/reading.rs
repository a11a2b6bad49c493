//! What the admin database answers, as data again.

use tokio_postgres::SimpleQueryRow;

use crate::resharding::report::{PlanStatus, StreamProgress, TableProgress};
use crate::sharding::{KeyType, KeyValue};

/// A row by the names of its columns; what is not there is NULL.
pub trait Row {
    fn text(&self, column: &str) -> Option<&str>;

    fn owned(&self, column: &str) -> Box<str> {
        self.text(column).unwrap_or_default().into()
    }

    fn number(&self, column: &str) -> Option<u64> {
        self.text(column)?.parse().ok()
    }
}

impl Row for SimpleQueryRow {
    fn text(&self, column: &str) -> Option<&str> {
        self.try_get(column).ok().flatten()
    }
}

/// One plan, from the rows of `RESHARD STATUS name`. Kinds of rows that are not known are left out: they are of a newer proxy.
pub fn status(rows: &[impl Row]) -> PlanStatus {
    let mut status = PlanStatus::default();
    for row in rows {
        let count = |column: &str| row.number(column).unwrap_or(0);
        match row.text("item").unwrap_or_default() {
            "plan" => {
                status.plan = row.owned("plan");
                status.database = row.owned("database");
                status.phase = row.owned("state");
                status.differences = row.number("differences");
                status.progress.at = row.text("as_of").and_then(moment).unwrap_or(0);
            }
            "pace" => {
                let pace = row.owned("state");
                status.pace = match row.text("detail") {
                    Some(why) => format!("{pace}: {why}").into(),
                    None => pace,
                };
            }
            "driver" => status.driver = row.text("detail").map(Into::into),
            "note" if row.text("state") == Some("check") => status.notes.push(row.owned("detail")),
            "note" => status.note = row.text("detail").map(Into::into),
            "problem" => status.problems.push(row.owned("detail")),
            "table" => status.progress.tables.push(TableProgress {
                table: row.owned("table"),
                from: row.owned("from_shard"),
                to: row.owned("to_shard"),
                copied_rows: count("copied_rows"),
                copied_bytes: count("copied_bytes"),
                estimated_rows: row.number("estimated_rows"),
                copied: row.text("state") == Some("copied"),
                compared_rows: count("compared_rows"),
                removed_rows: count("removed_rows"),
            }),
            "stream" => status.progress.streams.push(StreamProgress {
                from: row.owned("from_shard"),
                to: row.owned("to_shard"),
                changes: count("changes"),
                behind: row.number("lag_bytes"),
                retained: row.number("retained_bytes"),
            }),
            _ => {}
        }
    }
    status
}

/// Something that has happened, as the admin database shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    pub at: Box<str>,
    pub plan: Box<str>,
    pub by: Box<str>,
    pub what: Box<str>,
}

impl Event {
    pub fn of(row: &impl Row) -> Event {
        Event {
            at: row.owned("at"),
            plan: row.owned("plan"),
            by: row.owned("by"),
            what: row.owned("what"),
        }
    }
}

/// Milliseconds since 1970, from a text like `2026-01-31 23:59:59.123 UTC`.
fn moment(text: &str) -> Option<u64> {
    /// From Unix's first second to that of Postgres, in milliseconds.
    const POSTGRES_EPOCH: i64 = 946_684_800_000;
    let text = text.strip_suffix(" UTC")?;
    match KeyType::Timestamp.parse_text(text).ok()? {
        KeyValue::Timestamp(micros) => {
            u64::try_from(micros.div_euclid(1000).checked_add(POSTGRES_EPOCH)?).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::reshard_rows;
    use crate::resharding::report::Progress;

    /// What psql gets: names of columns with their values.
    struct Said(Vec<(&'static str, Option<String>)>);

    impl Row for Said {
        fn text(&self, column: &str) -> Option<&str> {
            let (_, value) = self.0.iter().find(|(name, _)| *name == column)?;
            value.as_deref()
        }
    }

    fn told(status: &PlanStatus) -> PlanStatus {
        let rows: Vec<Said> = reshard_rows(status).into_iter().map(Said).collect();
        super::status(&rows)
    }

    #[test]
    fn nothing_is_lost_on_the_way() {
        let whole = PlanStatus {
            plan: "split".into(),
            database: "shop".into(),
            phase: "cutting over: fencing".into(),
            pace: "stopped: s5: out of reach".into(),
            note: Some("given up".into()),
            problems: vec!["one".into(), "two".into()],
            notes: vec!["three".into()],
            driver: Some("proxy-1".into()),
            differences: Some(3),
            progress: Progress {
                obstacle: None,
                at: 1_700_000_000_123,
                tables: vec![
                    TableProgress {
                        table: "public.\"Orders\"".into(),
                        from: "s1".into(),
                        to: "s5".into(),
                        copied_rows: 250,
                        copied_bytes: 4000,
                        estimated_rows: Some(1000),
                        copied: true,
                        compared_rows: 5,
                        removed_rows: 6,
                    },
                    TableProgress {
                        copied_rows: 1,
                        ..TableProgress::default()
                    },
                    TableProgress::default(),
                ],
                streams: vec![
                    StreamProgress {
                        from: "s1".into(),
                        to: "s5".into(),
                        changes: 17,
                        behind: Some(80),
                        retained: Some(90),
                    },
                    StreamProgress::default(),
                ],
            },
        };
        assert_eq!(told(&whole), whole);
        let little = PlanStatus {
            pace: "going".into(),
            ..PlanStatus::default()
        };
        assert_eq!(told(&little), little);
    }

    #[test]
    fn moments_are_read_back() {
        assert_eq!(
            moment("2023-11-14 22:13:20.007 UTC"),
            Some(1_700_000_000_007)
        );
        assert_eq!(moment("1970-01-01 00:00:00.000 UTC"), Some(0));
        assert_eq!(moment("1969-12-31 00:00:00.000 UTC"), None);
        assert_eq!(moment("soon"), None);
    }
}
