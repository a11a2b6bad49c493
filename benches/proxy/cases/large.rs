//! Answers and rows larger than any buffer, and COPY both ways: the memory a proxy grows by, its rate and its CPU time.

use std::time::Instant;

use super::{Bench, blocking};
use crate::client::Client;
use crate::cpu;
use crate::error::Result;
use crate::load::Protocol;
use crate::memory;
use crate::report::Measure;
use crate::subjects::{Lineup, Subject};

const LINE: usize = 1000;

#[derive(Clone, Copy, Debug)]
enum Transfer {
    Result,
    Row,
    CopyOut,
    CopyIn,
}

impl Transfer {
    const ALL: [Transfer; 4] = [
        Transfer::Result,
        Transfer::Row,
        Transfer::CopyOut,
        Transfer::CopyIn,
    ];

    fn name(self) -> &'static str {
        match self {
            Transfer::Result => "result",
            Transfer::Row => "row",
            Transfer::CopyOut => "copy_out",
            Transfer::CopyIn => "copy_in",
        }
    }

    /// Moves about `bytes` (half as many in one row, which Postgres limits to 1 GB) and returns how many it was.
    fn run(self, client: &mut Client, bytes: usize) -> std::io::Result<u64> {
        let lines = bytes / LINE;
        match self {
            Transfer::Result => client.query(&format!(
                "SELECT repeat('x', {LINE}) FROM generate_series(1, {lines})"
            )),
            Transfer::Row => client.query(&format!("SELECT repeat('x', {})", bytes / 2)),
            Transfer::CopyOut => client.query(&format!(
                "COPY (SELECT repeat('x', {LINE}) FROM generate_series(1, {lines})) TO STDOUT"
            )),
            Transfer::CopyIn => {
                let line = [&vec![b'x'; LINE - 1][..], b"\n"].concat();
                client.query("TRUNCATE bench_copy")?;
                client.copy_in("COPY bench_copy FROM STDIN", &line, lines)?;
                Ok((lines * LINE) as u64)
            }
        }
    }
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (bytes, rounds) = if bench.smoke {
        (64 << 20, 1)
    } else {
        (1 << 30, 3)
    };
    bench
        .on_first_server("CREATE UNLOGGED TABLE bench_copy (line text)")
        .await?;
    let subjects: Vec<Subject> = [vec![Subject::Direct], bench.proxies()].concat();
    let settings = bench.settings.clone();
    let lineup = Lineup::start(&subjects, &bench.site(&settings)).await?;
    for transfer in Transfer::ALL {
        for round in 1..=rounds {
            for &subject in &super::in_turn(&subjects, round) {
                let entrant = lineup.get(subject, Protocol::Simple);
                let (port, pid) = (entrant.port, entrant.pid());
                let (moved, took, cpu, grown) = blocking("move much data", move || {
                    let mut client = Client::connect(port, None)?;
                    let used = || pid.map_or(Ok(Default::default()), cpu::used);
                    let resident = pid.map(memory::resident).transpose();
                    let _ = pid.map(memory::forget_peak);
                    let (cpu, began) = (used(), Instant::now());
                    let moved = transfer.run(&mut client, bytes)?;
                    let took = began.elapsed();
                    let cpu = (cpu, used());
                    let grown = (resident, pid.map(memory::peak).transpose());
                    client.leave()?;
                    Ok((moved, took, cpu, grown))
                })
                .await?;
                let megabytes = moved as f64 / 1e6;
                let mut measure = Measure::new("large", transfer.name(), subject, round)
                    .with("megabytes", megabytes)
                    .with("megabytes_per_second", megabytes / took.as_secs_f64());
                if let (Some(before), Some(peak)) = (grown.0?, grown.1?) {
                    let cpu = cpu.1?.saturating_sub(cpu.0?);
                    measure = measure
                        .with(
                            "resident_growth_kb",
                            peak.saturating_sub(before) as f64 / 1024.0,
                        )
                        .with("cpu_us_per_megabyte", cpu.as_secs_f64() * 1e6 / megabytes);
                }
                bench.add(measure)?;
            }
        }
    }
    bench.on_first_server("DROP TABLE bench_copy").await
}
