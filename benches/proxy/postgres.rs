//! Postgres servers made for one run, in a temporary folder, holding pgbench's tables.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::process::{self, Running};

pub const USER: &str = "postgres";
pub const DATABASE: &str = "bench";
const LOCAL: &str = "127.0.0.1";

/// Server and client programs of one Postgres version.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
    /// Like `15.18`.
    pub version: String,
}

impl Binaries {
    /// From `$PGBIN`, else the newest under `/usr/lib/postgresql`, else wherever `PATH` has them.
    pub fn find() -> Result<Binaries> {
        let mut folders: Vec<PathBuf> = std::env::var_os("PGBIN")
            .map(PathBuf::from)
            .into_iter()
            .collect();
        let mut packaged: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.flatten().map(|e| e.path().join("bin")).collect())
            .unwrap_or_default();
        packaged.sort_by_key(|path| std::cmp::Reverse(major_version(path)));
        folders.extend(packaged);
        folders.extend(
            std::env::var_os("PATH")
                .iter()
                .flat_map(std::env::split_paths),
        );
        let folder = folders
            .into_iter()
            .find(|folder| ["initdb", "postgres", "psql", "pgbench"].iter().all(|program| folder.join(program).exists()))
            .ok_or_else(|| {
                Error::Missing(
                    "initdb, postgres, psql and pgbench were not found together; install Postgres (Debian: `apt-get install postgresql`) or set PGBIN"
                        .to_owned(),
                )
            })?;
        let version = version_of(&folder.join("postgres"))?;
        // "postgres (PostgreSQL) 15.18 (Debian ...)"
        let version = version
            .split_whitespace()
            .nth(2)
            .unwrap_or("unknown")
            .to_owned();
        Ok(Binaries { folder, version })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A psql that runs `sql` and prints bare values.
    pub fn psql(&self, host: &str, port: u16, sql: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.program("psql"));
        command
            .args(["-XqAtw", "-h", host, "-U", USER, "-d", DATABASE, "-c", sql])
            .arg("-p")
            .arg(port.to_string());
        command.env("PGCONNECT_TIMEOUT", "5").kill_on_drop(true);
        command
    }
}

/// `15` of `/usr/lib/postgresql/15/bin`.
fn major_version(bin: &Path) -> Option<u32> {
    bin.parent()?.file_name()?.to_str()?.parse().ok()
}

/// The first line a program prints when asked for its version.
pub fn version_of(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|e| Error::io(format!("run {} --version", program.display()), e))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or("unknown")
        .to_owned())
}

/// A port nobody listens on now.
pub fn free_port() -> Result<u16> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    taken
        .map(|address| address.port())
        .map_err(|e| Error::io("find a free port", e))
}

/// The account that servers run as when we are root, which Postgres and PgBouncer refuse to be.
pub fn server_account() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) =
            User::from_name(name).map_err(|e| Error::io("look up the user postgres", e.into()))?
        {
            return Ok(Some(user));
        }
    }
    Err(Error::Missing(
        "run by root, and there is neither a user postgres nor nobody to run servers as".to_owned(),
    ))
}

/// `program`, to be run as the servers' account and in a session of its own.
pub fn as_server_account(program: impl AsRef<OsStr>) -> Result<Command> {
    use std::os::unix::process::CommandExt;
    let mut command = process::in_own_session(program);
    if let Some(user) = server_account()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// A folder that servers may enter, removed when dropped.
pub fn temporary_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("trunkline-bench-")
        .tempdir()
        .map_err(|e| Error::io("make a temporary folder", e))?;
    give_away(folder.path())?;
    Ok(folder)
}

/// A folder in one that servers may enter, which they may enter too.
pub fn subfolder(parent: &Path, name: &str) -> Result<PathBuf> {
    let folder = parent.join(name);
    std::fs::create_dir(&folder)
        .map_err(|e| Error::io(format!("create {}", folder.display()), e))?;
    give_away(&folder)?;
    Ok(folder)
}

fn give_away(folder: &Path) -> Result<()> {
    let failed = |e| {
        Error::io(
            format!("hand {} to the servers' account", folder.display()),
            e,
        )
    };
    if let Some(user) = server_account()? {
        chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed)?;
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(failed)
}

/// Whether a server waits for its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does not: what is measured is not the disk.
    Off,
    /// As in production: a commit is on disk before it is answered.
    On,
}

/// What servers are started with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Most connections, and most prepared transactions.
    pub connections: u32,
    pub durability: Durability,
    /// Whether a query may have several processes, and machine code made for it: less even, where many servers share a machine.
    pub speedups: Speedups,
    /// Whether changes can be followed in its log.
    pub logical: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speedups {
    AsInstalled,
    Off,
}

/// One server with the database [`DATABASE`]; stopped when dropped.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    /// None while it is stopped.
    process: Option<Running>,
    folder: PathBuf,
    number: usize,
    setup: Setup,
}

/// Starts servers with an empty database each.
pub async fn start_empty_fleet(
    binaries: &Binaries,
    folder: &Path,
    count: usize,
    setup: Setup,
) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for number in 0..count {
        servers.push(Server::start(binaries, folder, number, setup).await?);
    }
    Ok(servers)
}

