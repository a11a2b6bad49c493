//! What is written: a record for each run, and a table of medians.

use std::fmt;

use serde::Serialize;

use crate::Mode;
use crate::error::{Error, Result};
use crate::load::{Load, Protocol, Run};
use crate::postgres::Binaries;
use crate::subjects::{Entrant, PgbouncerMode, Settings, Subject};

/// What runs may be compared: they were taken at the same time, or one right after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    pub mode: Mode,
    pub protocol: Protocol,
    /// From 1.
    pub number: u32,
}

/// One line of the summary.
#[derive(Debug, Serialize)]
pub struct Record {
    /// `point_select` is the mode `together`; the others have their mode in the name too.
    bench: &'static str,
    mode: Mode,
    protocol: Protocol,
    subject: Subject,
    clients: u32,
    round: u32,
    /// Microseconds of CPU time of the proxy process, per transaction of one statement; 0 where there is no proxy.
    cpu_us_per_statement: f64,
    tps: f64,
    p99_ms: f64,
    transactions: u64,
    seconds: u64,
    pool_size: u32,
    /// Only for PgBouncer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pgbouncer_mode: Option<PgbouncerMode>,
    /// Of the subject.
    version: String,
    postgres_version: String,
}

impl Record {
    pub fn new(
        round: Round,
        entrant: &Entrant,
        run: &Run,
        load: &Load,
        settings: &Settings,
        binaries: &Binaries,
    ) -> Record {
        Record {
            bench: match round.mode {
                Mode::Together => "point_select",
                Mode::Paced => "point_select_paced",
                Mode::InTurn => "point_select_in_turn",
            },
            mode: round.mode,
            protocol: round.protocol,
            subject: entrant.subject,
            clients: load.clients,
            round: round.number,
            cpu_us_per_statement: rounded(run.cpu.as_secs_f64() * 1e6 / run.transactions as f64),
            tps: rounded(run.transactions as f64 / run.window.as_secs_f64()),
            p99_ms: rounded(run.p99.as_secs_f64() * 1e3),
            transactions: run.transactions,
            seconds: load.window.as_secs(),
            pool_size: settings.pool_size,
            pgbouncer_mode: entrant.pgbouncer_mode,
            version: entrant.version.clone(),
            postgres_version: binaries.version.clone(),
        }
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::io("write a record", e.into()))
    }

    fn round(&self) -> Round {
        Round {
            mode: self.mode,
            protocol: self.protocol,
            number: self.round,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<8} {:<9} round {:<2} {:<19} {:>7.2} us {:>8.0} tps  p99 {:>6.2} ms",
            self.mode.name(),
            self.protocol.name(),
            self.round,
            self.subject.name(),
            self.cpu_us_per_statement,
            self.tps,
            self.p99_ms
        )
    }
}

/// Medians over rounds, a line for each mode, protocol and subject.
pub fn table(records: &[Record]) -> String {
    let mut lines = vec![format!(
        "{:<8} {:<9} {:<19} {:>11} {:>12} {:>15} {:>9} {:>8}  {}",
        "mode",
        "protocol",
        "subject",
        "CPU us/stmt",
        "to pgbouncer",
        "(quartiles)",
        "tps",
        "p99 ms",
        "version"
    )];
    let mut seen: Vec<(Mode, Protocol, Subject)> = Vec::new();
    for record in records {
        let row = (record.mode, record.protocol, record.subject);
        if !seen.contains(&row) {
            seen.push(row);
            lines.push(table_line(records, record));
        }
    }
    if records
        .iter()
        .any(|record| record.pgbouncer_mode == Some(PgbouncerMode::Session))
    {
        lines.push("* session pooling, a server connection for every client: this version has no prepared statements in transaction pooling".to_owned());
    }
    lines.join("\n")
}

fn table_line(records: &[Record], first: &Record) -> String {
    let of_subject = || {
        records.iter().filter(|record| {
            (record.mode, record.protocol, record.subject)
                == (first.mode, first.protocol, first.subject)
        })
    };
    let middle = |value: fn(&Record) -> f64| {
        quartiles(of_subject().map(value).collect()).map_or(0.0, |[_, median, _]| median)
    };
    // Within a round both saw the same machine; the median of such ratios is steadier than the ratio of medians.
    let ratios = of_subject().filter_map(|record| {
        let base = records
            .iter()
            .find(|base| base.subject == Subject::Pgbouncer && base.round() == record.round())?;
        Some(record.cpu_us_per_statement / base.cpu_us_per_statement)
    });
    let (ratio, spread) = quartiles(ratios.collect())
        .filter(|_| first.subject != Subject::Direct)
        .map_or(("-".to_owned(), String::new()), |[low, median, high]| {
            (format!("{median:.2}"), format!("({low:.2} to {high:.2})"))
        });
    let mark = if first.pgbouncer_mode == Some(PgbouncerMode::Session) {
        " *"
    } else {
        ""
    };
    format!(
        "{:<8} {:<9} {:<19} {:>11.2} {:>12} {:>15} {:>9.0} {:>8.2}  {}{mark}",
        first.mode.name(),
        first.protocol.name(),
        first.subject.name(),
        middle(|r| r.cpu_us_per_statement),
        ratio,
        spread,
        middle(|r| r.tps),
        middle(|r| r.p99_ms),
        first.version,
    )
}

/// The first, second (the median) and third quartile, between neighbours by straight line.
fn quartiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some([1, 2, 3].map(|quarter| {
        let (below, rest) = (last * quarter / 4, (last * quarter % 4) as f64 / 4.0);
        let above = (below + 1).min(last);
        values[below] + (values[above] - values[below]) * rest
    }))
}

/// To three decimals: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
