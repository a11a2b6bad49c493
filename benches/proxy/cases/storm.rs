//! A connection storm: ten thousand logins and goodbyes, and what they do to statements that run at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_rustls::rustls::ClientConfig;

use super::{Bench, blocking, idle};
use crate::client::Client;
use crate::cpu;
use crate::error::Result;
use crate::load::{Pace, Protocol, Run, Work};
use crate::report::Measure;
use crate::subjects::{Entrant, Lineup, Settings, Subject, Tls};
use crate::tls;

/// Who log in at the same time.
const THREADS: u32 = 8;
/// Of the load beside the storm, statements a second.
const RATE: u32 = 500;

pub async fn run(bench: &mut Bench) -> Result<()> {
    let logins = if bench.smoke { 1_000 } else { 10_000 };
    let (with_tls, config) = tls::make(bench.folder.path())?;
    for tls in [Tls::Off, with_tls] {
        for subject in bench.proxies() {
            let (kind, config) = match tls {
                Tls::Off => ("plain", None),
                Tls::On { .. } => ("tls", Some(Arc::clone(&config))),
            };
            let settings = Settings {
                // A proxy that has much to do counts those that have left for a while.
                clients: 5_000,
                tls: tls.clone(),
                ..bench.settings.clone()
            };
            storm(bench, subject, kind, config, &settings, logins).await?;
        }
    }
    Ok(())
}

async fn storm(
    bench: &mut Bench,
    subject: Subject,
    kind: &'static str,
    config: Option<Arc<ClientConfig>>,
    settings: &Settings,
    logins: u32,
) -> Result<()> {
    let lineup = Lineup::start(&[subject], &bench.site(settings)).await?;
    let entrant = lineup.get(subject, Protocol::Simple);
    let (port, pid) = idle::address(&lineup, subject)?;
    let work = Work {
        protocol: Protocol::Simple,
        script: None,
        statements: 1,
        clients: 8,
        jobs: 1,
    };
    let pace = Pace::PerSecond(RATE);
    let quiet = bench.load.measure(&work, &[entrant], pace, 1).await?;

    // Alone: the cost of a login, and how many a second.
    let before = cpu::used(pid)?;
    let attacker = config.clone();
    let took = blocking("open and close connections", move || {
        log_in(port, attacker.as_ref(), Until::Count(logins)).map(|(took, _)| took)
    })
    .await?;
    let cpu = cpu::used(pid)?.saturating_sub(before);

    // Beside statements: of the same process, and of another one, which takes from the statements nothing but processors.
    let other = Lineup::start(&[subject], &bench.site(settings)).await?;
    let (elsewhere, _) = idle::address(&other, subject)?;
    let (elsewhere, _) = beside(bench, (&work, entrant, 2), elsewhere, config.clone()).await?;
    let (stormy, logged_in) = beside(bench, (&work, entrant, 3), port, config).await?;
    bench.add(
        Measure::new("storm", kind, subject, 1)
            .with("logins", f64::from(logins))
            .with("logins_per_second", f64::from(logins) / took.as_secs_f64())
            .with(
                "cpu_us_per_login",
                cpu.as_secs_f64() * 1e6 / f64::from(logins),
            )
            .with("p99_ms_quiet", p99_ms(&quiet))
            .with("p99_ms_storm_elsewhere", elsewhere)
            .with("p99_ms_in_storm", stormy)
            .with("logins_in_storm", f64::from(logged_in)),
    )
}

/// Statements, watched while others log in at this port: their 99th percentile in ms, and how many logged in.
async fn beside(
    bench: &Bench,
    (work, entrant, seed): (&Work, &Entrant, u32),
    port: u16,
    config: Option<Arc<ClientConfig>>,
) -> Result<(f64, u32)> {
    let stop = Arc::new(AtomicU32::new(0));
    let flag = Arc::clone(&stop);
    let storm = tokio::spawn(blocking("open and close connections", move || {
        log_in(port, config.as_ref(), Until::Flag(&flag)).map(|(_, count)| count)
    }));
    let pace = Pace::PerSecond(RATE);
    let runs = bench.load.measure(work, &[entrant], pace, seed).await;
    stop.store(1, Ordering::Relaxed);
    let logged_in = storm
        .await
        .map_err(|e| crate::error::Error::io("join the storm", e.into()))??;
    Ok((p99_ms(&runs?), logged_in))
}

fn p99_ms(runs: &[Run]) -> f64 {
    runs[0].p99.as_secs_f64() * 1e3
}

#[derive(Clone, Copy)]
enum Until<'a> {
    Count(u32),
    /// It is not zero.
    Flag(&'a AtomicU32),
}

/// Logs in and out again from several threads. The first error ends it.
fn log_in(
    port: u16,
    config: Option<&Arc<ClientConfig>>,
    until: Until<'_>,
) -> std::io::Result<(Duration, u32)> {
    let (began, next) = (Instant::now(), AtomicU32::new(0));
    let one_after_the_other = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let over = match until {
                Until::Count(count) => number >= count,
                Until::Flag(flag) => flag.load(Ordering::Relaxed) != 0,
            };
            if over {
                return Ok(());
            }
            Client::connect(port, config)?.leave()?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        let ends = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
        });
        ends.collect::<std::io::Result<Vec<()>>>()
    })?;
    Ok((
        began.elapsed(),
        next.load(Ordering::Relaxed).saturating_sub(THREADS),
    ))
}
