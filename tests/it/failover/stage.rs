//! Shards of one primary and some replicas each, that a test may break, and a proxy in front of them.

use std::fmt::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trunkline::cli::local::{Cluster, ClusterOptions, Server, ServerOptions, StopMode};

use super::load::SCHEMA;
use crate::raw::Raw;
use crate::servers::{value, wait_until};
use crate::sharded::{Sharded, succeeded};

/// From one look of the proxy at the nodes to the next.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// How long it waits for an answer. On a busy machine a server may take its time.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What a busy machine may add to anything that is timed.
pub const SLACK: Duration = Duration::from_secs(8);

/// The servers. `nodes` of a shard are numbered from its first primary, 0.
pub struct Stage {
    pub cluster: Cluster,
}

impl Stage {
    pub fn start(shards: u16, replicas: u16) -> Stage {
        let settings = [("wal_retrieve_retry_interval", "100ms")];
        let options = ClusterOptions {
            shards: Some(shards),
            replicas: Some(replicas),
            server: ServerOptions {
                max_connections: 100,
                settings: settings
                    .map(|(name, value)| (name.into(), value.into()))
                    .into(),
                ..ServerOptions::default()
            },
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options).unwrap_or_else(|e| panic!("{e}"));
        let stage = Stage { cluster };
        for shard in 0..usize::from(shards) {
            // Else the proxy could not see which timeline a replica follows.
            stage.run(shard, 0, "GRANT pg_monitor TO app");
            let mut client = Raw::connect(stage.node(shard, 0).port(), "app", "app");
            succeeded(SCHEMA, &client.simple(SCHEMA));
        }
        stage
    }

    pub fn node(&self, shard: usize, place: usize) -> &Server {
        let shard = &self.cluster.shards()[shard];
        shard.servers().nth(place).expect("there is such a node")
    }

    fn node_mut(&mut self, shard: usize, place: usize) -> &mut Server {
        let shard = &mut self.cluster.shards_mut()[shard];
        match place {
            0 => &mut shard.primary,
            _ => &mut shard.replicas[place - 1],
        }
    }

    pub fn port(&self, place: usize) -> u16 {
        self.node(0, place).port()
    }

    pub fn ports(&self) -> Vec<u16> {
        let servers = self.cluster.shards()[0].servers();
        servers.map(Server::port).collect()
    }

    /// Runs it as the superuser.
    #[track_caller]
    pub fn run(&self, shard: usize, place: usize, sql: &str) {
        let done = self.node(shard, place).run_sql("app", sql);
        done.unwrap_or_else(|e| panic!("{e}"));
    }

