//! Whether this process may open as many files as its configuration may come to need: each client and each server connection takes one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Config, ReadFrom};

/// What the process has open besides: its listeners, each worker's own, a connection or two to each node.
const OWN: usize = 64;

/// The most that a configuration can come to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needed {
    clients: usize,
    /// Connections of all pools when each is full.
    servers: usize,
    own: usize,
}

impl Needed {
    fn of(config: &Config) -> Needed {
        let nodes = config.shards.iter().map(|shard| shard.nodes.len()).sum();
        let databases = || config.databases.iter();
        let users = config.users.iter();
        let pools = users.flat_map(|user| databases().map(move |database| (user, database)));
        let connections = pools.map(|(user, database)| {
            let reads = user.read_from.or(database.read_from);
            let seats = match reads.unwrap_or(config.reads.from) {
                ReadFrom::Primary => config.shards.len(),
                ReadFrom::Any | ReadFrom::Replica => nodes,
            };
            config.pool_of(user, database).size * seats
        });
        Needed {
            clients: config.limits.max_client_connections,
            servers: connections.sum(),
            own: OWN + 2 * nodes + 4 * config.workers,
        }
    }

    fn all(self) -> usize {
        self.clients + self.servers + self.own
    }

    /// What is wrong with a limit, if anything is.
    fn objection(self, limit: u64) -> Option<String> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let Needed {
            clients, servers, ..
        } = self;
        let advice = "raise it (ulimit -n, or LimitNOFILE of a systemd unit), or lower limits.max_client_connections or pool.size";
        let all = self.all();
        (limit < all).then(|| {
            format!(
                "the limit on open files is {limit}; {clients} clients and all pools together with {servers} server connections would need {all}: \
                 who comes when there are no more is turned away; {advice}"
            )
        })
    }
}

/// Raises the limit as far as the system allows, and warns when that is not enough.
pub(super) fn prepare(config: &Config) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files is not known");
            return;
        }
    };
    let mut limit = soft;
    if soft < hard {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => limit = hard,
            Err(error) => {
                tracing::warn!(%error, soft, "the limit on open files cannot be raised");
            }
        }
    }
    if let Some(objection) = Needed::of(config).objection(limit) {
        tracing::warn!("{objection}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn needed(more: &str) -> Needed {
        let nodes = "[[shards.nodes]]\nhost = \"a\"\n[[shards.nodes]]\nhost = \"b\"\n";
        let text = format!(
            "workers = 2\n{more}[limits]\nmax_client_connections = 500\n[pool]\nsize = 10\n\
             [[databases]]\nname = \"one\"\n[[databases]]\nname = \"two\"\npool_size = 20\n\
             [[users]]\nname = \"app\"\npassword = \"x\"\n[[users]]\nname = \"job\"\npassword = \"x\"\npool_size = 3\n\
             [[shards]]\nname = \"s1\"\n{nodes}"
        );
        Needed::of(&config::parse(&text, "test.toml", &|_| None).expect("it is sound"))
    }

    #[test]
    fn pools_of_every_user_database_and_node_count() {
        let one = needed("");
        assert_eq!((one.clients, one.servers), (500, 10 + 20 + 3 + 3));
        let both = needed("reads = { from = \"any\" }\n");
        assert_eq!(both.servers, 2 * one.servers);
    }

    #[test]
    fn what_is_enough_is_not_spoken_of() {
        let needed = needed("");
        let all = needed.all() as u64;
        assert_eq!(needed.objection(all), None);
        let said = needed.objection(all - 1).expect("one is missing");
        assert!(
            said.contains("500 clients") && said.contains("36 server connections"),
            "{said}"
        );
    }
}
