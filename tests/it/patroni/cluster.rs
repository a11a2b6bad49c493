//! A Patroni cluster: an etcd, and some Patronis that make servers of their own, all below one temporary folder.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;
use trunkline::cli::local::Installation;

use crate::servers::DEADLINE;
use crate::store::etcd_server::EtcdServer;

pub struct PatroniCluster {
    pub nodes: Vec<Node>,
    folder: TempDir,
    _etcd: EtcdServer,
}

pub struct Node {
    pub name: String,
    pub port: u16,
    pub api: u16,
    process: Option<Child>,
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    listeners.iter().map(port).collect()
}

/// Postgres refuses to run as root.
fn account() -> Option<User> {
    let is_root = Uid::effective().is_root();
    is_root.then(|| {
        User::from_name("postgres")
            .unwrap()
            .expect("it is there where Postgres is")
    })
}

impl PatroniCluster {
    pub fn start(size: usize) -> PatroniCluster {
        let etcd = EtcdServer::start();
        let folder = TempDir::new().unwrap();
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), everybody).unwrap();
        if let Some(user) = account() {
            chown(
                folder.path(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .unwrap();
        }
        let ports = free_ports(2 * size);
        let nodes: Vec<Node> = (0..size)
            .map(|place| Node {
                name: format!("p{place}"),
                port: ports[2 * place],
                api: ports[2 * place + 1],
                process: None,
            })
            .collect();
        let mut cluster = PatroniCluster {
            nodes,
            folder,
            _etcd: etcd,
        };
        for place in 0..size {
            cluster.configure(place);
            cluster.launch(place);
        }
        // It makes one after the other, in rounds of its own.
        cluster.wait("a leader", |cluster| cluster.leader().is_some());
        cluster.wait("the replicas", |cluster| {
            (0..size).all(|place| {
                cluster.leader() == Some(place) || cluster.status(place, "/replica") == Some(200)
            })
        });
        cluster
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&PatroniCluster) -> bool) {
        let deadline = Instant::now() + 5 * DEADLINE;
        while !condition(self) {
            let logs = self.nodes.iter().map(|node| {
                let log = self.path(&format!("{}.log", node.name));
                std::fs::read_to_string(log).unwrap_or_default()
            });
            assert!(
                Instant::now() < deadline,
                "Patroni has not made {what}\n{}",
                logs.collect::<Vec<_>>().join("\n")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, place: usize) {
        let node = &self.nodes[place];
        let installation = Installation::find().unwrap_or_else(|e| panic!("{e}"));
        let folder = self.folder.path().display();
        let bin = installation.bin().display();
        let Node {
            name, port, api, ..
        } = node;
        let text = format!(
            "scope: s1\nname: {name}\nrestapi: {{listen: '127.0.0.1:{api}', connect_address: '127.0.0.1:{api}'}}\n\
             etcd3: {{host: '127.0.0.1:{}'}}\n\
             bootstrap:\n  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3, synchronous_mode: true}}\n  initdb: [{{encoding: UTF8}}, {{locale: C}}]\n\
             postgresql:\n  listen: 127.0.0.1:{port}\n  connect_address: 127.0.0.1:{port}\n  data_dir: {folder}/{name}\n  bin_dir: {bin}\n\
             \x20 pgpass: {folder}/{name}.pass\n  remove_data_directory_on_diverged_timelines: true\n\
             \x20 authentication: {{superuser: {{username: postgres, password: p}}, replication: {{username: postgres, password: p}}}}\n\
             \x20 pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']\n\
             \x20 parameters: {{unix_socket_directories: '{folder}', fsync: 'off', wal_retrieve_retry_interval: 100ms}}\n",
            self._etcd.port
        );
        std::fs::write(self.path(&format!("{name}.yml")), text).unwrap();
    }

    /// It ends with the thread of the test, and its server with it.
    fn launch(&mut self, place: usize) {
        let interpreter = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
        assert!(
            interpreter.exists(),
            "{} is missing: `make test` builds it",
            interpreter.display()
        );
        let name = self.nodes[place].name.clone();
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if let Some(user) = account() {
            let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
            command.args(["--reuid", &uid, "--regid", &gid, "--init-groups"]);
        }
        let child = command
            .arg(interpreter)
            .args(["-m", "patroni"])
            .arg(self.path(&format!("{name}.yml")))
            .current_dir(self.folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes[place].process = Some(child);
    }

    /// A call of a node's API; the status of its answer.
    pub fn call(&self, place: usize, method: &str, path: &str, body: &str) -> Option<u16> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.nodes[place].api)).ok()?;
        connection.set_read_timeout(Some(DEADLINE)).ok()?;
        let length = body.len();
        write!(
            connection,
            "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    fn status(&self, place: usize, path: &str) -> Option<u16> {
        self.call(place, "GET", path, "")
    }

    /// Who is the leader, by its own Patroni.
    pub fn leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|place| self.status(*place, "/primary") == Some(200))
    }

    /// Patroni and the server beside it are killed, as when their machine dies.
    pub fn kill(&mut self, place: usize) {
        let pid_file = self.path(&self.nodes[place].name).join("postmaster.pid");
        let pids = std::fs::read_to_string(pid_file).unwrap();
        let postmaster = pids.lines().next().unwrap().parse().unwrap();
        let mut process = self.nodes[place].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        kill(Pid::from_raw(postmaster), Signal::SIGKILL).unwrap();
    }
}

impl Drop for PatroniCluster {
    fn drop(&mut self) {
        // The replicas first: a leader waits for them.
        let leader = self.leader();
        let mut places: Vec<usize> = (0..self.nodes.len()).collect();
        places.sort_by_key(|place| leader == Some(*place));
        for place in places {
            let Some(mut process) = self.nodes[place].process.take() else {
                continue;
            };
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            for _ in 0..200 {
                if matches!(process.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
