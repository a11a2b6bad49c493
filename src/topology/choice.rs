//! Which node a read goes to. Pure: what is known of the nodes is given, and nobody is asked.
//!
//! Of the replicas that are well, near enough to the primary and have replayed what the read must see, the regular ones come before the
//! backups; among those of one kind the balance decides. When the only thing that is missing is a place in the log that will come, the
//! answer is to wait. The primary may always serve a read, where the policy lets it.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use super::answer::Lsn;
use super::view::{NodePlace, NodeView, ShardView, Stage, View, Written};
use crate::config::{self, Balance, Duty, PrimaryReads, ReadFrom};
use crate::sharding::ShardId;

/// What a read must see of what was written on its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floor {
    /// Nothing in particular.
    #[default]
    None,
    /// All up to this place in the log.
    At(Lsn),
    /// All that was committed before this instant; where in the log that is has not been asked yet.
    Since(Instant),
}

impl Floor {
    /// The same, by its place in the log when the primary has been asked since. Whoever waits keeps the result: the marks move on.
    pub fn settled(self, written: &Written) -> Floor {
        match self {
            Floor::Since(instant) => match written.last() {
                Some(mark) if mark.asked >= instant => Floor::At(mark.lsn),
                _ => self,
            },
            settled => settled,
        }
    }

    /// Whether a replica that is known to have replayed this far shows it.
    pub fn is_met_by(self, replayed: Lsn) -> bool {
        match self {
            Floor::None => true,
            Floor::At(lsn) => replayed >= record_end(lsn),
            Floor::Since(_) => false,
        }
    }
}

/// Where the last record ends before a place at which the next one may be inserted. At the beginning of a page the two are the page's header apart,
/// and a replica that has replayed everything says the former until the next record comes.
///
/// On a server with other pages or segments the place may be another record's end. Then no record ends in between, for none is so short that
/// it could: a record has 24 bytes, one of a commit 34, and every one begins at a multiple of 8. So what ends there is still asked for.
fn record_end(insertion: Lsn) -> Lsn {
    const PAGE: u64 = 8 << 10;
    const PAGE_HEADER: u64 = 24;
    const SEGMENT: u64 = 1 << 20;
    const SEGMENT_HEADER: u64 = 40;
    let Lsn(place) = insertion;
    if place % SEGMENT == SEGMENT_HEADER {
        Lsn(place - SEGMENT_HEADER)
    } else if place % PAGE == PAGE_HEADER {
        Lsn(place - PAGE_HEADER)
    } else {
        insertion
    }
}

/// How far behind a replica may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// As its stage says.
    AsConfigured,
    /// At most so much; `None`: however far.
    Within {
        time: Option<Duration>,
        bytes: Option<u64>,
    },
}

impl Lag {
    fn allows(self, node: &NodeView) -> bool {
        match (self, node.stage) {
            (Lag::AsConfigured, stage) => stage.takes_reads(),
            (Lag::Within { time, bytes }, Stage::Up | Stage::Lagging) => {
                // What is not known is within no limit.
                time.is_none_or(|most| node.marks.lag().is_some_and(|lag| lag <= most))
                    && bytes
                        .is_none_or(|most| node.marks.lag_bytes().is_some_and(|lag| lag <= most))
            }
            (Lag::Within { .. }, _) => false,
        }
    }
}

/// Whether the read may still wait for a replica that is well and merely behind its floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    Waits,
    Over,
}

/// Some nodes of one shard: at most [`NodeSet::MOST`], which are the first ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(u64);

impl NodeSet {
    /// Nodes behind these take no reads.
    pub const MOST: usize = 64;

    pub const EMPTY: NodeSet = NodeSet(0);

    pub fn with(self, place: NodePlace) -> NodeSet {
        if place.0 < NodeSet::MOST {
            NodeSet(self.0 | 1 << place.0)
        } else {
            self
        }
    }

    pub fn contains(self, place: NodePlace) -> bool {
        place.0 < NodeSet::MOST && self.0 & 1 << place.0 != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// In their order.
    fn iter(self) -> impl Iterator<Item = NodePlace> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let place = (rest != 0).then(|| NodePlace(rest.trailing_zeros() as usize))?;
            rest &= rest - 1;
            Some(place)
        })
    }
}

/// A read that looks for its node.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    pub shard: ShardId,
    pub from: ReadFrom,
    pub balance: Balance,
    pub primary: PrimaryReads,
    /// Where the proxy is.
    pub zone: Option<&'a str>,
    pub lag: Lag,
    pub floor: Floor,
    pub patience: Patience,
    /// A hash of the client's address, for [`Balance::ClientAddress`].
    pub client: u64,
    /// Nodes that have just failed it.
    pub without: NodeSet,
    pub now: Instant,
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This replica.
    Node(NodePlace),
    Primary,
    /// For the floor: ask again when the marks have moved, with the patience that is left.
    Wait,
    Nobody(Missing),
}

