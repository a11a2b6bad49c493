//! What a file names: users, databases, and shards with their nodes.

use super::authentication::Sources;
use super::section::{Entry, Section};
use super::{
    CrossShardCommit, Database, Duty, Line, Node, PoolMode, Sequences, Shard, Url, User, reads,
    secret, url,
};

/// The name of the admin database, which no other database may have.
pub const ADMIN_DATABASE: &str = "trunkline";

pub(super) const MOST_POOLED: usize = 10_000;
/// Numbers that are taken from a sequence at a time: few are lost when a process ends, and few statements wait for more.
const SEQUENCE_BLOCK: u32 = 32;
/// Of a node's weight.
const HEAVIEST: usize = 1_000_000;
/// A server makes them all before it answers.
const MOST_NUMBERS: usize = 100_000;
/// `ShardId` has 16 bits; far more than this many primaries is a mistake in the file.
const MOST_SHARDS: usize = 10_000;

/// Names of one kind that were read so far, each with its line.
#[derive(Default)]
pub(super) struct Names(Vec<(String, Line)>);

impl Names {
    /// The name of an entry, which must not be that of another one. The entry is called by it from here on.
    pub fn read(&mut self, section: &mut Section<'_>, what: &str) -> Option<String> {
        let name = section.required("name", what, |entry| entry.name())?;
        section.call_it(&name);
        self.add(section, name.clone());
        Some(name)
    }

    /// Notes a name, and a mistake when it is known already.
    pub fn add(&mut self, section: &Section<'_>, name: String) {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, line)) => {
                section.note_key(
                    "name",
                    format!(
                        "{name:?} is used on line {} already; give another name",
                        line.0
                    ),
                );
            }
            None => self.0.push((name, section.line)),
        }
    }

    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }
}

pub(super) fn pool_mode(entry: Entry<'_>) -> Option<PoolMode> {
    entry.choice(&[
        ("transaction", PoolMode::Transaction),
        ("strict", PoolMode::Strict),
        ("session", PoolMode::Session),
    ])
}

pub(super) fn cross_shard_commit(entry: Entry<'_>) -> Option<CrossShardCommit> {
    entry.choice(&[
        ("atomic", CrossShardCommit::Atomic),
        ("refuse", CrossShardCommit::Refuse),
        ("best_effort", CrossShardCommit::BestEffort),
    ])
}

pub(super) fn shard(mut section: Section<'_>, seen: &mut Names) -> Option<Shard> {
    let name = seen.read(&mut section, "the name of the shard, like \"shard1\"");
    if seen.0.len() > MOST_SHARDS {
        section.note(format!("is one shard too many; there may be {MOST_SHARDS}"));
    }
    let given = section.has("nodes");
    let nodes: Vec<_> = section
        .sections("nodes")
        .into_iter()
        .filter_map(node)
        .collect();
    if !given {
        section.note_key(
            "nodes",
            "is missing; give at least one [[shards.nodes]] with its host",
        );
    } else if section.is_empty_array("nodes") {
        section.note_key("nodes", "is empty; give at least one node with its host");
    }
    let line = section.line;
    section.done();
    Some(Shard {
        line,
        name: name?,
        nodes,
    })
}

fn node(mut section: Section<'_>) -> Option<Node> {
    let host = section.required("host", "a name, an address, or the directory of a Unix socket", |entry| {
        const ALLOWED: &str =
            "a name, an address, or the directory of a Unix socket; the port is a key of its own";
        let host = entry.text(ALLOWED)?;
        let address = host.parse::<std::net::IpAddr>().is_ok();
        let directory = host.starts_with('/');
        let name = !host.is_empty()
            && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
        if !(address || directory || name) {
            entry.wrong("a host", ALLOWED);
            return None;
        }
        Some(host.to_owned())
    });
    let port = section.read("port", |entry| entry.whole(1..=65535));
    let port = u16::try_from(port.unwrap_or(5432)).expect("a port from 1 to 65535 has 16 bits");
    let database = section.read("database", |entry| entry.name());
    let weight = section.read("weight", |entry| entry.whole(0..=HEAVIEST));
    let zone = section.read("zone", |entry| entry.name());
    let backup = section.read("backup", |entry| entry.boolean());
    let patroni = section.read("patroni", patroni);
    let line = section.line;
    section.done();
    Some(Node {
        line,
        host: host?,
        port,
        database,
        weight: weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(u32::MAX)),
        zone,
        duty: match backup {
            Some(true) => Duty::Backup,
            _ => Duty::Regular,
        },
        patroni,
    })
}

