//! `trunkline demo`: a local cluster, sample data loaded through the proxy, and a tour that proves where statements go.
//!
//! It never pretends: every line of the tour is a statement that was sent through the proxy, and the shard it names is
//! the one whose server answered. Read `tour.rs` for that, `sample.rs` for tables and data, `configuration.rs` for the
//! file the proxy reads.

pub mod configuration;
mod error;
pub mod sample;
mod signals;
pub mod tour;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::local::{
    Access, Cluster, ClusterOptions, Durability, LocalError, ServerOptions, Storage,
    first_free_port,
};
use crate::{catalog, server};
pub use error::DemoError;
use signals::Signals;

/// Threads of the control plane, and of the demo's own clients.
const CONTROL_THREADS: usize = 2;
/// Role and database.
const APPLICATION: &str = "app";
/// The proxy's port when it is free, else one of those that follow.
const PORT: u16 = 6432;
/// The same for metrics and health.
const HTTP_PORT: u16 = 9127;
/// How many ports from there are tried.
const PORT_TRIES: u16 = 100;
/// Its presence says that all sample data has been loaded.
const LOADED: &str = "loaded";

/// A local sharded cluster in one command, with sample data and a tour.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Number of shards [default: what the data folder holds, or 4]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: Option<u16>,
    /// Replicas of each shard [default: what the data folder holds, or 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=8))]
    pub replicas: Option<u16>,
    /// Folder of the servers' data [default: ~/.local/share/trunkline/demo, or /var/lib/trunkline/demo for root]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Remove what an earlier demo left in the data folder, and begin anew
    #[arg(long)]
    pub fresh: bool,
    /// Port of the proxy [default: 6432, or the next free one]
    #[arg(long)]
    pub port: Option<u16>,
    /// Show the tour, stop everything, and exit with 0 only if every statement went where it should
    #[arg(long)]
    pub tour_only: bool,
}

/// Runs the demo to its end. Exits with 130 when it was stopped before it was up.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(demo(arguments)),
        Err(e) => Err(DemoError::Runtime(e)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(DemoError::Interrupted) => {
            eprintln!("stopped");
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("trunkline demo: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<(), DemoError> {
    let mut signals = Signals::listen()?;
    let begun = Instant::now();
    let addresses = addresses(arguments.port)?;
    let mut cluster = start_cluster(arguments, &mut signals).await?;
    println!(
        "  {} after {:.1} s",
        described(&cluster),
        begun.elapsed().as_secs_f32()
    );

    let outcome = with_proxy(arguments, &cluster, addresses, &mut signals).await;
    println!("stopping the servers");
    let stopped = tokio::task::spawn_blocking(move || cluster.stop())
        .await
        .map_err(DemoError::panicked)?;
    outcome.and(stopped.map_err(DemoError::Local))
}

/// The proxy's addresses: for clients, and for metrics and health.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub clients: SocketAddr,
    pub http: SocketAddr,
}

fn addresses(port: Option<u16>) -> Result<Addresses, LocalError> {
    let clients = match port {
        Some(port) => first_free_port(port, 1)?,
        None => first_free_port(PORT, PORT_TRIES)?,
    };
    let http = first_free_port(HTTP_PORT, PORT_TRIES)?;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Addresses {
        clients: local(clients),
        http: local(http),
    })
}

async fn start_cluster(arguments: &Arguments, signals: &mut Signals) -> Result<Cluster, DemoError> {
    let folder = match &arguments.data {
        Some(folder) => folder.clone(),
        None => default_folder()?,
    };
    println!("starting Postgres servers in {}", folder.display());
    let options = ClusterOptions {
        shards: arguments.shards,
        replicas: arguments.replicas,
        storage: if arguments.fresh {
            Storage::Fresh(folder)
        } else {
            Storage::Kept(folder)
        },
        server: ServerOptions {
            access: Access::Password,
            durability: Durability::Volatile,
            ..ServerOptions::default()
        },
        application: APPLICATION.into(),
    };
    let mut starting = tokio::task::spawn_blocking(|| Cluster::start(options));
    let started = tokio::select! {
        started = &mut starting => started.map_err(DemoError::panicked)?,
        () = signals.stop() => {
            // What has started by then stops in good order. Who asks a second time leaves that to the watchdog.
            tokio::select! {
                started = &mut starting => drop(started),
                () = signals.stop() => std::process::exit(130),
            }
            return Err(DemoError::Interrupted);
        }
    };
    started.map_err(DemoError::Local)
}

