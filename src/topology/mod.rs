//! temporary
use std::sync::{Arc, Mutex};
use crate::config::Config;
use crate::wire::tls::ServerEncryption;
use crate::catalog::schema::{self, Schema};
pub struct Topology { config: Mutex<Arc<Config>> }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role { Primary, Replica, Unknown }
impl Role { pub fn as_str(self) -> &'static str { match self { Role::Primary => "primary", Role::Replica => "replica", Role::Unknown => "unknown" } } }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState { Unknown, Up, Down, Refused }
impl NodeState { pub fn as_str(self) -> &'static str { match self { NodeState::Unknown => "unknown", NodeState::Up => "up", NodeState::Down => "down", NodeState::Refused => "refused" } } }
#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub shard: String, pub host: String, pub port: u16, pub state: NodeState, pub role: Role, pub version: Option<String>,
    pub lag: Option<u64>, pub error: Option<String>,
    pub checked: Option<std::time::SystemTime>, pub round_trip: Option<std::time::Duration>,
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TopologyError(String);
impl Topology {
    pub fn new(config: &Arc<Config>, _e: Arc<ServerEncryption>) -> Topology { Topology { config: Mutex::new(config.clone()) } }
    pub fn follow(&self, config: &Arc<Config>, _e: &Arc<ServerEncryption>) { *self.config.lock().unwrap() = config.clone(); }
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let c = self.config.lock().unwrap().clone();
        c.shards.iter().flat_map(|s| s.nodes.iter().map(|n| NodeStatus { shard: s.name.clone(), host: n.host.clone(), port: n.port, state: NodeState::Up, role: Role::Primary, version: None, lag: None, error: None, checked: None, round_trip: None })).collect()
    }
    pub fn primaries_up(&self) -> bool { true }
    pub async fn watch(self: Arc<Self>) { std::future::pending::<()>().await }
    pub async fn read_schema(&self, database: &str) -> Result<Schema, TopologyError> {
        let c = self.config.lock().unwrap().clone();
        let db = c.databases.iter().find(|d| d.name == database).unwrap();
        let node = &c.shards[0].nodes[0];
        let user = &c.users[0];
        let mut pg = tokio_postgres::Config::new();
        pg.host(&node.host).port(node.port).user(&user.server_user).dbname(node.database.as_deref().unwrap_or(&db.server_database));
        if let Some(p) = &user.server_password { pg.password(&p.0); }
        let (client, conn) = pg.connect(tokio_postgres::NoTls).await.map_err(|e| TopologyError(e.to_string()))?;
        tokio::spawn(conn);
        schema::read(&client).await.map_err(|e| TopologyError(e.to_string()))
    }
}
