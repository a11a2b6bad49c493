//! An etcd of the tests: its data in a temporary folder, on free ports of the loopback address, and gone with this process.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use trunkline::store::Expected;

use super::{open, section};

/// Reads whether all ended well; else ends the server and removes its data.
const WATCHDOG: &str = "read -r word || { kill -s KILL \"$1\"; rm -rf -- \"$2\"; }";

pub struct EtcdServer {
    folder: TempDir,
    name: String,
    pub port: u16,
    peer_port: u16,
    cluster: String,
    more: Vec<String>,
    running: Mutex<Option<Running>>,
}

struct Running {
    server: Child,
    watchdog: Child,
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    listeners.iter().map(port).collect()
}

impl EtcdServer {
    /// One that is a cluster of its own, and answers.
    pub fn start() -> EtcdServer {
        Self::start_with(|_| Vec::new())
    }

    /// With more arguments, which may name a further free port.
    pub fn start_with(more: impl FnOnce(u16) -> Vec<String>) -> EtcdServer {
        let ports = free_ports(3);
        let mut server = Self::member("one", ports[0], ports[1], &format!("one={}", url(ports[1])));
        server.more = more(ports[2]);
        server.launch();
        server.wait_ready();
        server
    }

    /// Members of one cluster.
    pub fn start_cluster(size: usize) -> Vec<EtcdServer> {
        let ports = free_ports(size * 2);
        let cluster: Vec<String> = (0..size)
            .map(|n| format!("m{n}={}", url(ports[2 * n + 1])))
            .collect();
        let cluster = cluster.join(",");
        let members: Vec<EtcdServer> = (0..size)
            .map(|n| Self::member(&format!("m{n}"), ports[2 * n], ports[2 * n + 1], &cluster))
            .collect();
        for member in &members {
            member.launch();
        }
        for member in &members {
            member.wait_ready();
        }
        members
    }

    fn member(name: &str, port: u16, peer_port: u16, cluster: &str) -> EtcdServer {
        EtcdServer {
            folder: TempDir::new().unwrap(),
            name: name.to_owned(),
            port,
            peer_port,
            cluster: cluster.to_owned(),
            more: Vec::new(),
            running: Mutex::new(None),
        }
    }

    pub fn endpoint(&self) -> String {
        url(self.port)
    }

    /// Starts it; with the data that it has.
    pub fn launch(&self) {
        let mut clients = url(self.port);
        let more = self.more.iter().filter_map(|argument| {
            // A further address is one of the same list.
            argument.strip_prefix("listen=")
        });
        for listen in more {
            clients += ",";
            clients += listen;
        }
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let server = Command::new("etcd")
            .args(["--name", &self.name, "--logger", "zap"])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args(["--listen-peer-urls", &url(self.peer_port)])
            .args(["--initial-advertise-peer-urls", &url(self.peer_port)])
            .args(["--initial-cluster", &self.cluster])
            // The shortest lease is one and a half times the second, in whole seconds.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(
                self.more
                    .iter()
                    .filter(|argument| !argument.starts_with("listen=")),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start etcd ({error}); install etcd-server"));
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "etcd-watchdog", &server.id().to_string()])
            .arg(self.folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        *self.running.lock().unwrap() = Some(Running { server, watchdog });
    }

    /// A thread of its own waits, as the caller may have a runtime.
    pub fn wait_ready(&self) {
        let section = section(
            &[&self.endpoint()],
            "timeout = \"1s\"\nprefix = \"/ready/\"\n",
        );
        let waiting = async {
            let store = open(&section).await;
            let deadline = Instant::now() + Duration::from_secs(30);
            while let Err(error) = store.list("").await {
                if Instant::now() > deadline {
                    let log = std::fs::read_to_string(self.folder.path().join("log"));
                    panic!("{error}\n{}", log.unwrap_or_default());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // It also takes what is written.
            let ready = store
                .put_if("ready", Expected::Absent, self.name.clone())
                .await;
            drop(ready);
        };
        let wait = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(waiting);
        };
        std::thread::scope(|scope| scope.spawn(wait).join().unwrap());
    }

    pub fn signal(&self, signal: Signal) {
        let running = self.running.lock().unwrap();
        let pid = running.as_ref().unwrap().server.id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// As `kill -9` does.
    pub fn kill(&self) {
        if let Some(mut running) = self.running.lock().unwrap().take() {
            let _ = running.server.kill();
            let _ = running.server.wait();
            use std::io::Write;
            let _ = writeln!(running.watchdog.stdin.take().unwrap(), "done");
            let _ = running.watchdog.wait();
        }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
