//! Nodes as the control plane sees them: roles, places, and what is said of those that are gone, slow, strange or closed to us.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline::cli::local::{Cluster, Server, StopMode};
use trunkline::config::{self, Config};
use trunkline::topology::view::Stage;
use trunkline::topology::{NodeStatus, Role, SystemIdentifier, Timeline, Topology};
use trunkline::wire::tls::ServerEncryption;

use crate::servers::{DEADLINE, cluster, own_cluster, value, wait_until};

/// Shards of these ports, and more sections.
fn config(shards: &[&[u16]], more: &str) -> Arc<Config> {
    let mut text = format!(
        "users = [{{ name = \"hashed\", auth = \"md5\", password = \"md5a6ce1bb033bfeb22b60a5905660d237e\", server_user = \"nobody\" }},\n\
         {{ name = \"app\", auth = \"trust\" }}]\ndatabases = [{{ name = \"app\" }}]\n{more}\n"
    );
    for (place, ports) in shards.iter().enumerate() {
        text += &format!("[[shards]]\nname = \"s{}\"\n", place + 1);
        for port in *ports {
            text += &format!("[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {port}\n");
        }
    }
    Arc::new(config::parse(&text, "test.toml", &|_| None).expect("sound"))
}

fn topology(config: &Arc<Config>) -> Arc<Topology> {
    let encryption = ServerEncryption::load(&config.server_tls).unwrap();
    Arc::new(Topology::new(config, Arc::new(encryption)))
}

fn primary(cluster: &Cluster, shard: usize) -> &Server {
    &cluster.shards()[shard].primary
}

fn system(server: &Server) -> SystemIdentifier {
    let sql = "SELECT system_identifier FROM pg_control_system()";
    SystemIdentifier(value(server, "app", sql).unwrap().parse().unwrap())
}

fn error(node: &NodeStatus) -> &str {
    node.error.as_deref().unwrap_or_default()
}

