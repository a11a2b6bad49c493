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
    /// Four databases, each on a server of its own, and a fourth of the clients in each: as many servers to talk to as Trunkline has with four
    /// shards, and no shard to find.
    #[value(name = "pgbouncer-4-servers")]
    #[serde(rename = "pgbouncer-4-servers")]
    PgbouncerFourServers,
    /// One shard: the least there is to decide.
    Trunkline,
    /// `pgbench_accounts` hashed by its key over four shards.
    #[value(name = "trunkline-4-shards")]
    #[serde(rename = "trunkline-4-shards")]
    TrunklineFourShards,
    /// One shard, two worker threads.
    #[value(name = "trunkline-2-workers")]
    #[serde(rename = "trunkline-2-workers")]
    TrunklineTwoWorkers,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::Forwarder => "forwarder",
            Subject::Pgbouncer => "pgbouncer",
            Subject::PgbouncerFourServers => "pgbouncer-4-servers",
            Subject::Trunkline => "trunkline",
            Subject::TrunklineFourShards => "trunkline-4-shards",
            Subject::TrunklineTwoWorkers => "trunkline-2-workers",
        }
    }

    pub fn is_pgbouncer(self) -> bool {
        matches!(self, Subject::Pgbouncer | Subject::PgbouncerFourServers)
    }

    /// Whether it needs more than one server.
    pub fn has_four_servers(self) -> bool {
        matches!(
            self,
            Subject::PgbouncerFourServers | Subject::TrunklineFourShards
        )
    }
}

/// Beside the clients of the load: probes, and those that are on their way out.
const SPARE_CLIENTS: u32 = 100;

/// When PgBouncer takes a server connection back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PgbouncerMode {
    Transaction,
    /// Before 1.21 PgBouncer knows no prepared statements in transaction pooling. Session pooling is its only way to run them: cheaper,
    /// with a server connection for every client, and so not quite the same job.
    Session,
}

/// What joins clients, proxies and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    Loopback,
    Unix,
}

/// Whether proxies have a certificate and clients may ask for TLS.
#[derive(Clone, Debug)]
pub enum Tls {
    Off,
    On { certificate: PathBuf, key: PathBuf },
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Server connections per server.
    pub pool_size: u32,
    /// Most clients at a time.
    pub clients: u32,
    /// After how many seconds PgBouncer tries again to reach a server that it could not log in to; `None`: its default, 15.
    pub login_retry: Option<u32>,
    pub sockets: Sockets,
    pub tls: Tls,
    pub trunkline: PathBuf,
    pub pgbouncer: Option<PathBuf>,
}

/// A subject that takes connections.
#[derive(Debug)]
pub struct Entrant {
    pub subject: Subject,
    /// An address, or the folder of a Unix socket.
    pub host: String,
    pub port: u16,
    /// Its clients are spread evenly over these; each is on a server of its own.
    pub databases: Vec<String>,
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
        Some(asked)
            if asked.iter().any(|subject| subject.is_pgbouncer())
                && settings.pgbouncer.is_none() =>
        {
            Err(Error::Missing(absent.to_owned()))
        }
        Some(asked) => Ok(asked.to_vec()),
        None => {
            let mut all = vec![
                Subject::Direct,
                Subject::Forwarder,
                Subject::Pgbouncer,
                Subject::PgbouncerFourServers,
                Subject::Trunkline,
                Subject::TrunklineFourShards,
            ];
            if settings.pgbouncer.is_none() {
                eprintln!("{absent}; going on without it and without ratios");
                all.retain(|subject| !subject.is_pgbouncer());
            }
            Ok(all)
        }
    }
}

/// What subjects are started with.
#[derive(Debug)]
pub struct Site<'a> {
    pub settings: &'a Settings,
    pub binaries: &'a Binaries,
    pub servers: &'a [Server],
    pub folder: &'a Path,
}

