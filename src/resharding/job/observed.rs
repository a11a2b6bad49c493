//! What a driver sees of the world before a step. What could not be found out is left out, and nothing is concluded from it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lsn, MapEpoch, Moment, MovingKeys, Route, ShardName, Side, Term};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub now: Moment,
    /// The commit record.
    pub map: Option<MapFact>,
    /// The plan's gate, as the store has it; `None`: never closed, or not known.
    pub gate: Option<GateFact>,
    /// Shards that could be asked.
    pub shards: BTreeMap<ShardName, ShardFact>,
    /// What the receiving shard has written of each stream.
    pub streams: BTreeMap<Route, StreamFact>,
    /// Every proxy that has or had a lease; `None`: the store could not be asked.
    pub proxies: Option<BTreeMap<Box<str>, ProxyFact>>,
    /// Of the last check that ended.
    pub check: Option<CheckFact>,
    pub troubles: Vec<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFact {
    pub epoch: MapEpoch,
    /// Which of the plan's maps is in force; `None`: neither.
    pub side: Option<Side>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateFact {
    /// The greatest term that was obeyed.
    pub term: Term,
    pub state: GateState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// New transactions on moving keys wait.
    Closed,
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFact {
    pub ledger: Ledger,
    pub publication: bool,
    pub slot: Slot,
    /// The moving keys that its tables refuse to have written.
    pub guards: BTreeSet<MovingKeys>,
    /// The last fence, written in the transaction that made its guard.
    pub fence: Option<(Term, Lsn)>,
    /// Whether indexes and constraints have been built behind the copy.
    pub indexed: bool,
    /// Whether sessions of proxies whose lease has ended are still connected.
    pub strangers: bool,
    /// The moving keys that it has rows of; looked for only while the plan is ending.
    pub rows: BTreeSet<MovingKeys>,
}

/// The plan's row in the shard's own database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ledger {
    Absent,
    Open {
        term: Term,
    },
    /// For good: what comes late finds it so.
    Closed {
        term: Term,
    },
}

impl Ledger {
    /// The greatest term that was obeyed.
    pub fn term(self) -> Option<Term> {
        match self {
            Ledger::Absent => None,
            Ledger::Open { term } | Ledger::Closed { term } => Some(term),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Absent,
    There {
        /// Bytes of log kept for it.
        retained: u64,
    },
    /// Invalidated by the server.
    Lost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFact {
    /// Every chunk of every table is there.
    pub copied: bool,
    /// So little is left to apply that a turn need not wait for it.
    pub caught_up: bool,
    /// The last fence that was applied.
    pub fence_applied: Option<Term>,
    pub verified: Option<VerifyFact>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyFact {
    pub round: u32,
    /// Rows that are on one side only, or differ.
    pub differences: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyFact {
    /// A proxy whose lease has ended has ended its own work on moving keys, or is stopped and will find its sessions gone.
    pub lease_live: bool,
    /// The gate it keeps closed.
    pub gate: Option<Term>,
    /// It has no open transaction that wrote or read moving keys.
    pub drained: bool,
    pub epoch: MapEpoch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFact {
    pub round: u32,
    /// Each with its way out.
    pub problems: Vec<Box<str>>,
    /// Nothing stands against the plan for these.
    pub notes: Vec<Box<str>>,
}

/// What stops a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The log kept on a shard has come too near to `max_slot_wal_keep_size` or the disk's end: the slot must go.
    WalLimit { shard: ShardName },
    /// Anything that people must look at: a table was altered, a row could not be applied.
    Other(Box<str>),
}
