//! What the answers of a shard's nodes mean. Pure: no clock, no socket.
//!
//! All nodes of a shard are asked at the same time and judged together, in the order of the configuration, so that what is decided
//! does not hang on whose answer came first.

use std::fmt;
use std::time::{Duration, SystemTime};

pub use crate::wire::replication::Lsn;

/// Equal on all nodes that replicate each other, different on all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Grows with every promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

/// What a node was found to be when it last answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Primary,
    Replica,
    /// It has not answered yet.
    Unknown,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Unknown => "unknown",
        }
    }
}

/// Whether a node may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It has not been asked yet.
    Unknown,
    Up,
    Down,
    /// It holds the data of another system.
    Refused,
}

impl NodeState {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Unknown => "unknown",
            NodeState::Up => "up",
            NodeState::Down => "down",
            NodeState::Refused => "refused",
        }
    }
}

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Primary {
        written: Lsn,
    },
    Replica {
        /// `None`: nothing was streamed.
        received: Option<Lsn>,
        replayed: Option<Lsn>,
    },
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub position: Position,
    /// `None` where the role may not know.
    pub timeline: Option<Timeline>,
    /// `None` where the role may not know.
    pub system: Option<SystemIdentifier>,
    /// As the server says it, like `15.8 (Debian 15.8-0+deb12u1)`.
    pub version: String,
    pub round_trip: Duration,
}

impl Answer {
    pub fn role(&self) -> Role {
        match self.position {
            Position::Primary { .. } => Role::Primary,
            Position::Replica { .. } => Role::Replica,
        }
    }
}

/// One look at a node.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub at: SystemTime,
    /// Or why there is none.
    pub answer: Result<Answer, String>,
}

/// After how many looks in a row a node changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub fall: usize,
    pub rise: usize,
}

/// A state, with the looks in a row that speak against it.
///
/// Unknown => (Up or Down or Refused), at the first look; Up => (Down or Refused); Down => (Up or Refused); Refused => Up.
/// A refused node that does not answer stays refused: its data has not changed by that.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Unknown,
    Up { failures: usize },
    Down { answers: usize },
    Refused { answers: usize, foreign: Foreign },
}

/// A node that has data of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub own: SystemIdentifier,
    pub shard: SystemIdentifier,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its system identifier is {}, but that of the shard is {}: it holds other data",
            self.own, self.shard
        )
    }
}

/// Something to tell the administrator, once.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Up(Role),
    Down(String),
    Refused(Foreign),
    /// It is up, as before, and is now this.
    Role(Role),
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeHealth {
    state: State,
    /// The last answer, however old.
    seen: Option<Answer>,
    /// The last look.
    last: Option<Look>,
}

impl NodeHealth {
    pub fn state(&self) -> NodeState {
        match self.state {
            State::Unknown => NodeState::Unknown,
            State::Up { .. } => NodeState::Up,
            State::Down { .. } => NodeState::Down,
            State::Refused { .. } => NodeState::Refused,
        }
    }

    pub fn role(&self) -> Role {
        self.seen.as_ref().map_or(Role::Unknown, Answer::role)
    }

    pub fn seen(&self) -> Option<&Answer> {
        self.seen.as_ref()
    }

    pub fn checked(&self) -> Option<SystemTime> {
        self.last.as_ref().map(|look| look.at)
    }

    /// What is wrong with it, by the last look.
    pub fn error(&self) -> Option<String> {
        let failure = self.last.as_ref()?.answer.as_ref().err();
        match (self.state, failure) {
            (State::Refused { foreign, .. }, None) => Some(foreign.to_string()),
            (State::Refused { foreign, .. }, Some(error)) => Some(format!("{foreign}; {error}")),
            (_, failure) => failure.cloned(),
        }
    }

    /// The answer of the last look, if there was one and the node is in use.
    fn current(&self) -> Option<&Answer> {
        match (self.state, &self.last) {
            (State::Up { .. }, Some(look)) => look.answer.as_ref().ok(),
            _ => None,
        }
    }

    fn step(
        &mut self,
        look: Look,
        system: Option<SystemIdentifier>,
        limits: Thresholds,
    ) -> Option<Change> {
        let (role, before) = (self.role(), self.state);
        self.state = match &look.answer {
            Err(_) => before.failed(limits),
            Ok(answer) => match foreign(answer, system) {
                Some(foreign) => State::Refused {
                    answers: 0,
                    foreign,
                },
                None => before.answered(limits),
            },
        };
        if let Ok(answer) = &look.answer {
            self.seen = Some(answer.clone());
        }
        let change = self.change(before, role, &look);
        self.last = Some(look);
        change
    }