impl Lineup {
    pub async fn start(subjects: &[Subject], site: &Site<'_>) -> Result<Lineup> {
        let mut entrants = Vec::new();
        for &subject in subjects {
            match subject {
                Subject::Direct => entrants.push(Entrant {
                    subject,
                    host: site.host(),
                    port: site.servers[0].port,
                    databases: vec![DATABASE.to_owned()],
                    version: format!("Postgres {}", site.binaries.version),
                    pgbouncer_mode: None,
                    process: None,
                }),
                Subject::Forwarder => entrants.push(site.start_forwarder().await?),
                Subject::Pgbouncer | Subject::PgbouncerFourServers => {
                    entrants.extend(site.start_pgbouncer(subject).await?);
                }
                Subject::Trunkline | Subject::TrunklineTwoWorkers => {
                    entrants.push(site.start_trunkline(subject, &site.servers[..1]).await?);
                }
                Subject::TrunklineFourShards => {
                    entrants.push(site.start_trunkline(subject, site.servers).await?);
                }
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

impl Site<'_> {
    /// Where servers and proxies listen, as libpq and the proxies spell it.
    fn host(&self) -> String {
        match self.settings.sockets {
            Sockets::Loopback => "127.0.0.1".to_owned(),
            Sockets::Unix => self.folder.display().to_string(),
        }
    }

    /// What its clients connect to; with several, the place is that of the server.
    fn databases(&self, subject: Subject) -> Vec<String> {
        match subject {
            Subject::PgbouncerFourServers => (0..self.servers.len())
                .map(|number| format!("{DATABASE}{number}"))
                .collect(),
            _ => vec![DATABASE.to_owned()],
        }
    }

    /// Starts a proxy and waits until a query goes through it.
    async fn start(
        &self,
        subject: Subject,
        command: &mut Command,
        port: u16,
        version: String,
        pgbouncer_mode: Option<PgbouncerMode>,
    ) -> Result<Entrant> {
        let log = self.folder.join(format!("{}-{port}.log", subject.name()));
        let mut process = Running::start(subject.name(), command, &log, Signal::SIGTERM)?;
        let host = self.host();
        let sql = "SELECT abalance FROM pgbench_accounts WHERE aid = 1";
        let databases = self.databases(subject);
        for database in &databases {
            let mut probe = self.binaries.psql(&host, port, sql);
            probe.arg("-d").arg(database);
            process.wait_until_ready(port, probe).await?;
        }
        Ok(Entrant {
            subject,
            host,
            port,
            databases,
            version,
            pgbouncer_mode,
            process: Some(process),
        })
    }

    async fn start_forwarder(&self) -> Result<Entrant> {
        let itself =
            std::env::current_exe().map_err(|e| Error::io("find this program's file", e))?;
        let port = postgres::free_port()?;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port)).to_string();
        let mut command = in_own_session(itself);
        command
            .arg("--forward")
            .arg(local(port))
            .arg(local(self.servers[0].port));
        let version = "epoll, one thread".to_owned();
        self.start(Subject::Forwarder, &mut command, port, version, None)
            .await
    }

    async fn start_pgbouncer(&self, subject: Subject) -> Result<Vec<Entrant>> {
        let program = self
            .settings
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
        write(
            &self.folder.join("pgbouncer-users.txt"),
            &format!("\"{USER}\" \"\"\n"),
        )?;
        let mut entrants = Vec::new();
        for &mode in modes {
            let port = postgres::free_port()?;
            let file = self.folder.join(format!("pgbouncer-{port}.ini"));
            write(&file, &self.pgbouncer_config(subject, mode, port, prepares))?;
            let mut command = postgres::as_server_account(program)?;
            command.arg("-q").arg(&file).current_dir(self.folder);
            let version = version.clone();
            let entrant = self.start(subject, &mut command, port, version, Some(mode));
            entrants.push(entrant.await?);
        }
        Ok(entrants)
    }

    fn pgbouncer_config(
        &self,
        subject: Subject,
        mode: PgbouncerMode,
        port: u16,
        prepares: bool,
    ) -> String {
        let settings = self.settings;
        let databases = self.databases(subject);
        // A pool is one database's: as many connections in all as the other subjects have.
        let share =
            (settings.pool_size / u32::try_from(databases.len()).unwrap_or(u32::MAX)).max(1);
        let (mode_name, pool_size) = match mode {
            PgbouncerMode::Transaction => ("transaction", share),
            // pgbench starts when all its clients are in.
            PgbouncerMode::Session => ("session", share.max(settings.clients)),
        };
        let unix = match settings.sockets {
            Sockets::Loopback => String::new(),
            Sockets::Unix => self.host(),
        };
        let mut ini = "[databases]\n".to_owned();
        for (database, server) in databases.iter().zip(self.servers) {
            let (host, port) = (self.host(), server.port);
            ini += &format!("{database} = host={host} port={port} dbname={DATABASE}\n");
        }
        ini += &format!(
            "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir = {unix}\nauth_type = trust\nauth_file = {users}\npool_mode = {mode_name}\ndefault_pool_size = {pool_size}\n\
             max_client_conn = {most}\nlog_connections = 0\nlog_disconnections = 0\n",
            users = self.folder.join("pgbouncer-users.txt").display(),
            most = settings.clients + SPARE_CLIENTS,
        );
        if prepares {
            ini.push_str("max_prepared_statements = 200\n");
        }
        if let Some(seconds) = settings.login_retry {
            writeln!(ini, "server_login_retry = {seconds}")
                .expect("writing to a string cannot fail");
        }
        if let Tls::On { certificate, key } = &settings.tls {
            write!(
                ini,
                "client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
                certificate.display(),
                key.display()
            )
            .expect("writing to a string cannot fail");
        }
        ini
    }

    async fn start_trunkline(&self, subject: Subject, servers: &[Server]) -> Result<Entrant> {
        let program = &self.settings.trunkline;
        let version = postgres::version_of(program)?;
        let port = postgres::free_port()?;
        let file = self.folder.join(format!("{}-{port}.toml", subject.name()));
        write(&file, &self.trunkline_config(subject, port, servers))?;
        let mut command = in_own_session(program);
        command.arg("serve").arg(&file).current_dir(self.folder);
        self.start(subject, &mut command, port, version, None).await
    }

    /// `pgbench_accounts` sharded by hash of its key, its small companions on every shard, anything else on the first.
    fn trunkline_config(&self, subject: Subject, port: u16, servers: &[Server]) -> String {
        let settings = self.settings;
        let workers = match subject {
            Subject::TrunklineTwoWorkers => 2,
            _ => 1,
        };
        // A pool is one shard's: as many connections in all as the other subjects have.
        let shards = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let pool_size = (settings.pool_size / shards).max(workers);
        let most = settings.clients + SPARE_CLIENTS;
        let mut listen = format!("addresses = [\"127.0.0.1:{port}\"]\n");
        if settings.sockets == Sockets::Unix {
            listen += &format!("unix_socket_directory = {:?}\n", self.host());
        }
        if let Tls::On { certificate, key } = &settings.tls {
            listen += &format!(
                "[listen.tls]\nmode = \"prefer\"\ncertificate = {certificate:?}\nkey = {key:?}\n"
            );
        }
        let names: Vec<String> = (0..servers.len())
            .map(|number| format!("s{number}"))
            .collect();
        let mut toml = format!(
            "workers = {workers}\n\n[listen]\n{listen}\n[limits]\nmax_client_connections = {most}\n\n\
             [pool]\nsize = {pool_size}\nmax_waiting = {most}\n\n\
             [[users]]\nname = \"{USER}\"\nauth = \"trust\"\n\n\
             [[databases]]\nname = \"{DATABASE}\"\ndefault_shard = \"s0\"\n\n"
        );
        for (name, server) in names.iter().zip(servers) {
            let node = format!("{{ host = {:?}, port = {} }}", self.host(), server.port);
            toml += &format!("[[shards]]\nname = \"{name}\"\nnodes = [{node}]\n\n");
        }
        toml += &format!(
            "[[distributions]]\nname = \"accounts\"\nkey = \"integer\"\nstrategy = \"hash\"\nshards = {names:?}\n\n\
             [[tables]]\nname = \"pgbench_accounts\"\ndistribution = \"accounts\"\nkey = \"aid\"\n\n"
        );
        for table in ["pgbench_branches", "pgbench_tellers", "pgbench_history"] {
            toml += &format!("[[tables]]\nname = \"{table}\"\nplacement = \"reference\"\n\n");
        }
        toml
    }
}

/// Whether "PgBouncer 1.25.2" is at least 1.21.
fn prepares_in_transactions(version: &str) -> bool {
    let numbers = version.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = numbers
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1, 21)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))
}
