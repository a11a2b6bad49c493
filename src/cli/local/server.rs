//! One Postgres server: made by initdb or pg_basebackup, run as our child, stopped when dropped.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::account::user_name;
use super::error::LocalError;
use super::folder::{Folder, Lifetime};
use super::installation::{Installation, is_disk_full};
use super::port::any_free_port;
use super::settings::{
    Access, Password, SUPERUSER, ServerOptions, Upstream, configuration_file, socket_folder,
};

/// From start to ready; a busy machine that recovers a crashed server needs some of it.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A fast stop; what is left then is stopped at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);
/// How many ports that turn out to be taken are borne.
const PORT_TRIES: u32 = 10;
/// The end of the log that goes into an error.
const LOG_TAIL_LINES: usize = 15;

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Open transactions are rolled back, clients are told, a checkpoint is made.
    Fast,
    /// Quit at once; the next start recovers.
    Immediate,
    /// As if the power had gone for this server: SIGKILL.
    Kill,
}

/// A Postgres server on 127.0.0.1, stopped when dropped.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    folder: Arc<Folder>,
    /// The name of its data folder in the cluster's folder.
    name: String,
    options: ServerOptions,
    superuser_password: Password,
    upstream: Option<Upstream>,
    /// Kept over stops: a server that comes back is found where it was.
    port: Option<u16>,
    process: Option<Child>,
}

/// What a look at a starting server found.
enum Startup {
    Ready,
    NotYet,
    /// It ended; what it wrote to its log since it was started.
    Ended(String),
}

impl Server {
    /// Opens the server's data, made by initdb when there is none. Not started.
    pub(super) fn primary(
        installation: &Installation,
        folder: &Arc<Folder>,
        name: &str,
        options: &ServerOptions,
        superuser_password: &Password,
    ) -> Result<Self, LocalError> {
        let server = Self {
            installation: installation.clone(),
            folder: Arc::clone(folder),
            name: name.to_owned(),
            options: options.clone(),
            superuser_password: superuser_password.clone(),
            upstream: None,
            port: None,
            process: None,
        };
        if !server.has_data()? {
            server.make_data(|data| server.initdb(data))?;
        }
        Ok(server)
    }

