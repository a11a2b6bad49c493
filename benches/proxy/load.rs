//! The load: pgbench, through one or several proxies at the same time.
//!
//! A measurement is a *window*: it opens when every pgbench has all its connections and has run transactions for a while, and closes
//! while all of them still run. CPU clocks are read at both edges, and pgbench logs the end of every transaction, so that exactly the
//! transactions of the window are counted; logging in and out is in neither.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::{Child, Command};

use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres::USER;
use crate::process;
use crate::subjects::Entrant;

/// Transactions of each client before anything is measured: connections are opened, plans and pages cached.
const WARM_UP: u32 = 300;
/// How long a pgbench may take until it runs transactions, and how much longer than its window it runs should we be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// As pgbench's `-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every client sends its next statement when it has the answer to the last.
    Saturated,
    /// So many statements a second through each proxy, at random times (pgbench's `--rate`).
    PerSecond(u32),
}

impl Pace {
    fn shared_by(self, streams: usize) -> Pace {
        let count = u32::try_from(streams).unwrap_or(u32::MAX).max(1);
        match self {
            Pace::Saturated => Pace::Saturated,
            Pace::PerSecond(rate) => Pace::PerSecond((rate / count).max(1)),
        }
    }
}

/// Where pgbench is and how long it is watched.
#[derive(Debug)]
pub struct Load {
    pub pgbench: PathBuf,
    /// An empty folder of its own.
    pub logs: PathBuf,
    pub window: Duration,
    pub scale: u32,
}

/// What each pgbench does.
#[derive(Clone, Debug)]
pub struct Work {
    pub protocol: Protocol,
    /// pgbench's own `-S` (one `SELECT abalance FROM pgbench_accounts WHERE aid = $1` a transaction) when there is none.
    pub script: Option<PathBuf>,
    /// Of one transaction.
    pub statements: u32,
    pub clients: u32,
    /// Threads of pgbench.
    pub jobs: u32,
}

/// What one window showed of one subject.
#[derive(Debug)]
pub struct Run {
    /// That ended in the window.
    pub transactions: u64,
    /// That were sent to each of the entrant's databases in all, before and after the window too.
    pub sent: Vec<u64>,
    pub window: Duration,
    /// Of the proxy in the window; zero without a proxy.
    pub cpu: Duration,
    /// From the time a transaction was due, where there is a pace; as is the next.
    pub p50: Duration,
    pub p99: Duration,
}

/// A proxy's CPU clock and when it was read.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: SystemTime,
    cpu: Duration,
}

impl Mark {
    fn of(entrant: &Entrant) -> Result<Mark> {
        Ok(Mark {
            at: SystemTime::now(),
            cpu: entrant.pid().map_or(Ok(Duration::ZERO), cpu::used)?,
        })
    }
}

/// A transaction in pgbench's log.
#[derive(Clone, Copy, Debug)]
struct Logged {
    /// Microseconds since 1970.
    end: u128,
    took: Duration,
}

impl Load {
    /// Returns the number of transactions run in each of the entrant's databases.
    pub async fn warm_up(&self, work: &Work, entrant: &Entrant) -> Result<Vec<u64>> {
        let mut run = Vec::new();
        for (database, work) in work.spread(entrant) {
            let mut pgbench = self.pgbench(&work, entrant);
            pgbench.arg("-t").arg(WARM_UP.to_string()).arg(database);
            run.push(reported_transactions(&process::run(&mut pgbench).await?)?);
        }
        Ok(run)
    }

    /// One window with all of `entrants` under load. The same `seed` gives each of them the same keys, and with a pace the same
    /// random times, in every measurement.
    pub async fn measure(
        &self,
        work: &Work,
        entrants: &[&Entrant],
        pace: Pace,
        seed: u32,
    ) -> Result<Vec<Run>> {
        let mut streams = Vec::new();
        for (place, &entrant) in entrants.iter().enumerate() {
            let parts = work.spread(entrant);
            let pace = pace.shared_by(parts.len());
            for (database, work) in parts {
                let stream = Stream::start(self, &work, (entrant, database), pace, seed)?;
                streams.push((place, work.threads(), stream));
            }
        }
        for (_, threads, stream) in &mut streams {
            stream.wait_until_running(*threads).await?;
        }
        let marks = || entrants.iter().map(|e| Mark::of(e)).collect::<Result<_>>();
        let before: Vec<Mark> = marks()?;
        tokio::time::sleep(self.window).await;
        let after: Vec<Mark> = marks()?;
        // All are told before any is waited for: nobody runs on alone and warms the machine for the next window.
        for (_, _, stream) in &mut streams {
            stream.stop().await?;
        }
        let mut found: Vec<Found> = entrants.iter().map(|_| Found::default()).collect();
        for (place, _, stream) in streams {
            stream
                .finish(before[place], after[place], &mut found[place])
                .await?;
        }
        let marks = before.into_iter().zip(after);
        found
            .into_iter()
            .zip(marks)
            .map(|(found, (before, after))| found.run(before, after))
            .collect()
    }