/// Starts servers that all hold the same rows of pgbench's: a key's shard is then whatever the proxy under test says.
pub async fn start_fleet(
    binaries: &Binaries,
    folder: &Path,
    count: usize,
    scale: u32,
    clients: u32,
) -> Result<Vec<Server>> {
    let setup = Setup {
        // The forwarder and direct clients have one each.
        connections: 100 + 3 * clients,
        durability: Durability::Off,
        speedups: Speedups::AsInstalled,
        logical: false,
    };
    let servers = start_empty_fleet(binaries, folder, count, setup).await?;
    for server in &servers {
        server.load(binaries, scale).await?;
    }
    Ok(servers)
}

impl Server {
    async fn start(
        binaries: &Binaries,
        folder: &Path,
        number: usize,
        setup: Setup,
    ) -> Result<Server> {
        let data = folder.join(format!("server{number}"));
        let mut initdb = as_server_account(binaries.program("initdb"))?;
        initdb
            .args([
                "-U",
                USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .current_dir(folder);
        process::run(&mut initdb.into()).await?;
        let mut server = Server {
            port: free_port()?,
            process: None,
            folder: folder.to_owned(),
            number,
            setup,
        };
        server
            .launch(binaries, "postgres", "CREATE DATABASE bench")
            .await?;
        Ok(server)
    }

    /// Ends it as a crash of all its processes would.
    pub fn crash(&mut self) {
        self.process = None;
    }

    /// Starts it again after a crash, with what it has.
    pub async fn recover(&mut self, binaries: &Binaries) -> Result<()> {
        self.launch(binaries, DATABASE, "SELECT 1").await
    }

    /// Starts the process; it is ready when this runs.
    async fn launch(&mut self, binaries: &Binaries, database: &str, sql: &str) -> Result<()> {
        let (folder, number, setup) = (&self.folder, self.number, self.setup);
        let mut postgres = as_server_account(binaries.program("postgres"))?;
        postgres
            .current_dir(folder)
            .arg("-D")
            .arg(folder.join(format!("server{number}")))
            .arg("-p")
            .arg(self.port.to_string());
        let durable = match setup.durability {
            Durability::Off => "off",
            Durability::On => "on",
        };
        let mut settings = [
            "listen_addresses=127.0.0.1",
            &format!("unix_socket_directories={}", folder.display()),
            "shared_buffers=256MB",
            &format!("max_connections={}", setup.connections),
            &format!("max_prepared_transactions={}", setup.connections),
            &format!("fsync={durable}"),
            &format!("synchronous_commit={durable}"),
            &format!("full_page_writes={durable}"),
            "max_wal_size=4GB",
            // Nothing may run beside the load.
            "autovacuum=off",
            "checkpoint_timeout=1h",
        ]
        .map(str::to_owned)
        .to_vec();
        if setup.speedups == Speedups::Off {
            settings.extend(["max_parallel_workers_per_gather=0", "jit=off"].map(str::to_owned));
        }
        if setup.logical {
            settings.push("wal_level=logical".to_owned());
        }
        for setting in settings {
            postgres.arg("-c").arg(setting);
        }
        // SIGQUIT is the immediate shutdown; the data is thrown away with the folder.
        let log = folder.join(format!("server{number}.log"));
        let mut process = Running::start("postgres", &mut postgres, &log, Signal::SIGQUIT)?;
        let mut probe = tokio::process::Command::new(binaries.program("psql"));
        probe
            .args(["-XqAtw", "-h", LOCAL, "-U", USER, "-d", database, "-c", sql])
            .arg("-p")
            .arg(self.port.to_string());
        process.wait_until_ready(self.port, probe).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Runs SQL over a connection of its own and returns what it prints.
    pub async fn run(&self, binaries: &Binaries, sql: &str) -> Result<String> {
        process::run(&mut binaries.psql(LOCAL, self.port, sql)).await
    }

    async fn load(&self, binaries: &Binaries, scale: u32) -> Result<()> {
        let mut pgbench = tokio::process::Command::new(binaries.program("pgbench"));
        pgbench.args(["-i", "-q", "-I", "dtGvp", "-h", "127.0.0.1", "-U", USER]);
        pgbench
            .arg("-p")
            .arg(self.port.to_string())
            .arg("-s")
            .arg(scale.to_string())
            .arg(DATABASE);
        process::run(&mut pgbench).await?;
        self.run(binaries, "CHECKPOINT").await?;
        Ok(())
    }

    /// The lookups in `pgbench_accounts` that the server has counted.
    pub async fn lookups(&self, binaries: &Binaries) -> Result<u64> {
        let sql = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'";
        let counted = self.run(binaries, sql).await?;
        Ok(counted.trim().parse().unwrap_or(0))
    }

    /// Waits until the lookups lie in `expected`; else returns what was counted last.
    pub async fn wait_for_lookups(
        &self,
        binaries: &Binaries,
        expected: RangeInclusive<u64>,
    ) -> std::result::Result<(), u64> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let counted = self.lookups(binaries).await.unwrap_or(0);
            if expected.contains(&counted) {
                return Ok(());
            }
            if counted > *expected.end() || Instant::now() > deadline {
                return Err(counted);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