    #[track_caller]
    pub fn value(&self, shard: usize, place: usize, sql: &str) -> String {
        value(self.node(shard, place), "app", sql).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A commit waits until a replica has it: on all these nodes of the first shard, so that it goes on after a promotion.
    pub fn commit_with_a_replica(&self, places: &[usize]) {
        for place in places {
            self.configure(*place, "synchronous_standby_names", "ANY 1 (*)");
        }
    }

    /// ALTER SYSTEM, in force when this returns.
    pub fn configure(&self, place: usize, name: &str, value: &str) {
        self.run(0, place, &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.run(0, place, "SELECT pg_reload_conf()");
        wait_until("the setting is in force", || {
            self.value(0, place, &format!("SHOW {name}")) == value
        });
    }

    /// kill -9 of the postmaster. Its children notice and end.
    pub fn kill(&mut self, shard: usize, place: usize) {
        let killed = self.node_mut(shard, place).stop(StopMode::Kill);
        killed.unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn restart(&mut self, shard: usize, place: usize) {
        let started = self.node_mut(shard, place).start();
        started.unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn stop(&mut self, shard: usize, place: usize) {
        let stopped = self.node_mut(shard, place).stop(StopMode::Fast);
        stopped.unwrap_or_else(|e| panic!("{e}"));
    }

    /// SIGSTOP of all its processes: it holds its connections, and says nothing.
    pub fn freeze(&self, place: usize) -> Frozen {
        let postmaster = self.node(0, place).pid().expect("it runs");
        let mut stopped = vec![postmaster];
        signal(postmaster, Signal::SIGSTOP);
        for child in children(postmaster) {
            signal(child, Signal::SIGSTOP);
            stopped.push(child);
        }
        Frozen(stopped)
    }

    /// The one of these replicas that has received the most of the log.
    pub fn furthest(&self, places: &[usize]) -> usize {
        let received = |place: &usize| {
            let asked = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')";
            self.value(0, *place, asked).parse::<u64>().expect("bytes")
        };
        *places
            .iter()
            .max_by_key(|place| received(place))
            .expect("some")
    }

    /// Has one replica follow another node.
    pub fn repoint(&self, place: usize, to: usize) {
        let conninfo = self.node(0, to).superuser_connection("postgres");
        self.run(
            0,
            place,
            &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'"),
        );
        self.run(0, place, "ALTER SYSTEM SET primary_slot_name = ''");
        self.run(0, place, "SELECT pg_reload_conf()");
    }

    /// Returns when it takes writes.
    pub fn promote(&self, place: usize) {
        self.run(0, place, "SELECT pg_promote(true, 60)");
        wait_until("it is promoted", || {
            self.value(0, place, "SELECT pg_is_in_recovery()") == "f"
        });
    }

    /// Waits until the replicas have replayed what the primary of the first shard has written.
    pub fn level(&self, primary: usize, replicas: &[usize]) {
        let written = self.value(0, primary, "SELECT pg_current_wal_lsn()");
        for place in replicas {
            let there = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
            wait_until("the replica is level", || {
                self.value(0, *place, &there) == "t"
            });
        }
    }

    /// A configuration with these sections, and places of the nodes' tables in it. The ports are those of `shards`, each shard's nodes in order.
    pub fn configuration(shards: &[Vec<u16>], more: &str) -> String {
        let mut text = format!(
            "workers = 2\nusers = [{{ name = \"app\", auth = \"trust\", admin = true }}]\n\
             databases = [{{ name = \"app\", default_shard = \"s1\" }}]\n\
             [listen]\naddresses = [\"127.0.0.1:6432\"]\nhttp = \"off\"\n[server_tls]\nmode = \"disable\"\n\
             [limits]\nshutdown_timeout = \"1s\"\n\
             [health]\ninterval = \"{}ms\"\ntimeout = \"{}ms\"\nfall = 3\nrise = 1\n",
            INTERVAL.as_millis(),
            TIMEOUT.as_millis(),
        );
        if !more.contains("[failover]") {
            text += "[failover]\nwait = \"40s\"\n";
        }
        text += more;
        text += "\n";
        for (place, nodes) in shards.iter().enumerate() {
            let _ = writeln!(text, "[[shards]]\nname = \"s{}\"", place + 1);
            for port in nodes {
                let _ = writeln!(
                    text,
                    "[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {port}"
                );
            }
        }
        text
    }

    /// A proxy in front of all nodes.
    pub fn proxy(&self, more: &str) -> Sharded {
        let shards = self.cluster.shards().iter();
        let shards: Vec<Vec<u16>> = shards
            .map(|shard| shard.servers().map(Server::port).collect())
            .collect();
        let proxy = Sharded::start_proxy("app", &Stage::configuration(&shards, more));
        nodes_are(&proxy, "all nodes are seen", |nodes| {
            nodes
                .iter()
                .all(|node| node.stage == "up" && !node.role.is_empty())
        });
        proxy
    }
}

/// A stopped server. It goes on when this is dropped.
pub struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in self.0.iter().rev() {
            let _ = kill(Pid::from_raw(process.cast_signed()), Signal::SIGCONT);
        }
    }
}

fn signal(process: u32, signal: Signal) {
    // One that has ended meanwhile needs none.
    let _ = kill(Pid::from_raw(process.cast_signed()), signal);
}

/// Of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    let entries = std::fs::read_dir("/proc").expect("it is there");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|process: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
            let stat = stat.unwrap_or_default();
            // Behind the name, which may hold anything: the state, then the parent.
            let behind = stat.rsplit(')').next().unwrap_or_default();
            behind.split_whitespace().nth(1) == Some(&parent)
        })
        .collect()
}

/// A line of SHOW NODES.
#[derive(Clone, Debug)]
pub struct NodeLine {
    pub port: u16,
    pub role: String,
    pub stage: String,
    pub error: String,
    pub is_primary: bool,
}

/// What the proxy says of its nodes.
pub fn nodes(admin: &mut Raw) -> Vec<NodeLine> {
    let answer = admin.simple("SHOW NODES");
    succeeded("SHOW NODES", &answer);
    let place = |name: &str| {
        let columns = answer.columns[0].iter();
        let mut names = columns.map(|(column, ..)| column.as_str());
        names
            .position(|column| column == name)
            .unwrap_or_else(|| panic!("no column {name}"))
    };
    let [port, role, stage, error, primary] =
        ["port", "role", "state", "error", "primary"].map(place);
    let rows = answer.rows.iter().map(|row| {
        let text = |place: usize| match &row[place] {
            Some(value) => String::from_utf8_lossy(value).into_owned(),
            None => String::new(),
        };
        NodeLine {
            port: text(port).parse().expect("a port"),
            role: text(role),
            stage: text(stage),
            error: text(error),
            is_primary: ["t", "true", "yes"].contains(&&*text(primary)),
        }
    });
    rows.collect()
}

/// Waits until the proxy sees its nodes so. Gives when that was first seen.
pub fn nodes_are(
    proxy: &Sharded,
    what: &str,
    condition: impl Fn(&[NodeLine]) -> bool,
) -> (Instant, Vec<NodeLine>) {
    nodes_of(proxy.port, what, condition)
}

/// The same, by the proxy's port.
pub fn nodes_of(
    port: u16,
    what: &str,
    condition: impl Fn(&[NodeLine]) -> bool,
) -> (Instant, Vec<NodeLine>) {
    let mut admin = Raw::connect(port, "app", "trunkline");
    let mut last = Vec::new();
    wait_until(what, || {
        last = nodes(&mut admin);
        condition(&last)
    });
    (Instant::now(), last)
}
