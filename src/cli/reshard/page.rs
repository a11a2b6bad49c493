//! A plan as people see it: bars, rates and time left. Pure.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::reading::Event;
use crate::resharding::report::{PlanStatus, StreamProgress, TableProgress};

/// What a plan is busy with, and what is counted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Copying,
    Comparing,
    Removing,
}

impl Work {
    fn of(status: &PlanStatus) -> Option<Work> {
        match &*status.phase {
            "copying" => Some(Work::Copying),
            "finishing" | "cancelling" => Some(Work::Removing),
            // When all is compared, that may have been before the last turn: its result is forgotten with it.
            "following" | "cut over" | "rolled back" if status.differences.is_none() => {
                let (compared, all) = rows_of(&status.progress.tables, Work::Comparing);
                let under_way = compared > 0 && all.is_none_or(|all| compared < all);
                under_way.then_some(Work::Comparing)
            }
            _ => None,
        }
    }

    fn rows(self, table: &TableProgress) -> u64 {
        match self {
            Work::Copying => table.copied_rows,
            Work::Comparing => table.compared_rows,
            Work::Removing => table.removed_rows,
        }
    }

    /// As far as is known: what is there was copied, or was estimated.
    fn all_rows(self, table: &TableProgress) -> Option<u64> {
        match (self, table.copied) {
            (Work::Copying, _) => table.estimated_rows,
            (Work::Comparing | Work::Removing, true) => Some(table.copied_rows),
            (Work::Comparing | Work::Removing, false) => table.estimated_rows,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Work::Copying => "copied",
            Work::Comparing => "compared",
            Work::Removing => "removed",
        }
    }
}

/// Rates are those of so many milliseconds before the last reading.
const WINDOW: u64 = 10_000;

/// The last readings of a plan, for rates.
#[derive(Debug, Default)]
pub struct Readings(VecDeque<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: u64,
    work: Option<Work>,
    rows: u64,
    bytes: u64,
}

/// In a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    rows: f64,
    bytes: f64,
}

impl Readings {
    /// Takes a reading, unless it is the last one again.
    pub fn take(&mut self, status: &PlanStatus) {
        let work = Work::of(status);
        let rows = |work: Work| {
            status
                .progress
                .tables
                .iter()
                .map(|one| work.rows(one))
                .sum()
        };
        let reading = Reading {
            at: status.progress.at,
            work,
            rows: work.map_or(0, rows),
            bytes: status.progress.totals().copied_bytes,
        };
        if let Some(last) = self.0.back() {
            // Another kind of work, or one that was begun again: what was before says nothing of it.
            if last.work != reading.work || last.rows > reading.rows || last.at > reading.at {
                self.0.clear();
            } else if last.at == reading.at {
                return;
            }
        }
        self.0.push_back(reading);
        while self.0.len() > 2 && reading.at - self.0[1].at >= WINDOW {
            self.0.pop_front();
        }
    }

    fn rate(&self) -> Option<Rate> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let seconds = (last.at - first.at) as f64 / 1000.0;
        (seconds > 0.0).then(|| Rate {
            rows: (last.rows - first.rows) as f64 / seconds,
            bytes: last.bytes.saturating_sub(first.bytes) as f64 / seconds,
        })
    }
}

/// How much of a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    All,
    /// So many tables at most, those that are worked on first.
    Tables(usize),
}

/// The whole page, without a line's end behind the last line.
pub fn page(status: &PlanStatus, readings: &Readings, extent: Extent) -> String {
    let mut page = headline(status);
    let work = Work::of(status).unwrap_or(Work::Copying);
    if !status.progress.tables.is_empty() {
        let _ = write!(page, "\n  {}", sums(status, work, readings));
    }
    for line in words(status) {
        let _ = write!(page, "\n  {}", plain(&line));
    }
    for line in tables(&status.progress.tables, work, extent) {
        let _ = write!(page, "\n  {line}");
    }
    for stream in &status.progress.streams {
        let _ = write!(page, "\n  {}", of_stream(stream));
    }
    page
}

/// One line for where nothing can be drawn.
pub fn line(status: &PlanStatus) -> String {
    let mut line = headline(status);
    let totals = status.progress.totals();
    if !status.progress.tables.is_empty() {
        let work = Work::of(status).unwrap_or(Work::Copying);
        let (done, all) = rows_of(&status.progress.tables, work);
        let known = all.filter(|_| !is_copied(status, work));
        let _ = write!(line, "; {}", amount(done, known, work));
    }
    if let Some(behind) = totals.behind {
        let _ = write!(line, "; lag {}", bytes(behind));
    }
    line
}

