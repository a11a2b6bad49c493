//! The view of the nodes while real primaries are killed, doubled, come back and replicas fall behind.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trunkline::cli::local::{Cluster, Server, StopMode};
use trunkline::config::{self, Config};
use trunkline::sharding::ShardId;
use trunkline::topology::view::{NodePlace, Seen, Sighting, Stage, View};
use trunkline::topology::{DrainError, Service, Topology};
use trunkline::wire::tls::ServerEncryption;

use crate::raw::Raw;
use crate::servers::{DEADLINE, own_cluster, value, wait_until};
use crate::sharded::Sharded;

/// One shard of these nodes.
fn text(ports: &[u16], more: &str) -> String {
    let mut text = format!(
        "users = [{{ name = \"app\", auth = \"trust\", admin = true }}]\ndatabases = [{{ name = \"app\" }}]\n{more}\n[[shards]]\nname = \"s1\"\n"
    );
    for port in ports {
        text += &format!("[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {port}\n");
    }
    text
}

fn config(ports: &[u16], more: &str) -> Arc<Config> {
    Arc::new(config::parse(&text(ports, more), "test.toml", &|_| None).expect("sound"))
}

type Views = Vec<(Instant, Arc<View>)>;

/// A shard that is watched, on servers that the test may break. The nodes are the primary and its replicas, in that order.
struct Watched {
    cluster: Cluster,
    ports: Vec<u16>,
    topology: Arc<Topology>,
    /// Every view since the beginning.
    seen: Arc<Mutex<Views>>,
}

impl Watched {
    /// Servers that are not looked at by themselves.
    fn servers(replicas: u16) -> (Cluster, Vec<u16>) {
        let cluster = own_cluster(1, replicas);
        let ports = cluster.shards()[0].servers().map(Server::port).collect();
        // Replicas tell their timeline to those who may see it.
        cluster.shards()[0]
            .primary
            .run_sql(
                "app",
                "GRANT pg_monitor TO app; CREATE TABLE t (id int); GRANT ALL ON t TO app",
            )
            .unwrap();
        (cluster, ports)
    }

    async fn start(replicas: u16, more: &str) -> Watched {
        let (cluster, ports) = Watched::servers(replicas);
        let config = config(&ports, more);
        let encryption = Arc::new(ServerEncryption::load(&config.server_tls).unwrap());
        let topology = Arc::new(Topology::new(&config, encryption));
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let mut views = topology.views();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while views.changed().await.is_ok() {
                let view = Arc::clone(&views.borrow_and_update());
                all.lock().unwrap().push((Instant::now(), view));
            }
        });
        tokio::spawn(Arc::clone(&topology).watch());
        let watched = Watched {
            cluster,
            ports,
            topology,
            seen,
        };
        let up = vec![Stage::Up; watched.ports.len()];
        watched.until("all are up", |stages, primary| {
            *stages == up && primary == Some(0)
        });
        watched
    }

    fn server(&self, place: usize) -> &Server {
        self.cluster.shards()[0].servers().nth(place).unwrap()
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.topology.views().borrow())
    }

    fn stages(&self) -> Vec<Stage> {
        let view = self.view();
        view.shards[0].nodes.iter().map(|node| node.stage).collect()
    }

    fn primary(&self) -> Option<usize> {
        self.view().shards[0].primary.map(|place| place.0)
    }

    /// Waits for a view of these stages and this primary.
    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(&Vec<Stage>, Option<usize>) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !wanted(&self.stages(), self.primary()) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:#?}",
                self.topology.nodes()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn sighted(&self, node: usize, seen: Seen) {
        self.topology.sighted(&Sighting {
            shard: ShardId(0),
            node: NodePlace(node),
            seen,
        });
    }

    fn error(&self, place: usize) -> String {
        self.topology.nodes()[place]
            .error
            .clone()
            .unwrap_or_default()
    }

    /// Has a replica follow another server.
    fn repoint(&self, replica: usize, primary: usize) {
        let (replica, primary) = (self.server(replica), self.server(primary));
        let slot = value(replica, "postgres", "SHOW primary_slot_name").unwrap();
        let conninfo = value(replica, "postgres", "SHOW primary_conninfo").unwrap();
        let (before, _) = conninfo.split_once("port=").unwrap();
        let (_, after) = conninfo.split_once(" user=").unwrap();
        let port = primary.port();
        let make = format!("SELECT pg_create_physical_replication_slot('{slot}')");
        primary.run_sql("postgres", &make).unwrap();
        let point =
            format!("ALTER SYSTEM SET primary_conninfo = '{before}port={port} user={after}'");
        replica.run_sql("postgres", &point).unwrap();
        replica
            .run_sql("postgres", "SELECT pg_reload_conf()")
            .unwrap();
    }
}

