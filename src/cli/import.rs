//! `trunkline import`: a configuration of PgBouncer or PgDog as one of Trunkline.
//!
//! Nothing is dropped in silence: an option is taken, and its equivalent written, or it is named at the end of what is written, with
//! the reason. Where the other's default is not Trunkline's, the default is written too.
//! `pgbouncer.rs` and `pgdog.rs` know the two formats; what they share is here.

mod pgbouncer;
mod pgdog;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use toml::Value;

use crate::config::{Line, Problem};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// pgbouncer.ini, or pgdog.toml.
    file: PathBuf,
    /// Its users: userlist.txt (default: what auth_file names), or users.toml.
    users: Option<PathBuf>,
}

/// Exits with 0 when there is a configuration, which goes to standard output.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match imported(&arguments.file, arguments.users.as_deref()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
    }
}

fn imported(file: &Path, users: Option<&Path>) -> Result<String, Vec<Problem>> {
    if file.extension().is_some_and(|kind| kind == "toml") {
        pgdog::imported(file, users)
    } else {
        pgbouncer::imported(file, users)
    }
}

/// Where something stands in the input.
#[derive(Clone, Debug, Default)]
struct Place {
    file: String,
    line: usize,
}

/// One option as it was given.
#[derive(Clone, Debug)]
struct Given {
    place: Place,
    key: String,
    value: Value,
}

impl Given {
    fn text(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    fn number(&self) -> Option<f64> {
        self.text().replace('_', "").parse().ok()
    }
}

/// Why some options have no equivalent: their names (one that ends in `*` stands for all that begin so), and the reason.
type Reasons = &'static [(&'static str, &'static str)];

/// The options of one section or entry. Those that nobody takes have no equivalent.
#[derive(Clone, Debug, Default)]
struct Options {
    name: String,
    place: Place,
    items: Vec<Given>,
}

impl Options {
    /// The option; of several the last one, which is the one that counts in PgBouncer.
    fn take(&mut self, key: &str) -> Option<Given> {
        let found = self.items.iter().rposition(|given| given.key == key)?;
        let given = self.items.remove(found);
        self.items.retain(|other| other.key != key);
        Some(given)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key).map(|given| given.text())
    }

    /// A whole number; one that Trunkline does not allow is named and left out.
    fn whole(
        &mut self,
        key: &str,
        allowed: RangeInclusive<i64>,
        findings: &mut Findings,
    ) -> Option<i64> {
        let given = self.take(key)?;
        let Ok(number) = given.text().replace('_', "").parse::<i64>() else {
            findings.wrong(&given.place, key, "is not a whole number");
            return None;
        };
        if !allowed.contains(&number) {
            let reason = format!(
                "{number} is not possible: {} to {}",
                allowed.start(),
                allowed.end()
            );
            findings.lose(&given.place, &self.option(key), &reason);
            return None;
        }
        Some(number)
    }

    fn yes(&mut self, key: &str) -> bool {
        self.text(key)
            .is_some_and(|text| matches!(&*text, "1" | "true" | "on" | "yes"))
    }

    fn option(&self, key: &str) -> String {
        match self.name.is_empty() {
            true => key.to_owned(),
            false => format!("{} {key}", self.name),
        }
    }

    /// Names what was not taken.
    fn leave(self, reasons: Reasons, findings: &mut Findings) {
        for given in &self.items {
            let reason = reasons
                .iter()
                .find(|(names, _)| {
                    names.split(' ').any(|name| match name.strip_suffix('*') {
                        Some(start) => given.key.starts_with(start),
                        None => name == given.key,
                    })
                })
                .map_or("not an option that is known here", |(_, reason)| reason);
            findings.lose(&given.place, &self.option(&given.key), reason);
        }
    }
}

/// What was found on the way.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    lost: Vec<(Place, String)>,
}

impl Findings {
    /// A mistake, after which there is no configuration.
    fn wrong(&mut self, place: &Place, key: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            file: place.file.clone(),
            line: Line(place.line),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// An option without an equivalent, or with one that differs.
    fn lose(&mut self, place: &Place, option: &str, reason: &str) {
        self.lost
            .push((place.clone(), format!("{option}: {reason}")));
    }

    /// The configuration with what was lost at its end, unless there are mistakes.
    fn finish(mut self, mut page: Page) -> Result<String, Vec<Problem>> {
        if !self.problems.is_empty() {
            self.problems.sort_by_key(|problem| problem.line.0);
            return Err(self.problems);
        }
        if self.lost.is_empty() {
            page.line("\n# Every option has its equivalent above.");
        } else {
            page.line("\n# Without an equivalent, or not quite the same:");
            page.line("#");
        }
        self.lost.sort_by_key(|(place, _)| place.line);
        self.lost.sort_by(|(a, _), (b, _)| a.file.cmp(&b.file));
        for (place, what) in &self.lost {
            let what = what.replace(['\n', '\r'], " ");
            page.line(&format!("# {}:{}: {what}", place.file, place.line));
        }
        Ok(page.0)
    }
}

/// The configuration as far as it is written.
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn section(&mut self, header: &str) {
        self.line(&format!("\n{header}"));
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.line(&format!("{key} = {}", value.into()));
    }

