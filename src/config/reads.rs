//! Which nodes reads go to, and what happens when a shard loses its primary.

use std::time::Duration;

use super::ByteSize;
use super::section::{Entry, Section};

const LONGEST: Duration = Duration::from_secs(3600);
const MOST_FUNCTIONS: usize = 1000;

/// `[reads]`: what reads that may go to replicas do.
#[derive(Clone, Debug, PartialEq)]
pub struct Reads {
    /// Where they go, unless the user, the database or the session says otherwise.
    pub from: ReadFrom,
    pub causal: CausalReads,
    /// How long a read waits for a replica that has replayed what it must see; then it goes to the primary.
    pub wait: Duration,
    pub balance: Balance,
    /// Whether the primary takes part in the balance, or is the last resort.
    pub primary: PrimaryReads,
    /// A replica that is further behind takes no reads; `None`: however far.
    pub max_lag: Option<Duration>,
    pub max_lag_size: Option<ByteSize>,
    /// Where this proxy is, for `Balance::NearestZone`.
    pub zone: Option<String>,
    /// Names of volatile functions that may run on replicas all the same.
    pub functions: Vec<String>,
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    #[default]
    Primary,
    /// A replica, or the primary where none may serve it.
    Any,
    /// A replica, or an error.
    Replica,
}

impl ReadFrom {
    pub fn as_str(self) -> &'static str {
        match self {
            ReadFrom::Primary => "primary",
            ReadFrom::Any => "any",
            ReadFrom::Replica => "replica",
        }
    }

    pub fn named(word: &str) -> Option<ReadFrom> {
        [ReadFrom::Primary, ReadFrom::Any, ReadFrom::Replica]
            .into_iter()
            .find(|from| from.as_str() == word)
    }
}

/// What a read on a replica must see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CausalReads {
    /// Whatever the replica has.
    Off,
    /// What the same session has committed, and what its token says.
    #[default]
    Session,
    /// All that was committed before it began.
    Always,
}

impl CausalReads {
    pub fn as_str(self) -> &'static str {
        match self {
            CausalReads::Off => "off",
            CausalReads::Session => "session",
            CausalReads::Always => "always",
        }
    }

    pub fn named(word: &str) -> Option<CausalReads> {
        [CausalReads::Off, CausalReads::Session, CausalReads::Always]
            .into_iter()
            .find(|causal| causal.as_str() == word)
    }
}

/// How reads are divided among the nodes that may take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    /// The one with the fewest connections in use.
    LeastConnections,
    /// In proportion to `weight`.
    Weighted,
    /// By the client's address: the same client, the same node.
    ClientAddress,
    /// Round robin within the proxy's own zone; the others when nobody is left there.
    NearestZone,
}

/// What part the primary has in reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryReads {
    TakesPart,
    LastResort,
}

/// `[failover]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    pub mode: FailoverMode,
    /// How long a statement that was not sent waits for a shard to have a primary.
    pub wait: Duration,
}

/// Who makes a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverMode {
    /// Somebody else; it is found.
    Follow,
    /// Trunkline, when the primary is down for as long as `[health]` says.
    Promote,
}

pub(super) fn read_from(entry: Entry<'_>) -> Option<ReadFrom> {
    entry.choice(&[
        ("primary", ReadFrom::Primary),
        ("any", ReadFrom::Any),
        ("replica", ReadFrom::Replica),
    ])
}

fn functions(entry: &Entry<'_>) -> Option<Vec<String>> {
    let items = entry.items("an array of function names, like [\"app_now\"]")?;
    if items.len() > MOST_FUNCTIONS {
        entry.note(format!("has more than {MOST_FUNCTIONS} names"));
    }
    items.iter().map(Entry::name).collect()
}

pub(super) fn reads(mut section: Section<'_>) -> Reads {
    let reads = Reads {
        from: section.read("from", read_from).unwrap_or_default(),
        causal: section
            .read("causal", |entry| {
                entry.choice(&[
                    ("off", CausalReads::Off),
                    ("session", CausalReads::Session),
                    ("always", CausalReads::Always),
                ])
            })
            .unwrap_or_default(),
        wait: section
            .read("wait", |entry| entry.duration(Duration::ZERO..=LONGEST))
            .unwrap_or_default(),
        balance: section
            .read("balance", |entry| {
                entry.choice(&[
                    ("round_robin", Balance::RoundRobin),
                    ("least_connections", Balance::LeastConnections),
                    ("weighted", Balance::Weighted),
                    ("client_address", Balance::ClientAddress),
                    ("nearest_zone", Balance::NearestZone),
                ])
            })
            .unwrap_or(Balance::RoundRobin),
        primary: section
            .read("primary", |entry| {
                entry.choice(&[
                    ("takes_part", PrimaryReads::TakesPart),
                    ("last_resort", PrimaryReads::LastResort),
                ])
            })
            .unwrap_or(PrimaryReads::LastResort),
        max_lag: section
            .read("max_lag", |entry| {
                entry.duration_or_off(Duration::from_millis(1)..=LONGEST)
            })
            .unwrap_or(Some(Duration::from_secs(30))),
        max_lag_size: section
            .read("max_lag_size", |entry| {
                if entry.is_off() {
                    return Some(None);
                }
                entry.size(1..=1 << 50).map(Some)
            })
            .unwrap_or(None),
        zone: section.read("zone", |entry| entry.name()),
        functions: section
            .read("functions", |entry| functions(&entry))
            .unwrap_or_default(),
    };
    section.done();
    reads
}

pub(super) fn failover(mut section: Section<'_>) -> Failover {
    let failover = Failover {
        mode: section
            .read("mode", |entry| {
                entry.choice(&[
                    ("follow", FailoverMode::Follow),
                    ("promote", FailoverMode::Promote),
                ])
            })
            .unwrap_or(FailoverMode::Follow),
        wait: section
            .read("wait", |entry| entry.duration(Duration::ZERO..=LONGEST))
            .unwrap_or(Duration::from_secs(10)),
    };
    section.done();
    failover
}
