//! What is compared, and the configuration each gets: the same number of server connections in total (divided among the shards),
//! no TLS, no passwords, one worker thread.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::load::Protocol;
use crate::postgres::{self, Binaries, DATABASE, Server, USER};
use crate::process::{Running, in_own_session};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// No proxy.
    Direct,
    /// `forwarder.rs`, the floor.
    Forwarder,
    Pgbouncer,
    /// One shard: the least there is to decide.
    Trunkline,
    /// `pgbench_accounts` hashed by its key over four shards.
    #[value(name = "trunkline-4-shards")]
    #[serde(rename = "trunkline-4-shards")]
    TrunklineFourShards,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::Forwarder => "forwarder",
            Subject::Pgbouncer => "pgbouncer",
            Subject::Trunkline => "trunkline",
            Subject::TrunklineFourShards => "trunkline-4-shards",
        }
    }
}

/// When PgBouncer takes a server connection back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PgbouncerMode {
    Transaction,
    /// Before 1.21 PgBouncer knows no prepared statements in transaction pooling. Session pooling is its only way to run them: cheaper,
    /// with a server connection for every client, and so not quite the same job.
    Session,
}

#[derive(Debug)]
pub struct Settings {
    /// Server connections per server.
    pub pool_size: u32,
    pub clients: u32,
    pub trunkline: PathBuf,
    pub pgbouncer: Option<PathBuf>,
}

/// A subject that takes connections.
#[derive(Debug)]
pub struct Entrant {
    pub subject: Subject,
    pub port: u16,
    /// What it says of itself.
    pub version: String,
    pub pgbouncer_mode: Option<PgbouncerMode>,
    /// The proxy; `None` when there is none.
    process: Option<Running>,
}

impl Entrant {
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }
}

/// All subjects of a run, up at the same time. Stopped when dropped.
#[derive(Debug)]
pub struct Lineup {
    entrants: Vec<Entrant>,
}

/// `$PGBOUNCER`, else PgBouncer from `PATH`, else from where Debian puts it (which is not in everybody's `PATH`).
pub fn installed_pgbouncer() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("PGBOUNCER").filter(|name| !name.is_empty()) {
        return Some(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

/// The subjects asked for, or all that this machine has.
pub fn choose(asked: Option<&[Subject]>, settings: &Settings) -> Result<Vec<Subject>> {
    let absent = "PgBouncer was not found; install it (Debian: `apt-get install pgbouncer`) or set PGBOUNCER";
    match asked {
        Some(asked) if asked.contains(&Subject::Pgbouncer) && settings.pgbouncer.is_none() => {
            Err(Error::Missing(absent.to_owned()))
        }
        Some(asked) => Ok(asked.to_vec()),
        None => {
            let mut all = Subject::value_variants().to_vec();
            if settings.pgbouncer.is_none() {
                eprintln!("{absent}; going on without it and without ratios");
                all.retain(|&subject| subject != Subject::Pgbouncer);
            }
            Ok(all)
        }
    }
}

impl Lineup {
    pub async fn start(
        subjects: &[Subject],
        settings: &Settings,
        binaries: &Binaries,
        servers: &[Server],
        folder: &Path,
    ) -> Result<Lineup> {
        let mut entrants = Vec::new();
        for &subject in subjects {
            match subject {
                Subject::Direct => entrants.push(Entrant {
                    subject,
                    port: servers[0].port,
                    version: format!("Postgres {}", binaries.version),
                    pgbouncer_mode: None,
                    process: None,
                }),
                Subject::Forwarder => {
                    entrants.push(start_forwarder(&servers[0], binaries, folder).await?)
                }
                Subject::Pgbouncer => {
                    entrants.extend(start_pgbouncer(settings, &servers[0], binaries, folder).await?)
                }
                Subject::Trunkline => entrants.push(
                    start_trunkline(subject, settings, &servers[..1], binaries, folder).await?,
                ),
                Subject::TrunklineFourShards => entrants
                    .push(start_trunkline(subject, settings, servers, binaries, folder).await?),
            }
        }
        Ok(Lineup { entrants })
    }

    /// The entrant that speaks for a subject in a protocol: PgBouncer may have two, the session-pooling one for `prepared`.
    pub fn get(&self, subject: Subject, protocol: Protocol) -> &Entrant {
        let mut of_subject = self
            .entrants
            .iter()
            .filter(|entrant| entrant.subject == subject);
        let session = of_subject
            .clone()
            .find(|entrant| entrant.pgbouncer_mode == Some(PgbouncerMode::Session));
        match (protocol, session) {
            (Protocol::Prepared, Some(session)) => session,
            _ => of_subject
                .next()
                .expect("every subject of the run was started"),
        }
    }
}

/// Starts a proxy and waits until a query goes through it.
async fn start(
    subject: Subject,
    command: &mut Command,
    port: u16,
    version: String,
    pgbouncer_mode: Option<PgbouncerMode>,
    binaries: &Binaries,
    folder: &Path,
) -> Result<Entrant> {
    let log = folder.join(format!("{}-{port}.log", subject.name()));
    let mut process = Running::start(subject.name(), command, &log, Signal::SIGTERM)?;
    process
        .wait_until_ready(
            port,
            binaries.psql(port, "SELECT abalance FROM pgbench_accounts WHERE aid = 1"),
        )
        .await?;
    Ok(Entrant {
        subject,
        port,
        version,
        pgbouncer_mode,
        process: Some(process),
    })
}

async fn start_forwarder(server: &Server, binaries: &Binaries, folder: &Path) -> Result<Entrant> {
    let itself = std::env::current_exe().map_err(|e| Error::io("find this program's file", e))?;
    let port = postgres::free_port()?;
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port)).to_string();
    let mut command = in_own_session(itself);
    command
        .arg("--forward")
        .arg(local(port))
        .arg(local(server.port));
    start(
        Subject::Forwarder,
        &mut command,
        port,
        "epoll, one thread".to_owned(),
        None,
        binaries,
        folder,
    )
    .await
}

