//! Which shards are on which server, by a configuration.

use crate::backend::connect::Address;
use crate::config::Config;
use crate::session::waits::LongWait;
use crate::sharding::ShardId;

/// Several places in a configuration may be one server.
pub struct Places {
    pub addresses: Vec<Address>,
    /// By shard.
    servers: Vec<usize>,
    /// By server: the name of its first shard.
    pub names: Vec<Box<str>>,
}

impl Places {
    pub fn new(config: &Config) -> Places {
        let mut places = Places {
            addresses: Vec::new(),
            servers: Vec::new(),
            names: Vec::new(),
        };
        for shard in &config.shards {
            let node = shard.nodes.first();
            let address = Address {
                host: node.map_or_else(String::new, |node| node.host.clone()),
                port: node.map_or(0, |node| node.port),
            };
            let known = places.addresses.iter().position(|known| *known == address);
            places.servers.push(known.unwrap_or(places.addresses.len()));
            if known.is_none() {
                places.addresses.push(address);
                places.names.push(Box::from(&*shard.name));
            }
        }
        places
    }

    /// The number of a shard's server.
    pub fn server(&self, shard: ShardId) -> Option<usize> {
        self.servers.get(shard.index()).copied()
    }

    /// The processes of these requests that are on the server of a shard.
    pub fn processes(&self, shard: ShardId, waits: &[LongWait]) -> Vec<i32> {
        let Some(server) = self.server(shard) else {
            return Vec::new();
        };
        let all = waits.iter().flat_map(|wait| &wait.processes);
        all.filter(|(known, _)| *known == self.addresses[server])
            .map(|(_, pid)| *pid)
            .collect()
    }

    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        (0..self.servers.len())
            .filter_map(|shard| u16::try_from(shard).ok())
            .map(ShardId)
    }
}