/// Why there is no node for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The shard is in no view.
    Shard,
    /// It has no other node than its primary.
    Replica,
    /// No replica is well, and not too far behind.
    Well,
    /// Those that are well have not replayed what the read must see.
    Replayed,
    /// Those that could serve it have just failed to.
    Untried,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Shard => "the shard is not known",
            Missing::Replica => "the shard has no replica",
            Missing::Well => "no replica of the shard takes reads now",
            Missing::Replayed => "no replica of the shard has replayed what the session must see",
            Missing::Untried => "every node that could serve the read has failed",
        })
    }
}

/// The replicas of a shard by what they could do for a read.
#[derive(Default)]
struct Standing {
    ready: [NodeSet; 2],
    /// Only the floor is missing.
    behind: [NodeSet; 2],
    replicas: usize,
    tried: usize,
}

const REGULAR: usize = 0;
const BACKUP: usize = 1;

impl Standing {
    fn of(shard: &ShardView, nodes: &[config::Node], read: &Read<'_>, floor: Floor) -> Standing {
        let mut standing = Standing::default();
        let replicas = shard
            .nodes
            .iter()
            .zip(nodes)
            .enumerate()
            .take(NodeSet::MOST);
        for (place, (view, node)) in replicas {
            let place = NodePlace(place);
            if shard.primary == Some(place) {
                continue;
            }
            standing.replicas += 1;
            if !read.lag.allows(view) || !has_part(node, read) {
                continue;
            }
            if read.without.contains(place) {
                standing.tried += 1;
                continue;
            }
            let duty = match node.duty {
                Duty::Regular => REGULAR,
                Duty::Backup => BACKUP,
            };
            let sets = if floor.is_met_by(view.marks.replayed()) {
                &mut standing.ready
            } else {
                &mut standing.behind
            };
            sets[duty] = sets[duty].with(place);
        }
        standing
    }

    fn missing(&self) -> Missing {
        if self.replicas == 0 {
            Missing::Replica
        } else if self.behind.iter().any(|nodes| !nodes.is_empty()) {
            Missing::Replayed
        } else if self.tried > 0 {
            Missing::Untried
        } else {
            Missing::Well
        }
    }
}

/// Chooses. `turn` is the caller's count of such choices on the shard; `in_use`: connections that work on a node now.
pub fn choose(
    view: &View,
    read: &Read<'_>,
    turn: &Cell<usize>,
    in_use: impl Fn(NodePlace) -> usize,
) -> Choice {
    if read.from == ReadFrom::Primary {
        return Choice::Primary;
    }
    let configured = view.config.shards.get(read.shard.index());
    let (Some(shard), Some(configured)) = (view.shard(read.shard), configured) else {
        return Choice::Nobody(Missing::Shard);
    };
    let nodes = &configured.nodes[..];
    let floor = read.floor.settled(&shard.written);
    let standing = Standing::of(shard, nodes, read, floor);
    let balanced = Balanced {
        nodes,
        read,
        turn,
        shard,
        slow_start: view.config.health.slow_start,
    };
    let participant = participant(shard, nodes, read);
    let mut regular = standing.ready[REGULAR];
    if let Some(primary) = participant {
        regular = regular.with(primary);
    }
    if let Some(place) = balanced.pick(regular, &in_use) {
        return if participant == Some(place) {
            Choice::Primary
        } else {
            Choice::Node(place)
        };
    }
    let waits = read.patience == Patience::Waits;
    if waits && !standing.behind[REGULAR].is_empty() {
        return Choice::Wait;
    }
    if let Some(place) = balanced.pick(standing.ready[BACKUP], &in_use) {
        return Choice::Node(place);
    }
    if waits && !standing.behind[BACKUP].is_empty() {
        return Choice::Wait;
    }
    let has_failed = |place| read.without.contains(place);
    match read.from {
        ReadFrom::Any if shard.primary.is_some_and(has_failed) => Choice::Nobody(Missing::Untried),
        ReadFrom::Any => Choice::Primary,
        ReadFrom::Primary | ReadFrom::Replica => Choice::Nobody(standing.missing()),
    }
}

/// The primary, when it is balanced like a regular replica.
fn participant(shard: &ShardView, nodes: &[config::Node], read: &Read<'_>) -> Option<NodePlace> {
    let place = shard.primary?;
    let takes_part = read.from == ReadFrom::Any
        && read.primary == PrimaryReads::TakesPart
        && matches!(shard.nodes.get(place.0)?.stage, Stage::Up | Stage::Unknown)
        && has_part(nodes.get(place.0)?, read)
        && !read.without.contains(place);
    takes_part.then_some(place)
}

/// A node without a weight has no part in what is divided by weight.
fn has_part(node: &config::Node, read: &Read<'_>) -> bool {
    read.balance != Balance::Weighted || node.weight > 0
}

