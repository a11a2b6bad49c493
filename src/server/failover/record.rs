//! What the control store holds of switchovers and promotions, as JSON.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::config::Config;
use crate::sharding::ShardId;
use crate::topology::promotion::Phase;
use crate::topology::view::NodePlace;

/// A node by its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub host: String,
    pub port: u16,
}

/// A switchover under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// One and the same from its first step to its last.
    pub id: String,
    pub shard: String,
    pub old: Place,
    pub new: Place,
    pub phase: Phase,
    /// What `postgresql.auto.conf` of the old primary had for `default_transaction_read_only`.
    pub configured: Option<String>,
    /// The proxy that drives it.
    pub by: String,
}

/// How far a promotion has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Fencing,
    /// The node may have been told.
    Promoting,
    Done,
}

/// The last promotion of a shard, or the one under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Seconds since 1970.
    pub at: u64,
    pub old: Place,
    pub new: Place,
    pub stage: Stage,
    pub by: String,
}

/// What a proxy sees of a shard's primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// There is one.
    Up,
    /// It does not answer.
    Down,
    /// There is none, for another reason.
    None,
}

pub fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("plain data with text keys is always JSON")
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

impl Place {
    pub fn of(config: &Config, shard: ShardId, node: NodePlace) -> Option<Place> {
        let node = config.shards.get(shard.index())?.nodes.get(node.0)?;
        Some(Place {
            host: node.host.clone(),
            port: node.port,
        })
    }

    /// Where it is in a shard.
    pub fn find(&self, config: &Config, shard: ShardId) -> Option<NodePlace> {
        let mut nodes = config.shards.get(shard.index())?.nodes.iter();
        let place = nodes.position(|node| node.host == self.host && node.port == self.port)?;
        Some(NodePlace(place))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The shard of this name.
pub fn shard(config: &Config, name: &str) -> Option<ShardId> {
    let place = config.shards.iter().position(|shard| shard.name == name)?;
    u16::try_from(place).ok().map(ShardId)
}

impl Switchover {
    pub fn key(shard: &str) -> String {
        format!("switchovers/{shard}")
    }
}

impl Promotion {
    pub fn key(shard: &str) -> String {
        format!("promotions/{shard}")
    }
}
