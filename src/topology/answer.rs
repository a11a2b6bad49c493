//! What a node says of itself when it is asked. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

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

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Primary {
        /// What may have been sent to replicas, and will be.
        written: Lsn,
        /// Every commit that anybody was told of lies before it, also one that did not wait for the disk.
        inserted: Lsn,
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
    /// When the server was started, in its words: another one is another server, or the same on other data.
    pub started: Arc<str>,
    /// `None` where the role may not know.
    pub system: Option<SystemIdentifier>,
    /// As the server says it, like `15.8 (Debian 15.8-0+deb12u1)`.
    pub version: Arc<str>,
    /// Before the question was sent.
    pub asked: Instant,
    pub round_trip: Duration,
}

impl Answer {
    pub fn role(&self) -> Role {
        match self.position {
            Position::Primary { .. } => Role::Primary,
            Position::Replica { .. } => Role::Replica,
        }
    }

    /// What was known of a replica before holds as long as it runs: recovery goes on to greater timelines only, and a replica shows its own only while it
    /// is connected to somebody.
    pub fn after(mut self, before: &Answer) -> Answer {
        let still = before.role() == Role::Replica && before.started == self.started;
        if still && self.role() == Role::Replica {
            self.timeline = self.timeline.max(before.timeline);
        }
        self
    }

    pub fn answered(&self) -> Instant {
        self.asked + self.round_trip
    }
}

/// One look at a node.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub at: SystemTime,
    /// Or why there is none.
    pub answer: Result<Answer, Failure>,
    pub lock: Lock,
}

/// What a node's Patroni says of the leader's lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// The node has no Patroni, so nobody but itself says what it is.
    #[default]
    Unasked,
    /// The node is the leader.
    Held {
        /// How often in a row it was said.
        times: usize,
    },
    /// It is not.
    NotHeld {
        /// What Patroni says that it is.
        said: Arc<str>,
        times: usize,
    },
    /// There is no answer, for this reason.
    Unknown(Arc<str>),
}

/// Why a node gave no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    Gone(String),
    /// It lives, and does not let us in. That says nothing of those who have other ways in.
    NoEntry(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Gone(text) | Failure::NoEntry(text)) = self;
        f.write_str(text)
    }
}