    fn set_if(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }
}

/// A node in one line.
fn node(host: &str, port: i64, database: Option<&str>) -> String {
    let host = Value::from(host);
    let database = database.map_or_else(String::new, |name| {
        format!(", database = {}", Value::from(name))
    });
    format!("{{ host = {host}, port = {port}{database} }}")
}

/// What 0 says.
#[derive(Clone, Copy)]
enum Zero {
    /// There is no limit, here "off".
    Off,
    /// There is no limit, here the longest time that is allowed.
    Longest,
    /// No time at all.
    Nothing,
}

/// A time of the input, and its key here. Times are in milliseconds.
struct Time {
    from: &'static str,
    default: f64,
    to: &'static str,
    zero: Zero,
    allowed: RangeInclusive<f64>,
}

const DAY: f64 = 86_400_000.0;
const YEAR: f64 = 365.0 * DAY;

/// Writes times; `unit`: the milliseconds of one in the input.
fn times(
    options: &mut Options,
    unit: f64,
    table: &[Time],
    page: &mut Page,
    findings: &mut Findings,
) {
    for time in table {
        let given = options.take(time.from);
        let number = match &given {
            Some(given) => given
                .number()
                .filter(|number| *number >= 0.0)
                .map(|n| n * unit),
            None => Some(time.default),
        };
        let place = given.map_or_else(|| options.place.clone(), |given| given.place);
        let Some(number) = number else {
            findings.wrong(
                &place,
                time.from,
                "is not a time: a number that is not negative",
            );
            continue;
        };
        let wanted = match (number == 0.0, time.zero) {
            (true, Zero::Off) => {
                page.set(time.to, "off");
                continue;
            }
            (true, Zero::Longest) => f64::INFINITY,
            _ => number.round(),
        };
        let nearest = wanted.clamp(*time.allowed.start(), *time.allowed.end());
        if nearest.total_cmp(&wanted).is_ne() {
            let reason = format!(
                "{} is not possible for {}, the nearest is {}",
                if wanted.is_finite() {
                    shown(wanted)
                } else {
                    "no limit".to_owned()
                },
                time.to,
                shown(nearest)
            );
            findings.lose(&place, &options.option(time.from), &reason);
        }
        page.set(time.to, shown(nearest));
    }
}

/// In the largest whole unit.
fn shown(milliseconds: f64) -> String {
    let units = [
        (DAY, "d"),
        (3_600_000.0, "h"),
        (60_000.0, "m"),
        (1000.0, "s"),
    ];
    match units
        .into_iter()
        .find(|(unit, _)| milliseconds >= *unit && milliseconds % unit == 0.0)
    {
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None if milliseconds == 0.0 => "0s".to_owned(),
        None => format!("{milliseconds}ms"),
    }
}

/// Addresses to listen on, from names as the other one takes them.
fn addresses(
    hosts: &str,
    port: i64,
    place: &Place,
    option: &str,
    findings: &mut Findings,
) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for host in hosts
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
    {
        let address = match host {
            "*" => {
                findings.lose(
                    place,
                    option,
                    "* is every IPv4 address here; add \"[::]:port\" for IPv6",
                );
                "0.0.0.0".to_owned()
            }
            "localhost" => "127.0.0.1".to_owned(),
            _ if host.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{host}]"),
            _ if host.parse::<std::net::Ipv4Addr>().is_ok() => host.to_owned(),
            _ => {
                findings.lose(
                    place,
                    option,
                    &format!("{host:?} is not looked up; give its address in listen.addresses"),
                );
                continue;
            }
        };
        let address = Value::from(format!("{address}:{port}"));
        if !found.contains(&address) {
            found.push(address);
        }
    }
    // One socket takes every IPv4 address; a second one for some of them could not be opened.
    let every = Value::from(format!("0.0.0.0:{port}"));
    if found.contains(&every) {
        found.retain(|address| {
            *address == every || address.as_str().is_some_and(|text| text.starts_with('['))
        });
    }
    if found.is_empty() {
        findings.lose(
            place,
            option,
            "there is no address, and Trunkline needs one: it listens on the loopback",
        );
        found.push(Value::from(format!("127.0.0.1:{port}")));
    }
    found
}

fn read(file: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(file).map_err(|error| Problem {
        file: file.display().to_string(),
        line: Line(0),
        key: String::new(),
        message: format!("cannot be read: {error}"),
    })
}

/// How every file begins.
fn header(origin: &str, note: &str) -> Page {
    Page(format!(
        "# From {origin}. What has no equivalent is named at the end.\n# It may hold passwords: keep it from others. Try it: trunkline check FILE --connect\n{note}"
    ))
}

/// Connections are divided among the workers, and each needs one: no more workers than the smallest pool has connections.
fn workers(wanted: i64, pools: impl Iterator<Item = i64>) -> i64 {
    pools.fold(wanted, i64::min).max(1)
}