fn headline(status: &PlanStatus) -> String {
    let pace = match &*status.pace {
        "going" | "" => String::new(),
        other => format!(", {other}"),
    };
    let driver = match (&status.driver, &*status.phase) {
        (Some(driver), _) => format!(", driven by {driver}"),
        (None, "finished" | "cancelled") => String::new(),
        (None, _) => ", driven by nobody".to_owned(),
    };
    plain(&format!(
        "{} in {}: {}{pace}{driver}",
        status.plan, status.database, status.phase
    ))
}

fn words(status: &PlanStatus) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(note) = &status.note {
        words.push(format!("note: {note}"));
    }
    match status.differences {
        Some(0) => words.push("compared: no row differs".to_owned()),
        Some(rows) => words.push(format!("compared: {} rows differ", grouped(rows))),
        None => {}
    }
    for problem in &status.problems {
        words.push(format!("problem: {problem}"));
    }
    for note in &status.notes {
        words.push(format!("good to know: {note}"));
    }
    words
}

fn rows_of(tables: &[TableProgress], work: Work) -> (u64, Option<u64>) {
    let done = tables.iter().map(|one| work.rows(one)).sum();
    (done, tables.iter().map(|one| work.all_rows(one)).sum())
}

/// Whether nothing is left to copy, so that nothing is estimated any more.
fn is_copied(status: &PlanStatus, work: Work) -> bool {
    work == Work::Copying && status.progress.tables.iter().all(|one| one.copied)
}

fn sums(status: &PlanStatus, work: Work, readings: &Readings) -> String {
    let (done, all) = rows_of(&status.progress.tables, work);
    let is_done = is_copied(status, work);
    let known = all.filter(|_| !is_done);
    let mut line = format!(
        "{} {}",
        bar(part(done, all, is_done), 30),
        amount(done, known, work)
    );
    if work == Work::Copying {
        let _ = write!(line, ", {}", bytes(status.progress.totals().copied_bytes));
    }
    let Some(rate) = readings.rate().filter(|_| Work::of(status).is_some()) else {
        return line;
    };
    let _ = write!(line, "; {} rows/s", grouped(rate.rows as u64));
    if work == Work::Copying {
        let _ = write!(line, ", {}/s", bytes(rate.bytes as u64));
    }
    if let Some(left) = all
        .map(|all| all.saturating_sub(done))
        .filter(|left| *left > 0)
        && rate.rows >= 1.0
    {
        let _ = write!(line, ", about {} left", duration(left as f64 / rate.rows));
    }
    line
}

fn amount(done: u64, all: Option<u64>, work: Work) -> String {
    let word = work.word();
    match all {
        Some(all) => format!(
            "{} of about {} rows {word}",
            grouped(done),
            grouped(all.max(done))
        ),
        None => format!("{} rows {word}", grouped(done)),
    }
}

fn tables(tables: &[TableProgress], work: Work, extent: Extent) -> Vec<String> {
    let is_done = |one: &TableProgress| match work {
        Work::Copying => one.copied,
        Work::Comparing | Work::Removing => Some(work.rows(one)) >= work.all_rows(one),
    };
    // Those under way, then those that wait, then those that are done.
    let order = |one: &TableProgress| match (is_done(one), work.rows(one)) {
        (true, _) => 2,
        (false, 0) => 1,
        (false, _) => 0,
    };
    let mut shown: Vec<&TableProgress> = tables.iter().collect();
    match extent {
        Extent::Tables(most) if tables.len() > most => {
            shown.sort_by_key(|one| order(one));
            let hidden = shown.split_off(most);
            let done = hidden.iter().filter(|one| is_done(one)).count();
            let (more, word) = (hidden.len(), work.word());
            let mut made = lines(&shown, work);
            made.push(format!("and {more} more, of which {done} are {word}"));
            made
        }
        _ => lines(&shown, work),
    }
}

