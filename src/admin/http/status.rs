//! `/readyz` and `/status`: what the proxy knows of its databases, shards and nodes, as JSON.

use serde::Serialize;

use crate::admin::Phase;
use crate::catalog::SchemaState;
use crate::session::shared::Snapshot;
use crate::topology::NodeStatus;

/// Whether the proxy can do its work, and if not, why.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reasons: Vec<String>,
}

impl Readiness {
    pub fn of(snapshot: &Snapshot, nodes: &[NodeStatus], phase: Phase) -> Readiness {
        let mut reasons = Vec::new();
        if phase == Phase::Draining {
            reasons.push("the proxy is shutting down".to_owned());
        }
        for database in &snapshot.config.databases {
            if !is_read(snapshot, &database.name) {
                reasons.push(format!(
                    "database {}: the servers' definitions have not been read yet",
                    database.name
                ));
            }
        }
        for shard in &snapshot.config.shards {
            if !has_primary(nodes, &shard.name) {
                reasons.push(format!("shard {}: no primary is up", shard.name));
            }
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }
}

fn is_read(snapshot: &Snapshot, database: &str) -> bool {
    snapshot
        .catalogs
        .get(database)
        .is_some_and(|catalog| catalog.schema == SchemaState::Read)
}

fn has_primary(nodes: &[NodeStatus], shard: &str) -> bool {
    nodes
        .iter()
        .any(|node| *node.shard == *shard && node.is_primary)
}

#[derive(Debug, Serialize)]
pub struct Status<'a> {
    version: &'static str,
    clients: usize,
    databases: Vec<DatabaseStatus<'a>>,
    shards: Vec<ShardStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct DatabaseStatus<'a> {
    name: &'a str,
    epoch: u64,
    home_shard: &'a str,
    definitions_read: bool,
    distributions: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct ShardStatus<'a> {
    name: &'a str,
    primary_up: bool,
    nodes: Vec<Node<'a>>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    host: &'a str,
    port: u16,
    role: &'static str,
    state: &'static str,
    is_primary: bool,
    timeline: Option<u32>,
    version: Option<&'a str>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    error: Option<&'a str>,
}

impl<'a> Status<'a> {
    pub fn of(snapshot: &'a Snapshot, nodes: &'a [NodeStatus], clients: usize) -> Status<'a> {
        let databases = snapshot.config.databases.iter().filter_map(|database| {
            let catalog = snapshot.catalogs.get(&*database.name)?;
            Some(DatabaseStatus {
                name: &database.name,
                epoch: catalog.epoch.0,
                home_shard: &catalog.shards[catalog.home.index()],
                definitions_read: catalog.schema == SchemaState::Read,
                distributions: catalog
                    .distributions
                    .iter()
                    .map(|distribution| &*distribution.name)
                    .collect(),
            })
        });
        let shards = snapshot.config.shards.iter().map(|shard| ShardStatus {
            name: &shard.name,
            primary_up: has_primary(nodes, &shard.name),
            nodes: nodes
                .iter()
                .filter(|node| *node.shard == *shard.name)
                .map(Node::of)
                .collect(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            clients,
            databases: databases.collect(),
            shards: shards.collect(),
        }
    }
}

impl<'a> Node<'a> {
    fn of(node: &'a NodeStatus) -> Node<'a> {
        Node {
            host: &node.host,
            port: node.port,
            role: node.role.as_str(),
            state: node.stage.as_str(),
            is_primary: node.is_primary,
            timeline: node.timeline.map(|timeline| timeline.0),
            version: node.version.as_deref(),
            lag_bytes: node.lag,
            lag_seconds: node.lag_time.map(|time| time.as_secs_f64()),
            error: node.error.as_deref(),
        }
    }
}
