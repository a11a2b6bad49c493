//! The nodes as the data plane uses them: who takes writes, who takes reads, how far each has come.
//!
//! A [`View`] never changes; a new one is made when a primary, a node's stage or the configuration has. Only the marks in it move on, at
//! each look. Workers get views with their snapshots; sessions tell what they see of nodes by [`Sighting`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::answer::Lsn;
use crate::config::{self, Config};
use crate::sharding::ShardId;

/// A node's place among those of its shard, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodePlace(pub usize);

/// See the module's text.
#[derive(Debug)]
pub struct View {
    /// The one whose shards and nodes these are, by their places.
    pub config: Arc<Config>,
    pub shards: Box<[ShardView]>,
}

/// One shard.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// Who takes writes. `None`: statements wait until somebody is found.
    pub primary: Option<NodePlace>,
    /// Why there is no primary, for those who have waited too long.
    pub trouble: Option<Arc<str>>,
    /// In the order of the configuration.
    pub nodes: Box<[NodeView]>,
    pub written: Arc<Written>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub stage: Stage,
    pub marks: Arc<Marks>,
    /// When it came back after it had been away; `None`: it never was.
    pub returned: Option<Instant>,
}

/// What a node that has just come back gets of the reads that it would get.
const LEAST_SHARE: f64 = 0.1;

impl NodeView {
    /// How much of its part of the reads it gets, up to 1: it grows evenly over this time from its return on.
    pub fn share(&self, now: Instant, slow_start: Duration) -> f64 {
        match self.returned {
            Some(returned) if now < returned + slow_start => {
                let passed = now.saturating_duration_since(returned);
                (passed.as_secs_f64() / slow_start.as_secs_f64()).max(LEAST_SHARE)
            }
            _ => 1.0,
        }
    }
}

/// What a node is good for. One of these at any time; SHOW NODES shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It has not been asked yet.
    Unknown,
    /// It answers, and serves as what it is.
    Up,
    /// Too many of clients' connections to it have failed lately: no reads until its time is over.
    Ejected,
    /// It does not answer.
    Down,
    /// It holds the data of another system.
    Refused,
    /// A primary that another one has replaced, or a replica of such a one: nothing is sent to it.
    Fenced,
    /// An administrator has taken it out.
    Drained,
    /// A replica that is too far behind.
    Lagging,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Unknown => "unknown",
            Stage::Up => "up",
            Stage::Ejected => "ejected",
            Stage::Down => "down",
            Stage::Refused => "refused",
            Stage::Fenced => "fenced",
            Stage::Drained => "drained",
            Stage::Lagging => "lagging",
        }
    }

    /// Whether reads may be sent to a replica in this stage. One that merely lags is left to those who have another limit.
    pub fn takes_reads(self) -> bool {
        matches!(self, Stage::Up)
    }
}

/// What a replica's last look said. Every part may be newer than another one, by one look.
#[derive(Debug)]
pub struct Marks {
    replayed: AtomicU64,
    lag_bytes: AtomicU64,
    lag_micros: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl Default for Marks {
    fn default() -> Marks {
        Marks {
            replayed: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(UNKNOWN),
            lag_micros: AtomicU64::new(UNKNOWN),
        }
    }
}

impl Marks {
    /// All that was written up to here can be seen there.
    pub fn replayed(&self) -> Lsn {
        Lsn(self.replayed.load(Ordering::Acquire))
    }

    /// `None`: not known.
    pub fn lag_bytes(&self) -> Option<u64> {
        Some(self.lag_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    /// How old what can be seen there is at most; `None`: not known.
    pub fn lag(&self) -> Option<Duration> {
        let micros = self.lag_micros.load(Ordering::Relaxed);
        (micros != UNKNOWN).then(|| Duration::from_micros(micros))
    }

    /// For the room that looks. A node that was rebuilt may have less than it had.
    pub fn note(&self, replayed: Lsn, lag_bytes: Option<u64>, lag: Option<Duration>) {
        let micros = |lag: Duration| u64::try_from(lag.as_micros()).unwrap_or(UNKNOWN - 1);
        self.replayed.store(replayed.0, Ordering::Release);
        self.lag_bytes
            .store(lag_bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.lag_micros
            .store(lag.map_or(UNKNOWN, micros), Ordering::Relaxed);
    }
}

/// How far a shard's primary had come when it was last asked.
#[derive(Debug, Default)]
pub struct Written(ArcSwap<Option<Mark>>);

/// A place in the log that covers whatever was committed before the question was sent.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub lsn: Lsn,
    /// When the question was sent.
    pub asked: Instant,
}

impl Written {
    pub fn last(&self) -> Option<Mark> {
        **self.0.load()
    }

    /// For the room that looks.
    pub fn note(&self, mark: Mark) {
        self.0.store(Arc::new(Some(mark)));
    }
}

impl ShardView {
    /// But for the marks.
    pub(super) fn says_the_same(&self, other: &ShardView) -> bool {
        fn told(view: &ShardView) -> impl Iterator<Item = (Stage, Option<Instant>)> {
            view.nodes.iter().map(|node| (node.stage, node.returned))
        }
        self.primary == other.primary && self.trouble == other.trouble && told(self).eq(told(other))
    }
}

impl View {
    /// Before anybody has looked: the first node of each shard is taken for its primary.
    pub fn unseen(config: &Arc<Config>) -> View {
        let node = |_: &config::Node| NodeView {
            stage: Stage::Unknown,
            marks: Arc::default(),
            returned: None,
        };
        let shard = |shard: &config::Shard| ShardView {
            primary: Some(NodePlace(0)),
            trouble: None,
            nodes: shard.nodes.iter().map(node).collect(),
            written: Arc::default(),
        };
        View {
            config: Arc::clone(config),
            shards: config.shards.iter().map(shard).collect(),
        }
    }

    pub fn shard(&self, shard: ShardId) -> Option<&ShardView> {
        self.shards.get(shard.index())
    }

    /// Where a node is.
    pub fn node(&self, shard: ShardId, place: NodePlace) -> Option<&config::Node> {
        self.config.shards.get(shard.index())?.nodes.get(place.0)
    }
}

/// What a connection of a client has seen of a node. Whoever watches the node looks at once.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub shard: ShardId,
    pub node: NodePlace,
    pub seen: Seen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A connection was made.
    Reached,
    /// No connection could be made.
    Unreachable(String),
    /// A connection in use broke, or the server said that it ends.
    Lost,
    /// It was taken for the primary, and says that it takes no writes (25006).
    ReadOnly,
    /// Somebody waits for it to replay something: it is looked at often for a while.
    Awaited,
}
