//! What a client costs that is connected and does nothing: ten thousand of them, each after one statement, with and without TLS; and
//! how much of a large message a proxy keeps afterwards.

use std::sync::Arc;

use tokio_rustls::rustls::ClientConfig;

use super::{Bench, blocking};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::memory;
use crate::report::Measure;
use crate::subjects::{Lineup, Settings, Subject, Tls};
use crate::tls;

const STATEMENT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 1";
/// Connected before the count begins: what a process needs once is then there.
const FIRST: u32 = 50;
/// Of the row and of the statement that are to leave nothing behind, bytes.
const LARGE: usize = 4_000_000;
const LARGE_CLIENTS: u32 = 50;

pub async fn run(bench: &mut Bench) -> Result<()> {
    let clients = if bench.smoke { 1_000 } else { 10_000 };
    let (with_tls, config) = tls::make(bench.folder.path())?;
    for subject in bench.proxies() {
        for tls in [Tls::Off, with_tls.clone()] {
            let (kind, config) = match tls {
                Tls::Off => ("plain", None),
                Tls::On { .. } => ("tls", Some(Arc::clone(&config))),
            };
            let settings = Settings {
                clients: clients + FIRST,
                tls,
                ..bench.settings.clone()
            };
            hold(bench, subject, kind, config, &settings, clients).await?;
        }
        let settings = bench.settings.clone();
        shrink(bench, subject, &settings).await?;
    }
    Ok(())
}

async fn hold(
    bench: &mut Bench,
    subject: Subject,
    kind: &'static str,
    config: Option<Arc<ClientConfig>>,
    settings: &Settings,
    clients: u32,
) -> Result<()> {
    let lineup = Lineup::start(&[subject], &bench.site(settings)).await?;
    let (port, pid) = address(&lineup, subject)?;
    let (before, after) = blocking("hold idle clients", move || {
        let mut held = Vec::new();
        let mut connect = |count: u32| -> std::io::Result<Result<u64>> {
            for _ in 0..count {
                let mut client = Client::connect(port, config.as_ref())?;
                client.query(STATEMENT)?;
                held.push(client);
            }
            Ok(memory::resident(pid))
        };
        Ok((connect(FIRST)?, connect(clients)?))
    })
    .await?;
    let (before, after) = (before?, after?);
    bench.add(
        Measure::new("idle_clients", kind, subject, 1)
            .with("clients", f64::from(clients))
            .with(
                "resident_bytes_per_client",
                after.saturating_sub(before) as f64 / f64::from(clients),
            ),
    )
}

async fn shrink(bench: &mut Bench, subject: Subject, settings: &Settings) -> Result<()> {
    let lineup = Lineup::start(&[subject], &bench.site(settings)).await?;
    let (port, pid) = address(&lineup, subject)?;
    let (before, after) = blocking("send large messages", move || {
        let mut held = Vec::new();
        for _ in 0..LARGE_CLIENTS {
            let mut client = Client::connect(port, None)?;
            client.query(STATEMENT)?;
            held.push(client);
        }
        let before = memory::resident(pid);
        let statement = format!("SELECT length('{}')", "x".repeat(LARGE));
        for client in &mut held {
            client.query(&statement)?;
            client.query(&format!("SELECT repeat('x', {LARGE})"))?;
            client.query(STATEMENT)?;
        }
        Ok((before, memory::resident(pid)))
    })
    .await?;
    let (before, after) = (before?, after?);
    bench.add(
        Measure::new("after_large_messages", "plain", subject, 1)
            .with("clients", f64::from(LARGE_CLIENTS))
            // In all: the allocator keeps some for the next one, whoever sends it.
            .with(
                "resident_growth_kb",
                after.saturating_sub(before) as f64 / 1024.0,
            ),
    )
}

pub fn address(lineup: &Lineup, subject: Subject) -> Result<(u16, u32)> {
    let entrant = lineup.get(subject, crate::load::Protocol::Simple);
    let pid = entrant
        .pid()
        .ok_or_else(|| Error::Missing("there is no process to look at".to_owned()))?;
    Ok((entrant.port, pid))
}