fn default_folder() -> Result<PathBuf, DemoError> {
    if nix::unistd::Uid::effective().is_root() {
        // Root's servers run as another user, who can enter /var/lib but not /root.
        return Ok("/var/lib/trunkline/demo".into());
    }
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("trunkline/demo"))
        .ok_or(DemoError::NoHome)
}

fn described(cluster: &Cluster) -> String {
    let servers = cluster
        .shards()
        .iter()
        .flat_map(|shard| shard.servers())
        .count();
    format!(
        "{servers} servers of Postgres {}, running as {}, ready",
        cluster.installation().version(),
        cluster.installation().account().name()
    )
}

async fn with_proxy(
    arguments: &Arguments,
    cluster: &Cluster,
    addresses: Addresses,
    signals: &mut Signals,
) -> Result<(), DemoError> {
    let loaded = cluster.folder().join(LOADED);
    let is_loaded = loaded.exists();
    let file = cluster.folder().join("trunkline.toml");
    configuration::write(&file, &configuration::text(cluster, addresses))?;
    println!(
        "starting the proxy on {} with {}",
        addresses.clients,
        file.display()
    );
    let mut proxy = start_proxy(&file).await?;
    let outcome = tokio::select! {
        outcome = show(arguments, cluster, addresses, (!is_loaded).then_some(&loaded)) => outcome,
        () = signals.stop() => Err(DemoError::Interrupted),
    };
    if outcome.is_ok() && !arguments.tour_only {
        println!("\nCtrl-C stops the proxy and all servers; the data stays for the next start.");
        tokio::select! {
            () = signals.stop() => {}
            () = proxy.ended() => {}
        }
    }
    // Clients may finish their transactions; who asks again does not wait for them.
    tokio::select! {
        () = proxy.shut_down() => {}
        () = signals.stop() => {}
    }
    outcome
}

async fn start_proxy(file: &Path) -> Result<server::Handle, DemoError> {
    let config = catalog::load(file).map_err(server::StartError::Config)?;
    super::serve::log(&config.log).map_err(DemoError::Broken)?;
    Ok(server::start(config, Some(file.to_owned())).await?)
}

/// Loads what is not loaded, then the tour.
async fn show(
    arguments: &Arguments,
    cluster: &Cluster,
    addresses: Addresses,
    to_load: Option<&PathBuf>,
) -> Result<(), DemoError> {
    let access = tour::Access::of(cluster, addresses);
    let begun = Instant::now();
    if to_load.is_some() {
        sample::make_tables(&access.application()).await?;
    }
    sample::wait_until_known(&access.application()).await?;
    if let Some(loaded) = to_load {
        let statements = sample::load(&access.application()).await?;
        sample::check(cluster)?;
        let seconds = begun.elapsed().as_secs_f32();
        println!(
            "  tables made and sample data loaded through the proxy: {statements} statements in {seconds:.1} s"
        );
        std::fs::write(loaded, "").map_err(|source| DemoError::File {
            path: loaded.clone(),
            source,
        })?;
    }
    let wrong = tour::show(cluster, &access).await?;
    if wrong > 0 {
        return Err(DemoError::Tour { wrong });
    }
    if !arguments.tour_only {
        println!("\ntry it:\n  {}", access.psql());
        println!("  {}", access.psql_admin());
        println!("metrics: http://{}/metrics", addresses.http);
    }
    Ok(())
}