    fn change(&self, before: State, role: Role, look: &Look) -> Option<Change> {
        match (before, self.state) {
            (State::Up { .. }, State::Up { .. }) => {
                (role != self.role()).then(|| Change::Role(self.role()))
            }
            (_, State::Up { .. }) => Some(Change::Up(self.role())),
            (State::Down { .. }, State::Down { .. }) => None,
            (_, State::Down { .. }) => look.answer.as_ref().err().cloned().map(Change::Down),
            (State::Refused { foreign: known, .. }, State::Refused { foreign, .. })
                if known == foreign =>
            {
                None
            }
            (_, State::Refused { foreign, .. }) => Some(Change::Refused(foreign)),
            (_, State::Unknown) => None,
        }
    }
}

impl State {
    fn failed(self, limits: Thresholds) -> State {
        match self {
            State::Up { failures } if failures + 1 < limits.fall => State::Up {
                failures: failures + 1,
            },
            State::Unknown | State::Up { .. } | State::Down { .. } => State::Down { answers: 0 },
            State::Refused { foreign, .. } => State::Refused {
                answers: 0,
                foreign,
            },
        }
    }

    fn answered(self, limits: Thresholds) -> State {
        match self {
            State::Down { answers } if answers + 1 < limits.rise => State::Down {
                answers: answers + 1,
            },
            State::Refused { answers, foreign } if answers + 1 < limits.rise => State::Refused {
                answers: answers + 1,
                foreign,
            },
            State::Unknown | State::Up { .. } | State::Down { .. } | State::Refused { .. } => {
                State::Up { failures: 0 }
            }
        }
    }
}

/// A node that may not tell its system is taken at its word.
fn foreign(answer: &Answer, system: Option<SystemIdentifier>) -> Option<Foreign> {
    let (own, shard) = (answer.system?, system?);
    (own != shard).then_some(Foreign { own, shard })
}

/// What is known of one shard's nodes.
#[derive(Clone, Debug)]
pub(super) struct ShardHealth {
    /// Of the first node that told it, and then it stays: were it to follow a node that was rebuilt empty, those with the data would be refused.
    system: Option<SystemIdentifier>,
    nodes: Vec<NodeHealth>,
}

impl ShardHealth {
    pub fn new(nodes: usize) -> Self {
        let unknown = NodeHealth {
            state: State::Unknown,
            seen: None,
            last: None,
        };
        ShardHealth {
            system: None,
            nodes: vec![unknown; nodes],
        }
    }

    /// The same for other nodes: at each place the one that was at the given place here, or a new one.
    ///
    /// The shard's system is kept as long as a node that is up has it. Without one it is free again, so that a shard whose
    /// servers were all replaced is taken as it is once the configuration is read again.
    pub fn rearranged(&self, places: &[Option<usize>]) -> Self {
        let known = |place: &Option<usize>| place.and_then(|place| self.nodes.get(place));
        let holds_it = |node: &NodeHealth| {
            node.state() == NodeState::Up
                && node.seen().is_some_and(|seen| seen.system == self.system)
        };
        let new = ShardHealth::new(places.len());
        ShardHealth {
            system: self
                .system
                .filter(|_| places.iter().filter_map(known).any(holds_it)),
            nodes: places
                .iter()
                .zip(new.nodes)
                .map(|(place, new)| known(place).cloned().unwrap_or(new))
                .collect(),
        }
    }

    /// Takes in a look at every node, in the order of the configuration. Returns the changes with the place of their node.
    pub fn step(&mut self, looks: Vec<Look>, limits: Thresholds) -> Vec<(usize, Change)> {
        debug_assert_eq!(looks.len(), self.nodes.len());
        let found = || {
            looks
                .iter()
                .find_map(|look| look.answer.as_ref().ok()?.system)
        };
        self.system = self.system.or_else(found);
        let system = self.system;
        self.nodes
            .iter_mut()
            .zip(looks)
            .enumerate()
            .filter_map(|(place, (node, look))| Some((place, node.step(look, system, limits)?)))
            .collect()
    }

    pub fn nodes(&self) -> &[NodeHealth] {
        &self.nodes
    }

    pub fn has_primary_up(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.state() == NodeState::Up && node.role() == Role::Primary)
    }

    /// The bytes that a replica has still to replay; `None` for a primary, and where either side's place is not known by the last look.
    pub fn lag(&self, place: usize) -> Option<u64> {
        let replica = self.nodes.get(place)?.current()?;
        let Position::Replica { replayed, .. } = replica.position else {
            return None;
        };
        // The two answers were given at slightly different times, so the replica may seem ahead.
        Some(self.written()?.0.saturating_sub(replayed?.0))
    }

    /// How far the primary has come; of two, that of the higher timeline.
    fn written(&self) -> Option<Lsn> {
        let primaries = self.nodes.iter().filter_map(|node| {
            let answer = node.current()?;
            match answer.position {
                Position::Primary { written } => Some((answer.timeline, written)),
                Position::Replica { .. } => None,
            }
        });
        primaries.max().map(|(_, written)| written)
    }
}

#[cfg(test)]
mod tests;