fn lines(tables: &[&TableProgress], work: Work) -> Vec<String> {
    let name = |one: &TableProgress| plain(&one.table);
    let way = |one: &TableProgress| plain(&format!("{} -> {}", one.from, one.to));
    let width = |text: &dyn Fn(&TableProgress) -> String| {
        let widths = tables.iter().map(|one| text(one).chars().count());
        widths.max().unwrap_or(0)
    };
    let (names, ways) = (width(&name), width(&way));
    let line = |one: &&TableProgress| {
        let (done, all) = (work.rows(one), work.all_rows(one));
        let is_done = work == Work::Copying && one.copied;
        let amount = match is_done {
            true => format!("{} rows {}", grouped(done), work.word()),
            false => amount(done, all, work),
        };
        format!(
            "{:names$}  {:ways$}  {} {amount}, {}",
            name(one),
            way(one),
            bar(part(done, all, is_done), 20),
            bytes(one.copied_bytes)
        )
    };
    tables.iter().map(line).collect()
}

fn of_stream(stream: &StreamProgress) -> String {
    let mut line = plain(&format!("{} -> {}: ", stream.from, stream.to));
    let _ = write!(line, "{} changes applied", grouped(stream.changes));
    if let Some(behind) = stream.behind {
        let _ = write!(line, ", lag {}", bytes(behind));
    }
    if let Some(retained) = stream.retained {
        let _ = write!(line, ", log kept {}", bytes(retained));
    }
    line
}

/// Tenths of a percent; 1000 only of what is done.
fn part(done: u64, all: Option<u64>, is_done: bool) -> Option<u16> {
    match (is_done, all) {
        (true, _) => Some(1000),
        (false, None) => None,
        (false, Some(all)) => {
            let part = u128::from(done) * 1000 / u128::from(all.max(1));
            Some(u16::try_from(part).unwrap_or(999).min(999))
        }
    }
}

fn bar(part: Option<u16>, width: usize) -> String {
    let Some(part) = part else {
        return format!("[{}]   ?%", ".".repeat(width));
    };
    let full = usize::from(part) * width / 1000;
    format!(
        "[{}{}] {:3}%",
        "#".repeat(full),
        ".".repeat(width - full),
        part / 10
    )
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// In Postgres's units, of 1024.
fn bytes(number: u64) -> String {
    let mut amount = number as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        match (amount < 1000.0 || unit == "TB", unit) {
            (true, "B") => return format!("{number} B"),
            (true, _) if amount < 10.0 => return format!("{amount:.1} {unit}"),
            (true, _) => return format!("{amount:.0} {unit}"),
            (false, _) => amount /= 1024.0,
        }
    }
    format!("{number} B")
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Without what a terminal would take for an order: names are whatever somebody has called a table.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|one| if one.is_control() { ' ' } else { one })
        .collect()
}

pub fn event(event: &Event) -> String {
    let Event { at, plan, by, what } = event;
    let by = match by.is_empty() {
        true => String::new(),
        false => format!(" ({by})"),
    };
    plain(&format!("{at}  {plan}: {what}{by}"))
}

/// Columns as wide as their widest value, headed by their names.
pub fn columns(names: &[&str], rows: &[Vec<String>]) -> String {
    let width = |place: usize| {
        let cells = rows.iter().map(|row| row[place].chars().count());
        cells.chain([names[place].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut names.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(|cell| &**cell))),
    );
    lines.join("\n")
}

/// A number's text from the admin database as the pages show it; empty for NULL.
pub fn counted(number: Option<u64>) -> String {
    number.map(grouped).unwrap_or_default()
}

