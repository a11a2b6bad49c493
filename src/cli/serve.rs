//! `trunkline serve`: the proxy in the foreground. SIGHUP reads the configuration again; SIGTERM and SIGINT finish open
//! transactions, then end; a second one ends at once.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::open_files;
use crate::catalog;
use crate::config::{self, Log, LogFormat};
use crate::server::{self, Handle};

/// Threads of the control plane: it waits much and works little.
const CONTROL_THREADS: usize = 1;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let config = match catalog::load(&arguments.file) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = log(&config.log) {
        eprintln!("log.filter: {error}");
        return ExitCode::FAILURE;
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    open_files::prepare(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build();
    let served = runtime
        .map_err(server::StartError::Thread)
        .and_then(|runtime| runtime.block_on(serve(config, arguments)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error as the configuration says; `RUST_LOG` outranks its filter.
pub(super) fn log(log: &Log) -> Result<(), String> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| log.filter.clone());
    let filter = EnvFilter::try_new(&filter).map_err(|error| format!("{filter:?}: {error}"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match log.format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

async fn serve(config: config::Config, arguments: &Arguments) -> Result<(), server::StartError> {
    let signals = |kind| signal(kind).map_err(server::StartError::Thread);
    let mut hangup = signals(SignalKind::hangup())?;
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let mut handle: Handle = server::start(config, Some(arguments.file.clone())).await?;
    for address in &handle.addresses {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = handle.http {
        tracing::info!(%address, "metrics and health");
    }
    loop {
        tokio::select! {
            _ = hangup.recv() => drop(handle.reload().await),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = handle.ended() => break,
        }
    }
    tracing::info!("shutting down: open transactions may finish");
    tokio::select! {
        () = handle.shut_down() => {}
        _ = terminate.recv() => tracing::warn!("ended at once"),
        _ = interrupt.recv() => tracing::warn!("ended at once"),
    }
    Ok(())
}
