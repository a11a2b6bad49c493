//! Shards, an etcd, and proxies in front: processes of their own, so that they can be stopped and killed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use trunkline::cli::local::{Cluster, Server, StopMode};
use trunkline::resharding::job::{Job, Phase};

use crate::failover::stage::children;
use crate::servers::{own_cluster, wait_until};
use crate::store::etcd_server::EtcdServer;

/// How long a plan may take for one of its phases.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What is configured besides: of shards `s1`, `s2`, ...
pub struct Setting<'a> {
    pub shards: u16,
    pub proxies: usize,
    /// `[[distributions]]` and `[[tables]]`.
    pub distributions: &'a str,
    /// Run on the first so many shards.
    pub schema: &'a str,
    pub populated: usize,
}

/// One stage at a time: each has a dozen servers and more.
static ALONE: Semaphore = Semaphore::const_new(1);

/// See the module's text.
pub struct Stage {
    pub cluster: Cluster,
    pub proxies: Vec<Program>,
    pub etcd: EtcdServer,
    folder: TempDir,
    distributions: String,
    more: String,
    _alone: SemaphorePermit<'static>,
}

impl Stage {
    pub async fn start(setting: &Setting<'_>) -> Stage {
        Stage::start_with(setting, 0, "").await
    }

    /// With so many replicas of each shard, and further sections of the configuration.
    pub async fn start_with(setting: &Setting<'_>, replicas: u16, more: &str) -> Stage {
        let alone = ALONE.acquire().await.unwrap();
        let cluster = own_cluster(setting.shards, replicas);
        if replicas > 0 {
            // Else a proxy could not see which timeline a replica follows.
            for shard in cluster.shards() {
                let granted = shard.primary.run_sql("app", "GRANT pg_monitor TO app");
                granted.unwrap_or_else(|error| panic!("{error}"));
            }
        }
        for shard in &cluster.shards()[..setting.populated] {
            shard
                .primary
                .run_sql("app", &format!("SET ROLE app; {}", setting.schema))
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let mut stage = Stage {
            cluster,
            proxies: Vec::new(),
            etcd: EtcdServer::start(),
            folder: TempDir::new().unwrap(),
            distributions: setting.distributions.to_owned(),
            more: more.to_owned(),
            _alone: alone,
        };
        for _ in 0..setting.proxies {
            let program = stage.launch(free_port());
            stage.proxies.push(program);
        }
        stage
    }

    fn launch(&self, port: u16) -> Program {
        let text = self.configuration(port);
        Program::start(&self.folder, port, &text)
    }

    fn configuration(&self, port: u16) -> String {
        let mut text = format!(
            "workers = 1\n[listen]\naddresses = [\"127.0.0.1:{port}\"]\nhttp = \"off\"\n[server_tls]\nmode = \"disable\"\n\
             [store]\nkind = \"etcd\"\nendpoints = [\"{}\"]\nlease_ttl = \"6s\"\ntimeout = \"5s\"\n\
             [pool]\nsize = 20\n[failover]\nwait = \"30s\"\n\
             [[users]]\nname = \"boss\"\nauth = \"trust\"\nadmin = true\nserver_user = \"postgres\"\n\
             [[users]]\nname = \"app\"\nauth = \"trust\"\n[[databases]]\nname = \"app\"\ndefault_shard = \"s1\"\n",
            self.etcd.endpoint()
        );
        for (place, shard) in self.cluster.shards().iter().enumerate() {
            let nodes = { shard.servers() }
                .map(|server| format!("{{ host = \"127.0.0.1\", port = {} }}", server.port()));
            let _ = write!(
                text,
                "[[shards]]\nname = \"s{}\"\nnodes = [{}]\n",
                place + 1,
                nodes.collect::<Vec<_>>().join(", ")
            );
        }
        text + &self.more + &self.distributions
    }

    /// Kills a proxy and starts it again on the same port.
    pub fn restart_proxy(&mut self, place: usize) {
        let port = self.proxies[place].port;
        self.proxies[place].kill();
        self.proxies[place] = self.launch(port);
    }

    /// Kills a proxy as soon as it has written that the plan is at a step. Told whether that was so, when the plan is over or the proxy is dead.
    pub async fn kill_at(
        &self,
        proxy: usize,
        plan: &str,
        step: &str,
    ) -> tokio::task::JoinHandle<bool> {
        let process = self.proxies[proxy].process();
        self.at(plan, step, move || signal_all(process, Signal::SIGKILL))
            .await
    }

    /// Does something to the process of a proxy or a server, and to its children, as soon as the plan is at a step.
    pub async fn signal_at(
        &self,
        process: u32,
        signal: Signal,
        plan: &str,
        step: &str,
    ) -> tokio::task::JoinHandle<bool> {
        self.at(plan, step, move || signal_all(process, signal))
            .await
    }

    async fn at(
        &self,
        plan: &str,
        step: &str,
        act: impl FnOnce() + Send + 'static,
    ) -> tokio::task::JoinHandle<bool> {
        let config = trunkline::config::parse(&self.configuration(6432), "stage.toml", &|_| None);
        let config = config.unwrap_or_else(|problems| panic!("{problems:#?}"));
        let store = trunkline::store::Store::open(&config.store).await.unwrap();
        let (plan, step) = (plan.to_owned(), step.to_owned());
        let mut watch = store.watch("reshard/").await.unwrap();
        tokio::spawn(async move {
            loop {
                let listing = watch.changed().await;
                let databases = trunkline::moving::records::read(&listing).unwrap();
                let Some(job) = databases["app"].plans.get(&*plan) else {
                    continue;
                };
                if step_of(job) == step {
                    act();
                    return true;
                }
                if job.is_over() {
                    return false;
                }
            }
        })
    }

    /// kill -9 of a shard's primary and its children.
    pub fn kill_shard(&self, place: usize) {
        let postmaster = self.shard(place).pid().expect("it runs");
        signal_all(postmaster, Signal::SIGKILL);
    }

    /// Starts a shard's primary that was killed.
    pub fn revive(&mut self, place: usize) {
        let primary = &mut self.cluster.shards_mut()[place].primary;
        tokio::task::block_in_place(|| {
            primary
                .stop(StopMode::Kill)
                .and_then(|()| primary.start())
                .unwrap_or_else(|error| panic!("{error}"));
        });
    }

    /// The primary dies, and its replica, which has all that was ever acknowledged, takes its place.
    pub fn fail_over(&mut self, place: usize) {
        let shard = &mut self.cluster.shards_mut()[place];
        tokio::task::block_in_place(|| {
            let died = shard.primary.stop(StopMode::Kill);
            died.unwrap_or_else(|error| panic!("{error}"));
            std::mem::swap(&mut shard.primary, &mut shard.replicas[0]);
            let promoted = shard.primary.run_sql("app", "SELECT pg_promote(true, 60)");
            promoted.unwrap_or_else(|error| panic!("{error}"));
        });
    }

    /// Commits on a shard wait for its replica from now on.
    pub fn commit_with_the_replica(&self, place: usize) {
        for sql in [
            "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'",
            "SELECT pg_reload_conf()",
        ] {
            let done = self.shard(place).run_sql("app", sql);
            done.unwrap_or_else(|error| panic!("{error}"));
        }
        let asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        wait_until("the replica is waited for", || {
            crate::servers::value(self.shard(place), "app", asked).unwrap() == "1"
        });
    }

    pub fn shard(&self, place: usize) -> &Server {
        &self.cluster.shards()[place].primary
    }

    /// A statement in the admin database of a proxy.
    pub async fn admin(&self, proxy: usize, text: &str) -> Result<Vec<Vec<String>>, String> {
        let client = self.proxies[proxy].client("boss", "trunkline").await?;
        let messages = client.simple_query(text).await;
        let messages = messages.map_err(|error| match error.as_db_error() {
            Some(said) => format!("{} ({})", said.message(), said.code().code()),
            None => error.to_string(),
        })?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|column| row.get(column).unwrap_or_default().to_owned())
                        .collect(),
                ),
                _ => None,
            })
            .collect())
    }

    /// The same, which must be done.
    pub async fn order(&self, text: &str) -> Vec<Vec<String>> {
        let done = self.admin(0, text).await;
        done.unwrap_or_else(|error| panic!("{text}: {error}\n{}", self.logs()))
    }

    /// The columns of a plan's line in SHOW RESHARDS.
    pub async fn status(&self, plan: &str) -> BTreeMap<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for proxy in 0..self.proxies.len() {
                let Ok(client) = self.proxies[proxy].client("boss", "trunkline").await else {
                    continue;
                };
                let asked = client.simple_query("SHOW RESHARDS");
                let Ok(Ok(messages)) = tokio::time::timeout(Duration::from_secs(5), asked).await
                else {
                    continue;
                };
                for message in &messages {
                    if let SimpleQueryMessage::Row(row) = message
                        && row.get("plan") == Some(plan)
                    {
                        let columns = row.columns().iter().enumerate();
                        return columns
                            .map(|(place, column)| {
                                let value = row.get(place).unwrap_or_default();
                                (column.name().to_owned(), value.to_owned())
                            })
                            .collect();
                    }
                }
            }
            assert!(Instant::now() < deadline, "no proxy knows the plan {plan}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the plan is in this phase.
    pub async fn reaches(&self, plan: &str, phase: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(plan).await;
            if status["phase"] == phase {
                return;
            }
            let stopped = status["pace"].starts_with("stopped");
            if stopped || Instant::now() > deadline {
                let events = self.admin(0, "SHOW RESHARD EVENTS").await;
                panic!(
                    "{plan} does not become {phase}: {status:?}\n{events:#?}\n{}",
                    self.logs()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// From a plan that is made to one that is verified.
    pub async fn verified(&self, plan: &str) {
        self.order(&format!("RESHARD CHECK {plan}")).await;
        self.reaches(plan, "checked").await;
        self.order(&format!("RESHARD START {plan}")).await;
        self.reaches(plan, "following").await;
        self.order(&format!("RESHARD VERIFY {plan}")).await;
        self.reaches(plan, "verified").await;
    }

    pub fn logs(&self) -> String {
        let each = self.proxies.iter().map(Program::log);
        each.collect::<Vec<_>>().join("\n--- another proxy\n")
    }
}

/// A proxy. It is killed when dropped.
pub struct Program {
    child: Child,
    pub port: u16,
    log: std::path::PathBuf,
}

impl Program {
    fn start(folder: &TempDir, port: u16, text: &str) -> Program {
        let file = folder.path().join(format!("{port}.toml"));
        std::fs::write(&file, text).unwrap();
        let log = folder.path().join(format!("{port}.log"));
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let binary = std::env::var("TRUNKLINE_BINARY");
        let binary = binary.as_deref().unwrap_or(env!("CARGO_BIN_EXE_trunkline"));
        let child = Command::new(binary)
            .arg("serve")
            .arg(&file)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut program = Program { child, port, log };
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("the proxy accepts", || {
            assert!(
                program.child.try_wait().unwrap().is_none(),
                "{}",
                program.log()
            );
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        });
        program
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub async fn client(&self, user: &str, database: &str) -> Result<Client, String> {
        connect(self.port, user, database).await
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Until it is told to go on.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(self.child.id().cast_signed());
        kill(process, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A client of a proxy.
pub async fn connect(port: u16, user: &str, database: &str) -> Result<Client, String> {
    let connection = format!("host=127.0.0.1 port={port} user={user} dbname={database}");
    let (client, connection) = tokio_postgres::connect(&connection, NoTls)
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

/// A phase, a stage of a turn, or `verifying`.
fn step_of(job: &Job) -> &'static str {
    match &job.phase {
        Phase::Turning(turn) => turn.stage.name(),
        Phase::Following if job.verification.round > 0 => "verifying",
        phase => phase.name(),
    }
}

/// To a process and its children.
pub fn signal_all(process: u32, signal: Signal) {
    // Who is told first can make no more of them; one that has ended meanwhile needs no telling.
    let send = |process: u32| kill(Pid::from_raw(process.cast_signed()), signal);
    let before = children(process);
    let _ = send(process);
    for child in before.into_iter().chain(children(process)) {
        let _ = send(child);
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