fn promote(server: &Server) {
    server.run_sql("postgres", "SELECT pg_promote()").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_primary_is_missed_at_once_and_the_new_one_is_found() {
    let mut watched = Watched::start(2, "").await;
    let killed = Instant::now();
    watched.cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Kill)
        .unwrap();
    // What every connection of a client sees.
    for _ in 0..50 {
        watched.sighted(0, Seen::Lost);
    }
    watched.until("no primary", |_, primary| primary.is_none());
    let missed = killed.elapsed();
    let trouble = watched.view().shards[0].trouble.clone().unwrap();
    let port = watched.ports[0];
    assert!(
        trouble.contains(&format!("127.0.0.1:{port}: ")),
        "{trouble}"
    );
    assert!(trouble.contains("Connection refused"), "{trouble}");
    // By the interval alone it were six seconds.
    assert!(missed < Duration::from_secs(10), "{missed:?}");
    assert_eq!(watched.stages(), [Stage::Down, Stage::Up, Stage::Up]);

    promote(watched.server(1));
    let promoted = Instant::now();
    watched.until("the new primary", |_, primary| primary == Some(1));
    let found = promoted.elapsed();
    assert!(found < Duration::from_secs(10), "{found:?}");
    println!("missed after {missed:?}, found after {found:?}");

    // The other replica still follows nobody, on the old timeline.
    watched.until("fenced", |stages, _| stages[2] == Stage::Fenced);
    assert!(
        watched.error(2).contains("timeline 1"),
        "{}",
        watched.error(2)
    );
    watched.repoint(2, 1);
    watched.until("it follows", |stages, _| stages[2] == Stage::Up);

    // The old one comes back as it was.
    watched.cluster.shards_mut()[0].primary.start().unwrap();
    watched.until("fenced", |stages, _| stages[0] == Stage::Fenced);
    let error = watched.error(0);
    assert!(
        error.contains("timeline 1") && error.contains("timeline 2"),
        "{error}"
    );
    // Also while the new one is away.
    watched.cluster.shards_mut()[0].replicas[0]
        .stop(StopMode::Kill)
        .unwrap();
    watched.sighted(1, Seen::Lost);
    watched.until("no primary", |_, primary| primary.is_none());
    for _ in 0..5 {
        watched.topology.look().await;
    }
    assert_eq!(watched.stages(), [Stage::Fenced, Stage::Down, Stage::Up]);
    let primaries: Vec<_> = (watched.seen.lock().unwrap().iter())
        .map(|(_, view)| view.shards[0].primary.map(|place| place.0))
        .collect();
    let mut primaries = primaries;
    primaries.dedup();
    assert_eq!(primaries, [Some(0), None, Some(1), None]);
}

/// No statement goes to the old primary from the first look after the new one exists.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_primaries_the_old_one_is_fenced_by_the_first_look() {
    let watched = Watched::start(1, "health = { interval = \"1h\", timeout = \"10s\" }").await;
    promote(watched.server(1));
    // Nobody has looked yet.
    assert_eq!(watched.primary(), Some(0));
    watched.topology.look().await;
    assert_eq!(watched.primary(), Some(1));
    assert_eq!(watched.stages(), [Stage::Fenced, Stage::Up]);
    let error = watched.error(0);
    assert!(
        error.contains("timeline 1") && error.contains("timeline 2"),
        "{error}"
    );
    let lent = watched.topology.primary("app", ShardId(0)).await.unwrap();
    let row = lent.query_one("SHOW port", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), watched.ports[1].to_string());
}