    fn pgbench(&self, work: &Work, entrant: &Entrant) -> Command {
        let mut command = Command::from(process::in_own_session(&self.pgbench));
        command.args(["-n", "-M", work.protocol.name(), "-U", USER]);
        command.arg("-h").arg(&entrant.host);
        for (option, number) in [
            ("-p", u32::from(entrant.port)),
            ("-c", work.clients),
            ("-j", work.jobs),
        ] {
            command.arg(option).arg(number.to_string());
        }
        match &work.script {
            None => command.arg("-S"),
            Some(script) => command
                .arg("-f")
                .arg(script)
                .arg(format!("--define=scale={}", self.scale)),
        };
        command
    }
}

impl Work {
    /// What each of the entrant's databases gets of it. There must be a client for each.
    fn spread<'a>(&self, entrant: &'a Entrant) -> Vec<(&'a str, Work)> {
        let count = u32::try_from(entrant.databases.len()).unwrap_or(u32::MAX);
        let share =
            |whole: u32, place: u32| (whole / count + u32::from(place < whole % count)).max(1);
        let part = |(place, database): (u32, &'a String)| {
            let work = Work {
                clients: share(self.clients, place),
                jobs: share(self.jobs, place),
                ..self.clone()
            };
            (database.as_str(), work)
        };
        (0..).zip(&entrant.databases).map(part).collect()
    }

    /// pgbench starts no more threads than it has clients.
    fn threads(&self) -> usize {
        self.jobs.min(self.clients) as usize
    }
}

/// One pgbench at work.
struct Stream {
    child: Child,
    logs: PathBuf,
}

impl Stream {
    fn start(
        load: &Load,
        work: &Work,
        (entrant, database): (&Entrant, &str),
        pace: Pace,
        seed: u32,
    ) -> Result<Stream> {
        let name = format!("{}-{database}", entrant.subject.name());
        let logs = load.logs.join(name);
        std::fs::create_dir(&logs)
            .map_err(|e| Error::io(format!("create {}", logs.display()), e))?;
        let mut command = load.pgbench(work, entrant);
        command
            .arg("-T")
            .arg((load.window + PATIENCE).as_secs().to_string())
            .arg(format!("--random-seed={seed}"))
            .arg("-l")
            .arg(format!("--log-prefix={}", logs.join("run").display()));
        if let Pace::PerSecond(rate) = pace {
            command.arg(format!("--rate={rate}"));
        }
        let child = command
            .arg(database)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::io("start pgbench", e))?;
        Ok(Stream { child, logs })
    }

    /// Waits until each thread of pgbench has written a block of its log. They begin when the connections of all of them are open.
    async fn wait_until_running(&mut self, threads: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if written_logs(&self.logs).map_err(|e| Error::io("look at pgbench's logs", e))?
                >= threads
            {
                return Ok(());
            }
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                return Err(Error::Pgbench {
                    what: "silence (it ran no transactions)",
                    output: self.last_words().await,
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn last_words(&mut self) -> String {
        use tokio::io::AsyncReadExt;
        // It may run on; what it has to say is only wanted for the error.
        let _ = self.child.start_kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text).await;
        }
        text
    }

    /// As if the time of `-T` were over: pgbench sets an alarm for that, lets running transactions end, and writes its report and logs.
    /// Fails when it has ended by itself: the proxy then had less to do in the window than it seems.
    async fn stop(&mut self) -> Result<()> {
        let (Some(pid), Ok(None)) = (self.child.id(), self.child.try_wait()) else {
            return Err(Error::Pgbench {
                what: "early end",
                output: self.last_words().await,
            });
        };
        let pid =
            Pid::from_raw(i32::try_from(pid).expect("process ids are positive 32-bit integers"));
        // It has not been waited for, so its id cannot belong to anybody else.
        kill(pid, Signal::SIGALRM).map_err(|e| Error::io("stop pgbench", e.into()))
    }

    async fn finish(self, before: Mark, after: Mark, found: &mut Found) -> Result<()> {
        let output = self
            .child
            .wait_with_output()
            .await
            .map_err(|e| Error::io("wait for pgbench", e))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(Error::Failed {
                program: "pgbench".to_owned(),
                status: output.status.to_string(),
                output: text(&output.stderr) + &text(&output.stdout),
            });
        }
        let report = text(&output.stdout);
        let logged = take_logs(&self.logs).map_err(|e| Error::io("read pgbench's logs", e))?;
        let [from, to] = [before.at, after.at].map(microseconds);
        let inside = logged
            .iter()
            .filter(|transaction| from < transaction.end && transaction.end <= to)
            .map(|transaction| transaction.took);
        found.inside.extend(inside);
        found.sent.push(reported_transactions(&report)?);
        found.report = report;
        Ok(())
    }
}