    /// Opens the data of a replica of this running server, made by pg_basebackup when there is none. Not started.
    /// The replica has a replication slot of its own, so it can be away for a while.
    pub fn replica(&self, name: &str) -> Result<Self, LocalError> {
        let slot = name
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_")
            .to_ascii_lowercase();
        let upstream = Upstream {
            port: self.running_port()?,
            slot,
            password: self.superuser_password.clone(),
        };
        let replica = Self {
            installation: self.installation.clone(),
            folder: Arc::clone(&self.folder),
            name: name.to_owned(),
            options: self.options.clone(),
            superuser_password: self.superuser_password.clone(),
            upstream: Some(upstream.clone()),
            port: None,
            process: None,
        };
        if !replica.has_data()? {
            self.run_sql(
                "postgres",
                &format!(
                    "SELECT pg_create_physical_replication_slot('{slot}', true) \
                     WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')",
                    slot = upstream.slot
                ),
            )?;
            replica.make_data(|data| replica.base_backup(data, &upstream))?;
        }
        Ok(replica)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port on 127.0.0.1; it stays the same when the server is stopped and started.
    ///
    /// # Panics
    /// If the server was never started.
    pub fn port(&self) -> u16 {
        self.port.expect("a server has a port from its first start")
    }

    /// The postmaster's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// Where its Unix socket is; `None` when the path would be too long for one.
    pub fn socket_folder(&self) -> Option<PathBuf> {
        socket_folder(&self.data_folder()).map(Path::to_owned)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// As libpq and tokio-postgres take it, for the superuser.
    pub fn superuser_connection(&self, database: &str) -> String {
        let password = self.superuser_password.as_str();
        format!(
            "host=127.0.0.1 port={port} user={SUPERUSER} password={password} dbname={database}",
            port = self.port()
        )
    }

    /// Starts the server and waits until it accepts connections. It keeps the port it had before; at its first start
    /// it gets a free one.
    pub fn start(&mut self) -> Result<(), LocalError> {
        if self.process.is_some() {
            return Ok(());
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut port_tries = PORT_TRIES;
        loop {
            let port = self.port.map_or_else(any_free_port, Ok)?;
            let log_start = self.spawn(port)?;
            let log = match self.wait_ready(deadline, log_start) {
                Ok(None) => {
                    self.port = Some(port);
                    return Ok(());
                }
                Ok(Some(log)) => log,
                Err(e) => {
                    let _ = self.stop(StopMode::Immediate);
                    return Err(e);
                }
            };
            if is_disk_full(&log) {
                return Err(LocalError::DiskFull {
                    folder: self.folder.path().to_owned(),
                });
            }
            if log.contains("Address already in use") {
                port_tries -= 1;
                match self.port {
                    None if port_tries > 0 => continue,
                    _ => return Err(LocalError::PortBusy { port }),
                }
            }
            if !is_held_by_another(&log) || Instant::now() >= deadline {
                return Err(LocalError::Ended {
                    name: self.name.clone(),
                    log: tail(&log),
                });
            }
            // The one before us was killed and its server, or a part of it, is still on its way out.
            std::thread::sleep(POLL);
        }
    }

    /// Stops the server and waits until it has ended. Its data stays.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), LocalError> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let pid = process.id();
        let mut signals = match mode {
            StopMode::Fast => [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL].as_slice(),
            StopMode::Immediate => &[Signal::SIGQUIT, Signal::SIGKILL],
            StopMode::Kill => &[Signal::SIGKILL],
        }
        .iter();
        let ended = signals.any(|signal| {
            // A process that we have not yet waited for keeps its number, so the signal cannot reach another.
            let _ = kill(Pid::from_raw(pid as i32), *signal);
            wait_ended(&mut process, STOP_TIMEOUT)
        });
        if !ended {
            self.process = Some(process);
            return Err(LocalError::NotStopped {
                name: self.name.clone(),
                seconds: STOP_TIMEOUT.as_secs(),
                log: tail(&self.log()),
            });
        }
        // A watchdog that someone ended has nothing to forget.
        let _ = self.folder.watchdog().forget(pid);
        Ok(())
    }

    /// Runs SQL as the superuser and gives the rows of all its statements as text.
    pub fn run_sql(
        &self,
        database: &str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, LocalError> {
        self.running_port()?;
        let connection = self.superuser_connection(database);
        // A thread of its own, so that this may also be called from inside a runtime.
        let outcome = std::thread::scope(|scope| {
            scope
                .spawn(|| run_sql_blocking(&connection, sql))
                .join()
                .expect("running SQL does not panic")
        });
        outcome.map_err(|reason| LocalError::Statement {
            name: self.name.clone(),
            statement: sql.to_owned(),
            reason,
        })
    }

    fn running_port(&self) -> Result<u16, LocalError> {
        match (self.port, &self.process) {
            (Some(port), Some(_)) => Ok(port),
            _ => Err(LocalError::NotRunning {
                name: self.name.clone(),
            }),
        }
    }

    fn path_of(&self, ending: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{ending}", self.name))
    }

    fn log_path(&self) -> PathBuf {
        self.path_of("log")
    }

    /// Whether complete data is there, of our version and for our user.
    fn has_data(&self) -> Result<bool, LocalError> {
        let data = self.data_folder();
        let version_file = data.join("PG_VERSION");
        if !data.exists() {
            return Ok(false);
        }
        let found = std::fs::read_to_string(&version_file)
            .map_err(|e| LocalError::io("read the version of the data", &version_file, e))?;
        if found.trim() != self.installation.major().to_string() {
            return Err(LocalError::OtherMajor {
                folder: data,
                found: found.trim().to_owned(),
                wanted: self.installation.major(),
            });
        }
        let owner = std::fs::metadata(&data)
            .map_err(|e| LocalError::io("look at the data", &data, e))?
            .uid();
        let account = self.installation.account();
        if owner != account.uid().as_raw() {
            return Err(LocalError::OtherOwner {
                folder: data,
                owner: user_name(Uid::from_raw(owner)),
                account: account.name().to_owned(),
            });
        }
        Ok(true)
    }

    /// Makes the data under a name that says it is not complete, then renames it: half-made data is never used.
    fn make_data(
        &self,
        make: impl FnOnce(&Path) -> Result<(), LocalError>,
    ) -> Result<(), LocalError> {
        let (partial, data) = (self.path_of("partial"), self.data_folder());
        if partial.exists() {
            std::fs::remove_dir_all(&partial)
                .map_err(|e| LocalError::io("remove half-made data", &partial, e))?;
        }
        std::fs::create_dir(&partial)
            .map_err(|e| LocalError::io("make the data folder", &partial, e))?;
        std::fs::set_permissions(&partial, Permissions::from_mode(0o700))
            .map_err(|e| LocalError::io("set the permissions", &partial, e))?;
        self.installation.account().give(&partial)?;
        make(&partial)?;
        std::fs::rename(&partial, &data)
            .map_err(|e| LocalError::io("rename the data folder", &data, e))
    }

    fn initdb(&self, data: &Path) -> Result<(), LocalError> {
        match self.initdb_with(data, "C.UTF-8") {
            // Not every system has it; "C" sorts the same, and knows only ASCII's upper and lower case.
            Err(LocalError::Failed { output, .. }) if output.contains("invalid locale name") => {
                self.initdb_with(data, "C")
            }
            outcome => outcome,
        }
    }

    fn initdb_with(&self, data: &Path, locale: &str) -> Result<(), LocalError> {
        let mut command = self.installation.command("initdb");
        command.arg("-D").arg(data).args([
            "-U",
            SUPERUSER,
            "--encoding=UTF8",
            "--no-instructions",
            "--no-sync",
        ]);
        command.arg(format!("--locale={locale}"));
        match self.options.access {
            Access::Trust => {
                command.arg("--auth=trust");
                self.installation.run(command, self.folder.path())
            }
            Access::Password => {
                let file = self.path_of("password");
                self.write_private(&file, self.superuser_password.as_str())?;
                command
                    .arg("--auth=scram-sha-256")
                    .arg(format!("--pwfile={}", file.display()));
                let outcome = self.installation.run(command, self.folder.path());
                std::fs::remove_file(&file)
                    .map_err(|e| LocalError::io("remove a file", &file, e))?;
                outcome
            }
        }
    }

    fn base_backup(&self, data: &Path, upstream: &Upstream) -> Result<(), LocalError> {
        let mut command = self.installation.command("pg_basebackup");
        command
            .env("PGPASSWORD", upstream.password.as_str())
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &upstream.port.to_string(),
                "-U",
                SUPERUSER,
                "-w",
                "-D",
            ])
            .arg(data)
            .args([
                "-X",
                "stream",
                "-S",
                &upstream.slot,
                "-c",
                "fast",
                "--no-sync",
            ]);
        self.installation.run(command, self.folder.path())?;
        let signal = data.join("standby.signal");
        File::create_new(&signal).map_err(|e| LocalError::io("write a file", &signal, e))?;
        self.installation.account().give(&signal)
    }

    /// Starts the process; gives the length of the log before it.
    fn spawn(&mut self, port: u16) -> Result<u64, LocalError> {
        let data = self.data_folder();
        let configuration = self.path_of("conf");
        self.write_private(
            &configuration,
            &configuration_file(&data, port, self.upstream.as_ref(), &self.options),
        )?;
        let log_path = self.log_path();
        let log_failed = |e| LocalError::io("open the log", &log_path, e);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(log_failed)?;
        let log_start = log.metadata().map_err(log_failed)?.len();
        let mut command = self.installation.command("postgres");
        let program = command.get_program().to_string_lossy().into_owned();
        let process = command
            .arg("-D")
            .arg(&data)
            .arg("-c")
            .arg(format!("config_file={}", configuration.display()))
            .stdout(log.try_clone().map_err(log_failed)?)
            .stderr(Stdio::from(log))
            // Its own group: a Ctrl-C in the terminal is for us, and we stop servers in good order.
            .process_group(0)
            .spawn()
            .map_err(|source| LocalError::Spawn {
                program,
                account: self.installation.account().name().into(),
                source,
            })?;
        let pid = process.id();
        self.process = Some(process);
        self.folder
            .watchdog()
            .watch(pid)
            .map_err(|e| LocalError::io("tell the watchdog", &data, e))?;
        Ok(log_start)
    }

    /// Waits for a process just started. `None`: ready; else it ended, and this is its log.
    fn wait_ready(
        &mut self,
        deadline: Instant,
        log_start: u64,
    ) -> Result<Option<String>, LocalError> {
        loop {
            match self.look(log_start)? {
                Startup::Ready => return Ok(None),
                Startup::Ended(log) => return Ok(Some(log)),
                Startup::NotYet if Instant::now() >= deadline => {
                    return Err(LocalError::NotReady {
                        name: self.name.clone(),
                        seconds: READY_TIMEOUT.as_secs(),
                        log: tail(&self.log()),
                    });
                }
                Startup::NotYet => std::thread::sleep(POLL),
            }
        }
    }

    fn look(&mut self, log_start: u64) -> Result<Startup, LocalError> {
        let Some(process) = &mut self.process else {
            return Err(LocalError::NotRunning {
                name: self.name.clone(),
            });
        };
        let pid = process.id();
        let ended = process
            .try_wait()
            .map_err(|e| LocalError::io("wait for the server", self.folder.path(), e))?;
        if ended.is_none() {
            let state = std::fs::read_to_string(self.data_folder().join("postmaster.pid"))
                .unwrap_or_default();
            return Ok(if says_ready(&state, pid) {
                Startup::Ready
            } else {
                Startup::NotYet
            });
        }
        self.process = None;
        let _ = self.folder.watchdog().forget(pid);
        let log = self.log();
        Ok(Startup::Ended(
            log.get(log_start as usize..).unwrap_or(&log).to_owned(),
        ))
    }

    /// A file that only the servers' user and we may read.
    fn write_private(&self, path: &Path, text: &str) -> Result<(), LocalError> {
        let failed = |e| LocalError::io("write a file", path, e);
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
        self.installation.account().give(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mode = match self.folder.lifetime() {
            Lifetime::Kept => StopMode::Fast,
            Lifetime::Temporary => StopMode::Immediate,
        };
        if let Err(e) = self.stop(mode) {
            tracing::error!(server = self.name, "{e}");
        }
    }
}

/// Whether `postmaster.pid` is of this process and says that it accepts connections: its first and its eighth line, as
/// `pg_ctl` reads them (`src/bin/pg_ctl/pg_ctl.c`, `wait_for_postmaster_start`).
fn says_ready(postmaster_pid: &str, pid: u32) -> bool {
    let line = |number: usize| postmaster_pid.lines().nth(number - 1).map(str::trim);
    line(1) == Some(pid.to_string().as_str()) && line(8) == Some("ready")
}

/// Whether a server refused to start because another still has the data folder.
fn is_held_by_another(log: &str) -> bool {
    log.contains("lock file \"postmaster.pid\" already exists")
        || log.contains("pre-existing shared memory block")
}

fn wait_ended(process: &mut Child, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        match process.try_wait() {
            Ok(Some(_)) | Err(_) => return true,
            Ok(None) if Instant::now() >= deadline => return false,
            Ok(None) => std::thread::sleep(POLL),
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

fn run_sql_blocking(connection: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(connection, NoTls)
            .await
            .map_err(describe)?;
        let background = tokio::spawn(connection);
        let messages = client.simple_query(sql).await.map_err(describe)?;
        background.abort();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|i| row.get(i).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    })
}

/// The server's own words where there are any.
fn describe(error: tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(
        || error.to_string(),
        |e| format!("{}: {}", e.code().code(), e.message()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_read_from_the_right_lines_of_the_right_process() {
        let file = "42\n/d\n1700000000\n5432\n/d\n127.0.0.1\n  5432001    98304\nready   \n";
        assert!(says_ready(file, 42));
        assert!(!says_ready(file, 43));
        assert!(!says_ready(&file.replace("ready   ", "starting"), 42));
        assert!(!says_ready("", 42));
    }

    #[test]
    fn the_tail_of_a_log() {
        let log: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert!(tail(&log).starts_with("line 85\n") && tail(&log).ends_with("line 99"));
        assert_eq!(tail("one"), "one");
    }
}