/// Told by a client alone: the interval is an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_may_not_write_has_the_new_primary_found() {
    let watched = Watched::start(1, "health = { interval = \"1h\", timeout = \"10s\" }").await;
    promote(watched.server(1));
    watched.sighted(0, Seen::ReadOnly);
    watched.until("the new primary", |_, primary| primary == Some(1));
}

fn paused(server: &Server) -> bool {
    value(server, "app", "SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_lags_and_returns() {
    let more = "health = { interval = \"100ms\", timeout = \"10s\" }\nreads = { max_lag = \"2s\" }";
    let watched = Watched::start(1, more).await;
    let (primary, replica) = (watched.server(0), watched.server(1));
    replica
        .run_sql("app", "SELECT pg_wal_replay_pause()")
        .unwrap();
    wait_until("the replay is paused", || paused(replica));
    // Nothing is missing yet, and paused is not late.
    let lag = || watched.topology.nodes()[1].lag_time;
    primary.run_sql("app", "INSERT INTO t VALUES (1)").unwrap();
    let written = Instant::now();
    watched.until("lagging", |stages, _| stages[1] == Stage::Lagging);
    let after = written.elapsed();
    assert!(after > Duration::from_millis(1900), "{after:?}");
    assert!(lag() > Some(Duration::from_secs(2)), "{:?}", lag());
    assert!(watched.topology.nodes()[1].lag > Some(0));
    replica
        .run_sql("app", "SELECT pg_wal_replay_resume()")
        .unwrap();
    watched.until("it is back", |stages, _| stages[1] == Stage::Up);
    assert!(lag() < Some(Duration::from_millis(1800)), "{:?}", lag());
    assert_eq!(watched.primary(), Some(0));
}

/// Neither quiet nor a transaction that is open and has written: nothing of it can be sent yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_primary_makes_no_lag() {
    let more = "health = { interval = \"100ms\", timeout = \"10s\" }\nreads = { max_lag = \"1s\", max_lag_size = \"64kB\" }";
    let watched = Watched::start(1, more).await;
    let mut writer = Raw::connect(watched.ports[0], "app", "app");
    writer.simple("CREATE TABLE idle (id int)");
    watched.until("level", |stages, _| stages[1] == Stage::Up);
    wait_until("level", || watched.topology.nodes()[1].lag == Some(0));
    writer.simple("BEGIN; INSERT INTO idle SELECT generate_series(1, 100)");
    // Three times the limit.
    let end = Instant::now() + Duration::from_secs(3);
    let mut most = Duration::ZERO;
    while Instant::now() < end {
        most = most.max(watched.topology.nodes()[1].lag_time.unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(most < Duration::from_millis(2500), "{most:?}");
    assert_eq!(writer.status(), b'T');
}

/// A replica that has replayed a mark shows all that was committed before its question, also commits that did not wait for the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_covers_what_was_committed_before_it_was_asked() {
    let more = "health = { interval = \"1h\", timeout = \"10s\" }";
    let watched = Watched::start(1, more).await;
    let mut writer = Raw::connect(watched.ports[0], "app", "app");
    let mut reader = Raw::connect(watched.ports[1], "app", "app");
    writer.simple("SET synchronous_commit = off");
    let shard = watched.view().shards[0].clone();
    for number in 1..=100 {
        writer.simple(&format!("INSERT INTO t VALUES ({number})"));
        let committed = Instant::now();
        watched.topology.look().await;
        let mark = shard.written.last().unwrap();
        assert!(mark.asked >= committed);
        watched.sighted(1, Seen::Awaited);
        wait_until("it is replayed", || {
            shard.nodes[1].marks.replayed() >= mark.lsn
        });
        let shown = reader.simple(&format!("SELECT 1 FROM t WHERE id = {number}"));
        assert_eq!(shown.rows.len(), 1, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_waits_for_a_replica_is_told_soon() {
    let more = "health = { interval = \"1h\", timeout = \"10s\" }";
    let watched = Watched::start(1, more).await;
    let shard = watched.view().shards[0].clone();
    let mut longest = Duration::ZERO;
    let mut writer = Raw::connect(watched.ports[0], "app", "app");
    for number in 1..=20 {
        writer.simple(&format!("INSERT INTO t VALUES ({number})"));
        let lsn = value(
            watched.server(0),
            "app",
            "SELECT pg_current_wal_insert_lsn() - '0/0'",
        );
        let lsn: u64 = lsn.unwrap().parse().unwrap();
        let start = Instant::now();
        watched.sighted(1, Seen::Awaited);
        wait_until("it is replayed", || {
            shard.nodes[1].marks.replayed().0 >= lsn
        });
        longest = longest.max(start.elapsed());
    }
    println!("at most {longest:?}");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_failures_eject_a_replica_for_a_while() {
    let more = "health = { interval = \"1h\", timeout = \"10s\", eject_after = 3, eject_time = \"500ms\" }";
    let watched = Watched::start(2, more).await;
    for _ in 0..10 {
        watched.sighted(0, Seen::Lost);
        watched.sighted(1, Seen::Lost);
        watched.sighted(1, Seen::Unreachable("refused".to_owned()));
        watched.sighted(1, Seen::Reached);
    }
    let start = Instant::now();
    for _ in 0..3 {
        watched.sighted(1, Seen::Lost);
    }
    watched.until("ejected", |stages, _| {
        *stages == [Stage::Up, Stage::Ejected, Stage::Up]
    });
    assert_eq!(watched.topology.nodes()[1].ejections, 1);
    assert!(watched.topology.nodes()[1].ejected_for.is_some());
    watched.until("back", |stages, _| *stages == [Stage::Up; 3]);
    let length = start.elapsed();
    assert!(length >= Duration::from_millis(450), "{length:?}");
    assert!(length < Duration::from_secs(20), "{length:?}");
    assert_eq!(watched.primary(), Some(0));
}

/// A server that hangs is asked once at a time, however many say that it is gone, and the others are judged meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_failures_makes_no_storm_of_looks() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let (_cluster, mut ports) = Watched::servers(0);
    ports.push(silent.local_addr().unwrap().port());
    let config = config(
        &ports,
        "health = { interval = \"1h\", timeout = \"2s\", fall = 100 }",
    );
    let encryption = Arc::new(ServerEncryption::load(&config.server_tls).unwrap());
    let topology = Arc::new(Topology::new(&config, encryption));
    let watching = tokio::spawn(Arc::clone(&topology).watch());
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::clone(&topology));
    let stopped = Arc::clone(&stop);
    let storm = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for node in [0, 1] {
                told.sighted(&Sighting {
                    shard: ShardId(0),
                    node: NodePlace(node),
                    seen: Seen::Lost,
                });
            }
        }
    });
    wait_until("the one that answers is known", || {
        topology.nodes()[0].stage == Stage::Up
    });
    let start = Instant::now();
    let mut connections = Vec::new();
    while start.elapsed() < Duration::from_secs(3) {
        while let Ok((connection, _)) = silent.accept() {
            connections.push(connection);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    storm.join().unwrap();
    assert!(connections.len() <= 3, "{}", connections.len());
    watching.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_stays_so_over_a_new_configuration() {
    let watched = Watched::start(2, "").await;
    let topology = &watched.topology;
    let node = |place: usize| format!("127.0.0.1:{}", watched.ports[place]);
    assert!(matches!(
        topology.serve(&node(0), Service::Drained),
        Err(DrainError::IsPrimary { .. })
    ));
    assert!(matches!(
        topology.serve("127.0.0.1:1", Service::Drained),
        Err(DrainError::Unknown(_))
    ));
    topology.serve(&node(2), Service::Drained).unwrap();
    assert_eq!(watched.stages(), [Stage::Up, Stage::Up, Stage::Drained]);
    // One leaves, and the others change places.
    let turned = config(&[watched.ports[2], watched.ports[0]], "");
    let encryption = Arc::new(ServerEncryption::load(&turned.server_tls).unwrap());
    topology.follow(&turned, &encryption);
    let view = watched.view();
    assert!(Arc::ptr_eq(&view.config, &turned));
    assert_eq!(watched.stages(), [Stage::Drained, Stage::Up]);
    assert_eq!(watched.primary(), Some(1));
    topology.serve(&node(2), Service::Offered).unwrap();
    assert_eq!(watched.stages(), [Stage::Up, Stage::Up]);
    // Who comes back is new, and looked at at once.
    let all = config(&watched.ports, "");
    topology.follow(&all, &encryption);
    assert_eq!(watched.stages(), [Stage::Up, Stage::Unknown, Stage::Up]);
    watched.until("all are up", |stages, primary| {
        *stages == [Stage::Up; 3] && primary == Some(0)
    });
}

#[test]
fn administrators_see_and_drain_nodes() {
    let (cluster, ports) = Watched::servers(1);
    let more = "health = { interval = \"100ms\" }\n[listen]\nhttp = \"off\"";
    let proxy = Sharded::launch("app", &text(&[ports[1], ports[0]], more));
    let mut admin = Raw::connect(proxy.port, "app", "trunkline");
    let mut nodes = || {
        let answer = admin.simple("SHOW NODES");
        let column = |name: &str| {
            let columns = answer.columns[0].iter();
            columns
                .map(|column| &column.0)
                .position(|known| known == name)
                .unwrap()
        };
        let places = ["port", "role", "state", "primary", "timeline", "error"].map(column);
        let row = |row: &Vec<Option<Vec<u8>>>| {
            let cells = places.map(|place| {
                let cell = row[place].as_deref().unwrap_or(b"-");
                String::from_utf8_lossy(cell).into_owned()
            });
            cells.join(" ")
        };
        answer.rows.iter().map(row).collect::<Vec<_>>()
    };
    let shown = |replica: &str, primary: &str| {
        vec![
            format!("{} {replica}", ports[1]),
            format!("{} {primary}", ports[0]),
        ]
    };
    // The replica stands first, and no client was ever told otherwise.
    assert_eq!(nodes(), shown("replica up f 1 -", "primary up t 1 -"));
    let mut other = Raw::connect(proxy.port, "app", "trunkline");
    let mut command = |sql: &str| {
        let answer = other.simple(sql);
        answer.error.map(|error| error.sqlstate().to_owned())
    };
    assert_eq!(command(&format!("DRAIN '127.0.0.1:{}'", ports[1])), None);
    assert_eq!(nodes(), shown("replica drained f 1 -", "primary up t 1 -"));
    assert_eq!(command(&format!("UNDRAIN '127.0.0.1:{}'", ports[1])), None);
    assert_eq!(nodes(), shown("replica up f 1 -", "primary up t 1 -"));
    let refused = command(&format!("DRAIN '127.0.0.1:{}'", ports[0]));
    assert_eq!(refused.as_deref(), Some("55000"));
    assert_eq!(command("DRAIN 'nowhere:1'").as_deref(), Some("42704"));
    assert_eq!(command("DRAIN 'nowhere'").as_deref(), Some("22023"));
    promote(&cluster.shards()[0].replicas[0]);
    let fenced = "it is a primary on timeline 1, and the shard has gone on to timeline 2: nothing is sent to it";
    let wanted = shown("primary up t 2 -", &format!("primary fenced f 1 {fenced}"));
    wait_until("the old one is fenced", || nodes() == wanted);
}
