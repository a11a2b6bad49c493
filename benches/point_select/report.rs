//! What is written: a record for each run, and a table of medians.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::load::{Load, Protocol, Run};
use crate::postgres::Binaries;
use crate::subjects::{Entrant, PgbouncerMode, Settings, Subject};

/// One line of the summary.
#[derive(Debug, Serialize)]
pub struct Record {
    bench: &'static str,
    protocol: Protocol,
    subject: Subject,
    clients: u32,
    /// From 1; records of one round and protocol were taken one after the other and may be compared.
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
        protocol: Protocol,
        entrant: &Entrant,
        round: u32,
        load: &Load,
        settings: &Settings,
        binaries: &Binaries,
        run: &Run,
    ) -> Record {
        Record {
            bench: "point_select",
            protocol,
            subject: entrant.subject,
            clients: load.clients,
            round,
            cpu_us_per_statement: rounded(run.cpu.as_secs_f64() * 1e6 / run.transactions as f64),
            tps: rounded(run.tps),
            p99_ms: rounded(run.p99.as_secs_f64() * 1e3),
            transactions: run.transactions,
            seconds: load.duration.as_secs(),
            pool_size: settings.pool_size,
            pgbouncer_mode: entrant.pgbouncer_mode,
            version: entrant.version.clone(),
            postgres_version: binaries.version.clone(),
        }
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::io("write a record", e.into()))
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<9} round {:<2} {:<19} {:>7.2} us {:>8.0} tps  p99 {:>6.2} ms",
            self.protocol.name(),
            self.round,
            self.subject.name(),
            self.cpu_us_per_statement,
            self.tps,
            self.p99_ms
        )
    }
}

/// Medians over rounds, a line for each protocol and subject.
pub fn table(records: &[Record]) -> String {
    let mut lines = vec![format!(
        "{:<9} {:<19} {:>11} {:>12} {:>9} {:>8}  {}",
        "protocol", "subject", "CPU us/stmt", "to pgbouncer", "tps", "p99 ms", "version"
    )];
    let mut seen: Vec<(Protocol, Subject)> = Vec::new();
    for record in records {
        let row = (record.protocol, record.subject);
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
    let of = |subject: Subject| {
        records
            .iter()
            .filter(move |r| r.protocol == first.protocol && r.subject == subject)
    };
    let values =
        |value: fn(&Record) -> f64| median(of(first.subject).map(value).collect()).unwrap_or(0.0);
    // Within a round both saw the same machine; the median of such ratios is steadier than the ratio of medians.
    let ratios = of(first.subject).filter_map(|record| {
        let base = of(Subject::Pgbouncer).find(|base| base.round == record.round)?;
        Some(record.cpu_us_per_statement / base.cpu_us_per_statement)
    });
    let ratio = median(ratios.collect())
        .filter(|_| first.subject != Subject::Direct)
        .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let mark = if first.pgbouncer_mode == Some(PgbouncerMode::Session) {
        " *"
    } else {
        ""
    };
    format!(
        "{:<9} {:<19} {:>11.2} {:>12} {:>9.0} {:>8.2}  {}{mark}",
        first.protocol.name(),
        first.subject.name(),
        values(|r| r.cpu_us_per_statement),
        ratio,
        values(|r| r.tps),
        values(|r| r.p99_ms),
        first.version,
    )
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// To three decimals: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
