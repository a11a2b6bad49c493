//! The load: `pgbench -S`, one `SELECT abalance FROM pgbench_accounts WHERE aid = $1` a transaction.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::cpu;
use crate::error::{Error, Result};
use crate::postgres::{DATABASE, USER};
use crate::process;
use crate::subjects::Entrant;

/// Share of transactions whose time is logged: enough for a 99th percentile, little enough not to slow pgbench.
const SAMPLED: f64 = 0.1;
/// Transactions of each client before anything is measured: connections are opened, plans and pages cached.
const WARM_UP: u32 = 300;

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

#[derive(Debug)]
pub struct Load {
    pub pgbench: PathBuf,
    /// An empty folder of its own.
    pub logs: PathBuf,
    pub clients: u32,
    pub jobs: u32,
    pub duration: Duration,
}

/// What one run showed.
#[derive(Debug)]
pub struct Run {
    pub transactions: u64,
    pub tps: f64,
    /// Of the proxy, connecting and disconnecting included; zero without a proxy.
    pub cpu: Duration,
    pub p99: Duration,
}

impl Load {
    /// Returns the number of transactions run.
    pub async fn warm_up(&self, protocol: Protocol, port: u16) -> Result<u64> {
        let output = process::run(
            self.pgbench(protocol, port)
                .arg("-t")
                .arg(WARM_UP.to_string())
                .arg(DATABASE),
        )
        .await?;
        Ok(parse(&output)?.0)
    }

    pub async fn measure(&self, protocol: Protocol, entrant: &Entrant) -> Result<Run> {
        let used = || entrant.pid().map_or(Ok(Duration::ZERO), cpu::used);
        let mut command = self.pgbench(protocol, entrant.port);
        command.arg("-T").arg(self.duration.as_secs().to_string());
        command
            .arg("-l")
            .arg(format!("--log-prefix={}", self.logs.join("run").display()))
            .arg(format!("--sampling-rate={SAMPLED}"));
        let before = used()?;
        let output = process::run(command.arg(DATABASE)).await?;
        let cpu = used()?.saturating_sub(before);
        let (transactions, tps) = parse(&output)?;
        let latencies = take_logs(&self.logs).map_err(|e| Error::io("read pgbench's logs", e))?;
        let p99 = percentile_99(latencies).ok_or(Error::Pgbench {
            what: "logs",
            output,
        })?;
        Ok(Run {
            transactions,
            tps,
            cpu,
            p99,
        })
    }

    fn pgbench(&self, protocol: Protocol, port: u16) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.pgbench);
        command.args([
            "-n",
            "-S",
            "-M",
            protocol.name(),
            "-h",
            "127.0.0.1",
            "-U",
            USER,
        ]);
        command
            .arg("-p")
            .arg(port.to_string())
            .arg("-c")
            .arg(self.clients.to_string())
            .arg("-j")
            .arg(self.jobs.to_string());
        command
    }
}

/// Transactions and transactions a second from pgbench's report.
fn parse(output: &str) -> Result<(u64, f64)> {
    let number = |label: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix(label)?.split([' ', '/']).next())
    };
    let transactions =
        number("number of transactions actually processed: ").and_then(|n| n.parse().ok());
    let tps = number("tps = ").and_then(|n| n.parse().ok());
    match (transactions, tps) {
        (Some(transactions), Some(tps)) if transactions > 0 => Ok((transactions, tps)),
        _ => Err(Error::Pgbench {
            what: "report",
            output: output.to_owned(),
        }),
    }
}

/// The microseconds of each logged transaction (third column), from one log for each thread of pgbench; the logs are removed.
fn take_logs(folder: &Path) -> std::io::Result<Vec<u64>> {
    let mut latencies = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        latencies.extend(
            text.lines()
                .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()),
        );
        std::fs::remove_file(&path)?;
    }
    Ok(latencies)
}

/// The smallest value that at least 99 of 100 do not exceed.
fn percentile_99(mut latencies: Vec<u64>) -> Option<Duration> {
    latencies.sort_unstable();
    let rank = (latencies.len() * 99).div_ceil(100);
    latencies
        .get(rank.checked_sub(1)?)
        .map(|&us| Duration::from_micros(us))
}
