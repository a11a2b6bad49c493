//! What is written: a record for each run, and a table of medians.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::Mode;
use crate::error::{Error, Result};
use crate::load::{Protocol, Run, Work};
use crate::postgres::Binaries;
use crate::subjects::{Entrant, PgbouncerMode, Settings, Subject};

/// All that a run of the benchmark has found.
#[derive(Debug, Default)]
pub struct Results {
    pub records: Vec<Record>,
    pub measures: Vec<Measure>,
}

/// What runs may be compared: they were taken at the same time, or one right after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// As in the record.
    pub bench: &'static str,
    pub mode: Mode,
    pub protocol: Protocol,
    pub clients: u32,
    /// From 1.
    pub number: u32,
}

/// One line of the summary: a subject under the load of pgbench.
#[derive(Debug, Serialize)]
pub struct Record {
    pub bench: &'static str,
    pub mode: Mode,
    pub protocol: Protocol,
    pub subject: Subject,
    pub clients: u32,
    pub round: u32,
    /// Microseconds of CPU time of the proxy process; 0 where there is no proxy.
    pub cpu_us_per_statement: f64,
    /// Transactions a second; most have one statement.
    pub tps: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    transactions: u64,
    statements_per_transaction: u32,
    seconds: f64,
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
        work: &Work,
        settings: &Settings,
        binaries: &Binaries,
    ) -> Record {
        let statements = run.transactions as f64 * f64::from(work.statements);
        Record {
            bench: round.bench,
            mode: round.mode,
            protocol: round.protocol,
            subject: entrant.subject,
            clients: round.clients,
            round: round.number,
            cpu_us_per_statement: rounded(run.cpu.as_secs_f64() * 1e6 / statements),
            tps: rounded(run.transactions as f64 / run.window.as_secs_f64()),
            p50_ms: rounded(run.p50.as_secs_f64() * 1e3),
            p99_ms: rounded(run.p99.as_secs_f64() * 1e3),
            transactions: run.transactions,
            statements_per_transaction: work.statements,
            seconds: rounded(run.window.as_secs_f64()),
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
            bench: self.bench,
            mode: self.mode,
            protocol: self.protocol,
            clients: self.clients,
            number: self.round,
        }
    }
}

/// One line of the summary: anything else about a subject.
#[derive(Debug, Serialize)]
pub struct Measure {
    pub bench: &'static str,
    /// Which variety.
    pub kind: String,
    pub subject: Subject,
    pub round: u32,
    #[serde(flatten)]
    pub values: BTreeMap<&'static str, f64>,
}

impl Measure {
    pub fn new(
        bench: &'static str,
        kind: impl Into<String>,
        subject: Subject,
        round: u32,
    ) -> Measure {
        Measure {
            bench,
            kind: kind.into(),
            subject,
            round,
            values: BTreeMap::new(),
        }
    }

    pub fn with(mut self, name: &'static str, value: f64) -> Measure {
        self.values.insert(name, rounded(value));
        self
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::io("write a measure", e.into()))
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<20} {:<23} {:<18}",
            self.bench,
            self.kind,
            self.subject.name()
        )?;
        for (name, value) in &self.values {
            // A ratio says little without its second digit.
            let digits = if value.abs() < 10.0 { 2 } else { 1 };
            write!(f, "  {name} {value:.digits$}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<20} {:<9} {:>3} clients  round {:<2} {:<19} {:>7.2} us {:>8.0} tps  p50 {:>7.3} ms  p99 {:>7.3} ms",
            self.bench,
            self.protocol.name(),
            self.clients,
            self.round,
            self.subject.name(),
            self.cpu_us_per_statement,
            self.tps,
            self.p50_ms,
            self.p99_ms
        )
    }
}