/// Looks until the condition holds.
async fn look_until(
    topology: &Arc<Topology>,
    what: &str,
    condition: impl Fn(&[NodeStatus]) -> bool,
) -> Vec<NodeStatus> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        topology.look().await;
        let nodes = topology.nodes();
        if condition(&nodes) {
            return nodes;
        }
        assert!(Instant::now() < deadline, "{what}: {nodes:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_places_and_a_promotion() {
    let mut cluster = own_cluster(1, 1);
    let (first, second) = (
        primary(&cluster, 0).port(),
        cluster.shards()[0].replicas[0].port(),
    );
    let topology = topology(&config(
        &[&[first, second]],
        "health = { timeout = \"10s\", fall = 2, rise = 2 }",
    ));
    assert!(
        topology
            .nodes()
            .iter()
            .all(|node| node.stage == Stage::Unknown && node.role == Role::Unknown)
    );
    assert!(!topology.primaries_up());

    let nodes = look_until(&topology, "the replica is level", |nodes| {
        nodes[1].lag == Some(0)
    })
    .await;
    assert!(topology.primaries_up());
    assert_eq!(
        nodes.iter().map(|n| n.stage).collect::<Vec<_>>(),
        [Stage::Up; 2]
    );
    assert_eq!(
        (nodes[0].role, nodes[1].role),
        (Role::Primary, Role::Replica)
    );
    assert_eq!(nodes[0].lag, None);
    for node in &nodes {
        assert_eq!(node.system_identifier, Some(system(primary(&cluster, 0))));
        assert_eq!(node.timeline, Some(Timeline(1)));
        assert_eq!(node.error, None);
        assert!(node.position.is_some() && node.checked.is_some() && node.round_trip.is_some());
        let version = value(primary(&cluster, 0), "app", "SHOW server_version").unwrap();
        assert_eq!(node.version.as_deref(), Some(version.as_str()));
    }
    // The replica stops to replay: its lag grows with what is written.
    let replica = &cluster.shards()[0].replicas[0];
    replica
        .run_sql("app", "SELECT pg_wal_replay_pause()")
        .unwrap();
    wait_until("the replay is paused", || {
        value(replica, "app", "SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
    });
    primary(&cluster, 0)
        .run_sql(
            "app",
            "CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)",
        )
        .unwrap();
    topology.look().await;
    assert!(
        topology.nodes()[1].lag > Some(1_000_000),
        "{:?}",
        topology.nodes()
    );
    replica
        .run_sql("app", "SELECT pg_wal_replay_resume()")
        .unwrap();

    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Fast)
        .unwrap();
    topology.look().await;
    assert_eq!(
        topology.nodes()[0].stage,
        Stage::Up,
        "one look is not yet a fall"
    );
    topology.look().await;
    let nodes = topology.nodes();
    assert_eq!(nodes[0].stage, Stage::Down);
    assert!(error(&nodes[0]).contains("Connection refused"), "{nodes:?}");
    assert_eq!(nodes[1].lag, None, "there is no primary to compare with");
    assert!(!topology.primaries_up());
    cluster.shards()[0].replicas[0]
        .run_sql("app", "SELECT pg_promote()")
        .unwrap();
    let nodes = look_until(&topology, "the replica is promoted", |nodes| {
        nodes[1].role == Role::Primary
    })
    .await;
    assert_eq!(nodes[1].timeline, Some(Timeline(2)));
    assert!(topology.primaries_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_other_data_is_refused() {
    let (own, other) = (primary(cluster(), 0), primary(cluster(), 1));
    let topology = topology(&config(
        &[&[own.port(), other.port()]],
        "health = { timeout = \"10s\" }",
    ));
    topology.look().await;
    let nodes = topology.nodes();
    assert_eq!(
        (nodes[0].stage, nodes[1].stage),
        (Stage::Up, Stage::Refused)
    );
    for system in [system(own), system(other)] {
        assert!(error(&nodes[1]).contains(&system.to_string()), "{nodes:?}");
    }
}

/// What bb8 would turn into time-outs.
#[tokio::test(flavor = "multi_thread")]
async fn the_true_reason_is_told_and_at_once() {
    let port = primary(cluster(), 0).port();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for (ports, more, stage, wanted) in [
        (port, "", Stage::Unknown, "does not exist (3D000)"),
        (
            port,
            "server_tls = { mode = \"require\" }",
            Stage::Unknown,
            "does not support TLS",
        ),
        (closed, "", Stage::Down, "Connection refused"),
    ] {
        let mut config = (*config(
            &[&[ports]],
            &format!("health = {{ timeout = \"60s\" }}\n{more}"),
        ))
        .clone();
        config.databases[0].server_database = "no_such_database".to_owned();
        let topology = topology(&Arc::new(config));
        let start = Instant::now();
        topology.look().await;
        let nodes = topology.nodes();
        assert_eq!(nodes[0].stage, stage);
        assert!(error(&nodes[0]).contains(wanted), "{nodes:?}");
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "told only at the end"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer_does_not_hold_up_the_others() {
    // It accepts, by its backlog, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let topology = topology(&config(
        &[&[
            silent.local_addr().unwrap().port(),
            primary(cluster(), 0).port(),
        ]],
        "health = { timeout = \"2s\" }\npool = { connect_timeout = \"2500ms\" }",
    ));
    let start = Instant::now();
    topology.look().await;
    assert!(start.elapsed() < Duration::from_secs(10));
    let nodes = topology.nodes();
    assert_eq!((nodes[0].stage, nodes[1].stage), (Stage::Down, Stage::Up));
    assert_eq!(error(&nodes[0]), "no answer within 2s");
    // By then the attempt itself has ended, and says so.
    topology.look().await;
    assert_eq!(error(&topology.nodes()[0]), "no answer within 2.5s");
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_until_its_task_ends() {
    let mut cluster = own_cluster(1, 0);
    let topology = topology(&config(
        &[&[primary(&cluster, 0).port()]],
        "health = { interval = \"100ms\", timeout = \"10s\", fall = 2, rise = 2 }",
    ));
    let watching = tokio::spawn(topology.clone().watch());
    let is = |stage| topology.nodes()[0].stage == stage;
    wait_until("the node is up", || is(Stage::Up));
    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Immediate)
        .unwrap();
    wait_until("the node is down", || is(Stage::Down));
    cluster.shards_mut()[0].primary.start().unwrap();
    wait_until("the node is up again", || is(Stage::Up));
    // Not more connections than are needed, and none that were given up.
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trunkline'";
    assert_eq!(value(primary(&cluster, 0), "app", count).unwrap(), "1");
    // Another configuration is followed, and what was known is known still.
    let port = primary(&cluster, 0).port();
    let mut faster = (*config(
        &[&[port], &[1]],
        "health = { interval = \"100ms\", timeout = \"10s\" }",
    ))
    .clone();
    // The same server by another name.
    faster.shards[1].nodes[0].host = "localhost".to_owned();
    faster.shards[1].nodes[0].port = port;
    let faster = Arc::new(faster);
    let encryption = Arc::new(ServerEncryption::load(&faster.server_tls).unwrap());
    topology.follow(&faster, &encryption);
    assert!(is(Stage::Up));
    wait_until("the new shard is up", || {
        topology.nodes()[1].stage == Stage::Up
    });
    watching.abort();
    assert!(watching.await.unwrap_err().is_cancelled());
    drop(topology);
    wait_until("the connection is closed", || {
        value(primary(&cluster, 0), "app", count).unwrap() == "0"
    });
}

/// A server that hangs, like one whose machine has gone, must not be asked over the same connection for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_given_up_is_not_used_again() {
    let cluster = own_cluster(1, 0);
    let server = primary(&cluster, 0);
    let topology = topology(&config(
        &[&[server.port()]],
        "health = { timeout = \"1s\", fall = 1, rise = 1 }",
    ));
    let process = "SELECT pid FROM pg_stat_activity WHERE application_name = 'trunkline' ORDER BY backend_start DESC LIMIT 1";
    look_until(&topology, "up", |nodes| nodes[0].stage == Stage::Up).await;
    let pid: i32 = value(server, "app", process).unwrap().parse().unwrap();
    signal(pid, "STOP");
    topology.look().await;
    assert_eq!(error(&topology.nodes()[0]), "no answer within 1s");
    look_until(&topology, "up by another connection", |nodes| {
        nodes[0].stage == Stage::Up
    })
    .await;
    signal(pid, "CONT");
}

fn signal(pid: i32, name: &str) {
    let sent = std::process::Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_come_from_the_home_shard() {
    let cluster = own_cluster(2, 0);
    for (place, table) in ["on_first", "on_second"].iter().enumerate() {
        primary(&cluster, place)
            .run_sql("app", &format!("CREATE TABLE {table} (id int)"))
            .unwrap();
    }
    let mut config = (*config(
        &[
            &[primary(&cluster, 0).port()],
            &[primary(&cluster, 1).port()],
        ],
        "",
    ))
    .clone();
    config.databases[0].default_shard = Some("s2".to_owned());
    let topology = topology(&Arc::new(config));
    let schema = topology.read_schema("app").await.unwrap();
    let has = |name: &str| {
        schema
            .relations
            .contains_key(&("public".into(), name.into()))
    };
    assert!(has("on_second") && !has("on_first"));
    let unknown = topology.read_schema("nope").await.unwrap_err();
    assert!(
        unknown
            .to_string()
            .contains("there is no database \"nope\"")
    );
    let mut cluster = cluster;
    cluster.shards_mut()[1]
        .primary
        .stop(StopMode::Fast)
        .unwrap();
    let gone = topology.read_schema("app").await.unwrap_err().to_string();
    assert!(
        gone.starts_with("127.0.0.1:") && gone.contains("Connection refused"),
        "{gone}"
    );
}