pub fn sized(number: Option<u64>) -> String {
    number.map(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resharding::report::Progress;

    fn table(name: &str, copied_rows: u64, copied: bool) -> TableProgress {
        TableProgress {
            table: name.into(),
            from: "s1".into(),
            to: "s5".into(),
            copied_rows,
            copied_bytes: copied_rows * 100,
            estimated_rows: Some(1_000_000),
            copied,
            ..TableProgress::default()
        }
    }

    fn copying(at: u64, rows: u64) -> PlanStatus {
        PlanStatus {
            plan: "split".into(),
            database: "shop".into(),
            phase: "copying".into(),
            pace: "going".into(),
            driver: Some("proxy-1".into()),
            progress: Progress {
                obstacle: None,
                at,
                tables: vec![
                    table("public.orders", rows, false),
                    table("public.lines", 1_200_000, true),
                    table("public.x", 0, false),
                ],
                streams: vec![StreamProgress {
                    from: "s1".into(),
                    to: "s5".into(),
                    changes: 1234,
                    behind: Some(12_288),
                    retained: Some(3 << 20),
                }],
            },
            ..PlanStatus::default()
        }
    }

    #[test]
    fn a_plan_that_copies() {
        let mut readings = Readings::default();
        readings.take(&copying(1000, 220_000));
        readings.take(&copying(1000, 220_000));
        let status = copying(3000, 420_000);
        readings.take(&status);
        assert_eq!(
            page(&status, &readings, Extent::All),
            "split in shop: copying, driven by proxy-1\n  \
             [################..............]  54% 1,620,000 of about 3,000,000 rows copied, 154 MB; 100,000 rows/s, 9.5 MB/s, about 14 s left\n  \
             public.orders  s1 -> s5  [########............]  42% 420,000 of about 1,000,000 rows copied, 40 MB\n  \
             public.lines   s1 -> s5  [####################] 100% 1,200,000 rows copied, 114 MB\n  \
             public.x       s1 -> s5  [....................]   0% 0 of about 1,000,000 rows copied, 0 B\n  \
             s1 -> s5: 1,234 changes applied, lag 12 kB, log kept 3.0 MB"
        );
        let short = page(&status, &readings, Extent::Tables(2));
        let lines: Vec<&str> = short.lines().collect();
        assert!(lines[2].contains("public.orders") && lines[3].contains("public.x"));
        assert_eq!(lines[4], "  and 1 more, of which 1 are copied");
        assert_eq!(
            line(&status),
            "split in shop: copying, driven by proxy-1; 1,620,000 of about 3,000,000 rows copied; lag 12 kB"
        );
    }

    #[test]
    fn a_plan_that_says_why() {
        let mut status = copying(1, 5);
        status.phase = "following".into();
        status.pace = "stopped: \u{1b}[2Jfull".into();
        status.driver = None;
        status.note = Some("given up".into());
        status.problems = vec!["one".into()];
        status.differences = Some(1200);
        let page = page(&status, &Readings::default(), Extent::All);
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(
            lines[0],
            "split in shop: following, stopped:  [2Jfull, driven by nobody"
        );
        assert_eq!(lines[2], "  note: given up");
        assert_eq!(lines[3], "  compared: 1,200 rows differ");
        assert_eq!(lines[4], "  problem: one");
    }

    #[test]
    fn what_is_compared_and_removed_is_counted_by_itself() {
        let mut status = copying(1000, 1_000_000);
        status.phase = "following".into();
        for one in &mut status.progress.tables {
            (one.copied, one.compared_rows) = (true, 100_000);
        }
        let page_of = |status: &PlanStatus| page(status, &Readings::default(), Extent::All);
        let shown = page_of(&status);
        assert!(
            shown.contains("13% 300,000 of about 2,200,000 rows compared"),
            "{shown}"
        );
        // Of a comparison before the turn nothing is said.
        status.phase = "cut over".into();
        for one in &mut status.progress.tables {
            one.compared_rows = one.copied_rows;
        }
        let shown = page_of(&status);
        assert!(
            shown.contains("100% 2,200,000 rows copied, 210 MB\n"),
            "{shown}"
        );
        status.phase = "finishing".into();
        assert!(page_of(&status).contains("  0% 0 of about 2,200,000 rows removed"));
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut readings = Readings::default();
        readings.take(&copying(0, 0));
        assert_eq!(readings.rate(), None);
        for second in 1..=30 {
            readings.take(&copying(second * 1000, second * 10 * second));
        }
        // From the 20th to the 30th second.
        let rate = readings.rate().unwrap();
        assert_eq!(rate.rows, 500.0);
        // Begun again: there is nothing to compare with.
        readings.take(&copying(31_000, 5));
        assert_eq!(readings.rate(), None);
    }

    #[test]
    fn amounts() {
        let groups = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(groups, ["0", "999", "1,000", "1,234,567"]);
        let sizes = [0, 999, 1000, 1023, 12_288, 10 << 20, 5 << 40].map(bytes);
        assert_eq!(
            sizes,
            [
                "0 B", "999 B", "1.0 kB", "1.0 kB", "12 kB", "10 MB", "5.0 TB"
            ]
        );
        let spans = [0.2, 119.0, 120.0, 3600.0, 7200.0, 9000.0].map(duration);
        assert_eq!(
            spans,
            ["1 s", "119 s", "2 min", "60 min", "2 h 0 min", "2 h 30 min"]
        );
        assert_eq!(part(5, Some(5), false), Some(999));
    }

    #[test]
    fn a_table_of_columns() {
        let rows = [["split", "copying"], ["a", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            columns(&["plan", "phase"], &rows),
            "plan   phase\nsplit  copying\na"
        );
    }
}