/// What an entrant's streams have in their logs.
#[derive(Default)]
struct Found {
    /// What transactions of the window took.
    inside: Vec<Duration>,
    /// By each stream, in and outside the window.
    sent: Vec<u64>,
    /// The last pgbench's, for an error.
    report: String,
}

impl Found {
    fn run(self, before: Mark, after: Mark) -> Result<Run> {
        let [from, to] = [before.at, after.at].map(microseconds);
        let transactions = self.inside.len() as u64;
        let [p50, p99] = percentiles(self.inside, [50, 99]).ok_or(Error::Pgbench {
            what: "logs",
            output: self.report,
        })?;
        Ok(Run {
            transactions,
            sent: self.sent,
            window: Duration::from_micros(u64::try_from(to - from).unwrap_or(u64::MAX)),
            cpu: after.cpu.saturating_sub(before.cpu),
            p50,
            p99,
        })
    }
}

fn microseconds(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}

fn reported_transactions(report: &str) -> Result<u64> {
    report
        .lines()
        .find_map(|line| {
            line.strip_prefix("number of transactions actually processed: ")?
                .split([' ', '/'])
                .next()?
                .parse()
                .ok()
        })
        .filter(|&transactions| transactions > 0)
        .ok_or_else(|| Error::Pgbench {
            what: "report",
            output: report.to_owned(),
        })
}

/// How many logs (one a thread) have anything in them.
fn written_logs(folder: &Path) -> std::io::Result<usize> {
    let mut written = 0;
    for entry in std::fs::read_dir(folder)? {
        written += usize::from(entry?.metadata()?.len() > 0);
    }
    Ok(written)
}

/// All transactions in a folder of logs, which is removed.
fn take_logs(folder: &Path) -> std::io::Result<Vec<Logged>> {
    let mut transactions = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let text = std::fs::read_to_string(entry?.path())?;
        transactions.extend(text.lines().filter_map(logged));
    }
    std::fs::remove_dir_all(folder)?;
    Ok(transactions)
}

/// `client transaction microseconds script end_seconds end_microseconds ...`
fn logged(line: &str) -> Option<Logged> {
    let mut columns = line.split(' ').skip(2);
    let mut next = || columns.next()?.parse::<u64>().ok();
    let took = Duration::from_micros(next()?);
    next()?;
    let (seconds, rest) = (next()?, next()?);
    Some(Logged {
        end: u128::from(seconds) * 1_000_000 + u128::from(rest),
        took,
    })
}

/// For each percentage the smallest value that at least so many do not exceed.
pub fn percentiles<const N: usize>(
    mut latencies: Vec<Duration>,
    percentages: [usize; N],
) -> Option<[Duration; N]> {
    latencies.sort_unstable();
    let mut found = [Duration::ZERO; N];
    for (found, percentage) in found.iter_mut().zip(percentages) {
        let rank = (latencies.len() * percentage).div_ceil(100);
        *found = *latencies.get(rank.checked_sub(1)?)?;
    }
    Some(found)
}