/// The address of the agent; what is asked there is known.
fn patroni(entry: Entry<'_>) -> Option<Url> {
    const ALLOWED: &str = "the address of its Patroni, like \"http://10.0.0.1:8008\"";
    let mut url = url::read(&entry, ALLOWED)?;
    if url.path != "/" {
        entry.wrong("such an address", ALLOWED);
        return None;
    }
    url.path = "/primary".to_owned();
    Some(url)
}

pub(super) fn database(
    mut section: Section<'_>,
    seen: &mut Names,
    shards: &[String],
) -> Option<Database> {
    let name = seen.read(&mut section, "the name that clients connect to");
    if name.as_deref() == Some(ADMIN_DATABASE) {
        section.note_key(
            "name",
            format!("{ADMIN_DATABASE:?} is the admin database; give another name (server_database may still be {ADMIN_DATABASE:?})"),
        );
    }
    let server_database = section.read("server_database", |entry| entry.name());
    let default_shard = section.read("default_shard", |entry| entry.reference("shard", shards));
    let gather_shard = section.read("gather_shard", |entry| entry.reference("shard", shards));
    let sequences = section
        .read("sequences", |entry| {
            entry.choice(&[
                ("home", Sequences::Home),
                ("per_shard", Sequences::PerShard),
                ("refused", Sequences::Refused),
            ])
        })
        .unwrap_or(Sequences::Home);
    let sequence_block = section
        .read("sequence_block", |entry| entry.whole(1..=MOST_NUMBERS))
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(SEQUENCE_BLOCK);
    let cross_shard_commit = section.read("cross_shard_commit", cross_shard_commit);
    let pool_mode = section.read("pool_mode", pool_mode);
    let pool_size = section.read("pool_size", |entry| entry.whole(1..=MOST_POOLED));
    let read_from = section.read("read_from", reads::read_from);
    let max_lag = section.read("max_lag", reads::max_lag);
    let line = section.line;
    section.done();
    let name = name?;
    Some(Database {
        line,
        server_database: server_database.unwrap_or_else(|| name.clone()),
        name,
        default_shard,
        gather_shard,
        sequences,
        sequence_block,
        cross_shard_commit,
        pool_mode,
        pool_size,
        read_from,
        max_lag,
    })
}

pub(super) fn user(mut section: Section<'_>, seen: &mut Names, sources: &Sources) -> Option<User> {
    let name = seen.read(&mut section, "the name that clients log in with");
    let listed = name.as_deref().and_then(|name| sources.listed.get(name));
    let credentials = secret::credentials(&mut section, sources, listed);
    let admin = section
        .read("admin", |entry| entry.boolean())
        .unwrap_or(false);
    let server_user = section.read("server_user", |entry| entry.name());
    let pool_mode = section.read("pool_mode", pool_mode);
    let pool_size = section.read("pool_size", |entry| entry.whole(1..=MOST_POOLED));
    let read_from = section.read("read_from", reads::read_from);
    let line = section.line;
    section.done();
    let (name, credentials) = (name?, credentials?);
    Some(User {
        line,
        password: credentials.password,
        auth: credentials.auth,
        admin,
        server_user: server_user.unwrap_or_else(|| name.clone()),
        name,
        server_password: credentials.server_password,
        pool_mode,
        pool_size,
        read_from,
    })
}