impl Results {
    /// Medians over rounds.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if !self.records.is_empty() {
            lines.push(format!(
                "{:<20} {:<9} {:>7}  {:<19} {:>11} {:>12} {:>15} {:>9} {:>8} {:>8}  {}",
                "bench",
                "protocol",
                "clients",
                "subject",
                "CPU us/stmt",
                "to pgbouncer",
                "(quartiles)",
                "tps",
                "p50 ms",
                "p99 ms",
                "version"
            ));
        }
        lines.extend(self.rows().iter().map(Row::to_string));
        let session = Some(PgbouncerMode::Session);
        if self.records.iter().any(|r| r.pgbouncer_mode == session) {
            lines.push("* session pooling, a server connection for every client: this version has no prepared statements in transaction pooling".to_owned());
        }
        lines.extend(self.measure_lines());
        lines.join("\n")
    }

    /// A row for each subject and kind of round, in the order of their first record.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        for record in &self.records {
            if !rows.iter().any(|row| row.is_of(record)) {
                rows.push(self.row(record));
            }
        }
        rows
    }

    fn row<'a>(&'a self, first: &'a Record) -> Row<'a> {
        let of_subject = || self.records.iter().filter(|record| is_same(first, record));
        let middle = |value: fn(&Record) -> f64| {
            quartiles(of_subject().map(value).collect()).map_or(0.0, |[_, median, _]| median)
        };
        // Within a round both saw the same machine; the median of such ratios is steadier than the ratio of medians.
        let ratios = of_subject().filter_map(|record| self.ratio(record, Subject::Pgbouncer));
        let beside = of_subject()
            .filter(|record| record.subject == Subject::TrunklineFourShards)
            .filter_map(|record| self.ratio(record, Subject::PgbouncerFourServers));
        Row {
            first,
            cpu: middle(|r| r.cpu_us_per_statement),
            ratio: quartiles(ratios.collect()).filter(|_| first.subject != Subject::Direct),
            to_four_servers: quartiles(beside.collect()),
            tps: middle(|r| r.tps),
            p50: middle(|r| r.p50_ms),
            p99: middle(|r| r.p99_ms),
        }
    }

    /// Of the CPU time, to that of another subject in the same round.
    fn ratio(&self, record: &Record, to: Subject) -> Option<f64> {
        let mut records = self.records.iter();
        let base = records.find(|base| base.subject == to && base.round() == record.round())?;
        Some(record.cpu_us_per_statement / base.cpu_us_per_statement)
    }

    fn measure_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        fn key(measure: &Measure) -> (&str, &str, Subject) {
            (measure.bench, &measure.kind, measure.subject)
        }
        for (at, first) in self.measures.iter().enumerate() {
            if self.measures[..at]
                .iter()
                .any(|seen| key(seen) == key(first))
            {
                continue;
            }
            let mut medians = Measure::new(first.bench, first.kind.clone(), first.subject, 0);
            for &name in first.values.keys() {
                let same = self
                    .measures
                    .iter()
                    .filter(|other| key(other) == key(first));
                let values = same.filter_map(|other| other.values.get(name).copied());
                if let Some([_, median, _]) = quartiles(values.collect()) {
                    medians = medians.with(name, median);
                }
            }
            lines.push(medians.to_string());
        }
        lines
    }
}

/// Medians of one subject in one kind of round.
#[derive(Debug)]
pub struct Row<'a> {
    pub first: &'a Record,
    pub cpu: f64,
    /// Quartiles of the CPU time's ratio to PgBouncer's.
    pub ratio: Option<[f64; 3]>,
    /// Of four shards: the same to PgBouncer with as many servers.
    to_four_servers: Option<[f64; 3]>,
    pub tps: f64,
    pub p50: f64,
    pub p99: f64,
}

fn is_same(a: &Record, b: &Record) -> bool {
    let key = |r: &Record| (r.bench, r.mode, r.protocol, r.clients, r.subject);
    key(a) == key(b)
}

impl Row<'_> {
    fn is_of(&self, record: &Record) -> bool {
        is_same(self.first, record)
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ratio, spread) = match self.ratio {
            Some([low, median, high]) => {
                (format!("{median:.2}"), format!("({low:.2} to {high:.2})"))
            }
            None => ("-".to_owned(), String::new()),
        };
        let mark = match self.first.pgbouncer_mode {
            Some(PgbouncerMode::Session) => " *",
            _ => "",
        };
        write!(
            f,
            "{:<20} {:<9} {:>7}  {:<19} {:>11.2} {:>12} {:>15} {:>9.0} {:>8.3} {:>8.3}  {}{mark}",
            self.first.bench,
            self.first.protocol.name(),
            self.first.clients,
            self.first.subject.name(),
            self.cpu,
            ratio,
            spread,
            self.tps,
            self.p50,
            self.p99,
            self.first.version,
        )?;
        match self.to_four_servers {
            None => Ok(()),
            Some([low, median, high]) => write!(
                f,
                "; to pgbouncer-4-servers {median:.2} ({low:.2} to {high:.2})"
            ),
        }
    }
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