async fn start_pgbouncer(
    settings: &Settings,
    server: &Server,
    binaries: &Binaries,
    folder: &Path,
) -> Result<Vec<Entrant>> {
    let program = settings
        .pgbouncer
        .as_ref()
        .expect("choose() leaves PgBouncer out when it was not found");
    let version = postgres::version_of(program)?;
    let prepares = prepares_in_transactions(&version);
    let modes: &[_] = if prepares {
        &[PgbouncerMode::Transaction]
    } else {
        &[PgbouncerMode::Transaction, PgbouncerMode::Session]
    };
    let users = folder.join("pgbouncer-users.txt");
    write(&users, &format!("\"{USER}\" \"\"\n"))?;
    let mut entrants = Vec::new();
    for &mode in modes {
        let port = postgres::free_port()?;
        let (mode_name, pool_size) = match mode {
            PgbouncerMode::Transaction => ("transaction", settings.pool_size),
            // pgbench starts when all its clients are in.
            PgbouncerMode::Session => ("session", settings.pool_size.max(settings.clients)),
        };
        let mut ini = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={server} dbname={DATABASE}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {users}\npool_mode = {mode_name}\ndefault_pool_size = {pool_size}\nmax_client_conn = {most}\n\
             log_connections = 0\nlog_disconnections = 0\n",
            server = server.port,
            users = users.display(),
            most = settings.clients + 20,
        );
        if prepares {
            ini.push_str("max_prepared_statements = 200\n");
        }
        let file = folder.join(format!("pgbouncer-{mode_name}.ini"));
        write(&file, &ini)?;
        let mut command = postgres::as_server_account(program)?;
        command.arg("-q").arg(&file).current_dir(folder);
        entrants.push(
            start(
                Subject::Pgbouncer,
                &mut command,
                port,
                version.clone(),
                Some(mode),
                binaries,
                folder,
            )
            .await?,
        );
    }
    Ok(entrants)
}

/// Whether "PgBouncer 1.25.2" is at least 1.21.
fn prepares_in_transactions(version: &str) -> bool {
    let numbers = version.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = numbers
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1, 21)
}

async fn start_trunkline(
    subject: Subject,
    settings: &Settings,
    servers: &[Server],
    binaries: &Binaries,
    folder: &Path,
) -> Result<Entrant> {
    let version = postgres::version_of(&settings.trunkline)?;
    let port = postgres::free_port()?;
    let file = folder.join(format!("{}.toml", subject.name()));
    // A pool is one shard's: as many connections in all as the other subjects have.
    let shards = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let pool_size = (settings.pool_size / shards).max(1);
    write(&file, &trunkline_config(port, pool_size, servers))?;
    let mut command = in_own_session(&settings.trunkline);
    command.arg("serve").arg(&file).current_dir(folder);
    start(subject, &mut command, port, version, None, binaries, folder).await
}

/// `pgbench_accounts` sharded by hash of its key, its small companions on every shard.
fn trunkline_config(port: u16, pool_size: u32, servers: &[Server]) -> String {
    let names: Vec<String> = (0..servers.len())
        .map(|number| format!("s{number}"))
        .collect();
    let mut toml = format!(
        "workers = 1\n\n[listen]\naddresses = [\"127.0.0.1:{port}\"]\n\n[pool]\nsize = {pool_size}\n\n\
         [[users]]\nname = \"{USER}\"\nauth = \"trust\"\n\n[[databases]]\nname = \"{DATABASE}\"\n\n"
    );
    for (name, server) in names.iter().zip(servers) {
        let node = format!("{{ host = \"127.0.0.1\", port = {} }}", server.port);
        write!(toml, "[[shards]]\nname = \"{name}\"\nnodes = [{node}]\n\n")
            .expect("writing to a string cannot fail");
    }
    write!(
        toml,
        "[[distributions]]\nname = \"accounts\"\nkey = \"integer\"\nstrategy = \"hash\"\nshards = {names:?}\n\n\
         [[tables]]\nname = \"pgbench_accounts\"\ndistribution = \"accounts\"\nkey = \"aid\"\n\n"
    )
    .expect("writing to a string cannot fail");
    for table in ["pgbench_branches", "pgbench_tellers", "pgbench_history"] {
        write!(
            toml,
            "[[tables]]\nname = \"{table}\"\nplacement = \"reference\"\n\n"
        )
        .expect("writing to a string cannot fail");
    }
    toml
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))
}