/// Steps of the golden ratio come nowhere near each other for as long as can be.
const GOLDEN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Likewise, and not in step with the other ones: 2^64 divided by the square of the plastic number.
const OTHER_STEP: u64 = 0x91E1_0DA5_C79E_7B1D;

/// One choice among nodes that are equally fit.
struct Balanced<'a> {
    nodes: &'a [config::Node],
    read: &'a Read<'a>,
    turn: &'a Cell<usize>,
    shard: &'a ShardView,
    slow_start: Duration,
}

impl Balanced<'_> {
    fn pick(&self, fit: NodeSet, in_use: impl Fn(NodePlace) -> usize) -> Option<NodePlace> {
        if fit.is_empty() {
            return None;
        }
        let fit = self.warm(fit);
        match self.read.balance {
            Balance::RoundRobin => self.in_turn(fit),
            Balance::LeastConnections => self.idlest(fit, in_use),
            Balance::Weighted => self.by_weight(fit),
            Balance::ClientAddress => {
                let score = |place: &NodePlace| affinity(self.read.client, &self.nodes[place.0]);
                fit.iter().max_by_key(score)
            }
            Balance::NearestZone => self.in_turn(self.near(fit)),
        }
    }

    /// Without those that have come back lately, but for the share of the reads that they get already; all, when there are no others.
    fn warm(&self, fit: NodeSet) -> NodeSet {
        let share = |place: NodePlace| match self.shard.primary == Some(place) {
            true => 1.0,
            false => self.shard.nodes[place.0].share(self.read.now, self.slow_start),
        };
        let gets = |place: &NodePlace| {
            let share = share(*place);
            share >= 1.0 || self.drawn(*place) < share
        };
        let warm = fit.iter().filter(gets).fold(NodeSet::EMPTY, NodeSet::with);
        if warm.is_empty() { fit } else { warm }
    }

    /// From 0 to 1, evenly: for a client's affinity always the same for the same client, so that each moves once.
    fn drawn(&self, place: NodePlace) -> f64 {
        let bits = match self.read.balance {
            Balance::ClientAddress => mixed(affinity(self.read.client, &self.nodes[place.0])),
            _ => (self.turn.get() as u64).wrapping_mul(OTHER_STEP),
        };
        // A double has 53 bits.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    fn in_turn(&self, fit: NodeSet) -> Option<NodePlace> {
        let len = fit.len();
        fit.iter().nth(self.next_turn().checked_rem(len)?)
    }

    /// The one with the fewest connections in use; among equals each has its turn.
    fn idlest(&self, fit: NodeSet, in_use: impl Fn(NodePlace) -> usize) -> Option<NodePlace> {
        let fewest = fit.iter().map(&in_use).min()?;
        let idle = fit.iter().filter(|place| in_use(*place) <= fewest);
        self.in_turn(idle.fold(NodeSet::EMPTY, NodeSet::with))
    }

    /// In proportion to the weights, and evenly in time.
    fn by_weight(&self, fit: NodeSet) -> Option<NodePlace> {
        let weight = |place: NodePlace| u64::from(self.nodes[place.0].weight);
        let total: u64 = fit.iter().map(weight).sum();
        let step = (self.next_turn() as u64).wrapping_mul(GOLDEN_STEP);
        let drawn = (u128::from(step) * u128::from(total)) >> 64;
        let mut passed = 0_u128;
        fit.iter().find(|place| {
            passed += u128::from(weight(*place));
            drawn < passed
        })
    }

    /// Those of the proxy's zone, or all when nobody is left there.
    fn near(&self, fit: NodeSet) -> NodeSet {
        let Some(own) = self.read.zone else {
            return fit;
        };
        let is_near = |place: &NodePlace| self.nodes[place.0].zone.as_deref() == Some(own);
        let near = fit
            .iter()
            .filter(is_near)
            .fold(NodeSet::EMPTY, NodeSet::with);
        if near.is_empty() { fit } else { near }
    }
}

/// How much a client belongs to a node: the highest wins, so that only the clients of a node that leaves move (rendezvous hashing,
/// Thaler and Ravishankar 1996). By what the node is, not by its place, which may change with the configuration.
fn affinity(client: u64, node: &config::Node) -> u64 {
    // FNV-1a, then the finish of SplitMix64, without which the last bytes would decide little.
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let port = node.port.to_be_bytes();
    let bytes = node.host.bytes().chain(port);
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    mixed(hash ^ mixed(client))
}

/// SplitMix64's finish: every bit of the result depends on every bit given.
pub fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

/// For [`Read::client`]: a client without an address (a Unix socket's) counts as one client.
pub fn client_hash(address: Option<std::net::IpAddr>) -> u64 {
    match address {
        Some(std::net::IpAddr::V4(address)) => mixed(u64::from(address.to_bits())),
        Some(std::net::IpAddr::V6(address)) => {
            let bits = address.to_bits();
            mixed(bits as u64 ^ mixed((bits >> 64) as u64))
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests;
